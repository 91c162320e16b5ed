//! The command line: one program with a subcommand for each role.
//!
//! - `serve`, `demo`, `dev`, `sandbox` run until SIGINT, SIGTERM or SIGHUP (`signals`)
//! - `check-config` prints the settings, and can try them; `machine`, `schemas`, `simulate`, `completions`, `man`
//!   (`manual`) print and exit
//! - `links`, `show`, `why`, `at`, `tail`, `observed`, `stats`, `institutions`, `dead-letters` and the `commands` about one link call a
//!   running relink over HTTP (`client`) and print its answers (`history`, `due`, `sentences`) as text or, with `--json`, as
//!   JSON (`output`); `moment` reads times, `progress` shows long work; `mcp` gives the same texts to an assistant
//! - `replay` reads the streams of NATS by itself, because it needs all of them; `backup`, `restore` and `rebuild` work on them and on the
//!   store; `doctor` asks every part, with or without a running relink
//!
//! Each subcommand calls the module that does the work.

mod at;
mod backup;
mod beside;
mod check_config;
mod client;
mod commands;
mod dead_letters;
mod doctor;
mod due;
mod examples;
mod held;
mod history;
mod institutions;
mod links;
mod listing;
mod manual;
mod mcp;
mod moment;
mod observed;
mod outages;
mod output;
mod progress;
mod refusals;
mod replay;
mod sentences;
mod signals;
mod stats;
mod tables;
mod tail;
mod watching;
mod why;

use std::error::Error as _;
use std::io::Write;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use belvo_sandbox::SandboxArgs;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use self::examples::{EXAMPLES, EXIT_CODES, SANDBOX_EXAMPLES, SERVE_EXAMPLES, SIMULATE_EXAMPLES, serve_help};
use self::output::print;
use crate::config::{Config, ConfigError, Loaded, LogConfig, LogFormat, Sources};
use crate::drawing::{self, Format};
use crate::printable::{printable, printable_lines};
use crate::rehearsal::demo::{self, DemoArgs};
use crate::rehearsal::dev::{self, DevArgs};
use crate::rehearsal::fleet::{self, FleetArgs};
use crate::rehearsal::scenario::{self, ScenarioArgs};
use crate::simulation::SimulateArgs;
use crate::{os, schemas, service, simulation, telemetry};

/// Keeps Belvo links alive. Webhooks and API errors drive one state machine per link; NATS delivers the resulting
/// notices to your services.
#[derive(Parser, Debug)]
#[command(name = "relink", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service
    #[command(after_help = SERVE_EXAMPLES, after_long_help = serve_help())]
    Serve(ServeArgs),
    /// Demonstrate relink: break links and repair them, on this machine
    Demo(DemoArgs),
    /// Run relink, a nats-server and a stand-in for Belvo on this machine, to connect an application
    Dev(DevArgs),
    /// Run a simulated Belvo, in which links can be broken
    #[command(after_help = SANDBOX_EXAMPLES)]
    Sandbox(SandboxCommand),
    /// Print the resolved configuration, with hidden secrets and the origin of every value
    #[command(after_help = EXIT_CODES)]
    CheckConfig(check_config::CheckConfigArgs),
    /// Check NATS, the streams, the clocks, the disk, Belvo's keys and the running service; each problem with what to do
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorArgs),
    /// List links as a table
    #[command(after_help = links::LIST_EXAMPLES)]
    Links(links::LinksArgs),
    /// Show one link: its state, its outage, and what happens next
    #[command(after_help = links::SHOW_EXAMPLES)]
    Show(links::ShowArgs),
    /// Show the history of a link: every transition, its reason, and the published messages
    #[command(after_help = why::EXAMPLES)]
    Why(why::WhyArgs),
    /// Show the state of a link at a time, and why
    #[command(after_help = at::EXAMPLES)]
    At(at::AtArgs),
    /// List the institutions: their states, their incidents, and their links
    #[command(after_help = institutions::EXAMPLES)]
    Institutions(institutions::InstitutionsArgs),
    /// Print what relink decides and publishes, as it happens
    #[command(after_help = tail::EXAMPLES)]
    Tail(tail::TailArgs),
    /// Report what relink would have sent in observe mode, by day and type of notice
    #[command(after_help = observed::EXAMPLES)]
    Observed(observed::ObservedArgs),
    /// Show how many outages were repaired, how far the others got, and how long it took
    #[command(after_help = stats::EXAMPLES)]
    Stats(stats::StatsArgs),
    /// Replay what relink has recorded with another policy, and report which notices would differ; nothing is written
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::ReplayArgs),
    /// Read a link from Belvo now; this needs Belvo's keys
    #[command(after_help = commands::EXAMPLES)]
    Verify(commands::CommandArgs),
    /// Stop the prompts and reminders to the user of a link
    #[command(after_help = commands::EXAMPLES)]
    Mute(commands::CommandArgs),
    /// End `mute`; a prompt that was not sent is sent when the user may get a message, if the link is still broken
    #[command(after_help = commands::EXAMPLES)]
    Unmute(commands::CommandArgs),
    /// Postpone the reminders to the user of a link
    #[command(after_help = commands::EXAMPLES)]
    Snooze(commands::SnoozeArgs),
    /// Ask the user about an old link again, although a newer link of the same user has replaced it
    #[command(after_help = commands::EXAMPLES)]
    Unsupersede(commands::CommandArgs),
    /// Prompt the user of a link, although the link is muted or its institution has an incident
    #[command(after_help = commands::EXAMPLES)]
    Release(commands::CommandArgs),
    /// Remove a link from relink for ever, but not from Belvo
    #[command(after_help = commands::EXAMPLES)]
    Forget(commands::ForgetArgs),
    /// List, show, replay and drop dead letters: messages that relink could not handle
    #[command(after_help = dead_letters::EXAMPLES)]
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Save the streams of NATS in files, also while relink runs
    #[command(after_help = backup::BACKUP_EXAMPLES)]
    Backup(backup::BackupArgs),
    /// Restore the streams of NATS from a backup, while relink is stopped
    #[command(after_help = backup::RESTORE_EXAMPLES)]
    Restore(backup::RestoreArgs),
    /// Let the next start make a new store from the stream KV_links
    #[command(after_help = backup::REBUILD_EXAMPLES)]
    Rebuild(backup::RebuildArgs),
    /// Answer an assistant over the Model Context Protocol, on standard input and output; read-only
    #[command(after_help = mcp::EXAMPLES)]
    Mcp(mcp::McpArgs),
    /// Print the completions of a shell
    #[command(after_help = manual::COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of relink or of a subcommand, or write all of them to a directory
    #[command(after_help = manual::MAN_EXAMPLES)]
    Man(manual::ManArgs),
    /// Print a diagram of the state machine
    Machine {
        /// Format of the diagram
        #[arg(long, value_enum, default_value = "mermaid")]
        format: Format,
    },
    /// Run the node with injected faults, and check that no input is lost and no effect is published twice
    #[command(after_help = SIMULATE_EXAMPLES)]
    Simulate(SimulateArgs),
    /// Write the JSON Schemas of all messages
    Schemas {
        /// Directory to write to
        #[arg(long, value_name = "DIR", default_value = "schemas")]
        write: PathBuf,
    },
}

/// The exit code for a wrong command line, as clap has it.
const WRONG_ARGUMENT: u8 = 2;

/// The exit code for wrong settings: EX_CONFIG of BSD's sysexits. A restart without a change cannot help then.
const CONFIGURATION: u8 = 78;

/// How long tasks may take to end after the program has ended.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// The flags of the configuration.
#[derive(Args, Debug, Default)]
struct ServeArgs {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the HTTP server (RELINK_LISTEN)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Directory of the store and of relink's own NATS (RELINK_DATA_DIR)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address of NATS (RELINK_NATS_URL); without one relink runs its own nats-server
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// NATS credentials file (RELINK_NATS_CREDENTIALS)
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<String>,
    /// Accept webhooks without credentials (RELINK_ALLOW_OPEN_WEBHOOKS)
    #[arg(long)]
    allow_open_webhooks: bool,
    /// Only observe: record what would be sent, send no notices, change nothing at Belvo (RELINK_OBSERVE)
    #[arg(long)]
    observe: bool,
    /// Log filter, such as info or relink=debug,info (RELINK_LOG)
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Log format: text or json (RELINK_LOG_FORMAT)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl ServeArgs {
    fn sources(self) -> Sources {
        let flags = [
            ("--listen", self.listen),
            ("--data-dir", self.data_dir),
            ("--nats-url", self.nats_url),
            ("--nats-credentials", self.nats_credentials),
            ("--allow-open-webhooks", self.allow_open_webhooks.then(|| "true".to_owned())),
            ("--observe", self.observe.then(|| "true".to_owned())),
            ("--log", self.log),
            ("--log-format", self.log_format),
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| value.map(|value| (flag, value)));
        Sources::of_process(self.config, given.collect())
    }
}

/// The flags of a simulated Belvo, of a scenario, and of a simulated fleet.
#[derive(Args, Debug)]
struct SandboxCommand {
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    scenario: ScenarioArgs,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| in_plain_words(error).exit());
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            // Standard error may be a closed terminal.
            let message = printable_lines(&format!("{error:#}"));
            let _ = writeln!(anstream::stderr(), "{style}relink:{style:#} {message}");
            match client::status_of(&error) {
                _ if error.is::<ConfigError>() => ExitCode::from(CONFIGURATION),
                // relink does not accept the value of a flag.
                Some(400 | 422) => ExitCode::from(WRONG_ARGUMENT),
                Some(_) | None => ExitCode::FAILURE,
            }
        }
    }
}

/// The error of a flag that takes a number says "invalid digit found in string"; this one says what the flag takes.
fn in_plain_words(error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => printable(text),
        Some(_) | None => "?".to_owned(),
    };
    let is_number = error.source().is_some_and(|source| source.is::<ParseIntError>());
    if !is_number {
        return error;
    }
    let (value, flag) = (text(ContextKind::InvalidValue), text(ContextKind::InvalidArg));
    Cli::command()
        .error(ErrorKind::ValueValidation, format!("invalid value '{value}' for '{flag}': must be a whole number"))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Machine { format } => print(&drawing::draw(format)),
        Command::Completions { shell } => manual::completions(Cli::command(), shell),
        Command::Man(args) => manual::man(Cli::command(), args),
        Command::Simulate(args) => simulation::run(args),
        Command::Rebuild(args) => backup::rebuild(args),
        Command::Schemas { write } => {
            schemas::write(&write).with_context(|| format!("writing schemas to {}", write.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            let runtime = runtime.context("starting the runtime")?;
            let at_once = CancellationToken::new();
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = run_async(command, &at_once) => ended,
                    // What is dropped here kills its processes.
                    () = at_once.cancelled() => Ok(ExitCode::from(signals::INTERRUPTED)),
                }
            });
            // A part that was aborted may be in a call that does not return, such as a write to a disk that hangs.
            runtime.shutdown_timeout(RUNTIME_GRACE);
            ended
        }
    }
}

/// Runs the subcommands that need the async runtime.
async fn run_async(command: Command, at_once: &CancellationToken) -> anyhow::Result<ExitCode> {
    match command {
        Command::CheckConfig(args) => return check_config::run(args).await,
        Command::Serve(args) => {
            let sources = args.sources();
            let Loaded { config, warnings, .. } = Config::load(&sources)?;
            config.check_for_serving()?;
            os::raise_descriptor_limit();
            os::keep_new_files_private();
            telemetry::start_log(&config.log)?;
            for warning in warnings {
                tracing::warn!("{}", printable(&warning));
            }
            // The service uses an installed nats-server; only `demo` may install one.
            let server = sources.server_source(config.nats.server.clone(), false);
            service::run(config, server, signals::shutdown(at_once)?).await?;
        }
        Command::Demo(args) => {
            os::keep_new_files_private();
            telemetry::start_log(&warnings_only())?;
            let server = Sources::of_process(None, Vec::new()).server_source(None, true);
            return demo::run(args, server, signals::shutdown(at_once)?).await;
        }
        Command::Dev(args) => {
            os::keep_new_files_private();
            telemetry::start_log(&warnings_only())?;
            let server = Sources::of_process(None, Vec::new()).server_source(None, true);
            return dev::run(args, server, signals::shutdown(at_once)?).await;
        }
        Command::Sandbox(SandboxCommand { sandbox, scenario, fleet }) => {
            telemetry::start_log(&if fleet.is_wanted() { no_log() } else { warnings_only() })?;
            if fleet.is_wanted() {
                return fleet::run(fleet, sandbox.seed, signals::shutdown(at_once)?).await;
            }
            match scenario.scenario.clone() {
                Some(file) => scenario::run(&file, scenario, sandbox, signals::shutdown(at_once)?).await?,
                None => belvo_sandbox::run(sandbox, signals::shutdown(at_once)?).await?,
            }
        }
        Command::Why(args) => return why::run(args).await,
        Command::At(args) => return at::run(args).await,
        Command::Institutions(args) => return institutions::run(args).await,
        Command::Doctor(args) => return doctor::run(args).await,
        Command::Links(args) => return links::list(args).await,
        Command::Show(args) => return links::show(args).await,
        Command::Tail(args) => return tail::run(args, signals::shutdown(at_once)?).await,
        Command::Observed(args) => return observed::run(args).await,
        Command::Stats(args) => return stats::run(args).await,
        Command::Replay(args) => return replay::run(args).await,
        Command::Backup(args) => return backup::back_up(args).await,
        Command::Restore(args) => return backup::restore(args).await,
        Command::Mcp(args) => return mcp::run(args, signals::shutdown(at_once)?).await,
        Command::Verify(args) => return commands::send("verify", None, args).await,
        Command::Mute(args) => return commands::send("mute", None, args).await,
        Command::Unmute(args) => return commands::send("unmute", None, args).await,
        Command::Snooze(args) => return commands::snooze(args).await,
        Command::Unsupersede(args) => return commands::send("unsupersede", None, args).await,
        Command::Release(args) => return commands::send("release", None, args).await,
        Command::Forget(args) => return commands::forget(args).await,
        Command::DeadLetters(args) => return dead_letters::run(args).await,
        Command::Completions { .. }
        | Command::Man(_)
        | Command::Machine { .. }
        | Command::Simulate(_)
        | Command::Rebuild(_)
        | Command::Schemas { .. } => {
            unreachable!("these subcommands have already run without a runtime")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The log of programs that print their own progress.
fn warnings_only() -> LogConfig {
    LogConfig { filter: "warn,relink::nats::server_binary=info".to_owned(), format: LogFormat::Text }
}

/// The log of a simulated fleet: faults are injected, so warnings are normal and many.
fn no_log() -> LogConfig {
    LogConfig { filter: "off".to_owned(), format: LogFormat::Text }
}

/// A record as `GET /v1/links/{id}` answers it, with these fields in place of its own.
#[cfg(test)]
fn record_for_tests(state: &str, fields: serde_json::Value) -> serde_json::Value {
    let at = "2023-11-14T22:13:20.000Z";
    let origin = serde_json::json!({"kind": "webhook", "message_id": "w-1", "input_sequence": 7, "received_at": at});
    let mut record = serde_json::json!({
        "schema_version": 1, "link_id": "16f68516-bcbc-4cf7-b815-c500d4204e28", "partition": 0, "version": 2, "state": state,
        "since": at, "updated_at": at, "external_id": "pedro", "institution": "erebor_mx_retail", "episode": null,
        "episodes_count": 1, "data_at": null,
        "because": {"event": "credentials_rejected", "from": "valid", "to": state, "at": at, "origin": origin},
    });
    if let (serde_json::Value::Object(record), serde_json::Value::Object(fields)) = (&mut record, fields) {
        record.extend(fields);
    }
    record
}

/// Links in each state, with each thing that relink may wait for.
#[cfg(test)]
fn cases_for_tests() -> Vec<(&'static str, serde_json::Value)> {
    use serde_json::json;
    let (soon, later) = ("2023-11-16T01:13:20.000Z", "2023-11-17T22:13:20.000Z");
    let opened = "2023-11-14T22:13:20.000Z";
    let quiet = json!({"event": "credentials_rejected", "from": "valid", "to": "invalid", "at": opened, "held": "quiet_hours",
        "origin": {"kind": "webhook", "message_id": "w-1", "input_sequence": 7, "received_at": opened}});
    let episode = |prompt: &str| {
        json!({"id": "16f68516-bcbc-4cf7-b815-c500d4204e28-e1", "number": 1, "cause": "credentials", "opened_at": opened,
            "prompt_sent": prompt == "sent", "prompt": prompt, "prompt_deferred_until": soon, "reminders_count": 1,
            "next_reminder_at": later, "attempts_count": 2})
    };
    let update = |phase: &str| json!({"phase": phase, "until": soon, "started_at": opened, "after": "claimed", "asked_count": 2});
    let due = |at: &str, what: &str| json!([{"at": at, "what": what}]);
    let mut asked = episode("deferred");
    asked["prompt_asked_at"] = json!(opened);
    let mut superseded = episode("sent");
    superseded["superseded_by"] = json!("7d3a1c52-5b0e-4f6c-9a55-0c2f6f1f3f10");
    vec![
        ("unconfirmed", json!({"due": []})),
        ("valid", json!({"data_at": opened, "due": due(later, "data")})),
        ("valid", json!({"suspicion": {"cause": "token", "at": opened, "until": soon}, "due": due(soon, "report")})),
        (
            "valid",
            json!({"refresh": {"gap_from": null, "gap_to": opened, "asked": false, "until": soon}, "due": due(soon, "refresh")}),
        ),
        ("invalid", json!({"episode": episode("sent"), "due": due(later, "reminder")})),
        ("invalid", json!({"episode": episode("sent"), "due": due(later, "reminder"), "snoozed_until": later})),
        ("invalid", json!({"episode": episode("deferred"), "due": due(soon, "prompt")})),
        ("invalid", json!({"episode": asked, "due": due(soon, "prompt")})),
        ("invalid", json!({"episode": episode("postponed"), "due": due(soon, "prompt"), "because": quiet})),
        ("invalid", json!({"episode": superseded, "due": []})),
        ("token_required", json!({"episode": episode("muted"), "muted": true, "due": []})),
        ("updating", json!({"episode": episode("sent"), "update": update("with_user"), "due": due(soon, "attempt")})),
        ("updating", json!({"episode": episode("sent"), "update": update("verifying"), "due": due(soon, "attempt")})),
        ("removed", json!({"external_id": "x\n2026-01-01 forged\u{1b}[2J"})),
    ]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

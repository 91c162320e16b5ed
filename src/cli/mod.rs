//! The command line: one program, its roles as subcommands.
//!
//! - `serve`, `demo`, `sandbox` run until SIGINT or SIGTERM (`signals`)
//! - `check-config`, `machine`, `schemas`, `simulate` print and end
//! - `why`, `dead-letters` ask a running relink over HTTP (`ask`); `story` tells what it says
//!
//! Nothing is decided here: each subcommand is one call into the room that does it.

mod ask;
mod signals;
mod story;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use belvo_sandbox::SandboxArgs;
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Loaded, LogConfig, LogFormat, Sources};
use crate::drawing::{self, Format};
use crate::printable::printable_lines;
use crate::rehearsal::demo::{self, DemoArgs};
use crate::rehearsal::fleet::{self, FleetArgs};
use crate::rehearsal::scenario::{self, ScenarioArgs};
use crate::simulation::SimulateArgs;
use crate::{schemas, service, simulation, telemetry};

/// Keeps Belvo links alive: every webhook and API error drives one state machine per link, and NATS tells the rest of
/// the company once what to do.
#[derive(Parser, Debug)]
#[command(name = "relink", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  relink demo                          see it work, with everything it needs
  relink serve --config relink.toml    the service
  relink check-config                  what the configuration comes to, and where each value is from
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28
                                       why that link is as it is
  relink machine --format mermaid      the state machine, drawn";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service
    #[command(after_help = SERVE_EXAMPLES, after_long_help = serve_help())]
    Serve(ServeArgs),
    /// See it work: a broken link from its webhook to its recovery, on this machine
    Demo(DemoArgs),
    /// Run a Belvo of your own, in which links can be broken
    #[command(after_help = SANDBOX_EXAMPLES)]
    Sandbox(SandboxCommand),
    /// Print the resolved configuration, secrets hidden, with the origin of every value
    CheckConfig(ServeArgs),
    /// Tell the story of a link: every transition, what caused it, what was sent
    #[command(after_help = WHY_EXAMPLES)]
    Why(WhyArgs),
    /// Look at messages that could not be read, and replay them
    DeadLetters(DeadLettersArgs),
    /// Draw the state machine
    Machine {
        /// How
        #[arg(long, value_enum, default_value = "mermaid")]
        format: Format,
    },
    /// Run the node with injected faults, and check that no input is lost and no effect is published twice
    #[command(after_help = SIMULATE_EXAMPLES)]
    Simulate(SimulateArgs),
    /// Write the JSON Schemas of all messages
    Schemas {
        /// Where to
        #[arg(long, value_name = "DIR", default_value = "schemas")]
        write: PathBuf,
    },
}

const SERVE_EXAMPLES: &str = "\
Examples:
  RELINK_WEBHOOK_SECRETS='Bearer s3cret' relink serve
  relink serve --config relink.toml --listen 0.0.0.0:8480
`relink serve --help` lists all settings.";

const SANDBOX_EXAMPLES: &str = "\
Examples:
  relink sandbox --webhook-url http://127.0.0.1:8480/webhooks/belvo
                                       a Belvo to break links in, by its control API
  relink sandbox --scenario scenarios/account-locked.toml --api-token TOKEN
                                       a rehearsal against a running relink
  relink sandbox --links 10000 --days 30 --seed 7
                                       a month of a fleet, in well under two minutes";

const SIMULATE_EXAMPLES: &str = "\
Examples:
  relink simulate --minutes 10         fresh seeds for ten minutes
  relink simulate --seeds 5000 --from 1
                                       these seeds, the same every time
  relink simulate --seed 42 --trace    one run, with its last events";

const WHY_EXAMPLES: &str = "\
Examples:
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28.7.1     why this message was sent
The token is --token, else the first of RELINK_API_TOKENS; the address is --url, else http://<RELINK_LISTEN>.";

fn serve_help() -> String {
    format!("{SERVE_EXAMPLES}\n\n{}", config::help())
}

/// Where the configuration comes from.
#[derive(Args, Debug, Default)]
struct ServeArgs {
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the HTTP door (RELINK_LISTEN)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Directory of the store, and of relink's own NATS (RELINK_DATA_DIR)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// NATS to connect to (RELINK_NATS_URL); without one relink runs its own
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// NATS credentials file (RELINK_NATS_CREDENTIALS)
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<String>,
    /// Let anybody post webhooks (RELINK_ALLOW_OPEN_WEBHOOKS)
    #[arg(long)]
    allow_open_webhooks: bool,
    /// What is logged, such as info or relink=debug,info (RELINK_LOG)
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// text or json (RELINK_LOG_FORMAT)
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
            ("--log", self.log),
            ("--log-format", self.log_format),
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| value.map(|value| (flag, value)));
        Sources::of_process(self.config, given.collect())
    }
}

/// A Belvo to talk to, a scenario, or a fleet that is simulated.
#[derive(Args, Debug)]
struct SandboxCommand {
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    scenario: ScenarioArgs,
    #[command(flatten)]
    fleet: FleetArgs,
}

#[derive(Args, Debug)]
struct WhyArgs {
    /// A link, or one of relink's messages about it
    #[arg(value_name = "LINK_OR_MESSAGE_ID")]
    subject: String,
    #[command(flatten)]
    relink: ask::RelinkArgs,
}

#[derive(Args, Debug)]
struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
    #[command(flatten)]
    relink: ask::RelinkArgs,
}

#[derive(Subcommand, Debug)]
enum DeadLettersCommand {
    /// All of them, oldest first
    List,
    /// One, with its bytes
    Show {
        /// Its number
        sequence: u64,
    },
    /// Publish one again, as new input
    Replay {
        /// Its number
        sequence: u64,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{style}relink:{style:#} {}", printable_lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::CheckConfig(args) => {
            let Loaded { config, report } = Config::load(&args.sources())?;
            print(&report)?;
            config.check_for_serving()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Machine { format } => print(&drawing::draw(format)),
        Command::Simulate(args) => simulation::run(args),
        Command::Schemas { write } => {
            schemas::write(&write).with_context(|| format!("writing schemas to {}", write.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        running => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.context("starting the runtime")?.block_on(run_until_told(running))
        }
    }
}

/// The subcommands that wait for something.
async fn run_until_told(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => {
            let sources = args.sources();
            let Loaded { config, .. } = Config::load(&sources)?;
            config.check_for_serving()?;
            telemetry::start_log(&config.log)?;
            // The service runs what is there; it never installs.
            let server = sources.server_source(config.nats.server.clone(), false);
            service::run(config, server, signals::shutdown()?).await?;
        }
        Command::Demo(args) => {
            telemetry::start_log(&quiet())?;
            let server = Sources::of_process(None, Vec::new()).server_source(None, true);
            return demo::run(args, server, signals::shutdown()?).await;
        }
        Command::Sandbox(SandboxCommand { sandbox, scenario, fleet }) => {
            telemetry::start_log(&if fleet.is_wanted() { silent() } else { quiet() })?;
            if fleet.is_wanted() {
                return fleet::run(fleet, sandbox.seed, signals::shutdown()?).await;
            }
            match scenario.scenario.clone() {
                Some(file) => scenario::run(&file, scenario, sandbox, signals::shutdown()?).await?,
                None => belvo_sandbox::run(sandbox, signals::shutdown()?).await?,
            }
        }
        Command::Why(WhyArgs { subject, relink }) => {
            // A message id is `<link>.<version>.<n>`, and no link id has a dot.
            let (link, behind) = match subject.trim().split_once('.') {
                Some((link, behind)) => (link, Some(behind)),
                None => (subject.trim(), None),
            };
            let history = ask::Relink::of(relink)?.history(link).await?;
            // However the id was spelt, messages have the link's own spelling.
            let message = behind.map(|behind| format!("{}.{behind}", history.link_id));
            return print(&story::tell(&history, message.as_deref())?);
        }
        Command::DeadLetters(DeadLettersArgs { command, relink }) => {
            let relink = ask::Relink::of(relink)?;
            let text = match command {
                DeadLettersCommand::List => story::letters(&relink.dead_letters().await?),
                DeadLettersCommand::Show { sequence } => story::letter(&relink.dead_letter(sequence).await?),
                DeadLettersCommand::Replay { sequence } => {
                    let input = relink.replay(sequence).await?;
                    format!("dead letter {sequence} is input {input} now\n")
                }
            };
            return print(&text);
        }
        Command::CheckConfig(_) | Command::Machine { .. } | Command::Simulate(_) | Command::Schemas { .. } => {
            unreachable!("these have been run without a runtime")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The log of programs that tell people themselves what they do.
fn quiet() -> LogConfig {
    LogConfig { filter: "warn,relink::nats::server_binary=info".to_owned(), format: LogFormat::Text }
}

/// The log level of a simulation: its faults cause every warning many times.
fn silent() -> LogConfig {
    LogConfig { filter: "off".to_owned(), format: LogFormat::Text }
}

/// Prints to standard output, with colours only where they are wanted. A reader that has seen enough (`| head`) is no
/// error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}

//! `relink sandbox --scenario FILE`: its flags and its output.

use std::path::{Path, PathBuf};

use anyhow::Context;
use belvo_sandbox::{Sandbox, SandboxArgs, SandboxConfig};
use clap::Args;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::file::Scenario;
use super::player::{RelinkUnderTest, play};
use crate::printable::{printable, printable_lines, shortened};

/// The maximum length of an output line, in characters.
const LINE_LENGTH_MAX: usize = 2_000;

/// The flags that play a scenario instead of a plain sandbox.
#[derive(Args, Debug)]
pub struct ScenarioArgs {
    /// Play this scenario against a running relink that uses this sandbox as its Belvo, and exit with the result. The
    /// schedule of the sandbox is off unless the file turns it on; webhooks go to that relink, one at a time, unless a
    /// flag says otherwise.
    #[arg(long, value_name = "FILE", requires = "api_token", group = "receiver", help_heading = "Play a scenario",
          conflicts_with_all = ["no_schedule", "monthly_wipe"])]
    pub scenario: Option<PathBuf>,
    /// The URL of relink's HTTP server.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8480",
        requires = "scenario",
        help_heading = "Play a scenario"
    )]
    pub relink_url: String,
    /// A bearer token of relink's API.
    #[arg(long, value_name = "TOKEN", requires = "scenario", help_heading = "Play a scenario")]
    pub api_token: Option<SecretString>,
    /// A secret of RELINK_STATUS_WEBHOOK_SECRETS, for scenarios in which Belvo's status page reports an institution.
    #[arg(long, value_name = "SECRET", requires = "scenario", help_heading = "Play a scenario")]
    pub status_secret: Option<SecretString>,
    /// The URL of the NATS server that relink uses.
    #[arg(
        long,
        value_name = "URL",
        default_value = "nats://127.0.0.1:4222",
        requires = "scenario",
        help_heading = "Play a scenario"
    )]
    pub nats_url: String,
    /// The name of relink's output stream.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "KV_links",
        requires = "scenario",
        help_heading = "Play a scenario"
    )]
    pub stream: String,
}

/// Plays the scenario `file`, until its end or `shutdown`.
///
/// # Errors
/// If the sandbox cannot listen, or the scenario failed.
pub async fn run(
    file: &Path,
    args: ScenarioArgs,
    sandbox: SandboxArgs,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = rehearse(file, args, sandbox) => ended,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("stopped before the end of the scenario")),
    }
}

/// The configuration of the sandbox: its schedule is off, and webhooks keep their order.
fn config(mut args: SandboxArgs, relink_url: &str) -> SandboxConfig {
    args.webhook_url.get_or_insert_with(|| format!("{relink_url}/webhooks/belvo"));
    args.deliveries_at_once.get_or_insert(1);
    // relink remembers its links, so each run needs other link ids.
    args.seed.get_or_insert_with(|| fastrand::u64(..));
    SandboxConfig { schedule: false, ..args.into() }
}

/// Plays a scenario and prints its progress.
async fn rehearse(file: &Path, args: ScenarioArgs, sandbox: SandboxArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scenario = Scenario::parse(&file.display().to_string(), &text)?;
    let relink = RelinkUnderTest {
        url: args.relink_url.trim_end_matches('/').to_owned(),
        api_token: args.api_token.context("a scenario needs --api-token")?,
        status_secret: args.status_secret,
        nats_url: args.nats_url,
        stream: args.stream,
    };
    let config = scenario.sandbox(config(sandbox, &relink.url));
    let (seed, secret_id) = (config.seed, config.secret_id.clone());
    let sandbox = Sandbox::start(config).await.context("starting the sandbox")?;
    anstream::println!("{}\n\n{}\n", printable(scenario.title()), printable_lines(scenario.why()));
    anstream::println!("The Belvo sandbox is at {}, seed {seed}. Start relink with", sandbox.url());
    anstream::println!("  RELINK_BELVO_URL={} RELINK_BELVO_SECRET_ID={secret_id} and its password", sandbox.url());
    anstream::println!("  RELINK_BELVO_PORTAL_URL={}/portal/", sandbox.url());
    for (setting, value) in scenario.policy() {
        let value = value.as_array().map_or_else(
            || value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            |steps| steps.iter().filter_map(|step| step.as_str()).collect::<Vec<_>>().join(","),
        );
        anstream::println!("  RELINK_POLICY_{}={value}", setting.to_uppercase());
    }
    let ended =
        play(&scenario, &sandbox, &relink, &|line| anstream::println!("{}", shortened(line, LINE_LENGTH_MAX))).await;
    sandbox.shutdown().await;
    ended.context("the scenario failed")?;
    anstream::println!("PASSED");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        sandbox: SandboxArgs,
        #[command(flatten)]
        scenario: ScenarioArgs,
    }

    fn parse(flags: &[&str]) -> Result<Program, clap::Error> {
        Program::try_parse_from([&["sandbox"], flags].concat())
    }

    #[test]
    fn a_scenario_turns_the_schedule_off() {
        Program::command().debug_assert();
        let program = parse(&["--scenario", "a.toml", "--api-token", "t"]).expect("both are there");
        let config = config(program.sandbox, "http://127.0.0.1:1");
        assert_eq!((config.schedule, config.requests_per_30s, config.deliveries_at_once), (false, Some(80), 1));
        assert_eq!(config.webhook_url.as_deref(), Some("http://127.0.0.1:1/webhooks/belvo"));
    }

    #[test]
    fn conflicting_flags_are_refused() {
        let scenario = ["--scenario", "a.toml", "--api-token", "t"];
        for more in [&["--webhook-authorization", "Bearer abc"][..], &["--webhook-url", "http://127.0.0.1:1/"]] {
            assert!(parse(&[&scenario[..], more].concat()).is_ok(), "{more:?}");
        }
        for more in ["--no-schedule", "--monthly-wipe"] {
            assert!(parse(&[&scenario[..], &[more]].concat()).is_err(), "{more} conflicts with --scenario");
        }
        assert!(parse(&["--scenario", "a.toml"]).is_err(), "a scenario needs a token of relink's API");
        assert!(parse(&["--relink-url", "http://127.0.0.1:1"]).is_err(), "--relink-url needs a scenario");
        assert!(parse(&["--webhook-authorization", "Bearer abc"]).is_err(), "an Authorization for webhooks to nowhere");
    }
}

//! `relink sandbox`: a Belvo in a box on a port of its own, until it is told to stop; or until a scenario is over.
//!
//! It reads no environment; flags are all there is.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, Args, Command};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::scenario::{RelinkUnderTest, Scenario, play};
use super::world::{is_header_value, is_webhook_url};
use super::{Sandbox, SandboxConfig};
use crate::printable::{printable, printable_lines, shortened};

/// The longest line of a rehearsal, in characters.
const LINE_LENGTH_MAX: usize = 2_000;

/// Belvo in a box: its API, its widget and its webhooks, on this machine.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("receiver").args(["webhook_url", "scenario"]).multiple(true))]
pub struct SandboxArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8490")]
    pub listen: SocketAddr,
    /// Where to send webhooks, such as http://127.0.0.1:8480/webhooks/belvo; for a scenario, relink's own address for
    /// them is the default.
    #[arg(long, value_name = "URL", value_parser = webhook_url)]
    pub webhook_url: Option<String>,
    /// The whole Authorization value to send with each webhook, such as "Bearer abc".
    #[arg(long, value_name = "VALUE", value_parser = Authorization, requires = "receiver")]
    pub webhook_authorization: Option<SecretString>,
    /// The secret id of Basic auth.
    #[arg(long, value_name = "ID", default_value = "sandbox")]
    pub secret_id: String,
    /// The secret password of Basic auth.
    #[arg(long, value_name = "PASSWORD", default_value = "sandbox")]
    pub secret_password: SecretString,
    /// Let nothing happen by itself: no refreshes by rate, no consents that end by their date. In a scenario its file
    /// decides.
    #[arg(long, conflicts_with = "scenario")]
    pub no_schedule: bool,
    /// Have all links gone on the first of each month, as in Belvo's own sandbox.
    #[arg(long, conflicts_with_all = ["scenario", "no_schedule"])]
    pub monthly_wipe: bool,
    /// How many calls of the API are let through in 30 seconds; 0 for any number.
    #[arg(long, value_name = "CALLS", default_value_t = 80)]
    pub requests_per_30s: u32,
    /// How many webhooks are under way at the same time: 4, or one after the other in a scenario.
    #[arg(long, value_name = "WEBHOOKS")]
    pub deliveries_at_once: Option<usize>,
    /// The seed that all ids come from: 1, or another one for each scenario.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Play this scenario against a relink whose Belvo this sandbox is, and end with its verdict.
    #[arg(long, value_name = "FILE", requires = "api_token")]
    pub scenario: Option<PathBuf>,
    /// For a scenario: where relink's HTTP door is.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8480", requires = "scenario")]
    pub relink_url: String,
    /// For a scenario: a bearer token of relink's API.
    #[arg(long, value_name = "TOKEN", requires = "scenario")]
    pub api_token: Option<SecretString>,
    /// For a scenario: the NATS that relink publishes on.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222", requires = "scenario")]
    pub nats_url: String,
    /// For a scenario: relink's output stream.
    #[arg(long, value_name = "NAME", default_value = "LINKS", requires = "scenario")]
    pub stream: String,
}

fn webhook_url(text: &str) -> Result<String, &'static str> {
    if is_webhook_url(text) { Ok(text.to_owned()) } else { Err("must be an http or https address") }
}

/// Reads a secret: what is wrong with it is said without saying it.
#[derive(Clone)]
struct Authorization;

impl TypedValueParser for Authorization {
    type Value = SecretString;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<SecretString, clap::Error> {
        let refused = || {
            let flag = arg.map(ToString::to_string).unwrap_or_default();
            clap::Error::raw(ErrorKind::ValueValidation, format!("the value of {flag} cannot be sent in a header\n"))
                .with_cmd(command)
        };
        value.to_str().filter(|value| is_header_value(value)).map(SecretString::from).ok_or_else(refused)
    }
}

impl From<SandboxArgs> for SandboxConfig {
    fn from(args: SandboxArgs) -> Self {
        // A story is told by its file, so nothing happens in it that the file does not ask for.
        let is_story = args.scenario.is_some();
        Self {
            schedule: !is_story && !args.no_schedule,
            monthly_wipe: args.monthly_wipe,
            requests_per_30s: (args.requests_per_30s > 0).then_some(args.requests_per_30s),
            deliveries_at_once: args.deliveries_at_once.unwrap_or(if is_story { 1 } else { 4 }),
            listen: args.listen,
            webhook_url: args.webhook_url,
            webhook_authorization: args.webhook_authorization,
            secret_id: args.secret_id,
            secret_password: args.secret_password,
            seed: args.seed.unwrap_or(Self::default().seed),
            ..Self::default()
        }
    }
}

/// Runs a sandbox until `shutdown`, or until the scenario is over.
///
/// # Errors
/// If it cannot listen, or the scenario did not end as it should.
pub async fn run(args: SandboxArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Some(file) = args.scenario.clone() {
        return tokio::select! {
            ended = rehearse(&file, args) => ended,
            () = shutdown.cancelled() => Err(anyhow::anyhow!("stopped before the end of the scenario")),
        };
    }
    let webhooks = args.webhook_url.clone().unwrap_or_else(|| "nowhere (give --webhook-url)".into());
    let secret_id = args.secret_id.clone();
    let sandbox = Sandbox::start(args.into()).await.context("starting the sandbox")?;
    introduce(&sandbox, &secret_id, &webhooks);
    shutdown.cancelled().await;
    sandbox.shutdown().await;
    Ok(())
}

/// Plays a scenario, and tells it.
async fn rehearse(file: &Path, mut args: SandboxArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scenario = Scenario::parse(&file.display().to_string(), &text)?;
    let relink = RelinkUnderTest {
        url: args.relink_url.trim_end_matches('/').to_owned(),
        api_token: args.api_token.take().context("a scenario needs --api-token")?,
        nats_url: args.nats_url.clone(),
        stream: args.stream.clone(),
    };
    args.webhook_url.get_or_insert_with(|| format!("{}/webhooks/belvo", relink.url));
    // A relink remembers its links, so each rehearsal has others.
    let seed = *args.seed.get_or_insert_with(|| fastrand::u64(..));
    let secret_id = args.secret_id.clone();
    let sandbox = Sandbox::start(scenario.sandbox(args.into())).await.context("starting the sandbox")?;
    anstream::println!("{}\n\n{}\n", printable(scenario.title()), printable_lines(scenario.why()));
    anstream::println!("Belvo is {}, seed {seed}. relink has to be started with", sandbox.url());
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
    ended.context("the scenario did not end as it should")?;
    anstream::println!("PASSED");
    Ok(())
}

fn introduce(sandbox: &Sandbox, secret_id: &str, webhooks: &str) {
    let (url, webhooks) = (sandbox.url(), printable(webhooks));
    let by_itself = if sandbox.shared.config.schedule {
        "links are refreshed by their rate, consents end by their date"
    } else {
        "nothing"
    };
    anstream::println!(
        "Belvo in a box listens on {url}

  API       {url}/api/           Basic auth, secret id {secret_id:?}
  widget    {url}/widget/?access_token=…
  portal    {url}/portal/?access_token=…&link_id=…&consent_id=…&action=renew
  control   {url}/sandbox/       no auth
  webhooks  go to {webhooks}
  by itself {by_itself}

Break a link:
  curl -s {url}/sandbox/links -H 'content-type: application/json' \\
       -d '{{\"institution\":\"erebor_mx_retail\",\"access_mode\":\"recurrent\",\"external_id\":\"user-1\"}}'
  curl -s {url}/sandbox/links/LINK/scheduled-refresh -H 'content-type: application/json' \\
       -d '{{\"outcome\":\"login_error\"}}'
  curl -s {url}/sandbox/deliveries

Let a week pass:
  curl -s {url}/sandbox/advance -H 'content-type: application/json' -d '{{\"secs\":604800}}'
"
    );
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use secrecy::ExposeSecret;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: SandboxArgs,
    }

    #[test]
    fn the_definition_is_sound_and_the_defaults_are_the_documented_ones() {
        Program::command().debug_assert();
        let args = Program::parse_from(["sandbox"]).args;
        assert_eq!(args.listen.to_string(), "127.0.0.1:8490");
        assert_eq!((args.secret_id.as_str(), args.secret_password.expose_secret()), ("sandbox", "sandbox"));
        let config = |flags: &[&str]| SandboxConfig::from(Program::parse_from([&["sandbox"], flags].concat()).args);
        let usual = config(&[]);
        assert_eq!((usual.schedule, usual.requests_per_30s, usual.deliveries_at_once), (true, Some(80), 4));
        let story = config(&["--scenario", "a.toml", "--api-token", "t"]);
        assert_eq!((story.schedule, story.requests_per_30s, story.deliveries_at_once), (false, Some(80), 1));
        let quiet = config(&["--no-schedule", "--requests-per-30s", "0", "--deliveries-at-once", "2"]);
        assert_eq!((quiet.schedule, quiet.requests_per_30s, quiet.deliveries_at_once), (false, None, 2));
        let orphan = Program::try_parse_from(["sandbox", "--webhook-authorization", "Bearer abc"]);
        assert!(orphan.is_err(), "an Authorization for webhooks that go nowhere");
        for wrong in ["127.0.0.1:8480/webhooks/belvo", "ftp://127.0.0.1/", "http://", "webhooks"] {
            assert!(Program::try_parse_from(["sandbox", "--webhook-url", wrong]).is_err(), "{wrong}");
        }
        let to = ["sandbox", "--webhook-url", "http://127.0.0.1:1/", "--webhook-authorization"];
        assert!(Program::try_parse_from([&to[..], &["Bearer abc"]].concat()).is_ok());
        let refused = Program::try_parse_from([&to[..], &["Bearer hunter2\n"]].concat());
        let message = refused.expect_err("no header has a line in it").to_string();
        assert!(message.contains("--webhook-authorization") && !message.contains("hunter2"), "{message}");
        let parse = |flags: &[&str]| Program::try_parse_from([&["sandbox"], flags].concat()).is_ok();
        assert!(parse(&["--scenario", "a.toml", "--api-token", "t", "--webhook-authorization", "Bearer abc"]));
        assert!(!parse(&["--scenario", "a.toml"]), "relink's API has no door without a token");
        assert!(!parse(&["--relink-url", "http://127.0.0.1:1"]), "only a scenario knows of relink");
    }

    #[tokio::test]
    async fn it_runs_until_it_is_told_to_stop() {
        let args = Program::parse_from(["sandbox", "--listen", "127.0.0.1:0"]).args;
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        assert!(run(args, shutdown).await.is_ok());
        let args = Program::parse_from(["sandbox", "--listen", "192.0.2.1:1"]).args;
        assert!(run(args, CancellationToken::new()).await.is_err(), "an address that is not ours");
    }
}

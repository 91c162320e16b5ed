//! Defines the flags of the program `belvo-sandbox`, which `relink sandbox` has too, and runs a sandbox on its own
//! port.
//!
//! This file does not read environment variables.

use std::ffi::OsStr;
use std::net::SocketAddr;

use anyhow::Context;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, Args, Command};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::config::SandboxConfig;
use crate::server::Sandbox;
use crate::world::{is_header_value, is_webhook_url};

/// The default number of webhooks in transit at the same time.
const DELIVERIES_AT_ONCE: usize = 4;

/// Reads an address to listen on. `localhost` is the IPv4 address of this machine.
///
/// # Errors
/// The text is neither an IP address with a port nor `localhost` with a port.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    address.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:8490 or localhost:8490".to_owned())
}

/// The flags of a sandbox.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("receiver").multiple(true))]
pub struct SandboxArgs {
    /// The address to listen on. The control API has no authentication, so keep it on the loopback interface.
    #[arg(long, value_name = "ADDR", value_parser = listen_address, default_value = "127.0.0.1:8490")]
    pub listen: SocketAddr,
    /// The URL that receives webhooks, such as http://127.0.0.1:8480/webhooks/belvo; without it they are recorded and not sent.
    #[arg(long, value_name = "URL", value_parser = webhook_url, group = "receiver")]
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
    /// Switch Belvo's schedule off: no scheduled refreshes, and no consents that end on their date.
    #[arg(long)]
    pub no_schedule: bool,
    /// Remove all links on the first of each month, as Belvo's own sandbox does.
    #[arg(long, conflicts_with = "no_schedule")]
    pub monthly_wipe: bool,
    /// The maximum number of API calls in 30 seconds; further calls are answered 403. 0 means no limit.
    #[arg(long, value_name = "CALLS", default_value_t = 80)]
    pub requests_per_30s: u32,
    /// The maximum number of webhooks in transit at the same time. Default: 4.
    #[arg(long, value_name = "WEBHOOKS")]
    pub deliveries_at_once: Option<usize>,
    /// The seed of all ids: the same seed gives the same ids. Default: a random one, because a receiver ignores webhook ids that it knows.
    #[arg(long)]
    pub seed: Option<u64>,
}

fn webhook_url(text: &str) -> Result<String, &'static str> {
    if is_webhook_url(text) { Ok(text.to_owned()) } else { Err("must be an http or https address") }
}

/// Reads a secret; its error does not contain the secret.
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
        Self {
            schedule: !args.no_schedule,
            monthly_wipe: args.monthly_wipe,
            requests_per_30s: (args.requests_per_30s > 0).then_some(args.requests_per_30s),
            deliveries_at_once: args.deliveries_at_once.unwrap_or(DELIVERIES_AT_ONCE),
            listen: args.listen,
            webhook_url: args.webhook_url,
            webhook_authorization: args.webhook_authorization,
            secret_id: args.secret_id,
            secret_password: args.secret_password,
            seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
            ..Self::default()
        }
    }
}

/// Runs a sandbox until `shutdown`.
///
/// # Errors
/// If it cannot listen.
pub async fn run(args: SandboxArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let webhooks = args.webhook_url.clone().unwrap_or_else(|| "not sent (set --webhook-url)".into());
    let secret_id = args.secret_id.clone();
    let sandbox = Sandbox::start(args.into()).await.context("starting the sandbox")?;
    introduce(&sandbox, &secret_id, &webhooks);
    shutdown.cancelled().await;
    sandbox.shutdown().await;
    Ok(())
}

fn introduce(sandbox: &Sandbox, secret_id: &str, webhooks: &str) {
    let (url, webhooks) = (sandbox.url(), webhooks.escape_debug());
    let seed = sandbox.config().seed;
    let schedule =
        if sandbox.config().schedule { "links are refreshed by their rate, consents end by their date" } else { "off" };
    anstream::println!(
        "belvo-sandbox listens on {url}

  API       {url}/api/           Basic auth, secret id {secret_id:?}
  widget    {url}/widget/?access_token=…
  portal    {url}/portal/?access_token=…&link_id=…&consent_id=…&action=renew
  control   {url}/sandbox/       no auth
  webhooks  go to {webhooks}
  schedule  {schedule}
  seed      {seed} (--seed repeats the ids)

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
        let quiet = config(&["--no-schedule", "--requests-per-30s", "0", "--deliveries-at-once", "2"]);
        assert_eq!((quiet.schedule, quiet.requests_per_30s, quiet.deliveries_at_once), (false, None, 2));
        assert_ne!(config(&[]).seed, config(&[]).seed, "a restarted sandbox must not repeat ids");
        assert_eq!(config(&["--seed", "7"]).seed, 7);
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

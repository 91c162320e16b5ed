//! `relink sandbox`: a Belvo in a box on a port of its own, until it is told to stop.
//!
//! It reads no environment; flags are all there is.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{Sandbox, SandboxConfig};

/// Belvo in a box: its API, its widget and its webhooks, on this machine.
#[derive(Args, Debug)]
pub struct SandboxArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8490")]
    pub listen: SocketAddr,
    /// Where to send webhooks, such as http://127.0.0.1:8480/webhooks/belvo.
    #[arg(long, value_name = "URL")]
    pub webhook_url: Option<String>,
    /// The whole Authorization value to send with each webhook, such as "Bearer abc".
    #[arg(long, value_name = "VALUE", requires = "webhook_url")]
    pub webhook_authorization: Option<SecretString>,
    /// The secret id of Basic auth.
    #[arg(long, value_name = "ID", default_value = "sandbox")]
    pub secret_id: String,
    /// The secret password of Basic auth.
    #[arg(long, value_name = "PASSWORD", default_value = "sandbox")]
    pub secret_password: SecretString,
    /// The seed that all ids come from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl From<SandboxArgs> for SandboxConfig {
    fn from(args: SandboxArgs) -> Self {
        Self {
            listen: args.listen,
            webhook_url: args.webhook_url,
            webhook_authorization: args.webhook_authorization,
            secret_id: args.secret_id,
            secret_password: args.secret_password,
            seed: args.seed,
            ..Self::default()
        }
    }
}

/// Runs a sandbox until `shutdown`.
pub async fn run(args: SandboxArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let webhooks = args.webhook_url.clone().unwrap_or_else(|| "nowhere (give --webhook-url)".into());
    let secret_id = args.secret_id.clone();
    let sandbox = Sandbox::start(args.into()).await.context("starting the sandbox")?;
    introduce(&sandbox.url(), &secret_id, &webhooks);
    shutdown.cancelled().await;
    sandbox.shutdown().await;
    Ok(())
}

fn introduce(url: &str, secret_id: &str, webhooks: &str) {
    anstream::println!(
        "Belvo in a box listens on {url}

  API       {url}/api/           Basic auth, secret id {secret_id:?}
  widget    {url}/widget/?access_token=…
  control   {url}/sandbox/       no auth
  webhooks  go to {webhooks}

Break a link:
  curl -s {url}/sandbox/links -H 'content-type: application/json' \\
       -d '{{\"institution\":\"erebor_mx_retail\",\"access_mode\":\"recurrent\",\"external_id\":\"user-1\"}}'
  curl -s {url}/sandbox/links/LINK/scheduled-refresh -H 'content-type: application/json' \\
       -d '{{\"outcome\":\"login_error\"}}'
  curl -s {url}/sandbox/deliveries
"
    );
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use secrecy::ExposeSecret;

    use super::*;

    #[derive(Parser)]
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
        let orphan = Program::try_parse_from(["sandbox", "--webhook-authorization", "Bearer abc"]);
        assert!(orphan.is_err(), "an Authorization for webhooks that go nowhere");
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

//! The program `belvo-sandbox`: runs a sandbox until SIGINT or SIGTERM.

use std::process::ExitCode;

use anyhow::Context;
use belvo_sandbox::SandboxArgs;
use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A stand-in for Belvo on this machine, in which you can break links.
///
/// It has Belvo's API of links and data, its widget, its consent portal and its webhooks with their retries. Use its
/// address in place of https://sandbox.belvo.com, with the secret id and the secret password below. Links are broken and
/// repaired, and time is moved, by the control API under /sandbox, which `GET /sandbox` describes.
#[derive(Parser, Debug)]
#[command(name = "belvo-sandbox", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    sandbox: SandboxArgs,
}

const EXAMPLES: &str = "\
Examples:
  belvo-sandbox --webhook-url http://127.0.0.1:8480/webhooks/belvo
  curl http://127.0.0.1:8490/sandbox   the control API, as JSON
  curl http://127.0.0.1:8490/sandbox/links -H 'content-type: application/json' \\
       -d '{\"institution\":\"erebor_mx_retail\",\"external_id\":\"user-1\"}'
                                       connect a user; the answer has the id of the link
  curl http://127.0.0.1:8490/sandbox/links/LINK/scheduled-refresh -H 'content-type: application/json' \\
       -d '{\"outcome\":\"login_error\"}'   break the link: invalid, with its webhook
  curl http://127.0.0.1:8490/sandbox/deliveries
                                       the webhooks, and how each delivery ended";

fn main() -> ExitCode {
    let Cli { sandbox } = Cli::parse();
    match serve(sandbox) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("belvo-sandbox: {}", format!("{error:#}").escape_debug());
            ExitCode::FAILURE
        }
    }
}

fn serve(args: SandboxArgs) -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("warn")).with_writer(std::io::stderr);
    // The call fails if a log was started already, which is no problem.
    let _started = log.try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let cancelled_by_signal = shutdown.clone();
        let stop = stop_signal().context("listening for signals")?;
        tokio::spawn(async move {
            stop.await;
            cancelled_by_signal.cancel();
        });
        belvo_sandbox::run(args, shutdown).await
    })
}

/// Ends at the first SIGINT or SIGTERM.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Ends at the first interrupt.
#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

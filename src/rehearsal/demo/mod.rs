//! The demo: four links break in four ways, and their users repair three of them.
//!
//! All parts except Belvo are real: a separate nats-server, this relink with its store, and HTTP between them. The crate
//! `belvo-sandbox` replaces Belvo. The demo prints the messages that arrive on the stream `KV_links`, and continues only when the
//! expected message has arrived.

mod environment;

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::environment::Environment;
use crate::clock;
use crate::config::Config;
use crate::nats::server_binary::ServerSource;
use crate::rehearsal::local::{Screen, Tail};

/// The attempts to remove the directory, and the pause between two.
const REMOVE_TRIES_MAX: usize = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

/// The flags of `relink demo`.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// Exit after the last step, with status 0 only if every link is in its expected state
    #[arg(long)]
    pub once: bool,
}

/// Runs the demo.
///
/// # Errors
/// If a part cannot be started or stopped.
pub async fn run(args: DemoArgs, server_source: ServerSource, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    // The pauses are for a reader at a terminal.
    let screen = Screen::new(!args.once && std::io::stdout().is_terminal());
    let directory = tempfile::Builder::new().prefix("relink-demo-").tempdir().context("cannot create a directory")?;
    let is_correct = run_in(directory.path(), &args, &screen, server_source, shutdown).await;
    remove(directory).await;
    Ok(if is_correct? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the demo with its data in this directory. Returns whether every link is in its expected state.
async fn run_in(
    directory: &Path,
    args: &DemoArgs,
    screen: &Screen,
    server_source: ServerSource,
    shutdown: CancellationToken,
) -> anyhow::Result<bool> {
    let began = clock::instant();
    screen.title("relink demo: four links break in four ways");
    let environment = tokio::select! {
        started = Environment::start(screen, Config::defaults(), directory, server_source) => started?,
        () = shutdown.cancelled() => return Ok(false),
    };
    let played = tokio::select! {
        played = async {
            play(screen, &environment).await?;
            environment.show_final_states(screen).await
        } => played,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("stopped before the end")),
    };
    let is_correct = played.unwrap_or_else(|problem| {
        screen.problem(&format!("{problem:#}"));
        false
    });
    screen.aside(&format!("The demo took {:.1} s.", began.elapsed().as_secs_f64()));
    if is_correct && !args.once {
        let local = environment.local();
        let mut tail = Tail::from_now_on(local);
        environment.show_commands(screen)?;
        loop {
            tokio::select! {
                printed = tail.next(&local.sandbox, &local.subscriber, screen) => printed?,
                () = shutdown.cancelled() => break,
            }
        }
        screen.aside("Stopping.");
    }
    environment.stop().await?;
    Ok(is_correct)
}

/// Removes the directory. A nats-server that was killed during its start may write a last file into it, so this tries several times.
async fn remove(directory: TempDir) {
    let path = directory.keep();
    for _ in 0..REMOVE_TRIES_MAX {
        if std::fs::remove_dir_all(&path).is_ok() {
            return;
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    }
    tracing::warn!(path = %path.display(), "the directory of the demo could not be removed");
}

async fn play(screen: &Screen, environment: &Environment) -> anyhow::Result<()> {
    screen.section("1", "A bank requires a new token. Belvo reports it in one webhook.");
    let maria = environment.link("maria", "erebor_mx_retail")?;
    environment.data_arrives(&maria).await?;
    environment.bank_requires_token(screen, &maria).await?;
    environment.expect(screen, &maria, "update_required").await?;
    environment.user_repairs(screen, &maria).await?;

    screen.section("2", "A user has changed the password. The next refresh cannot log in.");
    let joao = environment.link("joao", "gringotts_co_retail")?;
    environment.data_arrives(&joao).await?;
    environment.user_changes_password(screen, &joao).await?;
    environment.expect(screen, &joao, "update_required").await?;
    environment.user_repairs(screen, &joao).await?;

    screen.section("3", "Belvo sends no webhook: a call of your application is answered 428.");
    let sofia = environment.link("sofia", "heimdall_mx_retail")?;
    environment.data_arrives(&sofia).await?;
    environment.application_calls_accounts(screen, &sofia).await?;
    environment.expect(screen, &sofia, "update_required").await?;
    environment.user_repairs(screen, &sofia).await?;

    screen.section("4", "The user closes the widget. The link stays broken, and the user gets no second prompt.");
    let pedro = environment.link("pedro", "erebor_mx_retail")?;
    environment.data_arrives(&pedro).await?;
    environment.user_changes_password(screen, &pedro).await?;
    environment.expect(screen, &pedro, "update_required").await?;
    environment.user_closes_widget(screen, &pedro).await
}

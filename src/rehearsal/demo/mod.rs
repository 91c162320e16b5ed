//! The demo: four links break in four ways and are repaired, on real parts, while you watch.
//!
//! Everything is real but Belvo: a nats-server of its own, this relink with its store, HTTP between them. Belvo is the crate `belvo-sandbox`. What
//! is printed is what arrived on the stream `LINKS`, not what the demo expects; the story goes on only when it has.

mod cast;
mod screen;
mod watch;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use self::cast::Cast;
use self::screen::Screen;
use crate::clock;
use crate::config::Config;
use crate::nats::server_binary::ServerSource;

/// What `relink demo` may be told.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// End after the story, with status 0 only if every link ended where it should
    #[arg(long)]
    pub once: bool,
}

/// Plays the story.
///
/// # Errors
/// If a part cannot be started, or the story did not go as it should.
pub async fn run(args: DemoArgs, server_source: ServerSource, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    // Somebody who watches wants to read along; a pipe does not.
    let screen = Screen::new(!args.once && std::io::stdout().is_terminal());
    let began = clock::instant();
    let directory = tempfile::Builder::new().prefix("relink-demo-").tempdir().context("cannot create a directory")?;
    screen.title("relink demo: four links break, four ways back");
    let cast = tokio::select! {
        cast = Cast::start(&screen, Config::defaults(), directory.path(), server_source) => cast?,
        () = shutdown.cancelled() => return Ok(ExitCode::FAILURE),
    };
    let told = tokio::select! {
        told = tell(&screen, &cast) => told,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("stopped before the end of the story")),
    };
    let ended_well = match told {
        Ok(()) => cast.show_ending(&screen).await?,
        Err(problem) => {
            screen.problem(&format!("{problem:#}"));
            false
        }
    };
    screen.aside(&format!("The story took {:.1} s.", began.elapsed().as_secs_f64()));
    if ended_well && !args.once {
        cast.show_around(&screen);
        shutdown.cancelled().await;
        screen.aside("Stopping.");
    }
    cast.stop().await?;
    Ok(if ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tell(screen: &Screen, cast: &Cast) -> anyhow::Result<()> {
    screen.scene("1", "A bank wants a new token. Belvo says so once, in a webhook.");
    let maria = cast.link("maria", "erebor_mx_retail")?;
    cast.data_arrives(&maria).await?;
    cast.bank_wants_a_token(screen, &maria).await?;
    cast.expect(screen, &maria, "update_required").await?;
    cast.user_repairs(screen, &maria).await?;

    screen.scene("2", "A password was changed. The next refresh cannot log in.");
    let joao = cast.link("joao", "gringotts_co_retail")?;
    cast.data_arrives(&joao).await?;
    cast.password_was_changed(screen, &joao).await?;
    cast.expect(screen, &joao, "update_required").await?;
    cast.user_repairs(screen, &joao).await?;

    screen.scene("3", "No webhook at all: a call of your own application is answered 428.");
    let sofia = cast.link("sofia", "heimdall_mx_retail")?;
    cast.data_arrives(&sofia).await?;
    cast.application_asks_for_accounts(screen, &sofia).await?;
    cast.expect(screen, &sofia, "update_required").await?;
    cast.user_repairs(screen, &sofia).await?;

    screen.scene("4", "The user closes the widget. The link is as broken as before, and nobody is asked twice.");
    let pedro = cast.link("pedro", "erebor_mx_retail")?;
    cast.data_arrives(&pedro).await?;
    cast.password_was_changed(screen, &pedro).await?;
    cast.expect(screen, &pedro, "update_required").await?;
    cast.user_gives_up(screen, &pedro).await
}

//! (being written)

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

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
/// Always, for now.
pub async fn run(
    _args: DemoArgs,
    _server_source: ServerSource,
    _shutdown: CancellationToken,
) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

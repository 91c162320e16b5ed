//! (being written)

use tokio_util::sync::CancellationToken;

use crate::nats::server_binary::ServerSource;

use crate::config::Config;

/// Runs the service until `shutdown`.
///
/// # Errors
/// Always, for now.
pub async fn run(_config: Config, _server_source: ServerSource, _shutdown: CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

//! (being written)

use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Runs the service until `shutdown`.
///
/// # Errors
/// Always, for now.
pub async fn run(_config: Config, _shutdown: CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

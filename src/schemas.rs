//! (being written)

use std::path::Path;

/// Writes the JSON Schema of every message into `directory`.
///
/// # Errors
/// Always, for now.
pub fn write(_directory: &Path) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

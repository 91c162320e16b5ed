//! The data directory: only the user that runs relink can enter it, because it contains links, users and passwords.

use std::path::Path;

use anyhow::Context as _;

use crate::os;

/// Creates the data directory if it is missing, and makes it private. A directory that also has files of other
/// programs keeps its mode; then relink's parts of it become private.
///
/// # Errors
/// The directory cannot be created or read.
pub(super) fn prepare(directory: &Path) -> anyhow::Result<()> {
    let unusable =
        || format!("cannot use the data directory {}: choose another with RELINK_DATA_DIR", directory.display());
    let (mut ours, mut is_shared) = (Vec::new(), false);
    if directory.exists() {
        for entry in std::fs::read_dir(directory).with_context(unusable)? {
            let entry = entry.with_context(unusable)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == "nats" || name == "journal" || name == "store" || name.starts_with("store.") {
                ours.push(entry.path());
            } else {
                is_shared = true;
            }
        }
    }
    if is_shared {
        ours.extend(["journal", "nats", "store"].map(|part| directory.join(part)));
    } else {
        ours.push(directory.to_owned());
    }
    for path in ours {
        if !os::create_private_directory(&path).with_context(unusable)? {
            let path = path.display();
            tracing::warn!(
                "other users can enter {path}, which contains links and passwords, and relink may not change its mode; \
                 run `chmod 700 {path}` as its owner"
            );
        }
    }
    Ok(())
}

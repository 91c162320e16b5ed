//! The data directory and its disk.

use std::path::Path;

use super::Check;
use crate::os;

/// Less free space than this is a problem: the journal, the store and relink's own nats-server cannot go on.
const FREE_BYTES_PROBLEM: u64 = 256 << 20;

/// Less free space than this is a warning: the journal may take 1 GiB by default.
const FREE_BYTES_WARNING: u64 = 2 << 30;

const DIRECTORY: &str = "data directory";
const DISK: &str = "disk";

pub(super) fn checks(directory: &Path) -> Vec<Check> {
    let shown = directory.display();
    if !directory.exists() {
        return vec![Check::warning(
            DIRECTORY,
            format!("{shown} does not exist yet"),
            "relink serve creates it; if relink has run before, check store.data_dir (RELINK_DATA_DIR)",
        )];
    }
    vec![permissions(directory), space(directory)]
}

fn permissions(directory: &Path) -> Check {
    let shown = directory.display();
    // The file has no name after that.
    if let Err(error) = tempfile::tempfile_in(directory) {
        let advice = format!(
            "make the user that runs relink the owner of {shown}, and run relink doctor as that user; or set store.data_dir (RELINK_DATA_DIR)"
        );
        return Check::problem(DIRECTORY, format!("{shown} cannot be written: {error}"), advice);
    }
    let open: Vec<String> = ["", "journal", "nats", "store"]
        .into_iter()
        .map(|part| directory.join(part))
        .filter(|path| path.is_dir() && !os::is_private(path))
        .map(|path| path.display().to_string())
        .collect();
    // A directory that also has files of other programs stays as it is; then relink's parts of it are private.
    let parts_are_open = open.iter().any(|path| Path::new(path) != directory);
    let has_parts = directory.join("store").is_dir();
    // A user who can write to it can put another directory in the place of a private one.
    if os::is_writable_by_others(directory) {
        return Check::warning(
            DIRECTORY,
            format!("other users can write to {shown}, and replace what relink has there"),
            format!("run `chmod 700 {shown}`"),
        );
    }
    if open.is_empty() || (has_parts && !parts_are_open) {
        return Check::ok(DIRECTORY, format!("{shown} can be written, and only by its user"));
    }
    let open = open.join(" ");
    Check::warning(
        DIRECTORY,
        format!("other users can enter {open}, which contains links and passwords"),
        format!("run `chmod 700 {open}`"),
    )
}

fn space(directory: &Path) -> Check {
    let Some(free) = os::free_bytes(directory) else {
        return Check::warning(DISK, "its free space cannot be read on this system", "look at it yourself");
    };
    let text = format!("{:.1} GiB are free", free as f64 / f64::from(1 << 30));
    let advice =
        "free some space, or move the data directory; relink refuses inputs when its journal cannot be written";
    match free {
        free if free < FREE_BYTES_PROBLEM => Check::problem(DISK, text, advice),
        free if free < FREE_BYTES_WARNING => Check::warning(DISK, text, advice),
        _ => Check::ok(DISK, text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_directory_that_is_missing_or_open_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let missing = checks(&directory.path().join("missing"));
        assert_eq!((missing.len(), missing[0].verdict), (1, Verdict::Warning));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            set(directory.path(), 0o700);
            assert_eq!(permissions(directory.path()).verdict, Verdict::Ok);
            set(directory.path(), 0o755);
            let open = permissions(directory.path());
            assert_eq!(open.verdict, Verdict::Warning);
            assert!(open.advice.unwrap().starts_with("run `chmod 700 "));
            // Only relink's part of a shared directory has to be private.
            std::fs::create_dir(directory.path().join("store")).unwrap();
            set(&directory.path().join("store"), 0o700);
            assert_eq!(permissions(directory.path()).verdict, Verdict::Ok);
            set(&directory.path().join("store"), 0o755);
            assert_eq!(permissions(directory.path()).verdict, Verdict::Warning);
        }
        assert!(space(directory.path()).text.ends_with("GiB are free"));
    }
}

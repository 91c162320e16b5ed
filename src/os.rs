//! Limits and defaults that the operating system gives a process: open files, and the permissions of new files.
//!
//! On other systems than Unix these functions change nothing.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::path::Path;

/// Raises the limit of open files of this process to the most that the system allows.
pub fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // macOS refuses an unlimited number; then the old limit stays.
        let _old_limit_stays = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many files this process may open; `None` if the number is unlimited or unknown.
pub fn descriptor_limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// From now on only the user of this process can read the files that it and its child processes create.
pub fn keep_new_files_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Creates a directory that only the user of this process can enter. One that exists becomes such a directory. Returns
/// whether it is: it may belong to another user, or its file system may have no modes.
///
/// # Errors
/// The directory cannot be created.
pub fn create_private_directory(path: &Path) -> io::Result<bool> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
        builder.mode(0o700).create(path)?;
        let mode = std::fs::metadata(path)?.mode();
        Ok(mode & 0o077 == 0 || std::fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7700)).is_ok())
    }
    #[cfg(not(unix))]
    builder.create(path).map(|()| true)
}

/// Whether an open file has no name any more, so that its content is lost when it is closed.
///
/// # Errors
/// The file cannot be examined.
pub fn is_deleted(file: &std::fs::File) -> io::Result<bool> {
    #[cfg(unix)]
    return file.metadata().map(|metadata| std::os::unix::fs::MetadataExt::nlink(&metadata) == 0);
    #[cfg(not(unix))]
    file.metadata().map(|_| false)
}

/// Writes a file that only the user of this process can read. A reader sees the old text or the new one.
///
/// # Errors
/// The file cannot be written.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    // A temporary file can be read by its user only.
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

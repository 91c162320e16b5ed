//! Limits and defaults that the operating system gives a process: open files, the permissions of new files, and the priority of threads.
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

/// Lowers the priority of the calling thread (its *nice* value becomes 10), so that it gets less time while all CPUs are busy. Only on Linux,
/// where each thread has a priority of its own.
pub fn lower_thread_priority() {
    // Without a process the call is about the calling thread (setpriority(2), "C library/kernel differences"). A system that refuses it
    // leaves the priority as it was.
    #[cfg(target_os = "linux")]
    let _refused = rustix::process::setpriority_process(None, 10);
}

/// The number of the signal for a file that would exceed the limit of its size.
#[cfg(unix)]
pub const FILE_TOO_LARGE: i32 = rustix::process::Signal::XFSZ.as_raw();

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

/// Whether only the user of this process, or nobody, can enter a directory. On other systems than Unix the answer is yes.
pub fn is_private(path: &Path) -> bool {
    #[cfg(unix)]
    return std::fs::metadata(path).is_ok_and(|metadata| std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 == 0);
    #[cfg(not(unix))]
    true
}

/// Whether other users can change what a directory contains. On other systems than Unix the answer is no.
pub fn is_writable_by_others(path: &Path) -> bool {
    #[cfg(unix)]
    return std::fs::metadata(path).is_ok_and(|metadata| std::os::unix::fs::MetadataExt::mode(&metadata) & 0o022 != 0);
    #[cfg(not(unix))]
    false
}

/// How many bytes the file system of this path has left for this user; `None` if that is unknown.
pub fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(unix))]
    None
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

/// Whether a read of standard input is safe. A process in the background that reads its terminal is stopped by the system. Only Linux shows
/// that without unsafe code; elsewhere the answer is yes.
pub fn may_read_terminal() -> bool {
    use std::io::IsTerminal as _;
    if !io::stdin().is_terminal() {
        return true;
    }
    std::fs::read_to_string("/proc/self/stat").ok().is_none_or(|stat| is_in_foreground(&stat))
}

/// Whether a `/proc/<pid>/stat` has the process in the group to which its terminal belongs.
fn is_in_foreground(stat: &str) -> bool {
    // The name of the program, in parentheses, may contain blanks. After it: state, parent, group, session, terminal, group of the terminal.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(2).is_some() && fields.get(2) == fields.get(5)
}

#[cfg(test)]
mod tests {
    use super::is_in_foreground;

    #[test]
    fn the_group_of_the_terminal_is_read() {
        assert!(is_in_foreground("7 (a b) c) S 1 7 7 34816 7 4194304"));
        assert!(!is_in_foreground("7 (relink) S 1 7 7 34816 12 4194304"));
        assert!(!is_in_foreground(""));
    }
}

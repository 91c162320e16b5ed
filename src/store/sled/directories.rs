//! The directories of the store.
//!
//! ```text
//! store/lock               locked while a process has the store open
//! store/<n>/               the database; of several, the highest n is the newest
//! store/<n>/incomplete     this database is still being written, so it is deleted at the next start
//! store/<n>/damaged        this database was found damaged while relink ran, so it is not opened again
//! store/db, conf, …        the database of an older relink (formats 1 and 2)
//! store.quarantine-<n>/    the last damaged database
//! store.ahead-<n>/         a database with messages that the stream has lost
//! store.replaced-<n>/      a database that an operator has replaced (`relink rebuild`)
//! ```
//!
//! sled opens files of its directory by path at any time, so the directory of an open database cannot be replaced. Therefore each new
//! database has a new number.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::StoreError;

/// The number of tries to lock a store that is in use, and the pause between them: one second in all. The threads of sled release a dropped
/// database only after some time.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const INCOMPLETE: &str = "incomplete";
const DAMAGED: &str = "damaged";

/// The file of a sled database that sled locks.
const DATABASE_FILE: &str = "db";

/// The directory of the store, locked by this process.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    _lock: File,
}

/// The databases in the root.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The number of the newest database.
    pub(super) newest: Option<u64>,
    /// Whether there is a database of an older relink.
    pub(super) is_legacy: bool,
}

impl Root {
    /// Creates the root if it does not exist, and locks it.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or the failure of the file system.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(|error| io_error(path, &error))?;
        let file = path.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&file);
        let lock = lock.map_err(|error| io_error(&file, &error))?;
        for _ in 0..LOCK_TRIES {
            match lock.try_lock() {
                // An older relink locks its database only.
                Ok(()) if !is_in_use(path) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Ok(()) => lock.unlock().map_err(|error| io_error(&file, &error))?,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io_error(&file, &error)),
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(StoreError::InUse { directory: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self, number: u64) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// Finds the databases, and deletes those that are incomplete or replaced.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn find(&self) -> Result<Found, StoreError> {
        let numbers = self.numbers()?;
        let newest = self.newest_of(&numbers);
        for number in numbers.into_iter().filter(|number| Some(*number) != newest) {
            self.delete(number)?;
        }
        let is_legacy = self.path.join(DATABASE_FILE).exists();
        if newest.is_some() && is_legacy {
            self.delete_legacy()?;
        }
        Ok(Found { newest, is_legacy: newest.is_none() && is_legacy })
    }

    fn newest_of(&self, numbers: &[u64]) -> Option<u64> {
        numbers.iter().copied().filter(|number| !self.database(*number).join(INCOMPLETE).exists()).max()
    }

    /// Moves the newest database to `<root>.replaced-<n>`; `None` if there is none.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn replace(&self) -> Result<Option<PathBuf>, StoreError> {
        let newest = self.newest_of(&self.numbers()?);
        let exists = newest.is_some() || self.path.join(DATABASE_FILE).exists();
        if exists { self.move_aside(newest, "replaced").map(Some) } else { Ok(None) }
    }

    fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let entries = fs::read_dir(&self.path).map_err(|error| io_error(&self.path, &error))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| io_error(&self.path, &error))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// A directory for a new database, marked as incomplete.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn begin(&self) -> Result<u64, StoreError> {
        let number = self.numbers()?.into_iter().max().unwrap_or(0) + 1;
        let directory = self.database(number);
        let created = fs::create_dir(&directory).and_then(|()| File::create(directory.join(INCOMPLETE)));
        created.and_then(|file| file.sync_all()).map_err(|error| io_error(&directory, &error))?;
        sync_directory(&directory)?;
        Ok(number)
    }

    /// Makes a new database the newest one, also after a crash.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn complete(&self, number: u64) -> Result<(), StoreError> {
        let directory = self.database(number);
        fs::remove_file(directory.join(INCOMPLETE)).map_err(|error| io_error(&directory, &error))?;
        sync_directory(&directory)?;
        sync_directory(&self.path)
    }

    /// Deletes a database that is not the newest one.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn delete(&self, number: u64) -> Result<(), StoreError> {
        let directory = self.database(number);
        fs::remove_dir_all(&directory).map_err(|error| io_error(&directory, &error))
    }

    /// Deletes the database of an older relink.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn delete_legacy(&self) -> Result<(), StoreError> {
        for (path, is_directory) in self.legacy()? {
            let deleted = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            deleted.map_err(|error| io_error(&path, &error))?;
        }
        Ok(())
    }

    /// The files and directories of the database of an older relink. The database file is the last one.
    fn legacy(&self) -> Result<Vec<(PathBuf, bool)>, StoreError> {
        let entries = fs::read_dir(&self.path).map_err(|error| io_error(&self.path, &error))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io_error(&self.path, &error))?;
            let (path, name) = (entry.path(), entry.file_name());
            let is_legacy = |name: &str| matches!(name, DATABASE_FILE | "conf" | "blobs") || name.starts_with("snap.");
            if name.to_str().is_some_and(is_legacy) {
                files.push((path.clone(), path.is_dir()));
            }
        }
        files.sort_by_key(|(path, _)| path.ends_with(DATABASE_FILE));
        Ok(files)
    }

    /// Marks a database as damaged, so that the next start does not open it.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn mark_damaged(&self, number: u64) -> Result<(), StoreError> {
        let file = self.database(number).join(DAMAGED);
        File::create(&file).map(drop).map_err(|error| io_error(&file, &error))
    }

    pub(super) fn is_marked_damaged(&self, number: u64) -> bool {
        self.database(number).join(DAMAGED).exists()
    }

    /// Moves a damaged database (`None`: that of an older relink) to `<root>.quarantine-<n>`, and deletes the quarantine before it. So the
    /// damaged databases never fill the disk. They have nothing that the stream does not have.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn quarantine(&self, number: Option<u64>) -> Result<PathBuf, StoreError> {
        let before = self.beside("quarantine")?;
        let aside = self.move_aside(number, "quarantine")?;
        for (_, path) in before {
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::warn!(store.deleted = %path.display(), store.kept = %aside.display(), "deleted the quarantine of an earlier damage; only the newest one is kept")
                }
                Err(error) => {
                    tracing::warn!(store.path = %path.display(), %error, "the quarantine of an earlier damage cannot be deleted")
                }
            }
        }
        Ok(aside)
    }

    /// Moves a database to `<root>.<kind>-<n>`.
    ///
    /// # Errors
    /// The failure of the file system.
    pub(super) fn move_aside(&self, number: Option<u64>, kind: &str) -> Result<PathBuf, StoreError> {
        let last = self.beside(kind)?.into_iter().map(|(number, _)| number).max().unwrap_or(0);
        let aside = self.path.with_extension(format!("{kind}-{}", last + 1));
        let moved = |from: &Path, to: &Path| fs::rename(from, to).map_err(|error| io_error(from, &error));
        match number {
            Some(number) => moved(&self.database(number), &aside)?,
            None => {
                fs::create_dir(&aside).map_err(|error| io_error(&aside, &error))?;
                for (path, _) in self.legacy()? {
                    moved(&path, &aside.join(path.file_name().unwrap_or_default()))?;
                }
            }
        }
        Ok(aside)
    }

    /// The directories `<root>.<kind>-<n>`, with their numbers.
    fn beside(&self, kind: &str) -> Result<Vec<(u64, PathBuf)>, StoreError> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = fs::read_dir(parent).map_err(|error| io_error(parent, &error))?;
        let prefix = format!("{}.{kind}-", self.path.file_stem().unwrap_or_default().to_string_lossy());
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io_error(parent, &error))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)).and_then(|n| n.parse().ok());
            found.extend(number.map(|number| (number, entry.path())));
        }
        Ok(found)
    }
}

/// Waits until no database in this directory is open, at most a second.
///
/// # Errors
/// [`StoreError::InUse`].
pub(super) fn wait_until_free(directory: &Path) -> Result<(), StoreError> {
    for _ in 0..LOCK_TRIES {
        if !is_in_use(directory) {
            return Ok(());
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(StoreError::InUse { directory: directory.to_owned() })
}

/// Whether a process has the database in this directory open. While it is open, sled holds the operating system's lock on its file (flock
/// on Unix, LockFileEx on Windows). sled reports a failed lock as an error without a kind, so this function tries the lock itself.
fn is_in_use(directory: &Path) -> bool {
    let file = File::options().read(true).write(true).open(directory.join(DATABASE_FILE));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Syncs the names of a directory's files. Only Unix can open a directory as a file.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| io_error(directory, &error))?;
    }
    Ok(())
}

/// The error for a failure of the file system that no repair of the store can change; `None` if the file may be damaged.
pub(super) fn environment_error(path: &Path, error: &io::Error) -> Option<StoreError> {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Some(StoreError::Denied { path, problem: error.to_string() })
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Some(StoreError::Full { path, problem: error.to_string() })
        }
        // Linux: too many open files, in the process or in the system.
        _ if matches!(error.raw_os_error(), Some(23 | 24)) => {
            Some(StoreError::Disk(format!("{}: {error}", path.display())))
        }
        _ => None,
    }
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> StoreError {
    let other = || StoreError::Disk(format!("{}: {error}", path.display()));
    environment_error(path, error).unwrap_or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_missing_permissions_are_no_damage() {
        let of = |kind: ErrorKind| environment_error(Path::new("data/store"), &io::Error::from(kind));
        assert!(matches!(of(ErrorKind::StorageFull), Some(StoreError::Full { .. })));
        assert!(matches!(of(ErrorKind::PermissionDenied), Some(StoreError::Denied { .. })));
        assert!(of(ErrorKind::UnexpectedEof).is_none() && of(ErrorKind::Other).is_none());
    }

    #[test]
    fn only_the_newest_quarantine_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::lock(&directory.path().join("store")).unwrap();
        for n in 1..4 {
            let number = root.begin().unwrap();
            root.complete(number).unwrap();
            assert_eq!(root.find().unwrap().newest, Some(number));
            let aside = root.quarantine(Some(number)).unwrap();
            assert_eq!(aside, directory.path().join(format!("store.quarantine-{n}")));
            assert_eq!(root.beside("quarantine").unwrap(), [(n, aside)]);
        }
    }

    #[test]
    fn an_incomplete_database_is_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::lock(&directory.path().join("store")).unwrap();
        let complete = root.begin().unwrap();
        root.complete(complete).unwrap();
        let incomplete = root.begin().unwrap();
        assert_eq!(root.find().unwrap().newest, Some(complete));
        assert!(!root.database(incomplete).exists() && root.database(complete).exists());
    }
}

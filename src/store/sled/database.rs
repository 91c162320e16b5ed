//! One sled database: every call is guarded, and every value is checked.
//!
//! sled panics where it meets a damage that it does not expect. A panic here becomes [`StoreError::Damaged`], and from then on every call
//! of the database fails with it.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::check::check;
use super::directories::environment_error;
use crate::store::content::Content;
use crate::store::format::{self, CONTENT_KEY, FORMAT_KEY};
use crate::store::scan::IndexCheck;
use crate::store::tree::Edits;
use crate::store::{Changes, StoreError, index, tree};

/// The most characters of a panic's text in an error. The text may quote the entry that sled was reading.
const PANIC_TEXT_MAX: usize = 200;

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    /// The number in the name of its directory.
    number: u64,
    directory: PathBuf,
    db: sled::Db,
    /// The two files in which sled keeps its data. They stay open, so that a checkpoint never needs a new descriptor.
    files: [File; 2],
    content: Mutex<Content>,
    /// Rises by one at the begin and at the end of each commit, so it is odd during a commit.
    commit_steps: AtomicU64,
    /// The first damage that was found.
    damage: OnceLock<String>,
    /// The check of the indexes, if it is not finished.
    index_check: Mutex<Option<IndexCheck>>,
    /// During a compaction: the keys that were written since its begin.
    tracked: Mutex<Option<BTreeSet<Vec<u8>>>>,
}

impl Database {
    /// Creates a database without any entry, which is none of relink's yet.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn create(number: u64, directory: PathBuf, cache_bytes: u64) -> Result<Self, StoreError> {
        let db = open_sled(&directory, cache_bytes)?;
        Self::new(number, directory, db, Content::default())
    }

    /// Writes the entries of an empty store.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn write_empty(&self) -> Result<(), StoreError> {
        self.guarded(|db| {
            let mut batch = sled::Batch::default();
            batch.insert(FORMAT_KEY, format::encode_format());
            batch.insert(CONTENT_KEY, Content::default().encode());
            db.apply_batch(batch)?;
            Ok(())
        })
    }

    /// Opens a database of any format, and returns its format. Formats 1 and 2 have no checksums.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::FutureFormat`], or the failure of the disk.
    pub(super) fn open(
        number: u64,
        directory: PathBuf,
        cache_bytes: u64,
        has_checksums: bool,
    ) -> Result<(Self, u16), StoreError> {
        let db = open_sled(&directory, cache_bytes)?;
        let database = Self::new(number, directory, db, Content::default())?;
        let format = database.guarded(|db| {
            let format = db.get(FORMAT_KEY)?;
            Ok(format::decode_format(format.as_deref(), has_checksums)?)
        })?;
        Ok((database, format))
    }

    /// Scans all of a database of this format. If it has more than `index_links_max` links, the check of its indexes is left.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], or the failure of the disk.
    pub(super) fn check(&self, index_links_max: u64) -> Result<(), StoreError> {
        let (content, index_check) = self.guarded(|db| {
            let content = Content::decode(&db.get(CONTENT_KEY)?.ok_or_else(Content::missing)?)?;
            let has_indexes = content.links.links_count <= index_links_max;
            let left = check(db, &self.directory, &content, has_indexes)?;
            Ok((content, left))
        })?;
        *self.content() = content;
        *self.index_check() = index_check;
        Ok(())
    }

    fn new(number: u64, directory: PathBuf, db: sled::Db, content: Content) -> Result<Self, StoreError> {
        let open = |name| {
            let path = directory.join(name);
            File::open(&path).map_err(|error| super::directories::io_error(&path, &error))
        };
        let files = [open("db")?, open("conf")?];
        let (content, damage, tracked) = (Mutex::new(content), OnceLock::new(), Mutex::new(None));
        let (commit_steps, index_check) = (AtomicU64::new(0), Mutex::new(None));
        Ok(Self { number, directory, db, files, content, commit_steps, damage, index_check, tracked })
    }

    pub(super) fn index_check(&self) -> MutexGuard<'_, Option<IndexCheck>> {
        self.index_check.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first damage that was found.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Calls sled. A panic, and an error that is neither of the environment nor of one record, is damage.
    ///
    /// # Errors
    /// The error of the call, or the damage.
    pub(super) fn guarded<T>(&self, call: impl FnOnce(&sled::Db) -> Result<T, Failure>) -> Result<T, StoreError> {
        if let Some(damage) = self.damage() {
            return Err(StoreError::Damaged(damage.to_owned()));
        }
        self.noticed(caught(&self.directory, || call(&self.db)))
    }

    pub(super) fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.guarded(|db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    /// Applies changes. There must be one writer at a time.
    pub(super) fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let edits = tree::edits_of(changes, *self.content(), |key| self.read(key));
        self.write(self.noticed(edits)?)
    }

    /// Writes entries without checksums. There must be one writer at a time.
    pub(super) fn copy_in(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        let edits = Edits::copying(entries, *self.content(), |key| self.read(key));
        self.write(self.noticed(edits)?)
    }

    /// Records that the store has, or has no longer to wait for, the state of every link.
    pub(super) fn set_complete(&self, is_complete: bool) -> Result<(), StoreError> {
        let mut edits = Edits::resuming(Content { is_complete, ..*self.content() });
        edits.close_always();
        self.write(edits)
    }

    pub(super) fn write(&self, edits: Edits) -> Result<(), StoreError> {
        if edits.list.is_empty() {
            return Ok(());
        }
        // An index key has no value, and follows from its link.
        let written = edits
            .list
            .iter()
            .filter(|(key, value)| value.as_ref().is_some_and(|v| !v.is_empty()) && key != CONTENT_KEY);
        let written: Vec<_> = written.map(|(key, _)| key.clone()).collect();
        let is_checked = self.index_check().is_some();
        let indexed = edits.list.iter().filter(|(key, _)| is_checked && index::is_key(key));
        let indexed: Vec<_> = indexed.map(|(key, value)| (key.clone(), value.is_some())).collect();
        let mut batch = sled::Batch::default();
        for (key, value) in edits.list {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.commit_steps.fetch_add(1, Ordering::SeqCst);
        let applied = self.guarded(|db| Ok(db.apply_batch(batch)?));
        self.commit_steps.fetch_add(1, Ordering::SeqCst);
        applied?;
        *self.content() = edits.content;
        // Not before the batch is applied: a full disk must not look like a damage.
        if let Some(check) = &mut *self.index_check() {
            indexed.iter().for_each(|(key, is_added)| check.changed(key, *is_added));
        }
        if let Some(tracked) = &mut *self.tracked() {
            tracked.extend(written);
        }
        Ok(())
    }

    /// Reads several keys of one state of the database: `None` if there was a commit during the read.
    pub(super) fn undisturbed<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let before = self.commit_steps.load(Ordering::SeqCst);
        let result = read();
        (before.is_multiple_of(2) && self.commit_steps.load(Ordering::SeqCst) == before).then_some(result)
    }

    fn tracked(&self) -> MutexGuard<'_, Option<BTreeSet<Vec<u8>>>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, the keys that are written are remembered.
    pub(super) fn start_tracking(&self) {
        *self.tracked() = Some(BTreeSet::new());
    }

    pub(super) fn stop_tracking(&self) {
        *self.tracked() = None;
    }

    pub(super) fn tracked_count(&self) -> usize {
        self.tracked().as_ref().map_or(0, BTreeSet::len)
    }

    /// The keys that were written since the begin of the tracking, or since the last call.
    pub(super) fn take_tracked(&self) -> Vec<Vec<u8>> {
        self.tracked().as_mut().map(std::mem::take).unwrap_or_default().into_iter().collect()
    }

    /// The size of its files. A file that cannot be read counts as empty.
    pub(super) fn disk_bytes(&self) -> u64 {
        let sizes = |directory: &Path| {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries
                .filter_map(|entry| entry.metadata().ok())
                .filter(|file| file.is_file())
                .map(|file| file.len())
                .sum::<u64>()
        };
        // sled keeps large values in `blobs`.
        sizes(&self.directory) + sizes(&self.directory.join("blobs"))
    }

    /// Remembers a damage that was found in a value outside of [`Self::guarded`].
    pub(super) fn noticed<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged(why)) = &result {
            let _ = self.damage.set(why.clone());
        }
        result
    }

    /// Writes everything to stable storage.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.guarded(|db| {
            db.flush()?;
            Ok(())
        })?;
        let synced = self.files.iter().try_for_each(File::sync_all);
        synced.map_err(|error| super::directories::io_error(&self.directory, &error))
    }
}

fn open_sled(directory: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    super::directories::wait_until_free(directory)?;
    // The node decides when to checkpoint, so sled's own flush thread is off.
    let config = sled::Config::new().path(directory).cache_capacity(cache_bytes).flush_every_ms(None);
    caught(directory, || Ok(config.open()?))
}

/// Makes a call in which sled may panic.
pub(super) fn caught<T>(directory: &Path, call: impl FnOnce() -> Result<T, Failure>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|failure| failure.at(directory)),
        Err(panic) => Err(StoreError::Damaged(format!("sled panicked: {}", panic_text(&*panic)))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("?").escape_debug().take(PANIC_TEXT_MAX).collect()
}

/// An error within a call of sled.
#[derive(Debug)]
pub(super) enum Failure {
    Sled(sled::Error),
    Store(StoreError),
}

impl From<sled::Error> for Failure {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Sled(sled::Error::Io(error))
    }
}

impl Failure {
    pub(super) fn at(self, directory: &Path) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Sled(sled::Error::Io(error)) => environment_error(directory, &error)
                .unwrap_or_else(|| StoreError::Damaged(format!("sled failed: {error}"))),
            Self::Sled(error) => StoreError::Damaged(format!("sled failed: {error}")),
        }
    }
}

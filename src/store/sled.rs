//! The store on disk: sled 0.34, one writer, one tree, prefixed keys. The only file that imports sled.
//!
//! Properties of sled 0.34, and their consequences here:
//! - `apply_batch` on one tree is atomic and takes a third of the time of a transaction over two trees, so the store has one tree.
//! - `flush()` ends in `sync_file_range`, which neither commits the file system's metadata nor empties the disk's cache; after a host
//!   crash the database did not open. A checkpoint therefore flushes **and** fsyncs the database file.
//! - `flush_async` deadlocks when several run at once (sled #1308), so `clippy.toml` bans it.
//! - The open of a damaged file may panic, so the panic is caught. A directory that cannot be opened is renamed and never deleted.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::format::{
    self, DEADLINE_PREFIX, FORMAT, FORMAT_KEY, FORMAT_WITH_IDS_AS_SENT, INCIDENT_PREFIX, OFFSET_PREFIX, POSITION_KEY,
    StoredLink,
};
use super::tree::{collect_page, decode_incident, decode_offset, edits_of, page_start};
use super::{Changes, Page, Position, Query, Store, StoreError};
use crate::contract::{CommittedOffset, IncidentBody};
use crate::link::{LinkId, StateName, Timestamp};

/// The number of tries to open a directory that is in use, and the pause between them: one second in all.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct SledStore {
    db: sled::Db,
    directory: PathBuf,
    /// sled's two files. They stay open, so that a checkpoint never needs a new descriptor.
    files: Arc<[File]>,
}

/// The result of opening a directory.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SledStore,
    /// If the old store could not be opened: its new directory, and the error text.
    pub quarantined: Option<(PathBuf, String)>,
}

impl SledStore {
    /// Opens the store in `directory`, or creates it. If a store cannot be opened, its directory is renamed to
    /// `<directory>.quarantine-<n>`, and an empty store is created; the node reads its content again from the stream.
    ///
    /// # Errors
    /// [`StoreError::FutureFormat`] if a newer version of relink wrote the store (then it is not renamed), [`StoreError::InUse`] if another
    /// process has it open, [`StoreError::Disk`] if an empty store cannot be created either.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Opened, StoreError> {
        let problem = match Self::open_unlocked(directory, cache_bytes) {
            Ok(store) => return Ok(Opened { store, quarantined: None }),
            Err(error @ (StoreError::FutureFormat { .. } | StoreError::InUse { .. })) => return Err(error),
            Err(error) => error.to_string(),
        };
        let aside = Self::set_aside(directory)?;
        let store = Self::try_open(directory, cache_bytes)?;
        Ok(Opened { store, quarantined: Some((aside, problem)) })
    }

    /// Opens the store once it is not in use. It retries, because sled's threads release a dropped store only after some time.
    fn open_unlocked(directory: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let mut has_failed = false;
        for _ in 0..LOCK_TRIES {
            if !is_in_use(directory) {
                match Self::try_open(directory, cache_bytes) {
                    Ok(store) => return Ok(store),
                    // Another process may have opened the store after the check, so the first error may not mean damage.
                    Err(error) if has_failed && !is_in_use(directory) => return Err(error),
                    Err(_first) => has_failed = true,
                }
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(StoreError::InUse { directory: directory.to_owned() })
    }

    /// Renames a store's directory to a free quarantine name. The store must not be open.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if the file system refuses.
    pub fn set_aside(directory: &Path) -> Result<PathBuf, StoreError> {
        let aside = Self::free_name(directory)?;
        std::fs::rename(directory, &aside).map_err(|error| {
            StoreError::Disk(format!("cannot move {} to {}: {error}", directory.display(), aside.display()))
        })?;
        Ok(aside)
    }

    fn free_name(directory: &Path) -> Result<PathBuf, StoreError> {
        let free = (1_u32..).map(|n| directory.with_extension(format!("quarantine-{n}"))).find(|path| !path.exists());
        free.ok_or_else(|| StoreError::Disk("no free name for a quarantine".to_owned()))
    }

    fn try_open(directory: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let was_there = directory.join("db").exists();
        // The node decides when to checkpoint, so sled's own flush thread is off.
        let config = sled::Config::new().path(directory).cache_capacity(cache_bytes).flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db =
            opened.map_err(|panic| StoreError::Disk(format!("sled panicked on open: {}", panic_text(&*panic))))??;
        let open =
            |name| File::open(directory.join(name)).map_err(|e| StoreError::Disk(format!("cannot open {name}: {e}")));
        let files = [open("db")?, open("conf")?].into();
        let store = Self { db, directory: directory.to_owned(), files };
        match store.read(FORMAT_KEY)? {
            // sled opens some damaged logs without an error, as an empty store.
            None if was_there => {
                return Err(format::corrupt(FORMAT_KEY, "missing from an existing store"));
            }
            None => {
                store.db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
                store.checkpoint()?;
            }
            Some(value) => {
                let found = <[u8; 2]>::try_from(&value[..]).map(u16::from_be_bytes);
                let found = found.map_err(|_| format::corrupt(FORMAT_KEY, "not a format version"))?;
                match found {
                    FORMAT => {}
                    FORMAT_WITH_IDS_AS_SENT => {
                        catch_unwind(AssertUnwindSafe(|| store.check_ids()))
                            .map_err(|panic| StoreError::Disk(format!("sled panicked: {}", panic_text(&*panic))))??;
                        store.db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
                        store.checkpoint()?;
                    }
                    newer if newer > FORMAT => return Err(StoreError::FutureFormat { found, known: FORMAT }),
                    _unknown => return Err(format::corrupt(FORMAT_KEY, "an unknown format version")),
                }
            }
        }
        Ok(store)
    }

    /// Fails if a key has another spelling of a link id than relink uses now. Version 0.1.0 kept a UUID without dashes as a separate link;
    /// such a record would never be found, and would always be due. The rebuild from the stream stores it under the right id.
    fn check_ids(&self) -> Result<(), StoreError> {
        for prefix in StateName::ALL.map(format::state_prefix) {
            for key in self.db.scan_prefix(&prefix).keys() {
                let key = key?;
                let id = &key[prefix.len()..];
                if format::parse_link_id(id).is_none_or(|parsed| parsed.as_str().as_bytes() != id) {
                    return Err(format::corrupt(&key, "another spelling of a link id"));
                }
            }
        }
        Ok(())
    }

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(key)?.map(|value| value.to_vec()))
    }
}

impl Store for SledStore {
    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        let key = format::link_key(id);
        self.db.get(&key)?.map(|value| format::decode_link(&key, &value)).transpose()
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in edits_of(changes, |key| self.read(key))? {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(self.db.apply_batch(batch)?)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        let synced = self.files.iter().try_for_each(File::sync_all);
        synced.map_err(|error| StoreError::Disk(format!("fsync of the store's files: {error}")))
    }

    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError> {
        // The old content is copied, because it has messages that the stream has lost, and an operator may need them.
        self.checkpoint()?;
        let aside = Self::free_name(&self.directory)?;
        copy_files(&self.directory, &aside)
            .map_err(|error| StoreError::Disk(format!("cannot copy the store to {}: {error}", aside.display())))?;
        self.db.clear()?;
        self.db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
        self.checkpoint()?;
        Ok(Some(aside))
    }

    fn position(&self) -> Result<Option<Position>, StoreError> {
        self.db.get(POSITION_KEY)?.map(|value| format::decode_position(&value)).transpose()
    }

    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError> {
        let entry = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = entry?;
            decode_offset(&key, &value)
        };
        self.db.scan_prefix(OFFSET_PREFIX).map(entry).collect()
    }

    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError> {
        let entry = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = entry?;
            decode_incident(&key, &value)
        };
        self.db.scan_prefix(INCIDENT_PREFIX).map(entry).collect()
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError> {
        let entries = self.db.range(DEADLINE_PREFIX.to_vec()..format::deadline_end(now)).keys().take(limit);
        entries.map(|key| Ok(format::parse_deadline_key(&key?)?.1)).collect()
    }

    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError> {
        let first = self.db.scan_prefix(DEADLINE_PREFIX).keys().next();
        first.map(|key| Ok(format::parse_deadline_key(&key?)?.0)).transpose()
    }

    fn page(&self, query: &Query) -> Result<Page, StoreError> {
        let keys = self.db.range(page_start(query)..).keys().map(|key| Ok(key?.to_vec()));
        collect_page(query, keys, |key| self.read(key))
    }

    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        let count = |state| {
            let mut count = 0;
            for key in self.db.scan_prefix(format::state_prefix(state)).keys() {
                key?;
                count += 1;
            }
            Ok((state, count))
        };
        StateName::ALL.into_iter().map(count).collect()
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

/// Whether a process has the database open. While it is open, sled holds the operating system's lock on its file (flock on Unix,
/// LockFileEx on Windows). sled reports a failed lock as an error without a kind, so this function tries the lock itself.
fn is_in_use(directory: &Path) -> bool {
    let file = File::options().read(true).write(true).open(directory.join("db"));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?")
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &copy)?;
        } else {
            std::fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_with_an_old_spelling_of_a_link_id_is_quarantined() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for (id, is_kept) in [
            ("link_1", true),
            ("16f68516-bcbc-4cf7-b815-c500d4204e28", true),
            ("16f68516bcbc4cf7b815c500d4204e28", false),
        ] {
            {
                let store = SledStore::open(&path, 1 << 20).unwrap().store;
                let key = [format::state_prefix(StateName::Valid), id.as_bytes().to_vec()].concat();
                store.db.insert(key, Vec::new()).unwrap();
                store.db.insert(FORMAT_KEY, &FORMAT_WITH_IDS_AS_SENT.to_be_bytes()).unwrap();
                store.checkpoint().unwrap();
            }
            let opened = SledStore::open(&path, 1 << 20).unwrap();
            assert_eq!(opened.quarantined.is_none(), is_kept, "{id}");
        }
        let empty = SledStore::open(&path, 1 << 20).unwrap().store;
        assert_eq!(empty.count().unwrap()[&StateName::Valid], 0);
    }
}

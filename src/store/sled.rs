//! The store on disk: sled 0.34, one writer, one tree, prefixed keys. The only module that imports sled.
//!
//! Properties of sled 0.34, and their consequences here:
//! - `apply_batch` on one tree is atomic and takes a third of the time of a transaction over two trees, so the store has one tree.
//! - `flush()` ends in `sync_file_range`, which neither commits the file system's metadata nor empties the disk's cache; after a host
//!   crash the database did not open. A checkpoint therefore flushes **and** fsyncs the database file.
//! - `flush_async` deadlocks when several run at once (sled #1308), so `clippy.toml` bans it.
//! - A damaged file may be opened as an older or a smaller database, without an error. So each database is scanned when it is opened, and
//!   compared with the content that it had (`content.rs`).
//! - Every call may panic on a damaged file, also long after the open, so every call is guarded (`database.rs`).
//! - A database that was found damaged is renamed, and its handle is never dropped, because the drop flushes and may wait for ever.

mod check;
mod compaction;
mod database;
mod directories;
mod filler;
mod rebuild;
mod sorter;
mod upgrade;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use self::check::{LINKS_AT_OPEN_MAX, check_indexes_in_background};
use self::compaction::{SIZE_LIMIT, SizeLimit};
use self::database::Database;
use self::directories::{Found, Root};
use self::rebuild::Rebuild;
use super::content::unseal;
use super::format::{
    self, DEADLINE_PREFIX, FORMAT, INCIDENT_PREFIX, INSTITUTION_PREFIX, OFFSET_PREFIX, POSITION_KEY, StoredLink,
};
use super::index::Wanted;
use super::tree::{collect_page, decode_incident, decode_link, decode_offset, decode_position};
use super::{Changes, CountsOfInstitution, Page, Position, Query, Store, StoreError};
use crate::contract::{CommittedOffset, IncidentBody, LinksDigest};
use crate::link::{LinkId, StateName, Timestamp};

/// How often the ids of a page are read while a commit may disturb the read. Then the writer waits for the read, about a millisecond.
const UNDISTURBED_TRIES: usize = 3;

/// The number of entries that are copied in one batch.
const COPY_BATCH: usize = 1_000;

/// The most damaged databases that one process replaces. Their memory is not freed, and sled's threads may have failed too.
const REPLACED_MAX: u32 = 3;

/// A store in a directory. Clones are handles of the same store.
#[derive(Clone, Debug)]
pub struct SledStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: Root,
    cache_bytes: u64,
    size_limit: SizeLimit,
    /// After a failed compaction, the next one is tried above this size.
    compact_above_bytes: AtomicU64,
    current: RwLock<Arc<Database>>,
    /// Whether the writer has a rebuild.
    is_rebuilding: AtomicBool,
    /// Held by the one writer.
    writer: Mutex<WriterState>,
}

#[derive(Debug, Default)]
struct WriterState {
    /// The number of damaged databases that this process has replaced.
    replaced_count: u32,
    /// What was applied since an empty store began to read the stream.
    rebuild: Option<Rebuild>,
}

/// As long as this lives, no process can open the store.
#[derive(Debug)]
pub struct StoreHold {
    _root: Root,
}

/// The result of opening a directory.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SledStore,
    /// If the old store was damaged: its new directory, and the error text.
    pub quarantined: Option<(PathBuf, String)>,
}

impl SledStore {
    /// Opens the store in `directory`, or creates it, and checks all of it; the indexes of a large store in the background. A damaged store
    /// is moved to `<directory>.quarantine-<n>`, and an empty store is created; the node reads its content again from the stream. The
    /// database of an older relink is copied.
    ///
    /// # Errors
    /// [`StoreError::FutureFormat`] if a newer version of relink wrote the store, [`StoreError::InUse`] if another process has it open,
    /// [`StoreError::Denied`] and [`StoreError::Full`] if the disk cannot be read or written. None of them moves the store.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Opened, StoreError> {
        Self::open_with(directory, cache_bytes, SIZE_LIMIT, LINKS_AT_OPEN_MAX)
    }

    /// Moves the store in `directory` to `<directory>.replaced-<n>`, so that the next start makes a new one from the stream. Returns the new
    /// directory, or `None` if there is no store.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a process has it open, or the failure of the file system.
    pub fn set_aside(directory: &Path) -> Result<Option<PathBuf>, StoreError> {
        if !directory.is_dir() {
            return Ok(None);
        }
        Root::lock(directory)?.replace()
    }

    /// Keeps every other process from opening the store in `directory`, as long as the result lives.
    ///
    /// # Errors
    /// As [`SledStore::set_aside`].
    pub fn hold(directory: &Path) -> Result<StoreHold, StoreError> {
        Ok(StoreHold { _root: Root::lock(directory)? })
    }

    fn open_with(
        directory: &Path,
        cache_bytes: u64,
        size_limit: SizeLimit,
        index_links_max: u64,
    ) -> Result<Opened, StoreError> {
        let root = Root::lock(directory)?;
        let found = root.find()?;
        let (database, quarantined) = match open_newest(&root, &found, cache_bytes, index_links_max) {
            Ok(Some(database)) => (database, None),
            Ok(None) => (create(&root, cache_bytes)?, None),
            Err(StoreError::Damaged(why)) => {
                let aside = root.quarantine(found.newest)?;
                (create(&root, cache_bytes)?, Some((aside, why)))
            }
            Err(error) => return Err(error),
        };
        let is_check_left = database.index_check().is_some();
        let number = database.number();
        let current = RwLock::new(Arc::new(database));
        let (compact_above_bytes, is_rebuilding) = (AtomicU64::new(0), AtomicBool::new(false));
        let writer = Mutex::new(WriterState::default());
        let shared =
            Arc::new(Shared { root, cache_bytes, size_limit, compact_above_bytes, current, is_rebuilding, writer });
        let store = Self { shared };
        if is_check_left {
            check_indexes_in_background(&store, number);
        }
        Ok(Opened { store, quarantined })
    }

    /// The database in use. A reader that holds it goes on with it after it is replaced.
    fn database(&self) -> Arc<Database> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The database in use, with all that was applied.
    fn settled(&self) -> Result<Arc<Database>, StoreError> {
        if self.shared.is_rebuilding.load(Ordering::SeqCst) {
            self.finish_rebuild(&mut self.writer())?;
        }
        Ok(self.database())
    }

    fn writer(&self) -> MutexGuard<'_, WriterState> {
        self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies changes to a rebuild, if there is one, or if they begin one.
    fn apply_to_rebuild(&self, writer: &mut WriterState, changes: &Changes) -> Result<bool, StoreError> {
        if writer.rebuild.is_none() {
            let database = self.database();
            if !Rebuild::begins(&database.content(), changes) {
                return Ok(false);
            }
            writer.rebuild = Some(Rebuild::begin(&self.shared.root, &database)?);
            self.shared.is_rebuilding.store(true, Ordering::SeqCst);
        }
        let taken = writer.rebuild.as_mut().map_or(Ok(()), |rebuild| rebuild.take(changes));
        if taken.is_err() {
            self.drop_rebuild(writer);
        }
        taken.map(|()| true)
    }

    /// Writes what a rebuild has collected. After an error the store is as before the rebuild.
    fn finish_rebuild(&self, writer: &mut WriterState) -> Result<(), StoreError> {
        let Shared { root, cache_bytes, .. } = &*self.shared;
        let Some(rebuild) = writer.rebuild.take() else { return Ok(()) };
        let finished = rebuild.finish(root, *cache_bytes, None).map(|database| self.replace(database));
        self.drop_rebuild(writer);
        // Readers that still use the old database go on with its open files.
        let deleted = root.delete(finished?.number());
        deleted.unwrap_or_else(
            |error| tracing::warn!(%error, "the database before the rebuild is deleted at the next start"),
        );
        Ok(())
    }

    fn drop_rebuild(&self, writer: &mut WriterState) {
        writer.rebuild = None;
        self.shared.is_rebuilding.store(false, Ordering::SeqCst);
    }

    /// Makes `database` the one in use, and returns the one before.
    fn replace(&self, database: Database) -> Arc<Database> {
        let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, Arc::new(database))
    }
}

fn open_newest(
    root: &Root,
    found: &Found,
    cache_bytes: u64,
    index_links_max: u64,
) -> Result<Option<Database>, StoreError> {
    match found.newest {
        Some(number) if root.is_marked_damaged(number) => {
            Err(StoreError::Damaged("it was found damaged before relink ended".to_owned()))
        }
        Some(number) => {
            let (database, format) = Database::open(number, root.database(number), cache_bytes, true)?;
            if format == FORMAT {
                database.check(index_links_max)?;
                return Ok(Some(database));
            }
            let copy = upgrade::copy(&database, format, root, cache_bytes)?;
            drop(database);
            root.delete(number)?;
            Ok(Some(copy))
        }
        None if found.is_legacy => {
            let (database, format) = Database::open(0, root.path().to_owned(), cache_bytes, false)?;
            let copy = upgrade::copy(&database, format, root, cache_bytes)?;
            drop(database);
            root.delete_legacy()?;
            Ok(Some(copy))
        }
        None => Ok(None),
    }
}

/// Creates an empty store. A crash before the end leaves no trace of it.
fn create(root: &Root, cache_bytes: u64) -> Result<Database, StoreError> {
    let database = start_copy(root, cache_bytes)?;
    database.write_empty()?;
    database.flush()?;
    root.complete(database.number())?;
    Ok(database)
}

/// A database without any entry, which is marked as incomplete.
fn start_copy(root: &Root, cache_bytes: u64) -> Result<Database, StoreError> {
    let number = root.begin()?;
    Database::create(number, root.database(number), cache_bytes)
}

/// Copies every entry that is no index, in batches.
fn copy_all(from: &Database, to: &Database) -> Result<(), StoreError> {
    for prefix in [INCIDENT_PREFIX, OFFSET_PREFIX, POSITION_KEY, INSTITUTION_PREFIX, format::LINK_PREFIX] {
        each_batch(from, prefix, |entries| {
            let unsealed = entries.into_iter().map(|(key, value)| {
                let payload = unseal(&key, &value)?.to_vec();
                Ok((key, payload))
            });
            to.copy_in(&from.noticed(unsealed.collect::<Result<Vec<_>, StoreError>>())?)
        })?;
    }
    Ok(())
}

/// Passes the entries whose keys begin with `prefix` to `take`, in batches.
fn each_batch(
    from: &Database,
    prefix: &[u8],
    mut take: impl FnMut(Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut next = prefix.to_vec();
    loop {
        let batch = from.guarded(|db| {
            let mut batch = Vec::with_capacity(COPY_BATCH);
            for entry in db.range(next.clone()..).take(COPY_BATCH) {
                let (key, value) = entry?;
                if !key.starts_with(prefix) {
                    break;
                }
                batch.push((key.to_vec(), value.to_vec()));
            }
            Ok(batch)
        })?;
        let Some((last, _)) = batch.last() else { return Ok(()) };
        next.clone_from(last);
        next.push(0);
        take(batch)?;
    }
}

impl Store for SledStore {
    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        let (key, database) = (format::link_key(id), self.settled()?);
        let decoded = database.read(&key)?.map(|value| decode_link(&key, &value)).transpose();
        Ok(database.noticed(decoded)?.map(|(stored, _)| stored))
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if !self.apply_to_rebuild(&mut writer, changes)? {
            return self.database().apply(changes);
        }
        if changes.is_end_of_read { self.finish_rebuild(&mut writer) } else { Ok(()) }
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        let database = self.database();
        database.flush()?;
        self.compact_if_large(&database)
    }

    fn check_complete(&self) -> Result<(), StoreError> {
        let database = self.database();
        match database.damage() {
            Some(damage) => Err(StoreError::Damaged(damage.to_owned())),
            None if database.content().is_complete => Ok(()),
            None => Err(StoreError::Incomplete),
        }
    }

    fn set_complete(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        self.finish_rebuild(&mut writer)?;
        let database = self.database();
        let is_complete = database.content().is_complete;
        if is_complete { Ok(()) } else { database.set_complete(true) }
    }

    fn damage(&self) -> Option<String> {
        self.database().damage().map(str::to_owned)
    }

    fn replace_damaged(&self) -> Result<PathBuf, StoreError> {
        let mut writer = self.writer();
        self.drop_rebuild(&mut writer);
        let replaced_count = &mut writer.replaced_count;
        let Shared { root, cache_bytes, .. } = &*self.shared;
        let old = self.database();
        let why = old.damage().unwrap_or("for an unknown reason").to_owned();
        // From here on the next start does not open it, whatever fails below.
        root.mark_damaged(old.number())?;
        if *replaced_count >= REPLACED_MAX {
            return Err(StoreError::DamagedAgain { count: *replaced_count + 1, why });
        }
        *replaced_count += 1;
        self.replace(create(root, *cache_bytes)?);
        // A drop would flush, and may wait for ever for a thread of sled that has failed.
        std::mem::forget(Arc::clone(&old));
        root.quarantine(Some(old.number()))
    }

    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError> {
        // The old content is kept, because it has messages that the stream has lost, and an operator may need them.
        let mut writer = self.writer();
        self.finish_rebuild(&mut writer)?;
        self.database().flush()?;
        let empty = create(&self.shared.root, self.shared.cache_bytes)?;
        let old = self.replace(empty);
        self.shared.root.move_aside(Some(old.number()), "ahead").map(Some)
    }

    fn position(&self) -> Result<Option<Position>, StoreError> {
        if self.shared.is_rebuilding.load(Ordering::SeqCst)
            && let Some(rebuild) = &self.writer().rebuild
        {
            return Ok(rebuild.position().cloned());
        }
        let database = self.database();
        database.noticed(database.read(POSITION_KEY)?.map(|value| decode_position(&value)).transpose())
    }

    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError> {
        self.settled()?.guarded(|db| {
            let entries = db.scan_prefix(OFFSET_PREFIX);
            entries
                .map(|entry| entry.map_err(Into::into).and_then(|(key, value)| Ok(decode_offset(&key, &value)?)))
                .collect()
        })
    }

    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError> {
        self.settled()?.guarded(|db| {
            let entries = db.scan_prefix(INCIDENT_PREFIX);
            entries
                .map(|entry| entry.map_err(Into::into).and_then(|(key, value)| Ok(decode_incident(&key, &value)?)))
                .collect()
        })
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError> {
        self.settled()?.guarded(|db| {
            let entries = db.range(DEADLINE_PREFIX.to_vec()..format::deadline_end(now)).keys().take(limit);
            entries.map(|key| Ok(format::parse_deadline_key(&key?)?.1)).collect()
        })
    }

    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError> {
        self.settled()?.guarded(|db| {
            let first = db.scan_prefix(DEADLINE_PREFIX).keys().next();
            first.map(|key| Ok(format::parse_deadline_key(&key?)?.0)).transpose()
        })
    }

    fn page(&self, query: &Query) -> Result<Page, StoreError> {
        let wanted = Wanted::of(query);
        let database = self.settled()?;
        database.guarded(|db| {
            let failed = |error: sled::Error| StoreError::Damaged(format!("sled failed: {error}"));
            let scan = |start: Vec<u8>| db.range(start..).keys().map(move |key| Ok(key.map_err(failed)?.to_vec()));
            let read_ids = |after: Option<&[u8]>, count| wanted.ids(after, count, scan);
            let ids = |after: Option<&[u8]>, count| {
                if !wanted.is_merged() {
                    return read_ids(after, count);
                }
                for _ in 0..UNDISTURBED_TRIES {
                    if let Some(ids) = database.undisturbed(|| read_ids(after, count)) {
                        return ids;
                    }
                }
                let _writer = self.writer();
                read_ids(after, count)
            };
            Ok(collect_page(query, &wanted, ids, |key| database.read(key))?)
        })
    }

    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        let database = self.settled()?;
        database.guarded(|_db| Ok(database.content().by_state.by_state()))
    }

    fn count_by_institution(&self, limit: usize) -> Result<Vec<CountsOfInstitution>, StoreError> {
        self.settled()?.guarded(|db| {
            let entries = db.scan_prefix(INSTITUTION_PREFIX).map(|entry| {
                let (key, value) = entry?;
                Ok(CountsOfInstitution::decode(&key, &value)?)
            });
            entries.filter_map(Result::transpose).take(limit).collect()
        })
    }

    fn links_digest(&self) -> Result<LinksDigest, StoreError> {
        let database = self.settled()?;
        database.guarded(|_db| Ok(database.content().links))
    }
}

#[cfg(test)]
mod tests;

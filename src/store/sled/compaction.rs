//! Compaction: a database that takes too much of the disk is copied into a new one, which then replaces it.
//!
//! sled rewrites a page wherever it has room, and under a steady load its file grows far beyond its content: measured 33 KB a link after
//! 20 minutes, at 1 to 3 kB a link. sled has no compaction of its own.
//!
//! The writer goes on while the entries are copied. The old database remembers the keys that it writes meanwhile; at the end the writer
//! waits while these few are copied again. The copy replaces the database only if both have the same content.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Database, SledStore, copy_all, start_copy};
use crate::store::StoreError;
use crate::store::content::{Content, unseal};

/// While more keys than this were written during the copy, they are copied again before the writer waits.
const KEYS_WHILE_WRITER_WAITS: usize = 2_000;

/// The most rounds of copying while the writer goes on. After them the writer waits, however many keys are left.
const ROUNDS_MAX: usize = 5;

/// The limit of a database's size on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeLimit {
    /// The limit is this many times the content,
    pub(super) factor: u64,
    /// and this many bytes more.
    pub(super) floor_bytes: u64,
}

/// A freshly written database takes 1.3 times its content, and one of 200,000 links stays at about 5 times after a million updates.
pub(super) const SIZE_LIMIT: SizeLimit = SizeLimit { factor: 6, floor_bytes: 64 << 20 };

impl SledStore {
    /// Replaces the database if it takes too much of the disk. A failure of the disk leaves everything as it is.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the database turns out to be damaged.
    pub(super) fn compact_if_large(&self, database: &Arc<Database>) -> Result<(), StoreError> {
        let SizeLimit { factor, floor_bytes } = self.shared.size_limit;
        let (size, content) = (database.disk_bytes(), database.content().bytes);
        let limit = content.saturating_mul(factor).saturating_add(floor_bytes);
        if size <= limit.max(self.shared.compact_above_bytes.load(Ordering::Relaxed)) {
            return Ok(());
        }
        match self.compact(database) {
            Ok(size_after) => {
                tracing::info!(store.bytes_before = size, store.bytes_after = size_after, "compacted the store");
                Ok(())
            }
            Err(error @ StoreError::Damaged(_)) => Err(error),
            Err(error) => {
                // The next attempt is made when it frees twice as much.
                self.shared.compact_above_bytes.store(size.saturating_mul(2), Ordering::Relaxed);
                tracing::warn!(store.bytes = size, %error, "the store could not be compacted and goes on growing");
                Ok(())
            }
        }
    }

    fn compact(&self, old: &Arc<Database>) -> Result<u64, StoreError> {
        let root = &self.shared.root;
        let new = start_copy(root, self.shared.cache_bytes)?;
        new.write_empty()?;
        let number = new.number();
        let copied = self.copy_and_replace(old, new);
        old.stop_tracking();
        match copied {
            Ok(size) => {
                // Readers that still use the old database go on with its open files.
                let deleted = root.delete(old.number());
                deleted.unwrap_or_else(
                    |error| tracing::warn!(%error, "the database before the compaction is deleted at the next start"),
                );
                Ok(size)
            }
            Err(error) => {
                let _deleted_at_the_next_start = root.delete(number);
                Err(error)
            }
        }
    }

    fn copy_and_replace(&self, old: &Arc<Database>, new: Database) -> Result<u64, StoreError> {
        old.start_tracking();
        copy_all(old, &new)?;
        let mut rounds = 0;
        while old.tracked_count() > KEYS_WHILE_WRITER_WAITS && rounds < ROUNDS_MAX {
            copy_keys(old, &new, old.take_tracked())?;
            rounds += 1;
        }
        let _writer = self.writer();
        if self.database().number() != old.number() {
            return Err(StoreError::Disk("the database was replaced during its compaction".to_owned()));
        }
        copy_keys(old, &new, old.take_tracked())?;
        let expected = *old.content();
        new.set_complete(expected.is_complete)?;
        if *new.content() != expected {
            let Content { entries_count, .. } = *new.content();
            return old.noticed(Err(StoreError::Damaged(format!(
                "its copy differs: {entries_count} entries were copied, {} were written",
                expected.entries_count
            ))));
        }
        new.flush()?;
        self.shared.root.complete(new.number())?;
        let size = new.disk_bytes();
        self.replace(new);
        Ok(size)
    }
}

fn copy_keys(old: &Database, new: &Database, keys: Vec<Vec<u8>>) -> Result<(), StoreError> {
    for keys in keys.chunks(super::COPY_BATCH) {
        let mut batch = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = old.read(key)? {
                let payload = old.noticed(unseal(key, &value))?.to_vec();
                batch.push((key.clone(), payload));
            }
        }
        new.copy_in(&batch)?;
    }
    Ok(())
}

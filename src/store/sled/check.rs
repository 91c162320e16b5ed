//! The check of a database.
//!
//! When a database is opened, several threads scan one range of keys after the other: all entries on which relink decides. The indexes have
//! up to three times as many keys as there are links. If there are many, a thread checks them in the background, in steps between two commits. A
//! damaged index leaves out a link of a list, or a timer, until then; it never makes relink decide on a wrong state.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::database::{Database, Failure, caught};
use super::{Shared, SledStore};
use crate::store::content::Content;
use crate::store::format::{
    DEADLINE_PREFIX, EXTERNAL_ID_PREFIX, INCIDENT_PREFIX, LINK_PREFIX, STATE_PREFIX, USER_PREFIX,
};
use crate::store::scan::{IndexCheck, Scan};
use crate::store::{StoreError, index};

/// The most threads of a check. More of them would wait for the disk.
const THREADS_MAX: usize = 8;

/// The most links of a store whose indexes are checked when it is opened.
pub(super) const LINKS_AT_OPEN_MAX: u64 = 20_000;

/// The index keys of one step, while which the writer waits: some milliseconds.
const KEYS_OF_STEP: usize = 500;

/// The pause between two steps, in which the writer goes on. A million links take two minutes.
const PAUSE: Duration = Duration::from_millis(10);

/// Reads every entry, or all but the indexes, and compares them with the store's own record of its content. Returns the check of the
/// indexes that is left, if there is one.
///
/// # Errors
/// [`StoreError::Damaged`], or the failure of the disk.
pub(super) fn check(
    db: &sled::Db,
    directory: &Path,
    recorded: &Content,
    has_indexes: bool,
) -> Result<Option<IndexCheck>, StoreError> {
    let (starts, next) = (starts(), AtomicUsize::new(0));
    let work = || {
        caught(directory, || {
            let mut scan = Scan::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(start) = starts.get(number) else { return Ok(scan) };
                if index::is_key(start) && !has_indexes {
                    continue;
                }
                scan_range(db, start, starts.get(number + 1), &mut scan)?;
            }
        })
    };
    let threads_count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let scans = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads_count).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let mut whole = Scan::default();
    for scan in scans {
        whole.join(scan?)?;
    }
    whole.end(recorded, has_indexes)
}

/// Checks the indexes of a database in a thread of its own, until the store is closed or has another database.
pub(super) fn check_indexes_in_background(store: &SledStore, number: u64) {
    let shared = Arc::downgrade(&store.shared);
    let thread = std::thread::Builder::new().name("store-check".to_owned());
    let spawned = thread.spawn(move || {
        while check_step(&shared, number) {
            std::thread::sleep(PAUSE);
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "the indexes of the store cannot be checked before the next start");
    }
}

/// Makes one step. Returns whether it was not the last one. Between two steps the thread does not keep the store open.
fn check_step(shared: &Weak<Shared>, number: u64) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let store = SledStore { shared };
    let _writer = store.writer();
    let database = store.database();
    database.number() == number && database.check_index_keys(KEYS_OF_STEP).unwrap_or(false)
}

impl Database {
    /// Checks the next index keys. Returns whether some are left. There must be one writer at a time, and it waits.
    fn check_index_keys(&self, count: usize) -> Result<bool, StoreError> {
        let mut left = self.index_check();
        let Some(check) = &mut *left else { return Ok(false) };
        let is_left = self.guarded(|db| {
            for key in db.range(check.next.clone()..).keys().take(count) {
                let key = key?;
                if !index::is_key(&key) {
                    // No index key is between this one and the next prefix.
                    let prefix = index::PREFIXES.into_iter().find(|prefix| **prefix > *key);
                    check.next = prefix.map_or_else(|| vec![u8::MAX], <[u8]>::to_vec);
                    return Ok(true);
                }
                check.take(&key);
            }
            let is_left = db.range(check.next.clone()..).next().is_some();
            if is_left { Ok(true) } else { Ok(check.end().map(|()| false)?) }
        });
        if !matches!(is_left, Ok(true)) {
            *left = None;
        }
        is_left
    }
}

fn scan_range(db: &sled::Db, start: &[u8], end: Option<&Vec<u8>>, scan: &mut Scan) -> Result<(), Failure> {
    let entries = match end {
        Some(end) => db.range(start..&end[..]),
        None => db.range(start..),
    };
    for entry in entries {
        let (key, value) = entry?;
        scan.take(&key, &value)?;
    }
    Ok(())
}

/// The first key of each range, in order. Most link ids are UUIDs, so the range of their keys is cut at some bytes.
fn starts() -> Vec<Vec<u8>> {
    let mut starts = vec![Vec::new()];
    let mut cut = |prefix: &[u8], bytes: &mut dyn Iterator<Item = u8>| {
        starts.push(prefix.to_vec());
        starts.extend(bytes.map(|byte| [prefix, &[byte]].concat()));
    };
    let none = &mut std::iter::empty();
    cut(DEADLINE_PREFIX, none);
    cut(EXTERNAL_ID_PREFIX, &mut (0..=255).step_by(16).skip(1));
    cut(b"f", none);
    cut(INCIDENT_PREFIX, none);
    cut(LINK_PREFIX, none);
    cut(b"l\0", &mut (0..=255).step_by(16).skip(1));
    // The next byte is the state.
    cut(STATE_PREFIX, &mut (1..8));
    cut(b"t", none);
    cut(USER_PREFIX, &mut (0..=255).step_by(16).skip(1));
    cut(b"v", none);
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_follow_each_other_and_have_either_index_keys_or_others() {
        let starts = starts();
        assert!(starts.is_sorted() && starts[0].is_empty(), "{starts:?}");
        for prefix in index::PREFIXES {
            let after = starts.iter().find(|start| ***start > *prefix && !start.starts_with(prefix));
            assert!(starts.contains(&prefix.to_vec()) && after == Some(&vec![prefix[0] + 1]), "{prefix:?}");
        }
    }
}

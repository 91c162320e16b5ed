//! The rebuild of a store: its indexes are written at the end, in the order of their keys.
//!
//! An index key of a random link is in another page of sled than the key before, so writing the keys of each link with the link takes most
//! of the time of a rebuild. Therefore an empty store that is not complete defers them. The first read that needs an index, or the end of
//! the rebuild, writes all of them. If the process ends meanwhile, the next one removes the keys that were written, and defers them again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::database::{Database, Failure, caught};
use crate::store::StoreError;
use crate::store::content::unseal;
use crate::store::counts::StateCounts;
use crate::store::format::{self, LINK_PREFIX};
use crate::store::index::{self, NameHash, Names};
use crate::store::tree::Edits;

/// The number of links whose index keys are sorted at once; they take about 100 MB.
const LINKS_AT_ONCE: usize = 200_000;

/// The most threads that write.
const THREADS_MAX: usize = 4;

/// The name of each institution, and its counts.
type Institutions = BTreeMap<NameHash, (String, StateCounts)>;

impl Database {
    /// Writes the indexes and the counts of institutions, if they were deferred. There must be one writer at a time.
    pub(super) fn write_deferred(&self) -> Result<(), StoreError> {
        if !self.content().lacks_indexes {
            return Ok(());
        }
        let (mut institutions, mut next) = (Institutions::new(), Some(LINK_PREFIX.to_vec()));
        while let Some(start) = next {
            let (keys, after) = self.guarded(|db| sorted_keys(db, start, &mut institutions))?;
            self.guarded(|db| Ok(self.insert_all(db, &keys)?))?;
            next = after;
        }
        let mut edits = Edits::resuming(*self.content());
        for (name, counts) in institutions.values() {
            edits.put(format::institution_key(name), None, &counts.encode());
        }
        edits.content.lacks_indexes = false;
        edits.close_always();
        self.write(edits)
    }

    /// Inserts index keys with several threads, each in order.
    fn insert_all(&self, db: &sled::Db, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        let threads_count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let insert = |keys: &[Vec<u8>]| {
            caught(self.directory(), || {
                for key in keys {
                    db.insert(key, &[])?;
                }
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            let parts = keys.chunks(keys.len().div_ceil(threads_count).max(1));
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || insert(part))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

/// Removes the index keys that a process wrote that ended before all of them were written.
pub(super) fn remove_index_keys(db: &sled::Db) -> Result<(), Failure> {
    for prefix in index::PREFIXES {
        for key in db.scan_prefix(prefix).keys() {
            db.remove(key?)?;
        }
    }
    Ok(())
}

/// Some keys in order, and the next key to read.
type SortedKeys = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// The index keys of the next links, in order, and where the links after them begin.
fn sorted_keys(db: &sled::Db, start: Vec<u8>, institutions: &mut Institutions) -> Result<SortedKeys, Failure> {
    let (mut keys, mut links_count) = (Vec::new(), 0);
    let mut next = None;
    for entry in db.range(start..) {
        let (key, value) = entry?;
        let Some(id) = key.strip_prefix(LINK_PREFIX) else { break };
        if links_count == LINKS_AT_ONCE {
            next = Some(key.to_vec());
            break;
        }
        links_count += 1;
        let id = format::parse_link_id(id).ok_or_else(|| format::corrupt(&key, "not a link id"))?;
        let payload = unseal(&key, &value)?;
        let (head, labels) = format::decode_head(&key, payload)?;
        if let Some(institution) = labels.institution() {
            let (_, counts) = match institutions.entry(institution) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let (stored, _) = format::decode_link(&key, payload)?;
                    new.insert((Names::read(&stored.record).institution.unwrap_or_default(), StateCounts::default()))
                }
            };
            counts.add(head.state, 1)?;
        }
        keys.extend(index::keys(&id, &head, &labels));
    }
    keys.sort_unstable();
    Ok((keys, next))
}

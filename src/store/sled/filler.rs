//! Fills an empty database with keys in their order, so that the pages of sled are full.
//!
//! A leaf of sled has at most 16 keys. With one more it is split, and the left half keeps 9 keys. Keys that come in order are all put into
//! the last leaf, so every leaf would stay half empty. Therefore the keys come in groups of 16, and of each group 9 keys first:
//!
//! ```text
//! group:     1 . 1 . 1 . 1 . 1 . 1 . 1 . 1 1      the first and the last key among the 9
//! then       9 of the next group, whose last one splits the leaf between the groups
//! then       . 2 . 2 . 2 . 2 . 2 . 2 . 2 . .      the other 7 of this group: now its leaf has 16
//! ```
//!
//! Nothing depends on it but the size of the database and the time to write it.

use super::database::Database;
use super::sorter::Entry;
use crate::store::StoreError;

/// The most keys of a leaf.
const LEAF_KEYS: usize = 16;

/// Writes entries that come in the order of their keys.
#[derive(Debug)]
pub(super) struct Filler<'a> {
    database: &'a Database,
    group: Vec<Entry>,
    /// The other keys of the group before.
    others: Vec<Entry>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(database: &'a Database) -> Self {
        Self { database, group: Vec::with_capacity(LEAF_KEYS), others: Vec::new() }
    }

    /// Writes the next entry, now or later.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn push(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.group.push(entry);
        if self.group.len() < LEAF_KEYS { Ok(()) } else { self.write_group() }
    }

    /// Writes all that is left.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn end(mut self) -> Result<(), StoreError> {
        self.write_group()?;
        let others = std::mem::take(&mut self.others);
        self.write(others)
    }

    fn write_group(&mut self) -> Result<(), StoreError> {
        let last = self.group.len().saturating_sub(1);
        let (mut first, mut others) = (Vec::with_capacity(LEAF_KEYS), Vec::with_capacity(LEAF_KEYS));
        for (place, entry) in self.group.drain(..).enumerate() {
            let part = if place.is_multiple_of(2) || place == last { &mut first } else { &mut others };
            part.push(entry);
        }
        first.append(&mut self.others);
        self.others = others;
        self.write(first)
    }

    fn write(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.database.guarded(|db| {
            for (key, value) in entries {
                db.insert(key, value)?;
            }
            Ok(())
        })
    }
}

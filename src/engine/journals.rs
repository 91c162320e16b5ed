//! Recognises inputs that a node's journal has published again.
//!
//! The records of a journal are numbered, and are published in order. So each partition remembers, as a part of its committed offset, the
//! last number of each journal: a record with this number or a lower one has been handled. Kafka's idempotent producers work like this.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Delivery;
use crate::contract::{CommittedOffset, JOURNAL_HEADER, JournalOffset};
use crate::store::{Store, StoreError};

/// The length of the name of a journal: a random number in hexadecimal.
const JOURNAL_NAME_LENGTH: usize = 8;

/// How many journals a partition remembers. Each start of a node begins a new name; after many crashes, records of the last ones may still
/// be published again.
const JOURNALS_MAX: usize = 64;

/// The last records of each partition, committed or planned.
#[derive(Default)]
pub(super) struct Journals {
    /// The journal that was seen last is the last one.
    partitions: BTreeMap<u16, Vec<JournalOffset>>,
}

impl Journals {
    /// Notes the record of a delivery, and returns whether it is a repeat. A delivery of another publisher is none.
    pub(super) fn is_repeated<S: Store>(&mut self, store: &S, delivery: &Delivery) -> Result<bool, StoreError> {
        let Some((journal, number)) = record(delivery) else { return Ok(false) };
        let journals = self.load(store, delivery.partition)?;
        match journals.iter().rposition(|known| known.journal == journal) {
            Some(at) if number <= journals[at].number => return Ok(true),
            Some(at) if at + 1 == journals.len() => journals[at].number = number,
            known => {
                known.map(|at| journals.remove(at));
                journals.push(JournalOffset { journal: journal.to_owned(), number });
                let surplus = journals.len().saturating_sub(JOURNALS_MAX);
                journals.drain(..surplus);
            }
        }
        Ok(false)
    }

    /// Adds the records to the offsets of a plan.
    pub(super) fn complete<S: Store>(
        &mut self,
        store: &S,
        offsets: &mut BTreeMap<u16, CommittedOffset>,
    ) -> Result<(), StoreError> {
        for (partition, offset) in offsets {
            offset.journals.clone_from(self.load(store, *partition)?);
        }
        Ok(())
    }

    fn load<S: Store>(&mut self, store: &S, partition: u16) -> Result<&mut Vec<JournalOffset>, StoreError> {
        match self.partitions.entry(partition) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let committed = store.offsets()?.remove(&partition).map(|offset| offset.journals);
                Ok(unknown.insert(committed.unwrap_or_default()))
            }
        }
    }

    /// Forgets what is not committed.
    pub(super) fn clear(&mut self) {
        self.partitions.clear();
    }

    /// Forgets a partition.
    pub(super) fn remove(&mut self, partition: u16) {
        self.partitions.remove(&partition);
    }
}

/// The journal and the number in the header of a delivery.
fn record(delivery: &Delivery) -> Option<(&str, u64)> {
    let (journal, number) = delivery.header(JOURNAL_HEADER)?.split_once('-')?;
    let is_name = journal.len() == JOURNAL_NAME_LENGTH && journal.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| number.parse().ok()).flatten().map(|number| (journal, number))
}

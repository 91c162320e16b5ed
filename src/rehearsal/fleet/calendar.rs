//! What is going to happen, by its time. Two things of one millisecond happen in the order they were planned in.

use std::collections::BTreeMap;

use crate::link::Timestamp;

/// Things to come.
#[derive(Debug)]
pub(super) struct Calendar<T> {
    entries: BTreeMap<(Timestamp, u64), T>,
    planned: u64,
}

impl<T> Calendar<T> {
    pub(super) const fn new() -> Self {
        Self { entries: BTreeMap::new(), planned: 0 }
    }

    pub(super) fn plan(&mut self, at: Timestamp, what: T) {
        self.planned += 1;
        self.entries.insert((at, self.planned), what);
    }

    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.entries.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the next thing out, if it is not later than `now`.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<T> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}

//! The queue of future events, by time. Events of the same millisecond keep the order in which they were scheduled.

use std::collections::BTreeMap;

use crate::link::Timestamp;

/// Future events.
#[derive(Debug)]
pub(super) struct EventQueue<T> {
    entries: BTreeMap<(Timestamp, u64), T>,
    planned: u64,
}

impl<T> EventQueue<T> {
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

    /// Removes and returns the next event that is due at `now`.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<T> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}

//! The schedule of Belvo's own actions, by time.
//!
//! An entry is added with its cause (a link is registered, a consent is given) and removed when the
//! cause ends, so the first entry is always the next action. [`super::bank`] performs the actions.

use std::collections::BTreeMap;

use uuid::Uuid;

/// The due time and a number: actions of the same millisecond keep the order in which they were scheduled.
pub(crate) type Slot = (i64, u64);

/// A scheduled action of Belvo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// The scheduled refresh of a recurrent link.
    Refresh(Uuid),
    /// The first history of a link that has become recurrent.
    FirstHistory(Uuid),
    /// The consent of this link ends.
    ConsentEnd(Uuid),
    /// The monthly wipe.
    Wipe,
}

/// The schedule, in order.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    entries: BTreeMap<Slot, Planned>,
}

impl Schedule {
    pub(crate) fn put(&mut self, slot: Slot, planned: Planned) {
        self.entries.insert(slot, planned);
    }

    pub(crate) fn take_back(&mut self, slot: Option<Slot>) {
        if let Some(slot) = slot {
            self.entries.remove(&slot);
        }
    }

    /// The time of the next action.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.entries.first_key_value().map(|(slot, _)| slot.0)
    }

    /// Takes the next action with its time, if that is not after `until`.
    pub(crate) fn take_due(&mut self, until: i64) -> Option<(i64, Planned)> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= until)?;
        let ((due_at, _), planned) = entry.remove_entry();
        Some((due_at, planned))
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

//! The schedule of Belvo's own actions: each with its time.
//!
//! An entry is made where its cause is (a link that is registered, a consent that is given) and taken back when the
//! cause is gone, so the first one is always the next to happen. [`super::bank`] carries them out.

use std::collections::BTreeMap;

use uuid::Uuid;

/// When it is due, and its number: two things of the same millisecond happen in the order they were planned in.
pub(crate) type Slot = (i64, u64);

/// An action of Belvo's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// The scheduled refresh of a recurrent link.
    Refresh(Uuid),
    /// The first history of a link that was single until yesterday.
    FirstHistory(Uuid),
    /// The consent of this link ends.
    ConsentEnd(Uuid),
    /// All links are gone.
    Wipe,
}

/// All of it, in order.
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

    /// When the next thing happens.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.entries.first_key_value().map(|(slot, _)| slot.0)
    }

    /// Takes the next thing out, with its time, if that is not after `until`.
    pub(crate) fn take_due(&mut self, until: i64) -> Option<(i64, Planned)> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= until)?;
        let ((due_at, _), planned) = entry.remove_entry();
        Some((due_at, planned))
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

//! What Belvo has planned: each thing with its time, and the task that does it when that time comes.
//!
//! An entry is made where its cause is (a link that is registered, a consent that is given) and taken back when the
//! cause is gone, so the first one is always the next thing to happen. What then happens is in [`super::schedule`].

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Shared;
use super::clock::next_month;
use super::link::{AccessMode, Link};
use super::world::{Rules, World};

/// When it is due, and its number: two things of the same millisecond happen in the order they were planned in.
pub(crate) type Slot = (i64, u64);

/// Something that happens by itself.
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
pub(crate) struct Agenda {
    entries: BTreeMap<Slot, Planned>,
}

impl Agenda {
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

/// The first refresh of a link comes up to this part of its interval late, so that links of one rate do not all come at
/// once. Belvo does not say how it spreads them.
const JITTER_PART: i64 = 10;

impl World {
    /// Plans the scheduled refreshes of a link, one interval after `since` and so on; or takes them back, if it is not
    /// recurrent.
    pub(crate) fn plan_refresh(&mut self, now: i64, id: Uuid, since: i64) {
        let Some(link) = self.links.get_mut(&id).filter(|_| self.rules.schedule) else { return };
        self.agenda.take_back(link.planned_refresh.take());
        let Some(rate) = link.refresh_rate else { return };
        let span = rate.span_ms();
        let first = since + span + self.rng.i64(0..=span / JITTER_PART);
        // Those that would have been before now have been.
        let missed = now.saturating_sub(first).div_euclid(span) + 1;
        self.plan_refresh_at(id, first + span * missed.max(0));
    }

    pub(crate) fn plan_next_refresh(&mut self, now: i64, id: Uuid) {
        let rate = self.links.get(&id).and_then(|link| link.refresh_rate);
        if let Some(rate) = rate {
            self.plan_refresh_at(id, now + rate.span_ms());
        }
    }

    fn plan_refresh_at(&mut self, id: Uuid, at: i64) {
        let slot = (at, self.seq());
        if let Some(link) = self.links.get_mut(&id) {
            link.planned_refresh = Some(slot);
            self.agenda.put(slot, Planned::Refresh(id));
        }
    }

    /// The access mode of a link has changed: to recurrent, and its history comes on the next day; or to single, and
    /// nothing comes any more.
    pub(crate) fn plan_for_access_mode(&mut self, now: i64, id: Uuid) {
        self.plan_refresh(now, id, now);
        let slot = (now + Rules::FIRST_HISTORY_MS, self.seq());
        let Some(link) = self.links.get_mut(&id).filter(|_| self.rules.schedule) else { return };
        self.agenda.take_back(link.planned_history.take());
        if link.access_mode == AccessMode::Recurrent {
            link.planned_history = Some(slot);
            self.agenda.put(slot, Planned::FirstHistory(id));
        }
    }

    pub(crate) fn plan_consent_end(&mut self, link_id: Uuid) {
        let seq = self.seq();
        let Some(consent) = self.consents.get_mut(&link_id).filter(|_| self.rules.schedule) else { return };
        self.agenda.take_back(consent.planned_end.take());
        let slot = (consent.expires_at, seq);
        consent.planned_end = Some(slot);
        self.agenda.put(slot, Planned::ConsentEnd(link_id));
    }

    /// Plans the next monthly wipe, if there is one.
    pub(crate) fn plan_wipe(&mut self, now: i64) {
        if self.rules.schedule && self.rules.monthly_wipe {
            let slot = (next_month(now), self.seq());
            self.agenda.put(slot, Planned::Wipe);
        }
    }

    /// Takes back what is planned for a link that goes.
    pub(crate) fn take_back_plans(&mut self, link: &Link) {
        self.agenda.take_back(link.planned_refresh);
        self.agenda.take_back(link.planned_history);
        self.agenda.take_back(self.consents.get(&link.id).and_then(|consent| consent.planned_end));
    }
}

/// Does what is planned when its time comes; ends when the sandbox stops. Needed only where time passes by itself.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let nap = shared.world().agenda.next_due().and_then(|due_at| shared.clock.until(due_at));
        tokio::select! {
            () = super::sleep(nap) => shared.change(|_, _| ()),
            _ = changed.changed() => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

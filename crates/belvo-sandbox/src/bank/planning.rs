//! Adds Belvo's own actions to the schedule, and removes them.

use uuid::Uuid;

use crate::clock::next_month;
use crate::link::{AccessMode, Link};
use crate::schedule::Planned;
use crate::world::{Rules, World};

/// The first refresh of a link is late by up to this part of its interval, so that links with the same rate are not refreshed at
/// the same time. Belvo does not document how it distributes them.
const JITTER_PART: i64 = 10;

impl World {
    /// Schedules the refreshes of a link, the first one interval after `since`; or removes them, if the link is not
    /// recurrent.
    pub(crate) fn plan_refresh(&mut self, now: i64, id: Uuid, since: i64) {
        let Some(link) = self.links.get_mut(&id).filter(|_| self.rules.schedule) else { return };
        self.schedule.take_back(link.planned_refresh.take());
        let Some(rate) = link.refresh_rate else { return };
        let span = rate.span_ms();
        let first = since + span + self.rng.i64(0..=span / JITTER_PART);
        // Refreshes before now are skipped.
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
            self.schedule.put(slot, Planned::Refresh(id));
        }
    }

    /// Handles a change of the access mode: a recurrent link gets its history on the next day; a single link
    /// gets no more data.
    pub(crate) fn plan_for_access_mode(&mut self, now: i64, id: Uuid) {
        self.plan_refresh(now, id, now);
        let slot = (now + Rules::FIRST_HISTORY_MS, self.seq());
        let Some(link) = self.links.get_mut(&id).filter(|_| self.rules.schedule) else { return };
        self.schedule.take_back(link.planned_history.take());
        if link.access_mode == AccessMode::Recurrent {
            link.planned_history = Some(slot);
            self.schedule.put(slot, Planned::FirstHistory(id));
        }
    }

    pub(crate) fn plan_consent_end(&mut self, link_id: Uuid) {
        let seq = self.seq();
        let Some(consent) = self.consents.get_mut(&link_id).filter(|_| self.rules.schedule) else { return };
        self.schedule.take_back(consent.planned_end.take());
        let slot = (consent.expires_at, seq);
        consent.planned_end = Some(slot);
        self.schedule.put(slot, Planned::ConsentEnd(link_id));
    }

    /// Schedules the next monthly wipe, if it is on.
    pub(crate) fn plan_wipe(&mut self, now: i64) {
        if self.rules.schedule && self.rules.monthly_wipe {
            let slot = (next_month(now), self.seq());
            self.schedule.put(slot, Planned::Wipe);
        }
    }

    /// Removes the scheduled actions of a deleted link.
    pub(crate) fn take_back_plans(&mut self, link: &Link) {
        self.schedule.take_back(link.planned_refresh);
        self.schedule.take_back(link.planned_history);
        self.schedule.take_back(self.consents.get(&link.id).and_then(|consent| consent.planned_end));
    }
}

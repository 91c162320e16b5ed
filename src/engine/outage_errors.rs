//! Outage errors: Belvo answers a call about a link that the institution cannot be used. The error is evidence about the institution, and
//! the link has met an outage if the institution is down.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Delivery, Engine, LinkEntry, Plan};
use crate::contract::{Because, DeadReason, Origin};
use crate::link::{Event, Input, InstitutionNotices, Timestamp};
use crate::store::{Store, StoreError};

impl<S: Store> Engine<S> {
    /// Plans the changes of the institution, and the step of the link. Returns whether the error is handled by that: if it changes nothing
    /// of the link, it is recorded as any other message that is not about the link.
    pub(super) fn plan_outage_error(
        &mut self,
        delivery: &Delivery,
        entry: &LinkEntry,
        origin: &Origin,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Result<bool, StoreError> {
        let link = &entry.link;
        let Some(institution) = link.profile.institution.as_deref() else { return Ok(false) };
        // The messages of the institution come first, because the step of the link follows from them.
        let incidents = self.institutions.outage_error(institution, &link.id, origin, now);
        incidents.into_iter().for_each(|body| plan.incident(delivery.partition, body));
        let incident = self.institutions.down_since(Some(institution));
        if incident.is_none() || self.policy.settings().institution_notices == InstitutionNotices::Off {
            return Ok(false);
        }
        let mut input = Input { incident, ..Event::OutageMet { by_user: false }.into() };
        let received_at = origin.received_at.0;
        match catch_unwind(AssertUnwindSafe(|| self.step_link(link, &mut input, received_at))) {
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Ok(step))) => {
                plan.tally.add(delivery.kind_word(), "accepted");
                let because = Because::of(&step, &input, origin.clone());
                self.take_step(entry, step, delivery.partition, because, now, plan);
            }
            Ok(Ok(Err(_refusal))) => return Ok(false),
            Err(_) => Self::dead_letter(delivery, DeadReason::Panicked, "an outage error panicked".to_owned(), plan),
        }
        Ok(true)
    }
}

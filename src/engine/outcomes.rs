//! What becomes of an input in the plan: a step, a refusal, or a dead letter.

use std::sync::Arc;

use super::institutions::opening_of;
use super::{DeadDelivery, Delivery, Engine, LinkEntry, Plan, plan};
use crate::contract::{Because, DeadReason, Origin, Record, RefusedBody};
use crate::link::{Link, StateName, Step, Timestamp};
use crate::store::{Head, Names, Put, Store};

impl<S: Store> Engine<S> {
    /// Plans a refusal for a message that is no event, so that it is in the history of the link.
    pub(super) fn plan_remark(
        link: &Link,
        delivery: &Delivery,
        reason: &str,
        detail: String,
        origin: Origin,
        plan: &mut Plan,
    ) {
        let body = RefusedBody {
            link_id: link.id.to_string(),
            event: None,
            reason: reason.to_owned(),
            detail,
            state: (link.version > 0).then(|| link.state.name().into()),
            origin,
        };
        plan.refuse(delivery.partition, delivery.sequence, link, body);
    }

    pub(super) fn dead_letter(delivery: &Delivery, reason: DeadReason, detail: String, plan: &mut Plan) {
        plan.tally.add(delivery.kind_word(), reason.as_str());
        plan.span_outcome(reason.as_str());
        plan.dead_letters.push(DeadDelivery { delivery: delivery.clone(), reason, detail });
    }

    pub(super) fn take_step(
        &mut self,
        entry: &LinkEntry,
        step: Step,
        partition: u16,
        because: Because,
        now: Timestamp,
        plan: &mut Plan,
    ) {
        let (before, link) = (&*entry.link, &step.link);
        plan.activity.count_step(before, &step);
        self.note_time(&step, now);
        // A link that webhooks have broken before it was read counts as soon as its institution is known.
        let is_named = before.profile.institution.is_none();
        let is_new = is_named || matches!(step.from, StateName::Unconfirmed | StateName::Valid);
        let opening = opening_of(link).filter(|_| is_new);
        let incidents = opening.map_or_else(Vec::new, |opening| {
            plan.activity.prompts_deferred_count += u64::from(opening.is_deferred);
            self.institutions.opened(&opening, &because.origin, now)
        });
        let sent = plan.effects(partition, &step, &because, &self.publishing);
        if let Some(span) = plan.span() {
            span.institution.clone_from(&link.profile.institution);
            span.event = Some(because.event.clone());
            span.states = Some((step.from, link.state.name()));
            (span.outcome, span.sent) = ("accepted".to_owned(), sent.clone());
        }
        let trace = plan.following.of_episode(entry, link);
        let record = plan::encode(&Record::of(link, partition, because, sent).with_trace(trace.as_ref()));
        let head = Head::of(link, partition, &self.policy);
        plan.state(partition, &step, record.clone());
        // Each step raises the version by one, and the first one of a link makes it 1.
        self.links.replace(&link.id, link.version.checked_sub(1).filter(|before| *before > 0), link.version);
        plan.puts.push(Put { id: link.id.clone(), head, names: Names::of(&link.profile), record });
        incidents.into_iter().for_each(|body| plan.incident(partition, body));
        self.recent.change(LinkEntry { link: Arc::new(step.link), partition, trace });
    }
}

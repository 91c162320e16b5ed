//! Reports of Belvo's status page: each is evidence about the institutions that its components stand for.

use super::{Delivery, Engine, Institutions, Plan};
use crate::belvo::{SHOWN_CHARS_MAX, StatusReport};
use crate::contract::{DeadReason, IncidentBody, Origin};
use crate::institution::Components;
use crate::link::Timestamp;
use crate::printable::shortened;
use crate::store::Store;

/// The most institutions in one report. Each can have two messages: an outage ends, and trouble goes on.
const INSTITUTIONS_MAX: usize = 300;

/// The most components that a dead letter names.
const NAMED_MAX: usize = 5;

/// The most messages that one report can lead to.
pub(super) const MESSAGES_MAX: usize = 2 * INSTITUTIONS_MAX;

impl<S: Store> Engine<S> {
    /// Plans the changes of the reported institutions. A report with a component that stands for no institution is dead-lettered too, so that
    /// an operator sees it, configures the component and replays the report.
    pub(super) fn plan_status_page(
        &mut self,
        delivery: &Delivery,
        report: &StatusReport,
        is_repeated: bool,
        origin: &Origin,
        now: Timestamp,
        plan: &mut Plan,
    ) {
        if is_repeated {
            plan.tally.add(delivery.kind_word(), "repeated");
            plan.span_outcome("repeated");
            return;
        }
        let (bodies, unknown) = take(&mut self.institutions, &self.components, report, origin, now);
        bodies.into_iter().for_each(|body| plan.incident(delivery.partition, body));
        if unknown.is_empty() {
            plan.tally.add(delivery.kind_word(), "accepted");
            plan.span_outcome("accepted");
        } else {
            let more = match unknown.len().saturating_sub(NAMED_MAX) {
                0 => String::new(),
                count => format!("; and {count} more"),
            };
            let named = unknown[..unknown.len().min(NAMED_MAX)].join("; ");
            let detail = format!("{named}{more}. Other components in the message were handled.");
            Self::dead_letter(delivery, DeadReason::UnknownCode, detail, plan);
        }
    }
}

/// The messages to publish, and the components without a meaning, as clauses for an operator.
fn take(
    institutions: &mut Institutions,
    components: &Components,
    report: &StatusReport,
    origin: &Origin,
    now: Timestamp,
) -> (Vec<IncidentBody>, Vec<String>) {
    let mut bodies = Vec::new();
    let (mut unknown, mut reported_count) = (report.unreadable.clone(), 0);
    for component in &report.components {
        let named = components.institutions(&component.name);
        reported_count += named.len();
        let name = || shortened(&component.name, SHOWN_CHARS_MAX);
        if named.is_empty() {
            unknown.push(format!("the component `{}` stands for no institution (RELINK_STATUS_COMPONENTS)", name()));
            continue;
        }
        if reported_count > INSTITUTIONS_MAX {
            unknown.push(format!(
                "the component `{}` is one too many: a message is about at most {INSTITUTIONS_MAX} institutions",
                name()
            ));
            continue;
        }
        for institution in named {
            bodies.extend(institutions.status_page(&institution, component.status, report.updated_at, origin, now));
        }
    }
    (bodies, unknown)
}

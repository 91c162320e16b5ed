//! Reports of Belvo's status page: each is evidence about the institutions that its components stand for.

use super::{Delivery, Engine, Institutions, Plan};
use crate::belvo::StatusReport;
use crate::contract::{DeadReason, IncidentBody, Origin};
use crate::institution::Components;
use crate::link::Timestamp;
use crate::store::Store;

/// The most institutions in one report. Each can have two messages: an outage ends, and trouble goes on.
const INSTITUTIONS_MAX: usize = 300;

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
        let (bodies, unknown_count) = take(&mut self.institutions, &self.components, report, origin, now);
        bodies.into_iter().for_each(|body| plan.incident(delivery.partition, body));
        if unknown_count == 0 {
            plan.tally.add(delivery.kind_word(), "accepted");
            plan.span_outcome("accepted");
        } else {
            let detail = format!(
                "{unknown_count} components of the status page are not configured (RELINK_STATUS_COMPONENTS), or have an unknown status; \
                 the others were handled"
            );
            Self::dead_letter(delivery, DeadReason::UnknownCode, detail, plan);
        }
    }
}

/// The messages to publish, and the number of components without a meaning.
fn take(
    institutions: &mut Institutions,
    components: &Components,
    report: &StatusReport,
    origin: &Origin,
    now: Timestamp,
) -> (Vec<IncidentBody>, usize) {
    let mut bodies = Vec::new();
    let (mut unknown_count, mut reported_count) = (report.unreadable_count, 0);
    for component in &report.components {
        let named = components.institutions(&component.name);
        reported_count += named.len();
        if named.is_empty() || reported_count > INSTITUTIONS_MAX {
            unknown_count += 1;
            continue;
        }
        for institution in named {
            bodies.extend(institutions.status_page(&institution, component.status, report.updated_at, origin, now));
        }
    }
    (bodies, unknown_count)
}

//! Belvo's status page: webhooks about the institution of the links. They may arrive in another order than the page was changed, and the
//! page may forget to say that an outage is over.

use serde_json::json;

use super::belvo::INSTITUTION;
use super::fault::RandomSource;
use super::publishers::Published;
use crate::contract::{InputKind, STATUS_PAGE};
use crate::engine::Delivery;
use crate::link::Timestamp;

/// The status of the incident, and of its component, on the page. When an incident is resolved, the component may not be changed yet.
const CHANGES: [(&str, &str); 4] = [
    ("investigating", "major_outage"),
    ("identified", "partial_outage"),
    ("monitoring", "operational"),
    ("resolved", "major_outage"),
];

/// The page, with a random source of its own.
pub(super) struct StatusPage {
    random: RandomSource,
    partition: u16,
    is_on: bool,
}

impl StatusPage {
    /// With several nodes it is not decided yet which one reports an incident, so then the page is off.
    pub(super) fn new(seed: u64, partitions: u16, is_on: bool) -> Self {
        Self { random: RandomSource::of(!seed), partition: partitions - 1, is_on }
    }

    /// The webhook of a turn of the publishers, if the page is changed in it.
    pub(super) fn next(&mut self, now: Timestamp) -> Vec<Published> {
        if !self.is_on || !self.random.one_in(10) {
            return Vec::new();
        }
        let change = *self.random.pick(&CHANGES);
        // No institution is configured for the second name.
        let name = if self.random.one_in(12) { "Erebor" } else { INSTITUTION };
        let after_ms = self.random.delay_ms(2_000);
        vec![(after_ms, self.webhook(change, name, now))]
    }

    /// The last change of the page. In every other run the page forgets it, and relink has to end the outage by itself.
    pub(super) fn last(&mut self, now: Timestamp) -> Vec<Published> {
        let is_forgotten = !self.is_on || self.random.one_in(2);
        if is_forgotten { Vec::new() } else { vec![(0, self.webhook(CHANGES[3], INSTITUTION, now))] }
    }

    fn webhook(&self, (incident, component): (&str, &str), name: &str, now: Timestamp) -> Delivery {
        let components = json!([{"name": name, "status": component}]);
        let body = json!({"incident": {"status": incident, "updated_at": now.to_string(), "components": components}});
        let kind = InputKind::InstitutionStatus.as_str();
        Delivery {
            partition: self.partition,
            sequence: 0,
            stored_at_ns: 0,
            subject: format!("belvo.{kind}.{STATUS_PAGE}"),
            kind: kind.to_owned(),
            link: STATUS_PAGE.to_owned(),
            headers: Vec::new(),
            payload: body.to_string().into(),
            receipt: String::new(),
        }
    }
}

//! Checks the messages of each institution: an incident of links begins directly after the opening that caused it, each incident has one
//! end, and each change follows from the state before it.

use std::collections::BTreeMap;

use super::Checked;
use crate::contract::{IncidentBody, IncidentCause, IncidentChange, OriginKind, institution_token};
use crate::institution::State;
use crate::link::{Input, Link, LinkId, Timestamp};

/// The last incident message of each institution.
#[derive(Default)]
pub(super) struct Incidents(pub(super) BTreeMap<String, IncidentBody>);

impl Incidents {
    /// Since when the institution of this link is down.
    pub(super) fn down_since(&self, received: Option<&Input>, link: Option<&Link>) -> Option<Timestamp> {
        let received = received.and_then(|received| received.profile.institution.as_ref());
        let institution = received.or(link.and_then(|link| link.profile.institution.as_ref()));
        let latest = self.0.get(institution?)?;
        (latest.change == IncidentChange::Began).then_some(latest.began_at.0)
    }

    pub(super) fn take(&mut self, token: &str, body: &[u8], opened_last: Option<&LinkId>) -> Checked {
        let body: IncidentBody = serde_json::from_slice(body).map_err(|error| format!("an incident: {error}"))?;
        let id = body.message_id();
        let before = self.0.get(&body.institution);
        // The states that the change may follow, and what it has to say.
        let state = before.map_or(State::Operational, |before| before.change.state());
        let is_sound = match (body.change, before) {
            (IncidentChange::Began | IncidentChange::Degraded, before) => {
                let by_opening = body.cause == IncidentCause::FailingLinks;
                // The page withdraws an outage, and the failing links are the cause from then on.
                let by_page = body.because.origin.kind == OriginKind::InstitutionStatus;
                (state != body.change.state() && !(state == State::Down && body.change == IncidentChange::Degraded))
                    && (!by_opening || by_page || body.because.link_id.as_deref() == opened_last.map(LinkId::as_str))
                    && !(by_opening && body.change == IncidentChange::Degraded)
                    && (body.change == IncidentChange::Degraded || body.links_count >= body.threshold)
                    && body.at == body.began_at
                    && before.is_none_or(|before| before.at < body.at)
            }
            (IncidentChange::Ended | IncidentChange::Recovered, Some(began)) => {
                let ends = if body.change == IncidentChange::Ended { State::Down } else { State::Degraded };
                state == ends
                    && body.cause == began.cause
                    && body.began_at == began.began_at
                    && body.links_count >= began.links_count
                    && body.because.link_id.is_none()
                    && (body.because.origin.kind == OriginKind::Timer || body.cause == IncidentCause::StatusPage)
            }
            (IncidentChange::Ended | IncidentChange::Recovered, None) => false,
        };
        if !is_sound || token != institution_token(&body.institution) {
            return Err(format!(
                "{id} does not follow from {}",
                before.map_or("nothing".to_owned(), IncidentBody::message_id)
            ));
        }
        self.0.insert(body.institution.clone(), body);
        Ok(())
    }
}

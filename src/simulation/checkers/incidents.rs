//! Checks the incident messages of each institution: a beginning directly after the opening that caused it, then one end, and so on.

use std::collections::BTreeMap;

use super::Checked;
use crate::contract::{IncidentBody, IncidentChange, OriginKind, institution_token};
use crate::link::{Input, Link, LinkId};

/// The last incident message of each institution.
#[derive(Default)]
pub(super) struct Incidents(pub(super) BTreeMap<String, IncidentBody>);

impl Incidents {
    /// Whether the institution of this link has an incident now.
    pub(super) fn is_on(&self, received: Option<&Input>, link: Option<&Link>) -> bool {
        let received = received.and_then(|received| received.profile.institution.as_ref());
        let institution = received.or(link.and_then(|link| link.profile.institution.as_ref()));
        let latest = institution.and_then(|institution| self.0.get(institution));
        latest.is_some_and(|latest| latest.change == IncidentChange::Began)
    }

    pub(super) fn take(&mut self, token: &str, body: &[u8], opened_last: Option<&LinkId>) -> Checked {
        let body: IncidentBody = serde_json::from_slice(body).map_err(|error| format!("an incident: {error}"))?;
        let id = body.message_id();
        let before = self.0.get(&body.institution);
        let was_on = before.is_some_and(|before| before.change == IncidentChange::Began);
        let is_sound = match (body.change, before) {
            (IncidentChange::Began, before) => {
                body.because.link_id.as_deref() == opened_last.map(LinkId::as_str)
                    && body.links_count >= body.threshold
                    && body.at == body.began_at
                    && before.is_none_or(|before| before.at < body.at)
            }
            (IncidentChange::Ended, Some(began)) => {
                body.began_at == began.began_at
                    && body.links_count >= began.links_count
                    && body.because.link_id.is_none()
                    && body.because.origin.kind == OriginKind::Timer
            }
            (IncidentChange::Ended, None) => false,
        };
        if was_on != (body.change == IncidentChange::Ended)
            || !is_sound
            || token != institution_token(&body.institution)
        {
            return Err(format!(
                "{id} does not follow from {}",
                before.map_or("nothing".to_owned(), IncidentBody::message_id)
            ));
        }
        self.0.insert(body.institution.clone(), body);
        Ok(())
    }
}

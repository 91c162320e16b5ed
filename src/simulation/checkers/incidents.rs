//! Checks the messages of each institution: an incident of links begins directly after the opening that caused it, each incident has one
//! end, and each change follows from the state before it, or from the report of the status page that it names.

use std::collections::{BTreeMap, BTreeSet};

use super::Checked;
use crate::belvo::{Meaning, translate};
use crate::contract::{IncidentBody, IncidentCause, IncidentChange, InputKind, OriginKind, institution_token};
use crate::engine::Delivery;
use crate::institution::{Components, PageStatus, State};
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

    /// The institutions that are down.
    pub(super) fn down(&self) -> BTreeSet<String> {
        let is_down =
            |(name, latest): (&String, &IncidentBody)| (latest.change == IncidentChange::Began).then(|| name.clone());
        self.0.iter().filter_map(is_down).collect()
    }

    /// Checks a message, and returns it.
    pub(super) fn take(
        &mut self,
        token: &str,
        body: &[u8],
        opened_last: Option<&LinkId>,
    ) -> Result<&IncidentBody, String> {
        let body: IncidentBody = serde_json::from_slice(body).map_err(|error| format!("an incident: {error}"))?;
        let id = body.message_id();
        let before = self.0.get(&body.institution);
        // The states that the change may follow, and what it has to say.
        let state = before.map_or(State::Operational, |before| before.change.state());
        let is_sound = match (body.change, before) {
            (IncidentChange::Began | IncidentChange::Degraded, before) => {
                let by_opening = body.cause == IncidentCause::FailingLinks;
                // The page withdraws an outage, or its report is too old, and other evidence is the cause from then on.
                let by_page = match body.because.origin.kind {
                    OriginKind::InstitutionStatus => true,
                    OriginKind::Timer => before.is_some_and(|before| before.cause == IncidentCause::StatusPage),
                    _message_of_a_link => false,
                };
                let may_be_few = by_page && body.cause == IncidentCause::OutageErrors;
                (state != body.change.state() && !(state == State::Down && body.change == IncidentChange::Degraded))
                    && (!by_opening || by_page || body.because.link_id.as_deref() == opened_last.map(LinkId::as_str))
                    && !(by_opening && body.change == IncidentChange::Degraded)
                    && (body.change == IncidentChange::Degraded || may_be_few || body.links_count >= body.threshold)
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
                    && matches!(body.because.origin.kind, OriginKind::Timer | OriginKind::InstitutionStatus)
            }
            (IncidentChange::Ended | IncidentChange::Recovered, None) => false,
        };
        if !is_sound || token != institution_token(&body.institution) {
            return Err(format!(
                "{id} does not follow from {}",
                before.map_or("nothing".to_owned(), IncidentBody::message_id)
            ));
        }
        Ok(self.0.entry(body.institution.clone()).insert_entry(body).into_mut())
    }

    /// Checks at the end that no institution is still degraded or down: every outage ends.
    pub(super) fn check_end(&self) -> Checked {
        let is_over = |body: &&IncidentBody| body.change.state() == State::Operational;
        match self.0.values().find(|body| !is_over(body)) {
            Some(body) => Err(format!("{} never ends", body.message_id())),
            None => Ok(()),
        }
    }
}

/// Checks that a report of the status page says what the change says that it caused.
pub(super) fn check_page(change: &IncidentBody, input: Option<&Delivery>) -> Checked {
    // Other evidence may be the cause when the page withdraws an outage. And if the page was the last evidence, its report ends any outage.
    let begins = matches!(change.change, IncidentChange::Began | IncidentChange::Degraded);
    let is_other = begins && change.cause != IncidentCause::StatusPage;
    if change.because.origin.kind != OriginKind::InstitutionStatus || is_other {
        return Ok(());
    }
    let report = input.and_then(|input| {
        let link = input.link.parse().ok()?;
        translate(InputKind::InstitutionStatus, &link, &input.payload, input.stored_at()).ok()
    });
    let Some(Meaning::StatusPage(report)) = report else {
        return Err(format!("{} names no report of the status page", change.message_id()));
    };
    let is_named = |name: &str| Components::default().institutions(name).contains(&change.institution);
    let status = report.components.iter().find(|component| is_named(&component.name)).map(|component| component.status);
    let is_reported = match change.change {
        IncidentChange::Began => status == Some(PageStatus::Major),
        IncidentChange::Degraded => status == Some(PageStatus::Partial),
        IncidentChange::Ended => matches!(status, Some(PageStatus::Partial | PageStatus::Operational)),
        IncidentChange::Recovered => status == Some(PageStatus::Operational),
    };
    if is_reported {
        Ok(())
    } else {
        Err(format!("{} does not follow from its report: {status:?}", change.message_id()))
    }
}

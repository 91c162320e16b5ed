//! What Belvo does without being asked: scheduled refreshes, consents that end, the monthly wipe.
//!
//! It happens when the agenda says so, if the sandbox has a schedule, and when the control handle says so, in a test that
//! decides itself. These are the only places the LINK and CONSENT webhooks come from.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agenda::Planned;
use super::clock::{millis, next_month};
use super::consent::Consent;
use super::control::ControlError;
use super::institution::Access;
use super::link::{AccessMode, Link, LinkStatus, Login, LoginFailure};
use super::webhook::Webhook;
use super::world::{Rules, World};

/// How the next scheduled refresh of a recurrent link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshOutcome {
    /// It worked: `new_*_available` webhooks if there is anything new.
    Ok,
    /// The bank refused: status `invalid`, webhook LINK/`invalid_credentials`.
    LoginError,
    /// The bank wants a token: status `token_required`, webhook LINK/`token_required`.
    TokenRequired,
    /// The bank is down: nothing is sent, nothing changes.
    InstitutionDown,
}

/// How long a consent runs when it is given or renewed.
const CONSENT_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// The first refresh of a link comes up to this part of its interval late, so that links of one rate do not all come at
/// once. Belvo does not say how it spreads them.
const JITTER_PART: i64 = 10;

/// What happens by itself, and when.
impl World {
    /// Does everything that is planned until then, each thing at its own time.
    pub(crate) fn do_what_is_due(&mut self, until: i64) {
        while let Some((now, planned)) = self.agenda.take_due(until) {
            match planned {
                Planned::Refresh(id) => {
                    self.plan_next_refresh(now, id);
                    self.refresh_by_itself(now, id);
                }
                Planned::FirstHistory(id) => self.first_history(now, id),
                // The one error there could be is that the consent is gone, and its entry goes with it.
                Planned::ConsentEnd(id) => drop(self.expire_consent(now, id)),
                Planned::Wipe => {
                    self.wipe();
                    self.plan_wipe(now);
                }
            }
        }
    }

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

    fn plan_next_refresh(&mut self, now: i64, id: Uuid) {
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

    fn plan_consent_end(&mut self, link_id: Uuid) {
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

    /// A scheduled refresh whose outcome the bank decides. A link that is not valid is passed over.
    fn refresh_by_itself(&mut self, now: i64, id: Uuid) {
        let Some(link) = self.links.get(&id).filter(|link| link.status == LinkStatus::Valid) else { return };
        let outcome = link.scheduled_outcome();
        let consent = self.consents.get(&id).filter(|_| self.rules.consent_warnings);
        if let Some(consent) = consent.filter(|consent| consent.expires_at - now <= Rules::CONSENT_WARNING_MS) {
            let webhook = consent.about_to_expire(link);
            self.post(now, now, webhook);
        }
        let refreshed = self.scheduled_refresh(now, id, outcome);
        debug_assert!(refreshed.is_ok(), "the link is there, recurrent and valid: {refreshed:?}");
    }

    fn first_history(&mut self, now: i64, id: Uuid) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.planned_history = None;
        if link.status == LinkStatus::Valid && link.scheduled_outcome() == RefreshOutcome::Ok {
            link.last_accessed_at = Some(now);
            self.collect(now, id);
        }
    }
}

impl Link {
    /// What the bank has to say to a scheduled refresh.
    fn scheduled_outcome(&self) -> RefreshOutcome {
        match (&self.login, self.institution.access) {
            (Login::Works, Access::Token) | (Login::TokenRequired, _) => RefreshOutcome::TokenRequired,
            (Login::Works, _) => RefreshOutcome::Ok,
            // A consent has no credentials that could be wrong; "try again later" is no verdict on them.
            (Login::Fails(_), Access::Consent) | (Login::Fails(LoginFailure::Unexpected), _) => {
                RefreshOutcome::InstitutionDown
            }
            (Login::Fails(_), _) => RefreshOutcome::LoginError,
            (Login::Answers(_), _) => RefreshOutcome::InstitutionDown,
        }
    }
}

/// What it is that happens.
impl World {
    /// One scheduled refresh; the request id its webhooks carry.
    pub(crate) fn scheduled_refresh(
        &mut self,
        now: i64,
        id: Uuid,
        outcome: RefreshOutcome,
    ) -> Result<Uuid, ControlError> {
        let request_id = self.uuid();
        let link = self.links.get_mut(&id).ok_or(ControlError::NoSuchLink(id))?;
        if link.access_mode != AccessMode::Recurrent {
            return Err(ControlError::NotRecurrent(id));
        }
        match outcome {
            RefreshOutcome::Ok if link.status != LinkStatus::Valid => return Err(ControlError::NotValid(id)),
            RefreshOutcome::Ok => {
                link.last_accessed_at = Some(now);
                link.failed_logins = 0;
                if !link.fresh_data {
                    return Ok(request_id);
                }
                let resources = link.fetch_resources.clone();
                link.collected.extend(resources.iter().cloned());
                for webhook in Webhook::new_data(link, &resources, request_id) {
                    self.post(now, now, webhook);
                }
            }
            RefreshOutcome::LoginError => {
                let failure = match &link.login {
                    Login::Fails(failure) => *failure,
                    _ => LoginFailure::InvalidCredentials,
                };
                link.login = Login::Fails(failure);
                // One refresh is several logins, one for each resource.
                link.failed_logins = link.failed_logins.max(self.rules.logins_until_invalid);
                link.status = LinkStatus::Invalid;
                let webhook = Webhook::invalid_credentials(link, request_id, failure.message());
                self.post(now, now, webhook);
            }
            RefreshOutcome::TokenRequired => {
                link.login = Login::TokenRequired;
                link.status = LinkStatus::TokenRequired;
                let webhook = Webhook::token_required(link, request_id);
                self.post(now, now, webhook);
            }
            RefreshOutcome::InstitutionDown => {}
        }
        Ok(request_id)
    }

    /// Gives a link its consent, or renews the one it has, until `ends_at` or for as long as consents last.
    pub(crate) fn give_consent(&mut self, now: i64, link_id: Uuid, ends_at: Option<i64>) {
        let expires_at = ends_at.unwrap_or_else(|| now + millis(CONSENT_LIFE));
        if let Some(consent) = self.consents.get_mut(&link_id) {
            consent.status = "AUTHORISED";
            consent.expires_at = expires_at;
        } else {
            let id = self.uuid();
            let consent = Consent { id, link_id, status: "AUTHORISED", created_at: now, expires_at, planned_end: None };
            self.consents.insert(link_id, consent);
        }
        self.plan_consent_end(link_id);
    }

    /// The consent will end in so long: CONSENT/`openfinance_consent_about_to_expire`.
    pub(crate) fn consent_about_to_expire(&mut self, now: i64, id: Uuid, within: Duration) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        consent.expires_at = now + millis(within);
        let webhook = consent.about_to_expire(link);
        self.post(now, now, webhook);
        self.plan_consent_end(id);
        Ok(())
    }

    /// The consent has ended: CONSENT/`openfinance_consent_expired`, for a recurrent link (webhook docs, Consents). That
    /// its link then reads `invalid` is inferred.
    pub(crate) fn expire_consent(&mut self, now: i64, id: Uuid) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        consent.status = "EXPIRED";
        consent.expires_at = now;
        link.status = LinkStatus::Invalid;
        link.login = Login::Fails(LoginFailure::MissingCredentials);
        let planned_end = consent.planned_end.take();
        let webhook = (link.access_mode == AccessMode::Recurrent).then(|| consent.expired(link));
        self.agenda.take_back(planned_end);
        if let Some(webhook) = webhook {
            self.post(now, now, webhook);
        }
        Ok(())
    }

    /// The user renewed it in Belvo's portal: CONSENT/`openfinance_consent_expiration_changed`, and a refresh.
    pub(crate) fn renew_consent(&mut self, now: i64, id: Uuid) -> Result<(), ControlError> {
        self.consent_of(id)?;
        self.heal(now, id);
        let (link, consent) = self.consent_of(id)?;
        let webhook = consent.expiration_changed(link);
        self.post(now, now, webhook);
        self.refresh_if_recurrent(now, id);
        Ok(())
    }

    /// The first of the month: every link is gone, without a word (sandbox docs).
    pub(crate) fn wipe(&mut self) -> usize {
        let count = self.links.len();
        self.links.clear();
        self.consents.clear();
        self.sessions.clear();
        self.tokens.clear();
        self.agenda.clear();
        count
    }

    fn consent_of(&mut self, id: Uuid) -> Result<(&mut Link, &mut Consent), ControlError> {
        let link = self.links.get_mut(&id).ok_or(ControlError::NoSuchLink(id))?;
        let consent = self.consents.get_mut(&id);
        consent.map(|consent| (link, consent)).ok_or(ControlError::NoConsent(id))
    }
}

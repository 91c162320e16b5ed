//! What Belvo does without being asked: scheduled refreshes, consents that end, the monthly wipe.
//!
//! Nothing here runs by a timer: the control handle says when, so that a test decides. These are the only places the
//! LINK and CONSENT webhooks come from.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clock::millis;
use super::consent::Consent;
use super::control::ControlError;
use super::link::{AccessMode, LinkStatus, Login, LoginFailure};
use super::webhook::Webhook;
use super::world::World;

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

    /// Gives a link its consent, or renews the one it has.
    pub(crate) fn give_consent(&mut self, now: i64, link_id: Uuid) {
        let expires_at = now + millis(CONSENT_LIFE);
        if let Some(consent) = self.consents.values_mut().find(|consent| consent.link_id == link_id) {
            consent.status = "AUTHORISED";
            consent.expires_at = expires_at;
            return;
        }
        let id = self.uuid();
        self.consents.insert(id, Consent { id, link_id, status: "AUTHORISED", created_at: now, expires_at });
    }

    /// The consent will end in so long: CONSENT/`openfinance_consent_about_to_expire`.
    pub(crate) fn consent_about_to_expire(&mut self, now: i64, id: Uuid, within: Duration) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        consent.expires_at = now + millis(within);
        let webhook = consent.about_to_expire(link);
        self.post(now, now, webhook);
        Ok(())
    }

    /// The consent has ended: CONSENT/`openfinance_consent_expired`. That its link then reads `invalid` is inferred.
    pub(crate) fn expire_consent(&mut self, now: i64, id: Uuid) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        consent.status = "EXPIRED";
        consent.expires_at = now;
        link.status = LinkStatus::Invalid;
        link.login = Login::Fails(LoginFailure::MissingCredentials);
        let webhook = consent.expired(link);
        self.post(now, now, webhook);
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
        count
    }

    fn consent_of(&mut self, id: Uuid) -> Result<(&mut super::link::Link, &mut Consent), ControlError> {
        let link = self.links.get_mut(&id).ok_or(ControlError::NoSuchLink(id))?;
        let consent = self.consents.values_mut().find(|consent| consent.link_id == id);
        consent.map(|consent| (link, consent)).ok_or(ControlError::NoConsent(id))
    }
}

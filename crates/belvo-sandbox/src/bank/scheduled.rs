//! Belvo's scheduled actions: refreshes, the end of a consent, and the monthly wipe.
//!
//! The actions happen at their time in the schedule, if the schedule is on, or on a call of the control API. Every LINK
//! webhook but `link_deleted` comes from here.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bank_answer::BankAnswer;
use crate::error::ControlError;
use crate::institution::Access;
use crate::link::{AccessMode, Link, LinkStatus};
use crate::login::LoginFailure;
use crate::schedule::Planned;
use crate::webhook::Webhook;
use crate::world::{Rules, World};

/// How the next scheduled refresh of a recurrent link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshOutcome {
    /// The refresh succeeded: `new_*_available` webhooks if there is new data.
    Ok,
    /// The bank refused the login: status `invalid`, webhook LINK/`invalid_credentials`.
    LoginError,
    /// The bank requires a token: status `token_required`, webhook LINK/`token_required`.
    TokenRequired,
    /// The bank is down: no webhook and no change.
    InstitutionDown,
}

/// Scheduled actions.
impl World {
    /// Performs all actions that are scheduled until `until`, each at its own time.
    pub(crate) fn do_what_is_due(&mut self, until: i64) {
        while let Some((now, planned)) = self.schedule.take_due(until) {
            match planned {
                Planned::Refresh(id) => {
                    self.plan_next_refresh(now, id);
                    self.refresh_by_itself(now, id);
                }
                Planned::FirstHistory(id) => self.first_history(now, id),
                // The only possible error is a deleted consent, whose entry is removed with it.
                Planned::ConsentEnd(id) => drop(self.expire_consent(now, id)),
                Planned::Wipe => {
                    self.wipe();
                    self.plan_wipe(now);
                }
            }
        }
    }

    /// A scheduled refresh. The outcome is the bank's answer or, if the link is broken already, the status of the link:
    /// then the same webhook is sent again with another request id.
    fn refresh_by_itself(&mut self, now: i64, id: Uuid) {
        let repeats = self.rules.repeats_while_broken;
        let Some(link) = self.links.get(&id) else { return };
        let is_broken = link.status != LinkStatus::Valid;
        if is_broken && (!repeats || link.institution.access == Access::Consent) {
            return;
        }
        let outcome = match link.status {
            LinkStatus::Valid => link.scheduled_outcome(),
            LinkStatus::Invalid => RefreshOutcome::LoginError,
            LinkStatus::TokenRequired => RefreshOutcome::TokenRequired,
            LinkStatus::Unconfirmed => return,
        };
        let consent = self.consents.get(&id).filter(|_| self.rules.consent_warnings);
        if let Some(consent) = consent.filter(|consent| consent.expires_at - now <= Rules::CONSENT_WARNING_MS) {
            let webhook = consent.about_to_expire(link);
            self.post(now, now, webhook);
        }
        let refreshed = self.scheduled_refresh(now, id, outcome);
        debug_assert!(refreshed.is_ok(), "the link is there, recurrent, and its outcome possible: {refreshed:?}");
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
    /// The outcome of a scheduled refresh at this bank.
    fn scheduled_outcome(&self) -> RefreshOutcome {
        match (&self.login, self.institution.access) {
            (BankAnswer::Works, Access::Token) | (BankAnswer::TokenRequired | BankAnswer::QrRequired, _) => {
                RefreshOutcome::TokenRequired
            }
            (BankAnswer::Works, _) => RefreshOutcome::Ok,
            // A consent has no credentials; "try again later" says nothing about credentials.
            (BankAnswer::Fails(_), Access::Consent) | (BankAnswer::Fails(LoginFailure::Unexpected), _) => {
                RefreshOutcome::InstitutionDown
            }
            (BankAnswer::Fails(_), _) => RefreshOutcome::LoginError,
            (BankAnswer::Answers(_), _) => RefreshOutcome::InstitutionDown,
        }
    }
}

/// One refresh, and the wipe.
impl World {
    /// One scheduled refresh; returns the request id of its webhooks.
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
                    BankAnswer::Fails(failure) => *failure,
                    _ => LoginFailure::InvalidCredentials,
                };
                // Belvo does not log in for a broken link again, so the bank's answer does not change.
                if link.status != LinkStatus::Invalid {
                    link.login = BankAnswer::Fails(failure);
                }
                // One refresh is several logins, one for each resource.
                link.failed_logins = link.failed_logins.max(self.rules.logins_until_invalid);
                link.status = LinkStatus::Invalid;
                let webhook = Webhook::invalid_credentials(link, request_id, failure.message());
                self.post(now, now, webhook);
            }
            RefreshOutcome::TokenRequired => {
                if link.status != LinkStatus::TokenRequired && !matches!(link.login, BankAnswer::QrRequired) {
                    link.login = BankAnswer::TokenRequired;
                }
                link.status = LinkStatus::TokenRequired;
                let webhook = Webhook::token_required(link, request_id);
                self.post(now, now, webhook);
            }
            RefreshOutcome::InstitutionDown => {}
        }
        Ok(request_id)
    }

    /// The monthly wipe: deletes every link without a webhook (sandbox docs).
    pub(crate) fn wipe(&mut self) -> usize {
        let count = self.links.len();
        self.links.clear();
        self.consents.clear();
        self.sessions.clear();
        self.tokens.clear();
        self.schedule.clear();
        count
    }
}

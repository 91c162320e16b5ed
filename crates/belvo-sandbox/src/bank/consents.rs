//! The start, end and renewal of consents.

use std::time::Duration;

use uuid::Uuid;

use crate::bank_answer::BankAnswer;
use crate::clock::millis;
use crate::consent::{AUTHORISED, Consent, ConsentLack, EXPIRED};
use crate::error::ControlError;
use crate::link::{AccessMode, Link, LinkStatus};
use crate::login::LoginFailure;
use crate::world::World;

/// The default duration of a consent.
const CONSENT_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

impl World {
    /// Gives a link a consent or renews it, until `ends_at` or for the default duration.
    pub(crate) fn give_consent(&mut self, now: i64, link_id: Uuid, ends_at: Option<i64>) {
        let expires_at = ends_at.unwrap_or_else(|| now + millis(CONSENT_LIFE));
        if let Some(consent) = self.consents.get_mut(&link_id) {
            consent.status = AUTHORISED;
            consent.expires_at = expires_at;
        } else {
            let id = self.uuid();
            let consent = Consent { id, link_id, status: AUTHORISED, created_at: now, expires_at, planned_end: None };
            self.consents.insert(link_id, consent);
        }
        self.plan_consent_end(link_id);
    }

    /// Gives a link the consent that it had before a restart.
    pub(crate) fn restore_consent(&mut self, consent: Consent) {
        let link_id = consent.link_id;
        let planned = self.consents.remove(&link_id).and_then(|given| given.planned_end);
        self.schedule.take_back(planned);
        let holds = consent.status == AUTHORISED;
        self.consents.insert(link_id, consent);
        if holds {
            self.plan_consent_end(link_id);
        }
    }

    /// Sets the end of the consent to `within` from now: CONSENT/`openfinance_consent_about_to_expire`.
    pub(crate) fn consent_about_to_expire(&mut self, now: i64, id: Uuid, within: Duration) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        consent.expires_at = now + millis(within);
        let webhook = consent.about_to_expire(link);
        self.post(now, now, webhook);
        self.plan_consent_end(id);
        Ok(())
    }

    /// The consent has ended: CONSENT/`openfinance_consent_expired`, for a recurrent link (webhook docs, Consents). The
    /// docs do not say that the status of the link then is `invalid`; this is inferred.
    pub(crate) fn expire_consent(&mut self, now: i64, id: Uuid) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        consent.status = EXPIRED;
        consent.expires_at = now;
        link.status = LinkStatus::Invalid;
        link.login = BankAnswer::Fails(LoginFailure::MissingCredentials);
        let planned_end = consent.planned_end.take();
        let webhook = (link.access_mode == AccessMode::Recurrent).then(|| consent.expired(link));
        self.schedule.take_back(planned_end);
        if let Some(webhook) = webhook {
            self.post(now, now, webhook);
        }
        Ok(())
    }

    /// Makes some of its resources unavailable; the link does not change.
    pub(crate) fn lose_resources(&mut self, now: i64, id: Uuid, lack: ConsentLack) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        let webhook = consent.lacks_resources(link, lack);
        self.post(now, now, webhook);
        Ok(())
    }

    /// The user renewed the consent in Belvo's portal: CONSENT/`openfinance_consent_expiration_changed`, and a refresh.
    pub(crate) fn renew_consent(&mut self, now: i64, id: Uuid) -> Result<(), ControlError> {
        self.consent_of(id)?;
        self.make_valid(now, id);
        self.give_consent(now, id, None);
        let (link, consent) = self.consent_of(id)?;
        let webhook = consent.expiration_changed(link);
        self.post(now, now, webhook);
        self.refresh_if_recurrent(now, id);
        Ok(())
    }

    fn consent_of(&mut self, id: Uuid) -> Result<(&mut Link, &mut Consent), ControlError> {
        let link = self.links.get_mut(&id).ok_or(ControlError::NoSuchLink(id))?;
        let consent = self.consents.get_mut(&id);
        consent.map(|consent| (link, consent)).ok_or(ControlError::NoConsent(id))
    }
}

//! Open-finance consents (Brazil): the permission behind a link of `ofmockbank_br_retail`.
//!
//! One consent belongs to one link. A consent ends by its date; the user renews it in Belvo's portal, for which the
//! CONSENT webhook carries every parameter. Next: [`super::agenda`], where its end is planned.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::agenda::Slot;
use super::clock::{belvo_time, millis};
use super::control::ControlError;
use super::link::{AccessMode, Link, LinkStatus, LoginFailure};
use super::verdict::Verdict;
use super::webhook::Webhook;
use super::world::World;

/// How long a consent runs when it is given or renewed.
const CONSENT_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// One consent (API reference, consents).
#[derive(Clone, Debug)]
pub(crate) struct Consent {
    pub(crate) id: Uuid,
    pub(crate) link_id: Uuid,
    pub(crate) status: &'static str,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    /// Where its end is in the agenda.
    pub(crate) planned_end: Option<Slot>,
}

/// How a consent cannot be used in full, although it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsentLack {
    /// Some resources are gone for good.
    Unrecoverable,
    /// Some resources cannot be had for now.
    TemporarilyUnavailable,
}

impl ConsentLack {
    fn code(self) -> &'static str {
        match self {
            Self::Unrecoverable => "openfinance_consent_with_unrecoverable_resources",
            Self::TemporarilyUnavailable => "openfinance_consent_with_temporarily_unavailable_resources",
        }
    }
}

/// The logo of the only institution that has consents here.
const LOGO: &str = "https://statics.belvo.io/widget/images/institutions/ofmockbank.svg";

impl Consent {
    /// As `GET /api/consents/` lists it.
    pub(crate) fn to_json(&self, link: Option<&Link>) -> Value {
        json!({
            "id": self.id,
            "link_id": self.link_id,
            "display_name": "Ralph Bragg",
            "document_number": "76109277673",
            "user_name": "Ralph Bragg",
            "belvo_organization_name": "ACME Corporation",
            "belvo_institution_name": link.map(|link| link.institution.name),
            "institution_display_name": link.map(|link| link.institution.display_name),
            "institution_icon_logo": LOGO,
            "status": self.status,
            "created_at": belvo_time(self.created_at),
            "expired_at": belvo_time(self.expires_at),
            "undefined_consent_expiration": false,
            "consent_duration": 366,
            "permissions": {"REGISTER": ["CUSTOMERS_PERSONAL_IDENTIFICATIONS_READ"], "ACCOUNTS": ["ACCOUNTS_READ"]},
        })
    }

    /// CONSENT family, opt-in: at a refresh, when the consent ends within seven days of it (webhook docs, Consents).
    pub(crate) fn about_to_expire(&self, link: &Link) -> Webhook {
        let mut data = self.renewal(link);
        data["consent_due_date"] = json!(belvo_time(self.expires_at));
        self.webhook(link, "openfinance_consent_about_to_expire", data)
    }

    /// CONSENT family: it has ended (webhook docs, Consents).
    pub(crate) fn expired(&self, link: &Link) -> Webhook {
        self.webhook(link, "openfinance_consent_expired", self.renewal(link))
    }

    /// CONSENT family: its end has moved. Only the name is documented.
    pub(crate) fn expiration_changed(&self, link: &Link) -> Webhook {
        let data = json!({"consent_id": self.id, "consent_due_date": belvo_time(self.expires_at)});
        self.webhook(link, "openfinance_consent_expiration_changed", data)
    }

    /// CONSENT family: some of its resources cannot be had, for now or for good. Only the names are documented.
    pub(crate) fn lacks_resources(&self, link: &Link, lack: ConsentLack) -> Webhook {
        self.webhook(link, lack.code(), json!({"consent_id": self.id}))
    }

    fn renewal(&self, link: &Link) -> Value {
        json!({
            "consent_id": self.id,
            "action": "renew",
            "institution": link.institution.name,
            "institution_display_name": link.institution.display_name,
            "institution_icon_logo": LOGO,
        })
    }

    fn webhook(&self, link: &Link, code: &str, data: Value) -> Webhook {
        Webhook {
            webhook_type: "CONSENT".into(),
            process_type: Some("recurrent_update".into()),
            webhook_code: code.into(),
            link_id: link.id,
            // The examples of this family have none.
            request_id: None,
            external_id: link.external_id.clone(),
            data,
        }
    }
}

impl World {
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
        link.login = Verdict::Fails(LoginFailure::MissingCredentials);
        let planned_end = consent.planned_end.take();
        let webhook = (link.access_mode == AccessMode::Recurrent).then(|| consent.expired(link));
        self.agenda.take_back(planned_end);
        if let Some(webhook) = webhook {
            self.post(now, now, webhook);
        }
        Ok(())
    }

    /// Some of its resources cannot be had: the link is as it was.
    pub(crate) fn lose_resources(&mut self, now: i64, id: Uuid, lack: ConsentLack) -> Result<(), ControlError> {
        let (link, consent) = self.consent_of(id)?;
        let webhook = consent.lacks_resources(link, lack);
        self.post(now, now, webhook);
        Ok(())
    }

    /// The user renewed it in Belvo's portal: CONSENT/`openfinance_consent_expiration_changed`, and a refresh.
    pub(crate) fn renew_consent(&mut self, now: i64, id: Uuid) -> Result<(), ControlError> {
        self.consent_of(id)?;
        self.heal(now, id);
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

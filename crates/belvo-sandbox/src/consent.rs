//! Open-finance consents (Brazil): the permission behind a link of `ofmockbank_br_retail`.
//!
//! One consent belongs to one link. A consent ends by its date; the user renews it in Belvo's portal, for which the
//! CONSENT webhook carries every parameter. Next: [`super::schedule`], where its end is planned.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::belvo_time;
use crate::link::Link;
use crate::schedule::Slot;
use crate::webhook::Webhook;

/// One consent (API reference, consents).
#[derive(Clone, Debug)]
pub(crate) struct Consent {
    pub(crate) id: Uuid,
    pub(crate) link_id: Uuid,
    pub(crate) status: &'static str,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    /// The schedule entry of its end.
    pub(crate) planned_end: Option<Slot>,
}

/// The status of a consent that holds.
pub(crate) const AUTHORISED: &str = "AUTHORISED";

/// The status of a consent that has ended.
pub(crate) const EXPIRED: &str = "EXPIRED";

impl Consent {
    /// What a restart of the sandbox keeps.
    pub(crate) fn kept(&self) -> Value {
        let Self { id, status, created_at, expires_at, .. } = self;
        json!({"id": id, "status": status, "created_at_ms": created_at, "expires_at_ms": expires_at})
    }

    /// The consent of a link that [`Self::kept`] described. `None`: it cannot be read.
    pub(crate) fn of_kept(link_id: Uuid, kept: &Value) -> Option<Self> {
        let status = [AUTHORISED, EXPIRED].into_iter().find(|status| kept["status"] == *status)?;
        let [created_at, expires_at] = ["created_at_ms", "expires_at_ms"].map(|field| kept[field].as_i64());
        let id = kept["id"].as_str()?.parse().ok()?;
        Some(Self { id, link_id, status, created_at: created_at?, expires_at: expires_at?, planned_end: None })
    }
}

/// A restriction of a valid consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsentLack {
    /// Some resources are permanently unavailable.
    Unrecoverable,
    /// Some resources are temporarily unavailable.
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

    /// CONSENT family: its end date has changed. Only the name is documented.
    pub(crate) fn expiration_changed(&self, link: &Link) -> Webhook {
        let data = json!({"consent_id": self.id, "consent_due_date": belvo_time(self.expires_at)});
        self.webhook(link, "openfinance_consent_expiration_changed", data)
    }

    /// CONSENT family: some of its resources are unavailable, temporarily or permanently. Only the names are documented.
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
            // Belvo's examples of this family have no value here.
            request_id: None,
            external_id: link.external_id.clone(),
            data,
        }
    }
}

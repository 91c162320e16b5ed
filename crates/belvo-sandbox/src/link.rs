//! A link, with the data that Belvo keeps.
//!
//! Belvo's `status` has four values and no reason. The bank's answer to the next login is not visible: a test sets it, and the
//! API shows it only in the responses to logins. Next: [`super::bank`], which attempts logins.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strum::{EnumString, IntoStaticStr};
use uuid::Uuid;

use crate::bank_answer::BankAnswer;
use crate::clock::{belvo_time, millis};
use crate::institution::{Access, Institution};
use crate::quota::Quota;
use crate::schedule::Slot;

/// Belvo's status of a link (API reference, Links).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LinkStatus {
    /// Belvo can log in.
    Valid,
    /// Several logins failed; only the user can repair the link.
    Invalid,
    /// The creation was never completed.
    Unconfirmed,
    /// The bank requires a one-time token.
    TokenRequired,
}

impl LinkStatus {
    /// The name in Belvo's API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Whether Belvo refreshes a link by itself (API reference, Links).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AccessMode {
    /// Only on request.
    Single,
    /// On a schedule, `refresh_rate`.
    Recurrent,
}

/// How often Belvo refreshes a recurrent link (API reference, Links).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr)]
pub enum RefreshRate {
    /// `6h`
    #[serde(rename = "6h")]
    #[strum(serialize = "6h")]
    SixHours,
    /// `12h`
    #[serde(rename = "12h")]
    #[strum(serialize = "12h")]
    TwelveHours,
    /// `24h`
    #[serde(rename = "24h")]
    #[strum(serialize = "24h")]
    Day,
    /// `7d`, the default.
    #[default]
    #[serde(rename = "7d")]
    #[strum(serialize = "7d")]
    Week,
    /// `30d`
    #[serde(rename = "30d")]
    #[strum(serialize = "30d")]
    ThirtyDays,
}

impl RefreshRate {
    /// The time from one scheduled refresh to the next, in milliseconds.
    pub(crate) fn span_ms(self) -> i64 {
        let hours = match self {
            Self::SixHours => 6,
            Self::TwelveHours => 12,
            Self::Day => 24,
            Self::Week => 7 * 24,
            Self::ThirtyDays => 30 * 24,
        };
        hours * 3_600 * 1_000
    }
}

/// The time for which Belvo stores the credentials (`credentials_storage`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Store,
    NoStore,
    Days(u16),
}

impl Storage {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "store" => Some(Self::Store),
            "nostore" => Some(Self::NoStore),
            text => text.strip_suffix('d')?.parse().ok().filter(|days| (1..=365).contains(days)).map(Self::Days),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Store => "store".into(),
            Self::NoStore => "nostore".into(),
            Self::Days(days) => format!("{days}d"),
        }
    }

    /// The time after which the credentials are deleted.
    fn life_ms(self) -> Option<i64> {
        let minutes = |count: u64| Some(millis(std::time::Duration::from_secs(count * 60)));
        match self {
            Self::Store => None,
            Self::NoStore => minutes(15),
            Self::Days(days) => minutes(u64::from(days) * 24 * 60),
        }
    }
}

/// Whether `stale_in` can be read: a number of days, such as `365d` (API reference, Links: `^\d{1,3}d$`).
pub(crate) fn is_stale_in(text: &str) -> bool {
    let days = text.strip_suffix('d').unwrap_or_default();
    (1..=3).contains(&days.len()) && days.bytes().all(|digit| digit.is_ascii_digit())
}

/// One link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) id: Uuid,
    /// The number in the order of creation; lists show the newest link first.
    pub(crate) seq: u64,
    pub(crate) institution: &'static Institution,
    pub(crate) access_mode: AccessMode,
    pub(crate) status: LinkStatus,
    /// Only a recurrent link has one.
    pub(crate) refresh_rate: Option<RefreshRate>,
    pub(crate) created_at: i64,
    pub(crate) last_accessed_at: Option<i64>,
    pub(crate) external_id: Option<String>,
    pub(crate) institution_user_id: String,
    pub(crate) storage: Storage,
    pub(crate) stored_at: i64,
    pub(crate) stale_in: String,
    pub(crate) fetch_resources: Vec<String>,
    /// The bank's answer to the next login.
    pub(crate) login: BankAnswer,
    /// Whether a refresh finds new data. A refresh after a repair may find none.
    pub(crate) fresh_data: bool,
    pub(crate) failed_logins: u32,
    pub(crate) refreshed_at: Option<i64>,
    /// Resources that have been collected, and can be listed.
    pub(crate) collected: BTreeSet<String>,
    /// The use of its monthly limits, if it has a consent.
    pub(crate) quota: Quota,
    /// The open MFA session: at most one, because a new session voids the old one.
    pub(crate) session: Option<String>,
    /// The schedule entry of its next scheduled refresh.
    pub(crate) planned_refresh: Option<Slot>,
    /// The schedule entry of its first history, if it has just become recurrent.
    pub(crate) planned_history: Option<Slot>,
}

impl Link {
    /// Whether the credentials are still stored. A consent needs none.
    pub(crate) fn has_credentials(&self, now: i64) -> bool {
        let is_consent = self.institution.access == Access::Consent;
        is_consent || self.storage.life_ms().is_none_or(|life| now < self.stored_at.saturating_add(life))
    }

    /// The JSON of the link in Belvo's API: without a reason for the status, and without the time of its change.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "institution": self.institution.name,
            "access_mode": self.access_mode,
            "status": self.status,
            "refresh_rate": self.refresh_rate,
            "created_by": CREATED_BY,
            "last_accessed_at": self.last_accessed_at.map(belvo_time),
            "external_id": self.external_id,
            "created_at": belvo_time(self.created_at),
            "institution_user_id": self.institution_user_id,
            "credentials_storage": self.storage.text(),
            "stale_in": self.stale_in,
            "fetch_resources": self.fetch_resources,
        })
    }
}

/// The one API user of this sandbox.
pub(crate) const CREATED_BY: &str = "6e9b0d6d-2b1d-4f62-8f4a-6a0d5c1f7e21";

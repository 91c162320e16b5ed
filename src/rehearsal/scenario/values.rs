//! The values of a scenario file: spans, calls, codes, and the names of fixed lists.
//!
//! An error message here that begins with "must" is printed after the name of its field: see [`super::table`].

use std::collections::BTreeMap;
use std::time::Duration;

use belvo_sandbox::{ApiFault, ControlError, Login};
use serde::Deserialize;
use serde_json::Value;
use strum::{IntoStaticStr, VariantArray};

/// A time span, such as `200ms`, `5s` or `7d`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Span(pub(super) Duration);

impl TryFrom<String> for Span {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        humantime::parse_duration(&text).map(Self).map_err(|_| "must be a span such as 200ms, 5s or 7d")
    }
}

/// The number of failed logins that make a link `invalid`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub(super) struct Logins(pub(super) u32);

impl TryFrom<i64> for Logins {
    type Error = &'static str;

    fn try_from(count: i64) -> Result<Self, Self::Error> {
        let count = u32::try_from(count).ok().filter(|&count| count > 0);
        count.map(Self).ok_or("must be a number, 1 or more")
    }
}

/// The value `true`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "bool")]
pub(super) struct True;

impl TryFrom<bool> for True {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<Self, Self::Error> {
        if value { Ok(Self) } else { Err("must be true") }
    }
}

/// A call of Belvo's API, `METHOD /path/`; `{link}` in the path is replaced by the id.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) path: String,
}

impl TryFrom<String> for Call {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once(' ') {
            Some((method, path)) if path.starts_with("/api/") && ["GET", "POST"].contains(&method) => {
                Ok(Self { method: method.to_owned(), path: path.to_owned() })
            }
            Some(_) | None => Err("must be a GET or POST such as `POST /api/accounts/`"),
        }
    }
}

/// The required response of a call, such as `428 token_required`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Answered {
    pub(super) status: u16,
    /// The code of the first error.
    pub(super) code: Option<String>,
}

impl TryFrom<String> for Answered {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (status, code) = text.split_once(' ').map_or((text.as_str(), None), |(status, code)| (status, Some(code)));
        let status = status.parse().map_err(|_| "must be such as `428 token_required`")?;
        Ok(Self { status, code: code.map(str::to_owned) })
    }
}

/// An HTTP error status.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub(super) struct ErrorStatus(pub(super) u16);

impl TryFrom<i64> for ErrorStatus {
    type Error = &'static str;

    fn try_from(status: i64) -> Result<Self, Self::Error> {
        let status = u16::try_from(status).ok().filter(|status| (400..600).contains(status));
        status.map(Self).ok_or("must be a status from 400 to 599")
    }
}

/// The bank's answer to a login; an undocumented code is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct BankAnswer(pub(super) Login);

impl TryFrom<String> for BankAnswer {
    type Error = ControlError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let login = Login::from_name(&name);
        login.check().map(|()| Self(login))
    }
}

/// A code of Belvo's error reference.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ErrorCode(pub(super) ApiFault);

impl TryFrom<String> for ErrorCode {
    type Error = ControlError;

    fn try_from(code: String) -> Result<Self, Self::Error> {
        let fault = ApiFault::Error(code);
        fault.check().map(|()| Self(fault))
    }
}

/// The types of notice. Any other name in a file is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum Notice {
    UpdateRequired,
    Reminder,
    UpdateStarted,
    UpdateFailed,
    Superseded,
    CreationUnfinished,
    Recovered,
    RefreshDue,
    DataAvailable,
    Refreshed,
    ConsentExpiring,
    Stale,
    InstitutionDown,
    InstitutionRestored,
    Removed,
}

impl Notice {
    /// Whether every notice of this type counts. `data_available` counts only where a file names it, because the amount of
    /// data depends on the bank.
    pub(super) fn is_counted(self) -> bool {
        self != Self::DataAvailable
    }
}

/// relink's state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum State {
    Unconfirmed,
    Valid,
    Invalid,
    TokenRequired,
    Updating,
    Removed,
}

/// Belvo's status of a link; `gone` for a deleted link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum BelvoStatus {
    Valid,
    Invalid,
    Unconfirmed,
    TokenRequired,
    Gone,
}

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum Refusal {
    Repeated,
    AlreadyKnown,
    Outdated,
    Removed,
    NotUpdating,
    DataWithErrors,
    CreationOnly,
    CannotVerify,
    NotBroken,
    NotASuccessor,
    SupersedeOff,
    NotDue,
    NotAboutTheLink,
    Unknown,
}

/// A message about an institution's incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum IncidentChange {
    Began,
    Ended,
    Degraded,
    Recovered,
}

/// The status of an institution on Belvo's status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum PageStatus {
    Operational,
    PartialOutage,
    MajorOutage,
}

/// The required number of notices of each type since the start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>")]
pub(super) struct Counts(pub(super) BTreeMap<Notice, usize>);

impl TryFrom<BTreeMap<String, Value>> for Counts {
    type Error = String;

    fn try_from(counts: BTreeMap<String, Value>) -> Result<Self, Self::Error> {
        let all = || Notice::VARIANTS.iter().map(<&'static str>::from).collect::<Vec<_>>().join(", ");
        let read = |(name, count): (String, Value)| {
            let notice = Notice::VARIANTS.iter().find(|notice| <&'static str>::from(*notice) == name);
            let notice = notice.ok_or_else(|| format!("there is no notice `{name}`, only {}", all()))?;
            let count = count.as_u64().and_then(|count| usize::try_from(count).ok());
            Ok((*notice, count.ok_or_else(|| format!("`{name}` must be a number, 0 or more"))?))
        };
        counts.into_iter().map(read).collect::<Result<_, String>>().map(Self)
    }
}

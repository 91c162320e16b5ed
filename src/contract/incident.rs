//! Messages to operations about an institution that does not work: an incident, in which prompts are deferred, or trouble without one.
//!
//! The last message of an institution is also the durable record of its state; the store keeps a copy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::output::Origin;
use super::rfc3339::At;
use crate::institution::{Cause, State};
use crate::link::LINK_ID_LENGTH_MAX;

/// Body of `link.incident.<institution>`: the state of an institution has changed.
///
/// An incident begins when the institution is down, and ends when it is not. During an incident the prompts of its links are deferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Incident")]
pub struct IncidentBody {
    /// What has changed.
    #[serde(rename = "type")]
    pub change: IncidentChange,
    /// The evidence. Messages of relink 0.2 have no cause; there it was always `failing_links`.
    #[serde(default)]
    pub cause: IncidentCause,
    /// Belvo's name of the institution.
    pub institution: String,
    /// When it changed.
    pub at: At,
    /// When the incident, or the trouble, began. Together with the institution it identifies the incident.
    pub began_at: At,
    /// `began`: how many links had failed within the window; with the cause `outage_errors`, how many links had such an error;
    /// with `status_page` 0. `ended`: this number, and the links that failed during the incident. A restart of relink can make the
    /// second number too small.
    pub links_count: u64,
    /// `ended`: how many prompts were deferred. A restart of relink can make the number too small.
    #[serde(alias = "held_count")]
    pub deferred_count: u64,
    /// How many links have to fail, or to have an outage error, within the window to be an incident. 0 with the cause `status_page`.
    pub threshold: u64,
    /// The length of the window.
    pub window_seconds: u64,
    /// The message, or the timer, that led to it.
    pub because: IncidentBecause,
}

/// How the state of an institution has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum IncidentChange {
    /// The institution is down. Prompts of its links are deferred.
    Began,
    /// It is no longer down. The deferred prompts that are still needed are published.
    Ended,
    /// Something does not work at the institution, but no incident begins. Prompts are sent.
    Degraded,
    /// It works again after `degraded`.
    Recovered,
}

/// The evidence that an institution does not work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum IncidentCause {
    /// Many links of the institution failed within the window, so the institution is the most likely cause.
    #[default]
    FailingLinks,
    /// Belvo's API answered the calls about several links with `institution_down`, `institution_unavailable` or
    /// `institution_inactive`.
    OutageErrors,
    /// Belvo's status page reports an outage.
    StatusPage,
}

impl IncidentCause {
    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl From<Cause> for IncidentCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::FailingLinks => Self::FailingLinks,
            Cause::OutageErrors => Self::OutageErrors,
            Cause::StatusPage => Self::StatusPage,
        }
    }
}

impl From<IncidentCause> for Cause {
    fn from(cause: IncidentCause) -> Self {
        match cause {
            IncidentCause::FailingLinks => Self::FailingLinks,
            IncidentCause::OutageErrors => Self::OutageErrors,
            IncidentCause::StatusPage => Self::StatusPage,
        }
    }
}

impl IncidentChange {
    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The state of the institution after it.
    pub const fn state(self) -> State {
        match self {
            Self::Began => State::Down,
            Self::Degraded => State::Degraded,
            Self::Ended | Self::Recovered => State::Operational,
        }
    }
}

/// The reason why the state of an institution changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentBecause {
    /// `began`: the link whose failure, or whose outage error, reached the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// The message, or the timer, that led to it.
    pub origin: Origin,
}

impl IncidentBody {
    /// The id of the message. It is the same if the same input is planned again.
    pub fn message_id(&self) -> String {
        let token = institution_token(&self.institution);
        format!("incident.{token}.{}.{}", self.began_at.0.as_millis(), self.change.as_str())
    }
}

/// The name of an institution as one token of a subject. All names of Belvo are tokens already. Any other name is cut
/// to safe characters and gets a hash, so that two institutions never share a subject.
pub fn institution_token(institution: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=LINK_ID_LENGTH_MAX).contains(&institution.len()) && institution.chars().all(is_safe) {
        return institution.to_owned();
    }
    let readable: String = institution.chars().map(|c| if is_safe(c) { c } else { '_' }).take(40).collect();
    format!("{readable}-{:016x}", fnv1a(institution.as_bytes()))
}

/// FNV-1a, 64 bits: a hash that is the same in every version and on every machine.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_safe_and_unique() {
        assert_eq!(institution_token("erebor_mx_retail"), "erebor_mx_retail");
        let long = "x".repeat(65);
        let odd = ["", "erebor.mx", "erebor mx", "erebor_mx\n", ">", "Itaú", &long];
        let tokens: std::collections::BTreeSet<String> = odd.iter().map(|name| institution_token(name)).collect();
        assert_eq!(tokens.len(), odd.len());
        for token in tokens {
            assert!(token.len() <= LINK_ID_LENGTH_MAX, "{token}");
            assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "{token}");
        }
    }
}

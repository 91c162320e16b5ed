//! Messages to operations about an incident, in which many links of one institution fail together.
//!
//! The last message of an institution is also the durable record of whether it has an incident; the store keeps a copy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::output::Origin;
use super::rfc3339::At;
use crate::link::LINK_ID_LENGTH_MAX;

/// Body of `link.incident.<institution>`: an incident has begun or has ended.
///
/// During an incident many links of the institution fail together, and their prompts are deferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Incident")]
pub struct IncidentBody {
    /// Whether the incident begins or ends.
    #[serde(rename = "type")]
    pub change: IncidentChange,
    /// Belvo's name of the institution.
    pub institution: String,
    /// When the incident began or ended.
    pub at: At,
    /// When the incident began. Together with the institution it identifies the incident.
    pub began_at: At,
    /// `began`: how many links had failed within the window. `ended`: how many links had failed during the incident. A
    /// restart of relink can make the second number too small.
    pub links_count: u64,
    /// `ended`: how many prompts were deferred. A restart of relink can make the number too small.
    #[serde(alias = "held_count")]
    pub deferred_count: u64,
    /// How many links have to fail within the window to be an incident.
    pub threshold: u64,
    /// The length of the window.
    pub window_seconds: u64,
    /// The message, or the timer, that led to it.
    pub because: IncidentBecause,
}

/// Whether an incident begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum IncidentChange {
    /// Many links of the institution failed within the window, so the institution is the most likely cause.
    Began,
    /// Few links failed for a whole window. The deferred prompts that are still needed are published.
    Ended,
}

impl IncidentChange {
    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The reason why an incident began or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentBecause {
    /// `began`: the link whose failure reached the threshold.
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

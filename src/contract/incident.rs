//! An institution's incident: what operations is told when many links of one institution fail together, and when that
//! is over.
//!
//! The last message of an institution is also the durable record of whether its incident is on; the store keeps a copy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::output::Origin;
use super::words::At;
use crate::link::LINK_ID_LENGTH_MAX;

/// Body of `link.incident.<institution>`: many links of one institution fail together, or no longer do.
///
/// One message when it begins and one when it ends. While it is on, its links' prompts wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Incident")]
pub struct IncidentBody {
    /// Whether it begins or ends.
    #[serde(rename = "type")]
    pub change: IncidentChange,
    /// Belvo's name of the institution, as its links have it.
    pub institution: String,
    /// When that was.
    pub at: At,
    /// When it began: with the institution, its identity.
    pub began_at: At,
    /// `began`: how many links had failed within the window. `ended`: how many had failed in all; at least, if relink
    /// was restarted meanwhile.
    pub links_count: u64,
    /// `ended`: how many of them had their prompt held; at least, if relink was restarted meanwhile.
    pub deferred_count: u64,
    /// How many links have to fail within the window to be an incident.
    pub threshold: u64,
    /// The window.
    pub window_seconds: u64,
    /// Why this was sent.
    pub because: IncidentBecause,
}

/// Whether an incident begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentChange {
    /// So many links failed together that it is not their users' doing.
    Began,
    /// For a whole window few links failed. The prompts that are still needed go out.
    Ended,
}

/// What made an incident begin or end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentBecause {
    /// `began`: the link whose failure made it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Where the news came from.
    pub origin: Origin,
}

impl IncidentChange {
    /// The spelling in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Ended => "ended",
        }
    }
}

impl IncidentBody {
    /// The id of the message: the same whenever the same incident is told.
    pub fn message_id(&self) -> String {
        let token = institution_token(&self.institution);
        format!("incident.{token}.{}.{}", self.began_at.0.as_millis(), self.change.as_str())
    }
}

/// An institution as a token of a subject: itself if it may be one, as all of Belvo's names may; else as much of it as
/// may, and a hash, so that two institutions never share a subject.
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
    fn a_token_is_safe_readable_and_nobody_elses() {
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

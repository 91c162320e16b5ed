//! Readers of Belvo's bodies: the webhook envelope, the link resource and the consent. `error_body` reads errors.
//!
//! Belvo's bodies have changed over the years, and Belvo may add values to its enums. So only the necessary fields are
//! required; every other field may be missing, null or of another type. `classify` decides the meaning of a body.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::{text, text_of};
use super::optional::{self, FieldValue};
use crate::contract::limits::{RESOURCE_BYTES_MAX, RESOURCES_MAX};
use crate::link::{AccessMode, Consent, Due, LinkId, Timestamp};

pub mod data;
pub(super) mod usual;
pub mod webhook;

/// The link resource ("API reference: links").
#[derive(Clone)]
pub struct LinkResource {
    /// `id`.
    pub id: Option<LinkId>,
    /// `status`: a text, because Belvo may add values.
    pub status: Option<String>,
    /// `institution`.
    pub institution: Option<String>,
    /// `institution_user_id`.
    pub institution_user_id: Option<String>,
    /// `created_at`.
    pub created_at: Option<Timestamp>,
    /// `access_mode`; `None` for null and for unknown values.
    pub access_mode: Option<AccessMode>,
    /// `refresh_rate`, such as `6h` or `7d`; null for single links.
    pub refresh_every: Option<Duration>,
    /// `last_accessed_at`: Belvo's last successful access.
    pub last_accessed_at: Option<Timestamp>,
    /// `external_id`.
    pub external_id: Option<String>,
    /// `fetch_resources`, in capitals, sorted, without repeats.
    pub fetch_resources: Vec<String>,
}

impl LinkResource {
    /// Reads a link resource that was received at `received_at`.
    pub fn parse(body: &Map<String, Value>, received_at: Timestamp) -> Self {
        let access_mode = text(body, "access_mode").and_then(|mode| match mode.as_str() {
            "single" => Some(AccessMode::Single),
            "recurrent" => Some(AccessMode::Recurrent),
            _unknown => None,
        });
        let listed = body.get("fetch_resources").and_then(Value::as_array).into_iter().flatten().take(RESOURCES_MAX);
        let names = listed.filter_map(text_of).filter(|name| name.len() <= RESOURCE_BYTES_MAX);
        let mut fetch_resources: Vec<String> = names.map(|name| name.to_ascii_uppercase()).collect();
        fetch_resources.sort_unstable();
        fetch_resources.dedup();
        Self {
            id: text(body, "id").and_then(|id| id.parse().ok()),
            status: text(body, "status"),
            institution: text(body, "institution"),
            institution_user_id: text(body, "institution_user_id"),
            created_at: optional::access(body.get("created_at"), received_at).value(),
            access_mode,
            refresh_every: text(body, "refresh_rate").and_then(|rate| parse_rate(&rate)),
            last_accessed_at: optional::access(body.get("last_accessed_at"), received_at).value(),
            external_id: optional::external_id(body).value().map(Cow::into_owned),
            fetch_resources,
        }
    }
}

/// The fields of a consent that relink uses (API reference: consents). Other fields identify a person and are not read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsentResource {
    /// `link_id`.
    pub link_id: Option<LinkId>,
    /// `status`: a text, because Belvo may add values; null before the consent has a status.
    pub status: Option<String>,
    /// `belvo_institution_name`.
    pub institution: Option<String>,
    /// The fields for a renewal. `expired_at` is null if `undefined_consent_expiration` is true.
    pub consent: Consent,
}

impl ConsentResource {
    /// Reads a consent that was received at `received_at`.
    pub fn parse(body: &Map<String, Value>, received_at: Timestamp) -> Self {
        let due = match optional::due(body.get("expired_at"), received_at) {
            _any if optional::is_endless(body) => Due::Never,
            FieldValue::Value(at) => Due::At(at),
            FieldValue::Absent | FieldValue::Unreadable => Due::Unknown,
        };
        Self {
            link_id: text(body, "link_id").and_then(|id| id.parse().ok()),
            status: text(body, "status"),
            institution: text(body, "belvo_institution_name"),
            consent: Consent {
                id: text(body, "id"),
                due,
                institution_display_name: text(body, "institution_display_name"),
                institution_icon_logo: text(body, "institution_icon_logo"),
                ..Consent::default()
            },
        }
    }
}

/// Reads an interval, a number and a unit: `6h`, `12h`, `24h`, `7d`, `30d`.
fn parse_rate(rate: &str) -> Option<Duration> {
    let unit = match rate.chars().next_back()? {
        'h' => 3600,
        'd' => 24 * 3600,
        _unknown => return None,
    };
    let count: u64 = rate[..rate.len() - 1].parse().ok()?;
    // An interval of more than a year is a mistake.
    count.checked_mul(unit).filter(|seconds| (1..=366 * 24 * 3600).contains(seconds)).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_a_link_resource() {
        let body = json!({"id": "5fbae30b-1ccc-4a91-b30d-7a4e4f5d3a91", "institution": "tatooine_mx_fiscal",
            "access_mode": "single", "status": "valid", "refresh_rate": null, "created_by": "x",
            "last_accessed_at": "2024-02-02T13:11:42.593032Z", "external_id": "", "created_at": "2024-02-02T13:11:42.586099Z",
            "institution_user_id": "x", "credentials_storage": "5d", "stale_in": "30d", "fetch_resources": ["TAX_STATUS", {}, null]});
        let link = LinkResource::parse(body.as_object().unwrap(), Timestamp::LATEST);
        assert_eq!(link.status.as_deref(), Some("valid"));
        assert_eq!((link.access_mode, link.refresh_every, link.external_id), (Some(AccessMode::Single), None, None));
        assert_eq!(link.last_accessed_at.map(|at| at.to_string()).as_deref(), Some("2024-02-02T13:11:42.593Z"));
        assert_eq!(link.fetch_resources, ["TAX_STATUS"]);
        assert_eq!(link.institution_user_id.as_deref(), Some("x"));
        assert_eq!(link.created_at.map(|at| at.to_string()).as_deref(), Some("2024-02-02T13:11:42.586Z"));

        let empty = LinkResource::parse(&Map::new(), Timestamp::LATEST);
        assert!(empty.id.is_none() && empty.status.is_none() && empty.fetch_resources.is_empty());
    }

    #[test]
    fn refresh_rates() {
        const HOUR: u64 = 3600;
        for (rate, hours) in [("6h", 6), ("12h", 12), ("24h", 24), ("7d", 168), ("30d", 720)] {
            assert_eq!(parse_rate(rate), Some(Duration::from_secs(hours * HOUR)), "{rate}");
        }
        for odd in ["", "h", "d", "7", "7w", "-7d", "0h", "é", "7é", "99999999999999999999d", "18446744073709551615d"]
        {
            assert_eq!(parse_rate(odd), None, "{odd}");
        }
    }
}

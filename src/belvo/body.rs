//! What Belvo sends, as it is sent: lenient readers of the webhook envelope, the link resource and the consent.
//!
//! Belvo's bodies drifted over the years and its enums are open, so only what cannot be done without is demanded, and everything
//! else may be missing, null or of another type. Nothing here decides what a body means: that is `translate`. Errors: `error_body`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::informs::{self, Told};
use crate::contract::limits::{RESOURCE_BYTES_MAX, RESOURCES_MAX, TEXT_BYTES_MAX};
use crate::link::{AccessMode, Consent, Due, LinkId, Timestamp};

pub mod webhook;

/// The link resource ("API reference: links").
#[derive(Clone)]
pub struct LinkResource {
    /// `id`.
    pub id: Option<LinkId>,
    /// `status`: an open enum on Belvo's side, so a text here.
    pub status: Option<String>,
    /// `institution`.
    pub institution: Option<String>,
    /// `access_mode`; `None` for null and for words that are not known.
    pub access_mode: Option<AccessMode>,
    /// `refresh_rate`, such as `6h` or `7d`; null for single links.
    pub refresh_every: Option<Duration>,
    /// `last_accessed_at`: the last *successful* access.
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
        let names = listed.filter_map(plain).filter(|name| name.len() <= RESOURCE_BYTES_MAX);
        let mut fetch_resources: Vec<String> = names.map(|name| name.to_ascii_uppercase()).collect();
        fetch_resources.sort_unstable();
        fetch_resources.dedup();
        Self {
            id: text(body, "id").and_then(|id| id.parse().ok()),
            status: text(body, "status"),
            institution: text(body, "institution"),
            access_mode,
            refresh_every: text(body, "refresh_rate").and_then(|rate| parse_rate(&rate)),
            last_accessed_at: informs::access(body.get("last_accessed_at"), received_at).this(),
            external_id: informs::external_id(body).this(),
            fetch_resources,
        }
    }
}

/// The fields of a consent that relink knows (API reference: consents). Its others name a person, and are not looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsentResource {
    /// `link_id`.
    pub link_id: Option<LinkId>,
    /// `status`: an open enum on Belvo's side, so a text here; null before there is one.
    pub status: Option<String>,
    /// `belvo_institution_name`.
    pub institution: Option<String>,
    /// The rest, as far as a renewal needs it. `expired_at` is null if `undefined_consent_expiration` is true.
    pub consent: Consent,
}

impl ConsentResource {
    /// Reads a consent that was received at `received_at`.
    pub fn parse(body: &Map<String, Value>, received_at: Timestamp) -> Self {
        let due = match informs::due(body.get("expired_at"), received_at) {
            _any if informs::is_endless(body) => Due::Never,
            Told::This(at) => Due::At(at),
            Told::Nothing | Told::Unread => Due::Unknown,
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

/// `6h`, `12h`, `24h`, `7d`, `30d`: a number and a unit.
fn parse_rate(rate: &str) -> Option<Duration> {
    let unit = match rate.chars().next_back()? {
        'h' => 3600,
        'd' => 24 * 3600,
        _unknown => return None,
    };
    let count: u64 = rate[..rate.len() - 1].parse().ok()?;
    // A rate beyond a year is no rate.
    count.checked_mul(unit).filter(|seconds| (1..=366 * 24 * 3600).contains(seconds)).map(Duration::from_secs)
}

/// One spelling for a request id: webhooks write a UUID with dashes, API errors 32 hex digits.
pub fn normalise_request_id(id: &str) -> String {
    match uuid::Uuid::try_parse(id) {
        Ok(uuid) => uuid.simple().to_string(),
        Err(_) => id.to_owned(),
    }
}

/// A text field: trimmed, and `None` if it is missing, empty, too long or no text. A number is taken as its digits.
pub(super) fn text(body: &Map<String, Value>, key: &str) -> Option<String> {
    plain(body.get(key)?)
}

pub(super) fn plain(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty() && text.len() <= TEXT_BYTES_MAX).then_some(text)
}

/// A text as [`text`] takes one over.
pub(super) fn believed(text: &str) -> Option<String> {
    plain(&Value::from(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_link_as_belvo_gives_it() {
        let body = json!({"id": "5fbae30b-1ccc-4a91-b30d-7a4e4f5d3a91", "institution": "tatooine_mx_fiscal",
            "access_mode": "single", "status": "valid", "refresh_rate": null, "created_by": "x",
            "last_accessed_at": "2024-02-02T13:11:42.593032Z", "external_id": "", "created_at": "2024-02-02T13:11:42.586099Z",
            "institution_user_id": "x", "credentials_storage": "5d", "stale_in": "30d", "fetch_resources": ["TAX_STATUS", {}, null]});
        let link = LinkResource::parse(body.as_object().unwrap(), Timestamp::LATEST);
        assert_eq!(link.status.as_deref(), Some("valid"));
        assert_eq!((link.access_mode, link.refresh_every, link.external_id), (Some(AccessMode::Single), None, None));
        assert_eq!(link.last_accessed_at.map(|at| at.to_string()).as_deref(), Some("2024-02-02T13:11:42.593Z"));
        assert_eq!(link.fetch_resources, ["TAX_STATUS"]);

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

    #[test]
    fn one_spelling_of_a_request_id() {
        let plain = "4363b08b51eb43509c745df5ac92a7f6";
        for id in [plain, "4363b08b-51eb-4350-9c74-5df5ac92a7f6", "4363B08B-51EB-4350-9C74-5DF5AC92A7F6"] {
            assert_eq!(normalise_request_id(id), plain);
        }
        assert_eq!(normalise_request_id("something else"), "something else");
    }
}

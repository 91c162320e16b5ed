//! Fields that only inform: dates, and the customer's own id. One that cannot be read is never a reason to lose its
//! message, and never passed over in silence: what it was to say stays as it was known, and the message's origin names
//! the field (`unread`).
//!
//! A due date decides when a user is told to renew, so a date that cannot be one is not believed: systems write
//! `0001-01-01`, `1970-01-01` or `9999-12-31` where they have none.

use std::time::Duration;

use serde_json::{Map, Value};

use super::body::plain;
use super::body::webhook::{data_of, envelope};
use crate::contract::InputKind;
use crate::contract::limits::EXTERNAL_ID_BYTES_MAX;
use crate::link::Timestamp;

/// `2021-01-01T00:00:00Z`. The first consents of Open Finance Brazil were given in August of that year.
const CONSENTS_BEGIN: Timestamp = Timestamp::from_millis(1_609_459_200_000);

/// No consent is given for longer. One without an end says so (`undefined_consent_expiration`).
const CONSENT_LASTS_MAX: Duration = Duration::from_secs(36_525 * 24 * 3600);

/// `2019-01-01T00:00:00Z`: Belvo was founded in that year, so it had no access to anything before.
const BELVO_BEGINS: Timestamp = Timestamp::from_millis(1_546_300_800_000);

/// How far Belvo's clock may be ahead of the NATS server's.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told<T> {
    /// It is missing, null or empty.
    Nothing,
    /// This.
    This(T),
    /// Something that cannot be read as what it is for.
    Unread,
}

impl<T> Told<T> {
    pub(super) fn this(self) -> Option<T> {
        match self {
            Self::This(said) => Some(said),
            Self::Nothing | Self::Unread => None,
        }
    }
}

/// The customer's own id, exactly as it was sent, blanks included: it is somebody's key. A number is taken as its
/// digits; true, false, arrays and objects are no ids.
pub(super) fn external_id(body: &Map<String, Value>) -> Told<String> {
    let id = match body.get("external_id") {
        None | Some(Value::Null) => return Told::Nothing,
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => return Told::Unread,
    };
    match id.len() {
        0 => Told::Nothing,
        1..=EXTERNAL_ID_BYTES_MAX => Told::This(id),
        _long => Told::Unread,
    }
}

/// When a consent ends (`consent_due_date`, `expired_at`): between 2021 and a hundred years after `received_at`.
pub(super) fn due(value: Option<&Value>, received_at: Timestamp) -> Told<Timestamp> {
    time(value, CONSENTS_BEGIN, received_at.after(CONSENT_LASTS_MAX))
}

/// When Belvo last had access (`last_accessed_at`), which is not later than `received_at`.
pub(super) fn access(value: Option<&Value>, received_at: Timestamp) -> Told<Timestamp> {
    match time(value, BELVO_BEGINS, received_at.after(AHEAD_MAX)) {
        Told::This(at) => Told::This(at.min(received_at)),
        unsaid @ (Told::Nothing | Told::Unread) => unsaid,
    }
}

fn time(value: Option<&Value>, earliest: Timestamp, latest: Timestamp) -> Told<Timestamp> {
    match value {
        None | Some(Value::Null) => return Told::Nothing,
        Some(Value::String(text)) if text.trim().is_empty() => return Told::Nothing,
        Some(_said) => {}
    }
    let at = value.and_then(plain).and_then(|text| text.parse().ok());
    at.filter(|at| (earliest..=latest).contains(at)).map_or(Told::Unread, Told::This)
}

/// The fields of a message that could not be read, as paths into its body.
pub(super) fn unread(kind: InputKind, body: &Value, received_at: Timestamp) -> Vec<&'static str> {
    let mut unread = Vec::new();
    let mut look = |path, is_unread: bool| {
        if is_unread {
            unread.push(path);
        }
    };
    match kind {
        InputKind::Webhook => {
            let Some(envelope) = envelope(body) else { return unread };
            look("external_id", external_id(envelope) == Told::Unread);
            let data = data_of(envelope);
            look("data.consent_due_date", due(data.get("consent_due_date"), received_at) == Told::Unread);
        }
        InputKind::Observation => {
            if let Some(link) = body.get("link").and_then(Value::as_object) {
                look("link.external_id", external_id(link) == Told::Unread);
                look("link.last_accessed_at", access(link.get("last_accessed_at"), received_at) == Told::Unread);
            }
            if let Some(consent) = body.get("consent").and_then(Value::as_object).filter(|consent| !is_endless(consent))
            {
                look("consent.expired_at", due(consent.get("expired_at"), received_at) == Told::Unread);
            }
        }
        InputKind::ApiError | InputKind::Widget | InputKind::Command => {}
    }
    unread
}

/// Whether a consent has no end.
pub(super) fn is_endless(consent: &Map<String, Value>) -> bool {
    consent.get("undefined_consent_expiration").and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn due_dates_that_cannot_be() {
        for impossible in [
            json!("0001-01-01"),
            json!("0001-01-01T00:00:00Z"),
            json!("0000-01-01T00:00:00+01:00"),
            json!("1970-01-01"),
            json!("1970-01-01T00:00:00Z"),
            json!(0),
            json!("0"),
            json!(-1),
            json!("2020-12-31T23:59:59.999Z"),
            json!("2127-01-01"),
            json!("9999-12-31T23:59:59-03:00"),
            json!("9999-12-31"),
            json!("2999-12-31"),
            json!("31/02/2027"),
            json!("12/25/2026"),
            json!("soon"),
            json!(true),
            json!(["2026-12-01"]),
            json!({}),
            json!("2026"),
            json!("x".repeat(600)),
        ] {
            assert_eq!(due(Some(&impossible), now()), Told::Unread, "{impossible}");
        }
        for nothing in [Value::Null, json!(""), json!("  ")] {
            assert_eq!(due(Some(&nothing), now()), Told::Nothing);
        }
        let december = "2026-12-01T00:00:00Z".parse().unwrap();
        for date in [
            json!("2026-12-01"),
            json!("01/12/2026"),
            json!("1-12-2026"),
            json!("2026-12-01T00:00:00+0000"),
            json!("2026-11-30T21:00:00-0300"),
            json!("2026-12-01 00:00"),
            json!(1_796_083_200),
            json!("1796083200000"),
            json!(1_796_083_200.0),
            json!(" 2026-12-01t00:00:00z "),
        ] {
            assert_eq!(due(Some(&date), now()), Told::This(december), "{date}");
        }
        assert!(matches!(due(Some(&json!("2021-01-01")), now()), Told::This(_)));
        assert!(matches!(due(Some(&json!("2126-11-01")), now()), Told::This(_)));
    }

    #[test]
    fn no_access_is_in_the_future() {
        for (said, expected) in [
            (json!("2026-11-22T11:00:00Z"), Told::This("2026-11-22T11:00:00Z".parse().unwrap())),
            (json!("2026-11-22T12:00:07Z"), Told::This(now())),
            (json!("2026-11-24"), Told::Unread),
            (json!("9999-12-31"), Told::Unread),
            (json!("0001-01-01T00:00:00"), Told::Unread),
            (Value::Null, Told::Nothing),
        ] {
            assert_eq!(access(Some(&said), now()), expected, "{said}");
        }
    }

    #[test]
    fn the_customers_id_is_kept_as_it_is() {
        let id = |id: Value| external_id(json!({ "external_id": id }).as_object().unwrap());
        let long = "é".repeat(EXTERNAL_ID_BYTES_MAX / 2);
        for (sent, expected) in [
            (json!(" 007 "), Told::This(" 007 ".to_owned())),
            (json!("  "), Told::This("  ".to_owned())),
            (json!(7), Told::This("7".to_owned())),
            (json!(u64::MAX), Told::This("18446744073709551615".to_owned())),
            (json!(long), Told::This(long.clone())),
            (json!(format!("{long}x")), Told::Unread),
            (json!(true), Told::Unread),
            (json!({"id": 1}), Told::Unread),
            (json!(["a"]), Told::Unread),
            (json!(""), Told::Nothing),
            (Value::Null, Told::Nothing),
        ] {
            assert_eq!(id(sent.clone()), expected, "{sent:.60}");
        }
        assert_eq!(external_id(&Map::new()), Told::Nothing);
    }
}

//! Readers of dates and of the customer's own id. The classification of a message does not depend on these fields. If
//! one of them cannot be read, the message counts without it, the known value stays, and the origin of the transition
//! lists the field in `unreadable_fields`.
//!
//! Systems write `0001-01-01`, `1970-01-01` or `9999-12-31` if they have no date. The due date of a consent decides
//! when its user is asked to renew it, so only plausible dates are accepted.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::text_in;
use crate::contract::limits::EXTERNAL_ID_BYTES_MAX;
use crate::link::Timestamp;

/// The earliest due date, `2021-01-01T00:00:00Z`. Open Finance Brazil began in August of that year.
const CONSENTS_BEGIN: Timestamp = Timestamp::from_millis(1_609_459_200_000);

/// The longest consent. A consent without an end has `undefined_consent_expiration`.
const CONSENT_LASTS_MAX: Duration = Duration::from_secs(36_525 * 24 * 3600);

/// The earliest access, `2019-01-01T00:00:00Z`: Belvo was founded in that year.
const BELVO_BEGINS: Timestamp = Timestamp::from_millis(1_546_300_800_000);

/// How far Belvo's clock may be ahead of the clock of the NATS server.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldValue<T> {
    /// The field is missing, null or empty.
    Absent,
    /// The field has this value.
    Value(T),
    /// The field has a value that cannot be read.
    Unreadable,
}

impl<T> FieldValue<T> {
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// The customer's own id, unchanged, with blanks, because it is a key in the customer's system. The digits of a number
/// are accepted; true, false, arrays and objects are unreadable.
pub(super) fn external_id(body: &Map<String, Value>) -> FieldValue<Cow<'_, str>> {
    match body.get("external_id") {
        None | Some(Value::Null) => FieldValue::Absent,
        Some(Value::String(id)) => external_id_of(Cow::Borrowed(id)),
        Some(Value::Number(id)) => external_id_of(Cow::Owned(id.to_string())),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => FieldValue::Unreadable,
    }
}

/// A text as the customer's own id.
pub(super) fn external_id_of(id: Cow<'_, str>) -> FieldValue<Cow<'_, str>> {
    match id.len() {
        0 => FieldValue::Absent,
        1..=EXTERNAL_ID_BYTES_MAX => FieldValue::Value(id),
        _long => FieldValue::Unreadable,
    }
}

/// The due date of a consent (`consent_due_date`, `expired_at`): between 2021 and a hundred years after `received_at`.
pub(super) fn due(value: Option<&Value>, received_at: Timestamp) -> FieldValue<Timestamp> {
    time(value, CONSENTS_BEGIN, received_at.after(CONSENT_LASTS_MAX))
}

/// When Belvo last had access (`last_accessed_at`), or created the link (`created_at`): between 2019 and `received_at`.
pub(super) fn access(value: Option<&Value>, received_at: Timestamp) -> FieldValue<Timestamp> {
    match time(value, BELVO_BEGINS, received_at.after(AHEAD_MAX)) {
        FieldValue::Value(at) => FieldValue::Value(at.min(received_at)),
        absent @ (FieldValue::Absent | FieldValue::Unreadable) => absent,
    }
}

fn time(value: Option<&Value>, earliest: Timestamp, latest: Timestamp) -> FieldValue<Timestamp> {
    match value {
        None | Some(Value::Null) => return FieldValue::Absent,
        Some(Value::String(text)) if text.trim().is_empty() => return FieldValue::Absent,
        Some(_value) => {}
    }
    let at = value.and_then(text_in).and_then(|text| text.parse().ok());
    at.filter(|at| (earliest..=latest).contains(at)).map_or(FieldValue::Unreadable, FieldValue::Value)
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
    fn impossible_due_dates_are_unreadable() {
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
            assert_eq!(due(Some(&impossible), now()), FieldValue::Unreadable, "{impossible}");
        }
        for nothing in [Value::Null, json!(""), json!("  ")] {
            assert_eq!(due(Some(&nothing), now()), FieldValue::Absent);
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
            assert_eq!(due(Some(&date), now()), FieldValue::Value(december), "{date}");
        }
        assert!(matches!(due(Some(&json!("2021-01-01")), now()), FieldValue::Value(_)));
        assert!(matches!(due(Some(&json!("2126-11-01")), now()), FieldValue::Value(_)));
    }

    #[test]
    fn an_access_in_the_future_is_unreadable() {
        for (said, expected) in [
            (json!("2026-11-22T11:00:00Z"), FieldValue::Value("2026-11-22T11:00:00Z".parse().unwrap())),
            (json!("2026-11-22T12:00:07Z"), FieldValue::Value(now())),
            (json!("2026-11-24"), FieldValue::Unreadable),
            (json!("9999-12-31"), FieldValue::Unreadable),
            (json!("0001-01-01T00:00:00"), FieldValue::Unreadable),
            (Value::Null, FieldValue::Absent),
        ] {
            assert_eq!(access(Some(&said), now()), expected, "{said}");
        }
    }

    #[test]
    fn the_customers_id_is_kept_unchanged() {
        let id = |id: Value| match external_id(json!({ "external_id": id }).as_object().unwrap()) {
            FieldValue::Value(id) => FieldValue::Value(id.into_owned()),
            FieldValue::Absent => FieldValue::Absent,
            FieldValue::Unreadable => FieldValue::Unreadable,
        };
        let long = "é".repeat(EXTERNAL_ID_BYTES_MAX / 2);
        for (sent, expected) in [
            (json!(" 007 "), FieldValue::Value(" 007 ".to_owned())),
            (json!("  "), FieldValue::Value("  ".to_owned())),
            (json!(7), FieldValue::Value("7".to_owned())),
            (json!(u64::MAX), FieldValue::Value("18446744073709551615".to_owned())),
            (json!(long), FieldValue::Value(long.clone())),
            (json!(format!("{long}x")), FieldValue::Unreadable),
            (json!(true), FieldValue::Unreadable),
            (json!({"id": 1}), FieldValue::Unreadable),
            (json!(["a"]), FieldValue::Unreadable),
            (json!(""), FieldValue::Absent),
            (Value::Null, FieldValue::Absent),
        ] {
            assert_eq!(id(sent.clone()), expected, "{sent:.60}");
        }
        assert_eq!(external_id(&Map::new()), FieldValue::Absent);
    }
}

//! No input causes a panic, and no error quotes its input.

use proptest::prelude::*;
use strum::VariantArray;

use super::*;

const WORDS: &[&str] = &[
    "LINK",
    "CONSENT",
    "TRANSACTIONS",
    "historical_update",
    "invalid_credentials",
    "token_required",
    "login_error",
    LINK,
    "valid",
    "found",
    "missing",
    "started",
    "success",
    "exit",
    "snooze",
    "POST",
    "/api/links/",
    "https://",
    "verify",
    "2026-11-22T10:15:00Z",
    "7d",
    "h",
    "é",
    "9999999999d",
    "*",
    "[{\"code\": \"token_required\", \"session\": \"2675b703\"}]",
    "RequestError: {",
    "%2Fapi%2Flinks%",
    "428",
    "PAGE_LOAD",
];

const NAMES: &[&str] = &[
    "webhook_type",
    "webhook_code",
    "link_id",
    "data",
    "errors",
    "total_x",
    "consent_due_date",
    "request_id",
    "http_status",
    "method",
    "path",
    "body",
    "code",
    "message",
    "session",
    "expiry",
    "link",
    "id",
    "status",
    "refresh_rate",
    "event",
    "expires_in_seconds",
    "observed_at",
    "source",
    "outcome",
    "command",
    "until",
    "schema_version",
    "last_accessed_at",
    "detail",
    "error",
    "statusCode",
    "response",
    "error_code",
    "error_message",
    "eventName",
    "metadata",
    "institution",
    "url",
];

/// JSON with the field names and the words of real bodies, and arbitrary values.
pub(super) fn almost_right() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(WORDS).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 12, |inner| {
        let name = prop::sample::select(NAMES).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..12)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A documented body with one field replaced.
fn replaced(with: impl Strategy<Value = Value>) -> impl Strategy<Value = (InputKind, Value)> {
    let kinds = prop::sample::select(InputKind::VARIANTS.to_vec());
    (kinds, any::<prop::sample::Index>(), with).prop_map(|(kind, index, odd)| {
        let mut body = kind.example();
        let fields = body.as_object_mut().unwrap();
        let names: Vec<String> = fields.keys().cloned().collect();
        fields.insert(index.get(&names).clone(), odd);
        (kind, body)
    })
}

fn all_kinds(payload: &[u8]) {
    for &kind in InputKind::VARIANTS {
        let _meaning = translate(kind, &link(), payload, now());
    }
    let _link = link_of_webhook(payload);
    let _link = link_of_api_error(payload);
}

proptest! {
    #[test]
    fn any_bytes(payload in prop::collection::vec(any::<u8>(), 0..256)) {
        all_kinds(&payload);
    }

    #[test]
    fn any_json(body in almost_right()) {
        all_kinds(body.to_string().as_bytes());
    }

    #[test]
    fn any_odd_field((kind, body) in replaced(almost_right()), millis in any::<i64>()) {
        let _meaning = translate(kind, &link(), body.to_string().as_bytes(), Timestamp::from_millis(millis));
    }

    #[test]
    fn errors_quote_nothing((kind, body) in replaced(Just(json!("hunter2 , expected hunter2")))) {
        if let Err(error) = translate(kind, &link(), body.to_string().as_bytes(), now()) {
            prop_assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}

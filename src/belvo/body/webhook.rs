//! The reader of the webhook envelope.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::data::Data;
use crate::belvo::fields::{Fields, normalise_request_id, text_in, text_of};
use crate::belvo::optional::{self, FieldValue};
use crate::belvo::payload::unwrapped;
use crate::belvo::undecodable::Undecodable;
use crate::link::{LinkId, Timestamp};

/// The webhook envelope ("Webhooks: LINK family" and the pages of the other families), in all versions since 2021.
#[derive(Clone)]
pub struct WebhookBody<'a> {
    /// `webhook_id`. Belvo does not promise that it is unique.
    pub webhook_id: Option<Cow<'a, str>>,
    /// `webhook_type`, in capitals.
    pub family: Cow<'a, str>,
    /// `webhook_code`, in lower case.
    pub code: Cow<'a, str>,
    /// `webhook_type` and `webhook_code` as the sender has written them; empty if they are no texts.
    pub(in crate::belvo) written: [&'a str; 2],
    /// `link_id`.
    pub link: LinkId,
    /// `request_id`, normalised. Absent before 2022 and from the CONSENT examples.
    pub request_id: Option<String>,
    /// `external_id`, unchanged. Null in some examples.
    pub(in crate::belvo) external_id: FieldValue<Cow<'a, str>>,
    /// `data`: null if the message has none. A text that contains JSON is read as that JSON.
    pub data: Data<'a>,
    /// `consent_due_date` in `data`.
    pub(in crate::belvo) due: FieldValue<Timestamp>,
    /// Fields beside `data` that may contain an error: `error_code`, `error_message`, `message` and similar; and `data`
    /// if it is a sentence.
    pub beside_data: Value,
    /// Whether a field beside `data` contains an error.
    pub(super) failed: bool,
}

impl<'a> WebhookBody<'a> {
    /// Reads the envelope of a webhook that was received at `received_at`.
    pub fn parse(value: &'a Value, received_at: Timestamp) -> Result<Self, Undecodable> {
        let body = envelope(value).ok_or_else(|| Undecodable::shape("$", "expected an object"))?;
        let data = data_of(body);
        let written = |key| body.get(key).and_then(Value::as_str).unwrap_or_default().trim();
        Ok(Self {
            webhook_id: body.get("webhook_id").and_then(text_in),
            link: webhook_link(body)?,
            family: in_capitals(needed(body, "webhook_type")?),
            code: in_small_letters(needed(body, "webhook_code")?),
            written: ["webhook_type", "webhook_code"].map(written),
            request_id: body.get("request_id").and_then(text_in).map(|id| normalise_request_id(&id)),
            external_id: optional::external_id(body),
            due: due_in(&data, received_at),
            data,
            beside_data: beside_data(body),
            failed: body.iter().any(|(key, value)| match key.as_str() {
                "status" | "status_code" | "http_status" => is_failure(value),
                key => names_error(key) && says_something(value),
            }),
        })
    }

    /// The `external_id`, if it can be read.
    pub fn external_id(&self) -> Option<&str> {
        match &self.external_id {
            FieldValue::Value(id) => Some(id),
            FieldValue::Absent | FieldValue::Unreadable => None,
        }
    }

    /// A text field of `data`.
    pub fn data_text(&self, key: &str) -> Option<String> {
        self.data.get(key).and_then(text_of)
    }

    /// The number of items in `data`: the field `total_*` or `new_*` with the shortest name. Breakdowns such as
    /// `total_inflow_transactions` have longer names.
    pub fn items_count(&self) -> Option<u64> {
        let counts = self.data.entries().filter_map(|(key, value)| {
            let is_count = key.starts_with("total_") || key.starts_with("new_");
            Some((key.len(), key, value.as_u64().filter(|_| is_count)?))
        });
        counts.min().map(|(_, _, count)| count)
    }

    /// Whether the message reports an error: a field `error`, `errors` or `error_*` that is not empty, a failed
    /// `status`, or an object with the shape of an API error; at any depth of `data`, or beside it. Belvo documents
    /// none of these for data webhooks, but customers have received several of them.
    pub fn has_errors(&self) -> bool {
        // `data` is an object in all documented webhooks, so a sentence is an error.
        self.failed
            || match &self.data {
                Data::Fields(_) => has_error(&self.data),
                Data::Other(data) => data.is_string() || says_error(data),
            }
    }
}

/// The object of a webhook. Some gateways wrap it in a list.
pub(in crate::belvo) fn envelope(value: &Value) -> Option<&Map<String, Value>> {
    match value.as_array().map(Vec::as_slice) {
        Some([only]) => only.as_object(),
        Some(_) => None,
        None => value.as_object(),
    }
}

/// The `data` of an envelope.
fn data_of(body: &Map<String, Value>) -> Data<'_> {
    match body.get("data") {
        Some(data) => Data::of(unwrapped(data).map_or(Cow::Borrowed(data), Cow::Owned)),
        None => Data::default(),
    }
}

fn beside_data(body: &Map<String, Value>) -> Value {
    let is_reason = |key: &str| names_error(key) || ["message", "detail", "reason", "code"].contains(&key);
    let reasons = body.iter().filter(|(key, _)| is_reason(key)).map(|(key, value)| (key.clone(), value.clone()));
    let data = body.get("data").unwrap_or(&Value::Null);
    with_sentence(reasons.collect(), data.as_str().or_else(|| data.get("reason")?.as_str()))
}

/// These reasons, and as their message the sentence in `data`, if it has one and they have no message.
pub(super) fn with_sentence(mut reasons: Map<String, Value>, sentence: Option<&str>) -> Value {
    if let Some(sentence) = sentence.filter(|_| !reasons.contains_key("message")) {
        reasons.insert("message".to_owned(), Value::from(sentence));
    }
    Value::Object(reasons)
}

/// The `link_id` of a webhook envelope.
pub(in crate::belvo) fn webhook_link(body: &Map<String, Value>) -> Result<LinkId, Undecodable> {
    let id = match body.get("link_id") {
        Some(Value::String(id)) => id,
        // "Webhooks: payments" have `object_id`; the direct debit ones `eventType`.
        None | Some(Value::Null)
            if ["object_id", "eventType", "eventCode"].iter().any(|key| body.contains_key(*key)) =>
        {
            return Err(Undecodable::Payments);
        }
        Some(_) => return Err(Undecodable::shape("$.link_id", "expected a string")),
        None => return Err(Undecodable::shape("$.link_id", "missing")),
    };
    id.trim().parse().map_err(|error: crate::link::NotALinkId| Undecodable::shape("$.link_id", error.to_string()))
}

/// The due date of a consent in `data`.
pub(super) fn due_in(data: &Data<'_>, received_at: Timestamp) -> FieldValue<Timestamp> {
    optional::due(data.get("consent_due_date"), received_at)
}

/// A text in capitals. Belvo's types are written so, and need no copy.
pub(super) fn in_capitals(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) { text.to_ascii_uppercase().into() } else { text }
}

/// A text in lower case. Belvo's codes are written so, and need no copy.
pub(super) fn in_small_letters(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text }
}

fn needed<'a>(body: &'a Map<String, Value>, key: &str) -> Result<Cow<'a, str>, Undecodable> {
    let problem = match body.get(key) {
        Some(Value::String(_)) => "too long, or without a visible character",
        Some(_) => "expected a text",
        None => "missing",
    };
    body.get(key).and_then(text_in).ok_or_else(|| Undecodable::shape(format!("$.{key}"), problem))
}

/// Whether a value, or one of its fields, contains an error.
fn says_error(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        Value::Array(items) => items.iter().any(says_error),
        Value::Object(fields) => has_error(fields),
    }
}

/// Whether one of the fields contains an error.
fn has_error(fields: &impl Fields) -> bool {
    fields.entries().any(|(key, value)| {
        // Belvo's data webhooks contain counts and dates. A code or a sentence is an error.
        let is_of_api_error = matches!(key, "code" | "message" | "detail" | "exception" | "reason");
        is_of_api_error && text_in(value).is_some() || is_error(key, value)
    })
}

fn is_error(key: &str, value: &Value) -> bool {
    let is_one_of = |names: [&str; 3]| names.iter().any(|name| key.eq_ignore_ascii_case(name));
    if is_one_of(["status", "status_code", "http_status"]) {
        is_failure(value)
    } else if is_one_of(["success", "succeeded", "ok"]) {
        *value == Value::Bool(false)
    } else if contains_one_of(key, ["fail", "error"]) {
        says_something(value)
    } else {
        says_error(value)
    }
}

/// Whether a field name means an error: `error`, `errors`, `error_code`, `errorMessage`, `total_errors` and similar.
fn names_error(key: &str) -> bool {
    contains_one_of(key, ["error"])
}

/// Whether a text contains one of these words of small letters, in whichever case.
#[inline]
fn contains_one_of<const N: usize>(text: &str, words: [&str; N]) -> bool {
    let text = text.as_bytes();
    let begins = |at: usize, word: &str| {
        text.get(at..at + word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes()))
    };
    // Most letters begin no word, so the first letter is compared alone.
    let may_begin = |letter: u8, word: &str| word.as_bytes().first() == Some(&(letter | 0x20));
    (0..text.len()).any(|at| words.iter().any(|word| may_begin(text[at], word) && begins(at, word)))
}

/// Whether a value is neither null, false, zero nor empty.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Whether a status means a failure: an HTTP status from 400 on, or a word such as `failed`.
fn is_failure(status: &Value) -> bool {
    let Some(word) = text_in(status) else { return false };
    let word = word.to_ascii_lowercase();
    match word.parse::<f64>() {
        Ok(number) => number >= 400.0,
        Err(_) => {
            let failed = ["error", "fail", "invalid", "reject", "denied", "expired", "token_required", "unauthorized"];
            failed.iter().any(|part| word.contains(part))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

    fn parse(changes: Value) -> Result<WebhookBody<'static>, Undecodable> {
        let mut body = json!({"webhook_type": "ACCOUNTS", "webhook_code": "historical_update", "link_id": LINK});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        WebhookBody::parse(Box::leak(Box::new(body)), Timestamp::LATEST)
    }

    #[test]
    fn errors_of_every_shape_are_found() {
        for data in [
            json!({"errors": [{"code": "login_error", "message": "x"}]}),
            json!({"errors": ["x"]}),
            json!({"errors": {"code": "x"}}),
            json!({"errors": "x"}),
            json!({"errors": true}),
            json!({"errors": 2}),
            json!({"error": "x"}),
            json!({"error": {"code": "x"}}),
            json!({"Error": {"code": "x"}}),
            json!({"error_code": "login_error", "error_message": "x", "status": 400}),
            json!({"error_message": "x"}),
            json!({"errorCode": "x"}),
            json!({"total_errors": 3, "total_accounts": 7}),
            json!({"status": "error"}),
            json!({"status": "FAILED"}),
            json!({"status": 400}),
            json!({"status": "428"}),
            json!({"status_code": 500}),
            json!({"success": false}),
            json!({"code": "token_required", "message": "x"}),
            json!([{"code": "token_required", "message": "x"}]),
            json!({"result": {"error": "x"}}),
            json!({"code": "token_required"}),
            json!({"message": "Invalid credentials"}),
            json!({"detail": "Not found."}),
            json!({"failed": true}),
            json!({"failed_resources": ["ACCOUNTS"]}),
            json!("Invalid credentials provided"),
            json!("{\"error\": \"x\"}"),
        ] {
            assert!(parse(json!({ "data": data })).unwrap().has_errors(), "{data}");
        }
        for data in [
            Value::Null,
            json!({}),
            json!([]),
            json!({"total_accounts": 7}),
            json!({"errors": []}),
            json!({"errors": {}}),
            json!({"errors": ""}),
            json!({"errors": null}),
            json!({"errors": false}),
            json!({"errors": 0}),
            json!({"error": null, "error_code": null, "error_message": " "}),
            json!({"total_errors": 0}),
            json!({"status": "success"}),
            json!({"status": 200}),
            json!({"status": null}),
            json!({"success": true}),
            json!({"failed_resources": [], "failed": false}),
        ] {
            assert!(!parse(json!({ "data": data })).unwrap().has_errors(), "{data}");
        }
        assert!(parse(json!({"data": {}, "error": {"code": "x"}})).unwrap().has_errors());
        assert!(!parse(json!({"data": {}, "error": null})).unwrap().has_errors());
    }

    #[test]
    fn wrapped_envelopes_are_read() {
        let read = parse(json!({"webhook_type": " accounts\n", "webhook_code": "Historical_Update ", "webhook_id": 17,
            "link_id": format!(" {} ", LINK.to_uppercase()), "data": "{\"total_accounts\": 7}", "more": [1]}));
        let read = read.unwrap();
        assert_eq!((&*read.family, &*read.code, read.link.as_str()), ("ACCOUNTS", "historical_update", LINK));
        assert_eq!((read.webhook_id.as_deref(), read.items_count()), (Some("17"), Some(7)));
        for data in [Value::Null, json!([]), json!("text"), json!(7), json!(true), json!("[")] {
            let read = parse(json!({ "data": data })).unwrap();
            assert_eq!(
                (read.items_count(), read.data_text("x"), read.has_errors()),
                (None, None, data.is_string()),
                "{data}"
            );
        }
        let one = json!([{"webhook_type": "LINK", "webhook_code": "token_required", "link_id": LINK}]);
        assert_eq!(WebhookBody::parse(&one, Timestamp::LATEST).unwrap().code, "token_required");
        for other in [json!([]), json!([one[0], one[0]]), json!([[one[0]]])] {
            assert!(WebhookBody::parse(&other, Timestamp::LATEST).is_err());
        }
    }

    #[test]
    fn a_wrong_link_id_is_an_error_that_names_the_field() {
        for id in [json!(7), json!(null), json!(true), json!([LINK]), json!({"id": LINK})] {
            let error = parse(json!({ "link_id": id })).err();
            assert_eq!(error, Some(Undecodable::shape("$.link_id", "expected a string")), "{id}");
        }
        assert_eq!(parse(json!({"link_id": null, "object_id": "x"})).err(), Some(Undecodable::Payments));
    }
}

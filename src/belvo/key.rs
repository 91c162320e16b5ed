//! Dedup keys: they identify a fact, so that a second message about it is recognised.
//!
//! Belvo repeats webhooks, and does not promise that any field of them is unique. So a key is a hash over all fields
//! that identify the fact.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::body::data::Data;
use super::body::webhook::WebhookBody;
use super::call::Call;
use super::error_body::ErrorItem;
use super::fields::{Fields, normalise_request_id};
use crate::contract::{Observation, ReadOutcome};
use crate::link::{DedupKey, LinkId};

/// The bytes to hash: parts, each behind its length, so that different lists of parts have different hashes.
struct Parts(Vec<u8>);

impl Parts {
    fn of(kind: &str) -> Self {
        // Most keys are about a body of some hundred bytes.
        Self(Vec::with_capacity(1024)).and(kind)
    }

    fn and(mut self, part: &str) -> Self {
        self.part(part.as_bytes());
        self
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// Adds the JSON of a value as one part.
    fn written(&mut self, value: &(impl Serialize + ?Sized)) {
        let start = self.0.len();
        self.part(b"");
        serde_json::to_writer(&mut self.0, value).expect("texts and numbers are JSON, and memory takes them");
        let length = (self.0.len() - start - size_of::<u64>()) as u64;
        self.0[start..start + size_of::<u64>()].copy_from_slice(&length.to_be_bytes());
    }

    /// Adds JSON, independent of the order of its fields.
    fn and_json(mut self, value: &Value) -> Self {
        self.json(value);
        self
    }

    /// Adds the JSON of `data`.
    fn and_data(mut self, data: &Data<'_>) -> Self {
        match data {
            Data::Fields(_) => self.fields(data.entries()),
            Data::Other(value) => self.json(value),
        }
        self
    }

    fn json(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => self.written(value),
            Value::Array(items) => {
                self.part(b"[");
                items.iter().for_each(|item| self.json(item));
                self.part(b"]");
            }
            Value::Object(fields) => self.object(fields),
        }
    }

    fn object(&mut self, fields: &Map<String, Value>) {
        // serde_json has the fields in this order, unless a crate switches on its feature `preserve_order`.
        let mut fields: Vec<_> = fields.entries().collect();
        fields.sort_unstable_by_key(|&(key, _)| key);
        self.fields(fields.into_iter());
    }

    /// Adds the fields of an object, which are in the order of their names.
    fn fields<'a>(&mut self, fields: impl Iterator<Item = (&'a str, &'a Value)>) {
        self.part(b"{");
        for (key, value) in fields {
            self.part(key.as_bytes());
            self.json(value);
        }
        self.part(b"}");
    }

    /// Adds the JSON of the outcome, without building it.
    fn and_outcome(mut self, outcome: &ReadOutcome) -> Self {
        self.part(b"{");
        let name = match outcome {
            ReadOutcome::Found { link } => {
                self.part(b"link");
                self.object(link);
                "found"
            }
            ReadOutcome::Consent { consent } => {
                self.part(b"consent");
                self.object(consent);
                "consent"
            }
            ReadOutcome::Superseded { by } => {
                self.part(b"by");
                self.written(by);
                "superseded"
            }
            ReadOutcome::Missing => "missing",
            ReadOutcome::RefreshAccepted { .. } => "refresh_accepted",
        };
        self.part(b"outcome");
        self.written(name);
        if let ReadOutcome::RefreshAccepted { request_id: Some(id) } = outcome {
            self.part(b"request_id");
            self.written(id);
        }
        self.part(b"}");
        self
    }

    fn key(self) -> DedupKey {
        let digest = Sha256::digest(&self.0);
        DedupKey(digest.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte)))
    }
}

/// The key of a webhook. `None` if it has neither `webhook_id` nor `request_id`, because then two different webhooks
/// can be equal.
///
/// The key includes `data`: TAX_RETURNS and INVOICES send two webhooks with one code per refresh, and a later webhook
/// may have another due date. The key does not include `process_type` and `external_id`, which do not identify the
/// fact.
pub(super) fn of_webhook(family: &str, code: &str, body: &WebhookBody<'_>) -> Option<DedupKey> {
    if body.webhook_id.is_none() && body.request_id.is_none() {
        return None;
    }
    let parts = Parts::of("webhook")
        .and(body.webhook_id.as_deref().unwrap_or_default())
        .and(family)
        .and(code)
        .and(body.link.as_str())
        .and(body.request_id.as_deref().unwrap_or_default())
        .and(body.external_id().unwrap_or_default());
    Some(parts.and_data(&body.data).key())
}

/// The key of an API error: the status, the kind of the call, and the error that decides the meaning. The body itself
/// is not included, because the HTTP server removes the MFA session from it, and clients wrap it in different ways.
pub(super) fn of_api_error(link: &LinkId, status: u16, call: Call, item: &ErrorItem, request_id: &str) -> DedupKey {
    let named = item.link.as_ref().map(LinkId::as_str);
    let session_secs = item.session_valid_for.map(|life| life.as_secs());
    Parts::of("api_error")
        .and(link.as_str())
        .and(&normalise_request_id(request_id.trim()))
        .and(&status.to_string())
        .and(call.as_str())
        .and_json(&json!([item.code, item.message, named, session_secs]))
        .key()
}

/// The key of an observation: the reader, the time, and the complete result, because two results in one second may
/// differ.
pub(super) fn of_observation(link: &LinkId, seen: &Observation) -> DedupKey {
    let at = seen.observed_at.0.as_millis().to_string();
    Parts::of("observation").and(link.as_str()).and(seen.source.as_str()).and(&at).and_outcome(&seen.outcome).key()
}

// Callbacks of the widget and commands have no key. Callbacks and commands contain nothing that distinguishes a second
// delivery from a second action: a user may succeed or fail twice. A `ce-id` would, but publishers copy it from
// examples, and then the second action would be lost.

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::belvo::error_body::ErrorBody;
    use crate::contract::ApiError;
    use crate::link::Timestamp;

    fn key(webhook: &Value) -> Option<DedupKey> {
        let body = WebhookBody::parse(webhook, Timestamp::LATEST).unwrap();
        of_webhook(&body.family, &body.code, &body)
    }

    #[test]
    fn messages_about_one_fact_have_one_key() {
        let first = json!({"webhook_id": "a", "webhook_type": "TAX_RETURNS", "webhook_code": "historical_update",
            "link_id": "l", "request_id": "4363b08b-51eb-4350-9c74-5df5ac92a7f6", "data": {"type": "yearly", "total": 2}});
        let with = |name: &str, value: Value| {
            let mut changed = first.clone();
            changed[name] = value;
            changed
        };
        assert_eq!(key(&first), key(&with("data", json!({"total": 2, "type": "yearly"}))));
        assert_eq!(key(&first), key(&with("request_id", json!("4363b08b51eb43509c745df5ac92a7f6"))));
        assert_eq!(key(&first), key(&with("process_type", json!("x"))));
        for (name, value) in [
            ("data", json!({"type": "monthly", "total": 2})),
            ("webhook_id", json!("b")),
            ("webhook_id", json!(null)),
            ("webhook_code", json!("x")),
            ("link_id", json!("m")),
            // The message may be the first one with the `external_id`.
            ("external_id", json!("x")),
            ("request_id", json!(null)),
        ] {
            assert_ne!(key(&first), key(&with(name, value)), "{name}");
        }
        let mut bare = with("webhook_id", Value::Null);
        bare["request_id"] = Value::Null;
        assert_eq!(key(&bare), None);
    }

    #[test]
    fn a_webhook_with_another_due_date_has_another_key() {
        let webhook = |due: &str| {
            json!({"webhook_id": "a", "webhook_type": "CONSENT", "webhook_code": "consent_about_to_expire", "link_id": "l",
                "data": {"consent_id": "c", "consent_due_date": due}})
        };
        assert_eq!(key(&webhook("2026-12-01")), key(&webhook("2026-12-01")));
        assert_ne!(key(&webhook("2026-12-01")), key(&webhook("2026-12-08")));
        let mut as_text = webhook("2026-12-01");
        as_text["data"] = as_text["data"].to_string().into();
        assert_eq!(key(&webhook("2026-12-01")), key(&as_text));
    }

    #[test]
    fn an_observation_with_another_result_has_another_key() {
        let link = "l".parse().unwrap();
        let key = |seen: &Value| of_observation(&link, &serde_json::from_value(seen.clone()).unwrap());
        let found = json!({"observed_at": "2026-11-22T10:15:00Z", "source": "app", "outcome": "found",
            "link": {"id": "l", "status": "valid", "last_accessed_at": "2026-11-22T10:00:00Z"}});
        let consent = json!({"observed_at": "2026-11-22T10:15:00Z", "source": "app", "outcome": "consent",
            "consent": {"id": "c", "status": "AUTHORISED", "expired_at": "2026-12-01"}});
        let accepted = json!({"observed_at": "2026-11-22T10:15:00Z", "source": "app", "outcome": "refresh_accepted",
            "request_id": "r"});
        let mut reordered = found.clone();
        reordered["link"] = json!({"last_accessed_at": "2026-11-22T10:00:00Z", "status": "valid", "id": "l"});
        assert_eq!(key(&found), key(&reordered));
        for (seen, pointer, other) in [
            (&found, "/link/status", json!("invalid")),
            (&found, "/link/last_accessed_at", json!("2026-11-22T10:14:00Z")),
            (&found, "/link/last_accessed_at", Value::Null),
            (&found, "/source", json!("sweep")),
            (&found, "/observed_at", json!("2026-11-22T10:15:00.001Z")),
            (&found, "/outcome", json!("missing")),
            (&consent, "/consent/status", json!("EXPIRED")),
            (&consent, "/consent/expired_at", json!("2027-12-01")),
            (&consent, "/consent/id", json!("d")),
            (&accepted, "/request_id", json!("s")),
        ] {
            let mut changed = seen.clone();
            *changed.pointer_mut(pointer).unwrap() = other;
            assert_eq!(key(seen), key(&seen.clone()));
            assert_ne!(key(seen), key(&changed), "{pointer} of {seen}");
        }
    }

    #[test]
    fn the_outcome_is_hashed_as_its_json() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let text = "a \"quoted\" \u{1} é".to_owned();
        for outcome in [
            ReadOutcome::Found { link: object(json!({"b": [1, 2.5, null, {"z": text, "a": true}], "a": u64::MAX})) },
            ReadOutcome::Consent { consent: object(json!({})) },
            ReadOutcome::Missing,
            ReadOutcome::RefreshAccepted { request_id: None },
            ReadOutcome::RefreshAccepted { request_id: Some(text.clone()) },
            ReadOutcome::Superseded { by: text.clone() },
        ] {
            let json = serde_json::to_value(&outcome).unwrap();
            assert_eq!(Parts::of("x").and_outcome(&outcome).key(), Parts::of("x").and_json(&json).key(), "{json}");
        }
    }

    /// A link remembers its keys, so a new version of relink must make the same ones.
    #[test]
    fn the_keys_are_those_of_earlier_versions() {
        let webhook = json!({"webhook_id": "a", "webhook_type": "ACCOUNTS", "webhook_code": "new", "link_id": "l",
            "data": {"total": 2, "names": ["é", null, 1.5], "nested": {"b": false}}});
        let seen = json!({"observed_at": "2026-11-22T10:15:00Z", "source": "sweep", "outcome": "found",
            "link": {"id": "l", "status": "valid", "fetch_resources": ["A"]}});
        let seen = of_observation(&"l".parse().unwrap(), &serde_json::from_value(seen).unwrap());
        assert_eq!(
            (key(&webhook), seen),
            (Some(DedupKey(3_583_287_768_922_689_398)), DedupKey(162_345_593_813_950_241))
        );
    }

    #[test]
    fn another_error_has_another_key() {
        let link = "l".parse().unwrap();
        let key = |error: &Value| {
            let error: ApiError = serde_json::from_value(error.clone()).unwrap();
            let item = ErrorBody::parse(&error.body).items.remove(0);
            of_api_error(&link, error.http_status, Call::of(&error), &item, "4363b08b51eb43509c745df5ac92a7f6")
        };
        let first = json!({"http_status": 400, "method": "POST", "path": "/api/transactions/", "body": [{"code": "login_error",
            "message": "Invalid credentials provided to login to the institution", "session": "secret", "expiry": 9600}]});
        let with = |pointer: &str, value: Value| {
            let mut changed = first.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            changed
        };
        assert_eq!(key(&first), key(&with("/body/0/session", json!("removed"))));
        assert_eq!(key(&first), key(&with("/body", first["body"][0].clone())));
        assert_eq!(key(&first), key(&with("/path", json!("https://api.belvo.com/api/transactions/"))));
        for other in [
            with("/http_status", json!(428)),
            with("/body/0/code", json!("token_required")),
            with("/body/0/message", json!("The user account is locked, please contact the institution")),
            with("/body/0/expiry", json!(600)),
            with("/body/0", json!({"code": "invalid_link"})),
            with("/path", json!("/api/links/l/refresh/")),
            with("/method", json!("PUT")),
        ] {
            // The method changes the kind of a call only for links.
            let is_same = other["method"] == "PUT";
            assert_eq!(key(&first) == key(&other), is_same, "{other}");
        }
    }

    #[test]
    fn different_structures_have_different_keys() {
        let hash = |value: Value| Parts::of("x").and_json(&value).key();
        assert_ne!(hash(json!([["a"], "b"])), hash(json!([["a", "b"]])));
        assert_ne!(hash(json!("1")), hash(json!(1)));
        assert_ne!(Parts::of("x").and("ab").and("c").key(), Parts::of("x").and("a").and("bc").key());
    }
}

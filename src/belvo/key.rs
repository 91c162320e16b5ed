//! The identity of a fact: what makes a second delivery of it recognisable.
//!
//! Belvo repeats webhooks and nowhere promises that one field of them is unique, so a key is made of everything that names the fact.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::body::normalise_request_id;
use super::body::webhook::WebhookBody;
use crate::contract::{Observation, Outcome};
use crate::link::{DedupKey, LinkId};

/// A hash over parts, each with its length, so that no two lists of parts run together.
struct Parts(Sha256);

impl Parts {
    fn of(kind: &str) -> Self {
        Self(Sha256::new()).and(kind)
    }

    fn and(mut self, part: &str) -> Self {
        self.part(part.as_bytes());
        self
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    /// JSON whose fields may come in any order.
    fn and_json(mut self, value: &Value) -> Self {
        self.json(value);
        self
    }

    fn json(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.part(value.to_string().as_bytes());
            }
            Value::Array(items) => {
                self.part(b"[");
                items.iter().for_each(|item| self.json(item));
                self.part(b"]");
            }
            Value::Object(fields) => {
                self.part(b"{");
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_unstable_by_key(|&(key, _)| key);
                for (key, value) in fields {
                    self.part(key.as_bytes());
                    self.json(value);
                }
                self.part(b"}");
            }
        }
    }

    fn key(self) -> DedupKey {
        let digest = self.0.finalize();
        DedupKey(digest.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte)))
    }
}

/// The key of a webhook: none if it carries neither `webhook_id` nor `request_id`, since then two of them look alike.
///
/// `data` is part of it: TAX_RETURNS and INVOICES send two messages of one code per refresh.
pub(super) fn of_webhook(family: &str, code: &str, body: &WebhookBody) -> Option<DedupKey> {
    if body.webhook_id.is_none() && body.request_id.is_none() {
        return None;
    }
    let parts = Parts::of("webhook")
        .and(body.webhook_id.as_deref().unwrap_or_default())
        .and(family)
        .and(code)
        .and(body.link.as_str())
        .and(body.request_id.as_deref().unwrap_or_default());
    Some(parts.and_json(&body.data).key())
}

/// The key of an API error.
pub(super) fn of_api_error(link: &LinkId, code: &str, request_id: &str) -> DedupKey {
    Parts::of("api_error").and(link.as_str()).and(code).and(&normalise_request_id(request_id.trim())).key()
}

/// The key of an observation.
pub(super) fn of_observation(link: &LinkId, seen: &Observation) -> DedupKey {
    let outcome = match seen.outcome {
        Outcome::Found { .. } => "found",
        Outcome::Consent { .. } => "consent",
        Outcome::Missing => "missing",
        Outcome::RefreshAccepted { .. } => "refresh_accepted",
    };
    let at = seen.observed_at.as_millis().to_string();
    Parts::of("observation").and(link.as_str()).and(seen.source.as_str()).and(outcome).and(&at).key()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(webhook: &Value) -> Option<DedupKey> {
        let body = WebhookBody::parse(webhook).unwrap();
        of_webhook(&body.family, &body.code, &body)
    }

    #[test]
    fn what_is_the_same_fact() {
        let first = json!({"webhook_id": "a", "webhook_type": "TAX_RETURNS", "webhook_code": "historical_update",
            "link_id": "l", "request_id": "4363b08b-51eb-4350-9c74-5df5ac92a7f6", "data": {"type": "yearly", "total": 2}});
        let with = |name: &str, value: Value| {
            let mut changed = first.clone();
            changed[name] = value;
            changed
        };
        assert_eq!(key(&first), key(&with("data", json!({"total": 2, "type": "yearly"}))));
        assert_eq!(key(&first), key(&with("request_id", json!("4363b08b51eb43509c745df5ac92a7f6"))));
        assert_eq!(key(&first), key(&with("external_id", json!("x"))));
        for (name, value) in [
            ("data", json!({"type": "monthly", "total": 2})),
            ("webhook_id", json!("b")),
            ("webhook_id", json!(null)),
            ("webhook_code", json!("x")),
            ("link_id", json!("m")),
            ("request_id", json!(null)),
        ] {
            assert_ne!(key(&first), key(&with(name, value)), "{name}");
        }
        let mut bare = with("webhook_id", Value::Null);
        bare["request_id"] = Value::Null;
        assert_eq!(key(&bare), None);
    }

    #[test]
    fn structure_does_not_run_together() {
        let hash = |value: Value| Parts::of("x").and_json(&value).key();
        assert_ne!(hash(json!([["a"], "b"])), hash(json!([["a", "b"]])));
        assert_ne!(hash(json!("1")), hash(json!(1)));
        assert_ne!(Parts::of("x").and("ab").and("c").key(), Parts::of("x").and("a").and("bc").key());
    }
}

//! The webhook envelope, as Belvo sends it.

use serde_json::{Map, Value};

use super::{normalise_request_id, text};
use crate::belvo::undecodable::Undecodable;
use crate::link::LinkId;

/// The webhook envelope ("Webhooks: LINK family" and its siblings), all versions since 2021.
#[derive(Clone)]
pub struct WebhookBody {
    /// `webhook_id`: not proven unique.
    pub webhook_id: Option<String>,
    /// `webhook_type`, in capitals.
    pub family: String,
    /// `webhook_code`, in small letters.
    pub code: String,
    /// `link_id`.
    pub link: LinkId,
    /// `request_id`, normalised. Absent before 2022 and from the CONSENT examples.
    pub request_id: Option<String>,
    /// `external_id`. Null in some examples.
    pub external_id: Option<String>,
    /// `data`: null where the message has none.
    pub data: Value,
}

impl WebhookBody {
    /// Reads the envelope.
    pub fn parse(value: &Value) -> Result<Self, Undecodable> {
        let body = value.as_object().ok_or_else(|| Undecodable::shape("$", "expected an object"))?;
        Ok(Self {
            webhook_id: text(body, "webhook_id"),
            link: webhook_link(body)?,
            family: needed(body, "webhook_type")?.to_ascii_uppercase(),
            code: needed(body, "webhook_code")?.to_ascii_lowercase(),
            request_id: text(body, "request_id").map(|id| normalise_request_id(&id)),
            external_id: text(body, "external_id"),
            data: body.get("data").cloned().unwrap_or(Value::Null),
        })
    }

    /// A text of `data`.
    pub fn data_text(&self, key: &str) -> Option<String> {
        text(self.data.as_object()?, key)
    }

    /// How many items `data` counts: its `total_*` or `new_*` number. A breakdown such as `total_inflow_transactions` has the
    /// longer name.
    pub fn items_count(&self) -> Option<u64> {
        let counts = self.data.as_object()?.iter().filter_map(|(key, value)| {
            let is_count = key.starts_with("total_") || key.starts_with("new_");
            Some((key.len(), key, value.as_u64().filter(|_| is_count)?))
        });
        counts.min().map(|(_, _, count)| count)
    }

    /// Whether `data.errors` is there and not empty.
    pub fn has_errors(&self) -> bool {
        match self.data.get("errors") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(errors)) => !errors.is_empty(),
            Some(Value::Object(errors)) => !errors.is_empty(),
            Some(Value::String(errors)) => !errors.is_empty(),
            Some(Value::Bool(true) | Value::Number(_)) => true,
        }
    }
}

/// The `link_id` of a webhook envelope.
pub(in crate::belvo) fn webhook_link(body: &Map<String, Value>) -> Result<LinkId, Undecodable> {
    let id = match body.get("link_id") {
        Some(Value::String(id)) => id,
        // "Webhooks: payments" have `object_id`; the direct debit ones `eventType`.
        None if ["object_id", "eventType", "eventCode"].iter().any(|key| body.contains_key(*key)) => {
            return Err(Undecodable::Payments);
        }
        Some(_) => return Err(Undecodable::shape("$.link_id", "expected a string")),
        None => return Err(Undecodable::shape("$.link_id", "missing")),
    };
    id.trim().parse().map_err(|error: crate::link::NotALinkId| Undecodable::shape("$.link_id", error.to_string()))
}

fn needed(body: &Map<String, Value>, key: &str) -> Result<String, Undecodable> {
    let problem = if body.contains_key(key) { "expected a text" } else { "missing" };
    text(body, key).ok_or_else(|| Undecodable::shape(format!("$.{key}"), problem))
}

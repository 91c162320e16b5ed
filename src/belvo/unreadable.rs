//! The fields of a message that could not be read, for the origin of its transition.

use serde_json::Value;

use super::body::webhook::WebhookBody;
use super::optional::{self, FieldValue};
use crate::link::Timestamp;

/// The paths of the fields of a webhook that could not be read.
pub(super) fn of_webhook(body: &WebhookBody<'_>) -> Vec<&'static str> {
    let mut paths = Vec::new();
    if body.external_id == FieldValue::Unreadable {
        paths.push("external_id");
    }
    if body.due == FieldValue::Unreadable {
        paths.push("data.consent_due_date");
    }
    paths
}

/// The paths of the fields of an observation that could not be read.
pub(super) fn of_observation(body: &Value, received_at: Timestamp) -> Vec<&'static str> {
    let mut paths = Vec::new();
    let mut check = |path, is_unreadable: bool| {
        if is_unreadable {
            paths.push(path);
        }
    };
    if let Some(link) = body.get("link").and_then(Value::as_object) {
        check("link.external_id", optional::external_id(link) == FieldValue::Unreadable);
        check(
            "link.last_accessed_at",
            optional::access(link.get("last_accessed_at"), received_at) == FieldValue::Unreadable,
        );
        check("link.created_at", optional::access(link.get("created_at"), received_at) == FieldValue::Unreadable);
    }
    if let Some(consent) =
        body.get("consent").and_then(Value::as_object).filter(|consent| !optional::is_endless(consent))
    {
        check("consent.expired_at", optional::due(consent.get("expired_at"), received_at) == FieldValue::Unreadable);
    }
    paths
}

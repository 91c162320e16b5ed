//! The fields of a message that could not be read, for the origin of its transition.

use serde_json::Value;

use super::body::webhook::{data_of, envelope};
use super::optional::{self, FieldValue};
use crate::contract::InputKind;
use crate::link::Timestamp;

/// The paths of the fields of a message that could not be read.
pub(super) fn unreadable_fields(kind: InputKind, body: &Value, received_at: Timestamp) -> Vec<&'static str> {
    let mut paths = Vec::new();
    let mut check = |path, is_unreadable: bool| {
        if is_unreadable {
            paths.push(path);
        }
    };
    match kind {
        InputKind::Webhook => {
            let Some(envelope) = envelope(body) else { return paths };
            check("external_id", optional::external_id(envelope) == FieldValue::Unreadable);
            let data = data_of(envelope);
            check(
                "data.consent_due_date",
                optional::due(data.get("consent_due_date"), received_at) == FieldValue::Unreadable,
            );
        }
        InputKind::Observation => {
            if let Some(link) = body.get("link").and_then(Value::as_object) {
                check("link.external_id", optional::external_id(link) == FieldValue::Unreadable);
                check(
                    "link.last_accessed_at",
                    optional::access(link.get("last_accessed_at"), received_at) == FieldValue::Unreadable,
                );
                check(
                    "link.created_at",
                    optional::access(link.get("created_at"), received_at) == FieldValue::Unreadable,
                );
            }
            if let Some(consent) =
                body.get("consent").and_then(Value::as_object).filter(|consent| !optional::is_endless(consent))
            {
                check(
                    "consent.expired_at",
                    optional::due(consent.get("expired_at"), received_at) == FieldValue::Unreadable,
                );
            }
        }
        InputKind::ApiError | InputKind::Widget | InputKind::Command => {}
    }
    paths
}

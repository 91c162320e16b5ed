//! The body of an error of Belvo's API, read leniently. What an error means is decided in `translate`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::body::{normalise_request_id, text};
use crate::link::LinkId;

/// The body of an error answer ("API reference: errors"): an array of objects, or one bare object as the old support page shows.
#[derive(Clone)]
pub(super) struct ErrorBody {
    /// One per problem; several fields of one request can be wrong at once. At least one: a body that is no JSON error (an HTML
    /// page, say) counts as one without code or message.
    pub(super) items: Vec<ErrorItem>,
}

/// One error.
#[derive(Clone, Default)]
pub(super) struct ErrorItem {
    /// `code`, in small letters.
    pub(super) code: Option<String>,
    /// `message`, or the old `detail`.
    pub(super) message: Option<String>,
    /// `request_id`, normalised.
    pub(super) request_id: Option<String>,
    /// `link`: only with status 428.
    pub(super) link: Option<LinkId>,
    /// How long the MFA session named by the error lives. The session's id is not kept: it is a credential.
    pub(super) session_lives: Option<Duration>,
}

impl ErrorBody {
    /// Reads an error body; whatever it is, it has at least one item.
    pub(super) fn parse(value: &Value) -> Self {
        let items: Vec<ErrorItem> = match value {
            Value::Array(items) => items.iter().filter_map(Value::as_object).map(ErrorItem::parse).collect(),
            Value::Object(item) => vec![ErrorItem::parse(item)],
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
        };
        Self { items: if items.is_empty() { vec![ErrorItem::default()] } else { items } }
    }
}

impl ErrorItem {
    fn parse(item: &Map<String, Value>) -> Self {
        let session_lives = text(item, "session").and_then(|_| seconds(item.get("expiry")?)).map(Duration::from_secs);
        Self {
            code: text(item, "code").map(|code| code.to_ascii_lowercase()),
            message: text(item, "message").or_else(|| text(item, "detail")),
            request_id: text(item, "request_id").map(|id| normalise_request_id(&id)),
            link: text(item, "link").and_then(|id| id.parse().ok()),
            session_lives,
        }
    }
}

/// A number of seconds, above zero; numbers have been seen as strings.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|&seconds| seconds > 0)
}

//! Reads the parts of a request, and refuses invalid ones with Belvo's messages.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::config::SandboxConfig;
use crate::problem::Problem;
use crate::shared::Shared;

/// The argument of every handler.
pub(super) type Context = State<Arc<Shared>>;

/// Whether these are the secrets of this sandbox.
pub(super) fn secrets_match(config: &SandboxConfig, id: &str, password: &str) -> bool {
    id == config.secret_id && password == config.secret_password.expose_secret()
}

/// The body as a JSON object; anything else is Belvo's `parse_error`. A missing body is an empty object.
pub(super) fn object(body: &Bytes) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new(400, "invalid", "Invalid data. Expected a dictionary.")),
        Err(error) => Err(Problem::new(400, "parse_error", &format!("JSON parse error - {error}"))),
    }
}

/// A text field of a body; absent, null and empty are the same.
pub(super) fn text<'a>(body: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    body.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A required text field.
pub(super) fn required<'a>(body: &'a Map<String, Value>, field: &str) -> Result<&'a str, Problem> {
    match body.get(field) {
        None => Err(Problem::field(field, "required", "This field is required.")),
        Some(Value::Null) => Err(Problem::field(field, "null", "This field may not be null.")),
        Some(Value::String(text)) if text.is_empty() => {
            Err(Problem::field(field, "blank", "This field may not be blank."))
        }
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Problem::field(field, "invalid", "Not a valid string.")),
    }
}

/// A link id in a body.
pub(super) fn required_id(body: &Map<String, Value>, field: &str) -> Result<Uuid, Problem> {
    let text = required(body, field)?;
    text.parse().map_err(|_| Problem::field(field, "invalid", &format!("“{text}” is not a valid UUID.")))
}

/// A link id in a path: an invalid UUID is not found.
pub(super) fn path_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::of("not_found"))
}

/// A list of resource names in a body.
pub(super) fn resources(body: &Map<String, Value>) -> Result<Option<Vec<String>>, Problem> {
    match body.get("fetch_resources") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let names: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            names.map(Some).ok_or_else(|| Problem::field("fetch_resources", "invalid", "Not a valid string."))
        }
        Some(_) => Err(Problem::field("fetch_resources", "not_a_list", "Expected a list but got type \"str\".")),
    }
}

/// Whether the caller requests only a receipt now, and the result by webhook.
pub(super) fn wants_async(headers: &HeaderMap) -> bool {
    headers.get("X-Belvo-Request-Mode").is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"async"))
}

/// The receipt of an asynchronous call. The id of the receipt has no dashes; the same id in webhooks has dashes.
pub(super) fn receipt(request_id: Uuid) -> Response {
    (axum::http::StatusCode::ACCEPTED, axum::Json(json!({"request_id": request_id.simple().to_string()})))
        .into_response()
}

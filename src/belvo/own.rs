//! relink's own bodies, as their senders write them: what decides is read strictly, what only informs never loses a message.
//!
//! The types are in `contract::input`, and so is how their informing fields are read. Here is what no type can say: the names of
//! events as Belvo's widget has them, and which field is at fault.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error_body::field;
use super::undecodable::{Undecodable, parse_as};
use crate::contract::input::{INPUT_SCHEMA_VERSION, version_in};
use crate::contract::{Command, Observation, Widget, squeezed};
use crate::link::Timestamp;

/// What may happen in the widget, as `event` has it; `page_load` only as Belvo's widget says it.
const EVENTS: &[&str] = &["started", "success", "updated", "exit", "error", "warning", "page_load"];

/// What may be observed.
const OUTCOMES: &[&str] = &["found", "missing", "consent", "refresh_accepted"];

/// Fails for a body that is newer than this relink.
pub(super) fn check_version(value: &Value) -> Result<(), Undecodable> {
    match value.get("schema_version").and_then(version_in) {
        Some(found) if found > INPUT_SCHEMA_VERSION => {
            Err(Undecodable::FutureVersion { found, known: INPUT_SCHEMA_VERSION })
        }
        Some(_) | None => Ok(()),
    }
}

/// What happened in the widget. Its own messages have `eventName`, in capitals, and `metadata` or `meta_data` (guide: Connect Widget
/// events); handlers are called `onExit`.
pub(super) fn parse_widget(value: Value) -> Result<Widget, Undecodable> {
    let mut fields = object(value)?;
    let said = field(&fields, &["event", "eventname"]).ok_or_else(|| Undecodable::shape("$.event", "missing"))?;
    let word = squeezed(said.as_str().unwrap_or_default());
    let word = word.strip_prefix("on").unwrap_or(&word);
    let event = EVENTS.iter().find(|event| squeezed(event) == word);
    let event = event.ok_or_else(|| Undecodable::shape("$.event", one_of(EVENTS)))?;
    fields.insert("event".to_owned(), Value::from(*event));
    if let Some(meta_data) = fields.remove("metadata") {
        fields.entry("meta_data").or_insert(meta_data);
    }
    parse(fields)
}

/// What was read from Belvo.
pub(super) fn parse_observation(value: Value) -> Result<Observation, Undecodable> {
    let fields = object(value)?;
    let needed = |name: &str| {
        let at = format!("$.{name}");
        fields.get(name).filter(|value| !value.is_null()).ok_or_else(|| Undecodable::shape(at, "missing"))
    };
    let outcome = needed("outcome")?.as_str().filter(|outcome| OUTCOMES.contains(outcome));
    let outcome = outcome.ok_or_else(|| Undecodable::shape("$.outcome", one_of(OUTCOMES)))?;
    let observed_at = match needed("observed_at")? {
        Value::String(text) => text.parse::<Timestamp>(),
        // Seconds or milliseconds since 1970.
        other => other.to_string().parse(),
    };
    observed_at.map_err(|error| Undecodable::shape("$.observed_at", error.to_string()))?;
    let resource = match outcome {
        "found" => Some("link"),
        "consent" => Some("consent"),
        _other => None,
    };
    if let Some(name) = resource
        && !needed(name)?.is_object()
    {
        return Err(Undecodable::shape(format!("$.{name}"), "expected an object"));
    }
    parse(fields)
}

/// What an operator decided. `until` is for `snooze` only, and elsewhere no reason to refuse.
pub(super) fn parse_command(value: Value) -> Result<Command, Undecodable> {
    let mut fields = object(value)?;
    if fields.get("command").and_then(Value::as_str) != Some("snooze") {
        fields.remove("until");
    }
    parse(fields)
}

fn parse<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Undecodable> {
    parse_as(Value::Object(fields))
}

fn object(value: Value) -> Result<Map<String, Value>, Undecodable> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Undecodable::shape("$", "expected an object"))
        }
    }
}

fn one_of(words: &[&str]) -> String {
    format!("expected one of `{}`", words.join("`, `"))
}

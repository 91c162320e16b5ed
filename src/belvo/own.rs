//! Readers of the bodies that relink defines. Fields on which the meaning depends are checked; other fields never make
//! a message unreadable.
//!
//! The types, and the readers of the other fields, are in `contract::input`. This module adds the names of events that
//! Belvo's widget uses, and errors that name the wrong field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error_body::field;
use super::undecodable::{Undecodable, parse_as};
use crate::contract::input::{INPUT_SCHEMA_VERSION, version_in};
use crate::contract::{Command, Observation, Widget, squeezed};
use crate::link::Timestamp;

/// The values of `event` in a body of the widget. `page_load` is accepted only in the spelling of Belvo's widget.
const EVENTS: &[&str] = &["started", "success", "updated", "exit", "error", "warning", "page_load", "waiting"];

/// The values of `outcome` in an observation.
const OUTCOMES: &[&str] = &["found", "missing", "consent", "refresh_accepted", "superseded"];

/// Fails if the body has a newer schema version than this relink reads.
pub(super) fn check_version(value: &Value) -> Result<(), Undecodable> {
    match value.get("schema_version").and_then(version_in) {
        Some(found) if found > INPUT_SCHEMA_VERSION => {
            Err(Undecodable::FutureVersion { found, known: INPUT_SCHEMA_VERSION })
        }
        Some(_) | None => Ok(()),
    }
}

/// Reads a body of the widget. The widget's own messages have `eventName`, in capitals, and `metadata` or `meta_data`
/// (guide: Connect Widget events); its handlers have names such as `onExit`.
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

/// Reads an observation.
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
        // A number counts seconds or milliseconds since 1970.
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
    if outcome == "superseded" && !needed("by")?.is_string() {
        return Err(Undecodable::shape("$.by", "expected a string"));
    }
    parse(fields)
}

/// Reads a command. Only `snooze` needs `until`; for other commands a wrong `until` is ignored.
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

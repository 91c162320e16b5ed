//! Readers of the bodies that relink defines. Fields on which the meaning depends are checked; other fields never make
//! a message unreadable.
//!
//! The types, and the readers of the other fields, are in `contract::input`. This module adds the names of events that
//! Belvo's widget uses, and errors that name the wrong field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error_body::field;
use super::undecodable::{Undecodable, parse_as};
use crate::contract::input::{INPUT_SCHEMA_VERSION, lenient_text, source_in, version_in};
use crate::contract::{At, Command, Observation, ReadOutcome, Widget, squeezed};
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

/// Reads an observation. Most inputs are observations, and serde would buffer their fields to find the outcome.
pub(super) fn parse_observation(value: Value) -> Result<Observation, Undecodable> {
    let mut fields = object(value)?;
    let outcome = needed(&fields, "outcome")?.as_str().and_then(|said| OUTCOMES.iter().find(|name| **name == said));
    let outcome = *outcome.ok_or_else(|| Undecodable::shape("$.outcome", one_of(OUTCOMES)))?;
    let observed_at = match needed(&fields, "observed_at")? {
        Value::String(text) => text.parse::<Timestamp>(),
        // A number counts seconds or milliseconds since 1970.
        other => other.to_string().parse(),
    };
    let observed_at = observed_at.map_err(|error| Undecodable::shape("$.observed_at", error.to_string()))?;
    let source = fields.get("source").map(source_in).unwrap_or_default();
    let outcome = match outcome {
        "found" => ReadOutcome::Found { link: taken_object(&mut fields, "link")? },
        "consent" => ReadOutcome::Consent { consent: taken_object(&mut fields, "consent")? },
        "missing" => ReadOutcome::Missing,
        "superseded" => match needed(&fields, "by")? {
            Value::String(by) => ReadOutcome::Superseded { by: by.clone() },
            _other => return Err(Undecodable::shape("$.by", "expected a string")),
        },
        _refresh_accepted => {
            ReadOutcome::RefreshAccepted { request_id: fields.get("request_id").and_then(lenient_text) }
        }
    };
    let schema_version = fields.get("schema_version").and_then(version_in);
    Ok(Observation { schema_version, observed_at: At(observed_at), source, outcome })
}

/// The field, which must not be missing or null.
fn needed<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Undecodable> {
    let value = fields.get(name).filter(|value| !value.is_null());
    value.ok_or_else(|| Undecodable::shape(format!("$.{name}"), "missing"))
}

/// Takes the field out, which must be an object.
fn taken_object(fields: &mut Map<String, Value>, name: &str) -> Result<Map<String, Value>, Undecodable> {
    needed(fields, name)?;
    match fields.remove(name) {
        Some(Value::Object(taken)) => Ok(taken),
        _other => Err(Undecodable::shape(format!("$.{name}"), "expected an object")),
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The types of the contract can be read by serde too, which other programs in Rust use.
    #[test]
    fn an_observation_is_read_as_the_contract_says() {
        for extra in [
            json!({"outcome": "found", "link": {"id": "l", "n": [1, null]}, "source": "sweep", "schema_version": 1}),
            json!({"outcome": "found", "link": {}, "source": "lookup", "schema_version": "1"}),
            json!({"outcome": "consent", "consent": {"id": "c"}, "link": 7, "source": 7}),
            json!({"outcome": "missing", "source": null, "schema_version": null}),
            json!({"outcome": "refresh_accepted", "request_id": {"code": "r"}, "more": true}),
            json!({"outcome": "refresh_accepted", "request_id": null}),
            json!({"outcome": "superseded", "by": "other", "source": "verify"}),
        ] {
            let mut body = json!({"observed_at": "2026-11-22T10:15:00.123Z"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let read = parse_observation(body.clone()).unwrap();
            let expected: Observation = serde_json::from_value(body.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&expected).unwrap(), "{body}");
        }
    }
}

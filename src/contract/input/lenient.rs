//! Readers for fields on which no decision depends. If such a field has a wrong type, it is absent, or the best text in
//! it is used; it is never a reason to refuse a message.
//!
//! Fields on which a decision depends are not read here.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{LastError, Source, WIDGET_TOKEN_SECONDS};

/// The fields of an object whose text can stand for the object.
const WORDS: [&str; 6] = ["code", "name", "error", "message", "detail", "id"];

/// A text.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(text_in(&Value::deserialize(from)?))
}

/// The text of a value, if it has one.
pub fn text_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Object(fields) => WORDS.iter().find_map(|name| fields.get(*name)?.as_str()).map(str::to_owned),
        Value::Null | Value::Array(_) => None,
    }
}

/// Reads the version of a schema, a number or a text.
pub(super) fn version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(version_in(&Value::deserialize(from)?))
}

/// The version in a `schema_version`, if it has one.
pub fn version_in(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Reads how long a token is valid, in seconds. Anything but a number above zero counts as Belvo's ten minutes.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(from)?;
    // A number outside the range of the type, or with a fraction, is rounded.
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    Ok(number.filter(|&seconds| seconds >= 1.0).map_or(WIDGET_TOKEN_SECONDS, |seconds| seconds as u64))
}

/// Reads the last error: an object, or only its code.
pub(super) fn last_error<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LastError>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Object(fields) => {
            let read = |name: &str| fields.get(name).and_then(text_in);
            Some(LastError { code: read("code"), message: read("message") })
        }
        value => text_in(&value).map(|code| LastError { code: Some(code), message: None }),
    })
}

/// Reads who read a link. Every value but those of relink counts as the application.
pub(super) fn source<'de, D: Deserializer<'de>>(from: D) -> Result<Source, D::Error> {
    Ok(source_in(&Value::deserialize(from)?))
}

/// The reader that a value names.
pub fn source_in(value: &Value) -> Source {
    let said = text_in(value).unwrap_or_default();
    [Source::Verify, Source::Sweep].into_iter().find(|source| source.as_str() == said).unwrap_or_default()
}

//! Fields that only inform, read so that none of them is a reason to lose a message: of the wrong type they are absent, or the
//! best text in them.
//!
//! What decides is never read here.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{LastError, Source, WIDGET_TOKEN_SECONDS};

/// Where an object keeps the word that stands for it.
const WORDS: [&str; 6] = ["code", "name", "error", "message", "detail", "id"];

/// A text.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(text_in(&Value::deserialize(from)?))
}

fn text_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Object(fields) => WORDS.iter().find_map(|name| fields.get(*name)?.as_str()).map(str::to_owned),
        Value::Null | Value::Array(_) => None,
    }
}

/// The version of a schema; as a text too.
pub(super) fn version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(version_in(&Value::deserialize(from)?))
}

/// The version that a `schema_version` names, if it names one.
pub fn version_in(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// How long a token lives, in seconds: Belvo's ten minutes unless a number above zero is given.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(from)?;
    // A number beyond the type's reach, or with a fraction, is still a number.
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    Ok(number.filter(|&seconds| seconds >= 1.0).map_or(WIDGET_TOKEN_SECONDS, |seconds| seconds as u64))
}

/// The last error: an object, or its code alone.
pub(super) fn last_error<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LastError>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Object(fields) => {
            let read = |name: &str| fields.get(name).and_then(text_in);
            Some(LastError { code: read("code"), message: read("message") })
        }
        value => text_in(&value).map(|code| LastError { code: Some(code), message: None }),
    })
}

/// Who read a link: your application, unless relink says that it was relink.
pub(super) fn source<'de, D: Deserializer<'de>>(from: D) -> Result<Source, D::Error> {
    let said = text_in(&Value::deserialize(from)?).unwrap_or_default();
    Ok([Source::Verify, Source::Sweep].into_iter().find(|source| source.as_str() == said).unwrap_or_default())
}

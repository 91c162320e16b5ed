//! Why a message cannot be read. The texts are for dead letters and HTTP answers, so they never quote the message.

use serde::de::DeserializeOwned;
use serde_json::Value;
use strum::IntoStaticStr;

use crate::link::LinkId;

/// Why a message cannot be read, and at which place. The dead letter has the complete message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Undecodable {
    /// The body is empty.
    #[error("the message has no body")]
    Empty,
    /// The compressed body is damaged.
    #[error("the body is compressed, and cannot be decompressed")]
    Compressed,
    /// The decompressed body is too large.
    #[error("the body is compressed, and holds more than {max} bytes")]
    TooLarge {
        /// The limit, in bytes.
        max: usize,
    },
    /// The body is not JSON.
    #[error("the body is not JSON (line {line}, column {column})")]
    NotJson {
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// The body is JSON with a wrong shape.
    #[error("the body has the wrong shape at {at}: {problem}")]
    WrongShape {
        /// The place, as a JSON path.
        at: String,
        /// The problem.
        problem: String,
    },
    /// The body and the subject name different links.
    #[error("the body is about link {found}, its subject about link {expected}")]
    LinkMismatch {
        /// The link of the subject.
        expected: LinkId,
        /// The link of the body.
        found: LinkId,
    },
    /// A webhook of Belvo's payments products, which has another envelope and no link.
    #[error("a webhook of Belvo's payments products: it names no link; register another address for these webhooks")]
    Payments,
    /// The body has a newer schema version than this relink reads.
    #[error("the body has schema version {found}, this relink reads up to {known}")]
    FutureVersion {
        /// The version of the body.
        found: u64,
        /// The newest version that this relink reads.
        known: u64,
    },
}

impl Undecodable {
    /// The name in metrics and dead letters.
    pub fn as_str(&self) -> &'static str {
        self.into()
    }

    pub(super) fn shape(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::WrongShape { at: at.into(), problem: problem.into() }
    }
}

/// Reads JSON as one of relink's own types.
pub(super) fn parse_as<T: DeserializeOwned>(value: Value) -> Result<T, Undecodable> {
    // To know the place of an error takes longer than to read the message, so only a wrong message pays for it.
    if let Ok(read) = T::deserialize(&value) {
        return Ok(read);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { "$".to_owned() } else { format!("$.{path}") };
        let message = error.inner().to_string();
        // For a missing field, serde's message contains only the name of the field, which is relink's own.
        match message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(field) => Undecodable::shape(format!("{at}.{field}"), "missing"),
            None => Undecodable::shape(at, problem_of(&message)),
        }
    })
}

/// The part of serde's message that does not quote the input: serde quotes it only before `expected`. Messages of the
/// other forms quote nothing.
fn problem_of(message: &str) -> String {
    if let Some((_quoted, expected)) = message.rsplit_once(", expected ") {
        return format!("expected {expected}");
    }
    let safe = message.starts_with("not an RFC 3339 time");
    if safe { message.to_owned() } else { "not what the schema describes".to_owned() }
}

/// Fails if the body names another link than the subject.
pub(super) fn same_link(expected: &LinkId, found: Option<&LinkId>) -> Result<(), Undecodable> {
    match found {
        Some(found) if found != expected => {
            Err(Undecodable::LinkMismatch { expected: expected.clone(), found: found.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::read_json;
    use super::*;
    use crate::contract::{ApiError, Command, Observation};

    fn check<T: DeserializeOwned>(json: &str, at: &str, problem: &str) {
        let error = read_json(json.as_bytes()).and_then(parse_as::<T>).err();
        assert_eq!(error, Some(Undecodable::shape(at, problem)), "{json}");
    }

    #[test]
    fn an_error_names_the_place_and_quotes_nothing() {
        check::<ApiError>(r#"{"method": "GET", "path": "/"}"#, "$.http_status", "missing");
        check::<ApiError>(
            r#"{"http_status": "hunter2", "method": "GET", "path": "/"}"#,
            "$.http_status",
            "expected u16",
        );
        check::<ApiError>(r#"{"http_status": 1e9, "method": "GET", "path": "/"}"#, "$.http_status", "expected u16");
        check::<ApiError>(r#""hunter2""#, "$", "expected struct ApiError");
        check::<Command>(
            r#"{"command": "hunter2, expected x"}"#,
            "$.command",
            "expected one of `mute`, `unmute`, `snooze`, `verify`, `unsupersede`, `release`, `forget`",
        );
        check::<Command>(
            r#"{"command": "snooze", "until": "hunter2"}"#,
            "$.until",
            "not an RFC 3339 time such as 2026-11-22T10:15:00Z",
        );
        check::<Observation>(
            r#"{"observed_at": "2026-11-22T10:15:00Z", "source": "app", "outcome": "found"}"#,
            "$.link",
            "missing",
        );
    }

    #[test]
    fn an_error_names_the_place_where_reading_stopped() {
        assert_eq!(read_json(b"{\n\"a\": hunter2}"), Err(Undecodable::NotJson { line: 2, column: 6 }));
    }
}

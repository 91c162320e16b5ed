//! Why a message has no meaning: for dead letters and for HTTP answers, so never with anything the message contained.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::link::LinkId;

/// The message cannot be read. It is kept whole in the dead letters; this says what and where, never the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// There is no body.
    #[error("the message has no body")]
    Empty,
    /// The body is compressed, and damaged.
    #[error("the body is compressed, and cannot be decompressed")]
    Compressed,
    /// The body is compressed, and holds more than is read.
    #[error("the body is compressed, and holds more than {max} bytes")]
    TooLarge {
        /// The most that is read, in bytes.
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
    /// The body is JSON of another shape.
    #[error("the body has the wrong shape at {at}: {problem}")]
    WrongShape {
        /// Where, as a JSON path.
        at: String,
        /// What is wrong there.
        problem: String,
    },
    /// The body names another link than the subject it was published on.
    #[error("the body is about link {found}, its subject about link {expected}")]
    LinkMismatch {
        /// The link of the subject.
        expected: LinkId,
        /// The link of the body.
        found: LinkId,
    },
    /// A webhook of Belvo's payments products, which have another envelope and no links.
    #[error("a webhook of Belvo's payments products: it names no link; register another address for those")]
    Payments,
    /// The body announces a newer schema than this relink knows.
    #[error("the body has schema version {found}, this relink reads up to {known}")]
    FutureVersion {
        /// Its version.
        found: u64,
        /// The newest known.
        known: u64,
    },
}

impl Undecodable {
    /// The spelling in metrics and dead letters.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Compressed => "compressed",
            Self::TooLarge { .. } => "too_large",
            Self::NotJson { .. } => "not_json",
            Self::WrongShape { .. } => "wrong_shape",
            Self::LinkMismatch { .. } => "link_mismatch",
            Self::Payments => "payments",
            Self::FutureVersion { .. } => "future_version",
        }
    }

    pub(super) fn shape(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::WrongShape { at: at.into(), problem: problem.into() }
    }
}

/// Reads JSON as one of our own types.
pub(super) fn parse_as<T: DeserializeOwned>(value: Value) -> Result<T, Undecodable> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { "$".to_owned() } else { format!("$.{path}") };
        let message = error.inner().to_string();
        // Where something is missing is where it should be, and our own word.
        match message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(field) => Undecodable::shape(format!("{at}.{field}"), "missing"),
            None => Undecodable::shape(at, problem_of(&message)),
        }
    })
}

/// What of serde's message is ours to repeat: it quotes the input before `expected`, and nowhere in the forms kept whole here.
fn problem_of(message: &str) -> String {
    if let Some((_quoted, expected)) = message.rsplit_once(", expected ") {
        return format!("expected {expected}");
    }
    let safe = message.starts_with("not an RFC 3339 time");
    if safe { message.to_owned() } else { "not what the schema describes".to_owned() }
}

/// Fails if the body names another link than its subject.
pub(super) fn same_link(expected: &LinkId, found: Option<LinkId>) -> Result<(), Undecodable> {
    match found {
        Some(found) if found != *expected => Err(Undecodable::LinkMismatch { expected: expected.clone(), found }),
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
    fn says_where_and_what_but_quotes_nothing() {
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
            "expected one of `mute`, `unmute`, `snooze`, `verify`, `forget`",
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
    fn says_where_reading_stopped() {
        assert_eq!(read_json(b"{\n\"a\": hunter2}"), Err(Undecodable::NotJson { line: 2, column: 6 }));
    }
}

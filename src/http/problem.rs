//! Errors as `application/problem+json` (RFC 9457).
//!
//! A problem has two messages. `detail` is for the caller and contains nothing internal. `log_detail` is for the log:
//! `observe.rs` logs it once, with the `instance` that the caller received, so that the log line can be found.
//! Neither quotes a body or a secret.

use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::belvo::Undecodable;
use crate::journal::JournalError;
use crate::nats::publisher::PublishError;
use crate::store::StoreError;

/// The kinds of problem. Callers may depend on the `type`, so a kind is never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NotJson,
    BadParameter,
    Incomplete,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Timeout,
    NotReplayable,
    TooLarge,
    NotJsonContent,
    UnknownCoding,
    WrongShape,
    LinkNotFound,
    Internal,
    BelvoRefused,
    BelvoUnreachable,
    NotBelvos,
    NotAccepted,
    Unavailable,
    Busy,
    NoBelvoKeys,
    Observing,
    NotReady,
}

impl Kind {
    /// The HTTP status, the end of `type`, and `title`.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotJson => (StatusCode::BAD_REQUEST, "not-json", "The body is not JSON"),
            Self::BadParameter => (StatusCode::BAD_REQUEST, "bad-parameter", "A parameter has a wrong value"),
            Self::Incomplete => (StatusCode::BAD_REQUEST, "incomplete", "The body ended too early"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "Valid credentials are required"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The token does not have the scope"),
            Self::NotBelvos => (StatusCode::FORBIDDEN, "not-belvos", "The request is not for Belvo's API"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "The resource does not exist"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not supported")
            }
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout", "The request took too long to arrive"),
            Self::NotReplayable => (StatusCode::CONFLICT, "not-replayable", "The dead letter cannot be replayed"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Self::NotJsonContent => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json-content", "JSON is required"),
            Self::UnknownCoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown-coding", "The compression is not supported")
            }
            Self::WrongShape => (StatusCode::UNPROCESSABLE_ENTITY, "wrong-shape", "The body has the wrong shape"),
            Self::LinkNotFound => (StatusCode::UNPROCESSABLE_ENTITY, "no-link", "The body does not name a link"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "relink failed, which is a bug"),
            Self::BelvoRefused => (StatusCode::BAD_GATEWAY, "belvo-refused", "Belvo refused the request, or failed"),
            Self::BelvoUnreachable => {
                (StatusCode::BAD_GATEWAY, "belvo-unreachable", "Belvo's API did not answer the call")
            }
            Self::NotAccepted => {
                (StatusCode::BAD_GATEWAY, "not-accepted", "The HTTP target did not accept the message")
            }
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not possible now; try again"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests; try again"),
            Self::NoBelvoKeys => (StatusCode::SERVICE_UNAVAILABLE, "no-belvo-keys", "relink has no keys for Belvo"),
            Self::Observing => (StatusCode::SERVICE_UNAVAILABLE, "observing", "relink only observes"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "relink is not ready"),
        }
    }

    /// Whether nothing has failed, although the status is 5xx: an operator has chosen it, or relink is still starting.
    const fn is_refusal(self) -> bool {
        matches!(self, Self::NoBelvoKeys | Self::Observing | Self::NotReady)
    }
}

/// A problem: becomes the response.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    at: Option<String>,
    log_detail: Option<String>,
    retry_after_secs: Option<u32>,
    is_limit: bool,
    members: Map<String, Value>,
}

/// How a problem is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Severity {
    /// The request is wrong, or relink does what its operator has chosen: INFO.
    Refused,
    /// A limit is reached, and nothing is broken: WARN.
    Limit,
    /// relink, or what it needs, has failed: ERROR.
    Failed,
}

/// The part of a problem that `observe.rs` logs, as an extension of the response.
#[derive(Clone, Debug)]
pub(super) struct LoggedProblem {
    pub(super) id: Uuid,
    pub(super) slug: &'static str,
    pub(super) severity: Severity,
    pub(super) log_detail: String,
}

impl Problem {
    /// A problem of `kind`; `detail` is sent to the caller.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let members = Map::new();
        let detail = detail.into();
        Self { kind, detail, at: None, log_detail: None, retry_after_secs: None, is_limit: kind == Kind::Busy, members }
    }

    /// Adds the member `at`: the wrong field as a JSON pointer (RFC 6901).
    pub(super) fn at(mut self, at: impl Into<String>) -> Self {
        self.at = Some(at.into());
        self
    }

    /// Sets the text for the log. Without one, `detail` is logged.
    pub(super) fn log_detail(mut self, log_detail: impl ToString) -> Self {
        self.log_detail = Some(log_detail.to_string());
        self
    }

    /// Sets the header `Retry-After`, in seconds.
    pub(super) fn retry_after_secs(mut self, secs: u32) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    /// The reason is a limit that an operator can change; nothing is broken.
    pub(super) fn limit(mut self) -> Self {
        self.is_limit = true;
        self
    }

    fn severity(&self) -> Severity {
        match self.kind {
            _ if self.is_limit => Severity::Limit,
            kind if kind.row().0.is_server_error() && !kind.is_refusal() => Severity::Failed,
            _ => Severity::Refused,
        }
    }

    /// Adds a member to the body of the answer.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The message for the caller.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// An internal error; `log_detail` goes to the log only.
    pub(super) fn internal(log_detail: impl ToString) -> Self {
        Self::new(Kind::Internal, "relink failed, not the request; the log has the reason.").log_detail(log_detail)
    }
}

impl From<Undecodable> for Problem {
    fn from(error: Undecodable) -> Self {
        let detail = error.to_string();
        match error {
            Undecodable::Empty | Undecodable::Compressed | Undecodable::NotJson { .. } => {
                Self::new(Kind::NotJson, detail)
            }
            Undecodable::TooLarge { .. } => Self::new(Kind::TooLarge, detail),
            Undecodable::WrongShape { at, .. } => Self::new(Kind::WrongShape, detail).at(pointer(&at)),
            Undecodable::FutureVersion { .. } => Self::new(Kind::WrongShape, detail).at("/schema_version"),
            Undecodable::LinkMismatch { .. } | Undecodable::Payments => Self::new(Kind::WrongShape, detail),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::TooLarge { max, .. } => {
                Self::new(Kind::TooLarge, format!("NATS accepts messages of at most {max} bytes.")).log_detail(error)
            }
            // The journal tries these again; no caller gets them.
            PublishError::Busy
            | PublishError::NoRoom { .. }
            | PublishError::Unavailable { .. }
            | PublishError::Closed => {
                Self::new(Kind::Unavailable, "NATS did not confirm that the message is stored; send it again.")
                    .retry_after_secs(5)
                    .log_detail(error)
            }
            PublishError::Subject { .. } | PublishError::Refused { .. } => Self::internal(error),
        }
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Refused(error) => error.into(),
            JournalError::TooLarge { .. } => {
                Self::new(Kind::TooLarge, "The message is larger than relink can store.").log_detail(error)
            }
            JournalError::Busy => {
                Self::new(Kind::Unavailable, "Too many messages are waiting to be stored; try again.")
                    .limit()
                    .retry_after_secs(1)
                    .log_detail(error)
            }
            JournalError::Full { .. } | JournalError::Stalled { .. } => {
                Self::new(Kind::Unavailable, "relink has no room for the message now; send it again.")
                    .limit()
                    .retry_after_secs(30)
                    .log_detail(error)
            }
            JournalError::Disk { .. } | JournalError::Closed => {
                Self::new(Kind::Unavailable, "The message could not be stored; send it again.")
                    .retry_after_secs(5)
                    .log_detail(error)
            }
        }
    }
}

impl Problem {
    /// A read of the store has failed. `reasons` say why relink is not ready, for example because it has never reached NATS.
    pub(super) fn of_store(error: StoreError, reasons: &[String]) -> Self {
        match &error {
            StoreError::Damaged(_) | StoreError::Incomplete => {
                let mut detail = "relink has not read the states of all links from NATS yet".to_owned();
                if !reasons.is_empty() {
                    detail = format!("{detail}: {}", reasons.join("; "));
                }
                Self::new(Kind::NotReady, format!("{detail}. Try again.")).retry_after_secs(5).log_detail(error)
            }
            StoreError::Disk(_)
            | StoreError::DamagedAgain { .. }
            | StoreError::Denied { .. }
            | StoreError::Full { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Record(_)
            | StoreError::InUse { .. }
            | StoreError::FutureFormat { .. } => Self::internal(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title) = self.kind.row();
        let severity = self.severity();
        let id = Uuid::new_v4();
        let mut body = json!({
            "type": format!("urn:relink:problem:{slug}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
            "instance": format!("urn:uuid:{id}"),
        });
        if let Value::Object(body) = &mut body {
            body.extend(self.at.map(|at| ("at".to_owned(), Value::String(at))));
            body.extend(self.members);
        }
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind == Kind::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"relink\""));
        }
        if self.kind == Kind::UnknownCoding {
            // RFC 9110, section 12.5.3: the answer names the supported codings.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        // Orchestrators probe `/readyz` every second; logging each answer would fill the log.
        if self.kind != Kind::NotReady {
            response.extensions_mut().insert(LoggedProblem {
                id,
                slug,
                severity,
                log_detail: self.log_detail.unwrap_or(self.detail),
            });
        }
        response
    }
}

/// Converts a JSON path such as `$.body[0].code` into a JSON pointer (RFC 6901): `/body/0/code`.
fn pointer(path: &str) -> String {
    let path = path.trim_start_matches('$');
    let steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
    steps.map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_limit_is_a_warning_and_only_a_fault_is_an_error() {
        let disk = JournalError::Disk { problem: "no space left".to_owned() };
        for (error, severity) in [
            (JournalError::Full { max: 1 }, Severity::Limit),
            (JournalError::Stalled { max: Duration::from_secs(1) }, Severity::Limit),
            (JournalError::Busy, Severity::Limit),
            (disk, Severity::Failed),
            (JournalError::Closed, Severity::Failed),
        ] {
            let text = error.to_string();
            let problem = Problem::from(error);
            assert_eq!((problem.kind, problem.severity()), (Kind::Unavailable, severity), "{text}");
            let answer = problem.into_response();
            let logged = answer.extensions().get::<LoggedProblem>().map(|logged| logged.severity);
            assert_eq!((answer.status().as_u16(), logged), (503, Some(severity)), "{text}");
        }
        for (kind, severity) in [
            (Kind::Busy, Severity::Limit),
            (Kind::NoBelvoKeys, Severity::Refused),
            (Kind::Observing, Severity::Refused),
            (Kind::NotFound, Severity::Refused),
            (Kind::Internal, Severity::Failed),
            (Kind::BelvoUnreachable, Severity::Failed),
        ] {
            assert_eq!(Problem::new(kind, "").severity(), severity, "{kind:?}");
        }
    }

    #[test]
    fn json_paths_become_json_pointers() {
        for (path, expected) in [("$", ""), ("$.http_status", "/http_status"), ("$.body[0].code", "/body/0/code")] {
            assert_eq!(pointer(path), expected);
        }
    }
}

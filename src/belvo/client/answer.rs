//! An HTTP answer: reads it completely, and classifies errors by the tables of `classify`.
//!
//! Gateways, proxies and login pages sometimes answer instead of Belvo. An answer without the documented shape ("API
//! reference: errors", and the answer of each call) says nothing about a link; it counts as a 503.
//!
//! The size of a read answer is limited. MFA sessions are dropped, and the text of an error contains nothing of the
//! body. `client` makes the requests, and decides which answers are results.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{Call, CallError, Reply};
use crate::belvo::error_body::ErrorBody;
use crate::belvo::meaning::Meaning;
use crate::belvo::payload::read_json;
use crate::belvo::translate::translate_api_error;
use crate::belvo::unrelated::Unrelated;
use crate::contract::{ApiError, without_session};
use crate::link::Timestamp;

/// The largest answer that is read, in bytes. A link resource has about one kilobyte.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// The pause after a 429 without `Retry-After`: Belvo's limit counts in windows of 30 seconds.
pub(super) const THROTTLED_PAUSE: Duration = Duration::from_secs(30);

/// The pause between two refreshes of one link ("API reference: links", `link_refreshed`), if the answer does not
/// contain it.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_secs(600);

/// A placeholder for the link of a call that is about no link.
const NOBODY: &str = "nobody";

/// The longest wait that is accepted from an answer.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// The JSON body. `None` if the body is not JSON, or too large.
    pub(super) body: Option<Value>,
}

impl Answer {
    /// Whether Belvo refuses the API keys. A 401 can also be about a consent.
    pub(super) fn refuses_keys(&self) -> bool {
        let Some(body) = self.body.as_ref().filter(|_| self.status == StatusCode::UNAUTHORIZED) else { return false };
        ErrorBody::parse(body).items.iter().any(|item| item.code.as_deref() == Some("authentication_failed"))
    }
}

/// The wait of a `Retry-After`. `Retry-After` can also be a date, which is not supported because it needs a clock.
fn wait_of(header: &str) -> Option<Duration> {
    let seconds: Option<u64> = header.trim().parse().ok();
    seconds.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

/// An answer that is an error, and its classification.
pub(super) struct Refused {
    pub(super) error: ApiError,
    pub(super) meaning: Meaning,
    /// See [`Answer::says_missing`].
    pub(super) says_missing: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Answer {
    pub(super) async fn read(mut response: Response, bytes_max: usize) -> Result<Self, reqwest::Error> {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(wait_of);
        let status = response.status();
        let (mut bytes, mut is_whole) = (Vec::new(), true);
        while let Some(chunk) = response.chunk().await? {
            let room = bytes_max - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                is_whole = false;
                break;
            }
        }
        let body = read_json(&bytes).ok().filter(|_| is_whole);
        Ok(Self { status, retry_after, body })
    }

    /// The answer that a reply contains.
    pub(super) fn of(reply: Reply, bytes_max: usize) -> Self {
        let Reply { status, retry_after, body } = reply;
        // Belvo sends no status that HTTP does not have.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let retry_after = retry_after.as_deref().and_then(wait_of);
        let body = read_json(&body).ok().filter(|_| body.len() <= bytes_max);
        Self { status, retry_after, body }
    }

    /// The body of a successful answer, if it is an object.
    pub(super) fn object(self) -> Option<Map<String, Value>> {
        match self.body {
            Some(Value::Object(object)) => Some(object),
            Some(_) | None => None,
        }
    }

    /// The objects in the body of an error: Belvo sends an array of objects, and old endpoints send one object.
    fn items(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let items = match &self.body {
            Some(Value::Array(items)) => items.as_slice(),
            Some(item @ Value::Object(_)) => std::slice::from_ref(item),
            Some(_) | None => &[],
        };
        items.iter().filter_map(Value::as_object)
    }

    /// Whether the error may be from Belvo: it has a `code`, or the `detail` of old endpoints. Gateways write
    /// `message`, `error` or an HTML page, and for an unknown address also `detail`.
    fn is_error_of_belvos(&self) -> bool {
        let knows_address = self.status != StatusCode::NOT_FOUND || self.says_missing();
        self.items().any(|item| has_text(item, "code") || (knows_address && has_text(item, "detail")))
    }

    /// Whether Belvo itself says that the resource does not exist: `not_found`, or one of the sentences of Django REST
    /// framework, on which Belvo runs. Other servers answer "Not Found" for an unknown address.
    pub(super) fn says_missing(&self) -> bool {
        let says_missing = |item: &Map<String, Value>| match item.get("code").and_then(Value::as_str) {
            Some(code) => code.eq_ignore_ascii_case("not_found"),
            None => {
                let detail = item.get("detail").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
                detail.starts_with("not found.") || detail.contains("matches the given query")
            }
        };
        self.status == StatusCode::NOT_FOUND && self.items().any(says_missing)
    }
}

/// Whether a field is a text that is not empty.
pub(super) fn has_text(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
}

/// Whether the status alone decides: timeouts, rate limits and server errors. For too many requests Belvo's proxy
/// answers 403 with an HTML page.
fn says_enough(status: StatusCode) -> bool {
    let known = [StatusCode::FORBIDDEN, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || known.contains(&status)
}

impl Refused {
    /// Classifies the error by the tables. An answer that is not from Belvo, such as a redirect or the page of a
    /// gateway, counts as a temporary failure.
    pub(super) fn of(call: &Call<'_>, answer: Answer) -> Result<Self, CallError> {
        let is_error = answer.status.is_client_error() || answer.status.is_server_error();
        let is_belvos = answer.is_error_of_belvos();
        if !is_error || !(is_belvos || says_enough(answer.status)) {
            return Err(call.not_belvos(answer.status, answer.retry_after));
        }
        let says_missing = answer.says_missing();
        let error = ApiError {
            schema_version: None,
            http_status: answer.status.as_u16(),
            method: call.method.to_string(),
            path: call.path.clone(),
            link_id: call.link.map(ToString::to_string),
            request_id: None,
            body: answer.body.filter(|_| is_belvos).map_or(Value::Null, without_session),
        };
        // The error of a list is about no link. A meaning for the placeholder is dropped below.
        let nobody = || NOBODY.parse().expect("a word is a link id");
        let link = call.link.cloned().unwrap_or_else(nobody);
        // The time is needed only for the expiry of a session, which is not used here.
        let meaning = translate_api_error(&link, &error, Timestamp::default())
            .map_err(|_not_belvos| call.not_belvos(answer.status, answer.retry_after))?;
        Ok(Self { error, meaning, says_missing, retry_after: answer.retry_after })
    }
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        match refused.meaning {
            Meaning::Event(_) | Meaning::StatusPage(_) | Meaning::Unknown { .. } if refused.error.link_id.is_none() => {
                let ApiError { http_status, method, path, .. } = refused.error;
                Self::Permanent { why: format!("Belvo answered {http_status} to {method} {path}"), class: None }
            }
            Meaning::Event(_) | Meaning::StatusPage(_) | Meaning::Unknown { .. } => Self::Api(Box::new(refused.error)),
            Meaning::NotAboutTheLink { class, code } => {
                let ApiError { http_status, method, path, .. } = refused.error;
                let why = format!("Belvo answered {http_status} {code} to {method} {path}");
                if class.is_transient() {
                    Self::Transient { why, retry_after: refused.retry_after.or(pause_after(class)) }
                } else {
                    Self::Permanent { why, class: Some(class) }
                }
            }
        }
    }
}

/// How long to wait if the answer does not contain it.
const fn pause_after(class: Unrelated) -> Option<Duration> {
    match class {
        // "Wait 120 seconds": Belvo itself stays logged in for at most that long.
        Unrelated::Busy => Some(Duration::from_secs(120)),
        Unrelated::RateLimit => Some(THROTTLED_PAUSE),
        Unrelated::Delay => Some(REFRESH_PAUSE),
        Unrelated::Outage
        | Unrelated::InstitutionDown
        | Unrelated::Keys
        | Unrelated::Permission
        | Unrelated::Request
        | Unrelated::InstitutionOff
        | Unrelated::PartialData
        | Unrelated::ConsentPending
        | Unrelated::Creation
        | Unrelated::WrongToken
        | Unrelated::InWidget => None,
    }
}

/// The wait in "Please wait X minutes": the first number in the message.
pub(super) fn wait_named(body: &Value) -> Option<Duration> {
    let message = ErrorBody::parse(body).items.into_iter().find_map(|item| item.message)?;
    let start = message.find(|letter: char| letter.is_ascii_digit())?;
    let number = message[start..].split(|letter: char| !letter.is_ascii_digit()).next()?;
    let unit = if message[start..].contains("second") { 1 } else { 60 };
    number.parse::<u64>().ok().map(|count| Duration::from_secs(count.saturating_mul(unit)).min(WAIT_MAX))
}

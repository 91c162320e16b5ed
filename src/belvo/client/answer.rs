//! An answer of Belvo's, read to its end and judged by the table of `translate`.
//!
//! Gateways, proxies and login pages answer in Belvo's place. An answer that does not have the shape Belvo documents
//! ("API reference: errors", and the answer of each call) says nothing of any link: it counts as a 503, which may pass.
//!
//! It reads no more than a bounded part, keeps no MFA session, and puts nothing of a body into an error's text.
//! Who asks, and what is an answer rather than an error, is `client`.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{Call, CallError, Reply};
use crate::belvo::error_body::ErrorBody;
use crate::belvo::meaning::{Meaning, Unrelated};
use crate::belvo::payload::read_json;
use crate::belvo::translate::translate_api_error;
use crate::contract::{ApiError, without_session};
use crate::link::Timestamp;

/// The most of an answer that is read. A link resource has about a kilobyte.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// 80 requests in 30 seconds are too many.
pub(super) const THROTTLED_PAUSE: Duration = Duration::from_secs(30);

/// One link may be refreshed this often ("API reference: links", `link_refreshed`), where the answer does not say.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_secs(600);

/// Stands where the table wants a link and there is none.
const NOBODY: &str = "nobody";

/// The longest wait believed of an answer.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// `None`: no JSON, or longer than what is read.
    pub(super) body: Option<Value>,
}

/// The wait of a `Retry-After`. The other form of it, a date, would need a clock.
fn wait_of(header: &str) -> Option<Duration> {
    let seconds: Option<u64> = header.trim().parse().ok();
    seconds.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

/// An answer that is an error, and what the table says of it.
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

    /// The answer that a reply is.
    pub(super) fn of(reply: Reply, bytes_max: usize) -> Self {
        let Reply { status, retry_after, body } = reply;
        // A status that HTTP does not have is none of Belvo's.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let retry_after = retry_after.as_deref().and_then(wait_of);
        let body = read_json(&body).ok().filter(|_| body.len() <= bytes_max);
        Self { status, retry_after, body }
    }

    /// The body of a success, if it is an object.
    pub(super) fn object(self) -> Option<Map<String, Value>> {
        match self.body {
            Some(Value::Object(object)) => Some(object),
            Some(_) | None => None,
        }
    }

    /// The objects of an error's body: Belvo sends an array of them, and old endpoints a single one.
    fn items(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let items = match &self.body {
            Some(Value::Array(items)) => items.as_slice(),
            Some(item @ Value::Object(_)) => std::slice::from_ref(item),
            Some(_) | None => &[],
        };
        items.iter().filter_map(Value::as_object)
    }

    /// Whether Belvo could have written this error: a `code`, or the `detail` of old endpoints. Gateways write `message`,
    /// `error` or a page, and of an address that they do not serve also `detail`.
    fn is_error_of_belvos(&self) -> bool {
        let knows_address = self.status != StatusCode::NOT_FOUND || self.says_missing();
        self.items().any(|item| has_text(item, "code") || (knows_address && has_text(item, "detail")))
    }

    /// Whether this is Belvo's own word that there is no such thing: `not_found`, or the sentences of the framework that
    /// Belvo is made with. Other frameworks say "Not Found" of an address that they do not serve.
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

/// Whether a field is a text with something in it.
pub(super) fn has_text(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
}

/// Whether the status says enough, whatever the body is: too slow, too often, out of order. Beyond 80 requests in 30
/// seconds Belvo's proxy answers 403 with a page.
fn says_enough(status: StatusCode) -> bool {
    let known = [StatusCode::FORBIDDEN, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || known.contains(&status)
}

impl Refused {
    /// Asks the table. An answer that is no error of Belvo's, such as a redirect or a gateway's page, may pass.
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
        // A list is asked for no link: what its error would say of one is dropped below.
        let nobody = || NOBODY.parse().expect("a word is a link id");
        let link = call.link.cloned().unwrap_or_else(nobody);
        // The time would only date a session, which is not used here.
        let meaning = translate_api_error(&link, &error, Timestamp::default())
            .map_err(|_not_belvos| call.not_belvos(answer.status, answer.retry_after))?;
        Ok(Self { error, meaning, says_missing, retry_after: answer.retry_after })
    }
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        match refused.meaning {
            Meaning::Event(_) | Meaning::Unknown { .. } if refused.error.link_id.is_none() => {
                let ApiError { http_status, method, path, .. } = refused.error;
                Self::Permanent { why: format!("Belvo answered {http_status} to {method} {path}"), class: None }
            }
            Meaning::Event(_) | Meaning::Unknown { .. } => Self::Api(Box::new(refused.error)),
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

/// How long to wait where the answer does not say.
const fn pause_after(class: Unrelated) -> Option<Duration> {
    match class {
        // "Wait 120 seconds": the longest that Belvo itself stays logged in.
        Unrelated::Busy => Some(Duration::from_secs(120)),
        Unrelated::RateLimit => Some(THROTTLED_PAUSE),
        Unrelated::Delay => Some(REFRESH_PAUSE),
        Unrelated::Outage
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

/// "Please wait X minutes": the first number of the message.
pub(super) fn wait_named(body: &Value) -> Option<Duration> {
    let message = ErrorBody::parse(body).items.into_iter().find_map(|item| item.message)?;
    let start = message.find(|letter: char| letter.is_ascii_digit())?;
    let number = message[start..].split(|letter: char| !letter.is_ascii_digit()).next()?;
    let unit = if message[start..].contains("second") { 1 } else { 60 };
    number.parse::<u64>().ok().map(|count| Duration::from_secs(count.saturating_mul(unit)).min(WAIT_MAX))
}

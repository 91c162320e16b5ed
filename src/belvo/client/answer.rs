//! An answer of Belvo's, read to its end and judged by the table of `translate`.
//!
//! It reads no more than a bounded part, keeps no MFA session, and puts nothing of a body into an error's text.
//! Who asks, and what is an answer rather than an error, is `client`.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::{Call, CallError};
use crate::belvo::body::ErrorBody;
use crate::belvo::call::without_session;
use crate::belvo::meaning::{Meaning, Unrelated};
use crate::belvo::payload::read_json;
use crate::belvo::translate::translate_api_error;
use crate::contract::ApiError;
use crate::link::Timestamp;

/// The most of an answer that is read. A link resource has about a kilobyte.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// The most kept of an answer that is not JSON, such as a proxy's HTML page.
const PAGE_CHARS_MAX: usize = 500;

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
    pub(super) body: Value,
}

/// An answer that is an error, and what the table says of it.
pub(super) struct Refused {
    pub(super) error: ApiError,
    pub(super) meaning: Meaning,
    pub(super) retry_after: Option<Duration>,
}

impl Answer {
    pub(super) async fn read(mut response: Response, bytes_max: usize) -> Result<Self, reqwest::Error> {
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        // The other form, a date, would need a clock.
        let seconds: Option<u64> = header.and_then(|text| text.trim().parse().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX));
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            let room = bytes_max - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
        let body = read_json(&bytes).unwrap_or_else(|_no_json| {
            String::from_utf8_lossy(&bytes).chars().take(PAGE_CHARS_MAX).collect::<String>().into()
        });
        Ok(Self { status, retry_after, body })
    }
}

impl Refused {
    /// Asks the table. Fails where the answer is no error of Belvo's, such as a redirect.
    pub(super) fn of(call: &Call<'_>, answer: Answer) -> Result<Self, CallError> {
        let error = ApiError {
            schema_version: None,
            http_status: answer.status.as_u16(),
            method: call.method.to_string(),
            path: call.path.clone(),
            link_id: call.link.map(ToString::to_string),
            request_id: None,
            body: without_session(answer.body),
        };
        if !(answer.status.is_client_error() || answer.status.is_server_error()) {
            return Err(call.failed(&format!("status {} is no answer of Belvo's", error.http_status)));
        }
        // A list is asked for no link: what its error would say of one is dropped below.
        let nobody = || NOBODY.parse().expect("a word is a link id");
        let link = call.link.cloned().unwrap_or_else(nobody);
        // The time would only date a session, which is not used here.
        let meaning = translate_api_error(&link, &error, Timestamp::default())
            .map_err(|problem| call.failed(&format!("status {}: {problem}", error.http_status)))?;
        Ok(Self { error, meaning, retry_after: answer.retry_after })
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
        | Unrelated::WrongToken => None,
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

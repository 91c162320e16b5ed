//! The errors of Belvo's API in a body, however a client passed the body on. What an error means is decided in `translate`.
//!
//! Belvo answers with a list of objects that have `code`, `message` and `request_id` ("API reference: errors"), and the old support
//! page shows one bare object with `detail`. Clients wrap that: `{"statusCode", "detail"}` (belvo-js), `{"status_code", "detail"}`
//! (belvo-python), `{"response": {"data"}}` (axios), `{"errors"}`, lists in lists, and texts that hold JSON. So errors are looked for
//! anywhere in a body, within bounds. Webhooks have one in `data`: as `error_code` and `error_message`, `error` or `errors`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::body::{normalise_request_id, text};
use crate::contract::{is_session, json_in, squeezed};
use crate::link::LinkId;

/// How deep errors are looked for. The deepest way known takes seven: an axios error as a text, `error`, `response`, `data`, `detail`,
/// the list, the error.
pub(super) const DEPTH_MAX: usize = 16;

/// How many lists, objects and texts are looked at. Belvo's longest answers name each wrong field of one request.
const LOOKS_MAX: usize = 4096;

/// How many errors are taken from one body; a request with more wrong fields has been understood by then.
const ITEMS_MAX: usize = 100;

/// The names of a code, `squeezed`.
const CODE: &[&str] = &["code", "errorcode"];

/// The names of a message; `detail` is of Django REST framework, on which Belvo runs.
const MESSAGE: &[&str] = &["message", "errormessage", "detail", "errordetail", "errordescription"];

/// The names of an HTTP status in a wrapper.
const STATUS: &[&str] = &["httpstatus", "httpstatuscode", "statuscode", "status"];

/// What was asked and not what was answered: an error object of an HTTP client has both.
const REQUEST: &[&str] = &["config", "request", "headers"];

/// What a body says of errors.
#[derive(Clone, Default)]
pub(super) struct ErrorBody {
    /// One per problem; several fields of one request can be wrong at once. Empty if nothing in it looks like an error: an HTML page, say.
    pub(super) items: Vec<ErrorItem>,
    /// The first status of an error that is named in it.
    pub(super) status: Option<u16>,
}

/// One error.
#[derive(Clone, Default)]
pub(super) struct ErrorItem {
    /// `code`, in small letters.
    pub(super) code: Option<String>,
    /// `message`, or the old `detail`.
    pub(super) message: Option<String>,
    /// `request_id`, normalised.
    pub(super) request_id: Option<String>,
    /// `link`: only with status 428.
    pub(super) link: Option<LinkId>,
    /// How long the MFA session named by the error lives. The session's id is not kept: it is a credential.
    pub(super) session_lives: Option<Duration>,
    /// Errors lie inside of it: its own words are perhaps those of the client that passed them on.
    pub(super) is_wrapper: bool,
}

impl ErrorBody {
    /// Looks for errors.
    pub(super) fn parse(value: &Value) -> Self {
        let mut search = Search { found: Self::default(), looks_left: LOOKS_MAX };
        search.look_into(value, 0);
        search.found
    }
}

struct Search {
    found: ErrorBody,
    looks_left: usize,
}

impl Search {
    /// Whether there was an error.
    fn look_into(&mut self, value: &Value, depth: usize) -> bool {
        if depth > DEPTH_MAX || self.looks_left == 0 || self.found.items.len() >= ITEMS_MAX {
            return false;
        }
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
            Value::String(text) => {
                self.looks_left -= 1;
                self.look_into_text(text, depth)
            }
            Value::Array(items) => {
                self.looks_left -= 1;
                items.iter().fold(false, |found, item| self.look_into(item, depth + 1) | found)
            }
            Value::Object(fields) => {
                self.looks_left -= 1;
                self.look_into_fields(fields, depth)
            }
        }
    }

    fn look_into_text(&mut self, text: &str, depth: usize) -> bool {
        let mut found = false;
        let mut rest = text;
        while let Some((_, inside, behind)) = json_in(rest).filter(|_| self.looks_left > 0) {
            found |= self.look_into(&inside, depth + 1);
            rest = behind;
        }
        found
    }

    fn look_into_fields(&mut self, fields: &Map<String, Value>, depth: usize) -> bool {
        self.found.status = self.found.status.or_else(|| field(fields, STATUS).and_then(status_of_error));
        let answered = fields.iter().filter(|(name, _)| !REQUEST.contains(&squeezed(name).as_str()));
        let is_wrapper = answered.fold(false, |found, (_, value)| self.look_into(value, depth + 1) | found);
        match ErrorItem::parse(fields) {
            Some(item) => {
                self.found.items.push(ErrorItem { is_wrapper, ..item });
                true
            }
            None => is_wrapper,
        }
    }
}

impl ErrorItem {
    /// Reads an object that has the words of an error.
    fn parse(fields: &Map<String, Value>) -> Option<Self> {
        // `error` is a code in some bodies, and a sentence in others.
        let error = field(fields, &["error"]).and_then(words);
        let is_code = |error: &&str| error.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let code = field(fields, CODE).and_then(words).or(error.filter(is_code));
        let message = field(fields, MESSAGE).and_then(words).or(error);
        if code.is_none() && message.is_none() {
            return None;
        }
        let has_session = fields.iter().any(|(name, value)| is_session(name) && !value.is_null());
        let session_lives = field(fields, &["expiry"]).filter(|_| has_session).and_then(seconds);
        Some(Self {
            code: code.map(str::to_ascii_lowercase),
            message: message.map(str::to_owned),
            request_id: named(fields, &["requestid"]).map(|id| normalise_request_id(&id)),
            link: named(fields, &["link", "linkid"]).and_then(|id| id.parse().ok()),
            session_lives: session_lives.map(Duration::from_secs),
            is_wrapper: false,
        })
    }
}

/// The first field with one of these names, in any spelling, that is not null; `squeezed` names, the first before the second.
pub(super) fn field<'a>(fields: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    let named = |wanted: &str| fields.iter().find(|(name, value)| !value.is_null() && squeezed(name) == wanted);
    names.iter().find_map(|wanted| named(wanted)).map(|(_, value)| value)
}

/// The same, if it is a short text.
pub(super) fn named(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    let found = field(fields, names)?;
    text(&Map::from_iter([(String::new(), found.clone())]), "")
}

/// Words that are not empty. Nothing of them gets into a record, so that they may be long.
fn words(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// The status of an HTTP error, 400 to 599; numbers come as texts too.
pub(super) fn status_of_error(value: &Value) -> Option<u16> {
    let whole = |number: f64| (number.fract() == 0.0 && (0.0..1000.0).contains(&number)).then_some(number as u16);
    let number = match value {
        Value::Number(number) => number.as_f64().and_then(whole),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|status| (400..=599).contains(status))
}

/// A number of seconds, above zero; numbers have been seen as strings.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|&seconds| seconds > 0)
}

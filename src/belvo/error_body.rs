//! Finds the errors of Belvo's API in a body. `classify` decides their meaning.
//!
//! Belvo answers with a list of objects that have `code`, `message` and `request_id` ("API reference: errors"); the old
//! support page shows one object with `detail`. Clients wrap these: `{"statusCode", "detail"}` (belvo-js),
//! `{"status_code", "detail"}` (belvo-python), `{"response": {"data"}}` (axios), `{"errors"}`, nested lists, and texts
//! that contain JSON. So errors are searched in the whole body, within limits. A webhook has its error in `data`: as
//! `error_code` and `error_message`, `error` or `errors`.

use std::time::Duration;

use serde_json::Value;

use super::body::data::Data;
use super::fields::{Fields, normalise_request_id, text_of};
use crate::contract::{is_named, is_one_of, is_session, json_in};
use crate::link::LinkId;

/// The depth to which errors are searched. The deepest known wrapper has seven levels: an axios error as a text,
/// `error`, `response`, `data`, `detail`, the list, the error.
pub(super) const DEPTH_MAX: usize = 16;

/// How many lists, objects and texts are searched. Belvo's longest answers have one error for each wrong field of a
/// request.
const LOOKS_MAX: usize = 4096;

/// The most errors that are read from one body.
const ITEMS_MAX: usize = 100;

/// The field names of a code, as `squeezed` returns them.
const CODE: &[&str] = &["code", "errorcode"];

/// The field names of a message. `detail` is from Django REST framework, on which Belvo runs.
const MESSAGE: &[&str] = &["message", "errormessage", "detail", "errordetail", "errordescription"];

/// The field names of an HTTP status in a wrapper.
const STATUS: &[&str] = &["httpstatus", "httpstatuscode", "statuscode", "status"];

/// The field names of the request in the error object of an HTTP client. These fields are not searched, because only
/// the answer counts.
const REQUEST: &[&str] = &["config", "request", "headers"];

/// The errors in a body.
#[derive(Clone, Default)]
pub(super) struct ErrorBody {
    /// The errors; one request can have several. Empty if the body contains no error, such as an HTML page.
    pub(super) items: Vec<ErrorItem>,
    /// The first HTTP status of an error in the body.
    pub(super) status: Option<u16>,
}

/// One error.
#[derive(Clone, Default)]
pub(super) struct ErrorItem {
    /// `code`, in lower case.
    pub(super) code: Option<String>,
    /// `message`, or the old `detail`.
    pub(super) message: Option<String>,
    /// `request_id`, normalised.
    pub(super) request_id: Option<String>,
    /// `link`: only with status 428.
    pub(super) link: Option<LinkId>,
    /// How long the MFA session in the error is open. The id of the session is a credential and is not kept.
    pub(super) session_valid_for: Option<Duration>,
    /// Whether the object contains other errors. Then its own `message` may be from the client that wrapped them.
    pub(super) is_wrapper: bool,
}

impl ErrorBody {
    /// Searches a value for errors.
    pub(super) fn parse(value: &Value) -> Self {
        let mut search = Search { found: Self::default(), looks_left: LOOKS_MAX };
        search.look_into(value, 0);
        search.found
    }

    /// Searches the `data` of a webhook for errors.
    pub(super) fn of_data(data: &Data<'_>) -> Self {
        match data {
            Data::Fields(_) => {
                let mut search = Search { found: Self::default(), looks_left: LOOKS_MAX - 1 };
                search.look_into_fields(data, 0);
                search.found
            }
            Data::Other(value) => Self::parse(value),
        }
    }
}

struct Search {
    found: ErrorBody,
    looks_left: usize,
}

impl Search {
    /// Returns whether an error was found.
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

    fn look_into_fields(&mut self, fields: &impl Fields, depth: usize) -> bool {
        self.found.status = self.found.status.or_else(|| field(fields, STATUS).and_then(status_of_error));
        let answered = fields.entries().filter(|(name, _)| !is_one_of(name, REQUEST));
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
    /// Reads an object that has the fields of an error.
    fn parse(fields: &impl Fields) -> Option<Self> {
        // In some bodies `error` is a code, in others a sentence.
        let error = field(fields, &["error"]).and_then(words);
        let is_code = |error: &&str| error.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let code = field(fields, CODE).and_then(words).or(error.filter(is_code));
        let message = field(fields, MESSAGE).and_then(words).or(error);
        if code.is_none() && message.is_none() {
            return None;
        }
        let has_session = || fields.entries().any(|(name, value)| is_session(name) && !value.is_null());
        let session_valid_for = field(fields, &["expiry"]).filter(|_| has_session()).and_then(seconds);
        Some(Self {
            code: code.map(str::to_ascii_lowercase),
            message: message.map(str::to_owned),
            request_id: named(fields, &["requestid"]).map(|id| normalise_request_id(&id)),
            link: named(fields, &["link", "linkid"]).and_then(|id| id.parse().ok()),
            session_valid_for: session_valid_for.map(Duration::from_secs),
            is_wrapper: false,
        })
    }
}

/// The first field, in the order of `names`, that is not null. Field names are compared after `squeezed`.
pub(super) fn field<'a>(fields: &'a impl Fields, names: &[&str]) -> Option<&'a Value> {
    let named = |wanted: &str| fields.entries().find(|(name, value)| !value.is_null() && is_named(name, wanted));
    names.iter().find_map(|wanted| named(wanted)).map(|(_, value)| value)
}

/// Like [`field`], if the value is a short text.
pub(super) fn named(fields: &impl Fields, names: &[&str]) -> Option<String> {
    field(fields, names).and_then(text_of)
}

/// A text that is not empty. The text may be long, because it is not kept in a record.
fn words(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// The status of an HTTP error, 400 to 599, as a number or a text.
pub(super) fn status_of_error(value: &Value) -> Option<u16> {
    let whole = |number: f64| (number.fract() == 0.0 && (0.0..1000.0).contains(&number)).then_some(number as u16);
    let number = match value {
        Value::Number(number) => number.as_f64().and_then(whole),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|status| (400..=599).contains(status))
}

/// A number of seconds above zero, as a number or a text.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|&seconds| seconds > 0)
}

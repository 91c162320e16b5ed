//! What a call to Belvo's API, that relink has passed on, says about a link.
//!
//! The proxy (`http::proxy`) gives the request and the answer as they were, and gets the report that the application
//! would have sent itself: an API error, an event of the widget, or an observation. A report never contains a part of the
//! request but its method, its path and its link: requests have passwords and tokens in their bodies.
//!
//! Sources: "API reference" (links, token, errors). This file decides which answers concern a link; `classify` decides
//! what an error means.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::call::{Call, RESOURCES};
use super::payload::read_json;
use super::translate::link_of_api_error;
use crate::contract::{
    ApiError, At, InputKind, Observation, ReadOutcome, Source, Widget, is_one_of, squeezed, without_session,
};
use crate::link::{LinkId, Timestamp};

/// Further resources below `/api/`. `call` does not recognise a path without `api` by them, because applications have
/// such paths too.
const MORE_RESOURCES: &[&str] = &[
    "institutions",
    "tax-declarations",
    "current-employments",
    "employment-metrics",
    "debt-reports",
    "exchanges",
    "investment-transactions",
];

/// The countries that may stand before a resource, as in `/api/br/employments/`.
const COUNTRIES: &[&str] = &["br", "cl", "co", "mx"];

/// The other parts of Belvo's API: its payments, and a path of belvo-python that is not below `/api/`.
const OTHER_PARTS: &[&str] = &["payments", "investments"];

/// The longest path that is passed on. The longest documented one has less than 150 bytes.
const PATH_LENGTH_MAX: usize = 512;

/// The shortest secret of a request that is searched in the answer. A shorter text would match other words.
const SECRET_LENGTH_MIN: usize = 4;

/// The fields of an answer in which no secret of the request is searched: ids and codes must not change.
const NOT_SEARCHED: &[&str] = &["code", "requestid", "link", "linkid", "expiry"];

/// Whether a path, without its query, is one of Belvo's API.
pub fn is_path_of_api(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/').filter(|_| path.len() <= PATH_LENGTH_MAX) else { return false };
    // The last segment is empty if the path ends with a slash, as all of Belvo's do.
    let mut segments: Vec<&str> = rest.split('/').collect();
    segments.pop_if(|last| last.is_empty());
    let is_plain = |segment: &&str| {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !segment.is_empty() && segment.bytes().all(safe) && !segment.bytes().all(|byte| byte == b'.')
    };
    let is_resource = |name: &str| RESOURCES.contains(&name) || MORE_RESOURCES.contains(&name);
    segments.iter().all(is_plain)
        && match &segments[..] {
            ["api"] => true,
            ["api", country, resource, ..] if COUNTRIES.contains(country) => is_resource(resource),
            ["api", resource, ..] => is_resource(resource),
            [part, ..] => OTHER_PARTS.contains(part),
            [] => false,
        }
}

/// Why an answer concerns a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Status 400 to 599.
    Error,
    /// `PUT` or `PATCH` of a link succeeded. The answer is the link, with its status.
    LinkUpdated,
    /// `PATCH` of a resource succeeded: the user's token was accepted. The answer is the data of the link.
    SessionResumed,
    /// A historical refresh was accepted.
    RefreshAccepted,
    /// A widget token was minted. The answer is the token.
    TokenMinted,
    /// A link was deleted. The answer is empty.
    LinkDeleted,
}

impl Concern {
    /// The concern of an answer; `None` if it does not concern the health of a link.
    pub fn of(method: &str, path: &str, status: u16) -> Option<Self> {
        if (400..=599).contains(&status) {
            return Some(Self::Error);
        }
        // 202 is the receipt of an asynchronous call, whose result is not known yet.
        let is_done = matches!(status, 200 | 201);
        match Call::of_parts(method, path) {
            Call::Repair | Call::Resumption if is_done => Some(Self::LinkUpdated),
            Call::Refresh if is_done || status == 202 => Some(Self::RefreshAccepted),
            // After 202 Belvo sends the webhook `link_deleted`.
            Call::Use if method == "DELETE" => {
                (matches!(status, 200 | 204) && is_of_one_link(path)).then_some(Self::LinkDeleted)
            }
            Call::Use if is_done => match (method, path.trim_matches('/')) {
                ("POST", "api/token") => Some(Self::TokenMinted),
                ("PATCH", path) if path.starts_with("api/") => Some(Self::SessionResumed),
                _other => None,
            },
            Call::Creation | Call::Repair | Call::Resumption | Call::Refresh | Call::Use => None,
        }
    }

    /// Whether the body of the answer is needed. The others are data of an account, or a token.
    pub const fn reads_answer(self) -> bool {
        match self {
            Self::Error | Self::LinkUpdated | Self::RefreshAccepted => true,
            Self::SessionResumed | Self::TokenMinted | Self::LinkDeleted => false,
        }
    }
}

/// A call that was passed on, and its answer. It has no `Debug`, because the bodies contain secrets.
pub struct Exchange<'a> {
    /// Why the answer concerns a link.
    pub concern: Concern,
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without the question mark.
    pub query: &'a str,
    /// The body of the request; empty if it has none, or is not known.
    pub request: &'a [u8],
    /// The status of the answer.
    pub status: u16,
    /// The decompressed body of the answer; empty if it has none, or is not known.
    pub answer: &'a [u8],
    /// When the answer arrived.
    pub answered_at: Timestamp,
}

/// The input that an answer is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeReport {
    /// The kind of the input.
    pub kind: InputKind,
    /// The link; `None` if neither the request nor the answer names it.
    pub link: Option<LinkId>,
    /// The body of the input, without secrets.
    pub body: Vec<u8>,
}

impl Exchange<'_> {
    /// The report. `None` if the answer shows that there is nothing to report.
    pub fn report(&self) -> Option<ExchangeReport> {
        let request = serde_json::from_slice(self.request).unwrap_or_default();
        let link = self.link(&request);
        let (kind, body) = match self.concern {
            Concern::Error => {
                let report = self.error(&request, link.as_ref());
                let link = link.or_else(|| link_of_api_error(&report).filter(is_belvos));
                return Some(ExchangeReport { kind: InputKind::ApiError, link, body: report });
            }
            Concern::LinkUpdated => {
                // A change of the access mode succeeds also for a link that stays broken.
                let answer = read_json(self.answer).unwrap_or_default();
                if answer.get("status").and_then(Value::as_str).is_some_and(|status| status != "valid") {
                    return None;
                }
                (InputKind::Widget, json_of(&Widget::Updated {}))
            }
            Concern::SessionResumed => (InputKind::Widget, json_of(&Widget::Updated {})),
            Concern::RefreshAccepted => {
                let answer = read_json(self.answer).unwrap_or_default();
                let request_id = answer.get("request_id").and_then(Value::as_str).map(str::to_owned);
                self.observation(ReadOutcome::RefreshAccepted { request_id })
            }
            // Belvo itself has confirmed that this link is deleted, so the guard against a wave of 404 is not needed.
            Concern::LinkDeleted => self.observation(ReadOutcome::Missing),
            // Without a link the token is for the creation of one.
            Concern::TokenMinted if link.is_none() => return None,
            Concern::TokenMinted => (InputKind::Widget, b"{\"event\":\"started\"}".to_vec()),
        };
        Some(ExchangeReport { kind, link, body })
    }

    fn observation(&self, outcome: ReadOutcome) -> (InputKind, Vec<u8>) {
        let observed_at = At(self.answered_at);
        let observation = Observation { schema_version: None, observed_at, source: Source::App, outcome };
        (InputKind::Observation, json_of(&observation))
    }

    /// The link that the request names: in its path, in its body, or in its query.
    fn link(&self, request: &Value) -> Option<LinkId> {
        let in_path = || self.path.strip_prefix("/api/links/").and_then(|rest| rest.split('/').next());
        let in_body = || ["link", "link_id"].iter().find_map(|name| request.get(name)?.as_str());
        let in_query = || {
            let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == "link").map(|(_, id)| id).next()
        };
        let ids = [in_path(), in_body(), in_query()].into_iter().flatten();
        ids.filter_map(|id| id.parse().ok()).find(is_belvos)
    }

    fn error(&self, request: &Value, link: Option<&LinkId>) -> Vec<u8> {
        let mut body = read_json(self.answer).map_or(Value::Null, without_session);
        let secrets = secrets_of(request);
        if !secrets.is_empty() {
            remove(&secrets, &mut body);
        }
        json_of(&ApiError {
            schema_version: None,
            http_status: self.status,
            method: self.method.to_owned(),
            path: self.path.to_owned(),
            link_id: link.map(ToString::to_string),
            request_id: None,
            body,
        })
    }
}

/// Whether a path is `/api/links/{id}/`.
fn is_of_one_link(path: &str) -> bool {
    path.trim_matches('/').strip_prefix("api/links/").is_some_and(|id| !id.contains('/'))
}

/// Belvo's ids are UUIDs. A caller that asks for the link `undefined` asks for none.
fn is_belvos(link: &LinkId) -> bool {
    Uuid::try_parse(link.as_str()).is_ok()
}

fn json_of(body: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("the types of the contract have texts as keys")
}

/// The passwords, tokens and sessions in a request. An error may quote them.
fn secrets_of(request: &Value) -> Vec<&str> {
    let is_secret = |name: &str| {
        let name = squeezed(name);
        ["password", "token", "session", "secret", "certificate", "privatekey", "username"]
            .iter()
            .any(|word| name.contains(word))
    };
    let fields = request.as_object().into_iter().flatten().filter(|(name, _)| is_secret(name));
    fields.filter_map(|(_, value)| value.as_str()).filter(|text| text.len() >= SECRET_LENGTH_MIN).collect()
}

/// Removes the secrets of the request from every text of the answer.
fn remove(secrets: &[&str], value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => {
            for secret in secrets {
                if text.contains(secret) {
                    *text = text.replace(secret, "removed");
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove(secrets, item)),
        Value::Object(fields) => {
            let named = std::mem::take(fields).into_iter().map(|(mut name, mut value)| {
                if !is_one_of(&name, NOT_SEARCHED) {
                    remove(secrets, &mut value);
                }
                // An error may have the wrong value as a name.
                if secrets.contains(&name.as_str()) {
                    name = "removed".to_owned();
                }
                (name, value)
            });
            *fields = named.collect::<Map<_, _>>();
        }
    }
}

#[cfg(test)]
mod tests;

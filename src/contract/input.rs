//! What may be said to relink: the JSON bodies of the input subjects.
//!
//! These types are public: JSON Schemas are generated from them, and their comments are the schemas' descriptions. They say how
//! a body looks, never what it means; meaning is `belvo::translate`. Readers ignore fields they do not know, so that a newer
//! publisher and an older relink get along; a change that breaks them is a new `schema_version`. Bodies never appear in `Debug`.
//!
//! The schemas say what to send. Readers take more: a field that only informs is never a reason to refuse (`lenient`), and a
//! reported error is understood in other words too (`belvo::report`).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rfc3339;
use crate::link::Timestamp;

mod examples;
mod lenient;

pub use lenient::version_in;

/// The newest `schema_version` of the bodies in this file.
pub const INPUT_SCHEMA_VERSION: u64 = super::SCHEMA_VERSION as u64;

/// How long a widget token lives when a publisher does not say: Belvo's "10 minutes" (guide: Connect Widget update mode).
pub const WIDGET_TOKEN_SECONDS: u64 = 600;

/// What an input message is: the token of its subject that tells bodies apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKind {
    /// [`Webhook`]: sent by Belvo.
    Webhook,
    /// [`ApiError`]: an error that a caller of Belvo's API got back.
    ApiError,
    /// [`Widget`]: what happened in the Connect Widget.
    Widget,
    /// [`Observation`]: what was read from Belvo.
    Observation,
    /// [`Command`]: what an operator decided.
    Command,
}

impl InputKind {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [Self::Webhook, Self::ApiError, Self::Widget, Self::Observation, Self::Command];

    /// The spelling in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::ApiError => "api_error",
            Self::Widget => "widget",
            Self::Observation => "observation",
            Self::Command => "command",
        }
    }

    /// A body of this kind, as the documentation shows it.
    pub fn example(self) -> Value {
        match self {
            Self::Webhook => Webhook::example(),
            Self::ApiError => ApiError::example(),
            Self::Widget => Widget::example(),
            Self::Observation => Observation::example(),
            Self::Command => Command::example(),
        }
    }
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of input: webhook, api_error, widget, observation or command")]
pub struct NotAnInputKind;

impl FromStr for InputKind {
    type Err = NotAnInputKind;

    fn from_str(text: &str) -> Result<Self, NotAnInputKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(NotAnInputKind)
    }
}

/// A webhook, byte for byte as Belvo sent it. It has no timestamp, no sequence number and no signature.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = Webhook::example())]
pub struct Webhook {
    /// Belvo's id of the webhook. Not proven unique, so never used alone to recognise a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// The family: `LINK`, `CONSENT`, or a resource such as `TRANSACTIONS`.
    pub webhook_type: String,
    /// What happened, such as `invalid_credentials` or `historical_update`.
    pub webhook_code: String,
    /// The link it is about.
    pub link_id: String,
    /// The request or refresh that caused it; several webhooks of one refresh share it. Absent from old and from consent webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Your own id of the link's user. May be null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// Why Belvo ran: `historical_update`, `recurrent_update`, … Absent from old webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_type: Option<String>,
    /// Counts, dates, or an error: never the data itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// An error that a caller of Belvo's API got back. Publish each one: the table in relink knows which concern the link.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = ApiError::example())]
pub struct ApiError {
    /// Version of this schema; 1 if absent.
    #[serde(default, deserialize_with = "lenient::version", skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u64>,
    /// The HTTP status Belvo answered with. Also read as `status`, `statusCode` or `status_code`, as a text, and from a wrapper in
    /// `body`; if they contradict each other, the outer one counts.
    #[serde(alias = "status")]
    #[schemars(range(min = 400, max = 599))]
    pub http_status: u16,
    /// The method of the request, such as `POST`. Needed for `/api/links/` and `/api/links/{id}/`: the same error means another
    /// thing for a creation (`POST /api/links/`) than for a repair (`PUT /api/links/{id}/`).
    #[serde(default)]
    pub method: String,
    /// The path of the request, such as `/api/transactions/`; a query, a gateway's prefix or a whole URL does no harm. Also read as
    /// `url`.
    pub path: String,
    /// The link the request was about. Belvo's errors name it only with status 428, so say it wherever you know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Belvo's `request_id`, if you have it from elsewhere than the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The body of the answer as it came: an array of objects with `code`, `message` and `request_id`, or whatever it was. As a text
    /// that holds the JSON, or in the wrapper of a client's error object, it is understood too.
    #[serde(default)]
    pub body: Value,
}

impl fmt::Debug for ApiError {
    /// Without the body, which may hold an MFA session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ApiError");
        shown.field("http_status", &self.http_status).field("method", &self.method).finish_non_exhaustive()
    }
}

/// What happened in the Connect Widget in update mode. The fields are those of Belvo's callbacks, as they come; only `event` is
/// yours to add. An integer `schema_version` may be added too; 1 if absent.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[schemars(example = Widget::example())]
pub enum Widget {
    /// A widget token was minted (`POST /api/token/` with `link_id`): the user is about to repair the link.
    Started {
        /// How long the token lives, in seconds.
        #[serde(default = "widget_token_seconds", deserialize_with = "lenient::seconds")]
        expires_in_seconds: u64,
    },
    /// The success callback.
    Success {
        /// The link the callback names.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        link: Option<String>,
        /// The institution the callback names.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        institution: Option<String>,
    },
    /// Your own `PUT` or `PATCH` on the link was answered 200.
    Updated {},
    /// The exit callback: the user closed the widget.
    Exit {
        /// The last error the user saw.
        #[serde(default, deserialize_with = "lenient::last_error", skip_serializing_if = "Option::is_none")]
        last_encountered_error: Option<LastError>,
        /// Its code, as the hosted widget's query spells it.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        last_encountered_error_code: Option<String>,
        /// Its message, as the hosted widget's query spells it.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        last_encountered_error_message: Option<String>,
        /// Where the user was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        meta_data: Option<Value>,
        /// The institution, as the hosted widget's query spells it.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        meta_data_institution_name: Option<String>,
        /// The step, as the hosted widget's query spells it.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        meta_data_step: Option<String>,
    },
    /// The error callback, or an event named `ERROR`. Only an error of the access token ends the attempt; after any other one the
    /// widget stays open, and the user may try again.
    Error {
        /// The error, such as `ACCESS_TOKEN_NOT_VALID`.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// What it says.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        error_message: Option<String>,
        /// Belvo's `request_id`.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
        /// `error_code`, `error_message`, `institution_name`, `timestamp`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        meta_data: Option<Value>,
    },
    /// The widget's own `PAGE_LOAD`: the user is in it. How that ends is said by another event.
    PageLoad {},
    /// The warning callback: it says nothing of the link.
    Warning {
        /// The warning, such as `institution_disabled`.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
        /// What it says.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        warning_message: Option<String>,
    },
}

/// The last error a user saw in the widget.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct LastError {
    /// Such as `login_error` or `institution_down`.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it says.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

const fn widget_token_seconds() -> u64 {
    WIDGET_TOKEN_SECONDS
}

/// What was read from Belvo about a link, and when.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = Observation::example())]
pub struct Observation {
    /// Version of this schema; 1 if absent.
    #[serde(default, deserialize_with = "lenient::version", skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u64>,
    /// When it was read, by the reader's clock (RFC 3339). One in the future counts as now.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub observed_at: Timestamp,
    /// Who read it; your application if absent.
    #[serde(default, deserialize_with = "lenient::source")]
    pub source: Source,
    /// What was read.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Who read a link from Belvo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// relink, because the machine asked.
    Verify,
    /// relink, looking for what the webhooks missed.
    Sweep,
    /// Your own application.
    #[default]
    App,
}

impl Source {
    /// The spelling in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Sweep => "sweep",
            Self::App => "app",
        }
    }
}

/// What was read.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// `GET /api/links/{id}/` answered 200.
    Found {
        /// The link resource as Belvo gave it.
        link: Map<String, Value>,
    },
    /// `GET /api/links/{id}/` answered 404.
    Missing,
    /// `GET /api/consents/`, or `/api/consents/{id}/`, gave the link's consent (Open Finance Brazil).
    Consent {
        /// The consent as Belvo gave it. Leave out the fields that name a person: `display_name`, `document_number`,
        /// `user_name`.
        consent: Map<String, Value>,
    },
    /// `POST /api/links/{id}/refresh/` answered 202.
    RefreshAccepted {
        /// Belvo's `request_id`; the webhooks of the refresh carry it.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
}

/// What an operator decided about a link.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = Command::example())]
pub struct Command {
    /// Version of this schema; 1 if absent.
    #[serde(default, deserialize_with = "lenient::version", skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u64>,
    /// What.
    pub command: CommandName,
    /// Until when: needed by `snooze`, ignored otherwise (RFC 3339).
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
    /// Who decided it, for people who read the log of messages.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, for the same people.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What an operator can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandName {
    /// No prompts and no reminders until unmuted.
    Mute,
    /// Undo `mute`; a prompt that was held back goes out now if it is still due.
    Unmute,
    /// No reminders before `until`.
    Snooze,
    /// Ask Belvo now.
    Verify,
    /// Forget the link for good.
    Forget,
}

#[cfg(test)]
mod tests;

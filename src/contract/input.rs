//! The bodies of the input subjects: the messages that other programs publish to relink.
//!
//! JSON Schemas are generated from these types, and their doc comments are the descriptions. The types describe the
//! shape of a body; `belvo::translate` decides its meaning. A reader ignores fields that it does not know, so that an
//! older relink understands a newer publisher; a change that breaks this is a new `schema_version`. `Debug` never shows
//! a body.
//!
//! The schemas describe what a publisher should send. relink accepts more: a wrong type in a field that no decision
//! depends on is no reason to refuse a body (`lenient`), and a reported API error is read in other shapes too
//! (`belvo::report`).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::rfc3339::At;

mod examples;
mod lenient;

pub use lenient::{source_in, text_in as lenient_text, version_in};

/// The newest `schema_version` of the bodies in this file.
pub const INPUT_SCHEMA_VERSION: u64 = super::SCHEMA_VERSION as u64;

/// How long a widget token is valid if the publisher does not say so: Belvo's "10 minutes" (guide: Connect Widget
/// update mode).
pub const WIDGET_TOKEN_SECONDS: u64 = 600;

/// The header of an input that came through a node's journal: the id of the record, the same for each time that it is published.
pub const JOURNAL_HEADER: &str = "Relink-Journal";

/// The prefix of the message ids of commands that relink itself gives while it adopts a fleet.
pub const ADOPTION_ID: &str = "adoption-";

/// The header of an input that came over HTTP with a named API token, or was replayed with one: the name.
pub const TOKEN_HEADER: &str = "Relink-Token";

/// The last token of the subject of a webhook of Belvo's status page. All of them have the same one, so they stay in order.
pub const STATUS_PAGE: &str = "status-page";

/// The kind of an input message. It is a token of the subject, and decides which body the message has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[strum(parse_err_ty = NotAnInputKind, parse_err_fn = not_an_input_kind)]
pub enum InputKind {
    /// [`Webhook`]: a webhook of Belvo.
    Webhook,
    /// [`ApiError`]: an error of Belvo's API, reported by its caller.
    ApiError,
    /// [`Widget`]: an event of the Connect Widget.
    Widget,
    /// [`Observation`]: the result of a read from Belvo.
    Observation,
    /// [`Command`]: an operator's command.
    Command,
    /// [`InstitutionStatus`]: a webhook of Belvo's status page. It is about institutions and no link, so the last token
    /// of its subject is [`STATUS_PAGE`].
    InstitutionStatus,
}

impl InputKind {
    /// The token in subjects.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// An example of a body of this kind, for the documentation.
    pub fn example(self) -> Value {
        match self {
            Self::Webhook => Webhook::example(),
            Self::ApiError => ApiError::example(),
            Self::Widget => Widget::example(),
            Self::Observation => Observation::example(),
            Self::Command => Command::example(),
            Self::InstitutionStatus => InstitutionStatus::example(),
        }
    }
}

/// The text is no kind of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of input: webhook, api_error, widget, observation, command or institution_status")]
pub struct NotAnInputKind;

fn not_an_input_kind(_text: &str) -> NotAnInputKind {
    NotAnInputKind
}

/// A webhook, byte for byte as Belvo sent it. It has no timestamp, no sequence number and no signature.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = Webhook::example())]
pub struct Webhook {
    /// Belvo's id of the webhook. Belvo does not promise that it is unique, so relink does not use it alone to
    /// recognise a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// The family: `LINK`, `CONSENT`, or a resource such as `TRANSACTIONS`.
    pub webhook_type: String,
    /// The event, such as `invalid_credentials` or `historical_update`.
    pub webhook_code: String,
    /// The link that the webhook is about.
    pub link_id: String,
    /// The request or refresh that caused it; several webhooks of one refresh share it. Absent from old and from
    /// consent webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Your own id of the link or of its user. May be null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The process of Belvo that sent it: `historical_update`, `recurrent_update`, … Absent from old webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_type: Option<String>,
    /// Counts, dates, or an error; never the data of the accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// An error that Belvo's API answered to a call of yours. Publish every error: relink decides which of them are about
/// the link.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(example = ApiError::example())]
pub struct ApiError {
    /// Version of this schema; 1 if absent.
    #[serde(default, deserialize_with = "lenient::version", skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u64>,
    /// The HTTP status of the answer. The status is also read from `status`, `statusCode` or `status_code`, from a
    /// text, and from a wrapper in `body`. If two of them differ, the outer one counts.
    #[serde(alias = "status")]
    #[schemars(range(min = 400, max = 599))]
    pub http_status: u16,
    /// The method of the request, such as `POST`. The method is needed for `/api/links/` and `/api/links/{id}/`,
    /// because the same error has another meaning for a creation (`POST /api/links/`) than for a repair
    /// (`PUT /api/links/{id}/`).
    #[serde(default)]
    pub method: String,
    /// The path of the request, such as `/api/transactions/`. A query, the prefix of a gateway or a whole URL is
    /// accepted. The path is also read from `url`.
    pub path: String,
    /// The link that the request was about. Belvo's errors name the link only with status 428, so fill it in whenever
    /// you know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Belvo's `request_id`, if you have it from another place than the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The unchanged body of the answer; usually an array of objects with `code`, `message` and `request_id`. A text
    /// that contains the JSON, and the error object of an HTTP client, are accepted too.
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

/// An event of the Connect Widget in update mode. The fields are the unchanged fields of Belvo's callbacks; add only
/// `event`. An integer `schema_version` may be added too; 1 if absent.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[schemars(example = Widget::example())]
pub enum Widget {
    /// A widget token was minted (`POST /api/token/` with `link_id`): the user is about to repair the link.
    Started {
        /// How long the token is valid, in seconds.
        #[serde(default = "widget_token_seconds", deserialize_with = "lenient::seconds")]
        expires_in_seconds: u64,
    },
    /// The success callback.
    Success {
        /// The link in the callback. If it is another link than the one that the callback is published for, the user has
        /// connected the bank anew.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        link: Option<String>,
        /// The institution in the callback. relink does not use it: a user's device may send any name.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        institution: Option<String>,
    },
    /// Belvo answered your own `PUT` or `PATCH` on the link with 200.
    Updated {},
    /// The exit callback: the user closed the widget.
    Exit {
        /// The last error that the widget showed.
        #[serde(default, deserialize_with = "lenient::last_error", skip_serializing_if = "Option::is_none")]
        last_encountered_error: Option<LastError>,
        /// The code of that error, under the name in the query of the hosted widget.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        last_encountered_error_code: Option<String>,
        /// The message of that error, under the name in the query of the hosted widget.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        last_encountered_error_message: Option<String>,
        /// The step of the widget and other context.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        meta_data: Option<Value>,
        /// The institution, under the name in the query of the hosted widget.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        meta_data_institution_name: Option<String>,
        /// The step, under the name in the query of the hosted widget.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        meta_data_step: Option<String>,
    },
    /// The error callback, or an event named `ERROR`. Only an error of the access token ends the attempt. After any
    /// other error the widget stays open, and the user can try again.
    Error {
        /// The error, such as `ACCESS_TOKEN_NOT_VALID`.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The message of the error.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        error_message: Option<String>,
        /// Belvo's `request_id`.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
        /// An object with `error_code`, `error_message`, `institution_name` and `timestamp`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        meta_data: Option<Value>,
    },
    /// The user is at a page of yours, and cannot repair the link because the institution is down. relink's repair page reports it too.
    Waiting {},
    /// The event `PAGE_LOAD` of the widget: the user has opened it. Another event reports how that ends.
    PageLoad {},
    /// The warning callback. It says nothing about the link.
    Warning {
        /// The warning, such as `institution_disabled`.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
        /// The message of the warning.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        warning_message: Option<String>,
    },
}

/// The last error that the widget showed to the user.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct LastError {
    /// The code, such as `login_error` or `institution_down`.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The message.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

const fn widget_token_seconds() -> u64 {
    WIDGET_TOKEN_SECONDS
}

/// The result of reading a link, or its consent, from Belvo.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = Observation::example())]
pub struct Observation {
    /// Version of this schema; 1 if absent.
    #[serde(default, deserialize_with = "lenient::version", skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u64>,
    /// When it was read, by the clock of the reader (RFC 3339). A time in the future counts as now.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub observed_at: At,
    /// The program that read the link; your application if absent.
    #[serde(default, deserialize_with = "lenient::source")]
    pub source: Source,
    /// The result.
    #[serde(flatten)]
    pub outcome: ReadOutcome,
}

/// The program that read a link from Belvo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Source {
    /// relink, for a verify job.
    Verify,
    /// relink, in a sweep that looks for changes without a webhook.
    Sweep,
    /// relink, which compared the links that it knows.
    Lookup,
    /// Your own application.
    #[default]
    App,
}

impl Source {
    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The result of a read from Belvo.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ReadOutcome {
    /// `GET /api/links/{id}/` answered 200.
    Found {
        /// The unchanged link resource.
        link: Map<String, Value>,
    },
    /// `GET /api/links/{id}/` answered 404.
    Missing,
    /// `GET /api/consents/` or `/api/consents/{id}/` answered 200 with the consent of the link (Open Finance Brazil).
    Consent {
        /// The consent resource. Leave out the fields that identify a person: `display_name`, `document_number`,
        /// `user_name`.
        consent: Map<String, Value>,
    },
    /// `POST /api/links/{id}/refresh/` answered 202.
    RefreshAccepted {
        /// Belvo's `request_id`; the webhooks of the refresh have the same one.
        #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// The user has connected the bank anew: another link works in place of this one. relink publishes it when it finds
    /// such a link; an application may publish it too.
    Superseded {
        /// Belvo's id of the other link.
        by: String,
    },
}

/// An operator's command about a link.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = Command::example())]
pub struct Command {
    /// Version of this schema; 1 if absent.
    #[serde(default, deserialize_with = "lenient::version", skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u64>,
    /// The command.
    pub command: CommandName,
    /// The end of a snooze (RFC 3339). Required by `snooze`; other commands ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<At>,
    /// The name of the operator, for people who read the history of the link; at most 128 bytes.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The operator's reason, for the same people; at most 1024 bytes.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The commands of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandName {
    /// Send no prompts and no reminders until `unmute`.
    Mute,
    /// End `mute`. A muted prompt is published if the link is still broken.
    Unmute,
    /// Send no reminders before `until`.
    Snooze,
    /// Ask Belvo for the status of the link now.
    Verify,
    /// The link is not superseded: prompt its user again, and do not let the same link supersede it any more.
    Unsupersede,
    /// Publish the prompt that a mute or an incident of the institution keeps back. The mute ends; quiet hours and the pause after another
    /// message to the person still count.
    Release,
    /// Replace the link by a tombstone.
    Forget,
}

/// A webhook of Belvo's status page, byte for byte as it was sent: about an incident with the affected institutions, or about one
/// institution. The body has more fields; relink uses these.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(example = InstitutionStatus::example())]
#[schemars(extend("anyOf" = [{"required": ["incident"]}, {"required": ["component"]}]))]
pub struct InstitutionStatus {
    /// The incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<PageIncident>,
    /// The institution, in a webhook about one institution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<PageComponent>,
}

/// An incident of the status page.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct PageIncident {
    /// `investigating`, `identified`, `monitoring` or `resolved`. `resolved`: all its institutions work again.
    pub status: String,
    /// When it was changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// The affected institutions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<PageComponent>,
}

/// An institution on the status page.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct PageComponent {
    /// The name on the page. `RELINK_STATUS_COMPONENTS` says which institution it stands for.
    pub name: String,
    /// `operational`, `partial_outage` or `major_outage`; Statuspage also has `degraded_performance` and `under_maintenance`.
    pub status: String,
}

#[cfg(test)]
mod tests;

//! The operations of the HTTP API: the table of `/v1` and of its neighbours.
//!
//! `http` builds its router of `/v1` from this table, and checks the scope of a token with it; `schemas::openapi` makes the
//! document from it. So no operation is missing in the document, and none has other credentials than it says.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::answers::{
    ActivitySummary, AddressCheck, Alive, DeadLettersPage, Dropped, HistoryOfLink, InstitutionsList, LinksPage,
    MintedToken, NotStored, Ready, Receipt, Replayed, ShownDeadLetter, Stored, StreamEvent, Summary,
};
use super::input::{ApiError, Command, InstitutionStatus, Webhook, Widget};
use super::notice_check::{CheckedNotice, NoticeToCheck};
use super::queries::{
    GET_ACTIVITY, LIST_DEAD_LETTERS, LIST_INSTITUTIONS, LIST_LINKS, LIST_PROMPTS, Parameter, STATUS_SECRET,
    WATCH_EVENTS,
};
use super::requests::{DropRequest, UpdateRequest};
use super::shown_link::ShownLink;
use super::status::Status;

/// What the holder of an API token may do. A token has one or several of these scopes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum Scope {
    /// Report errors of Belvo's API and events of the widget.
    Report,
    /// Read links, histories, institutions and dead letters.
    Read,
    /// Mint widget tokens, with which the user of a link repairs it.
    Repair,
    /// Give commands about links, and replay or drop dead letters.
    Operate,
}

/// The credentials of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An API token with this scope.
    Token(Scope),
    /// An `Authorization` value of Belvo's webhooks.
    WebhookSecret,
    /// The secret of Belvo's status page.
    StatusSecret,
    /// None.
    Open,
}

/// The method of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET; changes nothing.
    Get,
    /// POST.
    Post,
}

/// The operations. Generated clients use the names, so one is never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Operation {
    /// `POST /webhooks/belvo`
    ReceiveWebhook,
    /// `POST /webhooks/belvo-status`
    ReceiveInstitutionStatus,
    /// `GET /webhooks/belvo`
    CheckWebhookAddress,
    /// `GET /webhooks/belvo-status`
    CheckInstitutionStatusAddress,
    /// `POST /v1/api-errors`
    ReportApiError,
    /// `POST /v1/links/{id}/widget`
    ReportWidgetEvent,
    /// `POST /v1/links/{id}/update`
    StartUpdate,
    /// `POST /v1/links/{id}/commands`
    GiveCommand,
    /// `GET /v1/links`
    ListLinks,
    /// `GET /v1/links/{id}`
    GetLink,
    /// `GET /v1/links/{id}/history`
    GetHistory,
    /// `GET /v1/events`
    WatchEvents,
    /// `POST /v1/notices/check`
    CheckNotice,
    /// `GET /v1/prompts`
    ListPrompts,
    /// `GET /v1/prompts/held`
    ListHeldPrompts,
    /// `GET /v1/summary`
    GetSummary,
    /// `GET /v1/institutions`
    ListInstitutions,
    /// `GET /v1/activity`
    GetActivity,
    /// `GET /v1/status`
    GetStatus,
    /// `GET /v1/dead-letters`
    ListDeadLetters,
    /// `GET /v1/dead-letters/{sequence}`
    GetDeadLetter,
    /// `POST /v1/dead-letters/{sequence}/replay`
    ReplayDeadLetter,
    /// `POST /v1/dead-letters/{sequence}/drop`
    DropDeadLetter,
    /// `GET /healthz`
    GetHealth,
    /// `GET /readyz`
    GetReadiness,
    /// `GET /readyz/inputs`
    GetInputReadiness,
}

/// Adds a type to the generator, and returns a reference to its schema.
pub type Shape = fn(&mut SchemaGenerator) -> Schema;

/// An answer with a success.
#[derive(Clone, Copy)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What it means.
    pub about: &'static str,
    /// The body.
    pub body: Shape,
    /// Whether the answer is a stream of server-sent events, each with such a body.
    pub is_stream: bool,
}

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// The credentials.
    pub access: Access,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What a caller has to know besides.
    pub about: &'static str,
    /// The parameters of the query.
    pub query: &'static [Parameter],
    /// The body of the request.
    pub body: Option<Body>,
    /// The answers with a success.
    pub answers: &'static [Answer],
    /// The statuses of problems, besides those that every operation can have.
    pub problems: &'static [u16],
}

/// The body of a request.
#[derive(Clone, Copy)]
pub struct Body {
    /// Its schema.
    pub shape: Shape,
    /// Whether it may be empty.
    pub may_be_empty: bool,
}

impl Operation {
    /// The name of the operation in the document.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The scope that a token needs; `None` for an operation without a token.
    pub fn scope(self) -> Option<Scope> {
        match self.row().access {
            Access::Token(scope) => Some(scope),
            Access::WebhookSecret | Access::StatusSecret | Access::Open => None,
        }
    }

    /// Whether the answer comes from relink's store and so has the header `Relink-As-Of`.
    pub const fn is_from_store(self) -> bool {
        matches!(
            self,
            Self::ListLinks
                | Self::GetLink
                | Self::CheckNotice
                | Self::ListPrompts
                | Self::ListHeldPrompts
                | Self::GetSummary
                | Self::ListInstitutions
        )
    }

    /// The row of the table.
    pub fn row(self) -> Row {
        match self {
            Self::ReceiveWebhook => Row {
                access: Access::WebhookSecret,
                about: "The body is stored byte for byte, also in an unusual encoding. A webhook that cannot be read becomes a dead \
                    letter and is refused.",
                ..post("/webhooks/belvo", "Take a webhook of Belvo", body::<Webhook>(), &STORED_WEBHOOK)
            },
            Self::ReceiveInstitutionStatus => Row {
                access: Access::StatusSecret,
                query: STATUS_SECRET,
                ..post(
                    "/webhooks/belvo-status",
                    "Take a webhook of Belvo's status page",
                    body::<InstitutionStatus>(),
                    &STORED_WEBHOOK,
                )
            },
            Self::CheckWebhookAddress => {
                open("/webhooks/belvo", "Whether the address is right, for Belvo's dashboard and for people", &CHECKED)
            }
            Self::CheckInstitutionStatusAddress => {
                open("/webhooks/belvo-status", "Whether the address is right, for people", &CHECKED)
            }
            Self::ReportApiError => Row {
                access: Access::Token(Scope::Report),
                about: "Report every error as you received it: relink has a table of the errors that concern a link.",
                ..post(
                    "/v1/api-errors",
                    "Report an error that Belvo's API answered to your call",
                    body::<ApiError>(),
                    const {
                        &[
                            answer::<Stored>(202, "The report is stored."),
                            answer::<NotStored>(200, "The error is not about a link; nothing is stored."),
                        ]
                    },
                )
            },
            Self::ReportWidgetEvent => Row {
                access: Access::Token(Scope::Report),
                about: "Report each callback of Belvo's widget as it comes. A callback is a hint: relink reads the link from Belvo.",
                ..post("/v1/links/{id}/widget", "Report an event of the widget", body::<Widget>(), &ACCEPTED)
            },
            Self::StartUpdate => Row {
                access: Access::Token(Scope::Repair),
                about: "Mints Belvo's widget token for update mode, or for the renewal of a consent. A token is valid for ten \
                    minutes: ask for one with each click of the user.",
                body: Some(Body { shape: shape::<UpdateRequest>, may_be_empty: true }),
                problems: &[502],
                ..post(
                    "/v1/links/{id}/update",
                    "Start the repair of a link by its user",
                    body::<UpdateRequest>(),
                    const { &[answer::<MintedToken>(200, "The token. relink does not keep it.")] },
                )
            },
            Self::GiveCommand => Row {
                access: Access::Token(Scope::Operate),
                about: "202 means that the command is stored. What became of it is in the history of the link.",
                ..post("/v1/links/{id}/commands", "Give a command about a link", body::<Command>(), &ACCEPTED)
            },
            Self::ListLinks => {
                Row { query: LIST_LINKS, ..list("/v1/links", "List links", const { &[page::<LinksPage>()] }) }
            }
            Self::WatchEvents => Row {
                query: WATCH_EVENTS,
                about: "Server-sent events: the messages about links and institutions as they come. relink ends an answer after some time; \
                    ask again with `Last-Event-ID`, and no message is missing. For people who watch: programs that act on notices use \
                    a durable consumer of NATS.",
                ..list("/v1/events", "Watch what happens", &EVENTS)
            },
            Self::CheckNotice => Row {
                access: Access::Token(Scope::Read),
                about: "Send the notice unchanged, before you write to the user. relink looks at all links of the notice now, and stores nothing.",
                ..post(
                    "/v1/notices/check",
                    "Ask whom a notice is still about",
                    body::<NoticeToCheck>(),
                    const { &[answer::<CheckedNotice>(200, "The links to write to the user about.")] },
                )
            },
            Self::ListPrompts => Row {
                query: LIST_PROMPTS,
                about: "For a first deployment, or a notifier that has lost messages. A page may be empty and still have `next`.",
                ..list(
                    "/v1/prompts",
                    "List the links whose users have to be asked right now",
                    const { &[page::<LinksPage>()] },
                )
            },
            Self::ListHeldPrompts => Row {
                query: LIST_PROMPTS,
                about: "`episode.prompt` says why: the link is muted, its institution has an incident, its user may get no message now, or \
                    relink asks Belvo whose link it is. The command `release` ends the first two. A page may be empty and still have `next`.",
                ..list(
                    "/v1/prompts/held",
                    "List the links whose users were not prompted yet",
                    const { &[page::<LinksPage>()] },
                )
            },
            Self::GetLink => {
                one("/v1/links/{id}", "Get a link", const { &[answer::<ShownLink>(200, "The state of the link.")] })
            }
            Self::GetHistory => one(
                "/v1/links/{id}/history",
                "Get the history of a link",
                const { &[answer::<HistoryOfLink>(200, "The messages, oldest first.")] },
            ),
            Self::GetSummary => {
                list("/v1/summary", "Count the links", const { &[answer::<Summary>(200, "The counts.")] })
            }
            Self::GetActivity => Row {
                query: GET_ACTIVITY,
                about: "Since the start of relink, and at most for a day: it is kept in memory. Outages, prompts and repairs by periods of ten \
                    minutes, transitions, notices, and how long repairs took.",
                ..list(
                    "/v1/activity",
                    "Count what happened in the last hours",
                    const { &[answer::<ActivitySummary>(200, "The counts.")] },
                )
            },
            Self::GetStatus => Row {
                about: "When each sweep last ended, what is left of the budget of calls to Belvo, and what waits in the journal and in NATS.",
                ..list(
                    "/v1/status",
                    "Show how fresh relink's view is, and what waits",
                    const { &[answer::<Status>(200, "The numbers.")] },
                )
            },
            Self::ListInstitutions => Row {
                query: LIST_INSTITUTIONS,
                ..list(
                    "/v1/institutions",
                    "List the institutions and their states",
                    const { &[answer::<InstitutionsList>(200, "The institutions.")] },
                )
            },
            Self::ListDeadLetters => Row {
                query: LIST_DEAD_LETTERS,
                ..list(
                    "/v1/dead-letters",
                    "List dead letters, without their bodies",
                    const { &[page::<DeadLettersPage>()] },
                )
            },
            Self::GetDeadLetter => one(
                "/v1/dead-letters/{sequence}",
                "Get a dead letter with its body",
                const { &[answer::<ShownDeadLetter>(200, "The dead letter.")] },
            ),
            Self::ReplayDeadLetter => Row {
                method: Method::Post,
                access: Access::Token(Scope::Operate),
                problems: &[404, 409, 502],
                ..one(
                    "/v1/dead-letters/{sequence}/replay",
                    "Publish a dead letter as input again, or send it over HTTP again",
                    const { &[answer::<Replayed>(200, "It is published, or sent.")] },
                )
            },
            Self::DropDeadLetter => Row {
                method: Method::Post,
                access: Access::Token(Scope::Operate),
                about: "For messages that nobody needs. relink writes one line to its log, with the reason, the subject and the id of the \
                    message, the name of the token, and the two texts of the body.",
                body: Some(Body { shape: shape::<DropRequest>, may_be_empty: true }),
                ..one(
                    "/v1/dead-letters/{sequence}/drop",
                    "Remove a dead letter for ever",
                    const { &[answer::<Dropped>(200, "It is removed.")] },
                )
            },
            Self::GetHealth => {
                open("/healthz", "Whether the process is alive", const { &[answer::<Alive>(200, "Alive.")] })
            }
            Self::GetReadiness => open("/readyz", "Whether relink stores inputs and decides about links", &READY),
            Self::GetInputReadiness => open("/readyz/inputs", "Whether relink stores inputs", &READY),
        }
    }
}

const STORED_WEBHOOK: [Answer; 1] = [answer::<Receipt>(200, "The webhook is stored.")];
const ACCEPTED: [Answer; 1] = [answer::<Stored>(202, "The message is stored.")];
const EVENTS: [Answer; 1] = [Answer { is_stream: true, ..answer::<StreamEvent>(200, "The messages.") }];
const CHECKED: [Answer; 1] = [answer::<AddressCheck>(200, "Webhooks go to this address.")];
const READY: [Answer; 1] = [answer::<Ready>(200, "Ready.")];

fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn body<T: JsonSchema>() -> Body {
    Body { shape: shape::<T>, may_be_empty: false }
}

const fn answer<T: JsonSchema>(status: u16, about: &'static str) -> Answer {
    Answer { status, about, body: shape::<T>, is_stream: false }
}

const fn page<T: JsonSchema>() -> Answer {
    answer::<T>(200, "The page.")
}

/// A request with a body, which is stored.
const fn post(path: &'static str, summary: &'static str, body: Body, answers: &'static [Answer]) -> Row {
    Row {
        method: Method::Post,
        path,
        access: Access::Open,
        summary,
        about: "",
        query: &[],
        body: Some(body),
        answers,
        problems: &[],
    }
}

const fn list(path: &'static str, summary: &'static str, answers: &'static [Answer]) -> Row {
    let access = Access::Token(Scope::Read);
    Row { method: Method::Get, path, access, summary, about: "", query: &[], body: None, answers, problems: &[] }
}

/// A read of something that may not exist.
const fn one(path: &'static str, summary: &'static str, answers: &'static [Answer]) -> Row {
    Row { problems: &[404], ..list(path, summary, answers) }
}

const fn open(path: &'static str, summary: &'static str, answers: &'static [Answer]) -> Row {
    Row { access: Access::Open, ..list(path, summary, answers) }
}

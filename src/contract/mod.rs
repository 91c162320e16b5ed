//! The public contract: a type for every JSON body on a NATS subject. `relink schemas` generates `schemas/` from these
//! types, and their doc comments are the descriptions in the schemas.
//!
//! The types of the core (`link`) derive no serde, because a derive is a promise to other programs. This module makes
//! those promises. It converts by exhaustive `match`, so a new state or notice does not compile until it has a name in
//! JSON.
//!
//! - `input`: bodies that other programs publish to relink
//! - `record`: the complete state of a link: the body of `$KV.links.<link>`, and the value in the store
//! - `person`: the other links of a person, in several bodies
//! - `notice`: the bodies of notices; `output`: jobs, refusals, committed offsets and fences
//! - `incident`: the messages about an incident of an institution, for operations
//! - `operations`: the operations of the HTTP API, with `queries`; `answers`, `shown_link`, `status`, `requests`: the bodies that only HTTP has
//! - `digest`: all links and their versions as two numbers
//! - `trace`: the trace context in the headers of every message
//! - `rfc3339`: the time in every body; `words`: enums that several bodies share; `secrets`: removes secrets from bodies; `limits`: the size of texts in a
//!   record
//!
//! Within a schema version, a body only gains optional fields. Any other change is a new version, and a reader refuses
//! a version that it does not know. Fields that 0.2 renamed are still read under the names of 0.1.

mod answers;
mod digest;
mod incident;
pub mod input;
pub mod limits;
mod notice;
mod notice_check;
mod operations;
mod output;
mod person;
mod queries;
mod record;
mod requests;
mod rfc3339;
mod secrets;
mod shown_link;
mod status;
mod trace;
mod words;

pub use answers::{
    ActivityPeriod, ActivitySummary, AddressCheck, Alive, DeadLetterSummary, DeadLettersPage, Dropped, ErrorMeaning,
    EventKind, HistoryEntry, HistoryKind, HistoryOfLink, IncidentSummary, InstitutionSummary, InstitutionsList,
    JournalWaiting, LinksPage, MintedToken, NotStored, ProblemBody, Ready, Receipt, Replayed, ShownDeadLetter, Stored,
    StreamEvent, Summary, TimeSpans, TransitionCount,
};
pub use digest::LinksDigest;
pub use incident::{IncidentBecause, IncidentBody, IncidentCause, IncidentChange, institution_token};
pub use input::{
    ADOPTION_ID, ApiError, Command, CommandName, InputKind, InstitutionStatus, JOURNAL_HEADER, LastError,
    NotAnInputKind, Observation, ReadOutcome, STATUS_PAGE, Source, TOKEN_HEADER, Webhook, Widget,
};
pub use notice::{GapSpan, NoticeBody, NoticeContent, NoticeName, Renewal};
pub use notice_check::{CheckedNotice, LeftOut, LeftOutWord, LinkToAskFor, NoticeToCheck};
pub use operations::{Access, Answer, Body, Method, Operation, Row, Scope, Shape};
pub use output::{
    Address, Because, Commit, CommittedOffset, Fence, JobBody, JobName, JournalOffset, Origin, OriginKind, RefusedBody,
};
pub use person::{
    AlsoBroken, AlsoEnding, LastMessageRecord, MessagedRecord, NeedRecord, PersonRecord, UndecidedLinkRecord,
    WaitingLinkRecord,
};
pub use queries::{
    ACTIVITY_HOURS, DEAD_LETTERS_ON_PAGE, EVENTS_WAIT_MAX, INSTITUTIONS_ON_PAGE, LINKS_ON_PAGE, Parameter,
    ParameterKind,
};
pub use record::{BadRecord, EpisodeRecord, PromptWord, Record, Repaired, UpdatePhaseWord};
pub use requests::{DropRequest, UpdateRequest};
pub use rfc3339::At;
pub use secrets::{is_named, is_one_of, is_session, json_in, squeezed, without_secrets, without_session};
pub use shown_link::{DueOfLink, Mention, ShownLink, Successor, Surroundings};
pub use status::{BelvoStatus, PartitionStatus, Status, SweepStatus};
pub use trace::{SAME_TRACE_MAX, SampleRatio, TRACEPARENT, TRACESTATE, TraceContext, parent_or_cause};
pub use words::{
    AccessModeWord, Action, AttemptEndWord, CauseWord, DataKindWord, DeadReason, DueWord, EpisodeSummary, HeldWord,
    ProofWord, RefreshByWord, RemovalWord, StateWord,
};

/// The version of every schema here. It is the last part of a message's `ce-dataschema`.
pub const SCHEMA_VERSION: u16 = 1;

//! THE PUBLIC CONTRACT: every JSON body on a subject, as a type. `schemas/` is generated from here.
//!
//! The core's types derive no serde, because a derive is a promise to the outside; the promises are made here and kept here:
//! converting is an exhaustive `match`, so a new state or notice does not compile until it has been given its words.
//!
//! - `input`: what may be published to relink
//! - `record`: a link's whole state: the body of `link.state.<link>`, and what the store keeps
//! - `notice`: what subscribers are told; `output`: jobs, refusals, marks and fences
//! - `incident`: what operations is told of an institution
//! - `words`: the vocabulary they share; `secrets`: what no body may keep
//!
//! A body only ever gains optional fields. Anything else is a new schema version, and readers refuse versions they do not know.

mod incident;
pub mod input;
pub mod limits;
mod notice;
mod output;
mod record;
mod rfc3339;
mod secrets;
mod words;

pub use incident::{IncidentBecause, IncidentBody, IncidentNews, institution_token};
pub use input::{
    ApiError, Command, CommandName, InputKind, LastError, NotAnInputKind, Observation, Outcome, Source, Webhook, Widget,
};
pub use notice::{GapSpan, News, NoticeBody, NoticeName, Renewal};
pub use output::{Address, Because, Commit, Fence, JobBody, JobName, Mark, Origin, OriginKind, RefusedBody};
pub use record::{BadRecord, Record};
pub use secrets::{is_session, json_in, squeezed, without_secrets, without_session};
pub use words::{
    AccessModeWord, Action, At, AttemptWord, CauseWord, DataKindWord, DeadReason, EpisodeSummary, ProofWord,
    RefreshByWord, RemovalWord, StateWord,
};

/// The version of every schema here. It is the last part of a message's `ce-dataschema`.
pub const SCHEMA_VERSION: u16 = 1;

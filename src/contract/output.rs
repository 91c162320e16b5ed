//! What relink says beside notices: where each message goes and why, jobs, refusals; and its own bookkeeping on the same
//! stream, marks and fences.
//!
//! Never in here: a secret, a widget token, an MFA session, or anything Belvo read from the user's accounts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::InputKind;
use super::notice::NoticeName;
use super::words::{At, StateWord, is_false};
use crate::link::{EventName, Input, Job, Link, LinkId, Refusal, Step, Timestamp};

/// Where on the output stream a message belongs. `nats::subject` has the spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `link.state.<link>`
    State(LinkId),
    /// `link.notice.<type>.<link>`
    Notice(NoticeName, LinkId),
    /// `link.job.<type>.<link>`
    Job(JobName, LinkId),
    /// `link.refused.<link>`
    Refused(LinkId),
    /// `link.mark.<lane>`
    Mark(u16),
    /// `link.fence.<lane>`
    Fence(u16),
    /// `link.commit.<writer>`
    Commit(String),
    /// `link.incident.<institution>`, with the institution as [`super::institution_token`] spells it.
    Incident(String),
}

/// The kinds of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobName {
    /// Read the link from Belvo and publish the observation.
    Verify,
    /// Ask Belvo for a historical refresh.
    Refresh,
}

impl JobName {
    /// Every kind of job.
    pub const ALL: [Self; 2] = [Self::Verify, Self::Refresh];

    /// The token in the subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Refresh => "refresh",
        }
    }
}

/// Where the news came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// Which door.
    pub kind: OriginKind,
    /// The message's sequence on the input stream; absent for a timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_sequence: Option<u64>,
    /// The `ce-id` of the message, if its publisher gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// When the input stream stored it; for a timer, when it fired.
    pub heard_at: At,
    /// Fields of the message that could not be read, such as `data.consent_due_date`: what they were to say stays as it
    /// was known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

impl Origin {
    /// A deadline of relink's own that fired at `now`.
    pub fn timer(now: Timestamp) -> Self {
        Self { kind: OriginKind::Timer, input_sequence: None, message_id: None, heard_at: At(now), unread: Vec::new() }
    }
}

/// The doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A webhook of Belvo's.
    Webhook,
    /// An error that a call to Belvo's API got.
    ApiError,
    /// The widget, or a minted widget token.
    Widget,
    /// A read of the link.
    Observation,
    /// An operator.
    Command,
    /// A deadline of relink's own.
    Timer,
}

impl From<InputKind> for OriginKind {
    fn from(kind: InputKind) -> Self {
        match kind {
            InputKind::Webhook => Self::Webhook,
            InputKind::ApiError => Self::ApiError,
            InputKind::Widget => Self::Widget,
            InputKind::Observation => Self::Observation,
            InputKind::Command => Self::Command,
        }
    }
}

/// Why a message was sent: the answer to "why did this user get this?".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Because {
    /// What happened, in the machine's words.
    pub event: String,
    /// The state before.
    pub from: StateWord,
    /// The state after.
    pub to: StateWord,
    /// When.
    pub at: At,
    /// Whether many links of the institution were failing together then, which holds prompts back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub incident: bool,
    /// Where the news came from.
    pub origin: Origin,
}

impl Because {
    /// The transition that `step` took on `input`.
    pub fn of(step: &Step, input: &Input, origin: Origin) -> Self {
        Self {
            event: input.event.name().as_str().to_owned(),
            incident: input.incident,
            from: step.from.into(),
            to: step.link.state.name().into(),
            at: At(step.at),
            origin,
        }
    }
}

/// Body of `link.job.<type>.<link>`: a call to Belvo that is to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Job")]
pub struct JobBody {
    /// Which call.
    #[serde(rename = "type")]
    pub name: JobName,
    /// Belvo's link id.
    pub link_id: String,
    /// When the machine asked for it.
    pub asked_at: At,
    /// `verify`: Belvo's id of the consent, which is to be read too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_id: Option<String>,
    /// `refresh`: only these resources; none named: all that are fetched for the link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Why.
    pub because: Because,
}

/// Body of `link.refused.<link>`: what was heard and changed nothing, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Refused")]
pub struct RefusedBody {
    /// Belvo's link id.
    pub link_id: String,
    /// What happened, in the machine's words; absent where the message was not about the link, or not understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Why it changed nothing: one of the machine's refusals, `not_about_the_link` or `unknown`.
    pub reason: String,
    /// The same for people.
    pub detail: String,
    /// The link's state, which is as it was; absent if nothing was known of the link.
    pub state: Option<StateWord>,
    /// Where the news came from.
    pub origin: Origin,
}

/// Body of `link.mark.<lane>`: how far a lane has got with its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mark {
    /// When the input stream was created, in nanoseconds since the Unix epoch: its identity.
    pub stream_created_ns: i64,
    /// Everything of the lane up to here has been handled.
    pub sequence: u64,
    /// When the message at `sequence` was stored, in nanoseconds since the Unix epoch: tells whether the sequence was used again.
    pub stored_at_ns: i64,
}

/// Body of `link.fence.<lane>`: who owns a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fence {
    /// The process, for people.
    pub owner: String,
    /// When it took the lane.
    pub taken_at: At,
}

/// Body of `link.commit.<writer>`: the last message of each commit. A commit is stored only if the writer's last one is still on the
/// stream, so nothing is built on a commit that the stream has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Commit {
    /// The process, as its fences name it.
    pub owner: String,
    /// When it was sent.
    pub sent_at: At,
}

impl JobBody {
    /// The body of a job that `step` asked for.
    pub fn of(step: &Step, job: &Job, because: Because) -> Self {
        let (name, consent_id, resources) = match job {
            Job::Verify { consent } => (JobName::Verify, consent.clone(), Vec::new()),
            Job::Refresh { resources } => (JobName::Refresh, None, resources.clone()),
        };
        Self { name, link_id: step.link.id.to_string(), asked_at: At(step.at), consent_id, resources, because }
    }
}

impl RefusedBody {
    /// The body for an event the machine refused.
    pub fn refusal(link: &Link, event: EventName, refusal: Refusal, origin: Origin) -> Self {
        Self {
            link_id: link.id.to_string(),
            event: Some(event.as_str().to_owned()),
            reason: refusal.as_str().to_owned(),
            detail: refusal.to_string(),
            state: (link.version > 0).then(|| link.state.name().into()),
            origin,
        }
    }
}

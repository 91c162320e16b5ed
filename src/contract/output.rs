//! The other messages on the output stream: jobs, refusals, committed offsets and fences; and the fields that all
//! messages share: the address, and the transition that led to the message.
//!
//! None of them contains a secret, a widget token, an MFA session, or data that Belvo read from the user's accounts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::digest::LinksDigest;
use super::input::{ADOPTION_ID, InputKind};
use super::notice::NoticeName;
use super::person::PersonRecord;
use super::rfc3339::At;
use super::words::{DueWord, HeldWord, StateWord, is_false};
use crate::link::{EventName, Input, Job, Link, LinkId, Refusal, Step, Timestamp};

/// The subject of a message on the output stream. `nats::subject` makes the text of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `$KV.links.<link>`
    State(LinkId),
    /// `link.notice.<type>.<link>`
    Notice(NoticeName, LinkId),
    /// `link.observed.<type>.<link>`: a notice that is not sent, because relink only observes.
    Observed(NoticeName, LinkId),
    /// `link.job.<type>.<link>`
    Job(JobName, LinkId),
    /// `link.refused.<link>`
    Refused(LinkId),
    /// `link.offset.<partition>`
    Offset(u16),
    /// `link.fence.<partition>`
    Fence(u16),
    /// `link.commit.<writer>`
    Commit(String),
    /// `link.incident.<institution>`, with the institution as [`super::institution_token`] spells it.
    Incident(String),
}

/// The types of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum JobName {
    /// Read the link from Belvo and publish the observation.
    Verify,
    /// Ask Belvo for a historical refresh.
    Refresh,
    /// Look up the broken links that this link supersedes.
    FindSuperseded,
    /// Read another link from Belvo, which may supersede this one.
    ReadSuccessor,
}

impl JobName {
    /// The token in the subject.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The message, or the timer, that led to a transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The kind of the message, or `timer`.
    pub kind: OriginKind,
    /// The message's sequence on the input stream; absent for a timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_sequence: Option<u64>,
    /// The `ce-id` of the message, if its publisher gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The name of the API token with which the message came over HTTP, if the token has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Of a command: the operator's name, as the sender of the command gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Of a command: the operator's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the input stream stored the message; for a timer, when the timer fired.
    #[serde(alias = "heard_at")]
    pub received_at: At,
    /// When relink accepted the message over HTTP, by the clock of its host; only of a message that then waited in the journal for a second or
    /// longer, because NATS did not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<At>,
    /// Paths of fields that could not be read, such as `data.consent_due_date`. The message counts without them.
    #[serde(default, alias = "unread", skip_serializing_if = "Vec::is_empty")]
    pub unreadable_fields: Vec<String>,
}

impl Origin {
    /// Whether relink itself gave this command, when it adopted the link.
    pub fn is_adoption(&self) -> bool {
        self.message_id.as_ref().is_some_and(|id| id.starts_with(ADOPTION_ID))
    }

    /// The origin of a transition by a deadline that passed at `now`.
    pub fn timer(now: Timestamp) -> Self {
        Self {
            kind: OriginKind::Timer,
            input_sequence: None,
            message_id: None,
            token: None,
            by: None,
            reason: None,
            received_at: At(now),
            accepted_at: None,
            unreadable_fields: Vec::new(),
        }
    }
}

/// The kinds of origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A webhook of Belvo.
    Webhook,
    /// An error of Belvo's API, reported by its caller.
    ApiError,
    /// A callback of the widget, or a minted widget token.
    Widget,
    /// The link, or its consent, was read from Belvo.
    Observation,
    /// An operator's command.
    Command,
    /// A webhook of Belvo's status page.
    InstitutionStatus,
    /// A deadline of the link has passed.
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
            InputKind::InstitutionStatus => Self::InstitutionStatus,
        }
    }
}

/// The transition that led to a message: why a user got it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Because {
    /// The name of the event in the machine.
    pub event: String,
    /// The state before the event.
    pub from: StateWord,
    /// The state after the event.
    pub to: StateWord,
    /// The time of the transition.
    pub at: At,
    /// Whether the institution had an incident at that time. Prompts are deferred during an incident.
    #[serde(default, skip_serializing_if = "is_false")]
    pub incident: bool,
    /// A newer link of the same user at the same institution, which was known at that time. Its user is not prompted for
    /// this link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor_id: Option<String>,
    /// What was known of the other links of the same person. Only if the transition sends a message to the user, postpones one, or counts
    /// an earlier one that mentioned this link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<PersonRecord>,
    /// The transition only corrected the times of the link, because the clock of NATS had been ahead: times in the future
    /// became the time of this transition, and waits were shortened.
    #[serde(default, skip_serializing_if = "is_false")]
    pub times_corrected: bool,
    /// What was due: only if the event is `deadline_passed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<DueWord>,
    /// Why the message to the user that was due was not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldWord>,
    /// Until when quiet hours keep back `institution_restored`, or an `institution_down` that a later transition may publish. Only in the
    /// transition that began this wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_notice_at: Option<At>,
    /// The message, or the timer, that led to it.
    pub origin: Origin,
}

impl Because {
    /// The transition that `step` took on `input`.
    pub fn of(step: &Step, input: &Input, origin: Origin) -> Self {
        Self {
            event: input.event.name().as_str().to_owned(),
            incident: input.incident.is_some(),
            successor_id: input.successor.as_ref().map(ToString::to_string),
            person: input.person.as_deref().map(PersonRecord::of),
            times_corrected: step.times_corrected,
            due: step.due.map(DueWord::from),
            held: step.held.map(HeldWord::from),
            outage_notice_at: step.outage_notice_at.map(At),
            from: step.from.into(),
            to: step.link.state.name().into(),
            at: At(step.at),
            origin,
        }
    }
}

/// Body of `link.job.<type>.<link>`: a call to Belvo that has to be made, or other links that have to be looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Job")]
pub struct JobBody {
    /// The type of the job.
    #[serde(rename = "type")]
    pub name: JobName,
    /// Belvo's id of the link.
    pub link_id: String,
    /// When the machine emitted the job.
    pub asked_at: At,
    /// The version of the link's state that asks for the job. 0.2 did not write it.
    #[serde(default)]
    pub version: u64,
    /// `verify`: Belvo's id of the consent, which is read too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_id: Option<String>,
    /// `refresh`: the resources to refresh; absent for all resources of the link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// `read_successor`: Belvo's id of the other link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor_id: Option<String>,
    /// The transition that led to the job.
    pub because: Because,
}

/// Body of `link.refused.<link>`: a message that changed nothing, and the reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Refused")]
pub struct RefusedBody {
    /// Belvo's id of the link.
    pub link_id: String,
    /// The name of the event; absent if the message is not about the link, or has an unknown code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The reason: a refusal of the machine, `not_about_the_link` or `unknown`.
    pub reason: String,
    /// The reason as a sentence.
    pub detail: String,
    /// The unchanged state of the link; absent if relink knows nothing about the link.
    pub state: Option<StateWord>,
    /// The message, or the timer, that led to it.
    pub origin: Origin,
}

/// Body of `link.offset.<partition>`: the last input of the partition that has been handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommittedOffset {
    /// When the input stream was created, in nanoseconds since the Unix epoch. Identifies the stream.
    pub stream_created_ns: i64,
    /// The sequence of the last handled input. All earlier inputs of the partition have been handled too.
    pub sequence: u64,
    /// When the input at `sequence` was stored, in nanoseconds since the Unix epoch. After a host crash a server may
    /// use a sequence again; then the times differ.
    pub stored_at_ns: i64,
    /// The last handled record of each journal whose records were in this partition, at most the last 64 journals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journals: Vec<JournalOffset>,
}

/// The last handled record of a node's journal in a partition. A record with a lower number has been handled too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalOffset {
    /// The name of the journal, as in the header `Relink-Journal`.
    pub journal: String,
    /// The number of the record.
    pub number: u64,
}

/// Body of `link.fence.<partition>`: the owner of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fence {
    /// A name of the process, for people.
    pub owner: String,
    /// When the process took the partition.
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
    /// All links of the stream after this commit. Absent if the process does not know all of them, such as in its first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<LinksDigest>,
}

impl JobBody {
    /// The body of a job of `step`.
    pub fn of(step: &Step, job: &Job, because: Because) -> Self {
        let of = |name| Self {
            name,
            link_id: step.link.id.to_string(),
            asked_at: At(step.at),
            version: step.link.version,
            consent_id: None,
            resources: Vec::new(),
            successor_id: None,
            because,
        };
        match job {
            Job::Verify { consent } => Self { consent_id: consent.clone(), ..of(JobName::Verify) },
            Job::Refresh { resources } => Self { resources: resources.clone(), ..of(JobName::Refresh) },
            Job::FindSuperseded => of(JobName::FindSuperseded),
            Job::ReadSuccessor { link } => Self { successor_id: Some(link.to_string()), ..of(JobName::ReadSuccessor) },
        }
    }
}

impl RefusedBody {
    /// The body for an event that the machine refused.
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

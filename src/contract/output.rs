//! What relink says: notices, jobs, refusals; and its own bookkeeping on the same stream, marks and fences.
//!
//! Never in here: a secret, a widget token, an MFA session, or anything Belvo read from the user's accounts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::InputKind;
use super::words::{
    Action, At, AttemptWord, DataKindWord, EpisodeSummary, ProofWord, RefreshByWord, RemovalWord, StateWord, is_false,
};
use crate::link::{Cause, Episode, EventName, Gap, Input, Job, Link, LinkId, Notice, Refusal, Step};

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
    /// `link.incident.<institution>`, with the institution as [`super::institution_token`] spells it.
    Incident(String),
}

/// The kinds of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeName {
    /// Prompt the user, once per episode.
    UpdateRequired,
    /// Remind the user.
    Reminder,
    /// The user is repairing the link.
    UpdateStarted,
    /// The attempt failed; the link is as broken as before. No new prompt follows.
    UpdateFailed,
    /// The link works again.
    Recovered,
    /// History was missed and is to be fetched.
    RefreshDue,
    /// Data is at Belvo and can be read.
    DataAvailable,
    /// The gap is closed.
    Refreshed,
    /// The consent ends soon.
    ConsentExpiring,
    /// Data should have come and did not.
    Silent,
    /// The link is gone.
    Removed,
}

impl NoticeName {
    /// Every kind of notice.
    pub const ALL: [Self; 11] = [
        Self::UpdateRequired,
        Self::Reminder,
        Self::UpdateStarted,
        Self::UpdateFailed,
        Self::Recovered,
        Self::RefreshDue,
        Self::DataAvailable,
        Self::Refreshed,
        Self::ConsentExpiring,
        Self::Silent,
        Self::Removed,
    ];

    /// The token in the subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UpdateRequired => "update_required",
            Self::Reminder => "reminder",
            Self::UpdateStarted => "update_started",
            Self::UpdateFailed => "update_failed",
            Self::Recovered => "recovered",
            Self::RefreshDue => "refresh_due",
            Self::DataAvailable => "data_available",
            Self::Refreshed => "refreshed",
            Self::ConsentExpiring => "consent_expiring",
            Self::Silent => "silent",
            Self::Removed => "removed",
        }
    }
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

/// A span without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GapSpan {
    /// The last proven data before it; `null` if none was ever seen.
    pub from: Option<At>,
    /// The recovery.
    pub to: At,
}

impl From<Gap> for GapSpan {
    fn from(gap: Gap) -> Self {
        Self { from: gap.from.map(At), to: At(gap.to) }
    }
}

/// Body of `link.notice.<type>.<link>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Notice")]
pub struct NoticeBody {
    /// What to tell.
    #[serde(flatten)]
    pub news: News,
    /// Belvo's link id.
    pub link_id: String,
    /// The customer's own id for it.
    pub external_id: Option<String>,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// The link's state after the transition.
    pub state: StateWord,
    /// The outage it belongs to, if it belongs to one.
    pub episode: Option<EpisodeSummary>,
    /// What a renewal link is made of, where the user has to renew the consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// Why this was sent.
    pub because: Because,
}

/// What, beside link and institution, the address of Belvo's portal is made of when a consent is to be renewed (guide:
/// My Belvo Portal; `action=renew`). Belvo says it once, in the webhook; here it is whenever it is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// Belvo's id of the consent.
    pub consent_id: Option<String>,
    /// The institution's name for people.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
}

/// What a notice tells, by its `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum News {
    /// Prompt the user, once per episode.
    UpdateRequired {
        /// What the user has to do.
        action: Action,
    },
    /// Remind the user.
    Reminder {
        /// What the user has to do.
        action: Action,
        /// Which reminder of the episode, from 1.
        number: u32,
    },
    /// The user is repairing the link.
    UpdateStarted,
    /// The attempt failed; the link is as broken as before. No new prompt follows.
    UpdateFailed {
        /// What the user still has to do.
        action: Action,
        /// How the attempt ended.
        attempt: AttemptWord,
    },
    /// The link works again.
    Recovered {
        /// What makes us say so.
        proof: ProofWord,
    },
    /// History was missed and is to be fetched.
    RefreshDue {
        /// What was missed.
        gap: GapSpan,
        /// Who fetches it into Belvo.
        by: RefreshByWord,
    },
    /// Data is at Belvo and can be read.
    DataAvailable {
        /// The resource, such as `TRANSACTIONS`.
        resource: String,
        /// What kind of arrival.
        kind: DataKindWord,
        /// How many items Belvo counted, if it did.
        items_count: Option<u64>,
    },
    /// The gap is closed.
    Refreshed {
        /// What had been missed.
        gap: GapSpan,
        /// The resources that came.
        arrived: Vec<String>,
        /// The resources that are fetched for this link and did not come: nothing new in them, or a failure.
        missing: Vec<String>,
    },
    /// The consent ends soon.
    ConsentExpiring {
        /// What the user has to do.
        action: Action,
        /// When it ends, if Belvo said.
        due_at: Option<At>,
    },
    /// Data should have come and did not.
    Silent {
        /// The last proven data.
        since: Option<At>,
    },
    /// The link is gone.
    Removed {
        /// Why.
        why: RemovalWord,
    },
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

impl NoticeBody {
    /// The body of a notice that `step` emitted.
    pub fn of(step: &Step, notice: &Notice, episode: Option<&Episode>, because: Because) -> Self {
        let link = &step.link;
        Self {
            news: News::of(notice, episode),
            link_id: link.id.to_string(),
            external_id: link.profile.external_id.clone(),
            institution: link.profile.institution.clone(),
            state: link.state.name().into(),
            episode: episode.map(|episode| EpisodeSummary::of(&link.id, episode)),
            renewal: Renewal::of(link, notice, episode),
            because,
        }
    }
}

impl Renewal {
    fn of(link: &Link, notice: &Notice, episode: Option<&Episode>) -> Option<Self> {
        let asks_for_it = match notice {
            Notice::ConsentExpiring { .. } => true,
            Notice::UpdateRequired | Notice::Reminder { .. } | Notice::UpdateFailed { .. } => {
                episode.is_some_and(|episode| episode.cause == Cause::ConsentEnded)
            }
            Notice::UpdateStarted
            | Notice::Recovered { .. }
            | Notice::RefreshDue { .. }
            | Notice::DataAvailable(_)
            | Notice::Refreshed { .. }
            | Notice::Silent { .. }
            | Notice::Removed { .. } => false,
        };
        let consent = link.profile.consent.as_ref().filter(|_| asks_for_it)?;
        Some(Self {
            consent_id: consent.id.clone(),
            institution_display_name: consent.institution_display_name.clone(),
            institution_icon_logo: consent.institution_icon_logo.clone(),
        })
    }
}

impl News {
    fn of(notice: &Notice, episode: Option<&Episode>) -> Self {
        let action = episode.map_or(Action::None, |episode| episode.cause.into());
        match notice {
            Notice::UpdateRequired => Self::UpdateRequired { action },
            Notice::Reminder { number } => Self::Reminder { action, number: *number },
            Notice::UpdateStarted => Self::UpdateStarted,
            Notice::UpdateFailed { after } => Self::UpdateFailed { action, attempt: (*after).into() },
            Notice::Recovered { proof } => Self::Recovered { proof: (*proof).into() },
            Notice::RefreshDue { gap, by } => Self::RefreshDue { gap: (*gap).into(), by: (*by).into() },
            Notice::DataAvailable(data) => Self::DataAvailable {
                resource: data.resource.clone(),
                kind: data.kind.into(),
                items_count: data.items_count,
            },
            Notice::Refreshed { gap, arrived, missing } => {
                Self::Refreshed { gap: (*gap).into(), arrived: arrived.clone(), missing: missing.clone() }
            }
            Notice::ConsentExpiring { due_at } => {
                Self::ConsentExpiring { action: Action::RenewConsent, due_at: due_at.map(At) }
            }
            Notice::Silent { since } => Self::Silent { since: since.map(At) },
            Notice::Removed { why } => Self::Removed { why: (*why).into() },
        }
    }

    /// Its name.
    pub const fn name(&self) -> NoticeName {
        match self {
            Self::UpdateRequired { .. } => NoticeName::UpdateRequired,
            Self::Reminder { .. } => NoticeName::Reminder,
            Self::UpdateStarted => NoticeName::UpdateStarted,
            Self::UpdateFailed { .. } => NoticeName::UpdateFailed,
            Self::Recovered { .. } => NoticeName::Recovered,
            Self::RefreshDue { .. } => NoticeName::RefreshDue,
            Self::DataAvailable { .. } => NoticeName::DataAvailable,
            Self::Refreshed { .. } => NoticeName::Refreshed,
            Self::ConsentExpiring { .. } => NoticeName::ConsentExpiring,
            Self::Silent { .. } => NoticeName::Silent,
            Self::Removed { .. } => NoticeName::Removed,
        }
    }
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

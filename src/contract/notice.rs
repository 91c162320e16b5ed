//! The bodies of notices, the messages that relink publishes to subscribers.
//!
//! A notice never contains a secret, a widget token, an MFA session, or data that Belvo read from the user's accounts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::output::Because;
use super::person::{AlsoBroken, AlsoEnding, lists_of};
use super::rfc3339::At;
use super::words::{
    Action, AttemptEndWord, DataKindWord, EpisodeSummary, ProofWord, RefreshByWord, RemovalWord, StateWord,
};
use crate::link::{Cause, Episode, Gap, Link, Notice, Step};

/// The types of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum NoticeName {
    /// Prompt the user, once per episode.
    UpdateRequired,
    /// Remind the user.
    Reminder,
    /// The user is repairing the link.
    UpdateStarted,
    /// The attempt failed. The episode goes on, and no new prompt follows.
    UpdateFailed,
    /// The user has connected the bank anew: another link works in place of this one. Do not prompt for this episode.
    Superseded,
    /// The creation of the link was not finished in time. For your application; do not prompt the user because of it alone.
    CreationUnfinished,
    /// The link works again.
    Recovered,
    /// Data was missed during the outage, and has to be fetched by a historical refresh.
    RefreshDue,
    /// New data of the link is at Belvo, and can be read from Belvo's API.
    DataAvailable,
    /// The historical refresh is over.
    Refreshed,
    /// The consent ends soon.
    ConsentExpiring,
    /// Belvo's scheduled refresh of a recurrent link is overdue: no data came.
    Stale,
    /// The institution is down: there is nothing to do for the user now.
    InstitutionDown,
    /// The institution works again, or the link does. Only after `institution_down`.
    InstitutionRestored,
    /// The link is removed.
    Removed,
}

impl NoticeName {
    /// The token in the subject.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The span of an outage for which data has to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GapSpan {
    /// When data last arrived before the outage; `null` if none ever did.
    pub from: Option<At>,
    /// When the link recovered.
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
    /// The type of the notice, and the fields of that type.
    #[serde(flatten)]
    pub content: NoticeContent,
    /// Belvo's id of the link.
    pub link_id: String,
    /// The customer's own id of the link or of its user.
    pub external_id: Option<String>,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// The link's state after the transition.
    pub state: StateWord,
    /// The episode that the notice belongs to, if it belongs to one.
    pub episode: Option<EpisodeSummary>,
    /// The parameters of a renewal link, if the user has to renew the consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// The address of the page where the user repairs the link. Only in `update_required`, `reminder` and
    /// `institution_restored`, if the user has to do something, and only if the repair page is switched on. The page belongs to this episode and expires; send the address to this user only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_url: Option<String>,
    /// Other links of the same person (equal `external_id`) that are broken now: one message to the user can be for all of them. Only in
    /// `update_required`, `reminder`, `consent_expiring`, and an `institution_restored` that asks the user. The next message to this person comes after the reminder pause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_broken: Vec<AlsoBroken>,
    /// Other links of the same person whose consent ends soon. In the same notices as `also_broken`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_ending: Vec<AlsoEnding>,
    /// The transition that led to the notice.
    pub because: Because,
}

/// The parameters, besides link and institution, of the address in Belvo's portal where a user renews a consent (guide:
/// My Belvo Portal; `action=renew`). Belvo sends them only in a CONSENT webhook; relink repeats them in every notice
/// that needs them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// Belvo's id of the consent.
    pub consent_id: Option<String>,
    /// The display name of the institution.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
}

/// The type of a notice, and the fields of that type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NoticeContent {
    /// Prompt the user, once per episode.
    UpdateRequired {
        /// What the user has to do.
        action: Action,
    },
    /// Remind the user.
    Reminder {
        /// What the user has to do.
        action: Action,
        /// The number of the reminder within the episode, from 1.
        number: u32,
    },
    /// The user is repairing the link.
    UpdateStarted,
    /// The attempt failed. The episode goes on, and no new prompt follows.
    UpdateFailed {
        /// What the user still has to do.
        action: Action,
        /// How the user's part of the attempt ended.
        attempt: AttemptEndWord,
    },
    /// The user has connected the bank anew: another link works in place of this one. Do not prompt for this episode.
    Superseded {
        /// Belvo's id of the other link.
        by: String,
    },
    /// The creation of the link was not finished in time: its user never gave the MFA token. For your application; do not prompt the user
    /// because of it alone.
    CreationUnfinished {
        /// What finishes the creation, if the user still wants the link: a token, in the widget in update mode.
        action: Action,
        /// Since when relink knows the link.
        since: At,
    },
    /// The link works again.
    Recovered {
        /// The fact that shows that the link works.
        proof: ProofWord,
    },
    /// Data was missed during the outage, and has to be fetched by a historical refresh.
    RefreshDue {
        /// The span that was missed.
        gap: GapSpan,
        /// Who asks Belvo for the refresh.
        by: RefreshByWord,
    },
    /// New data of the link is at Belvo, and can be read from Belvo's API.
    DataAvailable {
        /// The resource, such as `TRANSACTIONS`.
        resource: String,
        /// The kind of update.
        kind: DataKindWord,
        /// The number of items, if Belvo's webhook contained one.
        items_count: Option<u64>,
    },
    /// The historical refresh is over.
    Refreshed {
        /// The span that was missed.
        gap: GapSpan,
        /// The resources whose data arrived.
        arrived: Vec<String>,
        /// The resources that Belvo fetches for this link and whose data did not arrive: they have nothing new, or
        /// failed.
        missing: Vec<String>,
    },
    /// The consent ends soon.
    ConsentExpiring {
        /// What the user has to do.
        action: Action,
        /// When the consent ends, if that is known.
        due_at: Option<At>,
        /// The step of `RELINK_POLICY_CONSENT_NOTICES` that the notice belongs to, in seconds before the end. Absent if the end is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rung_secs: Option<u64>,
    },
    /// Belvo's scheduled refresh of a recurrent link is overdue: no data came.
    #[serde(alias = "silent")]
    Stale {
        /// When data last came, as far as is proven; `null` if it never did.
        since: Option<At>,
    },
    /// The institution is down: there is nothing to do for the user now.
    InstitutionDown {
        /// When the outage began. The same in the notice `institution_restored`.
        since: At,
    },
    /// The institution works again, or the link does. Only after `institution_down`.
    InstitutionRestored {
        /// When the outage began.
        since: At,
        /// What the user has to do now; `none` if the link works, if its user has not been prompted, or if another notice of the same
        /// moment asks for it.
        action: Action,
    },
    /// The link is removed.
    Removed {
        /// Why relink removed it.
        #[serde(alias = "why")]
        reason: RemovalWord,
    },
}

impl NoticeBody {
    /// The body of a notice that `step` emitted, without the addresses of the repair page.
    pub fn of(step: &Step, notice: &Notice, episode: Option<&Episode>, because: Because) -> Self {
        let link = &step.link;
        let person = because.person.as_ref().filter(|_| notice.is_message(episode));
        let (also_broken, also_ending) = lists_of(person);
        Self {
            content: NoticeContent::of(notice, episode),
            link_id: link.id.to_string(),
            external_id: link.profile.external_id.clone(),
            institution: link.profile.institution.clone(),
            state: link.state.name().into(),
            episode: episode.map(|episode| EpisodeSummary::of(&link.id, episode)),
            renewal: Renewal::of(link, notice, episode),
            repair_url: None,
            also_broken,
            also_ending,
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
            | Notice::Superseded { .. }
            | Notice::CreationUnfinished { .. }
            | Notice::Recovered { .. }
            | Notice::RefreshDue { .. }
            | Notice::DataAvailable(_)
            | Notice::Refreshed { .. }
            | Notice::Stale { .. }
            | Notice::InstitutionDown { .. }
            | Notice::InstitutionRestored { .. }
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

impl NoticeContent {
    fn of(notice: &Notice, episode: Option<&Episode>) -> Self {
        let action = episode.map_or(Action::None, |episode| episode.cause.into());
        match notice {
            Notice::UpdateRequired => Self::UpdateRequired { action },
            Notice::Reminder { number } => Self::Reminder { action, number: *number },
            Notice::UpdateStarted => Self::UpdateStarted,
            Notice::UpdateFailed { after } => Self::UpdateFailed { action, attempt: (*after).into() },
            Notice::Superseded { by } => Self::Superseded { by: by.to_string() },
            Notice::CreationUnfinished { since } => {
                Self::CreationUnfinished { action: Action::ProvideToken, since: At(*since) }
            }
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
            Notice::ConsentExpiring { due_at, rung } => Self::ConsentExpiring {
                action: Action::RenewConsent,
                due_at: due_at.map(At),
                rung_secs: rung.map(|rung| rung.as_secs()),
            },
            Notice::Stale { since } => Self::Stale { since: since.map(At) },
            Notice::InstitutionDown { since } => Self::InstitutionDown { since: At(*since) },
            Notice::InstitutionRestored { since, asks } => {
                Self::InstitutionRestored { since: At(*since), action: if *asks { action } else { Action::None } }
            }
            Notice::Removed { why } => Self::Removed { reason: (*why).into() },
        }
    }

    /// Whether the notice asks the user to repair the link.
    pub const fn prompts(&self) -> bool {
        match self {
            Self::UpdateRequired { .. } | Self::Reminder { .. } => true,
            Self::InstitutionRestored { action, .. } => !matches!(action, Action::None),
            _ => false,
        }
    }

    /// The type of the notice.
    pub const fn name(&self) -> NoticeName {
        match self {
            Self::UpdateRequired { .. } => NoticeName::UpdateRequired,
            Self::Reminder { .. } => NoticeName::Reminder,
            Self::UpdateStarted => NoticeName::UpdateStarted,
            Self::UpdateFailed { .. } => NoticeName::UpdateFailed,
            Self::Superseded { .. } => NoticeName::Superseded,
            Self::CreationUnfinished { .. } => NoticeName::CreationUnfinished,
            Self::Recovered { .. } => NoticeName::Recovered,
            Self::RefreshDue { .. } => NoticeName::RefreshDue,
            Self::DataAvailable { .. } => NoticeName::DataAvailable,
            Self::Refreshed { .. } => NoticeName::Refreshed,
            Self::ConsentExpiring { .. } => NoticeName::ConsentExpiring,
            Self::Stale { .. } => NoticeName::Stale,
            Self::InstitutionDown { .. } => NoticeName::InstitutionDown,
            Self::InstitutionRestored { .. } => NoticeName::InstitutionRestored,
            Self::Removed { .. } => NoticeName::Removed,
        }
    }
}

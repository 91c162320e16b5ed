//! The parts of a record: episode, attempt, suspicion, refresh, consent; each with its conversion from and
//! to the core.
//!
//! `Record::link` checks whether the parts fit together.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::rfc3339::At;
use super::super::words::{AttemptEndWord, CauseWord, is_false};
use super::BadRecord;
use crate::link::{
    Breakage, Consent, Due, Episode, EpisodeNumber, InstitutionOutage, LinkId, Month, Prompt, Refresh, RefreshQuota,
    Session, Suspicion, UpdatePhase,
};

/// When `consent_expiring` was published before there was a ladder.
const BEFORE_LADDER: Duration = Duration::from_secs(7 * 86_400);

/// An episode: one outage of the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeRecord {
    /// `<link id>-e<number>`.
    pub id: String,
    /// The number of the episode, from 1 for the first outage of the link.
    pub number: u32,
    /// What the user has to repair.
    pub cause: CauseWord,
    /// When the episode began.
    pub opened_at: At,
    /// When Belvo was read, if the current cause comes from an observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<At>,
    /// When the institution last refused a login. Absent once Belvo's status shows the outage too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<At>,
    /// Whether the prompt has been sent. If not, `prompt` has the reason.
    pub prompt_sent: bool,
    /// Whether the prompt has been sent, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptWord>,
    /// `deferred`, `postponed`, `unidentified`: when relink checks again whether the prompt is due.
    #[serde(default, alias = "prompt_waits_until", skip_serializing_if = "Option::is_none")]
    pub prompt_deferred_until: Option<At>,
    /// `deferred`: when Belvo was asked, after the incident, whether the link works again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_asked_at: Option<At>,
    /// An operator has released the prompt: no incident of the institution defers it any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prompt_released: bool,
    /// How many reminders have been sent.
    pub reminders_count: u32,
    /// When the next reminder is due, if nothing keeps it back. None is sent while the link is muted or superseded: `due` of
    /// `GET /v1/links/{id}` has what really follows.
    pub next_reminder_at: Option<At>,
    /// The latest time to which failed attempts, and a widget that the person uses, may postpone the prompt or the next reminder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remind_by: Option<At>,
    /// Since when the next reminder is due and waits: the institution is down, the user got another message, or the user is in the widget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reminder_waits_since: Option<At>,
    /// When the last message about another link was published that has counted as the prompt or as a reminder. It does not count twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mention_counted_at: Option<At>,
    /// When relink last asked for a refresh before a reminder, to find out whether a login works again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<At>,
    /// How many times the user has tried to repair the link.
    pub attempts_count: u32,
    /// The resources whose data has arrived since Belvo last reported the link broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
    /// A newer link of the same user at the same institution, which works. Its user is neither prompted nor reminded for
    /// this episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
    /// The other link that a success callback of the widget named last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor_named: Option<String>,
    /// The trace of the input that began the episode, as a W3C `traceparent`. Absent if relink records no traces. The spans of the
    /// repair have a link to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Whether the prompt of an episode has been sent, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptWord {
    /// The notice `update_required` was published, or a message about another link of the person mentioned this link (`also_broken`).
    Sent,
    /// The link is muted or superseded, or its user was in the widget already when the outage became known. The prompt
    /// is published when an operator ends that, or when that attempt fails.
    #[serde(alias = "held")]
    Muted,
    /// The institution has an incident. The prompt is published after the incident if the link is still broken then.
    #[serde(alias = "waiting")]
    Deferred,
    /// The user may not get a message now, because of quiet hours or the reminder pause of the person. The prompt is published later if the link is still broken
    /// then.
    Postponed,
    /// relink has never read the link, so the institution or the user is not known, and Belvo is being asked. The prompt is published with
    /// the answer if the link is still broken.
    Unidentified,
}

/// An attempt to repair a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateRecord {
    /// The phase of the attempt.
    pub phase: UpdatePhaseWord,
    /// The deadline of the phase.
    pub until: At,
    /// `with_user`: when the attempt began. Its longest duration counts from this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<At>,
    /// `verifying`: how the user's part ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<AttemptEndWord>,
    /// `verifying`: how many verify requests have been made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_count: Option<u32>,
}

/// The phase of an attempt to repair a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdatePhaseWord {
    /// The user holds a widget token.
    WithUser,
    /// Belvo is being asked whether the link works.
    Verifying,
}

/// Evidence that a valid link is broken, while it is being verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SuspicionRecord {
    /// What the user would have to repair.
    pub cause: CauseWord,
    /// When the MFA session that the evidence names expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expires_at: Option<At>,
    /// Whether the evidence answered an attempt to update the link.
    #[serde(default, skip_serializing_if = "is_false")]
    pub during_update: bool,
    /// Whether the evidence is one refused login, which Belvo's status may not show.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refused_login: bool,
    /// When the newest evidence arrived.
    pub at: At,
    /// When the suspicion is confirmed if nothing has refuted it.
    pub until: At,
}

/// The historical refresh after a recovery, while it is not complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshRecord {
    /// When data last arrived before the outage.
    pub gap_from: Option<At>,
    /// When the link recovered.
    pub gap_to: At,
    /// Whether relink has asked Belvo for a refresh.
    pub asked: bool,
    /// How many refreshes there have been, including Belvo's own.
    #[serde(default)]
    pub rounds_count: u32,
    /// When relink asks for the next refresh, or gives up.
    pub until: At,
    /// The resources whose data has arrived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
}

/// The consent behind a link, with the parameters of a renewal link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConsentRecord {
    /// Belvo's id of the consent.
    pub id: Option<String>,
    /// The due date, if it is known.
    pub due_at: Option<At>,
    /// The consent has no due date (Belvo: `undefined_consent_expiration`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub endless: bool,
    /// The display name of the institution.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
    /// The notice `consent_expiring` has been published.
    #[serde(default, skip_serializing_if = "is_false")]
    pub announced: bool,
    /// The due date in that notice, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_for: Option<At>,
    /// The step of `RELINK_POLICY_CONSENT_NOTICES` of that notice, in milliseconds before the due date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_rung_ms: Option<u64>,
    /// The user may get no message now, so the notice `consent_expiring` is published at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed_until: Option<At>,
    /// The due date that has passed and has opened a suspicion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<At>,
}

/// How many refreshes of the link relink has asked Belvo for in one calendar month (in the time zone of Brazil).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshQuotaRecord {
    /// The month, such as `2026-11`.
    pub month: String,
    /// The number of refreshes.
    pub count: u32,
    /// Belvo refused a refresh because the monthly quota was used up; relink asks for none before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_until: Option<At>,
}

/// An outage of the institution that was announced for the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutageRecord {
    /// When the outage began.
    pub began_at: At,
    /// When relink checks again whether `institution_restored` is due; absent if that notice was published, or will not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_at: Option<At>,
}

impl OutageRecord {
    pub(super) fn of(outage: InstitutionOutage) -> Self {
        Self { began_at: At(outage.began_at), check_at: outage.check_at.map(At) }
    }

    pub(super) fn parse(self) -> InstitutionOutage {
        InstitutionOutage { began_at: self.began_at.0, check_at: self.check_at.map(|at| at.0) }
    }
}

impl EpisodeRecord {
    pub(super) fn of(link: &LinkId, episode: &Episode) -> Self {
        let (prompt, waits_until, asked_at) = match episode.prompt {
            Prompt::Sent => (PromptWord::Sent, None, None),
            Prompt::Muted => (PromptWord::Muted, None, None),
            Prompt::Deferred { until, asked_at } => (PromptWord::Deferred, Some(At(until)), asked_at.map(At)),
            Prompt::Postponed { until } => (PromptWord::Postponed, Some(At(until)), None),
            Prompt::Unidentified { until } => (PromptWord::Unidentified, Some(At(until)), None),
        };
        Self {
            id: format!("{link}-e{}", episode.number.0),
            number: episode.number.0,
            cause: episode.cause.into(),
            opened_at: At(episode.opened_at),
            observed_at: episode.observed_at.map(At),
            refused_at: episode.refused_at.map(At),
            prompt_sent: episode.prompt == Prompt::Sent,
            prompt: Some(prompt),
            prompt_deferred_until: waits_until,
            prompt_asked_at: asked_at,
            reminders_count: episode.reminders_count,
            next_reminder_at: episode.next_reminder_at.map(At),
            remind_by: episode.remind_by.map(At),
            reminder_waits_since: episode.reminder_waits_since.map(At),
            mention_counted_at: episode.mention_counted_at.map(At),
            tried_at: episode.tried_at.map(At),
            attempts_count: episode.attempts_count,
            arrived: episode.arrived.clone(),
            superseded_by: episode.superseded_by.as_ref().map(ToString::to_string),
            prompt_released: episode.is_released,
            successor_named: episode.successor_named.as_ref().map(ToString::to_string),
            traceparent: None,
        }
    }

    pub(super) fn parse(&self) -> Result<Episode, BadRecord> {
        Ok(Episode {
            number: EpisodeNumber(self.number),
            cause: self.cause.into(),
            session: None,
            opened_at: self.opened_at.0,
            observed_at: self.observed_at.map(|at| at.0),
            refused_at: self.refused_at.map(|at| at.0),
            prompt: self.parse_prompt()?,
            reminders_count: self.reminders_count,
            next_reminder_at: self.next_reminder_at.map(|at| at.0),
            remind_by: self.remind_by.map(|at| at.0),
            reminder_waits_since: self.reminder_waits_since.map(|at| at.0),
            mention_counted_at: self.mention_counted_at.map(|at| at.0),
            tried_at: self.tried_at.map(|at| at.0),
            attempts_count: self.attempts_count,
            arrived: self.arrived.clone(),
            superseded_by: parse_link(self.superseded_by.as_deref(), "episode.superseded_by")?,
            is_released: self.prompt_released,
            successor_named: parse_link(self.successor_named.as_deref(), "episode.successor_named")?,
        })
    }

    fn parse_prompt(&self) -> Result<Prompt, BadRecord> {
        match (self.prompt, self.prompt_deferred_until) {
            (Some(PromptWord::Deferred), Some(At(until))) => {
                Ok(Prompt::Deferred { until, asked_at: self.prompt_asked_at.map(|at| at.0) })
            }
            (Some(PromptWord::Postponed), Some(At(until))) => Ok(Prompt::Postponed { until }),
            (Some(PromptWord::Unidentified), Some(At(until))) => Ok(Prompt::Unidentified { until }),
            (Some(PromptWord::Deferred | PromptWord::Postponed | PromptWord::Unidentified), None) => {
                Err(BadRecord::Impossible("episode.prompt_deferred_until"))
            }
            // A record from before the field `prompt` existed.
            (None, _) if !self.prompt_sent => Ok(Prompt::Muted),
            (Some(PromptWord::Muted), _) => Ok(Prompt::Muted),
            (Some(PromptWord::Sent) | None, _) => Ok(Prompt::Sent),
        }
    }
}

fn parse_link(id: Option<&str>, field: &'static str) -> Result<Option<LinkId>, BadRecord> {
    id.map(|id| id.parse().map_err(|_| BadRecord::Impossible(field))).transpose()
}

impl UpdateRecord {
    pub(super) fn of(phase: UpdatePhase) -> Self {
        match phase {
            UpdatePhase::WithUser { started_at, until } => Self {
                phase: UpdatePhaseWord::WithUser,
                until: At(until),
                started_at: Some(At(started_at)),
                after: None,
                asked_count: None,
            },
            UpdatePhase::Verifying { after, asked_count, until } => Self {
                phase: UpdatePhaseWord::Verifying,
                until: At(until),
                started_at: None,
                after: Some(after.into()),
                asked_count: Some(asked_count),
            },
        }
    }

    /// `since`, when the link entered `updating`, replaces `started_at` in a record from before that field existed.
    pub(super) fn parse_phase(&self, since: At) -> Result<UpdatePhase, BadRecord> {
        let At(until) = self.until;
        let At(started_at) = self.started_at.unwrap_or(since);
        match (self.phase, self.after, self.asked_count) {
            (UpdatePhaseWord::WithUser, _, _) => Ok(UpdatePhase::WithUser { started_at, until }),
            (UpdatePhaseWord::Verifying, Some(after), Some(asked_count)) => {
                Ok(UpdatePhase::Verifying { after: after.into(), asked_count, until })
            }
            (UpdatePhaseWord::Verifying, _, _) => Err(BadRecord::Impossible("update.after")),
        }
    }
}

impl SuspicionRecord {
    pub(super) fn of(evidence: &Suspicion) -> Self {
        Self {
            cause: evidence.breakage.cause.into(),
            session_expires_at: evidence.breakage.session.map(|session| At(session.expires_at)),
            during_update: evidence.breakage.during_update,
            refused_login: evidence.breakage.refused_login,
            at: At(evidence.at),
            until: At(evidence.until),
        }
    }

    pub(super) fn parse(&self) -> Suspicion {
        let session = self.session_expires_at.map(|At(expires_at)| Session { expires_at });
        let (during_update, refused_login) = (self.during_update, self.refused_login);
        let breakage = Breakage { cause: self.cause.into(), session, during_update, refused_login };
        Suspicion { breakage, at: self.at.0, until: self.until.0 }
    }
}

impl RefreshRecord {
    pub(super) fn of(refresh: &Refresh) -> Self {
        Self {
            gap_from: refresh.gap_from.map(At),
            gap_to: At(refresh.gap_to),
            asked: refresh.asked,
            rounds_count: refresh.rounds_count,
            until: At(refresh.until),
            arrived: refresh.arrived.clone(),
        }
    }

    pub(super) fn parse(&self) -> Refresh {
        Refresh {
            gap_from: self.gap_from.map(|at| at.0),
            gap_to: self.gap_to.0,
            asked: self.asked,
            rounds_count: self.rounds_count,
            until: self.until.0,
            arrived: self.arrived.clone(),
        }
    }
}

impl ConsentRecord {
    pub(super) fn of(consent: &Consent) -> Self {
        Self {
            id: consent.id.clone(),
            due_at: consent.due.at().map(At),
            endless: consent.due == Due::Never,
            institution_display_name: consent.institution_display_name.clone(),
            institution_icon_logo: consent.institution_icon_logo.clone(),
            announced: consent.announced.is_some(),
            announced_for: consent.announced.and_then(Due::at).map(At),
            announced_rung_ms: consent.rung.map(|rung| u64::try_from(rung.as_millis()).unwrap_or(u64::MAX)),
            postponed_until: consent.postponed_until.map(At),
            passed: consent.passed.map(At),
        }
    }

    pub(super) fn parse(&self) -> Consent {
        let due = |at: Option<At>| at.map_or(Due::Unknown, |At(at)| Due::At(at));
        Consent {
            id: self.id.clone(),
            due: if self.endless { Due::Never } else { due(self.due_at) },
            institution_display_name: self.institution_display_name.clone(),
            institution_icon_logo: self.institution_icon_logo.clone(),
            announced: self.announced.then(|| due(self.announced_for)),
            // A record from before the ladder was announced 7 days ahead.
            rung: self
                .announced_rung_ms
                .map(Duration::from_millis)
                .or_else(|| self.announced_for.map(|_| BEFORE_LADDER)),
            postponed_until: self.postponed_until.map(|at| at.0),
            passed: self.passed.map(|at| at.0),
        }
    }
}

impl RefreshQuotaRecord {
    /// None where there is nothing to remember.
    pub(super) fn of(refresh_quota: RefreshQuota) -> Option<Self> {
        let (year, month) = refresh_quota.month.year_and_month();
        (refresh_quota != RefreshQuota::default()).then(|| Self {
            month: format!("{year:04}-{month:02}"),
            count: refresh_quota.count,
            refused_until: refresh_quota.refused_until.map(At),
        })
    }

    pub(super) fn parse(&self) -> Result<RefreshQuota, BadRecord> {
        let month =
            self.month.rsplit_once('-').and_then(|(year, month)| Some((year.parse().ok()?, month.parse().ok()?)));
        let month = month
            .and_then(|(year, month)| Month::new(year, month))
            .ok_or(BadRecord::Impossible("refresh_quota.month"))?;
        Ok(RefreshQuota { month, count: self.count, refused_until: self.refused_until.map(|at| at.0) })
    }
}

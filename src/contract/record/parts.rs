//! The parts of a record: outage, attempt, suspicion, refresh, consent, facts; each with its way there and back.
//!
//! Nothing here decides anything; whether the parts fit together is for `Record::link` to say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words::{At, AttemptWord, CauseWord, is_false};
use super::BadRecord;
use crate::link::{
    Asks, Breakage, Consent, DedupKey, Due, Episode, EpisodeNumber, LinkId, Month, Phase, Prompt, Refresh, Seen,
    Session, Suspicion,
};

/// An outage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeRecord {
    /// `<link id>-e<number>`.
    pub id: String,
    /// Which outage of the link, from 1.
    pub number: u32,
    /// What has to be mended.
    pub cause: CauseWord,
    /// When it began.
    pub opened_at: At,
    /// When the observation was read that the state comes from; absent if it comes from anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<At>,
    /// When a login was last refused, as long as Belvo's status is not known to say so too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<At>,
    /// Whether its one prompt has been sent; if not, `prompt` says why.
    pub prompt_sent: bool,
    /// What became of its one prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptWord>,
    /// `waiting`: when it is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_waits_until: Option<At>,
    /// `waiting`: when Belvo was asked whether the prompt is still needed, the incident being over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_asked_at: Option<At>,
    /// How many reminders have followed.
    pub reminders_count: u32,
    /// When the next is due.
    pub next_reminder_at: Option<At>,
    /// Failed attempts put the next reminder off, but never beyond this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remind_by: Option<At>,
    /// When relink last tried a login before a reminder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<At>,
    /// How often the user has tried to repair it.
    pub attempts_count: u32,
    /// The resources whose data has come since Belvo last said that the link is broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
}

/// What became of an outage's one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptWord {
    /// It went out.
    Sent,
    /// The link is muted, or its user was in the widget already when the outage became known; it goes out when that is
    /// undone, or the attempt has failed.
    Held,
    /// Many links of the institution failed together; it goes out if the link is still broken when that is over.
    Waiting,
}

/// An attempt to repair a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateRecord {
    /// How far it has got.
    pub phase: PhaseWord,
    /// When the phase ends by itself.
    pub until: At,
    /// `with_user`: when the attempt began, from which its longest span counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<At>,
    /// `verifying`: how the user's part ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<AttemptWord>,
    /// `verifying`: how often Belvo has been asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_count: Option<u32>,
}

/// How far an attempt to repair a link has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PhaseWord {
    /// The user holds a widget token.
    WithUser,
    /// Belvo is being asked whether it worked.
    Verifying,
}

/// Evidence against a working link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SuspicionRecord {
    /// What it says has to be mended.
    pub cause: CauseWord,
    /// When the MFA session it names ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expires_at: Option<At>,
    /// Whether it answered an attempt to update the link.
    #[serde(default, skip_serializing_if = "is_false")]
    pub during_update: bool,
    /// Whether it is one refused login, of which Belvo's status may show nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refused_login: bool,
    /// When it came.
    pub at: At,
    /// When it is believed if nothing refuted it.
    pub until: At,
}

/// A historical refresh that is owed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshRecord {
    /// The last proven data before the outage.
    pub gap_from: Option<At>,
    /// The recovery.
    pub gap_to: At,
    /// Whether relink has asked Belvo for it.
    pub asked: bool,
    /// How many refreshes there have been, Belvo's own and those that relink asked for.
    #[serde(default)]
    pub rounds_count: u32,
    /// When relink asks, or gives up.
    pub until: At,
    /// The resources that have come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
}

/// A consent, and what a renewal link needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConsentRecord {
    /// Belvo's id of it.
    pub id: Option<String>,
    /// When it ends, if that is known.
    pub due_at: Option<At>,
    /// It has no end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub endless: bool,
    /// The institution's name for people.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
    /// The user has been told that it ends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub announced: bool,
    /// The end that was announced, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_for: Option<At>,
    /// The end that has passed, and was taken for the end until Belvo said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<At>,
}

/// How often relink asked Belvo for a refresh of the link in one calendar month (Brazil's time).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AsksRecord {
    /// The month, such as `2026-11`.
    pub month: String,
    /// How often.
    pub count: u32,
    /// Belvo refused one because the month's quota was used up: none before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_until: Option<At>,
}

/// A fact taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SeenRecord {
    /// Its key, 16 hexadecimal digits.
    pub key: String,
    /// When.
    pub at: At,
}

impl EpisodeRecord {
    pub(super) fn of(link: &LinkId, episode: &Episode) -> Self {
        let (prompt, waits_until, asked_at) = match episode.prompt {
            Prompt::Sent => (PromptWord::Sent, None, None),
            Prompt::Held => (PromptWord::Held, None, None),
            Prompt::Waiting { until, asked_at } => (PromptWord::Waiting, Some(At(until)), asked_at.map(At)),
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
            prompt_waits_until: waits_until,
            prompt_asked_at: asked_at,
            reminders_count: episode.reminders_count,
            next_reminder_at: episode.next_reminder_at.map(At),
            remind_by: episode.remind_by.map(At),
            tried_at: episode.tried_at.map(At),
            attempts_count: episode.attempts_count,
            arrived: episode.arrived.clone(),
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
            tried_at: self.tried_at.map(|at| at.0),
            attempts_count: self.attempts_count,
            arrived: self.arrived.clone(),
        })
    }

    fn parse_prompt(&self) -> Result<Prompt, BadRecord> {
        match (self.prompt, self.prompt_waits_until) {
            (Some(PromptWord::Waiting), Some(At(until))) => {
                Ok(Prompt::Waiting { until, asked_at: self.prompt_asked_at.map(|at| at.0) })
            }
            (Some(PromptWord::Waiting), None) => Err(BadRecord::Impossible("episode.prompt_waits_until")),
            // A record from before there was the word.
            (None, _) if !self.prompt_sent => Ok(Prompt::Held),
            (Some(PromptWord::Held), _) => Ok(Prompt::Held),
            (Some(PromptWord::Sent) | None, _) => Ok(Prompt::Sent),
        }
    }
}

impl UpdateRecord {
    pub(super) fn of(phase: Phase) -> Self {
        match phase {
            Phase::WithUser { started_at, until } => Self {
                phase: PhaseWord::WithUser,
                until: At(until),
                started_at: Some(At(started_at)),
                after: None,
                asked_count: None,
            },
            Phase::Verifying { after, asked_count, until } => Self {
                phase: PhaseWord::Verifying,
                until: At(until),
                started_at: None,
                after: Some(after.into()),
                asked_count: Some(asked_count),
            },
        }
    }

    /// `since` is when the link entered `updating`: a record from before there was `started_at` has no better word.
    pub(super) fn parse_phase(&self, since: At) -> Result<Phase, BadRecord> {
        let At(until) = self.until;
        let At(started_at) = self.started_at.unwrap_or(since);
        match (self.phase, self.after, self.asked_count) {
            (PhaseWord::WithUser, _, _) => Ok(Phase::WithUser { started_at, until }),
            (PhaseWord::Verifying, Some(after), Some(asked_count)) => {
                Ok(Phase::Verifying { after: after.into(), asked_count, until })
            }
            (PhaseWord::Verifying, _, _) => Err(BadRecord::Impossible("update.after")),
        }
    }
}

impl SuspicionRecord {
    pub(super) fn of(held: &Suspicion) -> Self {
        Self {
            cause: held.breakage.cause.into(),
            session_expires_at: held.breakage.session.map(|session| At(session.expires_at)),
            during_update: held.breakage.during_update,
            refused_login: held.breakage.refused_login,
            at: At(held.at),
            until: At(held.until),
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
            passed: self.passed.map(|at| at.0),
        }
    }
}

impl AsksRecord {
    /// None where there is nothing to remember.
    pub(super) fn of(asks: Asks) -> Option<Self> {
        let (year, month) = asks.month.year_and_month();
        (asks != Asks::default()).then(|| Self {
            month: format!("{year:04}-{month:02}"),
            count: asks.count,
            refused_until: asks.refused_until.map(At),
        })
    }

    pub(super) fn parse(&self) -> Result<Asks, BadRecord> {
        let month =
            self.month.rsplit_once('-').and_then(|(year, month)| Some((year.parse().ok()?, month.parse().ok()?)));
        let month =
            month.and_then(|(year, month)| Month::new(year, month)).ok_or(BadRecord::Impossible("asks.month"))?;
        Ok(Asks { month, count: self.count, refused_until: self.refused_until.map(|at| at.0) })
    }
}

impl SeenRecord {
    pub(super) fn of(seen: &Seen) -> Self {
        Self { key: format!("{:016x}", seen.key.0), at: At(seen.at) }
    }

    pub(super) fn parse(&self) -> Result<Seen, BadRecord> {
        let key = u64::from_str_radix(&self.key, 16).map_err(|_| BadRecord::Impossible("recent.key"))?;
        Ok(Seen { key: DedupKey(key), at: self.at.0 })
    }
}

//! The parts of a record: outage, attempt, suspicion, refresh, consent, facts; each with its way there and back.
//!
//! Nothing here decides anything; whether the parts fit together is for `Record::link` to say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::words::{At, AttemptWord, CauseWord, StateWord};
use super::{BadRecord, is_false};
use crate::link::{
    Asks, Breakage, Consent, ConsentEnd, DedupKey, Episode, EpisodeNumber, Fallback, LinkId, Month, Phase, Prompt,
    Refresh, Seen, Session, Suspicion,
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
    /// Whether its one prompt has been sent; if not, the link was muted.
    pub prompt_sent: bool,
    /// How many reminders have followed.
    pub reminders_count: u32,
    /// When the next is due.
    pub next_reminder_at: Option<At>,
    /// How often the user has tried to repair it.
    pub attempts_count: u32,
    /// The resources whose data has come since Belvo last said that the link is broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
}

/// An attempt to repair a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateRecord {
    /// How far it has got.
    pub phase: PhaseWord,
    /// The state it goes back to if the attempt fails.
    pub fallback: StateWord,
    /// When the phase ends by itself.
    pub until: At,
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
    /// When it ends.
    pub due_at: Option<At>,
    /// The institution's name for people.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
    /// How far its end has been dealt with.
    #[serde(default)]
    pub end: ConsentEndWord,
}

/// How far the end of a consent has been dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsentEndWord {
    /// Nothing has been said of it.
    #[default]
    Ahead,
    /// It has been announced.
    Announced,
    /// It has passed, or its date is no longer right.
    Passed,
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
        Self {
            id: format!("{link}-e{}", episode.number.0),
            number: episode.number.0,
            cause: episode.cause.into(),
            opened_at: At(episode.opened_at),
            prompt_sent: episode.prompt == Prompt::Sent,
            reminders_count: episode.reminders_count,
            next_reminder_at: episode.next_reminder_at.map(At),
            attempts_count: episode.attempts_count,
            arrived: episode.arrived.clone(),
        }
    }

    pub(super) fn parse(&self) -> Episode {
        Episode {
            number: EpisodeNumber(self.number),
            cause: self.cause.into(),
            opened_at: self.opened_at.0,
            prompt: if self.prompt_sent { Prompt::Sent } else { Prompt::Held },
            reminders_count: self.reminders_count,
            next_reminder_at: self.next_reminder_at.map(|at| at.0),
            attempts_count: self.attempts_count,
            arrived: self.arrived.clone(),
        }
    }
}

impl UpdateRecord {
    pub(super) fn of(fallback: Fallback, phase: Phase) -> Self {
        let fallback = match fallback {
            Fallback::Invalid => StateWord::Invalid,
            Fallback::TokenRequired => StateWord::TokenRequired,
        };
        match phase {
            Phase::WithUser { until } => {
                Self { phase: PhaseWord::WithUser, fallback, until: At(until), after: None, asked_count: None }
            }
            Phase::Verifying { after, asked_count, until } => Self {
                phase: PhaseWord::Verifying,
                fallback,
                until: At(until),
                after: Some(after.into()),
                asked_count: Some(asked_count),
            },
        }
    }

    pub(super) fn parse_fallback(&self) -> Result<Fallback, BadRecord> {
        match self.fallback {
            StateWord::Invalid => Ok(Fallback::Invalid),
            StateWord::TokenRequired => Ok(Fallback::TokenRequired),
            StateWord::Unconfirmed | StateWord::Valid | StateWord::Updating | StateWord::Removed => {
                Err(BadRecord::Impossible("update.fallback"))
            }
        }
    }

    pub(super) fn parse_phase(&self) -> Result<Phase, BadRecord> {
        let At(until) = self.until;
        match (self.phase, self.after, self.asked_count) {
            (PhaseWord::WithUser, _, _) => Ok(Phase::WithUser { until }),
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
            at: At(held.at),
            until: At(held.until),
        }
    }

    pub(super) fn parse(&self) -> Suspicion {
        let session = self.session_expires_at.map(|At(expires_at)| Session { expires_at });
        let breakage = Breakage { cause: self.cause.into(), session, during_update: self.during_update };
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
    pub(super) fn of(consent: &Consent, end: ConsentEnd) -> Self {
        Self {
            end: match end {
                ConsentEnd::Ahead => ConsentEndWord::Ahead,
                ConsentEnd::Announced => ConsentEndWord::Announced,
                ConsentEnd::Passed => ConsentEndWord::Passed,
            },
            id: consent.id.clone(),
            due_at: consent.due_at.map(At),
            institution_display_name: consent.institution_display_name.clone(),
            institution_icon_logo: consent.institution_icon_logo.clone(),
        }
    }

    pub(super) fn parse(&self) -> Consent {
        Consent {
            id: self.id.clone(),
            due_at: self.due_at.map(|at| at.0),
            institution_display_name: self.institution_display_name.clone(),
            institution_icon_logo: self.institution_icon_logo.clone(),
        }
    }

    pub(super) const fn parse_end(&self) -> ConsentEnd {
        match self.end {
            ConsentEndWord::Ahead => ConsentEnd::Ahead,
            ConsentEndWord::Announced => ConsentEnd::Announced,
            ConsentEndWord::Passed => ConsentEnd::Passed,
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

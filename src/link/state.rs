//! A link: its state, and the other fields that the machine needs for its decisions.

use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::{Creation, DedupKey, Episode, LinkId, Messaged, Month, Profile, Timestamp};

/// How many dedup keys a link keeps.
///
/// Belvo retries a webhook five times, and one refresh sends about twelve webhooks; 32 keys cover two refreshes.
pub const RECENT_KEYS_MAX: usize = 32;

/// Everything relink knows of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Belvo's id of the link.
    pub id: LinkId,
    /// How many steps have been accepted. Message ids contain it. Zero: no event about the link has been accepted yet.
    pub version: u64,
    /// The descriptive fields, such as the institution.
    pub profile: Profile,
    /// The state.
    pub state: State,
    /// When the link entered this state.
    pub since: Timestamp,
    /// When the last step was accepted. Later steps never have an earlier time, unless a clock had been ahead
    /// ([`super::correct_times`]).
    pub updated_at: Timestamp,
    /// Whether the creation of an unconfirmed link is known to be unfinished, and whether the application was notified.
    pub creation: Creation,
    /// How many episodes there have been, including an open one.
    pub episodes_count: u32,
    /// When data last arrived, as far as is proven by a data webhook without errors or by Belvo's `last_accessed_at`.
    pub data_at: Option<Timestamp>,
    /// When the last episode ended with a recovery. Begins the settle window.
    pub recovered_at: Option<Timestamp>,
    /// The historical refresh after the last recovery, until it is complete.
    pub refresh: Option<Refresh>,
    /// Whether the data of a recurrent link arrives on schedule.
    pub freshness: Freshness,
    /// Whether the institution answered a refresh that relink asked for with a request for an MFA token. Another
    /// refresh would break the link again, so relink asks for none.
    pub refresh_needs_token: bool,
    /// How many refreshes relink has asked for in the current month. Counted only for a link with a consent, which has
    /// a monthly quota.
    pub refresh_quota: RefreshQuota,
    /// Whether an operator has muted the link: its user is neither prompted nor reminded.
    pub muted: bool,
    /// Links that do not supersede this one, by an operator's command; oldest first, at most
    /// [`super::NOT_SUPERSEDED_BY_MAX`].
    pub not_superseded_by: Vec<LinkId>,
    /// Before this time the user is not reminded, by an operator's command.
    pub snoozed_until: Option<Timestamp>,
    /// The last message to the user about this link, in whichever episode.
    pub messaged: Option<Messaged>,
    /// When the open verify request was made; `None` if it has been answered.
    pub verify_asked_at: Option<Timestamp>,
    /// When a repair was last claimed although no outage was known; the message about the outage may arrive later.
    /// Begins the settle window, like [`Link::recovered_at`], and is removed when the window is over.
    pub claimed_at: Option<Timestamp>,
    /// Until when the user holds a widget token outside of an attempt: no outage is known, or an earlier attempt is
    /// still being verified. Removed when the token has expired.
    pub widget_until: Option<Timestamp>,
    /// The outage of the institution that was announced last (`institution_down`), until it is over.
    pub institution_outage: Option<super::InstitutionOutage>,
    /// The dedup keys of recently accepted messages, oldest first; at most [`RECENT_KEYS_MAX`].
    pub recent: Vec<RecentFact>,
}

/// The state of a link.
///
/// This state is not Belvo's status: Belvo has four statuses and no `updating`, and sends no webhook when a link works
/// again.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// No proof that the creation of the link was finished. Its user is never prompted, because the link has never
    /// worked.
    Unconfirmed,
    /// The link works, as far as is known.
    Valid {
        /// Evidence that the link is broken, while it is being verified.
        suspicion: Option<Suspicion>,
    },
    /// The link does not work until its user repairs it.
    Invalid {
        /// The outage.
        episode: Episode,
    },
    /// The link does not work until its user gives a new MFA token.
    TokenRequired {
        /// The outage.
        episode: Episode,
    },
    /// An attempt to repair the link. An attempt always ends, because `phase` has a deadline. After a failed attempt
    /// the state is [`State::broken`] of the episode.
    Updating {
        /// The outage.
        episode: Episode,
        /// The phase of the attempt.
        phase: UpdatePhase,
    },
    /// A tombstone. Every event is refused.
    Removed,
}

/// Evidence that a `Valid` link is broken, while it is being verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspicion {
    /// The evidence.
    pub breakage: super::Breakage,
    /// When the newest evidence arrived. An older observation does not refute the suspicion.
    pub at: Timestamp,
    /// When the suspicion is confirmed if nothing has refuted it.
    pub until: Timestamp,
}

/// The phase of an attempt to repair a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdatePhase {
    /// The user holds a widget token.
    WithUser {
        /// When the attempt began. Tokens that are minted later extend it at most to this time plus
        /// [`super::PolicySettings::update_wait_max`].
        started_at: Timestamp,
        /// When the token, or the MFA session within the attempt, expires.
        until: Timestamp,
    },
    /// Belvo is being asked whether the link works.
    Verifying {
        /// How the user's part of the attempt ended.
        after: AttemptEnd,
        /// How many verify requests have been made.
        asked_count: u32,
        /// When the next verify request is made, or the attempt fails.
        until: Timestamp,
    },
}

impl UpdatePhase {
    /// Whether a repair was claimed and is being verified.
    pub(super) const fn is_claimed(self) -> bool {
        matches!(self, Self::Verifying { after: AttemptEnd::Claimed, .. })
    }
}

/// How the user's part of an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptEnd {
    /// A success was reported ([`super::Event::UpdateClaimed`]).
    Claimed,
    /// The user closed the widget, or the widget reported an error.
    Abandoned,
    /// No message about the attempt arrived before the deadline.
    TimedOut,
}

/// The historical refresh after a recovery, while it is not complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Refresh {
    /// When data last arrived before the outage; `None` if none ever did.
    pub gap_from: Option<Timestamp>,
    /// When the link recovered.
    pub gap_to: Timestamp,
    /// Whether relink has asked Belvo for a refresh, and Belvo has not refused it.
    pub asked: bool,
    /// How many refreshes there have been, including Belvo's own.
    pub rounds_count: u32,
    /// When relink asks for the next refresh, or gives up.
    pub until: Timestamp,
    /// The resources whose data has arrived, sorted.
    pub arrived: Vec<String>,
}

/// Whether the data of a recurrent link arrives on schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Data arrives on schedule.
    Fresh,
    /// A refresh is overdue, and Belvo is being asked when it last had access.
    Probed {
        /// When the link is reported as stale if nothing has arrived.
        until: Timestamp,
    },
    /// The link has been reported as stale.
    Stale,
}

/// How much of the monthly refresh quota of a link relink has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RefreshQuota {
    /// The month that `count` belongs to.
    pub month: Month,
    /// How many refreshes relink has asked for in that month.
    pub count: u32,
    /// Belvo has refused a refresh because of the quota; relink asks for none before this time.
    pub refused_until: Option<Timestamp>,
}

/// The dedup key of an accepted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentFact {
    /// The key.
    pub key: DedupKey,
    /// When the message was accepted.
    pub at: Timestamp,
}

/// The name of a state in the transition table, in messages and in the HTTP API.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum StateName {
    /// [`State::Unconfirmed`]
    Unconfirmed,
    /// [`State::Valid`]
    Valid,
    /// [`State::Invalid`]
    Invalid,
    /// [`State::TokenRequired`]
    TokenRequired,
    /// [`State::Updating`]
    Updating,
    /// [`State::Removed`]
    Removed,
}

impl StateName {
    /// The name in messages, tables and drawings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl State {
    /// The name of the state.
    pub const fn name(&self) -> StateName {
        match self {
            Self::Unconfirmed => StateName::Unconfirmed,
            Self::Valid { .. } => StateName::Valid,
            Self::Invalid { .. } => StateName::Invalid,
            Self::TokenRequired { .. } => StateName::TokenRequired,
            Self::Updating { .. } => StateName::Updating,
            Self::Removed => StateName::Removed,
        }
    }

    /// The broken state that fits the cause of an episode.
    pub const fn broken(episode: Episode) -> Self {
        if episode.cause.requires_token() { Self::TokenRequired { episode } } else { Self::Invalid { episode } }
    }

    /// The open episode, if there is one.
    pub(super) const fn episode_mut(&mut self) -> Option<&mut Episode> {
        match self {
            Self::Invalid { episode } | Self::TokenRequired { episode } | Self::Updating { episode, .. } => {
                Some(episode)
            }
            Self::Unconfirmed | Self::Valid { .. } | Self::Removed => None,
        }
    }

    /// The open episode, if there is one.
    pub const fn episode(&self) -> Option<&Episode> {
        match self {
            Self::Invalid { episode } | Self::TokenRequired { episode } | Self::Updating { episode, .. } => {
                Some(episode)
            }
            Self::Unconfirmed | Self::Valid { .. } | Self::Removed => None,
        }
    }
}

impl Link {
    /// When the current settle window began: with the last recovery, or with a later claim. Evidence from before that
    /// is outdated.
    pub(super) fn settle_window_start(&self) -> Option<Timestamp> {
        self.recovered_at.max(self.claimed_at)
    }

    /// A link about which no event has been accepted yet.
    pub fn unknown(id: LinkId, now: Timestamp) -> Self {
        Self {
            id,
            version: 0,
            profile: Profile::default(),
            state: State::Unconfirmed,
            since: now,
            updated_at: now,
            creation: Creation::NotReported,
            episodes_count: 0,
            data_at: None,
            recovered_at: None,
            refresh: None,
            freshness: Freshness::Fresh,
            refresh_needs_token: false,
            refresh_quota: RefreshQuota::default(),
            muted: false,
            not_superseded_by: Vec::new(),
            snoozed_until: None,
            messaged: None,
            verify_asked_at: None,
            claimed_at: None,
            widget_until: None,
            institution_outage: None,
            recent: Vec::new(),
        }
    }
}

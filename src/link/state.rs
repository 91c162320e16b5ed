//! What is known of a link: its state, and what it remembers.

use super::{DedupKey, Episode, LinkId, Month, Profile, Timestamp};

/// How many dedup keys a link remembers.
///
/// Belvo retries a webhook five times and one refresh sends about a dozen, so 32 covers two refreshes in full.
pub const RECENT_KEYS_MAX: usize = 32;

/// Everything relink knows of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Belvo's id.
    pub id: LinkId,
    /// How many steps have been accepted; ids of messages are made of it. Zero: nothing has been heard of the link yet.
    pub version: u64,
    /// What is known beside the state.
    pub profile: Profile,
    /// Our word on the link.
    pub state: State,
    /// When it entered this state.
    pub since: Timestamp,
    /// When the last step was accepted. Time never runs backwards for a link.
    pub updated_at: Timestamp,
    /// How many episodes it has had, an open one included.
    pub episodes_count: u32,
    /// The last time data was proven to flow: a data webhook without errors, or Belvo's `last_accessed_at`.
    pub data_at: Option<Timestamp>,
    /// When it last returned to `Valid` from an episode. Starts the settle window.
    pub recovered_at: Option<Timestamp>,
    /// The historical refresh that is owed since the last recovery, until it has come.
    pub refresh: Option<Refresh>,
    /// How far the search for a recurrent link's missing refresh has got.
    pub quiet: Quiet,
    /// A refresh that we asked for was answered with a request for an MFA token: asking again would only break the link
    /// again.
    pub refresh_needs_token: bool,
    /// How often we asked for a refresh lately, if it has a consent: its refreshes have a quota.
    pub asks: Asks,
    /// An operator wants no prompts for it.
    pub muted: bool,
    /// An operator wants no reminders before this.
    pub snoozed_until: Option<Timestamp>,
    /// When a verify was last asked for and has not been answered.
    pub verify_asked_at: Option<Timestamp>,
    /// When somebody last said that the link was repaired although no outage was known: the report of the outage may
    /// arrive later. Starts the settle window, like [`Link::recovered_at`]; forgotten when the window is over.
    pub claimed_at: Option<Timestamp>,
    /// Until when the user holds a widget token that no open attempt accounts for: the link is not known to be broken, or
    /// an earlier attempt is still being verified. Forgotten when the token has expired.
    pub widget_until: Option<Timestamp>,
    /// The facts it has taken in lately, oldest first; at most [`RECENT_KEYS_MAX`].
    pub recent: Vec<Seen>,
}

/// Our word on a link.
///
/// Belvo has four statuses and no `updating`; it never says that a link works again.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its creation was never seen to finish. Never prompts: there is nothing yet that a user could miss.
    Unconfirmed,
    /// It works, as far as is known.
    Valid {
        /// Evidence to the contrary that arrived too soon after a recovery to be believed unasked.
        suspicion: Option<Suspicion>,
    },
    /// It does not work until its user acts.
    Invalid {
        /// The outage.
        episode: Episode,
    },
    /// It does not work until its user gives a new MFA token.
    TokenRequired {
        /// The outage.
        episode: Episode,
    },
    /// Its user is repairing it, or says it is repaired. Always ends: `phase` carries a deadline. If the attempt
    /// fails, it goes back to the state that fits the episode's cause ([`State::broken`]).
    Updating {
        /// The outage.
        episode: Episode,
        /// How far the attempt has got.
        phase: Phase,
    },
    /// A tombstone. Late messages are refused and never revive it.
    Removed,
}

/// Evidence against a `Valid` link, held until it is confirmed, refuted, or has stood unanswered long enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspicion {
    /// What the evidence says.
    pub breakage: super::Breakage,
    /// When the newest of it came: an older read refutes nothing.
    pub at: Timestamp,
    /// When it is believed if nothing refuted it.
    pub until: Timestamp,
}

/// How far an attempt to repair has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The user holds a widget token.
    WithUser {
        /// When the attempt began. Tokens minted later, such as by a page that mints one each time it is drawn, extend the
        /// attempt to [`super::Settings::update_wait_max`] from here and no further.
        started_at: Timestamp,
        /// When the token, or the MFA session inside the attempt, dies.
        until: Timestamp,
    },
    /// Belvo is being asked whether it worked.
    Verifying {
        /// Why we ask.
        after: Attempt,
        /// How many times we have asked.
        asked_count: u32,
        /// When to ask again or give up.
        until: Timestamp,
    },
}

impl Phase {
    /// Whether somebody says that the repair succeeded.
    pub(super) const fn is_claimed(self) -> bool {
        matches!(self, Self::Verifying { after: Attempt::Claimed, .. })
    }
}

/// How an attempt to repair ended, as far as the user's side tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// It is said to have succeeded.
    Claimed,
    /// The user closed the widget, or it reported an error.
    Abandoned,
    /// Nothing was heard before the deadline.
    TimedOut,
}

/// The history that was missed during an outage, until it has been fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Refresh {
    /// The last proven data before the outage; `None` if none was ever seen.
    pub gap_from: Option<Timestamp>,
    /// The recovery that ended the outage.
    pub gap_to: Timestamp,
    /// Whether we have asked Belvo for it ourselves.
    pub asked: bool,
    /// How many refreshes it has had, Belvo's own and those we asked for.
    pub rounds_count: u32,
    /// When to ask, or to give up.
    pub until: Timestamp,
    /// The resources that have come since, sorted.
    pub arrived: Vec<String>,
}

/// How far the search for a recurrent link's missing refresh has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// Data comes as expected.
    Listening,
    /// It is late; Belvo is being asked when it last had access.
    Probed {
        /// When the link is reported silent if nothing came.
        until: Timestamp,
    },
    /// It has been reported.
    Reported,
}

/// How often we asked Belvo for a refresh of a link, against its monthly quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Asks {
    /// The month that `count` is about.
    pub month: Month,
    /// How often.
    pub count: u32,
    /// Belvo refused one for its quota: none before this.
    pub refused_until: Option<Timestamp>,
}

/// A fact taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub key: DedupKey,
    /// When.
    pub at: Timestamp,
}

/// The name of a state, as the table, the messages and the API spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Every state there is.
    pub const ALL: [Self; 6] =
        [Self::Unconfirmed, Self::Valid, Self::Invalid, Self::TokenRequired, Self::Updating, Self::Removed];

    /// The spelling in messages, tables and drawings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::TokenRequired => "token_required",
            Self::Updating => "updating",
            Self::Removed => "removed",
        }
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl State {
    /// Its name.
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
        if episode.cause.wants_token() { Self::TokenRequired { episode } } else { Self::Invalid { episode } }
    }

    /// The open episode, to be changed.
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
    /// The last recovery, or the last word of the user's that the link works: evidence from before it is old, and the settle
    /// window begins with it.
    pub(super) fn settled_since(&self) -> Option<Timestamp> {
        self.recovered_at.max(self.claimed_at)
    }

    /// A link nothing has been heard of: its first evidence is a step like any other.
    pub fn unheard_of(id: LinkId, now: Timestamp) -> Self {
        Self {
            id,
            version: 0,
            profile: Profile::default(),
            state: State::Unconfirmed,
            since: now,
            updated_at: now,
            episodes_count: 0,
            data_at: None,
            recovered_at: None,
            refresh: None,
            quiet: Quiet::Listening,
            refresh_needs_token: false,
            asks: Asks::default(),
            muted: false,
            snoozed_until: None,
            verify_asked_at: None,
            claimed_at: None,
            widget_until: None,
            recent: Vec::new(),
        }
    }
}

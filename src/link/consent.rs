//! The open-finance consent behind a link (Brazil).
//!
//! A link with a consent has no stored credentials. It breaks when the consent ends, and is repaired when its user
//! renews the consent in Belvo's portal; Belvo sends no webhook about a renewal. `renewal` has the machine's reactions.

use std::time::Duration;

use super::event::take;
use super::{Link, Policy, Timestamp};

/// A consent, with the parameters of a renewal link. Belvo sends all of them in its CONSENT webhooks (guide: My Belvo
/// Portal).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Consent {
    /// Belvo's id of the consent.
    pub id: Option<String>,
    /// When it ends.
    pub due: Due,
    /// The display name of the institution.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
    /// The due date for which the notice `consent_expiring` was emitted last. Always `None` in the profile of a message.
    pub announced: Option<Due>,
    /// The rung of that notice: how long before the due date the policy asks for it. `None` if the date is not known, and in the profile of
    /// a message.
    pub rung: Option<Duration>,
    /// The user may get no message now: the notice is emitted at this time. Always `None` in the profile of a message.
    pub postponed_until: Option<Timestamp>,
    /// The due date that has passed and has opened a suspicion. Always `None` in the profile of a message.
    pub passed: Option<Timestamp>,
}

/// When a consent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Due {
    /// No date is known, or the known date is no longer valid.
    #[default]
    Unknown,
    /// The message has a value that cannot be a date. Occurs only in the profile of a message, and changes nothing that
    /// is known.
    Unreadable,
    /// At this time.
    At(Timestamp),
    /// Never, unless its user revokes it (Belvo: `undefined_consent_expiration`).
    Never,
}

impl Due {
    /// The due date, if one is known.
    pub const fn at(self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Unknown | Self::Unreadable | Self::Never => None,
        }
    }

    /// Whether the due date has passed at `now`.
    pub(super) fn is_over(self, now: Timestamp) -> bool {
        self.at().is_some_and(|at| at <= now)
    }
}

impl Consent {
    /// Copies every known field of `newer`. If `newer` has another consent id, all other fields of the old consent are
    /// dropped.
    pub(super) fn merge_profile(&mut self, newer: &Self) {
        if self.id.is_some() && newer.id.is_some() && self.id != newer.id {
            *self = Self::default();
        }
        take(&mut self.id, &newer.id);
        take(&mut self.institution_display_name, &newer.institution_display_name);
        take(&mut self.institution_icon_logo, &newer.institution_icon_logo);
        match newer.due {
            Due::Unknown | Due::Unreadable => {}
            Due::At(_) | Due::Never => self.due = newer.due,
        }
    }
}

/// The result of reading the consent from Belvo (`GET /api/consents/`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsentObservation {
    /// When it was read, by the clock of the reader.
    pub observed_at: Timestamp,
    /// Belvo's status of the consent.
    pub status: ConsentStatus,
}

/// Belvo's status of a consent, reduced to whether the link can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsentStatus {
    /// `AUTHORISED`
    Authorised,
    /// `EXPIRED`, or `REJECTED` (revoked by the user; Belvo sends no webhook for it).
    Ended,
}

impl Link {
    pub(super) fn consent_due(&self) -> Due {
        self.profile.consent.as_ref().map(|consent| consent.due).unwrap_or_default()
    }

    /// When a working link next has to act on the due date of its consent: to announce it, or because it has passed.
    pub(super) fn consent_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let consent = self.profile.consent.as_ref()?;
        let Due::At(due_at) = consent.due else {
            let is_announced = self.muted || consent.due == Due::Never || consent.announced == Some(consent.due);
            return consent.postponed_until.filter(|_| !is_announced);
        };
        if consent.passed == Some(due_at) {
            return None;
        }
        let announced_at = self.next_rung(policy).filter(|_| !self.muted).map(|rung| due_at.before(rung));
        Some(announced_at.map_or(due_at, |at| due_at.min(consent.postponed_until.map_or(at, |until| at.max(until)))))
    }

    /// The next rung of the ladder that has to be announced for the due date of the consent.
    pub(super) fn next_rung(&self, policy: &Policy) -> Option<Duration> {
        let announced = self.announced_rung(self.consent_due());
        policy
            .settings()
            .consent_notices
            .iter()
            .copied()
            .find(|&rung| announced.is_none_or(|announced| rung < announced))
    }

    /// The last announced rung of this due date.
    pub(super) fn announced_rung(&self, due: Due) -> Option<Duration> {
        let consent = self.profile.consent.as_ref()?;
        consent.rung.filter(|_| consent.announced == Some(due))
    }
}

//! The open-finance consent behind a link (Brazil), as far as it is known.
//!
//! Such a link has no credentials; what breaks it is the end of its consent, and what repairs it is a renewal in Belvo's
//! portal, of which no app is told. What the machine does about it is in `renewal`.

use super::event::take;
use super::{Link, Policy, Timestamp};

/// A consent, and what a renewal link needs: every parameter of it comes from Belvo's webhooks (guide: My Belvo Portal).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Consent {
    /// Belvo's id of the consent.
    pub id: Option<String>,
    /// When it ends.
    pub due: Due,
    /// The institution's name for people.
    pub institution_display_name: Option<String>,
    /// Address of the institution's logo.
    pub institution_icon_logo: Option<String>,
    /// The end that its user has been told of. In a message: none.
    pub announced: Option<Due>,
    /// The end that has passed, and was taken for the end until Belvo said otherwise. In a message: none.
    pub passed: Option<Timestamp>,
}

/// When a consent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Due {
    /// Nobody has said so, or the date that was known is no longer right.
    #[default]
    Unknown,
    /// The message names something that cannot be a date. Only in a message: nothing is learnt from it.
    Unreadable,
    /// Then.
    At(Timestamp),
    /// Never, unless its user ends it (`undefined_consent_expiration`).
    Never,
}

impl Due {
    /// The point in time, if there is one.
    pub const fn at(self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Unknown | Self::Unreadable | Self::Never => None,
        }
    }

    /// Whether that point has passed at `now`.
    pub(super) fn is_over(self, now: Timestamp) -> bool {
        self.at().is_some_and(|at| at <= now)
    }
}

impl Consent {
    /// Takes over everything `newer` says; what it leaves open stays, unless it is about another consent.
    pub(super) fn learn(&mut self, newer: &Self) {
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

/// What a read of the consent (`GET /api/consents/`) said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsentObservation {
    /// When it was read, by the reader's clock.
    pub observed_at: Timestamp,
    /// Belvo's word.
    pub status: ConsentStatus,
}

/// Belvo's word on a consent, as far as it says whether the link can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsentStatus {
    /// `AUTHORISED`
    Authorised,
    /// `EXPIRED`, or `REJECTED`: revoked, for which there is no webhook.
    Ended,
}

impl Link {
    pub(super) fn consent_due(&self) -> Due {
        self.profile.consent.as_ref().map(|consent| consent.due).unwrap_or_default()
    }

    /// When the end of a working link's consent is next of interest.
    pub(super) fn consent_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let consent = self.profile.consent.as_ref()?;
        let due_at = consent.due.at().filter(|&at| consent.passed != Some(at))?;
        let is_told = self.muted || consent.announced == Some(consent.due);
        Some(if is_told { due_at } else { due_at.before(policy.settings().consent_notice) })
    }
}

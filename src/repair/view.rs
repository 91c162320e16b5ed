//! What the page shows, decided from the link and the claims of the signed link.

use strum::IntoStaticStr;

use super::link::Claims;
use crate::link::{AttemptEnd, Cause, Link, State, StateName, Timestamp, UpdatePhase};

/// What the page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum View {
    /// The user has to do something.
    NeedsYou(Need),
    /// Somebody holds a widget token for the link: the user, perhaps on another device.
    InProgress,
    /// Belvo is being asked whether the link works.
    Checking,
    /// The episode is over and the link works.
    Healed,
    /// The link has a later episode, for which a later notice was sent.
    Replaced,
    /// The link is removed.
    Removed,
    /// The signed link has expired.
    Expired,
    /// relink did not sign the address, or does not know the link.
    Unknown,
}

/// What the user has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Give the current credentials.
    Credentials,
    /// Give a new token of the institution.
    Token,
    /// Unlock the account at the institution first.
    Institution,
    /// Renew the consent; name and document number are needed.
    Consent,
    /// Nothing: the institution requires something that Belvo does not support.
    Nothing,
}

impl View {
    /// The view of the link for a signed link with these claims.
    pub fn of(claims: &Claims, link: Option<&Link>, now: Timestamp) -> Self {
        let Some(link) = link else { return Self::Unknown };
        let Some(episode) = link.state.episode() else {
            return match link.state.name() {
                StateName::Removed => Self::Removed,
                StateName::Valid => Self::Healed,
                // A link that has had an episode is never unconfirmed again.
                _ => Self::Unknown,
            };
        };
        if episode.number != claims.episode {
            return Self::Replaced;
        }
        match &link.state {
            State::Updating { phase: UpdatePhase::WithUser { .. }, .. } => Self::InProgress,
            State::Updating { phase: UpdatePhase::Verifying { after: AttemptEnd::Claimed, .. }, .. } => Self::Checking,
            // Nothing was claimed, so nothing stops the user from trying again at once.
            State::Updating { .. } | State::Invalid { .. } | State::TokenRequired { .. } if now < claims.expires_at => {
                Self::NeedsYou(Need::of(link, episode.cause))
            }
            _broken => Self::Expired,
        }
    }

    /// The name in the page and in its JSON.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the button of the page may mint a token.
    pub const fn may_start(self) -> bool {
        match self {
            Self::NeedsYou(need) => !matches!(need, Need::Nothing),
            Self::InProgress => true,
            Self::Checking | Self::Healed | Self::Replaced | Self::Removed | Self::Expired | Self::Unknown => false,
        }
    }

    /// Whether the view changes by itself soon.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::InProgress | Self::Checking)
    }
}

impl Need {
    const fn of(link: &Link, cause: Cause) -> Self {
        match cause {
            // A link with a consent has no credentials. The user can only renew the consent.
            _ if link.profile.consent.is_some() => Self::Consent,
            Cause::Credentials => Self::Credentials,
            Cause::Token => Self::Token,
            Cause::AccountBlocked => Self::Institution,
            Cause::ConsentEnded => Self::Consent,
            Cause::Unsupported => Self::Nothing,
        }
    }
}

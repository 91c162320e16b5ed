//! What the page shows, decided from the link and the claims of the signed link.

use std::time::Duration;

use strum::IntoStaticStr;

use super::link::Claims;
use crate::link::{AttemptEnd, Cause, Link, Prompt, State, StateName, Timestamp, UpdatePhase};

/// If the oldest message of the journal has waited for this time, NATS is probably away. A busy relink takes much less.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// What the page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum View {
    /// The user has to do something.
    NeedsYou(Need),
    /// Somebody holds a widget token for the link: the user, perhaps on another device.
    InProgress,
    /// The user has connected the bank anew.
    Superseded(Successor),
    /// Belvo is being asked whether the link works.
    Checking,
    /// The same, and the first answer did not show that the link works. Perhaps the user left the widget without an end.
    StillChecking,
    /// The episode is over and the link works.
    Repaired,
    /// The link has a later episode, for which a later notice was sent.
    Replaced,
    /// The link is removed.
    Removed,
    /// The signed link has expired.
    Expired,
    /// relink did not sign the address, or does not know the link.
    Unknown,
}

/// The state of the newer link of the same user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// It works, so nothing has to be done.
    Works,
    /// It is broken itself, and its user gets messages about it.
    NeedsYou,
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
    /// The view of the link for a signed link with these claims. `successor` is the link that supersedes it, if relink knows one.
    pub fn of(claims: &Claims, link: Option<&Link>, successor: Option<&Link>, now: Timestamp) -> Self {
        let Some(link) = link else { return Self::Unknown };
        let Some(episode) = link.state.episode() else {
            return match link.state.name() {
                StateName::Removed => Self::Removed,
                StateName::Valid => Self::Repaired,
                // A link that has had an episode is never unconfirmed again.
                _ => Self::Unknown,
            };
        };
        if episode.number != claims.episode {
            return Self::Replaced;
        }
        match &link.state {
            State::Updating {
                phase: UpdatePhase::Verifying { after: AttemptEnd::Claimed, asked_count, .. }, ..
            } => {
                // A new token never disturbs the check (`restart_update` in `link::repair`).
                if *asked_count > 1 && now < claims.expires_at { Self::StillChecking } else { Self::Checking }
            }
            // Without a button: it would create tokens, and so prolong the attempt, for ever. No newer message about a superseded link comes.
            _broken if now >= claims.expires_at && episode.superseded_by.is_some() => Self::Replaced,
            _broken if now >= claims.expires_at => Self::Expired,
            State::Updating { phase: UpdatePhase::WithUser { .. }, .. } => Self::InProgress,
            _broken if episode.superseded_by.is_some() && !successor.is_some_and(is_removed) => {
                // The user of a broken successor who was not prompted has to do nothing now.
                Successor::of(successor).map_or(Self::Replaced, Self::Superseded)
            }
            // Nothing was claimed, so nothing stops the user from trying again at once.
            _broken => Self::NeedsYou(Need::of(link, episode.cause)),
        }
    }

    /// The view for a user who comes back from an attempt, if the oldest message of the journal has waited for this time. While NATS is away,
    /// what the user has done is in the journal, and the state of the link does not show it yet: so the page does not ask again.
    pub fn after_return(self, journal_waits: Duration) -> Self {
        match self {
            Self::NeedsYou(_) if journal_waits > AWAY_AFTER => Self::Checking,
            view => view,
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
            // Perhaps the two connections are of different logins, and the user needs both.
            Self::InProgress | Self::Superseded(_) | Self::StillChecking => true,
            Self::Checking | Self::Repaired | Self::Replaced | Self::Removed | Self::Expired | Self::Unknown => false,
        }
    }

    /// Whether the view changes by itself soon.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::InProgress | Self::Checking | Self::StillChecking)
    }
}

impl Successor {
    /// What the successor shows. relink superseded the link because it worked. `None`: it is broken, and its user was not prompted.
    fn of(link: Option<&Link>) -> Option<Self> {
        match link.and_then(|link| Some((link, link.state.episode()?))) {
            None => Some(Self::Works),
            Some((link, episode)) => (episode.prompt == Prompt::Sent && !link.muted).then_some(Self::NeedsYou),
        }
    }
}

fn is_removed(link: &Link) -> bool {
    link.state.name() == StateName::Removed
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Consent, Episode, EpisodeNumber};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_790_000_600_000);

    fn episode(number: u32, cause: Cause) -> Episode {
        Episode::new(EpisodeNumber(number), cause, NOW, Prompt::Sent)
    }

    fn view(state: State, now: Timestamp) -> View {
        let link = Link { state, ..Link::unknown("link".parse().unwrap(), NOW) };
        let claims = Claims { link: link.id.clone(), episode: EpisodeNumber(2), expires_at: LATER, attempt: 0 };
        View::of(&claims, Some(&link), None, now)
    }

    fn verifying(after: AttemptEnd) -> State {
        asked(after, 1)
    }

    fn asked(after: AttemptEnd, asked_count: u32) -> State {
        let phase = UpdatePhase::Verifying { after, asked_count, until: LATER };
        State::Updating { episode: episode(2, Cause::Credentials), phase }
    }

    #[test]
    fn while_nats_is_away_nobody_is_asked_again() {
        let [short, long] = [1, 60].map(Duration::from_secs);
        let asks = View::NeedsYou(Need::Token);
        assert_eq!((asks.after_return(short), asks.after_return(long)), (asks, View::Checking));
        assert_eq!(View::Repaired.after_return(long), View::Repaired);
    }

    #[test]
    fn a_check_that_takes_long_has_a_button() {
        assert_eq!(view(asked(AttemptEnd::Claimed, 2), NOW), View::StillChecking);
        assert!(View::StillChecking.may_start());
        assert_eq!(view(asked(AttemptEnd::Claimed, 2), LATER), View::Checking, "the address has expired");
    }

    #[test]
    fn a_claim_is_never_disturbed_and_an_abandoned_attempt_can_be_repeated() {
        assert_eq!(view(verifying(AttemptEnd::Claimed), NOW), View::Checking);
        assert!(!View::Checking.may_start(), "the answer comes in seconds");
        for after in [AttemptEnd::Abandoned, AttemptEnd::TimedOut] {
            assert_eq!(view(verifying(after), NOW), View::NeedsYou(Need::Credentials));
        }
    }

    #[test]
    fn the_expiry_ends_the_button_and_not_the_check_of_a_claim() {
        let phase = UpdatePhase::WithUser { started_at: NOW, until: LATER };
        let with_user = State::Updating { episode: episode(2, Cause::Token), phase };
        assert_eq!(view(with_user.clone(), NOW), View::InProgress);
        assert_eq!(view(with_user, LATER), View::Expired);
        assert_eq!(view(verifying(AttemptEnd::Claimed), LATER), View::Checking);
        assert_eq!(view(State::broken(episode(2, Cause::Token)), LATER), View::Expired);
        assert_eq!(view(State::Valid { suspicion: None }, LATER), View::Repaired);
    }

    #[test]
    fn a_superseded_link_can_still_be_repaired_until_its_address_expires() {
        let superseded = Episode { superseded_by: Some("new".parse().unwrap()), ..episode(2, Cause::Credentials) };
        assert_eq!(view(State::broken(superseded.clone()), NOW), View::Superseded(Successor::Works));
        assert!(View::Superseded(Successor::Works).may_start());
        assert_eq!(view(State::broken(superseded.clone()), LATER), View::Replaced, "no newer message comes");
        let phase = UpdatePhase::WithUser { started_at: NOW, until: LATER };
        assert_eq!(view(State::Updating { episode: superseded, phase }, NOW), View::InProgress);
    }

    #[test]
    fn a_superseded_link_is_asked_for_again_when_the_newer_one_is_removed() {
        let superseded_by = Some("new".parse().unwrap());
        let superseded = Episode { superseded_by, ..episode(2, Cause::Credentials) };
        let link = Link { state: State::broken(superseded), ..Link::unknown("link".parse().unwrap(), NOW) };
        let claims = Claims { link: link.id.clone(), episode: EpisodeNumber(2), expires_at: LATER, attempt: 0 };
        let newer = |state| Link { state, ..Link::unknown("new".parse().unwrap(), NOW) };
        let broken = |prompt| State::broken(Episode { prompt, ..episode(1, Cause::Token) });
        for (successor, expected) in [
            (Some(newer(State::Valid { suspicion: None })), View::Superseded(Successor::Works)),
            (Some(newer(broken(Prompt::Sent))), View::Superseded(Successor::NeedsYou)),
            (Some(newer(broken(Prompt::Muted))), View::Replaced),
            (Some(newer(State::Removed)), View::NeedsYou(Need::Credentials)),
            (None, View::Superseded(Successor::Works)),
        ] {
            assert_eq!(View::of(&claims, Some(&link), successor.as_ref(), NOW), expected);
        }
    }

    #[test]
    fn each_cause_has_its_need_and_a_consent_decides_before_it() {
        for (cause, need) in [
            (Cause::Credentials, Need::Credentials),
            (Cause::Token, Need::Token),
            (Cause::AccountBlocked, Need::Institution),
            (Cause::ConsentEnded, Need::Consent),
            (Cause::Unsupported, Need::Nothing),
        ] {
            assert_eq!(view(State::broken(episode(2, cause)), NOW), View::NeedsYou(need));
        }
        assert!(!View::NeedsYou(Need::Nothing).may_start());
        let mut link = Link::unknown("link".parse().unwrap(), NOW);
        link.profile.consent = Some(Box::new(Consent::default()));
        assert_eq!(Need::of(&link, Cause::Credentials), Need::Consent);
    }
}

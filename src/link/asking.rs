//! Whose help a link needs, whether its user has been asked, and when the user may get a message.

use super::builder::TransitionBuilder;
use super::{Cause, Episode, Link, Policy, Prompt, State, Timestamp};

impl Link {
    /// The open episode, if the link waits for its user: nobody is repairing it, its user can, no operator has muted it, and no newer link
    /// of the user supersedes it.
    pub fn awaits_user(&self) -> Option<&Episode> {
        let (State::Invalid { episode } | State::TokenRequired { episode }) = &self.state else { return None };
        let can_act = match episode.cause {
            Cause::Credentials | Cause::Token | Cause::AccountBlocked | Cause::ConsentEnded => true,
            Cause::Unsupported => false,
        };
        Some(episode).filter(|_| can_act && !self.muted && episode.superseded_by.is_none())
    }

    /// Whether one would have to ask the user of the link right now. A prompt that waits for something will be a notice of its own.
    pub fn is_asked_for(&self) -> bool {
        self.awaits_user().is_some_and(|episode| episode.prompt == Prompt::Sent)
    }

    /// The first time at or after `at` that is outside of the quiet hours of the user.
    pub(super) fn after_quiet_hours(&self, at: Timestamp, policy: &Policy) -> Timestamp {
        policy.settings().quiet_hours.as_ref().map_or(at, |quiet_hours| quiet_hours.end(at, &self.profile))
    }
}

impl TransitionBuilder<'_> {
    /// Whether a prompt that nothing but the user's peace can keep back is sent or postponed.
    pub(super) fn send_or_postpone(&self) -> Prompt {
        let until = self.message_allowed_at();
        if self.now < until { Prompt::Postponed { until } } else { Prompt::Sent }
    }

    /// The first time from now on at which the user may get a message.
    pub(super) fn message_allowed_at(&self) -> Timestamp {
        self.link.after_quiet_hours(self.now, self.policy)
    }
}

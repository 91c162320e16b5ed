//! Whose help a link needs, and whether its user has been asked.

use super::{Cause, Episode, Link, Prompt, State};

impl Link {
    /// The open episode, if the link waits for its user: nobody is repairing it, its user can, and no operator has muted it.
    pub fn awaits_user(&self) -> Option<&Episode> {
        let (State::Invalid { episode } | State::TokenRequired { episode }) = &self.state else { return None };
        let can_act = match episode.cause {
            Cause::Credentials | Cause::Token | Cause::AccountBlocked | Cause::ConsentEnded => true,
            Cause::Unsupported => false,
        };
        Some(episode).filter(|_| can_act && !self.muted)
    }

    /// Whether one would have to ask the user of the link right now. A prompt that waits for something will be a notice of its own.
    pub fn is_asked_for(&self) -> bool {
        self.awaits_user().is_some_and(|episode| episode.prompt == Prompt::Sent)
    }
}

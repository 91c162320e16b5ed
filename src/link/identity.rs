//! The first prompt about a link that relink has never read: Belvo is asked first, so that the prompt names the institution and the user.
//!
//! ```text
//!   webhook: broken ──▶ prompt unidentified, Belvo is asked ──▶ still broken: prompt
//!                                                          ├──▶ works: recovered, no prompt
//!                                                          └──▶ no answer within verify_wait: prompt, without the names
//! ```
//!
//! Webhooks and errors name only the link. Most links have been read by a sweep before they break, so this wait is rare. Without API keys
//! there is none.

use super::builder::{Next, TransitionBuilder};
use super::{Episode, Held, Profile, Prompt, Refusal, State, Timestamp};

impl Profile {
    /// Whether a prompt can name the institution and the user. Belvo gives every link an institution and a creation time, so a link with
    /// both has been read, and if it has no `external_id`, another read finds none either.
    pub(super) const fn is_identified(&self) -> bool {
        self.institution.is_some() && (self.external_id.is_some() || self.created_at.is_some())
    }
}

impl TransitionBuilder<'_> {
    /// The prompt of an outage that nobody was prompted for: it waits for a read of the link if there never was one.
    pub(super) fn identify_or_prompt(&mut self, episode: &mut Episode) {
        if self.link.muted || self.is_deferred(episode) {
            return self.prompt(episode);
        }
        self.identify_or(episode, Self::prompt);
    }

    /// Asks Belvo whose link it is, if the link was never read; else goes on with the prompt.
    pub(super) fn identify_or(&mut self, episode: &mut Episode, go_on: impl FnOnce(&mut Self, &mut Episode)) {
        if self.is_read || !self.policy.can_verify() || self.link.profile.is_identified() {
            return go_on(self, episode);
        }
        self.request_verification();
        self.held = Some(Held::Unidentified);
        episode.prompt = Prompt::Unidentified { until: self.now.after(self.policy.settings().verify_wait) };
    }

    /// Belvo has answered: the prompt waits no longer for the read.
    pub(super) fn end_identification_by_answer(&mut self, episode: &mut Episode) {
        if matches!(episode.prompt, Prompt::Unidentified { .. }) {
            self.prompt(episode);
        }
    }

    /// The wait of a prompt is over: the prompt is sent, unless something keeps it back again.
    pub(super) fn end_wait(&mut self, mut episode: Episode, until: Timestamp) -> Next {
        if self.now < until {
            return Err(Refusal::NotDue);
        }
        self.prompt(&mut episode);
        Ok(State::broken(episode))
    }
}

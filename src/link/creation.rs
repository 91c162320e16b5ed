//! Creations that are not finished: Belvo has the link, but its creator never gave the MFA token.
//!
//! ```text
//!   reported ──▶ unfinished_after passed: Belvo is asked ──▶ `unconfirmed`, or no answer: notice, once
//!                                                       └──▶ any other status: the creation was finished meanwhile
//! ```
//!
//! The notice is for the application. Its user is not asked, because the link has never worked. While the user is in the widget neither the
//! question nor the notice comes, at most for a reminder pause.

use std::time::Duration;

use super::builder::{Next, TransitionBuilder};
use super::{Link, LinkObservation, Notice, Policy, Refusal, State, Timestamp};

/// A link that a read from Belvo finds unconfirmed and that is older than this was given up long ago: there is no notice about it.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// What is known about the creation of a link in the state [`State::Unconfirmed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Creation {
    /// Nothing shows that it is not finished. Always so in the other states.
    #[default]
    NotReported,
    /// It was reported as not finished.
    Unfinished {
        /// When that was first reported.
        since: Timestamp,
    },
    /// It is not finished for long, and Belvo is being asked whether it is finished now.
    Probed {
        /// When the notice is emitted if Belvo has not answered.
        until: Timestamp,
    },
    /// The notice was emitted.
    Announced,
}

impl TransitionBuilder<'_> {
    /// Belvo answered a call with the error that the creation of the link is not finished.
    pub(super) fn report_unfinished_creation(&mut self) -> Next {
        let is_first = self.link.version == 0;
        if self.note_unfinished_creation() || is_first { Ok(State::Unconfirmed) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Belvo's status of the link is `unconfirmed`.
    pub(super) fn observe_unfinished_creation(&mut self, seen: &LinkObservation) -> Next {
        let is_first = self.link.version == 0;
        let answers = self.accept_answer(seen.observed_at);
        if answers && matches!(self.link.creation, Creation::Probed { .. }) {
            self.announce_unfinished_creation_or_wait();
            return Ok(State::Unconfirmed);
        }
        // When relink is installed, Belvo may have links that were given up years ago.
        let is_recent = self.link.profile.created_at.is_none_or(|at| self.now.since(at) <= RECENT);
        let is_noted = is_recent && self.note_unfinished_creation();
        if is_noted || answers || is_first { Ok(State::Unconfirmed) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Remembers the first report. Returns whether this is the first one.
    fn note_unfinished_creation(&mut self) -> bool {
        let is_first = self.link.creation == Creation::NotReported;
        if is_first {
            self.link.creation = Creation::Unfinished { since: self.now };
        }
        is_first
    }

    /// The creation is not finished for long. Belvo is asked first, because a user may have finished it without a message to relink.
    pub(super) fn pass_creation_deadline(&mut self) -> Next {
        if self.link.creation_deadline(self.policy).is_none_or(|at| self.now < at) {
            return Err(Refusal::NotDue);
        }
        if self.policy.can_verify() && matches!(self.link.creation, Creation::Unfinished { .. }) {
            // An open verify request is older than this question.
            self.link.verify_asked_at = Some(self.now);
            self.push_verify_job();
            self.link.creation = Creation::Probed { until: self.now.after(self.policy.answer_wait()) };
        } else {
            self.announce_unfinished_creation_or_wait();
        }
        Ok(State::Unconfirmed)
    }

    /// A user who is in the widget may be finishing the creation, so the question starts again when the token has expired.
    fn announce_unfinished_creation_or_wait(&mut self) {
        let waits = Creation::Unfinished { since: self.link.since };
        if self.link.creation_deadline_of(waits, self.policy).is_some_and(|at| self.now < at) {
            self.link.creation = waits;
            return;
        }
        self.link.creation = Creation::Announced;
        // A user who has connected the bank anew lets the unfinished link be.
        if self.successor().is_none() {
            self.emit(Notice::CreationUnfinished { since: self.link.since }, None);
        }
    }
}

impl Link {
    /// When the machine next has to act on a creation that is not finished.
    pub(super) fn creation_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        self.creation_deadline_of(self.creation, policy)
    }

    fn creation_deadline_of(&self, creation: Creation, policy: &Policy) -> Option<Timestamp> {
        let wait = policy.settings().unfinished_after?;
        match creation {
            Creation::Unfinished { since } => {
                let due_at = since.after(wait);
                let latest = due_at.after(policy.reminder_pause());
                Some(self.widget_until.map_or(due_at, |until| due_at.max(until.min(latest))))
            }
            Creation::Probed { until } => Some(until),
            Creation::NotReported | Creation::Announced => None,
        }
    }
}

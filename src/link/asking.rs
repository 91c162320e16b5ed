//! Whose help a link needs, whether its user has been asked, and when the user may get a message. Every message passes
//! [`TransitionBuilder::turn`].

use super::builder::TransitionBuilder;
use super::{Cause, Episode, LastMessage, Link, Messaged, Need, Notice, Policy, Prompt, State, Timestamp};

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

    /// Whether one would have to ask the user of the link right now. A prompt that waits for something will be a
    /// notice of its own, or part of one about another link.
    pub fn is_asked_for(&self) -> bool {
        self.awaits_user().is_some_and(|episode| episode.prompt == Prompt::Sent)
    }

    /// The open episode, if its user was not prompted and nobody is repairing the link. The user of a superseded link is not to be
    /// prompted, so nothing is held.
    pub fn held_prompt(&self) -> Option<&Episode> {
        let (State::Invalid { episode } | State::TokenRequired { episode }) = &self.state else { return None };
        Some(episode).filter(|episode| episode.prompt != Prompt::Sent && episode.superseded_by.is_none())
    }

    /// The first time at or after `at` that is outside of the quiet hours of the user.
    pub(super) fn after_quiet_hours(&self, at: Timestamp, policy: &Policy) -> Timestamp {
        policy.settings().quiet_hours.as_ref().map_or(at, |quiet_hours| quiet_hours.end(at, &self.profile))
    }
}

/// Whether a message to the user may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may.
    Now,
    /// It is not needed: the last message to the person mentioned this link.
    Mentioned,
    /// Not before this time.
    After(Timestamp),
}

impl TransitionBuilder<'_> {
    /// Whether a message to the user may be sent now. The person gets none within the reminder pause after the last one, about whichever
    /// link it was, and none in quiet hours. `is_same` shows whether a mention of this link was about the same as this message.
    pub(super) fn turn(&self, is_same: impl Fn(&Need) -> bool) -> Turn {
        let pause = self.policy.reminder_pause();
        let other = self.person.as_ref().and_then(|person| person.last_message.as_ref());
        let own_at = self.link.messaged.as_ref().map(|message| message.at);
        // A clock that was ahead may have dated a message in the future.
        let pause_end = |at: Timestamp| at.min(self.now).after(pause);
        let is_mentioned = |message: &LastMessage| {
            message.mentioned.as_ref().is_some_and(&is_same) && self.now < pause_end(message.at)
        };
        if other.is_some_and(is_mentioned) {
            return Turn::Mentioned;
        }
        let last_at = own_at.max(other.map(|message| message.at));
        let at = last_at.map_or(self.now, |at| pause_end(at).max(self.now));
        let at = self.link.after_quiet_hours(at, self.policy);
        if self.now < at { Turn::After(at) } else { Turn::Now }
    }

    /// Sends a message to the user, which mentions the other links of the person that wait. The caller has checked the turn.
    pub(super) fn send_message(&mut self, notice: Notice, episode: Option<&Episode>) {
        let mentioned = self.person.as_ref().map(|person| person.waiting.clone()).unwrap_or_default();
        self.link.messaged = Some(Messaged { at: self.now, mentioned });
        self.emit(notice, episode);
    }

    /// Sends the prompt that only the turn of its user can keep back, or postpones it.
    pub(super) fn send_prompt(&mut self, episode: &mut Episode) {
        let turn = self.turn(|need| need.is_of(episode));
        episode.prompt = match turn {
            Turn::After(until) => Prompt::Postponed { until },
            Turn::Now | Turn::Mentioned => Prompt::Sent,
        };
        if episode.prompt == Prompt::Sent {
            episode.start_reminders(self.now, self.policy);
        }
        if turn == Turn::Now {
            self.send_message(Notice::UpdateRequired, Some(episode));
        }
    }
}

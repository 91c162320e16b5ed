//! Whose help a link needs, whether its user has been asked, and when the user may get a message. Every message passes
//! [`TransitionBuilder::turn`].

use super::builder::TransitionBuilder;
use super::{Episode, LastMessage, Link, Messaged, Need, Notice, Policy, Prompt, State, Timestamp};

impl Link {
    /// The open episode, if the link waits for its user: nobody is repairing it, its user can, no operator has muted it, and no newer link
    /// of the user supersedes it.
    pub fn awaits_user(&self) -> Option<&Episode> {
        let (State::Invalid { episode } | State::TokenRequired { episode }) = &self.state else { return None };
        Some(episode).filter(|_| episode.cause.user_can_act() && !self.muted && episode.superseded_by.is_none())
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

/// Why a step has not sent the message to the user that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// The institution has an incident.
    Incident,
    /// relink first asks Belvo whether the link works again.
    Answer,
    /// relink has never read the link, and first asks Belvo whose link it is.
    Unidentified,
    /// The person got another message within the reminder pause.
    Pause,
    /// It is a part of the day without messages.
    QuietHours,
    /// The person holds a widget token, for this link or for another one.
    InWidget,
    /// relink asks Belvo about another broken link of the person first, so that one message is about both.
    OtherAnswer,
    /// An operator, or the adoption, has muted the link.
    Muted,
    /// A newer link of the user works, so no message is needed.
    Superseded,
    /// The last message to the person mentioned this link, so it counts, and no other one is needed.
    Mentioned,
}

/// Whether a message to the user may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may.
    Now,
    /// It is not needed: the last message to the person mentioned this link.
    Mentioned,
    /// Not now.
    After {
        /// When the user may get the message.
        until: Timestamp,
        /// What keeps the message back that long.
        reason: Held,
    },
}

impl Turn {
    const fn held(self) -> Option<Held> {
        match self {
            Self::Now => None,
            Self::Mentioned => Some(Held::Mentioned),
            Self::After { reason, .. } => Some(reason),
        }
    }
}

impl TransitionBuilder<'_> {
    /// Whether a message to the user may be sent now. The person gets none within the reminder pause after the last one, about whichever
    /// link it was, none in quiet hours, and none in the widget. `counts` shows whether a mention of this link at that time is as good as
    /// this message. A widget keeps the message back at most until `latest`: an application that mints a token each time somebody looks at
    /// a page must not silence its users for ever. So does an answer about another link, which may fail to come.
    pub(super) fn turn(&mut self, counts: impl Fn(&Need, Timestamp) -> bool, latest: Timestamp) -> Turn {
        let turn = self.find_turn(counts, latest);
        self.held = turn.held();
        turn
    }

    fn find_turn(&self, counts: impl Fn(&Need, Timestamp) -> bool, latest: Timestamp) -> Turn {
        let other = self.person.as_ref().and_then(|person| person.last_message.as_ref());
        let is_mentioned =
            |message: &LastMessage| message.mentioned.as_ref().is_some_and(|need| counts(need, message.at));
        if other.is_some_and(is_mentioned) {
            return Turn::Mentioned;
        }
        let own_at = self.link.messaged.as_ref().map(|message| message.at);
        let last_at = own_at.max(other.map(|message| message.at));
        let pause_end = last_at.map_or(self.now, |at| self.pause_end(at).max(self.now));
        let other_widget = self.person.as_ref().and_then(|person| person.in_widget.as_ref());
        let widget_end = self.widget_until().max(other_widget.map(|widget| widget.until));
        let capped = |end: Option<Timestamp>| end.map_or(self.now, |end| end.min(latest));
        let waits = [
            (capped(self.other_answer_at()), Held::OtherAnswer),
            (capped(widget_end), Held::InWidget),
            (pause_end, Held::Pause),
        ];
        let longest = waits.into_iter().filter(|(end, _)| self.now < *end).max_by_key(|(end, _)| *end);
        let (end, reason) = longest.unwrap_or((self.now, Held::QuietHours));
        let until = self.link.after_quiet_hours(end, self.policy);
        if self.now < until { Turn::After { until, reason } } else { Turn::Now }
    }

    /// When Belvo should have answered about another broken link of the person. `None`: no message waits for that. While the institution of
    /// this link has an incident, only an operator lets its prompt pass, and decides for the user.
    pub(super) fn other_answer_at(&self) -> Option<Timestamp> {
        let undecided = self.person.as_ref()?.undecided.as_ref().filter(|_| self.incident.is_none())?;
        Some(undecided.asked_at.max(self.now).after(self.policy.settings().verify_wait))
    }

    /// When the last message to the person about another link was sent.
    pub(super) fn mentioned_at(&self) -> Option<Timestamp> {
        Some(self.person.as_ref()?.last_message.as_ref()?.at)
    }

    /// When the reminder pause after a message ends. A clock that was ahead may have dated the message in the future.
    pub(super) fn pause_end(&self, messaged_at: Timestamp) -> Timestamp {
        messaged_at.min(self.now).after(self.policy.reminder_pause())
    }

    /// Sends a message to the user, which mentions the other links of the person that wait. The caller has checked the turn.
    pub(super) fn send_message(&mut self, notice: Notice, episode: Option<&Episode>) {
        self.note_message();
        self.emit(notice, episode);
    }

    /// Notes that this step sends a message to the user: the pause of the person begins.
    pub(super) fn note_message(&mut self) {
        let mentioned = self.person.as_ref().map(|person| person.waiting.clone()).unwrap_or_default();
        self.link.messaged = Some(Messaged { at: self.now, mentioned });
    }

    /// Informs the application of an outage that nobody can repair. It asks the user for nothing, so it waits for quiet hours only, and
    /// does not begin the pause of the person. Reminders follow if the user can do something later.
    fn inform_of_unsupported(&mut self, episode: &mut Episode) {
        let until = self.link.after_quiet_hours(self.now, self.policy);
        if self.now < until {
            episode.prompt = Prompt::Postponed { until };
            self.held = Some(Held::QuietHours);
            return;
        }
        episode.prompt = Prompt::Sent;
        episode.start_reminders(self.now, self.policy);
        self.emit(Notice::UpdateRequired, Some(episode));
    }

    /// Sends the prompt that only the turn of its user can keep back, or postpones it.
    pub(super) fn send_prompt(&mut self, episode: &mut Episode) {
        if !episode.cause.user_can_act() {
            return self.inform_of_unsupported(episode);
        }
        // A mention of the outage is its prompt, however long the user may get no message of its own.
        let latest = episode.remind_by.unwrap_or(self.now.after(self.policy.reminder_pause()));
        let turn = self.turn(|need, _at| need.is_of(episode), latest);
        episode.prompt = match turn {
            Turn::After { until, .. } => Prompt::Postponed { until },
            Turn::Now | Turn::Mentioned => Prompt::Sent,
        };
        if let Turn::After { reason: Held::InWidget | Held::OtherAnswer, .. } = turn {
            // Another widget, or another answer, after this one must not postpone it for ever.
            episode.remind_by = Some(latest);
        }
        if episode.prompt == Prompt::Sent {
            episode.start_reminders(self.now, self.policy);
        }
        if turn == Turn::Mentioned {
            episode.mention_counted_at = self.mentioned_at();
        }
        if turn == Turn::Now {
            self.send_message(Notice::UpdateRequired, Some(episode));
        }
    }
}

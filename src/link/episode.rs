//! An episode: one outage, from leaving `Valid` until the return. One episode, one prompt.

use super::{Cause, EpisodeNumber, Policy, Session, Timestamp};

/// One outage of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Which one.
    pub number: EpisodeNumber,
    /// What has to be mended. Later evidence may change it; it never prompts again.
    pub cause: Cause,
    /// The login session that is still open, if one is known: only while a token is wanted and nobody is in the widget.
    pub session: Option<Session>,
    /// When it began.
    pub opened_at: Timestamp,
    /// When the observation was read that the state of the link comes from; none if it comes from anything else. Observations
    /// are ordered by when they were read, not by when they were received.
    pub observed_at: Option<Timestamp>,
    /// When a login was last refused, as long as Belvo's status is not known to say so too.
    pub refused_at: Option<Timestamp>,
    /// What became of its one prompt.
    pub prompt: Prompt,
    /// How many reminders have followed.
    pub reminders_count: u32,
    /// When the next one is due. `None`: the ladder has no more steps.
    pub next_reminder_at: Option<Timestamp>,
    /// Failed attempts put the next reminder off, but never beyond this. `None`: none has yet.
    pub remind_by: Option<Timestamp>,
    /// When we last tried a login of our own before a reminder.
    pub tried_at: Option<Timestamp>,
    /// How many times the user has tried to repair it.
    pub attempts_count: u32,
    /// The resources whose data has come since Belvo last said that the link is broken, sorted: if it turns out to work, they have come
    /// after the repair.
    pub arrived: Vec<String>,
}

/// What became of an episode's prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// It went out.
    Sent,
    /// The link was muted, or its user was in the widget already when the outage became known. It goes out when an operator
    /// unmutes the link, or that attempt fails.
    Held,
    /// The institution has an incident; it goes out if the link is still broken when that is over.
    Waiting {
        /// When to look again.
        until: Timestamp,
        /// When Belvo was asked whether the link works again, the incident being over. `None`: it was not over yet.
        asked_at: Option<Timestamp>,
    },
}

impl Episode {
    /// Opens an episode; the caller emits the prompt if it is [`Prompt::Sent`].
    pub(super) fn open(number: u32, cause: Cause, now: Timestamp, prompt: Prompt, policy: &Policy) -> Self {
        let next_reminder_at = policy.reminders().first().map(|&step| now.after(step));
        let number = EpisodeNumber(number);
        Self {
            number,
            cause,
            session: None,
            opened_at: now,
            observed_at: None,
            refused_at: None,
            prompt,
            reminders_count: 0,
            next_reminder_at,
            remind_by: None,
            tried_at: None,
            attempts_count: 0,
            arrived: Vec::new(),
        }
    }

    /// An observation from before this says nothing of the outage: when the observation was read that the state comes from,
    /// else when the outage was opened.
    pub(super) fn known_since(&self) -> Timestamp {
        self.observed_at.unwrap_or(self.opened_at)
    }

    /// Counts a reminder and climbs the ladder. Steps count from the opening; one already past is not sent in a burst.
    pub(super) fn climb(&mut self, now: Timestamp, policy: &Policy) {
        self.reminders_count += 1;
        self.remind_by = None;
        self.next_reminder_at = policy
            .reminders()
            .get(self.reminders_count as usize)
            .map(|&step| self.opened_at.after(step).max(now.after(policy.reminder_pause())));
    }

    /// The user has just been told, or an operator has unmuted the link: a reminder at once would feel like a second
    /// prompt.
    pub(super) fn pause_reminders(&mut self, now: Timestamp, policy: &Policy) {
        self.remind_by = None;
        self.next_reminder_at = self.next_reminder_at.map(|at| at.max(now.after(policy.reminder_pause())));
    }

    /// After a failed attempt the user is left alone for a while. Attempts that follow one another, such as tokens that a
    /// mail scanner mints, put a reminder off by one pause in all: they must not silence it for ever.
    pub(super) fn postpone_reminder(&mut self, now: Timestamp, policy: &Policy) {
        let Some(next) = self.next_reminder_at else { return };
        let pause = policy.reminder_pause();
        let latest = *self.remind_by.get_or_insert(next.after(pause));
        self.next_reminder_at = Some(next.max(now.after(pause)).min(latest));
    }

    /// How often the user has been told, reminders included.
    pub fn prompts_count(&self) -> u32 {
        u32::from(self.prompt == Prompt::Sent) + self.reminders_count
    }
}

//! An episode: one outage of a link, from leaving `Valid` until the return to it. Its user is prompted once per
//! episode.

use super::{Cause, EpisodeNumber, LinkId, Policy, Session, Timestamp};

/// One outage of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// The number of the episode, from 1 for the first outage of the link.
    pub number: EpisodeNumber,
    /// What the user has to repair. Later evidence may change the cause; the user is not prompted again for it.
    pub cause: Cause,
    /// The open MFA session, if one is known. Only while the link requires a token and its user is not in the widget.
    pub session: Option<Session>,
    /// When the episode began.
    pub opened_at: Timestamp,
    /// When Belvo was read, if the current cause comes from an observation; `None` if it comes from a webhook or an API
    /// error. Observations are ordered by the time at which they were read, not by the time at which they were
    /// received.
    pub observed_at: Option<Timestamp>,
    /// When the institution last refused a login. `None` once Belvo's status shows the outage too.
    pub refused_at: Option<Timestamp>,
    /// Whether the prompt has been sent, or why not.
    pub prompt: Prompt,
    /// Whether an operator has released the prompt: no incident of the institution defers it any more.
    pub is_released: bool,
    /// How many reminders have been sent.
    pub reminders_count: u32,
    /// When the next reminder is due. `None`: all reminders of the policy have been sent.
    pub next_reminder_at: Option<Timestamp>,
    /// The latest time to which failed attempts, and a widget that the person uses, may postpone the next message: the
    /// prompt or a reminder. `None`: neither has postponed it yet.
    pub remind_by: Option<Timestamp>,
    /// Since when the next reminder is due and waits, for the end of an incident or for the turn of its user. `None`: it is not due yet, or
    /// it has got a new time since then.
    pub reminder_waits_since: Option<Timestamp>,
    /// When the last message about another link was sent that has counted as the prompt or as a reminder. It does not count twice.
    pub mention_counted_at: Option<Timestamp>,
    /// When relink last asked for a refresh before a reminder, to find out whether a login works again.
    pub tried_at: Option<Timestamp>,
    /// How many times the user has tried to repair the link.
    pub attempts_count: u32,
    /// The resources whose data has arrived since Belvo last reported the link broken, sorted. If the link turns out to
    /// work, their data arrived after the repair.
    pub arrived: Vec<String>,
    /// The successor of the link: a newer link of the same user at the same institution. While it is set, the user is
    /// neither prompted nor reminded.
    pub superseded_by: Option<LinkId>,
    /// The link that a success callback named last, and that Belvo was asked about.
    pub successor_named: Option<LinkId>,
}

/// Whether the prompt of an episode has been sent, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The notice `update_required` was emitted.
    Sent,
    /// The link was muted or superseded when the episode began, or its user was in the widget already. The prompt is
    /// emitted when an operator ends that, or when the attempt in the widget fails.
    Muted,
    /// The institution has an incident. The prompt is emitted after the incident if the link is still broken then.
    Deferred {
        /// When to check again whether the incident is over, or when to stop waiting for Belvo's answer.
        until: Timestamp,
        /// When Belvo was asked, after the incident, whether the link works again. `None` while the incident goes on.
        asked_at: Option<Timestamp>,
    },
    /// The user may not get a message now. The prompt is emitted at this time if the link is still broken then, and if nothing else keeps
    /// it back.
    Postponed {
        /// When the user may get a message.
        until: Timestamp,
    },
    /// The link was never read, so the institution or the user is not known, and Belvo is being asked. The prompt is emitted with the answer
    /// if the link is still broken.
    Unidentified {
        /// When the prompt is emitted if Belvo has not answered.
        until: Timestamp,
    },
}

impl Episode {
    /// An episode that begins now, without reminders.
    pub const fn new(number: EpisodeNumber, cause: Cause, now: Timestamp, prompt: Prompt) -> Self {
        Self {
            number,
            cause,
            session: None,
            opened_at: now,
            observed_at: None,
            refused_at: None,
            prompt,
            reminders_count: 0,
            next_reminder_at: None,
            remind_by: None,
            reminder_waits_since: None,
            mention_counted_at: None,
            tried_at: None,
            attempts_count: 0,
            arrived: Vec::new(),
            superseded_by: None,
            successor_named: None,
            is_released: false,
        }
    }

    /// A new episode. The caller emits the prompt if `prompt` is [`Prompt::Sent`].
    pub(super) fn open(number: u32, cause: Cause, now: Timestamp, prompt: Prompt, policy: &Policy) -> Self {
        let mut episode = Self::new(EpisodeNumber(number), cause, now, prompt);
        episode.start_reminders(now, policy);
        episode
    }

    /// The time of the evidence behind the episode. An older observation says nothing about the outage.
    pub(super) fn known_since(&self) -> Timestamp {
        self.observed_at.unwrap_or(self.opened_at)
    }

    /// Schedules the first reminder, which is at least a pause after the prompt. The policy counts from the prompt, which may be days after
    /// the opening of the episode.
    pub(super) fn start_reminders(&mut self, now: Timestamp, policy: &Policy) {
        (self.remind_by, self.reminder_waits_since) = (None, None);
        let distance = policy.reminder_distance(self.reminders_count);
        self.next_reminder_at = distance.map(|distance| now.after(distance.max(policy.reminder_pause())));
    }

    /// Counts a sent reminder and schedules the next one. The distances between the reminders are those of the policy. A reminder that
    /// has waited for the end of quiet hours, of an incident or of the pause after another message moves the next ones too: else they would
    /// follow one another, a pause apart.
    pub(super) fn count_reminder(&mut self, now: Timestamp, policy: &Policy) {
        let pause = policy.reminder_pause();
        // Attempts have postponed it by at most a pause, and do not move the next ones.
        let due_at = self.remind_by.map(|latest| latest.before(pause)).or(self.next_reminder_at).unwrap_or(now);
        let from = due_at.max(now.before(pause));
        self.reminders_count += 1;
        (self.remind_by, self.reminder_waits_since) = (None, None);
        let distance = policy.reminder_distance(self.reminders_count);
        self.next_reminder_at = distance.map(|distance| from.after(distance).max(now.after(pause)));
    }

    /// Postpones the next reminder by the reminder pause. Used when an operator has unmuted the link: a reminder at once would look like
    /// a second prompt.
    pub(super) fn pause_reminders(&mut self, now: Timestamp, policy: &Policy) {
        (self.remind_by, self.reminder_waits_since) = (None, None);
        self.next_reminder_at = self.next_reminder_at.map(|at| at.max(now.after(policy.reminder_pause())));
    }

    /// Postpones the next reminder after a failed attempt, so that the user gets no message right after it. Attempts in
    /// a row postpone a reminder by one reminder pause in all: a mail scanner that mints tokens must not postpone it
    /// for ever. The reminders of an outage whose prompt has not been sent begin with the prompt.
    pub(super) fn postpone_reminder(&mut self, now: Timestamp, policy: &Policy) {
        let Some(next) = self.next_reminder_at.filter(|_| self.prompt == Prompt::Sent) else { return };
        self.reminder_waits_since = None;
        let pause = policy.reminder_pause();
        let latest = *self.remind_by.get_or_insert(next.after(pause));
        self.next_reminder_at = Some(next.max(now.after(pause)).min(latest));
    }

    /// How many messages to the user the episode has led to: the prompt and the reminders.
    pub fn prompts_count(&self) -> u32 {
        u32::from(self.prompt == Prompt::Sent) + self.reminders_count
    }
}

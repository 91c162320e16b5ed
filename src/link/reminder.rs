//! The ladder of reminders, and the login that comes before each where Belvo's status may be wrong.
//!
//! One refused login is all that is known of some outages: the bank may have had a bad hour, and a link that nobody
//! calls would be called broken for ever. So before its user is reminded, relink asks for a refresh, which is a login.
//! What comes of it ends the outage, or is one more refusal; the ladder bounds how many there are.

use super::draft::Draft;
use super::{Effect, Episode, Job, Link, Notice, Policy, Prompt, Refusal, Timestamp};

impl Draft<'_> {
    /// A reminder is due: first the login, where one could tell.
    pub(super) fn remind(&mut self, mut episode: Episode) -> Result<Episode, Refusal> {
        if self.link.reminder_deadline(&episode, self.policy).is_none_or(|at| self.now < at) {
            return Err(Refusal::NotDue);
        }
        if self.link.tries_a_login(&episode, self.policy) {
            episode.tried_at = Some(self.now);
            self.effects.push(Effect::Job(Job::Refresh { resources: Vec::new() }));
            return Ok(episode);
        }
        episode.climb(self.now, self.policy);
        self.tell(Notice::Reminder { number: episode.reminders_count }, Some(&episode));
        Ok(episode)
    }
}

impl Link {
    /// When a reminder, or the login before it, is due.
    pub(super) fn reminder_deadline(&self, episode: &Episode, policy: &Policy) -> Option<Timestamp> {
        let due_at = self.reminder_due_at(episode)?;
        let tried_at = episode.tried_at.filter(|_| !self.tries_a_login(episode, policy));
        Some(tried_at.map_or(due_at, |tried_at| due_at.max(tried_at.after(policy.answer_wait()))))
    }

    fn reminder_due_at(&self, episode: &Episode) -> Option<Timestamp> {
        let silenced = self.muted || episode.prompt != Prompt::Sent;
        let due_at = episode.next_reminder_at.filter(|_| !silenced)?;
        Some(self.snoozed_until.map_or(due_at, |until| due_at.max(until)))
    }

    /// Whether a login has still to be tried before the next reminder.
    fn tries_a_login(&self, episode: &Episode, policy: &Policy) -> bool {
        let could_tell = policy.settings().can_verify && episode.refused_at.is_some() && !self.refresh_needs_token;
        could_tell && self.reminder_due_at(episode).is_some_and(|due_at| episode.tried_at.is_none_or(|at| at < due_at))
    }
}

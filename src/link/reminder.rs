//! Reminders, and the refresh that relink asks for before a reminder.
//!
//! For some outages the only evidence is one refused login. The cause may have been a short failure of the institution,
//! and if nobody uses the link, no later login shows that it works. So before a reminder relink asks for a refresh,
//! because a refresh is a login. The result of the refresh ends the outage or is one more refused login. The number of
//! reminders limits the number of these refreshes.
//!
//! While the institution is down, reminders wait as prompts do.

use super::asking::{Held, Turn};
use super::builder::TransitionBuilder;
use super::{Effect, Episode, Job, Link, Notice, Policy, Prompt, Refusal, Timestamp};

impl TransitionBuilder<'_> {
    /// A reminder is due: asks for a refresh first if its result could end the outage, else emits the reminder.
    pub(super) fn remind(&mut self, mut episode: Episode) -> Result<Episode, Refusal> {
        if self.link.reminder_deadline(&episode, self.policy).is_none_or(|at| self.now < at) {
            return Err(Refusal::NotDue);
        }
        let due_at = episode.next_reminder_at.unwrap_or(self.now);
        // The user could do nothing, and a refresh would show nothing.
        if self.incident.is_some() {
            self.held = Some(Held::Incident);
            episode.reminder_waits_since.get_or_insert(due_at);
            episode.next_reminder_at = Some(self.now.after(self.policy.settings().incident_wait));
            return Ok(episode);
        }
        let latest = episode.remind_by.unwrap_or(due_at.after(self.policy.reminder_pause()));
        // A mention that has counted as the prompt, or as a reminder, does not count again.
        let is_new = |at: Timestamp| episode.mention_counted_at.is_none_or(|counted| counted < at);
        let may_count = self.mentioned_at().is_some_and(|at| is_new(at) && self.now < self.pause_end(at));
        let turn = self.turn(|need, _at| may_count && need.is_of(&episode), latest);
        if let Turn::After { until, reason } = turn {
            episode.reminder_waits_since.get_or_insert(due_at);
            episode.next_reminder_at = Some(until);
            // Another widget, or another answer, after this one must not postpone it for ever.
            let is_capped = matches!(reason, Held::InWidget | Held::OtherAnswer);
            episode.remind_by = episode.remind_by.or(is_capped.then_some(latest));
            return Ok(episode);
        }
        if self.link.requires_login_attempt(&episode, self.policy) {
            episode.tried_at = Some(self.now);
            self.held = Some(Held::Answer);
            self.effects.push(Effect::Job(Job::Refresh { resources: Vec::new() }));
            return Ok(episode);
        }
        episode.count_reminder(self.now, self.policy);
        if turn == Turn::Mentioned {
            episode.mention_counted_at = self.mentioned_at();
        }
        if turn == Turn::Now {
            self.send_message(Notice::Reminder { number: episode.reminders_count }, Some(&episode));
        }
        Ok(episode)
    }
}

impl Link {
    /// When a reminder, or the refresh before it, is due.
    pub(super) fn reminder_deadline(&self, episode: &Episode, policy: &Policy) -> Option<Timestamp> {
        let due_at = self.reminder_due_at(episode, policy)?;
        let tried_at = episode.tried_at.filter(|_| !self.requires_login_attempt(episode, policy));
        let due_at = tried_at.map_or(due_at, |tried_at| due_at.max(tried_at.after(policy.answer_wait())));
        Some(self.after_quiet_hours(due_at, policy))
    }

    fn reminder_due_at(&self, episode: &Episode, policy: &Policy) -> Option<Timestamp> {
        let silenced = self.muted || episode.superseded_by.is_some() || episode.prompt != Prompt::Sent;
        let due_at = episode.next_reminder_at.filter(|_| !silenced && episode.cause.user_can_act())?;
        let due_at = self.snoozed_until.map_or(due_at, |until| due_at.max(until));
        // A refresh in quiet hours is a login, for which some banks send the user a message.
        Some(self.after_quiet_hours(due_at, policy))
    }

    /// Whether a refresh has to be asked for before the next reminder.
    fn requires_login_attempt(&self, episode: &Episode, policy: &Policy) -> bool {
        let could_tell = policy.settings().can_verify && episode.refused_at.is_some() && !self.refresh_needs_token;
        could_tell
            && self.reminder_due_at(episode, policy).is_some_and(|due_at| episode.tried_at.is_none_or(|at| at < due_at))
    }
}

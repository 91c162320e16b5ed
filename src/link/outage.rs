//! Notices about an outage of the institution: the subscriber learns that there is nothing to do now, and when there is again.
//!
//! ```text
//!   the link meets the outage ──▶ institution_down ──▶ the institution works again, or the link does ──▶ institution_restored
//! ```
//!
//! A link *meets* an outage if its user is repairing it, or looks at the repair page. With [`InstitutionNotices::All`] a link also meets it
//! if its prompt is deferred, or if a call about it fails. Each link gets the notices with its own events and timers, so an outage with a
//! hundred thousand links never makes as many messages at once. [`InstitutionOutage`] remembers which outage was announced: each outage has
//! at most one `institution_down` for a link, and no `institution_restored` comes without it.
//!
//! Both notices are meant for the user. So a link that is muted or superseded gets none, and `institution_restored` waits for the end of
//! quiet hours. If it asks the user for a repair, it is a message like others: it also waits for Belvo's answer about another broken link of
//! the person, and it asks for nothing that a message within the pause has asked for. `institution_down` does not wait: a user who is repairing is awake, and every other one gets no such notice in quiet hours.

use super::builder::TransitionBuilder;
use super::person::has_message;
use super::{Effect, Episode, Event, Held, InstitutionNotices, Link, Notice, Prompt, State, Timestamp};

/// An outage of the institution that was announced for the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstitutionOutage {
    /// When the outage began. Identifies the outage.
    pub began_at: Timestamp,
    /// When it is checked whether `institution_restored` is due. `None`: that notice was emitted, or will not come, and the outage goes on.
    pub check_at: Option<Timestamp>,
}

impl TransitionBuilder<'_> {
    /// Emits the notice about the institution that is due after `event` led to `state`. Returns whether this changed the link.
    pub(super) fn follow_outage(&mut self, before: &Link, event: &Event, state: &mut State) -> bool {
        if is_silent(&self.link, state) {
            // `institution_restored` will not come, and the same outage is not announced again.
            let known = self.link.institution_outage.filter(|known| self.incident == Some(known.began_at));
            self.link.institution_outage = known.map(|known| InstitutionOutage { check_at: None, ..known });
            return false;
        }
        match (self.link.institution_outage, self.incident) {
            (Some(InstitutionOutage { began_at, check_at: Some(check_at) }), _) => {
                self.follow_announced(before, state, began_at, check_at)
            }
            (known, Some(began_at)) => {
                let is_new = known.is_none_or(|known| known.began_at != began_at);
                is_new && self.meets_outage(before, event, state) && self.announce(began_at, state)
            }
            (_, None) => {
                self.link.institution_outage = None;
                false
            }
        }
    }

    fn announce(&mut self, began_at: Timestamp, state: &State) -> bool {
        let check_at = Some(self.now.after(self.policy.settings().incident_wait));
        self.link.institution_outage = Some(InstitutionOutage { began_at, check_at });
        self.emit(Notice::InstitutionDown { since: began_at }, state.episode());
        true
    }

    /// Whether the link meets the outage by this step.
    fn meets_outage(&mut self, before: &Link, event: &Event, state: &State) -> bool {
        // The outage did not stop a user who has just repaired the link.
        if self.is_shown_to_work(before) {
            return false;
        }
        let is_user_here = matches!(event, Event::OutageMet { by_user: true });
        let is_call = matches!(event, Event::OutageMet { by_user: false });
        let is_updating = |state: &State| matches!(state, State::Updating { .. });
        let is_in_repair =
            is_user_here || is_updating(&before.state) || is_updating(state) || self.widget_until().is_some();
        match self.policy.settings().institution_notices {
            InstitutionNotices::Off => false,
            InstitutionNotices::Repair => is_in_repair,
            InstitutionNotices::All if is_in_repair => true,
            InstitutionNotices::All if is_call || waits_for_incident(state) => {
                let allowed_at = self.link.after_quiet_hours(self.now, self.policy);
                self.outage_notice_at = Some(allowed_at).filter(|at| self.now < *at);
                self.outage_notice_at.is_none()
            }
            InstitutionNotices::All => false,
        }
    }

    /// The outage was announced: emits `institution_restored` if it is due, or else decides when to check again. Returns whether this
    /// changed the link.
    fn follow_announced(&mut self, before: &Link, state: &mut State, began_at: Timestamp, check_at: Timestamp) -> bool {
        let is_over = self.incident.is_none() && !waits_with_prompt(state);
        let next_check_at = if is_over || self.is_shown_to_work(before) {
            let answer_at = self.other_answer_at().filter(|_| self.asks_when_restored(state));
            let allowed_at = self.link.after_quiet_hours(answer_at.unwrap_or(self.now), self.policy);
            if allowed_at <= self.now {
                self.restore(began_at, state);
                return true;
            }
            if answer_at.is_some() {
                self.held = self.held.or(Some(Held::OtherAnswer));
                self.link.institution_outage = Some(InstitutionOutage { began_at, check_at: Some(allowed_at) });
                // What is known of the person makes no input useless, also if the time is the same as before.
                return true;
            }
            self.outage_notice_at = Some(allowed_at).filter(|at| *at != check_at);
            allowed_at
        } else if check_at <= self.now && !waits_with_prompt(state) {
            self.now.after(self.policy.settings().incident_wait)
        } else {
            // It is not due yet, or the prompt has a deadline of its own.
            check_at
        };
        self.link.institution_outage = Some(InstitutionOutage { began_at, check_at: Some(next_check_at) });
        next_check_at != check_at
    }

    fn restore(&mut self, began_at: Timestamp, state: &mut State) {
        // While the same outage goes on, it is not announced again. Another one was not announced yet.
        let is_same = self.incident == Some(began_at);
        self.link.institution_outage = is_same.then_some(InstitutionOutage { began_at, check_at: None });
        // Before a prompt or a recovery of the same step.
        let episode = state.episode().cloned();
        let asks = self.asks_when_restored(state);
        if asks && let Some(episode) = state.episode_mut() {
            // The user is asked now, so no reminder follows at once, and no message about another link of the person.
            episode.pause_reminders(self.now, self.policy);
            self.note_message();
        }
        self.effects
            .insert(0, Effect::Notice { notice: Notice::InstitutionRestored { since: began_at, asks }, episode });
    }

    /// Whether `institution_restored` asks the user for a repair: the user was prompted, and no message of this moment, or within the pause,
    /// about another link of the person has asked for it.
    fn asks_when_restored(&self, state: &State) -> bool {
        let is_asked_for = |episode: &Episode| {
            let message = self.person.as_ref().and_then(|person| person.last_message.as_ref());
            let message = message.filter(|message| self.now < self.pause_end(message.at));
            message.and_then(|message| message.mentioned).is_some_and(|need| need.is_of(episode))
        };
        let is_prompted = |episode: &&Episode| {
            episode.prompt == Prompt::Sent && episode.cause.user_can_act() && !is_asked_for(episode)
        };
        let has_message = has_message(&self.effects) || self.held == Some(Held::Mentioned);
        !has_message && state.episode().filter(is_prompted).is_some()
    }

    /// Whether this step has shown that the link works.
    fn is_shown_to_work(&self, before: &Link) -> bool {
        self.link.recovered_at > before.recovered_at || self.link.data_at > before.data_at
    }
}

impl Link {
    /// When it has to be checked whether `institution_restored` is due.
    pub(super) fn outage_deadline(&self) -> Option<Timestamp> {
        self.institution_outage.and_then(|outage| outage.check_at).filter(|_| !waits_with_prompt(&self.state))
    }
}

/// Whether the user of the link gets no message, or the link has never worked or is removed.
pub(super) fn is_silent(link: &Link, state: &State) -> bool {
    let is_superseded = state.episode().is_some_and(|episode| episode.superseded_by.is_some());
    link.muted || is_superseded || matches!(state, State::Unconfirmed | State::Removed)
}

/// Whether nobody repairs the link and its prompt will be sent later: `institution_restored` comes with it, so that it does not say that
/// there is nothing to do.
fn waits_with_prompt(state: &State) -> bool {
    let prompt = prompt_of_broken(state);
    matches!(prompt, Some(Prompt::Deferred { .. } | Prompt::Postponed { .. } | Prompt::Unidentified { .. }))
}

/// Whether nobody repairs the link and its prompt is deferred.
fn waits_for_incident(state: &State) -> bool {
    matches!(prompt_of_broken(state), Some(Prompt::Deferred { .. }))
}

/// The prompt of a broken link that nobody repairs.
fn prompt_of_broken(state: &State) -> Option<Prompt> {
    match state {
        State::Invalid { episode } | State::TokenRequired { episode } => Some(episode.prompt),
        State::Unconfirmed | State::Valid { .. } | State::Updating { .. } | State::Removed => None,
    }
}

//! Asking Belvo, and what a person or Belvo decides about a link: its end, and an operator's commands.

use super::draft::{Draft, Next};
use super::{Command, Effect, Job, Notice, Quiet, Refusal, Removal, State};

impl Draft<'_> {
    pub(super) fn ask(&mut self, state: State) -> Next {
        self.ask_or(state, Refusal::CannotVerify)
    }

    pub(super) fn ask_or(&mut self, state: State, otherwise: Refusal) -> Next {
        if !self.policy.can_verify() {
            return Err(otherwise);
        }
        if self.ask_belvo() { Ok(state) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Asks for a verify unless Belvo cannot be asked or one is under way.
    pub(super) fn ask_belvo(&mut self) -> bool {
        let wait = self.policy.settings().verify_wait;
        let under_way = self.link.verify_asked_at.is_some_and(|at| self.now.since(at) < wait);
        let asks = self.policy.can_verify() && !under_way;
        if asks {
            self.link.verify_asked_at = Some(self.now);
            self.push_verify();
        }
        asks
    }

    pub(super) fn push_verify(&mut self) {
        let consent = self.link.profile.consent.as_ref().and_then(|consent| consent.id.clone());
        self.effects.push(Effect::Job(Job::Verify { consent }));
    }

    pub(super) fn remove(&mut self, state: &State, why: Removal) -> State {
        self.link.refresh = None;
        self.link.verify_asked_at = None;
        self.link.claimed_at = None;
        self.link.widget_until = None;
        self.link.quiet = Quiet::Listening;
        self.tell(Notice::Removed { why }, state.episode());
        State::Removed
    }

    pub(super) fn obey(&mut self, state: State, command: Command) -> Next {
        let mut state = state;
        match command {
            Command::Mute if self.link.muted => return Err(Refusal::AlreadyKnown),
            Command::Mute => self.link.muted = true,
            Command::Unmute if !self.link.muted => return Err(Refusal::AlreadyKnown),
            Command::Unmute => {
                self.link.muted = false;
                if let State::Invalid { episode } | State::TokenRequired { episode } = &mut state {
                    episode.pause_reminders(self.now, self.policy);
                    self.release_prompt(episode);
                }
            }
            Command::Snooze(until) if self.link.snoozed_until == Some(until) => return Err(Refusal::AlreadyKnown),
            Command::Snooze(until) => self.link.snoozed_until = Some(until),
            Command::Verify if !self.policy.can_verify() => return Err(Refusal::CannotVerify),
            Command::Verify => {
                self.link.verify_asked_at = Some(self.now);
                self.push_verify();
            }
            Command::Forget => return Ok(self.remove(&state, Removal::Forgotten)),
        }
        Ok(state)
    }
}

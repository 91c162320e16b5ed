//! Verify requests to Belvo, the removal of a link, and an operator's commands.

use super::builder::{Next, TransitionBuilder};
use super::{Command, Effect, Freshness, Job, Notice, Refusal, Removal, State};

impl TransitionBuilder<'_> {
    pub(super) fn request_verification_or_refuse(&mut self, state: State) -> Next {
        self.request_verification_or(state, Refusal::CannotVerify)
    }

    pub(super) fn request_verification_or(&mut self, state: State, otherwise: Refusal) -> Next {
        if !self.policy.can_verify() {
            return Err(otherwise);
        }
        if self.request_verification() { Ok(state) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Emits a verify job, unless no API keys are configured or a verify request is open. Returns whether it did.
    pub(super) fn request_verification(&mut self) -> bool {
        let wait = self.policy.settings().verify_wait;
        let is_open = self.link.verify_asked_at.is_some_and(|at| self.now.since(at) < wait);
        let is_needed = self.policy.can_verify() && !is_open;
        if is_needed {
            self.link.verify_asked_at = Some(self.now);
            self.push_verify_job();
        }
        is_needed
    }

    pub(super) fn push_verify_job(&mut self) {
        let consent = self.link.profile.consent.as_ref().and_then(|consent| consent.id.clone());
        self.effects.push(Effect::Job(Job::Verify { consent }));
    }

    pub(super) fn remove(&mut self, state: &State, why: Removal) -> State {
        self.link.refresh = None;
        self.link.verify_asked_at = None;
        self.link.claimed_at = None;
        self.link.widget_until = None;
        self.link.institution_outage = None;
        self.link.freshness = Freshness::Fresh;
        self.emit(Notice::Removed { why }, state.episode());
        State::Removed
    }

    pub(super) fn apply_command(&mut self, state: State, command: Command) -> Next {
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
                self.push_verify_job();
            }
            Command::Unsupersede => self.unsupersede(&mut state)?,
            Command::Release => self.release(&mut state)?,
            Command::Forget => return Ok(self.remove(&state, Removal::Forgotten)),
        }
        Ok(state)
    }
}

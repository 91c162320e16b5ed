//! Deferred prompts: during an incident of an institution, users are not asked for passwords that are right.
//!
//! ```text
//!   episode opened in an incident ──▶ prompt deferred ──▶ incident over: Belvo is asked ──▶ `valid`: recovered, no prompt
//!                                       ▲        │                                  │
//!                                       └────────┘ incident goes on: deferred again └──▶ still broken, or no answer: prompt
//! ```
//!
//! [`super::Input::incident`] shows whether the institution has an incident. The caller sets it, because the machine
//! sees only one link. Without API keys Belvo cannot be asked, and the prompt is emitted when the incident is over. If
//! a link breaks while no incident is known, its prompt is emitted at once.

use super::builder::{Next, TransitionBuilder};
use super::{Cause, Episode, Held, Policy, Prompt, Refusal, State, Timestamp};

impl Cause {
    /// Whether a failure of the institution can make Belvo report this cause for working links. The end of a consent
    /// and an unsupported login do not depend on a failure of the institution.
    pub const fn may_be_institution_wide(self) -> bool {
        match self {
            Self::Credentials | Self::Token | Self::AccountBlocked => true,
            Self::ConsentEnded | Self::Unsupported => false,
        }
    }
}

impl Cause {
    /// Whether the user can repair this, if the institution works. If not, the application is informed once, and nobody is reminded.
    pub const fn user_can_act(self) -> bool {
        match self {
            Self::Credentials | Self::Token | Self::AccountBlocked | Self::ConsentEnded => true,
            Self::Unsupported => false,
        }
    }
}

impl TransitionBuilder<'_> {
    /// The prompt of the episode is due: it is sent, muted, deferred or postponed.
    pub(super) fn prompt(&mut self, episode: &mut Episode) {
        if self.link.muted {
            self.mute_prompt(episode);
        } else if self.is_deferred(episode) {
            episode.prompt = self.defer_prompt();
        } else {
            self.send_prompt(episode);
        }
    }

    /// Whether the incident of the institution defers the prompt.
    pub(super) fn is_deferred(&self, episode: &Episode) -> bool {
        self.incident.is_some() && episode.cause.user_can_act() && !episode.is_released
    }

    fn mute_prompt(&mut self, episode: &mut Episode) {
        self.held = Some(Held::Muted);
        episode.prompt = Prompt::Muted;
    }

    fn defer_prompt(&mut self) -> Prompt {
        self.held = Some(Held::Incident);
        Prompt::Deferred { until: self.now.after(self.policy.settings().incident_wait), asked_at: None }
    }

    /// The deadline of a broken link has passed: its deferred prompt is checked, or a reminder is due.
    pub(super) fn pass_broken_deadline(&mut self, mut episode: Episode) -> Next {
        let (until, asked_at) = match episode.prompt {
            Prompt::Deferred { until, asked_at } => (until, asked_at),
            Prompt::Postponed { until } | Prompt::Unidentified { until } => return self.end_wait(episode, until),
            Prompt::Sent | Prompt::Muted => return self.remind(episode).map(State::broken),
        };
        if self.now < until {
            return Err(Refusal::NotDue);
        }
        // Later evidence may have changed the cause since the prompt was deferred.
        let may_pass = episode.cause.user_can_act();
        if self.is_deferred(&episode) {
            episode.prompt = self.defer_prompt();
        } else if self.policy.can_verify() && may_pass && asked_at.is_none() {
            // A verify request that is still open was made during the incident, so a new one is needed.
            self.link.verify_asked_at = Some(self.now);
            self.push_verify_job();
            self.held = Some(Held::Answer);
            episode.prompt =
                Prompt::Deferred { until: self.now.after(answer_wait(self.policy)), asked_at: Some(self.now) };
        } else {
            self.end_deferral(&mut episode);
        }
        Ok(State::broken(episode))
    }

    /// Belvo's answer to the request after the incident says that the link is still broken, so the prompt is emitted.
    /// If another incident has begun meanwhile, the answer does not count; the link waits for a new one.
    pub(super) fn end_deferral_by_answer(&mut self, episode: &mut Episode, observed_at: Timestamp) {
        let Prompt::Deferred { asked_at: Some(asked_at), .. } = episode.prompt else { return };
        if observed_at >= asked_at && self.incident.is_none() {
            self.end_deferral(episode);
        }
    }

    /// An operator decides that the user is prompted although the link is muted or its institution has an incident. The mute ends. The pause
    /// after another message to the person and the quiet hours stay, because they protect the user and end by themselves; so does the short
    /// wait for the first read of a link.
    pub(super) fn release(&mut self, state: &mut State) -> Result<(), Refusal> {
        let (State::Invalid { episode } | State::TokenRequired { episode }) = state else {
            return Err(Refusal::NothingHeld);
        };
        if episode.superseded_by.is_some() {
            return Err(Refusal::AlreadyKnown);
        }
        let is_deferred = match episode.prompt {
            Prompt::Deferred { .. } => true,
            // After its present wait, the prompt would wait for the end of the incident.
            Prompt::Postponed { .. } | Prompt::Unidentified { .. } => self.is_deferred(episode),
            Prompt::Sent | Prompt::Muted => false,
        };
        if episode.prompt == Prompt::Sent || !(self.link.muted || is_deferred) {
            return Err(Refusal::NothingHeld);
        }
        self.link.muted = false;
        // Its wait for the person's turn must not end in the same incident.
        episode.is_released = true;
        match episode.prompt {
            Prompt::Muted => self.identify_or(episode, Self::end_deferral),
            Prompt::Deferred { .. } => self.end_deferral(episode),
            Prompt::Postponed { .. } | Prompt::Unidentified { .. } | Prompt::Sent => {}
        }
        Ok(())
    }

    /// Emits the deferred prompt, unless the link is muted or its user may get no message now.
    fn end_deferral(&mut self, episode: &mut Episode) {
        episode.pause_reminders(self.now, self.policy);
        if self.link.muted {
            self.mute_prompt(episode);
        } else {
            self.send_prompt(episode);
        }
    }
}

/// How long a deferred prompt waits for Belvo's answer. After an incident thousands of links ask Belvo at once and
/// share one call budget, so the wait is longer than for a single link.
fn answer_wait(policy: &Policy) -> std::time::Duration {
    let settings = policy.settings();
    settings.incident_wait.max(settings.verify_wait) * settings.verify_attempts_max
}

//! An institution's incident: its links fail together, and nobody is asked for a password that is right.
//!
//! ```text
//!   opened in an incident ──▶ waits ──▶ incident over: Belvo is asked ──▶ `valid`: recovered, and nobody was asked
//!                              ▲   │                                 │
//!                              └───┘ still on: waits again           └──▶ still broken, or no answer: the one prompt
//! ```
//!
//! Whether the institution has one is a circumstance of the input ([`super::Input::incident`]): it is decided over many
//! links, and a link knows only itself. Without API keys nobody can be asked, and the prompt goes out when it is over.
//! A link that breaks while no incident is known is prompted at once: no prompt is ever delayed for a suspicion.

use super::draft::{Draft, Next};
use super::{Cause, Episode, Notice, Observation, Policy, Prompt, Refusal, State, Status, Timestamp};

impl Cause {
    /// Whether an institution that is in trouble makes Belvo say this of links whose users did nothing wrong. A consent
    /// ends by itself, and what Belvo does not support it did not support before.
    pub const fn may_be_the_institutions(self) -> bool {
        match self {
            Self::Credentials | Self::Token | Self::AccountBlocked => true,
            Self::ConsentEnded | Self::Unsupported => false,
        }
    }
}

impl Draft<'_> {
    /// What becomes of a prompt that would go out now.
    pub(super) fn prompt_for(&self, cause: Cause) -> Prompt {
        if self.link.muted {
            Prompt::Held
        } else if self.incident && cause.may_be_the_institutions() {
            self.wait_for_the_end()
        } else {
            Prompt::Sent
        }
    }

    fn wait_for_the_end(&self) -> Prompt {
        Prompt::Waiting { until: self.now.after(self.policy.settings().incident_wait), asked_at: None }
    }

    /// A broken link is due: its prompt waits, or a reminder does.
    pub(super) fn pass_broken_deadline(&mut self, mut state: State) -> Next {
        let Some((episode, until, asked_at)) = waiting(&mut state) else { return self.remind(state) };
        if self.now < until {
            return Err(Refusal::NotDue);
        }
        // Later evidence may have named another cause since.
        let may_pass = episode.cause.may_be_the_institutions();
        if self.incident && may_pass {
            episode.prompt = self.wait_for_the_end();
        } else if self.policy.can_verify() && may_pass && asked_at.is_none() {
            // A question that is under way was asked while the incident was: its answer would say what is known.
            self.link.verify_asked_at = Some(self.now);
            self.push_verify();
            episode.prompt =
                Prompt::Waiting { until: self.now.after(answer_wait(self.policy)), asked_at: Some(self.now) };
        } else {
            self.end_waiting(&mut state);
        }
        Ok(state)
    }

    /// A read of a broken link. One from after the question that says "still broken" ends the wait.
    pub(super) fn observe_broken_or_waiting(&mut self, mut state: State, seen: &Observation) -> Next {
        let asked_at = waiting(&mut state).and_then(|(_, _, asked_at)| asked_at);
        let still_broken = match seen.status {
            Status::Invalid | Status::TokenRequired => asked_at.is_some_and(|at| seen.observed_at >= at),
            Status::Valid | Status::Unconfirmed => false,
        };
        let observed = self.observe_broken(state.clone(), seen);
        // In the next incident the answer is worth nothing: it is waited for anew.
        if !still_broken || self.incident {
            return observed;
        }
        let mut state = match observed {
            Err(Refusal::AlreadyKnown) => state,
            observed => observed?,
        };
        self.end_waiting(&mut state);
        Ok(state)
    }

    /// The wait is over and the link still broken: the episode's one prompt is due.
    fn end_waiting(&mut self, state: &mut State) {
        let Some((episode, ..)) = waiting(state) else { return };
        episode.pause_reminders(self.now, self.policy);
        episode.prompt = if self.link.muted { Prompt::Held } else { Prompt::Sent };
        if episode.prompt == Prompt::Sent {
            let episode = episode.clone();
            self.tell(Notice::UpdateRequired, Some(&episode));
        }
    }
}

/// The episode whose prompt waits, until when, and when Belvo was asked whether it still has to be sent.
const fn waiting(state: &mut State) -> Option<(&mut Episode, Timestamp, Option<Timestamp>)> {
    let (State::Invalid { episode } | State::TokenRequired { episode, .. }) = state else { return None };
    match episode.prompt {
        Prompt::Waiting { until, asked_at } => Some((episode, until, asked_at)),
        Prompt::Sent | Prompt::Held => None,
    }
}

/// How long Belvo may take to answer. After an incident thousands of links ask at once and share one budget of calls, so
/// this is longer than for one link alone; a link that is still broken waits only for its turn.
fn answer_wait(policy: &Policy) -> std::time::Duration {
    let settings = policy.settings();
    settings.incident_wait.max(settings.verify_wait) * settings.verify_attempts_max
}

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
use super::{Cause, Episode, Notice, Policy, Prompt, Refusal, State, Timestamp};

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
    pub(super) fn pass_broken_deadline(&mut self, mut episode: Episode) -> Next {
        let Prompt::Waiting { until, asked_at } = episode.prompt else {
            return self.remind(episode).map(State::broken);
        };
        if self.now < until {
            return Err(Refusal::NotDue);
        }
        // Later evidence may have named another cause since.
        let may_pass = episode.cause.may_be_the_institutions();
        if self.incident && may_pass {
            episode.prompt = self.wait_for_the_end();
        } else if self.policy.can_verify() && may_pass && asked_at.is_none() {
            // A question that is under way was asked during the incident: its answer would say what is known.
            self.link.verify_asked_at = Some(self.now);
            self.push_verify();
            episode.prompt =
                Prompt::Waiting { until: self.now.after(answer_wait(self.policy)), asked_at: Some(self.now) };
        } else {
            self.end_waiting(&mut episode);
        }
        Ok(State::broken(episode))
    }

    /// Belvo was asked after the incident and says that the link is still broken: the prompt waits no longer. If another
    /// incident has begun meanwhile, the answer does not count, and the link waits for a new one.
    pub(super) fn end_waiting_by_answer(&mut self, episode: &mut Episode, observed_at: Timestamp) {
        let Prompt::Waiting { asked_at: Some(asked_at), .. } = episode.prompt else { return };
        if observed_at >= asked_at && !self.incident {
            self.end_waiting(episode);
        }
    }

    /// The wait is over and the link still broken: the episode's one prompt is due.
    fn end_waiting(&mut self, episode: &mut Episode) {
        episode.pause_reminders(self.now, self.policy);
        episode.prompt = if self.link.muted { Prompt::Held } else { Prompt::Sent };
        if episode.prompt == Prompt::Sent {
            self.tell(Notice::UpdateRequired, Some(episode));
        }
    }
}

/// How long Belvo may take to answer. After an incident thousands of links ask at once and share one budget of calls, so
/// this is longer than for one link alone; a link that is still broken waits only for its turn.
fn answer_wait(policy: &Policy) -> std::time::Duration {
    let settings = policy.settings();
    settings.incident_wait.max(settings.verify_wait) * settings.verify_attempts_max
}

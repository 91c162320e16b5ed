//! The deadlines of a link: when the machine has to look at it without a message.

use super::{AccessMode, Freshness, Link, Policy, Prompt, State, Timestamp, UpdatePhase};

impl Link {
    /// When the machine next has to get an [`super::Event::DeadlinePassed`] for this link; `None` if it waits for
    /// nothing.
    ///
    /// The deadline is computed from the link and the policy only, so that a rebuilt store has the same timers.
    pub fn deadline(&self, policy: &Policy) -> Option<Timestamp> {
        [self.deadline_of_state(policy), self.outage_deadline()].into_iter().flatten().min()
    }

    fn deadline_of_state(&self, policy: &Policy) -> Option<Timestamp> {
        match &self.state {
            State::Removed => None,
            State::Unconfirmed => self.creation_deadline(policy),
            State::Valid { suspicion } => {
                let suspicion_end = suspicion.as_ref().map(|evidence| evidence.until);
                let answer = suspicion.as_ref().and_then(|_| self.answer_deadline(policy));
                let refresh = self.refresh.as_ref().map(|refresh| refresh.until);
                let consent = self.consent_deadline(policy);
                [suspicion_end, answer, refresh, consent, self.staleness_deadline(policy)].into_iter().flatten().min()
            }
            State::Invalid { episode } | State::TokenRequired { episode } => {
                if let Prompt::Deferred { until, .. } | Prompt::Postponed { until } | Prompt::Unidentified { until } =
                    episode.prompt
                {
                    return Some(until);
                }
                self.reminder_deadline(episode, policy)
            }
            State::Updating {
                phase: UpdatePhase::WithUser { until, .. } | UpdatePhase::Verifying { until, .. },
                ..
            } => Some(*until),
        }
    }

    /// When an unanswered verify request is repeated.
    pub(super) fn answer_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let asked_at = self.verify_asked_at.filter(|_| policy.can_verify())?;
        Some(asked_at.after(policy.settings().verify_wait))
    }

    pub(super) fn staleness_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        match self.freshness {
            Freshness::Fresh if self.profile.access_mode == Some(AccessMode::Recurrent) => {
                let every = self.profile.refresh_every?;
                // The interval does not include an outage: it begins again at the recovery.
                let listening_since = self.data_at.max(self.recovered_at)?;
                Some(listening_since.after(every.saturating_mul(policy.settings().stale_after_intervals)))
            }
            Freshness::Probed { until } => Some(until),
            Freshness::Fresh | Freshness::Stale => None,
        }
    }
}

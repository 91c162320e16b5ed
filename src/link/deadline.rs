//! The deadlines of a link: when the machine has to look at it without a message, and why.

use super::{AccessMode, Due, Freshness, Link, Policy, Prompt, State, Timestamp, UpdatePhase};

/// What the machine does at a deadline, if no message changes the link before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadlineName {
    /// It asks Belvo whether the creation of the link is finished, or publishes that it is not.
    Creation,
    /// A report that nothing has refuted counts: the link is broken.
    Report,
    /// It asks Belvo again about a report, because there is no answer.
    Answer,
    /// It ends the wait for the data of the outage: it asks for the data, or does without it.
    Refresh,
    /// It publishes that the consent ends soon.
    ConsentNotice,
    /// The consent ends.
    ConsentEnd,
    /// It asks Belvo about the link because data is overdue, or publishes that the data is stale.
    Data,
    /// It prompts the user, or decides again whether the prompt has to wait.
    Prompt,
    /// It reminds the user, or finds out before whether the link works again.
    Reminder,
    /// It ends a part of the attempt to repair the link.
    Attempt,
    /// It looks whether the incident of the institution, of which the application was notified, is over.
    Incident,
}

/// When the machine has to look at a link, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time.
    pub at: Timestamp,
    /// The reason.
    pub name: DeadlineName,
}

impl Link {
    /// When the machine next has to get an [`super::Event::DeadlinePassed`] for this link; `None` if it waits for
    /// nothing.
    ///
    /// The deadline is computed from the link and the policy only, so that a rebuilt store has the same timers.
    pub fn deadline(&self, policy: &Policy) -> Option<Timestamp> {
        self.deadlines(policy).map(|deadline| deadline.at).min()
    }

    /// The deadline that a step at `now` handles: the first one that has passed.
    pub(super) fn passed_deadline(&self, now: Timestamp, policy: &Policy) -> Option<DeadlineName> {
        self.deadlines(policy).find(|deadline| deadline.at <= now).map(|deadline| deadline.name)
    }

    /// Everything that the machine waits for, in the order in which it handles what has passed: one deadline in a step.
    pub fn deadlines(&self, policy: &Policy) -> impl Iterator<Item = Deadline> {
        let incident = due(DeadlineName::Incident, self.outage_deadline());
        self.deadlines_of_state(policy).into_iter().chain([incident]).flatten()
    }

    fn deadlines_of_state(&self, policy: &Policy) -> [Option<Deadline>; 5] {
        let only = |name, at| [due(name, at), None, None, None, None];
        match &self.state {
            State::Removed => [None; 5],
            State::Unconfirmed => only(DeadlineName::Creation, self.creation_deadline(policy)),
            State::Valid { suspicion } => {
                let consent_at = self.consent_deadline(policy);
                let is_end = consent_at.is_some_and(|at| self.consent_due() == Due::At(at));
                let of_consent = if is_end { DeadlineName::ConsentEnd } else { DeadlineName::ConsentNotice };
                [
                    due(DeadlineName::Report, suspicion.as_ref().map(|evidence| evidence.until)),
                    due(DeadlineName::Answer, suspicion.as_ref().and_then(|_| self.answer_deadline(policy))),
                    due(DeadlineName::Refresh, self.refresh.as_ref().map(|refresh| refresh.until)),
                    due(of_consent, consent_at),
                    due(DeadlineName::Data, self.staleness_deadline(policy)),
                ]
            }
            State::Invalid { episode } | State::TokenRequired { episode } => match episode.prompt {
                Prompt::Deferred { until, .. } | Prompt::Postponed { until } | Prompt::Unidentified { until } => {
                    only(DeadlineName::Prompt, Some(until))
                }
                Prompt::Sent | Prompt::Muted => only(DeadlineName::Reminder, self.reminder_deadline(episode, policy)),
            },
            State::Updating {
                phase: UpdatePhase::WithUser { until, .. } | UpdatePhase::Verifying { until, .. },
                ..
            } => only(DeadlineName::Attempt, Some(*until)),
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

fn due(name: DeadlineName, at: Option<Timestamp>) -> Option<Deadline> {
    at.map(|at| Deadline { at, name })
}

//! An attempt to repair: with the user, then with Belvo, and always to an end.

use super::breaking::fallback_of;
use super::draft::{Draft, Next};
use super::{
    Attempt, Breakage, Cause, Episode, Fallback, Notice, Observation, Phase, Proof, Refusal, State, Status, Timestamp,
};

impl Draft<'_> {
    pub(super) fn start_update(&mut self, state: State, until: Timestamp) -> Next {
        let Some(episode) = state.episode() else { return Err(Refusal::NotBroken) };
        let episode = Episode { attempts_count: episode.attempts_count + 1, ..episode.clone() };
        self.tell(Notice::UpdateStarted, Some(&episode));
        let phase = Phase::WithUser { until: self.cap(until) };
        Ok(State::Updating { fallback: fallback_of(episode.cause), episode, phase })
    }

    pub(super) fn restart_update(
        &mut self,
        episode: Episode,
        fallback: Fallback,
        phase: Phase,
        until: Timestamp,
    ) -> Next {
        let until = self.cap(until);
        let (attempts, until) = match phase {
            Phase::WithUser { until: earlier } if earlier >= until => return Err(Refusal::AlreadyKnown),
            Phase::WithUser { .. } => (0, until),
            Phase::Verifying { .. } => (1, until),
        };
        let episode = Episode { attempts_count: episode.attempts_count + attempts, ..episode };
        Ok(State::Updating { episode, fallback, phase: Phase::WithUser { until } })
    }

    /// A repair that was never announced (a PUT by the customer, a hosted widget) is a claim all the same.
    pub(super) fn claim_repair(&mut self, state: State) -> Next {
        let Some(episode) = state.episode() else { return Err(Refusal::NotBroken) };
        let episode = Episode { attempts_count: episode.attempts_count + 1, ..episode.clone() };
        Ok(self.verify_or(Attempt::Claimed, fallback_of(episode.cause), episode))
    }

    pub(super) fn claim_update(&mut self, episode: Episode, fallback: Fallback, phase: Phase) -> Next {
        match phase {
            Phase::Verifying { after: Attempt::Claimed, .. } => Err(Refusal::AlreadyKnown),
            Phase::WithUser { .. } | Phase::Verifying { after: Attempt::Abandoned | Attempt::TimedOut, .. } => {
                Ok(self.verify_or(Attempt::Claimed, fallback, episode))
            }
        }
    }

    pub(super) fn abandon(&mut self, episode: Episode, fallback: Fallback, phase: Phase) -> Next {
        match phase {
            Phase::WithUser { .. } => Ok(self.verify_or(Attempt::Abandoned, fallback, episode)),
            Phase::Verifying { .. } => Err(Refusal::AlreadyKnown),
        }
    }

    pub(super) fn end_attempt_by_session(&mut self, episode: Episode, fallback: Fallback, phase: Phase) -> Next {
        match phase {
            Phase::WithUser { .. } => Ok(self.verify_or(Attempt::TimedOut, fallback, episode)),
            Phase::Verifying { .. } => Err(Refusal::AlreadyKnown),
        }
    }

    /// The attempt is over as far as the user goes: ask Belvo, or decide without when Belvo cannot be asked.
    fn verify_or(&mut self, after: Attempt, fallback: Fallback, episode: Episode) -> State {
        if self.policy.can_verify() {
            return self.verify(after, 1, fallback, episode);
        }
        match after {
            Attempt::Claimed => self.recover(&episode, Proof::Claimed, None),
            Attempt::Abandoned | Attempt::TimedOut => self.fall_back(after, fallback, episode),
        }
    }

    fn verify(&mut self, after: Attempt, asked_count: u32, fallback: Fallback, episode: Episode) -> State {
        self.link.verify_asked_at = Some(self.now);
        self.push_verify();
        let until = self.now.after(self.policy.settings().verify_wait);
        State::Updating { episode, fallback, phase: Phase::Verifying { after, asked_count, until } }
    }

    /// Back to what was broken: the same episode, and no new prompt.
    fn fall_back(&mut self, after: Attempt, fallback: Fallback, mut episode: Episode) -> State {
        episode.pause_reminders(self.now, self.policy);
        episode.arrived.clear();
        self.link.verify_asked_at = None;
        self.tell(Notice::UpdateFailed { after }, Some(&episode));
        let mut state = match fallback {
            Fallback::Invalid => State::Invalid { episode },
            Fallback::TokenRequired => State::TokenRequired { episode, session: None },
        };
        self.release_prompt(&mut state);
        state
    }

    /// More evidence while the user is at it: it may change what we fall back to, and a new MFA session buys the user
    /// time.
    pub(super) fn restate_update(
        &mut self,
        episode: Episode,
        fallback: Fallback,
        phase: Phase,
        breakage: &Breakage,
    ) -> Next {
        let next_phase = match (phase, breakage.session) {
            (Phase::WithUser { until }, Some(session)) if breakage.during_update => {
                Phase::WithUser { until: self.cap(session.expires_at).max(until) }
            }
            (phase, _) => phase,
        };
        let next_fallback = fallback_of(breakage.cause);
        let before = episode.clone();
        let mut episode = episode;
        episode.take_in(breakage, self.now);
        if (next_fallback, next_phase, &episode) == (fallback, phase, &before) {
            return Err(Refusal::AlreadyKnown);
        }
        Ok(State::Updating { episode, fallback: next_fallback, phase: next_phase })
    }

    pub(super) fn observe_update(&mut self, episode: Episode, phase: Phase, seen: &Observation) -> Next {
        // Of a consent the link's status shows nothing, whatever the user says.
        let claimed = phase.is_claimed() && episode.cause != Cause::ConsentEnded;
        let observed = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid if seen.observed_at < episode.opened_at => return Err(Refusal::Stale),
            Status::Valid if claimed || episode.is_ended_by(seen) => {
                return Ok(self.recover(&episode, Proof::Observed, Some(seen)));
            }
            Status::Valid => {
                let cause = episode.cause;
                return self.find_unrepaired(episode, phase, seen.observed_at, cause);
            }
            Status::Invalid => self.cause_of_invalid(),
            Status::TokenRequired => Cause::Token,
        };
        // Now Belvo's status says so, too.
        let episode = Episode { refused_at: None, ..episode };
        self.find_unrepaired(episode, phase, seen.observed_at, observed)
    }

    /// Belvo was read while the user was at it, or has been, and the link is as broken as `observed` says.
    pub(super) fn find_unrepaired(
        &mut self,
        episode: Episode,
        phase: Phase,
        observed_at: Timestamp,
        observed: Cause,
    ) -> Next {
        match phase {
            Phase::Verifying { after: after @ (Attempt::Abandoned | Attempt::TimedOut), .. } => {
                if self.link.verify_asked_at.is_some_and(|asked_at| observed_at < asked_at) {
                    return Err(Refusal::Stale);
                }
                // Belvo's status is coarser than what we know of the cause: it only overrules what it contradicts.
                let agrees = fallback_of(observed) == fallback_of(episode.cause);
                let cause = if agrees { episode.cause } else { observed };
                Ok(self.fall_back(after, fallback_of(cause), Episode { cause, ..episode }))
            }
            // The user is still at it, or Belvo's status lags behind the claim: the deadline decides.
            Phase::WithUser { .. } | Phase::Verifying { after: Attempt::Claimed, .. } => Err(Refusal::AlreadyKnown),
        }
    }

    pub(super) fn pass_update_deadline(&mut self, episode: Episode, fallback: Fallback, phase: Phase) -> Next {
        match phase {
            Phase::WithUser { until } | Phase::Verifying { until, .. } if self.now < until => Err(Refusal::NotDue),
            Phase::WithUser { .. } => Ok(self.verify_or(Attempt::TimedOut, fallback, episode)),
            Phase::Verifying { after, asked_count, .. } => {
                let may_ask = self.policy.can_verify() && asked_count < self.policy.settings().verify_attempts_max;
                Ok(if may_ask {
                    self.verify(after, asked_count + 1, fallback, episode)
                } else {
                    self.fall_back(after, fallback, episode)
                })
            }
        }
    }

    fn cap(&self, until: Timestamp) -> Timestamp {
        until.min(self.now.after(self.policy.settings().update_wait_max))
    }
}

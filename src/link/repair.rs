//! An attempt to repair a link: first its user is in the widget, then Belvo is asked whether the link works. Every
//! attempt has a deadline.

use super::builder::{Next, TransitionBuilder};
use super::refresh::with_arrival;
use super::upkeep::shows_access;
use super::{
    AttemptEnd, Breakage, Cause, Data, Episode, LinkObservation, Notice, Proof, Refusal, State, Status, Timestamp,
    UpdatePhase,
};

impl TransitionBuilder<'_> {
    pub(super) fn start_update(&mut self, episode: Episode, until: Timestamp) -> Next {
        Ok(self.begin_attempt(episode, self.cap_until(until)))
    }

    /// Begins an attempt: the user is in the widget until `until`.
    pub(super) fn begin_attempt(&mut self, episode: Episode, until: Timestamp) -> State {
        let attempts_count = episode.attempts_count + 1;
        let episode = Episode { attempts_count, session: None, ..episode };
        self.link.widget_until = None;
        self.emit(Notice::UpdateStarted, Some(&episode));
        State::Updating { episode, phase: UpdatePhase::WithUser { started_at: self.now, until } }
    }

    /// A widget token was minted although no outage is known: the message about the outage may be late. Belvo is asked,
    /// and the link remembers until when the token is valid.
    pub(super) fn enter_widget(&mut self, state: State, until: Timestamp) -> Next {
        let asked = self.request_verification();
        if self.note_widget(until) || asked { Ok(state) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Another widget token was minted during an attempt. The token extends the time in the widget, but never cancels
    /// the verification of a claimed repair: some pages mint a token each time they are loaded, also right after the
    /// success.
    pub(super) fn restart_update(&mut self, episode: Episode, phase: UpdatePhase, until: Timestamp) -> Next {
        let phase = match phase {
            UpdatePhase::WithUser { started_at, until: earlier } => {
                let latest = started_at.after(self.policy.settings().update_wait_max);
                let until = until.min(latest);
                if earlier >= until {
                    return Err(Refusal::AlreadyKnown);
                }
                UpdatePhase::WithUser { started_at, until }
            }
            UpdatePhase::Verifying { .. } if self.note_widget(until) => phase,
            UpdatePhase::Verifying { .. } => return Err(Refusal::AlreadyKnown),
        };
        Ok(State::Updating { episode, phase })
    }

    /// Remembers until when the user holds a widget token outside of an attempt. Returns whether this extends the known
    /// time.
    pub(super) fn note_widget(&mut self, until: Timestamp) -> bool {
        let until = self.cap_until(until);
        let is_news = until > self.now && self.widget_until().is_none_or(|known| until > known);
        if is_news {
            self.link.widget_until = Some(until);
        }
        is_news
    }

    /// The user left the widget, and no attempt in the widget is open.
    pub(super) fn leave_widget(&mut self, state: State) -> Next {
        match self.widget_until() {
            Some(_) => {
                self.link.widget_until = None;
                Ok(state)
            }
            None => Err(Refusal::NotUpdating),
        }
    }

    /// A claimed repair without a minted token before it (a PUT by the customer, a hosted widget) counts as an attempt
    /// too.
    pub(super) fn claim_repair(&mut self, episode: Episode) -> Next {
        let attempts_count = episode.attempts_count + 1;
        Ok(self.verify_or(AttemptEnd::Claimed, Episode { attempts_count, session: None, ..episode }))
    }

    pub(super) fn claim_update(&mut self, episode: Episode, phase: UpdatePhase) -> Next {
        let in_widget_again = self.widget_until().is_some();
        let attempts_count = episode.attempts_count + u32::from(in_widget_again);
        self.link.widget_until = None;
        match phase {
            UpdatePhase::Verifying { after: AttemptEnd::Claimed, .. } if !in_widget_again => Err(Refusal::AlreadyKnown),
            UpdatePhase::WithUser { .. } | UpdatePhase::Verifying { .. } => {
                Ok(self.verify_or(AttemptEnd::Claimed, Episode { attempts_count, ..episode }))
            }
        }
    }

    pub(super) fn abandon(&mut self, episode: Episode, phase: UpdatePhase) -> Next {
        match phase {
            UpdatePhase::WithUser { .. } => Ok(self.verify_or(AttemptEnd::Abandoned, episode)),
            UpdatePhase::Verifying { .. } => {
                self.leave_widget(State::Updating { episode, phase }).map_err(|_not_in_widget| Refusal::AlreadyKnown)
            }
        }
    }

    pub(super) fn end_attempt_by_session(&mut self, episode: Episode, phase: UpdatePhase) -> Next {
        match phase {
            UpdatePhase::WithUser { .. } => Ok(self.verify_or(AttemptEnd::TimedOut, episode)),
            UpdatePhase::Verifying { .. } => Err(Refusal::AlreadyKnown),
        }
    }

    /// The user's part of the attempt is over. Asks Belvo for the status; without API keys the end of the attempt
    /// decides.
    pub(super) fn verify_or(&mut self, after: AttemptEnd, episode: Episode) -> State {
        if self.policy.can_verify() {
            return self.verify(after, 1, episode);
        }
        match after {
            AttemptEnd::Claimed => self.recover(&episode, Proof::Claimed, None),
            AttemptEnd::Abandoned | AttemptEnd::TimedOut => self.fall_back(after, episode),
        }
    }

    fn verify(&mut self, after: AttemptEnd, asked_count: u32, episode: Episode) -> State {
        self.link.verify_asked_at = Some(self.now);
        self.push_verify_job();
        let until = self.now.after(self.policy.settings().verify_wait);
        State::Updating { episode, phase: UpdatePhase::Verifying { after, asked_count, until } }
    }

    /// The attempt failed: the link returns to the broken state of the same episode. The prompt is emitted only if it
    /// was muted for this attempt. A reminder that may not be postponed any more is emitted now. If the user has opened
    /// the widget again, the next attempt begins at once.
    fn fall_back(&mut self, after: AttemptEnd, mut episode: Episode) -> State {
        episode.postpone_reminder(self.now, self.policy);
        episode.arrived.clear();
        self.link.verify_asked_at = None;
        self.emit(Notice::UpdateFailed { after }, Some(&episode));
        self.release_prompt(&mut episode);
        let episode = self.remind(episode.clone()).unwrap_or(episode);
        match self.widget_until() {
            Some(until) => self.begin_attempt(episode, until),
            None => State::broken(episode),
        }
    }

    /// Further evidence during an attempt. The evidence may change the cause, and so the state after a failed attempt.
    /// A new MFA session extends the user's time.
    pub(super) fn refine_update(&mut self, before: Episode, phase: UpdatePhase, breakage: &Breakage) -> Next {
        let next_phase = match (phase, breakage.session) {
            (UpdatePhase::WithUser { started_at, until }, Some(session)) if breakage.during_update => {
                UpdatePhase::WithUser { started_at, until: self.cap_until(session.expires_at).max(until) }
            }
            (phase, _) => phase,
        };
        let mut episode = before.clone();
        episode.apply_evidence(breakage, self.now);
        episode.session = None;
        if (next_phase, &episode) == (phase, &before) {
            return Err(Refusal::AlreadyKnown);
        }
        Ok(State::Updating { episode, phase: next_phase })
    }

    pub(super) fn observe_update(&mut self, episode: Episode, phase: UpdatePhase, seen: &LinkObservation) -> Next {
        // The status of the link does not show the consent, so a claim and a `valid` do not prove a renewal.
        let claimed = phase.is_claimed() && episode.cause != Cause::ConsentEnded;
        let observed = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid if seen.observed_at < episode.known_since() => return Err(Refusal::Outdated),
            Status::Valid if claimed || episode.is_ended_by(seen) => {
                return Ok(self.recover(&episode, Proof::Observed, Some(seen)));
            }
            Status::Valid => {
                let cause = episode.cause;
                return self.observe_unrepaired(episode, phase, seen.observed_at, cause);
            }
            Status::Invalid => self.cause_of_invalid(),
            Status::TokenRequired => Cause::Token,
        };
        // Belvo's status shows the outage now, and data that arrived before this observation proves nothing.
        let episode = Episode { refused_at: None, arrived: Vec::new(), ..episode };
        self.observe_unrepaired(episode, phase, seen.observed_at, observed)
    }

    /// An observation during an attempt says that the link is still broken, by the cause `observed`.
    pub(super) fn observe_unrepaired(
        &mut self,
        episode: Episode,
        phase: UpdatePhase,
        observed_at: Timestamp,
        observed: Cause,
    ) -> Next {
        match phase {
            UpdatePhase::Verifying { after: after @ (AttemptEnd::Abandoned | AttemptEnd::TimedOut), .. } => {
                if self.link.verify_asked_at.is_some_and(|asked_at| observed_at < asked_at) {
                    return Err(Refusal::Outdated);
                }
                // Belvo's status is coarser than the known cause, so it replaces only a cause that contradicts it.
                let agrees = observed.requires_token() == episode.cause.requires_token();
                let cause = if agrees { episode.cause } else { observed };
                Ok(self.fall_back(after, Episode { cause, ..episode }))
            }
            // The user is still in the widget, or Belvo's status lags behind the claim, so the deadline of the attempt
            // decides. The verify request is answered and closed, so that the next hint can make a new one.
            UpdatePhase::WithUser { .. } | UpdatePhase::Verifying { after: AttemptEnd::Claimed, .. } => {
                if !self.accept_answer(observed_at) {
                    return Err(Refusal::AlreadyKnown);
                }
                Ok(State::Updating { episode, phase })
            }
        }
    }

    /// Data during an attempt. The data may have arrived before the outage, so Belvo is asked. Without API keys, it
    /// proves the repair.
    pub(super) fn take_data_while_updating(&mut self, episode: Episode, phase: UpdatePhase, data: &Data) -> Next {
        if !shows_access(data) {
            return self.verify_after_data(State::Updating { episode, phase }, data);
        }
        if !self.policy.can_verify() {
            return Ok(self.recover_by_data(&episode, data));
        }
        self.emit(Notice::DataAvailable(data.clone()), Some(&episode));
        self.request_verification();
        let arrived = with_arrival(episode.arrived, data);
        Ok(State::Updating { episode: Episode { arrived, ..episode }, phase })
    }

    pub(super) fn pass_update_deadline(&mut self, episode: Episode, phase: UpdatePhase) -> Next {
        match phase {
            UpdatePhase::WithUser { until, .. } | UpdatePhase::Verifying { until, .. } if self.now < until => {
                Err(Refusal::NotDue)
            }
            UpdatePhase::WithUser { .. } => Ok(self.verify_or(AttemptEnd::TimedOut, episode)),
            UpdatePhase::Verifying { after, asked_count, .. } => {
                let may_ask = self.policy.can_verify() && asked_count < self.policy.settings().verify_attempts_max;
                Ok(if may_ask { self.verify(after, asked_count + 1, episode) } else { self.fall_back(after, episode) })
            }
        }
    }

    pub(super) fn cap_until(&self, until: Timestamp) -> Timestamp {
        until.min(self.now.after(self.policy.settings().update_wait_max))
    }
}

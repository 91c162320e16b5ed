//! An attempt to repair: with the user, then with Belvo, and always to an end.

use super::draft::{Draft, Next};
use super::refresh::with_arrival;
use super::upkeep::shows_access;
use super::{
    Attempt, Breakage, Cause, Data, Episode, Notice, Observation, Phase, Proof, Refusal, State, Status, Timestamp,
};

impl Draft<'_> {
    pub(super) fn start_update(&mut self, episode: Episode, until: Timestamp) -> Next {
        Ok(self.begin_attempt(episode, self.cap(until)))
    }

    /// The user is in the widget until `until`.
    pub(super) fn begin_attempt(&mut self, episode: Episode, until: Timestamp) -> State {
        let attempts_count = episode.attempts_count + 1;
        let episode = Episode { attempts_count, session: None, ..episode };
        self.link.widget_until = None;
        self.tell(Notice::UpdateStarted, Some(&episode));
        State::Updating { episode, phase: Phase::WithUser { started_at: self.now, until } }
    }

    /// No outage is known, and the user is in the widget all the same: its report may be late. Belvo is asked, and the
    /// user's presence is remembered for as long as the token lives.
    pub(super) fn enter_widget(&mut self, state: State, until: Timestamp) -> Next {
        let asked = self.ask_belvo();
        if self.note_widget(until) || asked { Ok(state) } else { Err(Refusal::AlreadyKnown) }
    }

    /// One more token while an attempt is under way. It never takes back the user's word that the repair succeeded: a
    /// page that mints a token each time it is drawn does so right after the success, too.
    pub(super) fn restart_update(&mut self, episode: Episode, phase: Phase, until: Timestamp) -> Next {
        let phase = match phase {
            Phase::WithUser { started_at, until: earlier } => {
                let latest = started_at.after(self.policy.settings().update_wait_max);
                let until = until.min(latest);
                if earlier >= until {
                    return Err(Refusal::AlreadyKnown);
                }
                Phase::WithUser { started_at, until }
            }
            Phase::Verifying { .. } if self.note_widget(until) => phase,
            Phase::Verifying { .. } => return Err(Refusal::AlreadyKnown),
        };
        Ok(State::Updating { episode, phase })
    }

    /// Remembers until when the user holds a token that no attempt accounts for; whether that is later than known.
    pub(super) fn note_widget(&mut self, until: Timestamp) -> bool {
        let until = self.cap(until);
        let is_news = until > self.now && self.widget_until().is_none_or(|known| until > known);
        if is_news {
            self.link.widget_until = Some(until);
        }
        is_news
    }

    /// The user left the widget; there was no attempt that this could end.
    pub(super) fn leave_widget(&mut self, state: State) -> Next {
        match self.widget_until() {
            Some(_) => {
                self.link.widget_until = None;
                Ok(state)
            }
            None => Err(Refusal::NotUpdating),
        }
    }

    /// A repair that was never announced (a PUT by the customer, a hosted widget) is a claim all the same.
    pub(super) fn claim_repair(&mut self, episode: Episode) -> Next {
        let attempts_count = episode.attempts_count + 1;
        Ok(self.verify_or(Attempt::Claimed, Episode { attempts_count, session: None, ..episode }))
    }

    pub(super) fn claim_update(&mut self, episode: Episode, phase: Phase) -> Next {
        let in_widget_again = self.widget_until().is_some();
        let attempts_count = episode.attempts_count + u32::from(in_widget_again);
        self.link.widget_until = None;
        match phase {
            Phase::Verifying { after: Attempt::Claimed, .. } if !in_widget_again => Err(Refusal::AlreadyKnown),
            Phase::WithUser { .. } | Phase::Verifying { .. } => {
                Ok(self.verify_or(Attempt::Claimed, Episode { attempts_count, ..episode }))
            }
        }
    }

    pub(super) fn abandon(&mut self, episode: Episode, phase: Phase) -> Next {
        match phase {
            Phase::WithUser { .. } => Ok(self.verify_or(Attempt::Abandoned, episode)),
            Phase::Verifying { .. } => {
                self.leave_widget(State::Updating { episode, phase }).map_err(|_nobody_in_it| Refusal::AlreadyKnown)
            }
        }
    }

    pub(super) fn end_attempt_by_session(&mut self, episode: Episode, phase: Phase) -> Next {
        match phase {
            Phase::WithUser { .. } => Ok(self.verify_or(Attempt::TimedOut, episode)),
            Phase::Verifying { .. } => Err(Refusal::AlreadyKnown),
        }
    }

    /// The attempt is over as far as the user goes: ask Belvo, or decide without when Belvo cannot be asked.
    fn verify_or(&mut self, after: Attempt, episode: Episode) -> State {
        if self.policy.can_verify() {
            return self.verify(after, 1, episode);
        }
        match after {
            Attempt::Claimed => self.recover(&episode, Proof::Claimed, None),
            Attempt::Abandoned | Attempt::TimedOut => self.fall_back(after, episode),
        }
    }

    fn verify(&mut self, after: Attempt, asked_count: u32, episode: Episode) -> State {
        self.link.verify_asked_at = Some(self.now);
        self.push_verify();
        let until = self.now.after(self.policy.settings().verify_wait);
        State::Updating { episode, phase: Phase::Verifying { after, asked_count, until } }
    }

    /// Back to the broken state: the same episode, and no new prompt, unless its one prompt was held back for the attempt.
    /// A reminder that was put off for earlier attempts is not put off for ever. A user who has opened the widget again
    /// meanwhile begins the next attempt.
    fn fall_back(&mut self, after: Attempt, mut episode: Episode) -> State {
        episode.postpone_reminder(self.now, self.policy);
        episode.arrived.clear();
        self.link.verify_asked_at = None;
        self.tell(Notice::UpdateFailed { after }, Some(&episode));
        self.release_prompt(&mut episode);
        let episode = self.remind(episode.clone()).unwrap_or(episode);
        match self.widget_until() {
            Some(until) => self.begin_attempt(episode, until),
            None => State::broken(episode),
        }
    }

    /// More evidence while the user is at it: it may change the cause, and with it the state that a failed attempt goes back
    /// to; and a new MFA session buys the user time.
    pub(super) fn restate_update(&mut self, before: Episode, phase: Phase, breakage: &Breakage) -> Next {
        let next_phase = match (phase, breakage.session) {
            (Phase::WithUser { started_at, until }, Some(session)) if breakage.during_update => {
                Phase::WithUser { started_at, until: self.cap(session.expires_at).max(until) }
            }
            (phase, _) => phase,
        };
        let mut episode = before.clone();
        episode.take_in(breakage, self.now);
        episode.session = None;
        if (next_phase, &episode) == (phase, &before) {
            return Err(Refusal::AlreadyKnown);
        }
        Ok(State::Updating { episode, phase: next_phase })
    }

    pub(super) fn observe_update(&mut self, episode: Episode, phase: Phase, seen: &Observation) -> Next {
        // Of a consent the link's status shows nothing, whatever the user says.
        let claimed = phase.is_claimed() && episode.cause != Cause::ConsentEnded;
        let observed = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid if seen.observed_at < episode.known_since() => return Err(Refusal::Stale),
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
        // Now Belvo's status says so, too; and data that came before it was late.
        let episode = Episode { refused_at: None, arrived: Vec::new(), ..episode };
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
                // Belvo's status is coarser than the known cause: it only overrules a cause that it contradicts.
                let agrees = observed.wants_token() == episode.cause.wants_token();
                let cause = if agrees { episode.cause } else { observed };
                Ok(self.fall_back(after, Episode { cause, ..episode }))
            }
            // The user is still at it, or Belvo's status lags behind the claim: the deadline decides. The question is
            // answered all the same, so that the next hint asks again.
            Phase::WithUser { .. } | Phase::Verifying { after: Attempt::Claimed, .. } => {
                if !self.take_answer(observed_at) {
                    return Err(Refusal::AlreadyKnown);
                }
                Ok(State::Updating { episode, phase })
            }
        }
    }

    /// Data while the user is at it may have come before the outage: Belvo is asked. Nobody can be asked without keys; then
    /// data that arrives during an attempt proves the repair.
    pub(super) fn take_data_while_updating(&mut self, episode: Episode, phase: Phase, data: &Data) -> Next {
        if !shows_access(data) {
            return self.ask_about_data(State::Updating { episode, phase }, data);
        }
        if !self.policy.can_verify() {
            return Ok(self.recover_by_data(&episode, data));
        }
        self.tell(Notice::DataAvailable(data.clone()), Some(&episode));
        self.ask_belvo();
        let arrived = with_arrival(episode.arrived, data);
        Ok(State::Updating { episode: Episode { arrived, ..episode }, phase })
    }

    pub(super) fn pass_update_deadline(&mut self, episode: Episode, phase: Phase) -> Next {
        match phase {
            Phase::WithUser { until, .. } | Phase::Verifying { until, .. } if self.now < until => Err(Refusal::NotDue),
            Phase::WithUser { .. } => Ok(self.verify_or(Attempt::TimedOut, episode)),
            Phase::Verifying { after, asked_count, .. } => {
                let may_ask = self.policy.can_verify() && asked_count < self.policy.settings().verify_attempts_max;
                Ok(if may_ask { self.verify(after, asked_count + 1, episode) } else { self.fall_back(after, episode) })
            }
        }
    }

    pub(super) fn cap(&self, until: Timestamp) -> Timestamp {
        until.min(self.now.after(self.policy.settings().update_wait_max))
    }
}

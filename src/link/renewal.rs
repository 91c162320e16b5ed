//! The machine's reactions to a consent: it announces the end, opens an episode when the consent has ended, and ends
//! the episode after a renewal.
//!
//! Belvo announces the end of a consent only to customers who asked its support for it, and sends nothing when a
//! consent is revoked. So relink has a timer for the due date, and reads the consent whenever it reads the link.

use std::time::Duration;

use super::asking::{Held, Turn};
use super::builder::{Next, TransitionBuilder};
use super::{
    Breakage, Cause, Consent, ConsentObservation, ConsentStatus, Due, Episode, Need, Notice, Proof, Refusal, State,
    Suspicion, Timestamp, UpdatePhase,
};

impl TransitionBuilder<'_> {
    /// Emits `consent_expiring` for a working link, once for each due date and rung of the ladder. Belvo's webhook may come before the first
    /// rung; then it counts as that rung. Rungs that were missed, for example in an outage, are left out. If the user may get no message now,
    /// the notice is postponed, at most to the due date.
    ///
    /// A date such as `0001-01-01` cannot be right: no notice is emitted for it, and Belvo is asked for the consent.
    pub(super) fn announce_consent_end(&mut self, state: State) -> Next {
        if self.due_is_unreadable {
            return self.request_verification_or(state, Refusal::AlreadyKnown);
        }
        let due = self.link.consent_due();
        let rung = due.at().and_then(|due_at| self.rung_at(due_at));
        let is_known = |consent: &Consent| {
            // Without a due date there is one notice, and no ladder.
            let is_of_rung = rung.is_none() || consent.rung.is_some_and(|announced| Some(announced) <= rung);
            consent.announced == Some(due) && is_of_rung
        };
        let is_off = due.at().is_some() && rung.is_none();
        // A mention counts as this rung if it was the reason for the mention.
        let pause = self.policy.reminder_pause();
        let rung_begins_at = due.at().zip(rung).map(|(due_at, rung)| due_at.before(rung));
        let counts = |need: &Need, at: Timestamp| {
            let is_of_rung = rung_begins_at.is_some_and(|begins_at| begins_at <= at.after(pause));
            matches!(need, Need::Renewal { due_at } if due == Due::At(*due_at) && is_of_rung)
        };
        let turn = self.turn(counts, rung_begins_at.map_or(self.now, |at| at.after(pause)));
        let successor = self.successor();
        let consent = self.link.profile.consent.get_or_insert_default();
        let is_postponed = consent.postponed_until.is_some_and(|until| self.now < until);
        if self.link.muted || is_off || is_postponed || is_known(consent) || due == Due::Never || due.is_over(self.now)
        {
            return Err(Refusal::AlreadyKnown);
        }
        // While the institution is down nobody can renew it.
        let wait = self.incident.map(|_began_at| self.now.after(self.policy.settings().incident_wait));
        if turn == Turn::Now && wait.is_some() {
            self.held = Some(Held::Incident);
        }
        let postponed_until = match turn {
            Turn::After { until, .. } => Some(until),
            Turn::Now => wait,
            Turn::Mentioned => None,
        };
        if successor.is_none()
            && let Some(until) = postponed_until
        {
            consent.postponed_until = Some(until);
            return Ok(state);
        }
        (consent.announced, consent.rung, consent.postponed_until) = (Some(due), rung, None);
        // A user who has given a new consent, which is a new link, lets the old one end.
        if successor.is_some() {
            self.held = Some(Held::Superseded);
        } else if turn == Turn::Now {
            self.send_message(Notice::ConsentExpiring { due_at: due.at(), rung }, None);
        }
        Ok(state)
    }

    /// The rung of the ladder that has been reached, or the first one. `None` if the policy has no rungs.
    fn rung_at(&self, due_at: Timestamp) -> Option<Duration> {
        let rungs = &self.policy.settings().consent_notices;
        rungs.iter().rev().copied().find(|&rung| due_at.before(rung) <= self.now).or_else(|| rungs.first().copied())
    }

    /// A consent that ends soon has not ended yet, so the link works.
    pub(super) fn confirm_by_consent(&mut self) -> Next {
        let works = State::Valid { suspicion: None };
        Ok(self.announce_consent_end(works.clone()).unwrap_or(works))
    }

    /// A consent does not show whether the creation of the link was finished, so the state stays. The profile of the
    /// message, with the due date, is kept all the same.
    pub(super) fn observe_consent_while_unconfirmed(&self, seen: ConsentObservation) -> Next {
        match seen.status {
            ConsentStatus::Authorised => Err(Refusal::AlreadyKnown),
            ConsentStatus::Ended => Err(Refusal::CreationOnly),
        }
    }

    /// The due date of a working link's consent has changed. If the message does not contain the new date, Belvo is
    /// asked; without API keys the old date is dropped.
    pub(super) fn move_consent_end(&mut self, state: State) -> Next {
        if self.consent_moved {
            return Ok(state);
        }
        if self.policy.can_verify() {
            return self.request_verification_or(state, Refusal::AlreadyKnown);
        }
        self.link.profile.consent.get_or_insert_default().due = Due::Unknown;
        Ok(state)
    }

    /// For a link whose consent has ended, a changed due date is the claim that the consent was renewed.
    pub(super) fn claim_renewal(&mut self, episode: Episode) -> Next {
        if self.may_be_renewed(&episode) {
            self.claim_repair(episode)
        } else {
            self.request_verification_or(State::broken(episode), Refusal::AlreadyKnown)
        }
    }

    /// Like [`Self::claim_renewal`], during an attempt.
    pub(super) fn claim_renewal_while_updating(&mut self, episode: Episode, phase: UpdatePhase) -> Next {
        if self.may_be_renewed(&episode) {
            self.claim_update(episode, phase)
        } else {
            self.request_verification_or(State::Updating { episode, phase }, Refusal::AlreadyKnown)
        }
    }

    fn may_be_renewed(&self, episode: &Episode) -> bool {
        let is_over = self.consent_moved && self.link.consent_due().is_over(self.now);
        episode.cause == Cause::ConsentEnded && !is_over
    }

    pub(super) fn observe_consent_while_valid(
        &mut self,
        suspicion: Option<Suspicion>,
        seen: ConsentObservation,
    ) -> Next {
        match (seen.status, suspicion) {
            (ConsentStatus::Ended, _) if self.link.settle_window_start().is_some_and(|at| seen.observed_at < at) => {
                Err(Refusal::Outdated)
            }
            (ConsentStatus::Ended, _) => Ok(self.open(&Breakage::of(Cause::ConsentEnded))),
            // An authorised consent refutes the suspicion only with a due date in the future. Belvo's status may lag
            // behind an expired date.
            (ConsentStatus::Authorised, Some(evidence))
                if evidence.breakage.cause == Cause::ConsentEnded
                    && seen.observed_at >= evidence.at
                    && !self.link.consent_due().is_over(seen.observed_at) =>
            {
                Ok(State::Valid { suspicion: None })
            }
            (ConsentStatus::Authorised, _) => Err(Refusal::AlreadyKnown),
        }
    }

    pub(super) fn observe_consent_while_broken(&mut self, episode: Episode, seen: ConsentObservation) -> Next {
        match seen.status {
            ConsentStatus::Authorised if self.shows_renewal(&episode, seen, false) => {
                Ok(self.recover(&episode, Proof::Observed, None))
            }
            ConsentStatus::Authorised => Err(Refusal::AlreadyKnown),
            ConsentStatus::Ended if episode.cause == Cause::ConsentEnded => Err(Refusal::AlreadyKnown),
            ConsentStatus::Ended if seen.observed_at < self.link.since => Err(Refusal::Outdated),
            ConsentStatus::Ended => self.refine(episode, &Breakage::of(Cause::ConsentEnded)),
        }
    }

    pub(super) fn observe_consent_while_updating(
        &mut self,
        episode: Episode,
        phase: UpdatePhase,
        seen: ConsentObservation,
    ) -> Next {
        match seen.status {
            ConsentStatus::Authorised if self.shows_renewal(&episode, seen, phase.is_claimed()) => {
                Ok(self.recover(&episode, Proof::Observed, None))
            }
            ConsentStatus::Authorised => Err(Refusal::AlreadyKnown),
            ConsentStatus::Ended => self.observe_unrepaired(episode, phase, seen.observed_at, Cause::ConsentEnded),
        }
    }

    /// Whether an authorised consent ends this outage. The status alone is no proof, because a consent whose accounts
    /// were closed stays authorised (401 `consent_without_accounts`). A new due date, or the user's claim of a renewal,
    /// is needed as well.
    fn shows_renewal(&self, episode: &Episode, seen: ConsentObservation, claimed: bool) -> bool {
        episode.cause == Cause::ConsentEnded
            && (claimed || self.consent_moved)
            && seen.observed_at >= episode.known_since()
            && !self.link.consent_due().is_over(seen.observed_at)
    }

    /// The consent has to be announced, or its due date has passed. A passed date is a suspicion that the link is
    /// broken: Belvo is asked.
    pub(super) fn pass_consent_deadline(&mut self, suspicion: Option<Suspicion>) -> Next {
        let Due::At(due_at) = self.link.consent_due() else {
            return self.announce_consent_end(State::Valid { suspicion });
        };
        if self.now < due_at {
            return self.announce_consent_end(State::Valid { suspicion });
        }
        self.link.profile.consent.get_or_insert_default().passed = Some(due_at);
        let wait =
            if self.policy.can_verify() { self.policy.answer_wait() } else { self.policy.settings().settle_window };
        Ok(self.suspect(suspicion, &Breakage::of(Cause::ConsentEnded), self.now.after(wait)))
    }

    /// The cause when Belvo's status is `invalid`. A link with a consent has no credentials that could be wrong.
    pub(super) const fn cause_of_invalid(&self) -> Cause {
        if self.link.profile.consent.is_some() { Cause::ConsentEnded } else { Cause::Credentials }
    }
}

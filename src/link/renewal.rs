//! What is done about a link's consent: its end announced, believed, and undone.
//!
//! Belvo announces the end only to customers who asked for it, and says nothing at all of a consent that was revoked. So
//! the link has a timer of its own on the due date, and the consent is read where the link is.

use super::draft::{Draft, Next};
use super::{
    Breakage, Cause, ConsentObservation, ConsentStatus, Due, Episode, Notice, Phase, Proof, Refusal, State, Suspicion,
};

impl Draft<'_> {
    /// Tells the user of a working link, once for each due date.
    ///
    /// A date such as `0001-01-01` stands for none: nobody is told to renew because of it, and Belvo is asked for the consent.
    pub(super) fn announce_consent_end(&mut self, state: State) -> Next {
        if self.due_is_unreadable {
            return self.ask_or(state, Refusal::AlreadyKnown);
        }
        let due = self.link.consent_due();
        let muted = self.link.muted;
        let consent = self.link.profile.consent.get_or_insert_default();
        if muted || consent.announced == Some(due) || due == Due::Never || due.is_over(self.now) {
            return Err(Refusal::AlreadyKnown);
        }
        consent.announced = Some(due);
        self.tell(Notice::ConsentExpiring { due_at: due.at() }, None);
        Ok(state)
    }

    /// A consent that is about to end has not ended: the link works.
    pub(super) fn confirm_by_consent(&mut self) -> Next {
        let works = State::Valid { suspicion: None };
        Ok(self.announce_consent_end(works.clone()).unwrap_or(works))
    }

    /// A consent says nothing of whether the link was ever finished; its date is worth knowing.
    pub(super) fn hear_of_consent(&self, seen: ConsentObservation) -> Next {
        match seen.status {
            ConsentStatus::Authorised => Err(Refusal::AlreadyKnown),
            ConsentStatus::Ended => Err(Refusal::CreationOnly),
        }
    }

    /// The end of a working link's consent has moved; where the message does not say to when, Belvo is asked, or the date
    /// that was known is no longer counted on.
    pub(super) fn move_consent_end(&mut self, state: State) -> Next {
        if self.consent_moved {
            return Ok(state);
        }
        if self.policy.can_verify() {
            return self.ask_or(state, Refusal::AlreadyKnown);
        }
        self.link.profile.consent.get_or_insert_default().due = Due::Unknown;
        Ok(state)
    }

    /// On a link whose consent has ended the same message says that it was renewed.
    pub(super) fn claim_renewal(&mut self, episode: Episode) -> Next {
        if self.may_be_renewed(&episode) {
            self.claim_repair(episode)
        } else {
            self.ask_or(State::broken(episode), Refusal::AlreadyKnown)
        }
    }

    /// The same while the user is at it.
    pub(super) fn claim_renewal_while_updating(&mut self, episode: Episode, phase: Phase) -> Next {
        if self.may_be_renewed(&episode) {
            self.claim_update(episode, phase)
        } else {
            self.ask_or(State::Updating { episode, phase }, Refusal::AlreadyKnown)
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
            (ConsentStatus::Ended, _) if self.link.settled_since().is_some_and(|at| seen.observed_at < at) => {
                Err(Refusal::Stale)
            }
            (ConsentStatus::Ended, _) => Ok(self.open(&Breakage::of(Cause::ConsentEnded))),
            // An expired due date alone does not end the suspicion: Belvo's status may lag behind the date, so it must report
            // a new one.
            (ConsentStatus::Authorised, Some(held))
                if held.breakage.cause == Cause::ConsentEnded
                    && seen.observed_at >= held.at
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
            ConsentStatus::Ended if seen.observed_at < self.link.since => Err(Refusal::Stale),
            ConsentStatus::Ended => self.restate(episode, &Breakage::of(Cause::ConsentEnded)),
        }
    }

    pub(super) fn observe_consent_while_updating(
        &mut self,
        episode: Episode,
        phase: Phase,
        seen: ConsentObservation,
    ) -> Next {
        match seen.status {
            ConsentStatus::Authorised if self.shows_renewal(&episode, seen, phase.is_claimed()) => {
                Ok(self.recover(&episode, Proof::Observed, None))
            }
            ConsentStatus::Authorised => Err(Refusal::AlreadyKnown),
            ConsentStatus::Ended => self.find_unrepaired(episode, phase, seen.observed_at, Cause::ConsentEnded),
        }
    }

    /// Whether an authorised consent ends this outage. By itself it does not: a consent whose accounts were closed is
    /// authorised all the same (401 `consent_without_accounts`). A new date does, or the user's word that it was renewed.
    fn shows_renewal(&self, episode: &Episode, seen: ConsentObservation, claimed: bool) -> bool {
        episode.cause == Cause::ConsentEnded
            && (claimed || self.consent_moved)
            && seen.observed_at >= episode.known_since()
            && !self.link.consent_due().is_over(seen.observed_at)
    }

    /// The notice is due, or the end itself: then it is doubted that the link still works, and Belvo is asked.
    pub(super) fn pass_consent_deadline(&mut self, suspicion: Option<Suspicion>) -> Next {
        let Due::At(due_at) = self.link.consent_due() else { return Err(Refusal::NotDue) };
        if self.now < due_at {
            return self.announce_consent_end(State::Valid { suspicion });
        }
        self.link.profile.consent.get_or_insert_default().passed = Some(due_at);
        let wait =
            if self.policy.can_verify() { self.policy.answer_wait() } else { self.policy.settings().settle_window };
        Ok(self.doubt(suspicion, &Breakage::of(Cause::ConsentEnded), self.now.after(wait)))
    }

    /// What has to be mended when Belvo calls the link `invalid`: one with a consent has no credentials that could be
    /// wrong.
    pub(super) const fn cause_of_invalid(&self) -> Cause {
        if self.link.profile.consent.is_some() { Cause::ConsentEnded } else { Cause::Credentials }
    }
}

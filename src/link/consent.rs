//! The open-finance consent behind a link (Brazil): its end announced, believed, and undone.
//!
//! Such a link has no credentials; what breaks it is the end of its consent, and what repairs it is a renewal in Belvo's
//! portal, of which no app is told. Belvo announces the end only to customers who asked for it, and says nothing at all
//! of a consent that was revoked. So the link has a timer of its own on the due date, and the consent is read where the
//! link is.

use super::draft::{Draft, Next};
use super::{
    Breakage, Cause, ConsentEnd, ConsentObservation, ConsentStatus, Episode, Link, Notice, Phase, Policy, Proof,
    Refusal, State, Suspicion, Timestamp,
};

impl Draft<'_> {
    /// Tells the user of a working link, once for each due date.
    pub(super) fn announce_consent_end(&mut self, state: State) -> Next {
        let due_at = self.link.consent_due_at();
        let is_news = self.link.consent_end == ConsentEnd::Ahead && due_at.is_none_or(|at| self.now < at);
        if !is_news || self.link.muted {
            return Err(Refusal::AlreadyKnown);
        }
        self.link.consent_end = ConsentEnd::Announced;
        self.tell(Notice::ConsentExpiring { due_at }, None);
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

    /// The end of a working link's consent has moved; where the message does not say to when, Belvo is asked.
    pub(super) fn move_consent_end(&mut self, state: State) -> Next {
        if self.consent_moved {
            return Ok(state);
        }
        // Whatever date is known, it is no longer right.
        self.link.consent_end = ConsentEnd::Passed;
        self.ask_or(state, Refusal::AlreadyKnown)
    }

    /// On a link whose consent has ended the same message says that it was renewed.
    pub(super) fn claim_renewal(&mut self, state: State) -> Next {
        let ahead = self.link.consent_due_at().is_none_or(|at| !self.consent_moved || self.now < at);
        match state {
            State::Updating { episode, fallback, phase } if episode.cause == Cause::ConsentEnded && ahead => {
                self.claim_update(episode, fallback, phase)
            }
            State::Invalid { ref episode } if episode.cause == Cause::ConsentEnded && ahead => self.claim_repair(state),
            state => self.ask_or(state, Refusal::AlreadyKnown),
        }
    }

    pub(super) fn observe_consent_while_valid(
        &mut self,
        suspicion: Option<Suspicion>,
        seen: ConsentObservation,
    ) -> Next {
        match seen.status {
            ConsentStatus::Ended if self.link.recovered_at.is_some_and(|at| seen.observed_at < at) => {
                Err(Refusal::Stale)
            }
            ConsentStatus::Ended => Ok(self.open(&Breakage::of(Cause::ConsentEnded))),
            ConsentStatus::Authorised => match suspicion {
                Some(held) if held.breakage.cause == Cause::ConsentEnded && seen.observed_at >= held.at => {
                    Ok(State::Valid { suspicion: None })
                }
                Some(_) | None => Err(Refusal::AlreadyKnown),
            },
        }
    }

    pub(super) fn observe_consent_while_broken(&mut self, state: State, seen: ConsentObservation) -> Next {
        let Some(episode) = state.episode().cloned() else { return Err(Refusal::NotBroken) };
        match (seen.status, episode.cause) {
            (ConsentStatus::Authorised, Cause::ConsentEnded) if seen.observed_at < episode.opened_at => {
                Err(Refusal::Stale)
            }
            (ConsentStatus::Authorised, Cause::ConsentEnded) => Ok(self.recover(&episode, Proof::Observed, None)),
            (ConsentStatus::Authorised, _) | (ConsentStatus::Ended, Cause::ConsentEnded) => Err(Refusal::AlreadyKnown),
            (ConsentStatus::Ended, _) if seen.observed_at < self.link.since => Err(Refusal::Stale),
            (ConsentStatus::Ended, _) => self.restate(state, &Breakage::of(Cause::ConsentEnded)),
        }
    }

    pub(super) fn observe_consent_while_updating(
        &mut self,
        episode: Episode,
        phase: Phase,
        seen: ConsentObservation,
    ) -> Next {
        match (seen.status, episode.cause) {
            (ConsentStatus::Authorised, Cause::ConsentEnded) if seen.observed_at < episode.opened_at => {
                Err(Refusal::Stale)
            }
            (ConsentStatus::Authorised, Cause::ConsentEnded) => Ok(self.recover(&episode, Proof::Observed, None)),
            (ConsentStatus::Authorised, _) => Err(Refusal::AlreadyKnown),
            (ConsentStatus::Ended, _) => self.find_unrepaired(episode, phase, seen.observed_at, Cause::ConsentEnded),
        }
    }

    /// The notice is due, or the end itself: then it is doubted that the link still works, and Belvo is asked.
    pub(super) fn pass_consent_deadline(&mut self, suspicion: Option<Suspicion>) -> Next {
        if self.link.consent_due_at().is_none_or(|at| self.now < at) {
            return self.announce_consent_end(State::Valid { suspicion });
        }
        self.link.consent_end = ConsentEnd::Passed;
        let settings = self.policy.settings();
        let wait = if settings.can_verify {
            settings.verify_wait * settings.verify_attempts_max
        } else {
            settings.settle_window
        };
        Ok(self.doubt(suspicion, &Breakage::of(Cause::ConsentEnded), self.now.after(wait)))
    }

    /// What has to be mended when Belvo calls the link `invalid`: one with a consent has no credentials that could be
    /// wrong.
    pub(super) const fn cause_of_invalid(&self) -> Cause {
        if self.link.profile.consent.is_some() { Cause::ConsentEnded } else { Cause::Credentials }
    }
}

impl Link {
    pub(super) fn consent_due_at(&self) -> Option<Timestamp> {
        self.profile.consent.as_ref()?.due_at
    }

    /// When the end of a working link's consent is next of interest.
    pub(super) fn consent_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let due_at = self.consent_due_at()?;
        match self.consent_end {
            ConsentEnd::Ahead if !self.muted => Some(due_at.before(policy.settings().consent_notice)),
            ConsentEnd::Ahead | ConsentEnd::Announced => Some(due_at),
            ConsentEnd::Passed => None,
        }
    }
}

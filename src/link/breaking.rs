//! Losing trust in a link, and the outage while nobody mends it: the one prompt, doubts, news about the cause.

use super::draft::{Draft, Next};
use super::refresh::{counts_as_arrival, with_arrival};
use super::upkeep::refuse_errors;
use super::{
    Breakage, Cause, Data, Episode, Fallback, Notice, Observation, Prompt, Proof, Quiet, Refusal, Session, State,
    Status, Suspicion, Timestamp,
};

impl Draft<'_> {
    // --- leaving Valid ---

    /// Opens the one episode of an outage, with its one prompt.
    pub(super) fn open(&mut self, breakage: &Breakage) -> State {
        self.link.episodes_count += 1;
        let number = self.link.episodes_count;
        let prompt = self.prompt_for(breakage.cause);
        let mut episode = Episode::open(number, breakage.cause, self.now, prompt, self.policy);
        episode.take_in(breakage, self.now);
        if episode.prompt == Prompt::Sent {
            self.tell(Notice::UpdateRequired, Some(&episode));
        }
        self.link.quiet = Quiet::Listening;
        // A refresh of ours that is answered with a request for a token breaks the link for nothing.
        let by_our_refresh =
            breakage.cause == Cause::Token && self.link.refresh.as_ref().is_some_and(|owed| owed.asked);
        self.link.refresh_needs_token |= by_our_refresh;
        broken(episode, breakage.cause, breakage.session)
    }

    /// LINK webhooks and errors of data calls come only for links that were once confirmed; errors of the creation
    /// itself do not.
    pub(super) fn break_unconfirmed(&mut self, breakage: &Breakage) -> Next {
        if breakage.during_update { Err(Refusal::CreationOnly) } else { Ok(self.open(breakage)) }
    }

    /// Evidence right after a recovery may be a late retry of the old outage, and an answer to a PUT on a working link
    /// says nothing of the stored credentials: both are held and asked about.
    pub(super) fn break_or_suspect(&mut self, suspicion: Option<Suspicion>, breakage: &Breakage) -> Next {
        let settings = self.policy.settings();
        let settled_at = self.link.recovered_at.map(|at| at.after(settings.settle_window));
        let unsettled = settled_at.filter(|&at| self.now < at);
        if unsettled.is_none() && !breakage.during_update {
            return Ok(self.open(breakage));
        }
        let until = match unsettled {
            Some(settled_at) if !settings.can_verify => settled_at,
            Some(_) | None => self.now.after(self.policy.answer_wait()),
        };
        Ok(self.doubt(suspicion, breakage, until))
    }

    /// Holds the evidence and asks Belvo; `until` then, it is believed.
    pub(super) fn doubt(&mut self, suspicion: Option<Suspicion>, breakage: &Breakage, until: Timestamp) -> State {
        // What Belvo's status cannot show outlives what it can: one bare `valid` must not refute both.
        let doubted = match suspicion {
            Some(held) if held.breakage.is_hidden() && !breakage.is_hidden() => held.breakage,
            Some(_) | None => breakage.clone(),
        };
        self.ask_belvo();
        // The doubt is as new as its newest evidence: a read from before that refutes nothing.
        State::Valid { suspicion: Some(Suspicion { breakage: doubted, at: self.now, until }) }
    }

    /// Evidence that stood unanswered is believed: it is never lost.
    pub(super) fn believe(&mut self, suspicion: &Suspicion) -> State {
        self.open(&suspicion.breakage)
    }

    // --- the first words about a link ---

    pub(super) fn first_word(&self) -> Next {
        if self.link.version == 0 { Ok(State::Unconfirmed) } else { Err(Refusal::AlreadyKnown) }
    }

    pub(super) fn claim_creation(&mut self) -> Next {
        if self.policy.can_verify() { self.ask(State::Unconfirmed) } else { Ok(State::Valid { suspicion: None }) }
    }

    pub(super) fn observe_unconfirmed(&mut self, seen: &Observation) -> Next {
        self.link.verify_asked_at = None;
        match seen.status {
            Status::Unconfirmed => self.first_word(),
            Status::Valid => {
                self.note_access(seen);
                Ok(State::Valid { suspicion: None })
            }
            Status::Invalid => Ok(self.open(&Breakage::of(self.cause_of_invalid()))),
            Status::TokenRequired => Ok(self.open(&Breakage::of(Cause::Token))),
        }
    }

    pub(super) fn confirm_by_data(&mut self, data: &Data) -> Next {
        refuse_errors(data)?;
        self.take_data(data)
    }

    // --- while Valid ---

    pub(super) fn observe_valid(&mut self, suspicion: Option<Suspicion>, seen: &Observation) -> Next {
        let breakage = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid => return self.reassure(suspicion, seen),
            Status::Invalid => Breakage::of(self.cause_of_invalid()),
            Status::TokenRequired => Breakage::of(Cause::Token),
        };
        if self.link.recovered_at.is_some_and(|at| seen.observed_at < at) {
            return Err(Refusal::Stale);
        }
        self.link.verify_asked_at = None;
        // Belvo's status is coarser than the evidence that made us ask: keep what the evidence knew.
        let breakage = match suspicion {
            Some(held) if fallback_of(held.breakage.cause) == fallback_of(breakage.cause) => {
                Breakage { refused_login: false, ..held.breakage }
            }
            Some(_) | None => breakage,
        };
        Ok(self.open(&breakage))
    }

    fn reassure(&mut self, suspicion: Option<Suspicion>, seen: &Observation) -> Next {
        let refuted = suspicion.as_ref().is_some_and(|held| {
            // For these causes Belvo's `valid` means nothing unless it has had access since.
            seen.observed_at >= held.at && (!held.breakage.is_hidden() || accessed_since(seen, held.at))
        });
        let accessed = self.note_access(seen);
        // A read from before the doubt is not the answer we wait for.
        let answers = suspicion.as_ref().is_none_or(|held| seen.observed_at >= held.at);
        let answered = answers && self.link.verify_asked_at.take().is_some();
        match suspicion {
            Some(held) if !refuted && (accessed || answered) => Ok(State::Valid { suspicion: Some(held) }),
            Some(_) if !refuted => Err(Refusal::AlreadyKnown),
            None if !accessed && !answered => Err(Refusal::AlreadyKnown),
            Some(_) | None => Ok(State::Valid { suspicion: None }),
        }
    }

    // --- while broken ---

    /// More evidence in an open episode refines the cause; it never prompts again.
    pub(super) fn restate(&mut self, state: State, breakage: &Breakage) -> Next {
        let (episode, session) = match &state {
            State::Invalid { episode } => (episode, None),
            State::TokenRequired { episode, session } => (episode, *session),
            State::Unconfirmed | State::Valid { .. } | State::Updating { .. } | State::Removed => {
                return Err(Refusal::NotBroken);
            }
        };
        let mut episode = episode.clone();
        episode.take_in(breakage, self.now);
        let next = broken(episode, breakage.cause, breakage.session.or(session));
        if next == state { Err(Refusal::AlreadyKnown) } else { Ok(next) }
    }

    pub(super) fn drop_session(&mut self, episode: Episode, session: Option<Session>) -> Next {
        match session {
            Some(_) => Ok(State::TokenRequired { episode, session: None }),
            None => Err(Refusal::AlreadyKnown),
        }
    }

    pub(super) fn observe_broken(&mut self, state: State, seen: &Observation) -> Next {
        let Some(episode) = state.episode().cloned() else { return Err(Refusal::NotBroken) };
        let as_before = |observed: Cause| fallback_of(observed) == fallback_of(episode.cause);
        let answers = self.take_answer(seen);
        let nothing_new = |state| if answers { Ok(state) } else { Err(Refusal::AlreadyKnown) };
        // What came before Belvo was read, and the link still broken, was late.
        let still_broken = |state: State| {
            let cleared = confirmed(state.clone());
            if answers || cleared != state { Ok(cleared) } else { Err(Refusal::AlreadyKnown) }
        };
        match seen.status {
            Status::Unconfirmed => Err(Refusal::CreationOnly),
            Status::Valid if seen.observed_at < episode.opened_at => Err(Refusal::Stale),
            Status::Valid if !episode.is_ended_by(seen) => nothing_new(state),
            Status::Valid => Ok(self.recover(&episode, Proof::Observed, Some(seen))),
            Status::Invalid | Status::TokenRequired if seen.observed_at < self.link.since => Err(Refusal::Stale),
            Status::Invalid if as_before(Cause::Credentials) => still_broken(state),
            Status::TokenRequired if as_before(Cause::Token) => still_broken(state),
            Status::Invalid => self.restate(confirmed(state), &Breakage::of(self.cause_of_invalid())),
            Status::TokenRequired => self.restate(confirmed(state), &Breakage::of(Cause::Token)),
        }
    }

    /// A read from after the question answers it, whatever it says: the next hint may ask again.
    fn take_answer(&mut self, seen: &Observation) -> bool {
        let answers = self.link.verify_asked_at.is_some_and(|asked_at| seen.observed_at >= asked_at);
        if answers {
            self.link.verify_asked_at = None;
        }
        answers
    }

    /// Data on a broken link is a hint: it may be late, or the link may work again.
    pub(super) fn take_data_while_broken(&mut self, state: State, data: &Data) -> Next {
        refuse_errors(data)?;
        let Some(episode) = state.episode().cloned() else { return Err(Refusal::NotBroken) };
        let late_until = episode.opened_at.after(self.policy.settings().settle_window);
        if !self.policy.can_verify() && self.now >= late_until {
            return self.recover_by_data(episode, data);
        }
        self.tell(Notice::DataAvailable(data.clone()), Some(&episode));
        self.ask_belvo();
        // Only Belvo's answer tells whether it was late; without one it counts for nothing.
        let counts = self.policy.can_verify() && counts_as_arrival(data);
        let arrived = if counts { with_arrival(episode.arrived, data) } else { episode.arrived };
        Ok(with_arrivals(state, arrived))
    }

    /// Sends the episode's one prompt if it was held back and nothing holds it any more.
    pub(super) fn release_prompt(&mut self, state: &mut State) {
        if let State::Invalid { episode } | State::TokenRequired { episode, .. } = state
            && episode.prompt == Prompt::Held
        {
            episode.prompt = self.prompt_for(episode.cause);
            let episode = episode.clone();
            if episode.prompt == Prompt::Sent {
                self.tell(Notice::UpdateRequired, Some(&episode));
            }
        }
    }
}

/// The broken state that fits a cause.
fn broken(episode: Episode, cause: Cause, session: Option<Session>) -> State {
    match fallback_of(cause) {
        Fallback::Invalid => State::Invalid { episode },
        Fallback::TokenRequired => State::TokenRequired { episode, session },
    }
}

pub(super) const fn fallback_of(cause: Cause) -> Fallback {
    match cause {
        Cause::Token => Fallback::TokenRequired,
        Cause::Credentials | Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => Fallback::Invalid,
    }
}

impl Breakage {
    /// Whether Belvo's status may show nothing of it.
    fn is_hidden(&self) -> bool {
        is_hidden(self.cause) || self.refused_login
    }
}

impl Episode {
    /// Takes in what evidence says of the outage.
    pub(super) fn take_in(&mut self, breakage: &Breakage, now: Timestamp) {
        self.cause = breakage.cause;
        if breakage.cause == Cause::Token {
            // That a token is wanted Belvo's status says at once.
            self.refused_at = None;
        } else if !breakage.during_update {
            self.refused_at = breakage.refused_login.then_some(now);
        }
    }

    /// Whether an observed `valid` ends this outage. What Belvo's status does not show, only an access since then ends:
    /// a hidden cause, or a refused login. A link whose user has not been asked yet has the benefit of the doubt: the
    /// next login tells.
    pub(super) fn is_ended_by(&self, seen: &Observation) -> bool {
        let refused_at = match self.prompt {
            Prompt::Sent | Prompt::Held => self.refused_at,
            Prompt::Waiting { .. } => None,
        };
        let hidden_since = refused_at.or_else(|| is_hidden(self.cause).then_some(self.opened_at));
        hidden_since.is_none_or(|since| accessed_since(seen, since))
    }
}

fn accessed_since(seen: &Observation, since: Timestamp) -> bool {
    seen.last_accessed_at.is_some_and(|at| at > since)
}

/// Whether Belvo's status shows nothing of the cause: it knows no locked account, no ended consent, no unsupported MFA.
const fn is_hidden(cause: Cause) -> bool {
    match cause {
        Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => true,
        Cause::Credentials | Cause::Token => false,
    }
}

/// The same broken state, now that Belvo's status says so, too: what came before was late.
fn confirmed(state: State) -> State {
    let mut state = with_arrivals(state, Vec::new());
    if let State::Invalid { episode } | State::TokenRequired { episode, .. } = &mut state {
        episode.refused_at = None;
    }
    state
}

/// The same broken state, with these arrivals.
fn with_arrivals(mut state: State, arrived: Vec<String>) -> State {
    if let State::Invalid { episode } | State::TokenRequired { episode, .. } = &mut state {
        episode.arrived = arrived;
    }
    state
}

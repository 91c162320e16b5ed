//! Losing trust in a link, and the outage while nobody repairs it: the one prompt, suspicions, news about the cause.

use super::draft::{Draft, Next};
use super::refresh::with_arrival;
use super::upkeep::shows_access;
use super::{
    Breakage, Cause, Data, Episode, Notice, Observation, Prompt, Proof, Quiet, Refusal, State, Status, Suspicion,
    Timestamp,
};

impl Draft<'_> {
    // --- leaving Valid ---

    /// Opens the one episode of an outage, with its one prompt. A user who is in the widget already is not prompted: the
    /// episode begins as that user's attempt, and the prompt is due if the attempt fails.
    pub(super) fn open(&mut self, breakage: &Breakage) -> State {
        self.link.episodes_count += 1;
        let number = self.link.episodes_count;
        let in_widget_until = self.widget_until();
        let prompt = if in_widget_until.is_some() { Prompt::Held } else { self.prompt_for(breakage.cause) };
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
        match in_widget_until {
            Some(until) => self.begin_attempt(episode, until),
            None => State::broken(episode),
        }
    }

    /// LINK webhooks and errors of data calls come only for links that were once confirmed; errors of the creation
    /// itself do not.
    pub(super) fn break_unconfirmed(&mut self, breakage: &Breakage) -> Next {
        if breakage.during_update { Err(Refusal::CreationOnly) } else { self.break_or_suspect(None, breakage) }
    }

    /// Evidence right after a recovery, or after the user's word that the link is repaired, may be late news of the old
    /// outage; and an answer to a PUT on a working link says nothing of the stored credentials. Both are held and asked
    /// about.
    pub(super) fn break_or_suspect(&mut self, suspicion: Option<Suspicion>, breakage: &Breakage) -> Next {
        let settings = self.policy.settings();
        let unsettled = self.settles_at().filter(|&at| self.now < at);
        // The session of a PUT or PATCH that wants a token is the user's: an attempt is under way.
        if let Some(session) = breakage.session.filter(|_| breakage.during_update) {
            self.note_widget(session.expires_at);
        }
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
            Some(held) => Breakage { cause: held.breakage.cause.refined_by(breakage.cause), ..breakage.clone() },
            None => breakage.clone(),
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

    /// The user says that the link works. What was reported of it before may arrive later.
    pub(super) fn claim_creation(&mut self) -> Next {
        self.note_claim();
        if self.policy.can_verify() {
            self.ask_belvo();
            Ok(State::Unconfirmed)
        } else {
            Ok(State::Valid { suspicion: None })
        }
    }

    pub(super) fn observe_unconfirmed(&mut self, seen: &Observation) -> Next {
        let breakage = match seen.status {
            Status::Unconfirmed => {
                self.link.verify_asked_at = None;
                return self.first_word();
            }
            Status::Valid => {
                self.link.verify_asked_at = None;
                self.note_access(seen);
                return Ok(State::Valid { suspicion: None });
            }
            Status::Invalid => Breakage::of(self.cause_of_invalid()),
            Status::TokenRequired => Breakage::of(Cause::Token),
        };
        self.observe_breakage(None, breakage, seen)
    }

    /// Data says that the link was finished. An error or a correction does not: Belvo is asked.
    pub(super) fn confirm_by_data(&mut self, data: &Data) -> Next {
        if shows_access(data) { self.take_data(None, data) } else { self.ask_about_data(State::Unconfirmed, data) }
    }

    // --- while Valid ---

    /// The user says that a link was repaired of which no outage is known: most likely the report of the outage is late.
    pub(super) fn claim_while_valid(&mut self, suspicion: Option<Suspicion>) -> Next {
        // The callback of one success may come twice: the second says nothing new.
        let verify_wait = self.policy.settings().verify_wait;
        let is_fresh = self.link.settled_since().is_some_and(|at| self.now < at.after(verify_wait));
        if is_fresh && suspicion.is_none() && self.widget_until().is_none() {
            return Err(Refusal::AlreadyKnown);
        }
        self.note_claim();
        if self.policy.can_verify() {
            self.ask_belvo();
            Ok(State::Valid { suspicion })
        } else {
            // Nobody can be asked: then the user's word counts.
            Ok(State::Valid { suspicion: None })
        }
    }

    fn note_claim(&mut self) {
        self.link.claimed_at = Some(self.now);
        self.link.widget_until = None;
    }

    pub(super) fn observe_valid(&mut self, suspicion: Option<Suspicion>, seen: &Observation) -> Next {
        let breakage = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid => return self.reassure(suspicion, seen),
            Status::Invalid => Breakage::of(self.cause_of_invalid()),
            Status::TokenRequired => Breakage::of(Cause::Token),
        };
        self.observe_breakage(suspicion, breakage, seen)
    }

    /// Belvo's status says that the link is broken.
    fn observe_breakage(&mut self, suspicion: Option<Suspicion>, breakage: Breakage, seen: &Observation) -> Next {
        if self.link.settled_since().is_some_and(|at| seen.observed_at < at) {
            return Err(Refusal::Stale);
        }
        // Belvo's status lags behind a repair: as long as a claimed repair is looked at again, it is not yet believed.
        let lags_until = self.link.claimed_at.map(|at| at.after(self.policy.answer_wait()));
        if let Some(until) = lags_until.filter(|&until| self.now < until) {
            if suspicion.is_some() {
                return Err(Refusal::AlreadyKnown);
            }
            return Ok(self.doubt(None, &breakage, until));
        }
        self.link.verify_asked_at = None;
        // Belvo's status is coarser than the evidence that made us ask: keep what the evidence knew.
        let breakage = match suspicion {
            Some(held) if held.breakage.cause.wants_token() == breakage.cause.wants_token() => {
                Breakage { refused_login: false, ..held.breakage }
            }
            Some(_) | None => breakage,
        };
        let mut state = self.open(&breakage);
        if let Some(episode) = state.episode_mut() {
            episode.observed_at = Some(seen.observed_at);
        }
        Ok(state)
    }

    fn reassure(&mut self, suspicion: Option<Suspicion>, seen: &Observation) -> Next {
        let refuted = suspicion.as_ref().is_some_and(|held| {
            // For these causes Belvo's `valid` means nothing unless it has had access since, or the user says that the
            // link is repaired. Of a consent Belvo's status shows nothing, whatever the user says.
            let claimed = self.link.claimed_at.is_some_and(|at| at >= held.at);
            let claim_counts = claimed && held.breakage.cause != Cause::ConsentEnded;
            seen.observed_at >= held.at && (!held.breakage.is_hidden() || claim_counts || accessed_since(seen, held.at))
        });
        let accessed = self.note_access(seen);
        // An observation older than the suspicion cannot answer our verify request.
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
    pub(super) fn restate(&mut self, before: Episode, breakage: &Breakage) -> Next {
        let mut episode = before.clone();
        episode.take_in(breakage, self.now);
        if episode == before { Err(Refusal::AlreadyKnown) } else { Ok(State::broken(episode)) }
    }

    pub(super) fn drop_session(&mut self, mut episode: Episode) -> Next {
        match episode.session.take() {
            Some(_) => Ok(State::broken(episode)),
            None => Err(Refusal::AlreadyKnown),
        }
    }

    pub(super) fn observe_broken(&mut self, episode: Episode, seen: &Observation) -> Next {
        match seen.status {
            Status::Unconfirmed => Err(Refusal::CreationOnly),
            Status::Valid => self.observe_working(episode, seen),
            Status::Invalid => self.observe_still_broken(episode, seen, self.cause_of_invalid()),
            Status::TokenRequired => self.observe_still_broken(episode, seen, Cause::Token),
        }
    }

    /// Belvo's status says that the link works, which not every outage believes.
    fn observe_working(&mut self, episode: Episode, seen: &Observation) -> Next {
        if seen.observed_at < episode.known_since() {
            Err(Refusal::Stale)
        } else if episode.is_ended_by(seen) {
            Ok(self.recover(&episode, Proof::Observed, Some(seen)))
        } else if self.take_answer(seen.observed_at) {
            Ok(State::broken(episode))
        } else {
            Err(Refusal::AlreadyKnown)
        }
    }

    /// Belvo's status says that the link is broken: data that came before was late, and a prompt that waited for this
    /// answer is due.
    fn observe_still_broken(&mut self, before: Episode, seen: &Observation, observed: Cause) -> Next {
        if seen.observed_at < before.observed_at.unwrap_or(self.link.since) {
            return Err(Refusal::Stale);
        }
        let answers = self.take_answer(seen.observed_at);
        let mut episode = Episode { arrived: Vec::new(), refused_at: None, ..before.clone() };
        // Belvo's status is coarser than the known cause: it only overrules a cause that it contradicts.
        if observed.wants_token() != before.cause.wants_token() {
            episode.take_in(&Breakage::of(observed), self.now);
            episode.observed_at = Some(seen.observed_at);
        }
        self.end_waiting_by_answer(&mut episode, seen.observed_at);
        if answers || episode != before { Ok(State::broken(episode)) } else { Err(Refusal::AlreadyKnown) }
    }

    /// An observation from after the question answers it, whatever it says: the next hint may ask again.
    pub(super) fn take_answer(&mut self, observed_at: Timestamp) -> bool {
        let answers = self.link.verify_asked_at.is_some_and(|asked_at| observed_at >= asked_at);
        if answers {
            self.link.verify_asked_at = None;
        }
        answers
    }

    /// Data on a broken link is a hint: it may be late, or the link may work again.
    pub(super) fn take_data_while_broken(&mut self, episode: Episode, data: &Data) -> Next {
        if !shows_access(data) {
            return self.ask_about_data(State::broken(episode), data);
        }
        let late_until = episode.opened_at.after(self.policy.settings().settle_window);
        if !self.policy.can_verify() && self.now >= late_until {
            return Ok(self.recover_by_data(&episode, data));
        }
        self.tell(Notice::DataAvailable(data.clone()), Some(&episode));
        self.ask_belvo();
        // Only Belvo's answer tells whether it was late; without one it counts for nothing.
        let counts = self.policy.can_verify();
        let arrived = if counts { with_arrival(episode.arrived, data) } else { episode.arrived };
        Ok(State::broken(Episode { arrived, ..episode }))
    }

    /// Sends the episode's one prompt if it was held back and nothing holds it any more.
    pub(super) fn release_prompt(&mut self, episode: &mut Episode) {
        if episode.prompt != Prompt::Held {
            return;
        }
        episode.prompt = self.prompt_for(episode.cause);
        if episode.prompt == Prompt::Sent {
            episode.pause_reminders(self.now, self.policy);
            self.tell(Notice::UpdateRequired, Some(episode));
        }
    }
}

impl Cause {
    /// The cause of an outage of which `newer` is said as well. `Credentials` is also Belvo's word for "the link cannot be
    /// used" (`invalid`, `invalid_link`), so it does not overwrite a reason that says more.
    pub(super) const fn refined_by(self, newer: Self) -> Self {
        match (self, newer) {
            (Self::AccountBlocked | Self::ConsentEnded | Self::Unsupported, Self::Credentials) => self,
            (_any, newer) => newer,
        }
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
        // The answer to the user's own attempt is news of a login that the institution has just judged.
        self.cause = if breakage.during_update { breakage.cause } else { self.cause.refined_by(breakage.cause) };
        self.observed_at = None;
        self.session = if self.cause.wants_token() { breakage.session.or(self.session) } else { None };
        if self.cause.wants_token() {
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

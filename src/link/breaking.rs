//! Evidence that a link is broken: suspicions, the opening of an episode with its one prompt, and further evidence
//! while nobody repairs the link.

use super::builder::{Next, TransitionBuilder};
use super::refresh::with_arrival;
use super::upkeep::shows_access;
use super::{
    Breakage, Cause, Data, Episode, Freshness, Held, LinkObservation, Notice, Prompt, Proof, Refusal, State, Status,
    Suspicion, Timestamp,
};

impl TransitionBuilder<'_> {
    // --- leaving Valid ---

    /// Opens the episode of an outage, and emits its prompt. If the user is in the widget already, the episode begins
    /// with that attempt, and the prompt is emitted only if the attempt fails. If the link has a successor, its user is
    /// not prompted.
    pub(super) fn open(&mut self, breakage: &Breakage) -> State {
        self.link.episodes_count += 1;
        let number = self.link.episodes_count;
        let in_widget_until = self.widget_until();
        let successor = self.successor().filter(|_| in_widget_until.is_none());
        let is_muted = in_widget_until.is_some() || successor.is_some();
        let mut episode = Episode::open(number, breakage.cause, self.now, Prompt::Muted, self.policy);
        episode.apply_evidence(breakage, self.now);
        if let Some(successor) = successor {
            self.supersede(&mut episode, successor);
        }
        if is_muted {
            self.held = Some(if in_widget_until.is_some() { Held::InWidget } else { Held::Superseded });
        } else {
            self.identify_or_prompt(&mut episode);
        }
        self.link.freshness = Freshness::Fresh;
        // At some institutions every login needs a token. There, a refresh that relink asked for has just broken the
        // link, and the next one would break it again.
        let by_our_refresh =
            breakage.cause == Cause::Token && self.link.refresh.as_ref().is_some_and(|owed| owed.asked);
        self.link.refresh_needs_token |= by_our_refresh;
        match in_widget_until {
            Some(until) => self.begin_attempt(episode, until),
            None => State::broken(episode),
        }
    }

    /// Belvo sends LINK webhooks and errors of data calls only for links whose creation was finished. An error that
    /// answers the creation itself says nothing about a working link.
    pub(super) fn break_unconfirmed(&mut self, breakage: &Breakage) -> Next {
        if breakage.during_update { Err(Refusal::CreationOnly) } else { self.break_or_suspect(None, breakage) }
    }

    /// Opens an episode, or keeps the evidence as a suspicion and asks Belvo. Two kinds of evidence become a suspicion:
    /// evidence within the settle window, which may be a late message about the last outage; and an error that answers
    /// a PUT on a working link, which says nothing about the stored credentials.
    pub(super) fn break_or_suspect(&mut self, suspicion: Option<Suspicion>, breakage: &Breakage) -> Next {
        let settings = self.policy.settings();
        let window_end = self.settle_window_end().filter(|&at| self.now < at);
        // A PUT or PATCH that needs a token opens an MFA session: the user is in the middle of an attempt.
        if let Some(session) = breakage.session.filter(|_| breakage.during_update) {
            self.note_widget(session.expires_at);
        }
        if window_end.is_none() && !breakage.during_update {
            return Ok(self.open(breakage));
        }
        let until = match window_end {
            Some(end) if !settings.can_verify => end,
            Some(_) | None => self.now.after(self.policy.answer_wait()),
        };
        Ok(self.suspect(suspicion, breakage, until))
    }

    /// Keeps the evidence as a suspicion and asks Belvo. If nothing refutes the suspicion before `until`, it is
    /// confirmed.
    pub(super) fn suspect(&mut self, suspicion: Option<Suspicion>, breakage: &Breakage, until: Timestamp) -> State {
        // An observed `valid` refutes only a cause that Belvo's status can show. So a cause that it cannot show is
        // kept.
        let suspected = match suspicion {
            Some(evidence) if evidence.breakage.is_hidden() && !breakage.is_hidden() => evidence.breakage,
            Some(evidence) => {
                Breakage { cause: evidence.breakage.cause.refined_by(breakage.cause), ..breakage.clone() }
            }
            None => breakage.clone(),
        };
        self.request_verification();
        // The suspicion has the time of its newest evidence: an observation older than that refutes nothing.
        State::Valid { suspicion: Some(Suspicion { breakage: suspected, at: self.now, until }) }
    }

    /// Nothing has refuted the suspicion in time: it opens an episode, so that no outage is lost.
    pub(super) fn confirm(&mut self, suspicion: &Suspicion) -> State {
        self.open(&suspicion.breakage)
    }

    // --- while Unconfirmed ---

    /// The success callback of a link that is not confirmed yet. Evidence from before the callback may arrive after it,
    /// so the callback begins the settle window.
    pub(super) fn claim_creation(&mut self) -> Next {
        self.note_claim();
        if self.policy.can_verify() {
            self.request_verification();
            Ok(State::Unconfirmed)
        } else {
            Ok(State::Valid { suspicion: None })
        }
    }

    pub(super) fn observe_unconfirmed(&mut self, seen: &LinkObservation) -> Next {
        let breakage = match seen.status {
            Status::Unconfirmed => return self.observe_unfinished_creation(seen),
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

    /// Arrived data proves that the creation of the link was finished. Data with errors, or a correction, proves
    /// nothing: Belvo is asked.
    pub(super) fn confirm_by_data(&mut self, data: &Data) -> Next {
        if shows_access(data) { self.take_data(None, data) } else { self.verify_after_data(State::Unconfirmed, data) }
    }

    // --- while Valid ---

    /// A success callback for a link without a known outage: most likely the message about the outage is late.
    pub(super) fn claim_while_valid(&mut self, suspicion: Option<Suspicion>) -> Next {
        // Widgets deliver the callback of one success more than once; the second changes nothing.
        let verify_wait = self.policy.settings().verify_wait;
        let is_fresh = self.link.settle_window_start().is_some_and(|at| self.now < at.after(verify_wait));
        if is_fresh && suspicion.is_none() && self.widget_until().is_none() {
            return Err(Refusal::AlreadyKnown);
        }
        self.note_claim();
        if self.policy.can_verify() {
            self.request_verification();
            Ok(State::Valid { suspicion })
        } else {
            // Without API keys Belvo cannot be asked, so the callback refutes the suspicion.
            Ok(State::Valid { suspicion: None })
        }
    }

    fn note_claim(&mut self) {
        self.link.claimed_at = Some(self.now);
        self.link.widget_until = None;
    }

    pub(super) fn observe_valid(&mut self, suspicion: Option<Suspicion>, seen: &LinkObservation) -> Next {
        let breakage = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid => return self.observe_working_while_valid(suspicion, seen),
            Status::Invalid => Breakage::of(self.cause_of_invalid()),
            Status::TokenRequired => Breakage::of(Cause::Token),
        };
        self.observe_breakage(suspicion, breakage, seen)
    }

    /// Belvo's status says that the link is broken.
    fn observe_breakage(&mut self, suspicion: Option<Suspicion>, breakage: Breakage, seen: &LinkObservation) -> Next {
        if self.link.settle_window_start().is_some_and(|at| seen.observed_at < at) {
            return Err(Refusal::Outdated);
        }
        // Belvo's status lags behind a repair. While a claimed repair may still be verified, a broken status is a
        // suspicion.
        let lags_until = self.link.claimed_at.map(|at| at.after(self.policy.answer_wait()));
        if let Some(until) = lags_until.filter(|&until| self.now < until) {
            if suspicion.is_some() {
                return Err(Refusal::AlreadyKnown);
            }
            return Ok(self.suspect(None, &breakage, until));
        }
        self.link.verify_asked_at = None;
        // Belvo's status is coarser than the evidence of the suspicion: keep the cause of the evidence.
        let breakage = match suspicion {
            Some(evidence) if evidence.breakage.cause.requires_token() == breakage.cause.requires_token() => {
                Breakage { refused_login: false, ..evidence.breakage }
            }
            Some(_) | None => breakage,
        };
        let mut state = self.open(&breakage);
        if let Some(episode) = state.episode_mut() {
            episode.observed_at = Some(seen.observed_at);
        }
        Ok(state)
    }

    fn observe_working_while_valid(&mut self, suspicion: Option<Suspicion>, seen: &LinkObservation) -> Next {
        let refuted = suspicion.as_ref().is_some_and(|evidence| {
            // For a cause that Belvo's status cannot show, `valid` counts only if Belvo has had access since the
            // evidence, or the user has claimed a repair since. For an ended consent, a claim does not count either.
            let claimed = self.link.claimed_at.is_some_and(|at| at >= evidence.at);
            let claim_counts = claimed && evidence.breakage.cause != Cause::ConsentEnded;
            seen.observed_at >= evidence.at
                && (!evidence.breakage.is_hidden() || claim_counts || accessed_since(seen, evidence.at))
        });
        let accessed = self.note_access(seen);
        // An observation older than the suspicion cannot answer our verify request.
        let answers = suspicion.as_ref().is_none_or(|evidence| seen.observed_at >= evidence.at);
        let answered = answers && self.link.verify_asked_at.take().is_some();
        match suspicion {
            Some(evidence) if !refuted && (accessed || answered) => Ok(State::Valid { suspicion: Some(evidence) }),
            Some(_) if !refuted => Err(Refusal::AlreadyKnown),
            None if !accessed && !answered => Err(Refusal::AlreadyKnown),
            Some(_) | None => Ok(State::Valid { suspicion: None }),
        }
    }

    // --- while broken ---

    /// More evidence in an open episode refines the cause; it never prompts again.
    pub(super) fn refine(&mut self, before: Episode, breakage: &Breakage) -> Next {
        let mut episode = before.clone();
        episode.apply_evidence(breakage, self.now);
        if episode == before { Err(Refusal::AlreadyKnown) } else { Ok(State::broken(episode)) }
    }

    pub(super) fn drop_session(&mut self, mut episode: Episode) -> Next {
        match episode.session.take() {
            Some(_) => Ok(State::broken(episode)),
            None => Err(Refusal::AlreadyKnown),
        }
    }

    pub(super) fn observe_broken(&mut self, episode: Episode, seen: &LinkObservation) -> Next {
        match seen.status {
            Status::Unconfirmed => Err(Refusal::CreationOnly),
            Status::Valid => self.observe_working_while_broken(episode, seen),
            Status::Invalid => self.observe_still_broken(episode, seen, self.cause_of_invalid()),
            Status::TokenRequired => self.observe_still_broken(episode, seen, Cause::Token),
        }
    }

    /// Belvo's status says that the link works. This observation ends the episode unless Belvo's status cannot show its
    /// cause ([`Episode::is_ended_by`]).
    fn observe_working_while_broken(&mut self, before: Episode, seen: &LinkObservation) -> Next {
        if seen.observed_at < before.known_since() {
            return Err(Refusal::Outdated);
        }
        if before.is_ended_by(seen) {
            return Ok(self.recover(&before, Proof::Observed, Some(seen)));
        }
        let answers = self.accept_answer(seen.observed_at);
        let mut episode = before.clone();
        self.end_identification_by_answer(&mut episode);
        if answers || episode != before { Ok(State::broken(episode)) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Belvo's status says that the link is broken: data that arrived before this observation proves nothing, and a
    /// prompt that was deferred until this answer is emitted.
    fn observe_still_broken(&mut self, before: Episode, seen: &LinkObservation, observed: Cause) -> Next {
        if seen.observed_at < before.observed_at.unwrap_or(self.link.since) {
            return Err(Refusal::Outdated);
        }
        let answers = self.accept_answer(seen.observed_at);
        let mut episode = Episode { arrived: Vec::new(), refused_at: None, ..before.clone() };
        // Belvo's status is coarser than the known cause, so it replaces only a cause that contradicts it.
        if observed.requires_token() != before.cause.requires_token() {
            episode.apply_evidence(&Breakage::of(observed), self.now);
            episode.observed_at = Some(seen.observed_at);
        }
        self.end_deferral_by_answer(&mut episode, seen.observed_at);
        self.end_identification_by_answer(&mut episode);
        if answers || episode != before { Ok(State::broken(episode)) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Whether the observation answers the open verify request: it must be newer than the request. The request is then
    /// closed, so that the next hint can make a new one.
    pub(super) fn accept_answer(&mut self, observed_at: Timestamp) -> bool {
        let answers = self.link.verify_asked_at.is_some_and(|asked_at| observed_at >= asked_at);
        if answers {
            self.link.verify_asked_at = None;
        }
        answers
    }

    /// Data of a broken link: the data may have arrived before the outage, or the link may work again, so Belvo is
    /// asked. Without API keys, data that arrives after the settle window ends the episode.
    pub(super) fn take_data_while_broken(&mut self, episode: Episode, data: &Data) -> Next {
        if !shows_access(data) {
            return self.verify_after_data(State::broken(episode), data);
        }
        let late_until = episode.opened_at.after(self.policy.settings().settle_window);
        if !self.policy.can_verify() && self.now >= late_until {
            return Ok(self.recover_by_data(&episode, data));
        }
        self.emit(Notice::DataAvailable(data.clone()), Some(&episode));
        self.request_verification();
        // Without API keys relink cannot know whether the data is older than the outage, so it is not counted.
        let counts = self.policy.can_verify();
        let arrived = if counts { with_arrival(episode.arrived, data) } else { episode.arrived };
        Ok(State::broken(Episode { arrived, ..episode }))
    }

    /// Emits the episode's muted prompt, unless the link is still muted or superseded, or an incident defers the prompt.
    pub(super) fn release_prompt(&mut self, episode: &mut Episode) {
        if episode.prompt != Prompt::Muted || episode.superseded_by.is_some() {
            return;
        }
        self.identify_or_prompt(episode);
    }
}

impl Cause {
    /// The cause of an outage with this cause, after evidence with the cause `newer`. Belvo also uses its codes for
    /// `Credentials` (`invalid`, `invalid_link`) when a link cannot be used for another reason, so `Credentials` does
    /// not replace a more precise cause.
    pub(super) const fn refined_by(self, newer: Self) -> Self {
        match (self, newer) {
            (Self::AccountBlocked | Self::ConsentEnded | Self::Unsupported, Self::Credentials) => self,
            (_any, newer) => newer,
        }
    }
}

impl Breakage {
    /// Whether Belvo's status may still say `valid` although the link is broken in this way.
    fn is_hidden(&self) -> bool {
        is_hidden(self.cause) || self.refused_login
    }
}

impl Episode {
    /// Updates the cause and the MFA session of the outage from further evidence.
    pub(super) fn apply_evidence(&mut self, breakage: &Breakage, now: Timestamp) {
        // The institution has just answered a login with the user's new credentials, so this cause replaces every other
        // one.
        self.cause = if breakage.during_update { breakage.cause } else { self.cause.refined_by(breakage.cause) };
        self.observed_at = None;
        self.session = if self.cause.requires_token() { breakage.session.or(self.session) } else { None };
        if self.cause.requires_token() {
            // Belvo's status shows at once that a token is required.
            self.refused_at = None;
        } else if !breakage.during_update {
            self.refused_at = breakage.refused_login.then_some(now);
        }
    }

    /// Whether an observed `valid` ends this outage. Belvo's status does not show a hidden cause, and shows a refused
    /// login only after several of them. Then `valid` ends the outage only if Belvo has had access to the account
    /// since. A refused login is disregarded while the prompt is deferred: its user has not been prompted, and the next
    /// login shows whether the link works.
    pub(super) fn is_ended_by(&self, seen: &LinkObservation) -> bool {
        let refused_at = match self.prompt {
            Prompt::Sent | Prompt::Muted | Prompt::Postponed { .. } | Prompt::Unidentified { .. } => self.refused_at,
            Prompt::Deferred { .. } => None,
        };
        let hidden_since = refused_at.or_else(|| is_hidden(self.cause).then_some(self.opened_at));
        hidden_since.is_none_or(|since| accessed_since(seen, since))
    }
}

fn accessed_since(seen: &LinkObservation, since: Timestamp) -> bool {
    seen.last_accessed_at.is_some_and(|at| at > since)
}

/// Whether Belvo's status cannot show the cause. The status has no value for a locked account, an ended consent or an
/// unsupported MFA.
const fn is_hidden(cause: Cause) -> bool {
    match cause {
        Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => true,
        Cause::Credentials | Cause::Token => false,
    }
}

//! What each arm of the machine does: notes effects and memory in a draft, answers with the next state.
//!
//! Nothing here decides *which* arm applies; that is `machine`. Recovery, refresh and silence are in `upkeep`.

use super::{
    Attempt, Breakage, Cause, Command, Consent, Data, DedupKey, Effect, Episode, Event, Fallback, Job, Link, Notice,
    Observation, Phase, Policy, Profile, Prompt, Proof, Quiet, RECENT_KEYS_MAX, Refusal, Removal, Seen, Session, State,
    Status, Step, Suspicion, Timestamp,
};

/// A link being changed by one event. Thrown away whole if the event is refused.
pub(super) struct Draft<'a> {
    pub(super) link: Link,
    pub(super) effects: Vec<Effect>,
    pub(super) now: Timestamp,
    pub(super) policy: &'a Policy,
}

type Next = Result<State, Refusal>;

impl<'a> Draft<'a> {
    pub(super) fn of(link: &Link, now: Timestamp, policy: &'a Policy) -> Self {
        Self { link: link.clone(), effects: Vec::new(), now: now.max(link.updated_at), policy }
    }

    pub(super) fn state(&self) -> State {
        self.link.state.clone()
    }

    pub(super) fn refuse_repeat(&self, key: DedupKey) -> Result<(), Refusal> {
        let window = self.policy.settings().repeat_window;
        let repeated = self.link.recent.iter().any(|seen| seen.key == key && self.now.since(seen.at) <= window);
        if repeated { Err(Refusal::Repeated) } else { Ok(()) }
    }

    pub(super) fn learn(&mut self, profile: &Profile) {
        self.link.profile.learn(profile);
    }

    pub(super) fn has_learnt(&self, before: &Link) -> bool {
        self.link.profile != before.profile
    }

    /// Closes the draft: the step is taken.
    pub(super) fn accept(mut self, before: &Link, state: State, key: Option<DedupKey>) -> Step {
        let window = self.policy.settings().repeat_window;
        let now = self.now;
        self.link.recent.retain(|seen| now.since(seen.at) <= window);
        if let Some(key) = key {
            if self.link.recent.len() == RECENT_KEYS_MAX {
                self.link.recent.remove(0);
            }
            self.link.recent.push(Seen { key, at: now });
        }
        let from = before.state.name();
        if state.name() != from {
            self.link.since = now;
        }
        self.link.state = state;
        self.link.version += 1;
        self.link.updated_at = now;
        Step { link: self.link, from, at: now, effects: self.effects }
    }

    pub(super) fn tell(&mut self, notice: Notice, episode: Option<&Episode>) {
        self.effects.push(Effect::Notice { notice, episode: episode.cloned() });
    }

    // --- leaving Valid ---

    /// Opens the one episode of an outage, with its one prompt.
    fn open(&mut self, breakage: &Breakage) -> State {
        self.link.episodes_count += 1;
        let number = self.link.episodes_count;
        let episode = Episode::open(number, breakage.cause, self.now, self.link.muted, self.policy);
        if episode.prompt == Prompt::Sent {
            self.tell(Notice::UpdateRequired, Some(&episode));
        }
        self.link.quiet = Quiet::Listening;
        broken(episode, breakage.cause, breakage.session)
    }

    /// LINK webhooks and errors of data calls come only for links that were once confirmed; errors of the creation itself do not.
    pub(super) fn break_unconfirmed(&mut self, breakage: &Breakage) -> Next {
        if breakage.during_update { Err(Refusal::CreationOnly) } else { Ok(self.open(breakage)) }
    }

    /// Evidence right after a recovery may be a late retry of the old outage, and an answer to a PUT on a working link says
    /// nothing of the stored credentials: both are held and asked about.
    pub(super) fn break_or_suspect(&mut self, suspicion: Option<Suspicion>, breakage: &Breakage) -> Next {
        if suspicion.is_some() {
            return Err(Refusal::AlreadyKnown);
        }
        let settings = self.policy.settings();
        let settled_at = self.link.recovered_at.map(|at| at.after(settings.settle_window));
        let unsettled = settled_at.filter(|&at| self.now < at);
        if unsettled.is_none() && !breakage.during_update {
            return Ok(self.open(breakage));
        }
        let answer_wait = settings.verify_wait * settings.verify_attempts_max;
        let until = match unsettled {
            Some(settled_at) if !settings.can_verify => settled_at,
            _ => self.now.after(answer_wait),
        };
        self.ask_belvo();
        Ok(State::Valid { suspicion: Some(Suspicion { breakage: breakage.clone(), at: self.now, until }) })
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
            Status::Invalid => Ok(self.open(&Breakage::of(Cause::Credentials))),
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
            Status::Invalid => Breakage::of(Cause::Credentials),
            Status::TokenRequired => Breakage::of(Cause::Token),
        };
        if self.link.recovered_at.is_some_and(|at| seen.observed_at < at) {
            return Err(Refusal::Stale);
        }
        self.link.verify_asked_at = None;
        // Belvo's status is coarser than the evidence that made us ask: keep what the evidence knew.
        let breakage = match suspicion {
            Some(held) if fallback_of(held.breakage.cause) == fallback_of(breakage.cause) => held.breakage,
            Some(_) | None => breakage,
        };
        Ok(self.open(&breakage))
    }

    fn reassure(&mut self, suspicion: Option<Suspicion>, seen: &Observation) -> Next {
        let refuted = suspicion.as_ref().is_some_and(|held| {
            // For these causes Belvo's `valid` means nothing unless it has had access since.
            seen.observed_at >= held.at && shows(held.breakage.cause, seen, held.at)
        });
        let accessed = self.note_access(seen);
        let answered = self.link.verify_asked_at.take().is_some();
        match suspicion {
            Some(held) if !refuted && (accessed || answered) => Ok(State::Valid { suspicion: Some(held) }),
            Some(_) if !refuted => Err(Refusal::AlreadyKnown),
            None if !accessed && !answered => Err(Refusal::AlreadyKnown),
            Some(_) | None => Ok(State::Valid { suspicion: None }),
        }
    }

    pub(super) fn note_consent(&mut self, consent: &Consent, state: State) -> Next {
        if self.link.consent.as_ref() == Some(consent) {
            return Err(Refusal::AlreadyKnown);
        }
        let due_at = consent.due_at;
        let announced = self.link.consent.as_ref().is_some_and(|known| known.due_at == due_at);
        self.link.consent = Some(consent.clone());
        let works = matches!(state, State::Valid { .. });
        if works && !announced && !self.link.muted {
            self.tell(Notice::ConsentExpiring { due_at }, None);
        }
        Ok(state)
    }

    // --- while broken ---

    /// More evidence in an open episode refines the cause; it never prompts again.
    pub(super) fn restate(&mut self, state: State, breakage: &Breakage) -> Next {
        let next = match &state {
            State::Invalid { episode } | State::TokenRequired { episode, .. } => {
                let episode = Episode { cause: breakage.cause, ..episode.clone() };
                let session = breakage.session.or(match &state {
                    State::TokenRequired { session, .. } => *session,
                    _ => None,
                });
                broken(episode, breakage.cause, session)
            }
            State::Unconfirmed | State::Valid { .. } | State::Updating { .. } | State::Removed => state.clone(),
        };
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
        match seen.status {
            Status::Unconfirmed => Err(Refusal::CreationOnly),
            Status::Valid if seen.observed_at < episode.opened_at => Err(Refusal::Stale),
            Status::Valid if !shows(episode.cause, seen, episode.opened_at) => Err(Refusal::AlreadyKnown),
            Status::Valid => Ok(self.recover(&episode, Proof::Observed, Some(seen))),
            Status::Invalid | Status::TokenRequired if seen.observed_at < self.link.since => Err(Refusal::Stale),
            Status::Invalid if as_before(Cause::Credentials) => Err(Refusal::AlreadyKnown),
            Status::TokenRequired if as_before(Cause::Token) => Err(Refusal::AlreadyKnown),
            Status::Invalid => self.restate(state, &Breakage::of(Cause::Credentials)),
            Status::TokenRequired => self.restate(state, &Breakage::of(Cause::Token)),
        }
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
        Ok(state)
    }

    pub(super) fn remind(&mut self, state: State) -> Next {
        if self.link.deadline(self.policy).is_none_or(|at| self.now < at) {
            return Err(Refusal::NotDue);
        }
        let mut state = state;
        let (State::Invalid { episode } | State::TokenRequired { episode, .. }) = &mut state else {
            return Err(Refusal::NotBroken);
        };
        episode.climb(self.now, self.policy);
        let reminder = Notice::Reminder { number: episode.reminders_count };
        let episode = episode.clone();
        self.tell(reminder, Some(&episode));
        Ok(state)
    }

    // --- updating ---

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
        self.effects.push(Effect::Job(Job::Verify));
        let until = self.now.after(self.policy.settings().verify_wait);
        State::Updating { episode, fallback, phase: Phase::Verifying { after, asked_count, until } }
    }

    /// Back to what was broken: the same episode, and no new prompt.
    fn fall_back(&mut self, after: Attempt, fallback: Fallback, mut episode: Episode) -> State {
        episode.pause_reminders(self.now, self.policy);
        self.link.verify_asked_at = None;
        self.tell(Notice::UpdateFailed { after }, Some(&episode));
        let mut state = match fallback {
            Fallback::Invalid => State::Invalid { episode },
            Fallback::TokenRequired => State::TokenRequired { episode, session: None },
        };
        self.release_prompt(&mut state);
        state
    }

    /// More evidence while the user is at it: it may change what we fall back to, and a new MFA session buys the user time.
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
        if (next_fallback, next_phase, breakage.cause) == (fallback, phase, episode.cause) {
            return Err(Refusal::AlreadyKnown);
        }
        let episode = Episode { cause: breakage.cause, ..episode };
        Ok(State::Updating { episode, fallback: next_fallback, phase: next_phase })
    }

    pub(super) fn observe_update(
        &mut self,
        episode: Episode,
        fallback: Fallback,
        phase: Phase,
        seen: &Observation,
    ) -> Next {
        let claimed = matches!(phase, Phase::Verifying { after: Attempt::Claimed, .. });
        let observed_fallback = match seen.status {
            Status::Unconfirmed => return Err(Refusal::CreationOnly),
            Status::Valid if seen.observed_at < episode.opened_at => return Err(Refusal::Stale),
            Status::Valid if claimed || shows(episode.cause, seen, episode.opened_at) => {
                return Ok(self.recover(&episode, Proof::Observed, Some(seen)));
            }
            Status::Valid => fallback,
            Status::Invalid => Fallback::Invalid,
            Status::TokenRequired => Fallback::TokenRequired,
        };
        match phase {
            Phase::Verifying { after: after @ (Attempt::Abandoned | Attempt::TimedOut), .. } => {
                if self.link.verify_asked_at.is_some_and(|asked_at| seen.observed_at < asked_at) {
                    return Err(Refusal::Stale);
                }
                Ok(self.fall_back(after, observed_fallback, episode))
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

    // --- asking, ending, obeying ---

    pub(super) fn ask(&mut self, state: State) -> Next {
        self.ask_or(state, Refusal::CannotVerify)
    }

    pub(super) fn ask_or(&mut self, state: State, otherwise: Refusal) -> Next {
        if !self.policy.can_verify() {
            return Err(otherwise);
        }
        if self.ask_belvo() { Ok(state) } else { Err(Refusal::AlreadyKnown) }
    }

    /// Asks for a verify unless Belvo cannot be asked or one is under way.
    pub(super) fn ask_belvo(&mut self) -> bool {
        let wait = self.policy.settings().verify_wait;
        let under_way = self.link.verify_asked_at.is_some_and(|at| self.now.since(at) < wait);
        let asks = self.policy.can_verify() && !under_way;
        if asks {
            self.link.verify_asked_at = Some(self.now);
            self.effects.push(Effect::Job(Job::Verify));
        }
        asks
    }

    pub(super) fn end_or_obey(&mut self, state: State, event: &Event) -> Next {
        match event {
            Event::LinkDeleted => Ok(self.remove(&state, Removal::Deleted)),
            Event::ObservedMissing => Ok(self.remove(&state, Removal::Missing)),
            Event::MissingReported => self.ask(state),
            Event::Command(command) => self.obey(state, *command),
            Event::Broken(_)
            | Event::CreationUnfinished
            | Event::SessionExpired
            | Event::ConsentEnding(_)
            | Event::UpdateStarted { .. }
            | Event::UpdateClaimed
            | Event::UpdateAbandoned
            | Event::Observed(_)
            | Event::DataArrived(_)
            | Event::RefreshAccepted
            | Event::DeadlinePassed => Err(Refusal::AlreadyKnown),
        }
    }

    fn remove(&mut self, state: &State, why: Removal) -> State {
        self.link.refresh = None;
        self.link.verify_asked_at = None;
        self.link.quiet = Quiet::Listening;
        self.tell(Notice::Removed { why }, state.episode());
        State::Removed
    }

    fn obey(&mut self, state: State, command: Command) -> Next {
        let mut state = state;
        match command {
            Command::Mute if self.link.muted => return Err(Refusal::AlreadyKnown),
            Command::Mute => self.link.muted = true,
            Command::Unmute if !self.link.muted => return Err(Refusal::AlreadyKnown),
            Command::Unmute => {
                self.link.muted = false;
                if let State::Invalid { episode } | State::TokenRequired { episode, .. } = &mut state {
                    episode.pause_reminders(self.now, self.policy);
                }
                self.release_prompt(&mut state);
            }
            Command::Snooze(until) if self.link.snoozed_until == Some(until) => return Err(Refusal::AlreadyKnown),
            Command::Snooze(until) => self.link.snoozed_until = Some(until),
            Command::Verify if !self.policy.can_verify() => return Err(Refusal::CannotVerify),
            Command::Verify => {
                self.link.verify_asked_at = Some(self.now);
                self.effects.push(Effect::Job(Job::Verify));
            }
            Command::Forget => return Ok(self.remove(&state, Removal::Forgotten)),
        }
        Ok(state)
    }

    /// Sends the episode's one prompt if it was held back and nothing holds it any more.
    fn release_prompt(&mut self, state: &mut State) {
        if self.link.muted {
            return;
        }
        if let State::Invalid { episode } | State::TokenRequired { episode, .. } = state
            && episode.prompt == Prompt::Held
        {
            episode.prompt = Prompt::Sent;
            let episode = episode.clone();
            self.tell(Notice::UpdateRequired, Some(&episode));
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

const fn fallback_of(cause: Cause) -> Fallback {
    match cause {
        Cause::Token => Fallback::TokenRequired,
        Cause::Credentials | Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => Fallback::Invalid,
    }
}

/// Whether an observed `valid` says anything about this cause. Belvo's status does not show a locked account, an ended consent or
/// an unsupported MFA: for those only an access after `since` does.
fn shows(cause: Cause, seen: &Observation, since: Timestamp) -> bool {
    match cause {
        Cause::Credentials | Cause::Token => true,
        Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => {
            seen.last_accessed_at.is_some_and(|at| at > since)
        }
    }
}

pub(super) const fn refuse_errors(data: &Data) -> Result<(), Refusal> {
    if data.has_errors { Err(Refusal::DataWithErrors) } else { Ok(()) }
}

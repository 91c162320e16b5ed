//! What follows a recovery, and what keeps a working link honest: arriving data, silence, deadlines.

use super::draft::{Draft, Next};
use super::{
    AccessMode, Data, DataKind, Episode, Gap, Link, Notice, Observation, Phase, Policy, Prompt, Proof, Quiet, Refresh,
    RefreshBy, Refusal, State, Suspicion, Timestamp,
};

impl Draft<'_> {
    /// Closes the episode: `recovered` once, and once a historical refresh of what was missed.
    pub(super) fn recover(&mut self, episode: &Episode, proof: Proof, seen: Option<&Observation>) -> State {
        let settings = self.policy.settings();
        // A refresh still owed from an earlier outage is owed from that outage on.
        let owed_from = self.link.refresh.take().and_then(|refresh| refresh.gap_from);
        let gap = Gap { from: owed_from.or(self.link.data_at), to: self.now };
        let by = match self.link.profile.access_mode {
            Some(AccessMode::Recurrent) | None => RefreshBy::Belvo,
            Some(AccessMode::Single) if settings.can_verify && !self.link.refresh_needs_token => RefreshBy::Relink,
            Some(AccessMode::Single) => RefreshBy::Subscriber,
        };
        self.tell(Notice::Recovered { proof }, Some(episode));
        self.tell(Notice::RefreshDue { gap, by }, Some(episode));
        self.link.refresh = Some(Refresh {
            gap_from: gap.from,
            gap_to: gap.to,
            asked: false,
            rounds_count: u32::from(by == RefreshBy::Belvo),
            until: self.now.after(settings.refresh_wait),
            arrived: episode.arrived.clone(),
        });
        if !episode.arrived.is_empty() && self.missing_resources().is_empty() {
            // All of it came before the proof did.
            self.close_refresh();
        } else if by == RefreshBy::Relink {
            self.ask_for_refresh(Vec::new());
        }
        self.link.recovered_at = Some(self.now);
        self.link.widget_until = None;
        self.link.verify_asked_at = None;
        self.link.snoozed_until = None;
        self.link.quiet = Quiet::Listening;
        if let Some(seen) = seen {
            self.note_access(seen);
        }
        State::Valid { suspicion: None }
    }

    /// Data proves that the link works again; only where Belvo cannot be asked.
    pub(super) fn recover_by_data(&mut self, episode: &Episode, data: &Data) -> State {
        let works = self.recover(episode, Proof::Data, None);
        self.count_data(data);
        works
    }

    /// Data of a link that works, or is finished now. What speaks against it is refuted by data only where Belvo cannot be
    /// asked: the data may be older.
    pub(super) fn take_data(&mut self, suspicion: Option<Suspicion>, data: &Data) -> Next {
        if !shows_access(data) {
            return self.ask_about_data(State::Valid { suspicion }, data);
        }
        let suspicion = suspicion.filter(|_| self.policy.can_verify());
        self.count_data(data);
        if suspicion.is_some() {
            self.ask_belvo();
        }
        Ok(State::Valid { suspicion })
    }

    /// Data flows, and a refresh that is owed comes nearer.
    fn count_data(&mut self, data: &Data) {
        self.link.data_at = Some(self.now);
        self.link.quiet = Quiet::Listening;
        self.tell(Notice::DataAvailable(data.clone()), None);
        self.count_arrival(data);
    }

    /// An error or a correction proves nothing of the link, in no state. Where something may be wrong, Belvo is asked.
    pub(super) fn ask_about_data(&mut self, state: State, data: &Data) -> Next {
        let works = matches!(state, State::Valid { suspicion: None });
        // A correction is made at Belvo, without access to the institution: it is no news of a link that works.
        let asked = (data.has_errors || !works) && self.ask_belvo();
        if data.has_errors {
            return if asked { Ok(state) } else { Err(Refusal::DataWithErrors) };
        }
        let episode = state.episode().cloned();
        self.tell(Notice::DataAvailable(data.clone()), episode.as_ref());
        Ok(state)
    }

    /// Takes over Belvo's `last_accessed_at`: its last successful access is a sign of life.
    pub(super) fn note_access(&mut self, seen: &Observation) -> bool {
        let newer = seen.last_accessed_at.filter(|&at| self.link.data_at.is_none_or(|known| at > known));
        let Some(at) = newer else { return false };
        // Belvo's clock may run ahead of ours; a proof is never from the future.
        self.link.data_at = Some(at.min(self.now));
        self.link.quiet = Quiet::Listening;
        true
    }

    pub(super) fn pass_valid_deadline(&mut self, suspicion: Option<Suspicion>) -> Next {
        if let Some(held) = suspicion.as_ref().filter(|held| held.until <= self.now) {
            return Ok(self.believe(held));
        }
        let wants_answer =
            suspicion.is_some() && self.link.answer_deadline(self.policy).is_some_and(|at| at <= self.now);
        let state = State::Valid { suspicion };
        if wants_answer {
            self.ask_belvo();
            return Ok(state);
        }
        if self.link.refresh.as_ref().is_some_and(|refresh| refresh.until <= self.now) {
            self.pass_refresh_deadline();
            return Ok(state);
        }
        if self.link.consent_deadline(self.policy).is_some_and(|at| at <= self.now) {
            let State::Valid { suspicion } = state else { return Err(Refusal::NotDue) };
            return self.pass_consent_deadline(suspicion);
        }
        if self.link.quiet_deadline(self.policy).is_some_and(|at| at <= self.now) {
            self.pass_quiet_deadline();
            return Ok(state);
        }
        Err(Refusal::NotDue)
    }

    fn pass_quiet_deadline(&mut self) {
        match self.link.quiet {
            Quiet::Listening if self.policy.can_verify() => {
                let until = self.now.after(self.policy.answer_wait());
                self.link.quiet = Quiet::Probed { until };
                self.ask_belvo();
            }
            Quiet::Listening | Quiet::Probed { .. } => {
                self.link.quiet = Quiet::Reported;
                self.tell(Notice::Silent { since: self.link.data_at }, None);
            }
            Quiet::Reported => {}
        }
    }
}

impl Link {
    /// When the link next wants an [`super::Event::DeadlinePassed`].
    ///
    /// Derived from the record and the policy alone, so that a rebuilt store has the same timers.
    pub fn deadline(&self, policy: &Policy) -> Option<Timestamp> {
        match &self.state {
            State::Unconfirmed | State::Removed => None,
            State::Valid { suspicion } => {
                let doubt = suspicion.as_ref().map(|held| held.until);
                let answer = suspicion.as_ref().and_then(|_| self.answer_deadline(policy));
                let refresh = self.refresh.as_ref().map(|refresh| refresh.until);
                let consent = self.consent_deadline(policy);
                [doubt, answer, refresh, consent, self.quiet_deadline(policy)].into_iter().flatten().min()
            }
            State::Invalid { episode } | State::TokenRequired { episode } => {
                if let Prompt::Waiting { until, .. } = episode.prompt {
                    return Some(until);
                }
                self.reminder_deadline(episode, policy)
            }
            State::Updating { phase: Phase::WithUser { until, .. } | Phase::Verifying { until, .. }, .. } => {
                Some(*until)
            }
        }
    }

    /// When a verify that was asked for and not answered is asked for again.
    fn answer_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let asked_at = self.verify_asked_at.filter(|_| policy.can_verify())?;
        Some(asked_at.after(policy.settings().verify_wait))
    }

    fn quiet_deadline(&self, policy: &Policy) -> Option<Timestamp> {
        match self.quiet {
            Quiet::Listening if self.profile.access_mode == Some(AccessMode::Recurrent) => {
                let every = self.profile.refresh_every?;
                // An outage is not silence: after a repair the link has all its time again.
                let listening_since = self.data_at.max(self.recovered_at)?;
                Some(listening_since.after(every.saturating_mul(policy.settings().silence_intervals)))
            }
            Quiet::Probed { until } => Some(until),
            Quiet::Listening | Quiet::Reported => None,
        }
    }
}

/// Whether the data shows that Belvo had access to the institution. A correction (`transactions_updated`) is made without,
/// and data with errors shows nothing.
pub(super) const fn shows_access(data: &Data) -> bool {
    match data.kind {
        DataKind::Historical | DataKind::New => !data.has_errors,
        DataKind::Changed => false,
    }
}

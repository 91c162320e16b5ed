//! A link that works: what its recovery leads to, arriving data, and staleness.

use super::builder::{Next, TransitionBuilder};
use super::{
    AccessMode, Data, DataKind, Episode, Freshness, Gap, LinkObservation, Notice, Proof, Refresh, RefreshBy, Refusal,
    State, Suspicion,
};

impl TransitionBuilder<'_> {
    /// Ends the episode: emits `recovered` and `refresh_due`, and begins the historical refresh of the missed data.
    pub(super) fn recover(&mut self, episode: &Episode, proof: Proof, seen: Option<&LinkObservation>) -> State {
        let settings = self.policy.settings();
        // If the refresh after an earlier outage is not complete, the gap begins with that outage.
        let earlier_gap_from = self.link.refresh.take().and_then(|refresh| refresh.gap_from);
        let gap = Gap { from: earlier_gap_from.or(self.link.data_at), to: self.now };
        let by = match self.link.profile.access_mode {
            Some(AccessMode::Recurrent) | None => RefreshBy::Belvo,
            Some(AccessMode::Single) if settings.can_verify && !self.link.refresh_needs_token => RefreshBy::Relink,
            Some(AccessMode::Single) => RefreshBy::Subscriber,
        };
        self.emit(Notice::Recovered { proof }, Some(episode));
        self.emit(Notice::RefreshDue { gap, by }, Some(episode));
        self.link.refresh = Some(Refresh {
            gap_from: gap.from,
            gap_to: gap.to,
            asked: false,
            rounds_count: u32::from(by == RefreshBy::Belvo),
            until: self.now.after(settings.refresh_wait),
            arrived: episode.arrived.clone(),
        });
        if !episode.arrived.is_empty() && self.missing_resources().is_empty() {
            // The data of all resources arrived before the proof.
            self.close_refresh();
        } else if by == RefreshBy::Relink {
            self.request_refresh(Vec::new());
        }
        self.link.recovered_at = Some(self.now);
        self.link.widget_until = None;
        self.link.verify_asked_at = None;
        self.link.snoozed_until = None;
        self.link.freshness = Freshness::Fresh;
        if let Some(seen) = seen {
            self.note_access(seen);
        }
        State::Valid { suspicion: None }
    }

    /// Ends the episode because data arrived. Only without API keys, when Belvo cannot be asked.
    pub(super) fn recover_by_data(&mut self, episode: &Episode, data: &Data) -> State {
        let works = self.recover(episode, Proof::Data, None);
        self.count_data(data);
        works
    }

    /// Data of a valid link, or of a link whose creation is finished by it. The data may be older than the suspicion,
    /// so it refutes a suspicion only without API keys, when Belvo cannot be asked.
    pub(super) fn take_data(&mut self, suspicion: Option<Suspicion>, data: &Data) -> Next {
        if !shows_access(data) {
            return self.verify_after_data(State::Valid { suspicion }, data);
        }
        let suspicion = suspicion.filter(|_| self.policy.can_verify());
        self.count_data(data);
        if suspicion.is_some() {
            self.request_verification();
        }
        Ok(State::Valid { suspicion })
    }

    /// Records that data arrived, for the freshness of the link and for its historical refresh.
    fn count_data(&mut self, data: &Data) {
        self.link.data_at = Some(self.now);
        self.link.freshness = Freshness::Fresh;
        self.emit(Notice::DataAvailable(data.clone()), None);
        self.count_arrival(data);
    }

    /// Data with errors, or a correction. Neither proves that the link works. If the link may be broken, Belvo is
    /// asked.
    pub(super) fn verify_after_data(&mut self, state: State, data: &Data) -> Next {
        let works = matches!(state, State::Valid { suspicion: None });
        // Belvo makes corrections without access to the institution, so a correction says nothing about a working link.
        let asked = (data.has_errors || !works) && self.request_verification();
        if data.has_errors {
            return if asked { Ok(state) } else { Err(Refusal::DataWithErrors) };
        }
        let episode = state.episode().cloned();
        self.emit(Notice::DataAvailable(data.clone()), episode.as_ref());
        Ok(state)
    }

    /// Records Belvo's last successful access (`last_accessed_at`). Returns whether it is newer than the known one.
    pub(super) fn note_access(&mut self, seen: &LinkObservation) -> bool {
        let newer = seen.last_accessed_at.filter(|&at| self.link.data_at.is_none_or(|known| at > known));
        let Some(at) = newer else { return false };
        // Belvo's clock may be ahead of ours, so a time in the future counts as now.
        self.link.data_at = Some(at.min(self.now));
        self.link.freshness = Freshness::Fresh;
        true
    }

    pub(super) fn pass_valid_deadline(&mut self, suspicion: Option<Suspicion>) -> Next {
        if let Some(evidence) = suspicion.as_ref().filter(|evidence| evidence.until <= self.now) {
            return Ok(self.confirm(evidence));
        }
        let wants_answer =
            suspicion.is_some() && self.link.answer_deadline(self.policy).is_some_and(|at| at <= self.now);
        let state = State::Valid { suspicion };
        if wants_answer {
            self.request_verification();
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
        if self.link.staleness_deadline(self.policy).is_some_and(|at| at <= self.now) {
            self.pass_staleness_deadline();
            return Ok(state);
        }
        Err(Refusal::NotDue)
    }

    fn pass_staleness_deadline(&mut self) {
        match self.link.freshness {
            Freshness::Fresh if self.policy.can_verify() => {
                let until = self.now.after(self.policy.answer_wait());
                self.link.freshness = Freshness::Probed { until };
                self.request_verification();
            }
            Freshness::Fresh | Freshness::Probed { .. } => {
                self.link.freshness = Freshness::Stale;
                self.emit(Notice::Stale { since: self.link.data_at }, None);
            }
            Freshness::Stale => {}
        }
    }
}

/// Whether the data shows that Belvo had access to the institution. Belvo makes a correction (`transactions_updated`)
/// without access, and data with errors shows nothing.
pub(super) const fn shows_access(data: &Data) -> bool {
    match data.kind {
        DataKind::Historical | DataKind::New => !data.has_errors,
        DataKind::Changed => false,
    }
}

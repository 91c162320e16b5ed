//! The times of a node: when it wakes up, and how it measures the clock of the input stream (`stream_clock`).

use super::input::RequestId;
use super::output::{Note, Output};
use super::stream_clock::{DEVIATION_MAX, Measured};
use super::{CHECKPOINT_EVERY, Node, PAUSE_MAX, Phase};
use crate::link::Timestamp;
use crate::store::{Store, StoreError};
use std::time::Duration;

/// The longest time between two checks for due timers.
const TIMERS_EVERY: Duration = Duration::from_secs(1);

/// The pause between two measurements of the server's clock.
const MEASURED_EVERY: Duration = Duration::from_secs(10);

/// The pause after a measurement that failed, or took too long to be exact.
const MEASURED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The measurements of the server's clock; all times are of the own clock.
#[derive(Debug, Default)]
pub(super) struct Measuring {
    /// The open request, and when it was made.
    open: Option<(RequestId, Timestamp)>,
    /// When the next request is made; `None`: at once.
    next_at: Option<Timestamp>,
}

impl<S: Store + Clone> Node<S> {
    /// Asks for the server's time, if it is due.
    pub(super) fn measure(&mut self, now: Timestamp) {
        let is_due = self.measuring.next_at.is_none_or(|at| at <= now);
        if self.measuring.open.is_some() || !is_due || self.partitions.is_empty() {
            return;
        }
        let request = self.request();
        self.measuring = Measuring { open: Some((request, now)), next_at: Some(now.after(MEASURED_EVERY)) };
        self.outputs.push_back(Output::ReadStreamTime { request });
    }

    pub(super) fn stream_time(&mut self, now: Timestamp, request: RequestId, stream: Timestamp, host: Timestamp) {
        let Some((_, asked_at)) = self.measuring.open.take_if(|(open, _)| *open == request) else { return };
        if self.phase() == Phase::Running && self.is_pipeline_empty() {
            self.followed_at = self.followed_at.max(Some(asked_at));
        }
        let took = now.since(asked_at);
        if took > DEVIATION_MAX || asked_at > now {
            self.measuring.next_at = Some(now.after(MEASURED_AGAIN_AFTER));
            return;
        }
        // The server has read its clock somewhere between the request and the answer.
        let measured = self.clock.measured(asked_at.after(took / 2), stream);
        let host_jump = self.clock.host_measured(now, host);
        if let Some(by_ms) = host_jump {
            self.note(Note::HostClockJumped { by_ms });
        }
        match measured {
            Measured::AsExpected | Measured::Unconfirmed => {}
            Measured::Jumped { by_ms } => self.note(Note::ClockJumped { by_ms, is_confirmed: false }),
            Measured::Confirmed { by_ms } => self.note(Note::ClockJumped { by_ms, is_confirmed: true }),
            Measured::JumpedBack => self.note(Note::ClockRight),
        }
        // A link counts as in the future only if it is ahead of both clocks.
        let is_earlier =
            matches!(measured, Measured::Confirmed { by_ms } if by_ms < 0) || host_jump.is_some_and(|by_ms| by_ms < 0);
        if let Some(engine) = self.engine.as_mut().filter(|_| is_earlier || measured == Measured::JumpedBack) {
            engine.check_all_times();
        }
    }

    /// Handles a failed request of this file; returns whether it was one.
    pub(super) fn measuring_failed(&mut self, now: Timestamp, request: RequestId) -> bool {
        let is_ours = self.measuring.open.take_if(|(open, _)| *open == request).is_some();
        if is_ours {
            self.measuring.next_at = Some(now.after(MEASURED_AGAIN_AFTER));
        }
        is_ours
    }

    /// The latest time, of the driver's own clock, up to which the store is known to have followed the output stream: it has every message
    /// that was stored before, unless another node has taken our partitions and we do not know it yet. `None` until the store has
    /// caught up.
    pub const fn followed_at(&self) -> Option<Timestamp> {
        self.followed_at
    }

    /// When the closing message of the commit in flight was sent, by the driver's own clock. `None` if no commit waits for its answer.
    pub fn commit_sent_at(&self) -> Option<Timestamp> {
        self.in_flight.as_ref().map(super::InFlight::sent_at)
    }

    /// How many of the last commits that were sent are neither in the store nor refused.
    pub fn unsettled_count(&self) -> usize {
        let applying = self.applying.iter().filter(|applying| applying.is_of_commit());
        usize::from(self.in_flight.is_some()) + applying.count()
    }

    /// The time of the input stream, for a driver whose own clock shows `now`.
    pub fn stream_now(&self, now: Timestamp) -> Timestamp {
        self.clock.now(now)
    }

    /// Shortens pauses that a clock set back would prolong.
    pub(super) fn limit_pauses(&mut self, now: Timestamp) {
        self.retry_at = self.retry_at.map(|at| at.min(now.after(PAUSE_MAX)));
        self.checkpoint_at = self.checkpoint_at.map(|at| at.min(now.after(CHECKPOINT_EVERY)));
        self.measuring.next_at = self.measuring.next_at.map(|at| at.min(now.after(MEASURED_EVERY)));
    }

    pub(super) fn schedule(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let checkpoint_at = self.checkpoint_at.filter(|_| self.checkpointing.is_none());
        // Without partitions the node does not measure, so this time would stay in the past.
        let is_measured_next = self.measuring.open.is_none() && !self.clock.is_known() && !self.partitions.is_empty();
        let measure_at = self.measuring.next_at.filter(|_| is_measured_next);
        let mut wake_at = self.retry_at.into_iter().chain(checkpoint_at).chain(measure_at).min();
        // While the pipeline is busy, the next answer wakes the node.
        if let Some(engine) = self.engine.as_ref().filter(|_| !self.is_engine_stale && self.is_pipeline_empty()) {
            let latest = now.after(TIMERS_EVERY);
            let next = self.store.next_deadline()?.into_iter().chain(engine.next_deadline()).min();
            // A deadline in the past belongs to a timer that was set aside, or to the partition of another node.
            let next = next.map(|at| self.clock.own_time(at));
            let timers_at = next.filter(|at| *at > now).map_or(latest, |at| at.min(latest));
            let timers_at = self.complete.wakes_at(now).map_or(timers_at, |at| timers_at.min(at));
            wake_at = Some(wake_at.map_or(timers_at, |at| at.min(timers_at)));
        }
        if let Some(at) = wake_at.filter(|_| wake_at != self.wake_at) {
            self.wake_at = wake_at;
            self.outputs.push_back(Output::WakeAt { at });
        }
        Ok(())
    }
}

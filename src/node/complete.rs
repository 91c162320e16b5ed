//! Up to when all inputs are handled: a deadline waits for the inputs that relink has accepted before it.
//!
//! ```text
//!   accepted ──▶ journal ──▶ input stream ──▶ reader ──▶ queue ──▶ plan
//!   └──────── after an outage of NATS, or at a start, hours of inputs are still here ────────┘
//! ```
//!
//! If a `mute`, a successful repair or a recovery is among them, a prompt that became due meanwhile would be wrong. So before the node
//! handles a deadline that has passed, it asks how much waits: since when the journal has messages, and which one is the last message of
//! each partition ([`Output::ReadInputEnds`]). When the node has planned these messages, it has every input up to the time of the
//! question, or up to the oldest message of the journal. The deadlines up to that time are handled; later ones ask again.
//!
//! Every wait ends: after [`HELD_MAX`] without progress the deadlines are handled anyway.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use super::input::RequestId;
use super::output::{Note, Output};
use crate::link::Timestamp;
use crate::store::Store;

/// The shortest time between two questions.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// The time to the next question after a failure, and while the journal has messages.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The time to the next question while the messages of an answer are not here. The end of the stream may be a message of another partition,
/// or may have been removed, so only a later answer shows that a partition has no more messages.
const AWAITED_FOR: Duration = Duration::from_millis(200);

/// The most answers whose messages are not planned. In a long backlog the first of them moves the node on.
const AWAITED_MAX: usize = 32;

/// If the node makes no progress for so long, for example because the input stream is full and refuses the journal, deadlines no longer
/// wait.
pub(super) const HELD_MAX: Duration = Duration::from_secs(600);

/// What the node knows about the inputs that it has not handled.
#[derive(Debug, Default)]
pub(super) struct Complete {
    /// Every input that was accepted before this time, by the clock of the input stream, is planned. `None`: unknown.
    until: Option<Timestamp>,
    /// The open question, and when it was asked, by the own clock.
    open: Option<(RequestId, Timestamp)>,
    /// Answers whose messages are not all planned, in the order of their questions.
    awaited: Vec<Awaited>,
    /// When the next question may be asked, by the own clock.
    next_at: Option<Timestamp>,
    /// Since when deadlines wait without progress, by the own clock.
    held_since: Option<Timestamp>,
    /// Whether deadlines have waited for too long, and no longer wait.
    has_given_up: bool,
    /// How many deliveries were put into the queue.
    queued_count: u64,
}

/// The messages that an answer has named.
#[derive(Debug)]
struct Awaited {
    /// What [`Complete::until`] is when they are planned.
    until: Timestamp,
    /// The last sequence of each partition.
    ends: BTreeMap<u16, u64>,
    /// [`Complete::queued_count`] when the last of them was queued. `None`: not yet.
    queued_count: Option<u64>,
}

impl Complete {
    /// A delivery was put into the queue.
    pub(super) fn queued(&mut self) {
        self.queued_count += 1;
    }

    /// Plans or queued messages were discarded: they will be delivered again.
    pub(super) fn reset(&mut self) {
        (self.until, self.open) = (None, None);
        self.awaited.clear();
    }

    /// Messages were removed from the queue, so the open answers can no longer be followed.
    pub(super) fn forget_awaited(&mut self) {
        self.awaited.clear();
    }

    /// When the node should ask again, if that is after `now`; `None` if no deadline waits, or an answer will come.
    pub(super) fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_at.filter(|at| *at > now && self.held_since.is_some() && self.open.is_none())
    }

    /// Moves [`Complete::until`] on, if the messages of an answer are planned: `planned_count` deliveries have left the queue.
    fn advance(&mut self, planned_count: u64) {
        let is_planned = |awaited: &Awaited| awaited.queued_count.is_some_and(|count| planned_count >= count);
        if let Some(last) = self.awaited.iter().rposition(is_planned) {
            let until = self.awaited.drain(..=last).map(|awaited| awaited.until).max();
            if until > self.until {
                (self.until, self.held_since, self.has_given_up) = (until, None, false);
            }
        }
    }
}

impl<S: Store + Clone> Node<S> {
    /// Deadlines up to this time, by the clock of the input stream, are handled now. `None`: all that have passed.
    pub(super) fn due_by(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.look_at_awaited();
        if self.complete.has_given_up {
            return None;
        }
        // After a clock was set back, a time in the future says nothing.
        let stream_now = self.clock.now(now);
        self.complete.until.take_if(|until| *until > stream_now);
        Some(self.complete.until.unwrap_or(Timestamp::from_millis(0)))
    }

    /// After a plan with timers: deadlines have passed that wait for inputs, or none does.
    pub(super) fn timers_held(&mut self, now: Timestamp, are_held: bool) {
        let complete = &mut self.complete;
        if !are_held && !complete.has_given_up {
            complete.held_since = None;
            return;
        }
        // `now` may be earlier than before.
        let since = complete.held_since.map_or(now, |since| since.min(now));
        complete.held_since = Some(since);
        if !complete.has_given_up && now.since(since) >= HELD_MAX {
            complete.has_given_up = true;
            self.note(Note::TimersHeldTooLong { held: HELD_MAX });
        }
        self.ask_for_ends(now);
    }

    fn ask_for_ends(&mut self, now: Timestamp) {
        let is_due = self.complete.next_at.is_none_or(|at| at <= now || at > now.after(ASKED_AGAIN_AFTER));
        if self.complete.open.is_some() || !is_due {
            return;
        }
        let partitions = self.partitions.keys().copied().collect();
        let request = self.request();
        self.complete.open = Some((request, now));
        self.complete.next_at = Some(now.after(ASKED_EVERY));
        self.outputs.push_back(Output::ReadInputEnds { request, partitions });
    }

    pub(super) fn input_ends(
        &mut self,
        now: Timestamp,
        request: RequestId,
        waited: Duration,
        ends: BTreeMap<u16, u64>,
    ) {
        let Some((_, asked_at)) = self.complete.open.take_if(|(open, _)| *open == request) else { return };
        let until = self.clock.now(asked_at).before(waited);
        self.complete.awaited.push(Awaited { until, ends, queued_count: None });
        self.look_at_awaited();
        if !self.complete.awaited.is_empty() {
            self.complete.awaited.truncate(AWAITED_MAX);
            self.complete.next_at = Some(now.after(AWAITED_FOR));
        } else if !waited.is_zero() {
            self.complete.next_at = Some(now.after(ASKED_AGAIN_AFTER));
        }
    }

    /// Handles a failed request of this file; returns whether it was one.
    pub(super) fn input_ends_failed(&mut self, now: Timestamp, request: RequestId) -> bool {
        let is_ours = self.complete.open.take_if(|(open, _)| *open == request).is_some();
        if is_ours {
            self.complete.next_at = Some(now.after(ASKED_AGAIN_AFTER));
        }
        is_ours
    }

    /// Finds the answers whose messages are queued, and those whose messages are planned.
    fn look_at_awaited(&mut self) {
        let (partitions, complete) = (&self.partitions, &mut self.complete);
        let queued_count = complete.queued_count;
        for awaited in complete.awaited.iter_mut().filter(|awaited| awaited.queued_count.is_none()) {
            let has_arrived = |(number, end): (&u16, &u64)| {
                // A partition that this node has lost is no longer its concern.
                let Some(partition) = partitions.get(number) else { return true };
                partition.newest.is_some_and(|(newest, _)| newest >= *end)
            };
            if awaited.ends.iter().all(has_arrived) {
                awaited.queued_count = Some(queued_count);
            }
        }
        complete.advance(queued_count - self.queue.len() as u64);
    }
}

//! The node: the commit protocol of one relink process, as a state machine without I/O.
//!
//! A node runs some partitions of the input stream `BELVO`. It handles the inputs of each partition in order, and commits the results of
//! many inputs as one atomic batch on the output stream `KV_links`. To own a partition, a node writes a **fence**: a message with its name
//! on `link.fence.<partition>`. The last fence names the owner. A **driver** performs the node's outputs (over NATS, or in a simulation)
//! and hands the answers back as inputs.
//!
//! # One commit, step by step
//!
//! 1. **Queue.** The driver hands in deliveries ([`Input::Delivered`]). The node checks that no delivery is missing, and queues them.
//! 2. **Plan.** The engine turns queued deliveries and due timers into a plan: the new states, notices, jobs and refusals, and for each
//!    partition the committed offset, which says up to which input the partition is handled.
//! 3. **Dead letters** ([`Output::StoreDeadLetters`]). Inputs that cannot be handled are stored first, because the committed offset will
//!    count them as handled.
//! 4. **Stage** ([`Output::StageBatch`]). The driver sends all messages of the batch except the last one. The server keeps them in memory.
//!    For each partition, one message names the partition's fence.
//! 5. **Commit** ([`Output::CommitBatch`]). The driver sends the last message, called the closing message. The server stores the whole
//!    batch, or refuses all of it. It refuses the batch if a named fence is no longer the last one of its partition (another node has taken
//!    the partition), or if the previous closing message of this node is no longer on the stream (the stream has lost its tail).
//! 6. **Apply** ([`Output::Apply`]). The driver writes the same changes to the store.
//! 7. **Acknowledge** ([`Output::Acknowledge`]). The driver acknowledges the deliveries to JetStream. This is a hint that saves
//!    redeliveries. The committed offset alone decides where a partition resumes.
//!
//! One commit is in flight at a time. While commit *k* is in flight, the node plans *k + 1* on top of the changes of *k* (the overlay) and
//! stages it. It sends the closing message of *k + 1* only after it knows that *k* is stored. The changes of a few commits may wait to be
//! applied; until then they are in the overlay too.
//!
//! # When a commit does not succeed
//!
//! - **Refused:** nothing is stored. The node discards its plans and reads the fences. A partition that has the fence of another node ends
//!   here; the other partitions resume after their committed offsets. If no other node has taken a fence, the output stream has lost our
//!   last commit, and the node starts over. A node that has lost its last partition ends.
//! - **Unknown:** the whole batch may be stored, or nothing. The node starts over.
//! - **Failed:** nothing is stored. The node starts over.
//! - **Too large:** nothing is stored. The node plans again with half the items. A single delivery that is too large becomes a dead letter.
//!
//! To **start over** is to discard all plans, to take the fences again, and to read from the output stream which commits are stored. The
//! new fences make the server refuse every earlier batch of this node, also a batch that is in transit. If the output stream has lost
//! messages that the store has, the node empties the store and reads the whole state from the stream.
//!
//! # The stages of a partition
//!
//! ```text
//!   Assigned ──▶ Acquiring ──▶ Acquired ──▶ Resuming ──▶ Rewinding ──▶ Reading
//!      ▲         take the         ▲         find the     reset the        │
//!      │         fence, catch     │         resume       consumer         │ the reader failed,
//!      │         up the store     │         point                         │ or a commit was refused
//!      │                          │                                       ▼
//!      │                          └─── our fence is still the last ─── Suspect ──▶ ended: another node has taken the fence
//!      │                                                                  │
//!      └─────────────────────────── the node starts over ─────────────────┘
//! ```
//!
//! # How to drive a node
//!
//! ```text
//!   node.handle(now, Input::Gained { partitions });
//!   loop {
//!       while let Some(output) = node.poll_output() { begin it; after Output::End: return }
//!       wait for an answer, for at most node.room() deliveries, for the time of the last WakeAt, or for a shutdown
//!       node.handle(now, input);
//!   }
//! ```
//!
//! - The driver begins outputs in the order in which it polls them. It finishes writes to the store (`Apply`, `RestartStore`,
//!   `Checkpoint`) in that order too; if it answers them in another order, the node panics, because the store may then be wrong. All other
//!   outputs may finish in any order.
//! - An answer carries the id of its output. The node ignores late, repeated and unknown answers, so the driver need not cancel anything.
//! - A crash is simulated by dropping the node, together with every output that has not reached its stream or store yet.
//! - The node reads the store in [`Node::handle`]. Only the driver writes it, and only when an output asks for it.
//! - The node asks for the server's time every few seconds ([`Output::ReadStreamTime`]): the server dates the inputs, so its clock decides
//!   when a deadline has passed. Times of [`Output::WakeAt`] are of the driver's own clock.
//! - The node has no clock, no randomness, and no I/O except reading the store. The same inputs at the same times over the same store give
//!   the same outputs.
//!
//! # Invariants
//!
//! Each one is an assertion in this module, or a checker of the simulation:
//!
//! - At most one commit is in flight, and the next one is committed only after it is known to be stored.
//! - Dead letters are stored before the commit that counts them as handled.
//! - A partition's committed offset never decreases while the input stream is the same.
//! - The node acknowledges no delivery that is newer than the committed offset.
//! - The node stages no message for a partition whose fence it does not have.
//!
//! # Files
//!
//! - `input`, `output`: the values that go in and out; `dispatch`: hands each input to its part
//! - `acquire`: takes fences and catches up the store; `place`: finds where a partition resumes, and supervises its reader
//! - `commit`: the pipeline from the queue to the acknowledgement
//! - `complete`: a deadline waits for the inputs that relink has accepted before it
//! - `catch_up`: turns messages of the output stream into changes of the store, and tracks which messages the store has
//! - `lost_states`: compares the store with the digest of the last commit on the output stream
//! - `ending`: checkpoints, and the end of a partition and of a node
//! - `timing`: when the node wakes up; `stream_clock`: the server's clock, by which timers are compared
//! - `resume`: decides whether a committed offset is still valid for the input stream
//! - `messages`: the node's own messages: fences and closing messages
//! - `recording`: a log of inputs, and its replay
//!
//! This module must never read a clock, decide about a link (the engine does), or ignore the answer to an open commit.

mod input;
mod output;

mod dispatch;

mod acquire;
mod commit;
mod complete;
mod place;

mod catch_up;
mod ending;
mod lost_states;
mod messages;
mod partition;
mod recording;
mod resume;
mod stream_clock;
mod timing;

pub use self::input::{
    BatchId, Delivered, FenceFacts, Input, Limit, OutputKind, OutputMessage, ReaderId, RequestId, StreamFacts,
};
pub use self::messages::fence_message;
pub use self::output::{Closing, End, FenceToTake, Note, Output, PartitionEnd};
pub use self::recording::{Recorded, ReplayError, replay};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::acquire::{Acquisition, Reading};
use self::catch_up::Coverage;
use self::commit::{Applying, InFlight, Next};
use self::complete::Complete;
use self::ending::{Ending, EndingStage};
use self::lost_states::Expected;
use self::partition::{Partition, Stage};
use self::place::Resuming;
use self::stream_clock::StreamClock;
use self::timing::Measuring;
use crate::engine::{Delivery, Engine, MESSAGES_MAX, Publishing};
use crate::institution::Components;
use crate::link::{Policy, Timestamp};
use crate::store::{Store, StoreError};

/// The most deliveries in the queue: enough for a few commits.
const QUEUE_DELIVERIES_MAX: usize = 2_048;

/// The longest time from a change of the store to its next checkpoint. After a crash of the host, the changes since the last checkpoint
/// are read again from the output stream.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The pause after the first failure. Each further failure doubles it, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The owner in the fences of this node. No other node may have the same owner, not even in the same process.
    pub owner: String,
    /// The owner as a subject token, for `link.commit.<writer>`: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    pub writer: String,
    /// The number of partitions of the input stream.
    pub partitions_count: u16,
    /// The policy of the machine.
    pub policy: Policy,
    /// While a commit is in flight, the node plans the next one only if the queue has at least this many deliveries. Production uses
    /// [`PLAN_AHEAD_MIN`], which about fills a commit; tests use 1 to get more interleavings.
    pub plan_ahead_min: usize,
}

/// A third of the messages of a full commit, because a delivery results in about three messages.
pub const PLAN_AHEAD_MIN: usize = MESSAGES_MAX / 3;

/// The progress of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At least one partition has no reader now.
    Starting,
    /// Every partition has a reader.
    Running,
    /// The node has ended or is ending.
    Stopped,
}

/// The commit protocol of the partitions of one process.
pub struct Node<S> {
    options: NodeOptions,
    /// Signs the address of the repair page in notices.
    publishing: Publishing,
    components: Components,
    store: S,
    /// `None` until the first partition has its resume point.
    engine: Option<Engine<S>>,
    /// Whether the engine has discarded plans in its overlay, or does not know all partitions.
    is_engine_stale: bool,
    partitions: BTreeMap<u16, Partition>,

    acquisition: Option<Acquisition>,
    /// Whether to read the fences before anything else, because the server refused to let us take one.
    must_check_fences: bool,
    /// The open request for the fences of these partitions.
    fence_check: Option<(RequestId, Vec<u16>)>,
    reading: Option<Reading>,
    resuming: Option<Resuming>,
    /// Which messages of the output stream the store has.
    coverage: Option<Coverage>,
    /// Whether the store has commits that the output stream has lost.
    store_is_ahead: bool,
    /// How often this node has emptied the store, because the output stream had lost messages.
    store_restarts_count: u64,
    /// What the store must have after the messages that were read since the last own commit.
    expected: Expected,
    /// The sequence of our last closing message; `None` until the first one is stored.
    last_closing: Option<u64>,
    /// Whether a commit was refused and the reason is not known yet.
    was_refused: bool,
    /// When the input stream was created, in nanoseconds since the Unix epoch: its identity.
    input_created_ns: Option<i64>,

    queue: VecDeque<Delivery>,
    next: Option<Next>,
    in_flight: Option<InFlight>,
    applying: VecDeque<Applying>,
    /// How many plans in a row had no timers.
    plans_without_timers: u32,
    /// The most items (deliveries and timers) of the next plan. A batch that is too large halves it, a commit doubles it.
    items_max: usize,
    /// The upper limit of `items_max`, after the server has refused a batch for its number of messages.
    items_ceiling: usize,

    /// Up to when all inputs are handled.
    complete: Complete,
    /// The clock of the input stream. All other times of a node are of the driver's own clock.
    clock: StreamClock,
    measuring: Measuring,
    checkpoint_at: Option<Timestamp>,
    checkpointing: Option<RequestId>,
    pause: Duration,
    retry_at: Option<Timestamp>,
    wake_at: Option<Timestamp>,
    stopping: bool,
    ending: Option<Ending>,
    last_id: u64,
    outputs: VecDeque<Output>,
    /// See [`Node::followed_at`].
    followed_at: Option<Timestamp>,
    /// Whether the node got all partitions at once and has kept them, so that its store has followed every link.
    has_all: bool,
}

impl<S: Store + Clone> Node<S> {
    /// Creates a node without partitions. A clone of `store` must be a handle of the same store.
    pub fn new(options: NodeOptions, store: S) -> Self {
        Self {
            options,
            publishing: Publishing::default(),
            components: Components::default(),
            store,
            engine: None,
            is_engine_stale: true,
            partitions: BTreeMap::new(),
            acquisition: None,
            must_check_fences: false,
            fence_check: None,
            reading: None,
            resuming: None,
            coverage: None,
            store_is_ahead: false,
            store_restarts_count: 0,
            expected: Expected::default(),
            last_closing: None,
            was_refused: false,
            input_created_ns: None,
            queue: VecDeque::new(),
            next: None,
            in_flight: None,
            applying: VecDeque::new(),
            plans_without_timers: 0,
            items_max: usize::MAX,
            items_ceiling: usize::MAX,
            complete: Complete::default(),
            clock: StreamClock::default(),
            measuring: Measuring::default(),
            checkpoint_at: None,
            checkpointing: None,
            pause: PAUSE_MIN,
            retry_at: None,
            wake_at: None,
            stopping: false,
            ending: None,
            last_id: 0,
            outputs: VecDeque::new(),
            followed_at: None,
            has_all: false,
        }
    }

    /// Handles an input. `now` is the time of the driver's own clock, which should be steady: not moved when the host's time is changed. It
    /// may differ from the time of the server by any amount, and may be earlier than that of the last input.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        if self.ending.as_ref().is_some_and(|ending| ending.stage == EndingStage::Ended) {
            return;
        }
        self.limit_pauses(now);
        let handled = self.dispatch(now, input).and_then(|()| self.advance(now).map_err(End::of));
        if let Err(why) = handled {
            self.end(why);
        }
    }

    /// The next output. The driver polls until there is none before it calls [`Node::handle`] again.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The number of deliveries for which the queue has room.
    pub fn room(&self) -> usize {
        QUEUE_DELIVERIES_MAX.saturating_sub(self.queue.len())
    }

    /// The progress of the node.
    pub fn phase(&self) -> Phase {
        let is_reading = |partition: &Partition| matches!(partition.stage, Stage::Reading(_));
        match &self.ending {
            Some(_) => Phase::Stopped,
            None if self.partitions.is_empty() || self.is_engine_stale => Phase::Starting,
            None if self.partitions.values().all(is_reading) => Phase::Running,
            None => Phase::Starting,
        }
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Begins every step that has become possible.
    fn advance(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.stopping && self.ending.is_none() && self.is_pipeline_empty() {
            self.begin_ending(End::Stopped);
        }
        if self.ending.is_some() {
            self.go_on_ending();
            return Ok(());
        }
        // Commits that are in flight are finished. Queued deliveries are not: they are delivered again at the next start.
        if self.stopping {
            return Ok(());
        }
        self.measure(now);
        self.finish_catching_up(now)?;
        if self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = None;
            self.begin_check();
            self.begin_acquisition();
            self.begin_resuming();
            self.fill_gaps();
        }
        self.restart_engine()?;
        if self.phase() == Phase::Running {
            self.pause = PAUSE_MIN;
        }
        self.plan(now)?;
        if self.checkpointing.is_none() && self.checkpoint_at.is_some_and(|at| at <= now) {
            self.checkpoint();
        }
        self.schedule(now)
    }

    /// Resets the engine to the committed offsets, as soon as no plan is open.
    fn restart_engine(&mut self) -> Result<(), StoreError> {
        if !self.is_engine_stale || self.resuming.is_some() || !self.is_pipeline_empty() {
            return Ok(());
        }
        let handled = self.partitions.iter().filter_map(|(number, partition)| Some((*number, partition.handled?)));
        let offsets: BTreeMap<u16, u64> = handled.collect();
        let Some(input_created_ns) = self.input_created_ns.filter(|_| !offsets.is_empty()) else { return Ok(()) };
        match &mut self.engine {
            Some(engine) => engine.restart(input_created_ns, &offsets)?,
            None => {
                let NodeOptions { policy, partitions_count, .. } = &self.options;
                let engine = Engine::new(self.store.clone(), policy.clone(), input_created_ns, &offsets)?;
                self.engine = Some(self.set_up(engine.with_partitions(*partitions_count)));
            }
        }
        self.is_engine_stale = false;
        self.complete.reset();
        Ok(())
    }

    /// Discards all plans and takes the fences of all partitions again. It is for a commit with an unknown outcome, and for any other
    /// failure that leaves the state of a stream unknown. After the new fences, the server refuses every earlier batch of this node.
    fn start_over(&mut self, now: Timestamp, problem: &str) {
        self.discard_next();
        self.in_flight = None;
        self.discard_plans();
        (self.acquisition, self.reading, self.resuming) = (None, None, None);
        self.partitions.values_mut().for_each(Partition::start_over);
        self.fail(now, problem);
    }

    /// Schedules the next attempt after a pause. A failure during the pause does not make it longer.
    fn fail(&mut self, now: Timestamp, problem: &str) {
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.retry_at = Some(now.after(self.pause));
        let pause_ms = u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX);
        self.note(Note::StartingOver { problem: problem.to_owned(), pause_ms });
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn note(&mut self, note: Note) {
        self.outputs.push_back(Output::Note(note));
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn request(&mut self) -> RequestId {
        RequestId(self.next_id())
    }
}

impl End {
    fn of(error: StoreError) -> Self {
        Self::Store { problem: error.to_string() }
    }
}

#[cfg(test)]
mod tests;

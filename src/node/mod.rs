//! THE NODE: the commit protocol of this process's partitions, as one state machine without I/O.
//!
//! ```text
//!   partition:  wanted ─▶ fence taken ─▶ caught up ─▶ placed ─▶ rewound ─▶ reading ──▶ ended (another node took the fence)
//!                 ▲                                     ▲                    │
//!                 │ anything else failed, or            │ its reader failed, │
//!                 │ nobody knows the outcome            │ its fence is ours  │
//!                 └─────────────────────────────────────┴────────────────────┘
//!
//!   commit:     queue ─▶ plan ─▶ dead letters ─▶ stage ─▶ commit ─▶ apply ─▶ acknowledge
//!                        k + 1: planned over the overlay ┘ k: one at a time
//! ```
//!
//! **How to drive it.** A driver owns a [`Node`] and does what it says. There is no clock in it, no randomness and no I/O but reading the
//! store; the same inputs at the same times over the same store give the same outputs.
//!
//! ```text
//!   node.handle(now, Input::Gained { partitions: all of them });
//!   loop {
//!       while let Some(output) = node.poll_output() { begin it; Output::End: return }
//!       wait for an answer, deliveries (at most node.room()), the time of the last WakeAt, or shutdown
//!       node.handle(now, the input);
//!   }
//! ```
//!
//! - Outputs are begun in the order in which they come. Writes to the store are finished in that order; a driver may do them at once and
//!   hand in the answer before it looks at the next output. Everything else may take its time.
//! - An answer repeats the number of its output. Late, doubled and unknown answers are ignored, so a driver need not cancel anything.
//! - A crash is to drop the node, and everything that it asked for and that has not yet reached its stream or store.
//! - The node reads its store in `handle`. Nobody writes the store but the driver, when the node asks for it.
//!
//! **What it promises**, whatever its answers are (each is an assertion here or a checker of the simulation):
//! one commit is under way at a time, and the next is committed only after it is known to be stored; dead letters are stored before the
//! commit that counts them as handled; a partition's committed offset never goes back while the input stream is the same; nothing is
//! acknowledged beyond the committed offset; nothing is staged for a partition whose fence is not ours.
//!
//! - `input`, `output`: what goes in and out
//! - `acquire`: fences, catching up; `place`: where a partition goes on, and its reader
//! - `commit`: the pipeline from the queue to the acknowledgement
//! - `catch_up`: what messages of the output stream come to; how much of it the store has
//! - `resume`: whether a committed offset still speaks of this input stream
//! - `recording`: a log of inputs, and its replay
//!
//! It must never: read a clock, decide about a link (that is `engine`), or forget an answer that leaves an outcome open.

mod input;
mod output;

mod acquire;
mod commit;
mod place;

mod catch_up;
mod partition;
mod recording;
mod resume;

pub use self::input::{
    BatchId, Delivered, FenceFacts, Input, Limit, OutputKind, OutputMessage, ReaderId, RequestId, StreamFacts,
};
pub use self::output::{Closing, End, FenceToTake, Note, Output, PartitionEnd};
pub use self::recording::{Recorded, ReplayError, replay};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::acquire::{Acquisition, Reading};
use self::catch_up::Coverage;
use self::commit::{Applying, InFlight, Next};
use self::partition::{Partition, Stage};
use self::place::Placing;
use crate::contract::{Address, At, Commit, Fence};
use crate::engine::{Delivery, Engine, MESSAGES_MAX, Message};
use crate::link::{Policy, Timestamp};
use crate::store::{Store, StoreError};

/// Deliveries waiting for their plan: a few commits' worth.
const QUEUE_DELIVERIES_MAX: usize = 2_048;

/// The longest time between two checkpoints of a store that changed. It bounds only how much is read again after a crash of the host.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The longest time until timers are looked at again.
const TIMERS_EVERY: Duration = Duration::from_secs(1);

/// The first pause after a failure; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a node needs to know.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Who writes the fences: this node and no other, also of the same process.
    pub owner: String,
    /// The same as a part of a subject: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    pub writer: String,
    /// How many partitions the input stream has.
    pub partitions_count: u16,
    /// The policy of the machine.
    pub policy: Policy,
    /// How many deliveries make it worth planning the next commit while one is under way: about as many as fill it
    /// ([`PLAN_AHEAD_MIN`]), or 1 where every interleaving is to be seen.
    pub plan_ahead_min: usize,
}

/// A third of the messages of a full commit: a delivery makes three, more or less.
pub const PLAN_AHEAD_MIN: usize = MESSAGES_MAX / 3;

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A partition is not being read yet, or not at present.
    Starting,
    /// Every partition is being read.
    Running,
    /// It ended.
    Stopped,
}

/// The partitions of this process.
pub struct Node<S> {
    options: NodeOptions,
    store: S,
    /// Made when the first partition has been placed.
    engine: Option<Engine<S>>,
    /// Whether the engine has plans that were given up, or does not know all partitions.
    is_engine_stale: bool,
    partitions: BTreeMap<u16, Partition>,

    acquisition: Option<Acquisition>,
    /// Whether our fences may not be where we left them.
    must_check: bool,
    checking: Option<(RequestId, Vec<u16>)>,
    reading: Option<Reading>,
    placing: Option<Placing>,
    /// How much of the output stream the store has.
    coverage: Option<Coverage>,
    /// The store has commits that the output stream has lost.
    store_is_ahead: bool,
    /// The sequence of the last message that closed a commit of ours. None while nothing is known of it.
    last_closing: Option<u64>,
    /// A commit was refused, and it is not known yet by what.
    was_refused: bool,
    /// The identity of the input stream.
    input_created_ns: Option<i64>,

    queue: VecDeque<Delivery>,
    next: Option<Next>,
    in_flight: Option<InFlight>,
    applying: VecDeque<Applying>,
    /// How many items the next plan may have: fewer after a batch was too large, then twice as many after each commit.
    items_max: usize,
    /// As many as the server is known to take.
    items_ceiling: usize,

    checkpoint_at: Option<Timestamp>,
    checkpointing: Option<RequestId>,
    pause: Duration,
    retry_at: Option<Timestamp>,
    wake_at: Option<Timestamp>,
    stopping: bool,
    ending: Option<Ending>,
    last_id: u64,
    outputs: VecDeque<Output>,
}

/// A node on its way to its end.
struct Ending {
    why: End,
    stage: EndingStage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndingStage {
    /// Writes that were asked for are not done yet.
    Writing,
    /// The last checkpoint is under way.
    Checkpointing,
    Ended,
}

impl<S: Store + Clone> Node<S> {
    /// A node without partitions, over this store. The store's clones are the same store.
    pub fn new(options: NodeOptions, store: S) -> Self {
        Self {
            options,
            store,
            engine: None,
            is_engine_stale: true,
            partitions: BTreeMap::new(),
            acquisition: None,
            must_check: false,
            checking: None,
            reading: None,
            placing: None,
            coverage: None,
            store_is_ahead: false,
            last_closing: None,
            was_refused: false,
            input_created_ns: None,
            queue: VecDeque::new(),
            next: None,
            in_flight: None,
            applying: VecDeque::new(),
            items_max: usize::MAX,
            items_ceiling: usize::MAX,
            checkpoint_at: None,
            checkpointing: None,
            pause: PAUSE_MIN,
            retry_at: None,
            wake_at: None,
            stopping: false,
            ending: None,
            last_id: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened, at `now`. A time before the last one is fine: the system's clock may be set back.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        if self.ending.as_ref().is_some_and(|ending| ending.stage == EndingStage::Ended) {
            return;
        }
        self.clock_is(now);
        let taken = self.take(now, input).and_then(|()| self.advance(now).map_err(End::of));
        if let Err(why) = taken {
            self.end(why);
        }
    }

    /// The next thing to do. To be called until there is nothing, before the next [`Node::handle`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How many more deliveries fit the queue.
    pub fn room(&self) -> usize {
        QUEUE_DELIVERIES_MAX.saturating_sub(self.queue.len())
    }

    /// Where the node stands.
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

    fn take(&mut self, now: Timestamp, input: Input) -> Result<(), End> {
        match input {
            Input::Gained { partitions } => {
                for partition in partitions {
                    self.partitions.entry(partition).or_insert_with(Partition::wanted);
                }
            }
            Input::Lost { partitions } => {
                partitions.into_iter().for_each(|partition| self.end_partition(partition, PartitionEnd::GivenUp));
            }
            Input::OutputFacts { request, stream } => self.output_facts(now, request, stream).map_err(End::of)?,
            Input::StoreRestarted { request, kept_at } => self.store_restarted(now, request, kept_at),
            Input::FencesTaken { request, fences, closing } => self.fences_taken(now, request, &fences, closing),
            Input::OutputLookedUp { request, owner } => self.output_looked_up(now, request, owner.as_deref()),
            Input::FencesRefused { request } => self.fences_refused(now, request),
            Input::FencesRead { request, fences } => self.fences_read(now, request, &fences),
            Input::OutputRead { request, messages, reached } => {
                self.output_read(request, &messages, reached).map_err(|problem| End::Record { problem })?;
            }
            Input::InputFacts { request, stream } => self.input_facts(now, request, stream),
            Input::InputLookedUp { request, stored_at_ns } => self.input_looked_up(now, request, stored_at_ns),
            Input::InputFound { request, sequence } => self.input_found(now, request, sequence),
            Input::Rewound { reader, created_ns } => self.rewound(now, reader, created_ns),
            Input::Delivered { deliveries } => self.delivered(now, deliveries),
            Input::ReaderFailed { reader, problem } => self.reader_failed(now, reader, &problem),
            Input::DeadLettersStored { batch } => self.dead_letters_stored(batch),
            Input::BatchStaged { batch } => self.batch_staged(now, batch),
            Input::BatchCommitted { batch, last_sequence, messages_count } => {
                self.batch_committed(now, batch, last_sequence, messages_count);
            }
            Input::BatchRefused { batch } => self.batch_refused(now, batch),
            Input::BatchTooLarge { batch, limit } => self.batch_too_large(batch, &limit),
            Input::BatchFailed { batch, problem } | Input::BatchUnknown { batch, problem } => {
                if self.has_batch(batch) {
                    self.start_over(now, &problem);
                }
            }
            Input::Applied { request } => self.applied(now, request),
            Input::Checkpointed { request } => self.checkpointed(request),
            Input::StoreFailed { problem } => return Err(End::Store { problem }),
            Input::RequestFailed { request, problem } => {
                let _ = self.acquiring_failed(now, request, &problem) || self.placing_failed(now, request, &problem);
            }
            Input::Tick => self.wake_at = None,
            Input::Shutdown => self.stopping = true,
        }
        Ok(())
    }

    /// Does what has become possible.
    fn advance(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.stopping && self.ending.is_none() && self.is_pipeline_empty() {
            self.begin_ending(End::Stopped);
        }
        if self.ending.is_some() {
            self.go_on_ending();
            return Ok(());
        }
        // What is on its way is finished; what has only been pulled comes again at the next start.
        if self.stopping {
            return Ok(());
        }
        self.finish_catching_up()?;
        if self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = None;
            self.begin_check();
            self.begin_acquisition();
            self.begin_placing();
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

    /// Lets the engine begin anew behind the committed offsets, once nothing of what it planned is open.
    fn restart_engine(&mut self) -> Result<(), StoreError> {
        if !self.is_engine_stale || self.placing.is_some() || !self.is_pipeline_empty() {
            return Ok(());
        }
        let held = self.partitions.iter().filter_map(|(number, partition)| Some((*number, partition.behind?)));
        let offsets: BTreeMap<u16, u64> = held.collect();
        let Some(input_created_ns) = self.input_created_ns.filter(|_| !offsets.is_empty()) else { return Ok(()) };
        match &mut self.engine {
            Some(engine) => engine.restart(input_created_ns, &offsets)?,
            None => {
                let NodeOptions { policy, partitions_count, .. } = &self.options;
                let engine = Engine::new(self.store.clone(), policy.clone(), input_created_ns, &offsets)?;
                self.engine = Some(engine.with_partitions(*partitions_count));
            }
        }
        self.is_engine_stale = false;
        Ok(())
    }

    /// Nobody knows how a commit ended, or something else failed that the whole protocol stands on: nothing half-done is kept, and all
    /// partitions take their fences anew, behind which nothing of before can be stored.
    fn start_over(&mut self, now: Timestamp, problem: &str) {
        self.drop_next();
        self.in_flight = None;
        self.retreat();
        (self.acquisition, self.reading, self.placing) = (None, None, None);
        self.partitions.values_mut().for_each(Partition::start_over);
        self.fail(now, problem);
    }

    /// Waits before the next attempt. What fails during the pause is no reason for a longer one.
    fn fail(&mut self, now: Timestamp, problem: &str) {
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.retry_at = Some(now.after(self.pause));
        let pause_ms = u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX);
        self.note(Note::StartingOver { problem: problem.to_owned(), pause_ms });
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn end_partition(&mut self, number: u16, why: PartitionEnd) {
        if self.partitions.remove(&number).is_none() {
            return;
        }
        self.queue.retain(|delivery| delivery.lane != number);
        if let Some(engine) = &mut self.engine {
            engine.release(number);
        }
        // What was planned with it cannot be divided.
        if self.is_next_of(number) {
            self.drop_next();
            self.retreat();
        }
        self.outputs.push_back(Output::StopReader { partition: number });
        self.outputs.push_back(Output::PartitionEnded { partition: number, why });
    }

    fn begin_ending(&mut self, why: End) {
        self.drop_next();
        self.in_flight = None;
        self.retreat();
        self.ending.get_or_insert(Ending { why, stage: EndingStage::Writing });
    }

    fn go_on_ending(&mut self) {
        let stage = self.ending.as_ref().map(|ending| ending.stage);
        if stage == Some(EndingStage::Writing) && self.applying.is_empty() && self.checkpointing.is_none() {
            self.checkpoint();
            if let Some(ending) = &mut self.ending {
                ending.stage = EndingStage::Checkpointing;
            }
        }
    }

    fn checkpoint(&mut self) {
        let request = self.request();
        (self.checkpointing, self.checkpoint_at) = (Some(request), None);
        self.outputs.push_back(Output::Checkpoint { request });
    }

    fn checkpointed(&mut self, request: RequestId) {
        if self.checkpointing.take_if(|asked| *asked == request).is_none() {
            return;
        }
        let last = self.ending.as_ref().filter(|ending| ending.stage == EndingStage::Checkpointing);
        if let Some(why) = last.map(|ending| ending.why.clone()) {
            self.end(why);
        }
    }

    fn end(&mut self, why: End) {
        self.ending = Some(Ending { why: why.clone(), stage: EndingStage::Ended });
        self.outputs.push_back(Output::End { why });
    }

    /// A clock that was set back does not make anything wait longer than it would have.
    fn clock_is(&mut self, now: Timestamp) {
        self.retry_at = self.retry_at.map(|at| at.min(now.after(PAUSE_MAX)));
        self.checkpoint_at = self.checkpoint_at.map(|at| at.min(now.after(CHECKPOINT_EVERY)));
    }

    fn schedule(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let checkpoint_at = self.checkpoint_at.filter(|_| self.checkpointing.is_none());
        let mut wake_at = self.retry_at.into_iter().chain(checkpoint_at).min();
        // The end of what is under way wakes the node too.
        if let Some(engine) = self.engine.as_ref().filter(|_| !self.is_engine_stale && self.is_pipeline_empty()) {
            let latest = now.after(TIMERS_EVERY);
            let next = self.store.next_deadline()?.into_iter().chain(engine.next_deadline()).min();
            // One that is past is left alone on purpose, or another node's.
            let timers_at = next.filter(|at| *at > now).map_or(latest, |at| at.min(latest));
            wake_at = Some(wake_at.map_or(timers_at, |at| at.min(timers_at)));
        }
        if let Some(at) = wake_at.filter(|_| wake_at != self.wake_at) {
            self.wake_at = wake_at;
            self.outputs.push_back(Output::WakeAt { at });
        }
        Ok(())
    }

    fn note(&mut self, note: Note) {
        self.outputs.push_back(Output::Note(note));
    }

    /// The message that closes a commit.
    fn closing_message(&mut self, now: Timestamp) -> Message {
        let number = self.next_id();
        let NodeOptions { owner, writer, .. } = &self.options;
        let commit = Commit { owner: owner.clone(), sent_at: At(now) };
        let body = serde_json::to_vec(&commit).expect("a commit is a plain struct");
        Message { address: Address::Commit(writer.clone()), id: format!("commit.{writer}.{number}"), at: now, body }
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

/// The message that takes a partition's fence.
pub fn fence_message(partition: u16, owner: &str, now: Timestamp) -> Message {
    let fence = Fence { owner: owner.to_owned(), taken_at: At(now) };
    let body = serde_json::to_vec(&fence).expect("a fence is a plain struct");
    let id = format!("fence.{partition}.{owner}.{}", now.as_millis());
    Message { address: Address::Fence(partition), id, at: now, body }
}

#[cfg(test)]
mod tests;

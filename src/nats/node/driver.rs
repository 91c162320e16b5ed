//! The driver: performs each output of a node with a task, a reader or a call of the store.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::calls::{CHECKPOINT_LOOKS_MAX, OpenCalls};
use super::input_ends::{self, PublishedJournal};
use super::writer::{Write, Writer, Written};
use super::{Commits, Node, OpenCommit, READERS_QUEUE_MAX};
use crate::activity::ActivityLog;
use crate::clock::{self, Clock};
use crate::engine::DeadDelivery;
use crate::link::Timestamp;
use crate::nats::batch::{BatchAck, BatchError, Batches, OpenBatch};
use crate::nats::commit::{self, take_fences};
use crate::nats::dead_letter::{DeadLetter, DeadLetterError, DeadLetters, InputPosition};
use crate::nats::limit::{REQUEST_TIMEOUT, within};
use crate::nats::notes;
use crate::nats::output_read::read_output;
use crate::nats::partition::{self, FromReader};
use crate::nats::restore::{RESTORE_TIMEOUT, restore};
use crate::nats::stream::StreamIdentity;
use crate::nats::streams_read::Streams;
use crate::node::{self, BatchId, End, Input, Note, Output, Phase, RequestId, StreamFacts};
use crate::store::Store;

/// A node and its open outputs. When the driver is dropped, its tasks stop.
pub(super) struct Driver<S> {
    client: Client,
    streams: Streams,
    batches: Batches,
    dead_letters: DeadLetters,
    pub(super) node: node::Node<S>,
    phase: watch::Sender<Phase>,
    as_of: watch::Sender<Option<Timestamp>>,
    open_commit: watch::Sender<Option<OpenCommit>>,
    commits: Commits,
    calls: OpenCalls,
    activity: ActivityLog,
    clock: Clock,
    pub(super) writer: Writer,
    /// The outputs without an answer.
    pub(super) tasks: JoinSet<Done>,
    /// Readers of partitions and of the output stream.
    readers: JoinSet<()>,
    by_partition: HashMap<u16, AbortHandle>,
    journal: PublishedJournal,
    reading: Option<AbortHandle>,
    staged: HashMap<BatchId, Box<OpenBatch>>,
    to_driver: mpsc::Sender<FromReader>,
    to_read: mpsc::Sender<Input>,
    pub(super) wake_at: tokio::time::Instant,
    /// Whether the node has ended because the store is damaged.
    has_lost_store: bool,
}

/// The result of a task.
pub(super) enum Done {
    Answer(Input),
    Staged(BatchId, Box<OpenBatch>),
    Nothing,
}

/// What arrives at a driver.
pub(super) struct Arriving {
    pub(super) deliveries: mpsc::Receiver<FromReader>,
    pub(super) read: mpsc::Receiver<Input>,
    pub(super) written: mpsc::UnboundedReceiver<Written>,
}

impl<S: Store + Clone + 'static> Driver<S> {
    pub(super) fn new(parts: &Node<S>) -> (Self, Arriving) {
        let Node { client, streams, batches, dead_letters, phase, as_of, open_commit, commits, calls, journal, .. } =
            parts;
        let (to_driver, deliveries) = mpsc::channel(READERS_QUEUE_MAX);
        // The next messages are read while the node applies the previous ones.
        let (to_read, read) = mpsc::channel(1);
        let (writer, written) = Writer::start(parts.store.clone(), calls.clone());
        let driver = Self {
            client: client.clone(),
            streams: streams.clone(),
            batches: batches.clone(),
            dead_letters: dead_letters.clone(),
            node: parts.new_node(),
            phase: phase.clone(),
            as_of: as_of.clone(),
            open_commit: open_commit.clone(),
            commits: commits.clone(),
            calls: calls.clone(),
            activity: parts.activity.clone(),
            clock: parts.clock.clone(),
            writer,
            tasks: JoinSet::new(),
            readers: JoinSet::new(),
            by_partition: HashMap::new(),
            journal: journal.clone(),
            reading: None,
            staged: HashMap::new(),
            to_driver,
            to_read,
            wake_at: far_off(),
            has_lost_store: false,
        };
        (driver, Arriving { deliveries, read, written })
    }

    /// Publishes the progress of the node.
    pub(super) fn publish_phase(&self) {
        // A node that ends because the store is damaged has a successor.
        let is_replaced = self.has_lost_store;
        let phase = if is_replaced { Phase::Starting } else { self.node.phase() };
        self.phase.send_if_modified(|published| std::mem::replace(published, phase) != phase);
        let as_of = self.node.followed_at().map(|at| self.node.stream_now(at));
        self.as_of.send_if_modified(|published| std::mem::replace(published, as_of) != as_of);
        self.commits.settled_except(self.node.unsettled_count());
        let sent_at = self.node.commit_sent_at();
        self.open_commit.send_if_modified(|published| {
            let is_new = published.map(|commit| commit.sent_at) != sent_at;
            if is_new {
                *published = sent_at.map(OpenCommit::sent_now);
            }
            is_new
        });
    }

    /// The node's input for a finished task.
    pub(super) fn done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Option<Input> {
        match done {
            Ok(Done::Answer(input)) => Some(input),
            Ok(Done::Staged(batch, staged)) => {
                self.staged.insert(batch, staged);
                Some(Input::BatchStaged { batch })
            }
            Ok(Done::Nothing) => None,
            // The node would wait forever for the answer of a task that panicked.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }

    /// Hands the messages of the readers to the node.
    pub(super) fn arrive(&mut self, arrived: &mut Vec<FromReader>) -> Option<End> {
        let mut deliveries = Vec::with_capacity(arrived.len());
        for from_reader in arrived.drain(..) {
            let input = match from_reader {
                FromReader::Delivered(delivered) => {
                    deliveries.push(delivered);
                    continue;
                }
                FromReader::Rewound { reader, created_ns, pending } => {
                    Input::Rewound { reader, created_ns, pending: Some(pending) }
                }
                FromReader::Failed(reader, problem) => Input::ReaderFailed { reader, problem },
            };
            if !deliveries.is_empty() {
                self.node
                    .handle(self.clock.own_now(), Input::Delivered { deliveries: std::mem::take(&mut deliveries) });
            }
            self.node.handle(self.clock.own_now(), input);
        }
        let end = if deliveries.is_empty() { self.perform() } else { self.drive(Input::Delivered { deliveries }) };
        self.publish_phase();
        end
    }

    pub(super) fn drive(&mut self, input: Input) -> Option<End> {
        let is_time = matches!(input, Input::StreamTime { .. });
        let now = self.clock.own_now();
        self.node.handle(now, input);
        if is_time {
            self.clock.correct(now, self.node.stream_now(now));
        }
        self.perform()
    }

    /// Begins every output of the node.
    fn perform(&mut self) -> Option<End> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Apply { request, changes } => self.writer.write(Write::Apply(request, changes)),
                Output::RestartStore { request } => self.writer.write(Write::RestartEmpty(request)),
                Output::Checkpoint { request } => self.writer.write(Write::Reach(request)),
                Output::WakeAt { at } => self.wake_at = tokio::time::Instant::now() + at.since(self.clock.own_now()),
                Output::Note(note) => {
                    let caught_up = matches!(note, Note::CaughtUp { .. });
                    notes::publish(note, &self.activity, &self.streams.subjects);
                    if let Some(Err(error)) = caught_up.then(|| self.node.store().set_complete()) {
                        self.node.handle(self.clock.own_now(), failed_store(error));
                    }
                }
                Output::PartitionEnded { partition, why } => {
                    tracing::warn!(partition, ?why, "this node no longer runs a partition");
                }
                Output::End { why } => {
                    self.has_lost_store = matches!(why, End::Store { .. }) && self.node.store().damage().is_some();
                    self.publish_phase();
                    return Some(why);
                }
                Output::Rewind { .. } | Output::StopReader { .. } => self.perform_on_partition(output),
                output => self.begin(output),
            }
        }
        None
    }

    /// The node's input for what the writer has done. `None`: a checkpoint begins, for which later writes do not wait.
    pub(super) fn written(&mut self, written: Written) -> Option<Input> {
        let request = match written {
            Written::Answer(input) => return Some(input),
            Written::Reached(request) => request,
        };
        let (store, calls) = (self.node.store().clone(), self.calls.clone());
        self.tasks.spawn_blocking(move || {
            let _call = calls.open("a checkpoint", CHECKPOINT_LOOKS_MAX);
            let checkpointed = store.checkpoint();
            Done::Answer(checkpointed.map_or_else(failed_store, |()| Input::Checkpointed { request }))
        });
        None
    }

    fn perform_on_partition(&mut self, output: Output) {
        let (Output::Rewind { partition, .. } | Output::StopReader { partition }) = output else { return };
        if let Some(reader) = self.by_partition.remove(&partition) {
            reader.abort();
        }
        if let Output::Rewind { reader, partition, behind } = output {
            let (context, subjects) = (self.streams.context.clone(), self.streams.subjects.clone());
            let read = partition::read(context, reader, partition, behind, subjects, self.to_driver.clone());
            self.by_partition.insert(partition, self.readers.spawn(read));
        }
        while self.readers.try_join_next().is_some() {}
    }

    /// Starts a task for an output.
    fn begin(&mut self, output: Output) {
        let streams = self.streams.clone();
        match output {
            Output::ReadOutputFacts { request } => {
                let (store, batches) = (self.node.store().clone(), self.batches.clone());
                self.tasks.spawn(async move {
                    let facts = output_facts(&store, &streams, &batches).await;
                    let failed = |problem| Input::RequestFailed { request, problem };
                    Done::Answer(facts.map_or_else(failed, |stream| Input::OutputFacts { request, stream }))
                });
            }
            Output::ReadInputFacts { request } => {
                let stream = streams.subjects.input_stream();
                let facts = async move { streams.facts(&stream).await };
                self.ask(request, facts, move |stream| Input::InputFacts { request, stream });
            }
            Output::ReadFences { request, partitions } => {
                let fences = async move { streams.fences(partitions).await };
                self.ask(request, fences, move |fences| Input::FencesRead { request, fences });
            }
            Output::LookUpInput { request, sequence } => {
                let stored = async move { streams.look_up_input(sequence).await };
                self.ask(request, stored, move |stored_at_ns| Input::InputLookedUp { request, stored_at_ns });
            }
            Output::FindInput { request, after_ns } => {
                let found = async move { streams.find_input(after_ns).await };
                self.ask(request, found, move |sequence| Input::InputFound { request, sequence });
            }
            Output::ReadStreamTime { request } => {
                let time = async move { streams.stream_time().await };
                self.ask(request, time, move |stream_at_ns| {
                    let host_at_ms = clock::now().as_millis();
                    Input::StreamTime { request, stream_at_ns, host_at_ms }
                });
            }
            Output::ReadInputEnds { request, partitions } => {
                let journal = self.journal.clone();
                let ends = async move { input_ends::read(&streams, &journal, partitions).await };
                self.ask(request, ends, move |(waited_ms, ends)| Input::InputEnds { request, waited_ms, ends });
            }
            Output::LookUpOutput { request, sequence } => {
                let owner = async move { streams.owner_of(sequence).await };
                self.ask(request, owner, move |owner| Input::OutputLookedUp { request, owner });
            }
            Output::TakeFences { request, fences, closing } => {
                let batches = self.batches.clone();
                self.tasks.spawn(async move {
                    Done::Answer(match take_fences(&batches, &streams.subjects, fences, closing).await {
                        Ok((fences, closing)) => Input::FencesTaken { request, fences, closing },
                        Err(BatchError::Refused { .. }) => Input::FencesRefused { request },
                        Err(error) => Input::RequestFailed { request, problem: error.to_string() },
                    })
                });
            }
            Output::ReadOutput { request, after, up_to } => {
                let to_read = self.to_read.clone();
                let read = async move {
                    if let Err(problem) = read_output(&streams, request, after, up_to, &to_read).await {
                        let _ = to_read.send(Input::RequestFailed { request, problem }).await;
                    }
                };
                if let Some(before) = self.reading.replace(self.readers.spawn(read)) {
                    before.abort();
                }
            }
            output => self.begin_batch(output),
        }
    }

    fn ask<T: Send + 'static>(
        &mut self,
        request: RequestId,
        asked: impl Future<Output = Result<T, String>> + Send + 'static,
        answer: impl FnOnce(T) -> Input + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            let failed = |problem| Input::RequestFailed { request, problem };
            Done::Answer(within(REQUEST_TIMEOUT, asked).await.map_or_else(failed, answer))
        });
    }

    fn begin_batch(&mut self, output: Output) {
        let Self { batches, staged, streams, .. } = self;
        match output {
            Output::StoreDeadLetters { batch, input_created_ns, letters } => {
                let (dead_letters, stream) = (self.dead_letters.clone(), streams.subjects.input_stream());
                let identity = StreamIdentity { stream, created_ns: input_created_ns.into() };
                self.tasks.spawn(async move {
                    Done::Answer(match store_all(&dead_letters, &identity, letters).await {
                        Ok(()) => Input::DeadLettersStored { batch },
                        Err(error) => Input::BatchFailed { batch, problem: error.to_string() },
                    })
                });
            }
            Output::StageBatch { batch, messages } => {
                let batches = batches.clone().with_message_bytes_max(streams.message_bytes_max());
                let subjects = streams.subjects.clone();
                self.tasks.spawn(async move {
                    match commit::stage(&batches, &subjects, messages).await {
                        Ok(staged) => Done::Staged(batch, Box::new(staged)),
                        Err(error) => Done::Answer(commit::failure(batch, &error)),
                    }
                });
            }
            Output::CommitBatch { batch, closing } => {
                let Some(staged) = staged.remove(&batch) else { return };
                self.commits.sent();
                let last = commit::closing(&streams.subjects, closing);
                self.tasks.spawn(async move {
                    Done::Answer(match staged.commit(last).await {
                        Ok(BatchAck { last_sequence, count, .. }) => {
                            Input::BatchCommitted { batch, last_sequence, messages_count: count }
                        }
                        Err(error) => commit::failure(batch, &error),
                    })
                });
            }
            Output::DiscardBatch { batch } => {
                if let Some(staged) = staged.remove(&batch) {
                    let subject = streams.subjects.fence(0);
                    self.tasks.spawn(async move {
                        staged.abandon(&subject).await;
                        Done::Nothing
                    });
                }
            }
            Output::Acknowledge { receipts } => {
                let client = self.client.clone();
                self.tasks.spawn(async move {
                    // An acknowledgement is a hint; if it is lost, JetStream delivers the message again.
                    let send = async {
                        // A delivery that was not pulled has none.
                        for receipt in receipts.into_iter().filter(|receipt| !receipt.is_empty()) {
                            let _ = client.publish(receipt, "+ACK".into()).await;
                        }
                    };
                    let _ = timeout(REQUEST_TIMEOUT, send).await;
                    Done::Nothing
                });
            }
            other => unreachable!("another function performs {other:?}"),
        }
    }
}

/// The facts of the output stream. A new stream is filled from the store first.
async fn output_facts<S: Store>(store: &S, streams: &Streams, batches: &Batches) -> Result<StreamFacts, String> {
    let facts = within(REQUEST_TIMEOUT, streams.output_facts()).await?;
    let is_restored = within(RESTORE_TIMEOUT, restore(store, streams, batches, facts)).await?;
    if is_restored { within(REQUEST_TIMEOUT, streams.output_facts()).await } else { Ok(facts) }
}

async fn store_all(
    dead_letters: &DeadLetters,
    stream: &StreamIdentity,
    letters: Vec<DeadDelivery>,
) -> Result<(), DeadLetterError> {
    let letter = |DeadDelivery { delivery, reason, detail }| {
        let mut headers = HeaderMap::new();
        for (name, value) in &delivery.headers {
            headers.append(name.as_str(), value.as_str());
        }
        let (sequence, stored_at_ns) = (delivery.sequence, delivery.stored_at_ns);
        let input = Some(InputPosition { stream: stream.clone(), sequence, stored_at_ns });
        let (subject, payload) = (delivery.subject, delivery.payload);
        DeadLetter { subject, headers, payload, reason, detail, input }
    };
    let letters: Vec<_> = letters.into_iter().map(letter).collect();
    dead_letters.publish_all(&letters).await.map(drop)
}

pub(super) fn failed_store(error: crate::store::StoreError) -> Input {
    Input::StoreFailed { problem: error.to_string() }
}

/// A time in the far future, for the time before the first `WakeAt`.
pub(super) fn far_off() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}

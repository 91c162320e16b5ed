//! relink under test: the node, the jobs and the reconciler as they are, over a store in memory and two streams to which nothing ever
//! happens.
//!
//! The simulation moves the clock, hands in inputs, and gets back the messages that relink publishes. Nothing here
//! decides anything about a link.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use serde_json::Value;

use crate::belvo::{Budget, Client, Meaning, MissingGuard, SecretId, SecretPassword, Timeouts, Usage, translate};
use crate::clock::{Clock, ManualClock};
use crate::contract::{Address, At, InputKind};
use crate::engine::{Delivery, Message, Outgoing};
use crate::jobs::Worker;
use crate::link::{Event, EventName, LinkId, Policy, PolicySettings, Timestamp};
use crate::nats::history::{HistoryEntry, HistoryError, HistoryKind, LinkHistory, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::node::{Delivered, Input, Node, NodeOptions, Note, Output, PLAN_AHEAD_MIN, Phase, ReaderId, StreamFacts};
use crate::reconciler::{self, Reconciler};
use crate::store::{MemoryStore, Query, Store, pages};

/// The one partition: order between links is none of this simulation's subjects.
const PARTITION: u16 = 0;

/// The identities of the two streams.
const STREAM_CREATED_NS: i64 = 1;

/// Between two sweeps, and of the rotation: relink's defaults.
pub(super) const SETTINGS: reconciler::Settings = reconciler::Settings {
    sweep_every: Duration::from_secs(3600),
    rotation: Duration::from_secs(24 * 3600),
    adoption_per_hour: 60,
};

/// Where an input came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Over HTTP: webhooks, errors that the customer reports, the widget.
    Http,
    /// By a job.
    Job,
    /// By a sweep.
    Sweep,
}

/// relink, and what moves its clock.
pub(super) struct Relink {
    pub(super) belvo: Client,
    pub(super) worker: Worker,
    pub(super) reconciler: Reconciler,
    pub(super) clock: Clock,
    budget: Budget,
    manual_clock: ManualClock,
    node: Node<MemoryStore>,
    streams: Streams,
    store: MemoryStore,
    bus: Arc<Bus>,
    /// Where each input came from, by its sequence.
    sources: Vec<Source>,
}

/// The two streams, as the node sees them: what it asks for is done at once, and never fails.
#[derive(Default)]
struct Streams {
    /// The last sequence of the output stream.
    said: u64,
    staged: Vec<Outgoing>,
    reader: Option<ReaderId>,
    delivered: u64,
}

/// The messages that relink published in one go.
#[derive(Default)]
pub(super) struct Said {
    /// The messages, in order.
    pub(super) messages: Vec<Message>,
    /// The links that are broken according to errors of Belvo's API.
    pub(super) refused: Vec<LinkId>,
}

/// The in-process bus: inputs that wait for their turn, and what adoption has to be able to read back.
#[derive(Default)]
struct Bus {
    inbox: Mutex<Vec<NewInput>>,
    /// The state messages by which a link was muted or unmuted.
    mutings: Mutex<HashMap<LinkId, Vec<HistoryEntry>>>,
}

impl Inputs for Bus {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        lock(&self.inbox).push(input);
        Box::pin(ready(Ok(())))
    }
}

impl ReadHistory for Bus {
    fn history<'a>(&'a self, link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>> {
        let entries = lock(&self.mutings).get(link).cloned().unwrap_or_default();
        Box::pin(ready(Ok(LinkHistory { entries, truncated: false })))
    }
}

impl Relink {
    /// A relink without any input yet, whose Belvo is at `url`.
    pub(super) fn start(url: &str, keys: (SecretId, SecretPassword), now: Timestamp) -> anyhow::Result<Self> {
        let (clock, manual_clock) = Clock::driven(now);
        let budget = Budget::by(clock.clone(), BELVO_REQUESTS_PER_30S);
        let belvo = Client::new(url, keys.0, keys.1, Timeouts::default())?.with_budget(budget.clone());
        let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() })?;
        let (store, bus, guard) = (MemoryStore::default(), Arc::new(Bus::default()), MissingGuard::default());
        let inputs = Arc::clone(&bus) as Arc<dyn Inputs>;
        let worker = Worker::new(Arc::clone(&inputs), belvo.clone(), guard.clone(), clock.clone());
        let parts = reconciler::Parts {
            belvo: belvo.clone(),
            guard,
            store: Arc::new(store.clone()),
            inputs,
            histories: Arc::clone(&bus) as Arc<dyn ReadHistory>,
            policy: policy.clone(),
            clock: clock.clone(),
        };
        let reconciler = Reconciler::rotating_from(None, SETTINGS, parts);
        let options = NodeOptions {
            owner: "fleet".to_owned(),
            writer: "fleet".to_owned(),
            partitions_count: PARTITION + 1,
            policy,
            plan_ahead_min: PLAN_AHEAD_MIN,
        };
        let node = Node::new(options, store.clone());
        let (streams, sources) = (Streams::default(), Vec::new());
        let mut relink =
            Self { belvo, worker, reconciler, clock, budget, manual_clock, node, streams, store, bus, sources };
        relink.drive(Input::Gained { partitions: vec![PARTITION] }, &mut Said::default())?;
        anyhow::ensure!(relink.node.phase() == Phase::Running, "the node does not run");
        Ok(relink)
    }

    /// Moves the clock, never back.
    pub(super) fn set_clock(&self, at: Timestamp) {
        self.manual_clock.set(at);
    }

    /// Takes in what came through the door.
    pub(super) fn receive(&self, kind: InputKind, link: LinkId, body: Vec<u8>) {
        let source = "/relink/fleet";
        lock(&self.bus.inbox).push(NewInput { kind, link, source, at: self.clock.now(), id: None, body });
    }

    /// When relink wants to be woken.
    pub(super) fn next_deadline(&self) -> anyhow::Result<Option<Timestamp>> {
        Ok(self.store.next_deadline()?)
    }

    /// Where the input of this sequence came from.
    pub(super) fn source_of(&self, sequence: u64) -> Source {
        usize::try_from(sequence).ok().and_then(|at| self.sources.get(at - 1)).copied().unwrap_or(Source::Http)
    }

    /// How many inputs it has taken in.
    pub(super) fn inputs_count(&self) -> u64 {
        self.sources.len() as u64
    }

    /// What it has asked of Belvo.
    pub(super) fn usage(&self) -> Usage {
        self.budget.usage()
    }

    /// Handles all inputs and everything that is due, and gives the messages that follow.
    pub(super) fn digest(&mut self) -> anyhow::Result<Said> {
        let mut said = Said::default();
        let now = self.clock.now();
        let mut deliveries = Vec::new();
        for input in take(&mut *lock(&self.bus.inbox)) {
            if says_broken(&input) {
                said.refused.push(input.link.clone());
            }
            self.sources.push(match input.source {
                "/relink/reconciler" => Source::Sweep,
                "/relink/jobs" => Source::Job,
                _ => Source::Http,
            });
            let reader = self.streams.reader.context("the node reads")?;
            self.streams.delivered += 1;
            let delivery = delivery(input, self.sources.len() as u64, now);
            deliveries.push(Delivered { reader, nth: self.streams.delivered, delivery });
        }
        if !deliveries.is_empty() {
            self.drive(Input::Delivered { deliveries }, &mut said)?;
        }
        while self.next_deadline()?.is_some_and(|at| at <= now) {
            let before = self.streams.said;
            let retimed = self.drive(Input::Tick, &mut said)?;
            anyhow::ensure!(
                self.streams.said > before || retimed,
                "a timer is due at {now} and nothing follows from it"
            );
        }
        Ok(said)
    }

    /// ManualClock an input in and does all that follows from it; whether the store was written.
    fn drive(&mut self, input: Input, said: &mut Said) -> anyhow::Result<bool> {
        let now = self.clock.now();
        let mut written = false;
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.node.handle(now, input);
            while let Some(output) = self.node.poll_output() {
                written |= matches!(output, Output::Apply { .. });
                inputs.extend(self.perform(output, said)?);
            }
        }
        Ok(written)
    }

    fn perform(&mut self, output: Output, said: &mut Said) -> anyhow::Result<Option<Input>> {
        let last_sequence = self.streams.said;
        let facts = |last_sequence| StreamFacts { created_ns: STREAM_CREATED_NS, last_sequence };
        Ok(Some(match output {
            Output::ReadOutputFacts { request } => Input::OutputFacts { request, stream: facts(last_sequence) },
            Output::ReadInputFacts { request } => {
                Input::InputFacts { request, stream: facts(self.sources.len() as u64) }
            }
            Output::TakeFences { request, fences, closing } => {
                let numbered = fences.iter().zip(last_sequence + 1..);
                let fences: BTreeMap<_, _> = numbered.map(|(fence, sequence)| (fence.partition, sequence)).collect();
                self.streams.said += fences.len() as u64;
                let closing = closing.map(|_first| {
                    self.streams.said += 1;
                    self.streams.said
                });
                Input::FencesTaken { request, fences, closing }
            }
            // There is nothing on it but the fences.
            Output::ReadOutput { request, up_to, .. } => {
                Input::OutputRead { request, messages: Vec::new(), reached: up_to }
            }
            Output::Rewind { reader, .. } => {
                self.streams.reader = Some(reader);
                Input::Rewound { reader, created_ns: STREAM_CREATED_NS }
            }
            Output::StageBatch { batch, messages } => {
                self.streams.staged = messages;
                Input::BatchStaged { batch }
            }
            Output::CommitBatch { batch, .. } => {
                let messages = take(&mut self.streams.staged);
                let messages_count = messages.len() as u64 + 1;
                self.streams.said += messages_count;
                for Outgoing { message, .. } in messages {
                    self.remember_muting(&message)?;
                    said.messages.push(message);
                }
                Input::BatchCommitted { batch, last_sequence: self.streams.said, messages_count }
            }
            Output::Apply { request, changes } => {
                self.store.apply(&changes)?;
                Input::Applied { request }
            }
            // The store is in memory, and nobody crashes here.
            Output::Checkpoint { request } => Input::Checkpointed { request },
            Output::StoreDeadLetters { letters, .. } => anyhow::bail!("relink could not read {letters:?}"),
            Output::Note(Note::StartingOver { problem, .. }) => anyhow::bail!("the node starts over: {problem}"),
            Output::Note(Note::TimerSetAside { of }) => anyhow::bail!("the timer of {of} cannot be handled"),
            Output::Note(_) | Output::Acknowledge { .. } | Output::WakeAt { .. } => return Ok(None),
            other => anyhow::bail!("nothing here leads to {other:?}"),
        }))
    }

    /// Keeps a state message if it is one by which a link was muted or unmuted: only these are looked for again.
    fn remember_muting(&self, message: &Message) -> anyhow::Result<()> {
        let Address::State(link) = &message.address else { return Ok(()) };
        let marks = [EventName::Mute, EventName::Unmute].map(|event| format!(r#""event":"{}""#, event.as_str()));
        let text = std::str::from_utf8(&message.body).context("a record is text")?;
        if !marks.iter().any(|mark| text.contains(mark)) {
            return Ok(());
        }
        let body: Value = serde_json::from_str(text).context("a record is JSON")?;
        let (kind, stored_at) = (HistoryKind::State, At(message.at));
        let entry = HistoryEntry { kind, name: None, message_id: None, sequence: self.streams.said, stored_at, body };
        lock(&self.bus.mutings).entry(link.clone()).or_default().push(entry);
        Ok(())
    }

    /// relink's state of every link that it knows.
    pub(super) fn words(&self) -> anyhow::Result<BTreeMap<LinkId, crate::link::StateName>> {
        let mut words = BTreeMap::new();
        for page in pages(&self.store, Query { limit: 1_000, ..Query::default() }) {
            for stored in &page?.links {
                words.insert(stored.parse()?.link()?.id, stored.head.state);
            }
        }
        Ok(words)
    }
}

/// relink's default.
const BELVO_REQUESTS_PER_30S: usize = 80;

/// Whether it is an error of Belvo's API after which only the user can help.
fn says_broken(input: &NewInput) -> bool {
    input.kind == InputKind::ApiError
        && translate(input.kind, &input.link, &input.body, input.at)
            .is_ok_and(|meaning| matches!(meaning, Meaning::Event(input) if matches!(input.event, Event::Broken(_))))
}

fn delivery(input: NewInput, sequence: u64, now: Timestamp) -> Delivery {
    let NewInput { kind, link, id, body, .. } = input;
    Delivery {
        partition: PARTITION,
        sequence,
        stored_at_ns: now.as_millis().saturating_mul(1_000_000),
        subject: format!("belvo.{PARTITION}.{kind}.{link}"),
        kind: kind.to_string(),
        link: link.to_string(),
        headers: id.map(|id| ("ce-id".to_owned(), id)).into_iter().collect(),
        payload: Bytes::from(body),
        receipt: String::new(),
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

//! relink under test: the shipped node, jobs and reconciler, with a store in memory and two streams without faults.
//!
//! The simulation sets the clock, passes inputs, and receives the messages that relink publishes. This module decides
//! nothing about a link.

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
use crate::config::Config;
use crate::contract::{Address, At, HistoryEntry, HistoryKind, InputKind};
use crate::engine::{Delivery, Message, Outgoing, Publishing};
use crate::jobs::{KnownLinks, Worker};
use crate::link::{Event, EventName, Link, LinkId, Timestamp};
use crate::nats::history::{HistoryError, LinkHistory, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::node::{Delivered, Input, Node, NodeOptions, Note, Output, PLAN_AHEAD_MIN, Phase, ReaderId, StreamFacts};
use crate::reconciler::{self, Reconciler};
use crate::store::{MemoryStore, Query, Store, pages};

/// The only partition: this simulation does not test the order between links.
const PARTITION: u16 = 0;

/// The identities of the two streams.
const STREAM_CREATED_NS: i64 = 1;

/// relink's default interval of sweeps and of the rotation.
pub(super) const SETTINGS: reconciler::SweepSettings = reconciler::SweepSettings {
    sweep_every: Duration::from_secs(3600),
    rotation: Duration::from_secs(24 * 3600),
    adoption_per_hour: 60,
};

/// The source of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// HTTP: webhooks, reported errors, widget callbacks.
    Http,
    /// A job.
    Job,
    /// A sweep.
    Sweep,
}

/// relink, with its clock.
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
    /// The source of each input, by its sequence.
    sources: Vec<Source>,
}

/// The two streams: each request of the node succeeds immediately.
#[derive(Default)]
struct Streams {
    /// The last sequence of the output stream.
    published: u64,
    staged: Vec<Outgoing>,
    reader: Option<ReaderId>,
    delivered: u64,
}

/// The messages that relink published in one step.
#[derive(Default)]
pub(super) struct Published {
    /// The messages, in order.
    pub(super) messages: Vec<Message>,
    /// The links that are broken according to errors of Belvo's API.
    pub(super) refused: Vec<LinkId>,
    /// The links about which Belvo's API has answered that the bank is down.
    pub(super) outage_errors: Vec<LinkId>,
}

/// The in-process bus: pending inputs, and the state messages that adoption reads back.
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
    /// Starts a relink without inputs, with these settings.
    pub(super) fn start(config: &Config, now: Timestamp) -> anyhow::Result<Self> {
        let (clock, manual_clock) = Clock::manual(now);
        let budget = Budget::by(clock.clone(), config.belvo.requests_per_30s);
        let keys = config.belvo.keys.clone().context("a fleet has keys for Belvo")?;
        let (id, password) = (SecretId(keys.secret_id), SecretPassword(keys.secret_password));
        let belvo = Client::new(&keys.url, id, password, Timeouts::default())?.with_budget(budget.clone());
        let policy = config.policy.clone();
        let (store, bus, guard) = (MemoryStore::default(), Arc::new(Bus::default()), MissingGuard::default());
        let inputs = Arc::clone(&bus) as Arc<dyn Inputs>;
        let known = KnownLinks { store: Arc::new(store.clone()), policy: policy.clone() };
        let worker = Worker::new(Arc::clone(&inputs), belvo.clone(), known, guard.clone(), clock.clone());
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
        let repair_links = config.repair.as_ref().map(|repair| repair.links.clone());
        let node =
            Node::new(options, store.clone()).with_publishing(Publishing { repair_links, ..Publishing::default() });
        let (streams, sources) = (Streams::default(), Vec::new());
        let mut relink =
            Self { belvo, worker, reconciler, clock, budget, manual_clock, node, streams, store, bus, sources };
        relink.drive(Input::Gained { partitions: vec![PARTITION] }, &mut Published::default())?;
        anyhow::ensure!(relink.node.phase() == Phase::Running, "the node is not running");
        Ok(relink)
    }

    /// Sets the clock; an earlier time is ignored.
    pub(super) fn set_clock(&self, at: Timestamp) {
        self.manual_clock.set(at);
    }

    /// Stores an input, as the HTTP server does.
    pub(super) fn receive(&self, kind: InputKind, link: LinkId, body: Vec<u8>) {
        let source = "/relink/fleet";
        lock(&self.bus.inbox).push(NewInput { kind, link, source, at: self.clock.now(), id: None, body });
    }

    /// The next wake-up time of relink.
    pub(super) fn next_deadline(&self) -> anyhow::Result<Option<Timestamp>> {
        Ok(self.store.next_deadline()?)
    }

    /// The source of the input with this sequence.
    pub(super) fn source_of(&self, sequence: u64) -> Source {
        usize::try_from(sequence).ok().and_then(|at| self.sources.get(at - 1)).copied().unwrap_or(Source::Http)
    }

    /// The number of inputs.
    pub(super) fn inputs_count(&self) -> u64 {
        self.sources.len() as u64
    }

    /// The number of inputs, and of messages of relink.
    pub(super) const fn activity_count(&self) -> u64 {
        self.sources.len() as u64 + self.streams.published
    }

    /// The store. A clone shows the same links.
    pub(super) fn store(&self) -> MemoryStore {
        self.store.clone()
    }

    /// The record of a link.
    pub(super) fn link(&self, id: &LinkId) -> anyhow::Result<Option<Link>> {
        Ok(self.store.get(id)?.map(|stored| stored.link()).transpose()?)
    }

    /// The number of calls to Belvo.
    pub(super) fn usage(&self) -> Usage {
        self.budget.usage()
    }

    /// Handles all inputs and due timers; returns the published messages.
    pub(super) fn handle_inputs(&mut self) -> anyhow::Result<Published> {
        let mut published = Published::default();
        let now = self.clock.now();
        let mut deliveries = Vec::new();
        for input in take(&mut *lock(&self.bus.inbox)) {
            if reports_broken(&input) {
                published.refused.push(input.link.clone());
            }
            if reports_outage(&input) {
                published.outage_errors.push(input.link.clone());
            }
            self.sources.push(match input.source {
                "/relink/reconciler" => Source::Sweep,
                "/relink/jobs" => Source::Job,
                _ => Source::Http,
            });
            let reader = self.streams.reader.context("the node reads")?;
            self.streams.delivered += 1;
            let delivery = delivery(input, self.sources.len() as u64, now);
            deliveries.push(Delivered { reader, nth: self.streams.delivered, pending: None, delivery });
        }
        if !deliveries.is_empty() {
            self.drive(Input::Delivered { deliveries }, &mut published)?;
        }
        while self.next_deadline()?.is_some_and(|at| at <= now) {
            let before = self.streams.published;
            let retimed = self.drive(Input::Tick, &mut published)?;
            anyhow::ensure!(self.streams.published > before || retimed, "a timer is due at {now} and has no effect");
        }
        Ok(published)
    }

    /// Passes an input to the node and performs its outputs; returns whether the store was written.
    fn drive(&mut self, input: Input, published: &mut Published) -> anyhow::Result<bool> {
        let now = self.clock.now();
        let mut written = false;
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.node.handle(now, input);
            while let Some(output) = self.node.poll_output() {
                written |= matches!(output, Output::Apply { .. });
                inputs.extend(self.perform(output, published)?);
            }
        }
        Ok(written)
    }

    fn perform(&mut self, output: Output, published: &mut Published) -> anyhow::Result<Option<Input>> {
        let last_sequence = self.streams.published;
        let facts = |last_sequence| StreamFacts { created_ns: STREAM_CREATED_NS, last_sequence };
        Ok(Some(match output {
            Output::ReadOutputFacts { request } => Input::OutputFacts { request, stream: facts(last_sequence) },
            Output::ReadInputFacts { request } => {
                Input::InputFacts { request, stream: facts(self.sources.len() as u64) }
            }
            Output::ReadStreamTime { request } => {
                let host_at_ms = self.clock.now().as_millis();
                Input::StreamTime { request, stream_at_ns: host_at_ms.saturating_mul(1_000_000), host_at_ms }
            }
            Output::TakeFences { request, fences, closing } => {
                let numbered = fences.iter().zip(last_sequence + 1..);
                let fences: BTreeMap<_, _> = numbered.map(|(fence, sequence)| (fence.partition, sequence)).collect();
                self.streams.published += fences.len() as u64;
                let closing = closing.map(|_first| {
                    self.streams.published += 1;
                    self.streams.published
                });
                Input::FencesTaken { request, fences, closing }
            }
            // The stream contains only the fences.
            Output::ReadOutput { request, up_to, .. } => {
                Input::OutputRead { request, messages: Vec::new(), reached: up_to }
            }
            // Nothing waits: each input is delivered at once.
            Output::ReadInputEnds { request, .. } => Input::InputEnds { request, waited_ms: 0, ends: BTreeMap::new() },
            Output::Rewind { reader, .. } => {
                self.streams.reader = Some(reader);
                Input::Rewound { reader, created_ns: STREAM_CREATED_NS, pending: None }
            }
            Output::StageBatch { batch, messages } => {
                self.streams.staged = messages;
                Input::BatchStaged { batch }
            }
            Output::CommitBatch { batch, .. } => {
                let messages = take(&mut self.streams.staged);
                let messages_count = messages.len() as u64 + 1;
                self.streams.published += messages_count;
                for Outgoing { message, .. } in messages {
                    self.keep_mute_states(&message)?;
                    published.messages.push(message);
                }
                Input::BatchCommitted { batch, last_sequence: self.streams.published, messages_count }
            }
            Output::Apply { request, changes } => {
                self.store.apply(&changes)?;
                Input::Applied { request }
            }
            // The store is in memory, and there are no crashes.
            Output::Checkpoint { request } => Input::Checkpointed { request },
            Output::StoreDeadLetters { letters, .. } => anyhow::bail!("relink could not read {letters:?}"),
            Output::Note(Note::StartingOver { problem, .. }) => anyhow::bail!("the node starts over: {problem}"),
            Output::Note(Note::TimerSetAside { of }) => anyhow::bail!("the timer of {of} cannot be handled"),
            Output::Note(_) | Output::Acknowledge { .. } | Output::WakeAt { .. } => return Ok(None),
            other => anyhow::bail!("unexpected output {other:?}"),
        }))
    }

    /// Keeps a state message that muted or unmuted a link: adoption reads only these back.
    fn keep_mute_states(&self, message: &Message) -> anyhow::Result<()> {
        let Address::State(link) = &message.address else { return Ok(()) };
        let patterns = [EventName::Mute, EventName::Unmute].map(|event| format!(r#""event":"{}""#, event.as_str()));
        let text = std::str::from_utf8(&message.body).context("a record is text")?;
        if !patterns.iter().any(|mark| text.contains(mark)) {
            return Ok(());
        }
        let body: Value = serde_json::from_str(text).context("a record is JSON")?;
        let (kind, stored_at) = (HistoryKind::State, At(message.at));
        let entry =
            HistoryEntry { kind, name: None, message_id: None, sequence: self.streams.published, stored_at, body };
        lock(&self.bus.mutings).entry(link.clone()).or_default().push(entry);
        Ok(())
    }

    /// relink's state of every known link.
    pub(super) fn states(&self) -> anyhow::Result<BTreeMap<LinkId, crate::link::StateName>> {
        let mut states = BTreeMap::new();
        for page in pages(&self.store, Query { limit: 1_000, ..Query::default() }) {
            for stored in &page?.links {
                states.insert(stored.link()?.id, stored.head.state);
            }
        }
        Ok(states)
    }
}

/// Whether the input is an error of Belvo's API that only the user can resolve.
fn reports_broken(input: &NewInput) -> bool {
    input.kind == InputKind::ApiError
        && translate(input.kind, &input.link, &input.body, input.at)
            .is_ok_and(|meaning| matches!(meaning, Meaning::Event(input) if matches!(input.event, Event::Broken(_))))
}

/// Whether the input is an error of Belvo's API about an outage of the bank.
fn reports_outage(input: &NewInput) -> bool {
    let is_outage =
        |meaning| matches!(meaning, Meaning::NotAboutTheLink { class, .. } if class.is_about_the_institution());
    input.kind == InputKind::ApiError && translate(input.kind, &input.link, &input.body, input.at).is_ok_and(is_outage)
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

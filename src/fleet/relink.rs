//! relink under test: the engine, the jobs and the reconciler as they are, over a store in memory and a queue where the
//! bus would be.
//!
//! Whoever runs it moves the clock, hands in what is heard, and gets back what relink says. Nothing here decides
//! anything about a link.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use serde_json::Value;

use crate::belvo::{Budget, Client, Meaning, MissingGuard, SecretId, SecretPassword, Timeouts, Usage, translate};
use crate::clock::{Clock, Hands};
use crate::contract::{Address, At, InputKind};
use crate::engine::{Delivery, Engine, Message};
use crate::jobs::Worker;
use crate::link::{Event, EventName, LinkId, Policy, Settings, Timestamp};
use crate::nats::history::{HistoryEntry, HistoryError, HistoryKind, LinkHistory, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::reconciler::{self, Reconciler};
use crate::store::{MemoryStore, Position, Query, Store};

/// The one lane: order between links is none of this simulation's subjects.
const LANE: u16 = 0;

/// The identities of the two streams.
const STREAM_CREATED_NS: i64 = 1;

/// Between two sweeps, and of the rotation: relink's defaults.
pub(super) const SETTINGS: reconciler::Settings = reconciler::Settings {
    sweep_every: Duration::from_secs(3600),
    rotation: Duration::from_secs(24 * 3600),
    adoption_per_hour: 60,
};

/// How an input was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// At the door: webhooks, errors that the customer reports, the widget.
    Door,
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
    hands: Hands,
    engine: Engine<MemoryStore>,
    store: MemoryStore,
    bus: Arc<Bus>,
    queue: VecDeque<Delivery>,
    /// How each input was heard of, by its sequence.
    heard: Vec<Heard>,
    said: u64,
}

/// What relink said in one go.
#[derive(Default)]
pub(super) struct Said {
    /// The messages, in order.
    pub(super) messages: Vec<Message>,
    /// The links of which errors of Belvo's API said that they are broken.
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
    /// A relink that has heard of nothing, whose Belvo is at `url`.
    pub(super) fn start(url: &str, keys: (SecretId, SecretPassword), now: Timestamp) -> anyhow::Result<Self> {
        let (clock, hands) = Clock::driven(now);
        let budget = Budget::by(clock.clone(), BELVO_REQUESTS_PER_30S);
        let belvo = Client::new(url, keys.0, keys.1, Timeouts::default())?.with_budget(budget.clone());
        let policy = Policy::new(Settings { can_verify: true, ..Settings::default() })?;
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
        let engine = Engine::new(store.clone(), policy, STREAM_CREATED_NS, &BTreeMap::new())?;
        let (queue, heard) = (VecDeque::new(), Vec::new());
        Ok(Self { belvo, worker, reconciler, clock, budget, hands, engine, store, bus, queue, heard, said: 0 })
    }

    /// Moves the clock, never back.
    pub(super) fn set_clock(&self, at: Timestamp) {
        self.hands.set(at);
    }

    /// Takes in what came through the door.
    pub(super) fn hear(&self, kind: InputKind, link: LinkId, body: Vec<u8>) {
        let source = "/relink/fleet";
        lock(&self.bus.inbox).push(NewInput { kind, link, source, at: self.clock.now(), id: None, body });
    }

    /// When relink wants to be woken.
    pub(super) fn next_deadline(&self) -> anyhow::Result<Option<Timestamp>> {
        Ok(self.store.next_deadline()?)
    }

    /// How the input of this sequence was heard of.
    pub(super) fn heard(&self, sequence: u64) -> Heard {
        usize::try_from(sequence).ok().and_then(|at| self.heard.get(at - 1)).copied().unwrap_or(Heard::Door)
    }

    /// How many inputs it has taken in.
    pub(super) fn inputs_count(&self) -> u64 {
        self.heard.len() as u64
    }

    /// What it has asked of Belvo.
    pub(super) fn usage(&self) -> Usage {
        self.budget.usage()
    }

    /// Handles what has been heard and what is due, to the end, and gives what follows.
    pub(super) fn digest(&mut self) -> anyhow::Result<Said> {
        let mut said = Said::default();
        let now = self.clock.now();
        for input in take(&mut *lock(&self.bus.inbox)) {
            if says_broken(&input) {
                said.refused.push(input.link.clone());
            }
            self.heard.push(match input.source {
                "/relink/reconciler" => Heard::Sweep,
                "/relink/jobs" => Heard::Job,
                _ => Heard::Door,
            });
            self.queue.push_back(delivery(input, self.heard.len() as u64, now));
        }
        while !self.queue.is_empty() || self.next_deadline()?.is_some_and(|at| at <= now) {
            let mut plan = self.engine.plan(&mut self.queue, now)?;
            anyhow::ensure!(!plan.is_idle(), "a timer is due at {now} and nothing follows from it");
            self.said += plan.messages.len() as u64;
            let position = Position { stream_created_ns: STREAM_CREATED_NS, sequence: self.said };
            self.store.apply(&plan.changes(Some(position)))?;
            self.engine.settle(&plan);
            anyhow::ensure!(plan.dead.is_empty(), "relink could not read {:?}", plan.dead);
            for outgoing in plan.messages.drain(..) {
                self.remember_muting(&outgoing.message)?;
                said.messages.push(outgoing.message);
            }
        }
        Ok(said)
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
        let entry = HistoryEntry { kind, name: None, message_id: None, sequence: self.said, stored_at, body };
        lock(&self.bus.mutings).entry(link.clone()).or_default().push(entry);
        Ok(())
    }

    /// relink's word on every link it has heard of.
    pub(super) fn words(&self) -> anyhow::Result<BTreeMap<LinkId, crate::link::StateName>> {
        let mut words = BTreeMap::new();
        let mut query = Query { limit: 1_000, ..Query::default() };
        loop {
            let page = self.store.page(&query)?;
            for stored in &page.links {
                words.insert(stored.parse()?.link()?.id, stored.head.state);
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(words);
            }
        }
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
        lane: LANE,
        sequence,
        stored_at_ns: now.as_millis().saturating_mul(1_000_000),
        subject: format!("belvo.{LANE}.{kind}.{link}"),
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

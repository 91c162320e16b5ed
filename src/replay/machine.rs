//! The replay: the shipped engine over a store in memory, with the recorded inputs and the timers of the new policy in the order of their
//! times.

use std::collections::{BTreeMap, VecDeque};

use super::recorded::{Recorded, Sent, SentKind, Start, notice_kind};
use crate::contract::{Address, BadRecord, JobName, Record};
use crate::engine::{Delivery, Engine, Plan};
use crate::institution::Components;
use crate::link::{LinkId, Policy, Timestamp};
use crate::nats::stream::PARTITIONS_MAX;
use crate::store::{Changes, Head, MemoryStore, Put, Store, StoreError};

/// The identity of the input stream. The replay stores its offsets nowhere.
const STREAM_CREATED_NS: i64 = 1;

/// The replay cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The store in memory failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A state cannot be read.
    #[error("the state of the link {link} cannot be read: {error}")]
    State {
        /// The link.
        link: LinkId,
        /// The error.
        error: BadRecord,
    },
}

/// A replay, which takes the inputs in the order of the stream.
pub struct Replay {
    engine: Engine<MemoryStore>,
    recorded: Recorded,
    policy: Policy,
    /// The time of the replay.
    now: Timestamp,
    /// Links whose state at the start is no longer kept, in the order in which they begin.
    later: VecDeque<(Timestamp, LinkId)>,
    sent: Vec<Sent>,
    inputs_count: u64,
    unreadable_inputs_count: u64,
}

/// What the replay has sent.
pub struct Replayed {
    /// The recording.
    pub recorded: Recorded,
    /// The messages, in the order of their times.
    pub sent: Vec<Sent>,
    /// How many links were replayed.
    pub links_count: u64,
    /// How many inputs were replayed.
    pub inputs_count: u64,
    /// How many of them this version cannot handle.
    pub unreadable_inputs_count: u64,
}

impl Replay {
    /// A replay that starts from the recorded states.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn new(recorded: Recorded, policy: Policy, components: Components) -> Result<Self, ReplayError> {
        let store = MemoryStore::default();
        let (mut puts, mut later) = (Vec::new(), Vec::new());
        for (link, start) in &recorded.starts {
            if start.at < recorded.span.from {
                puts.push(put(link, start, &policy)?);
            } else if recorded.begins_later(start) {
                later.push((start.at, link.clone()));
            }
        }
        later.sort();
        let incidents = recorded.incidents.values().cloned().collect();
        store.apply(&Changes { puts, incidents, ..Changes::default() })?;
        let offsets: BTreeMap<u16, u64> = (0..PARTITIONS_MAX).map(|partition| (partition, 0)).collect();
        let engine = Engine::new(store, policy.clone(), STREAM_CREATED_NS, &offsets)?.with_components(components);
        let now = recorded.span.from;
        let (sent, later) = (Vec::new(), VecDeque::from(later));
        let (inputs_count, unreadable_inputs_count) = (0, 0);
        Ok(Self { engine, recorded, policy, now, later, sent, inputs_count, unreadable_inputs_count })
    }

    /// Takes the next input of the stream. Inputs from outside the span, and those that are in the first state of their link already, are
    /// left out.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn input(&mut self, delivery: Delivery) -> Result<(), ReplayError> {
        let at = delivery.stored_at();
        if at < self.recorded.span.from || at >= self.recorded.span.to || self.is_in_start(&delivery) {
            return Ok(());
        }
        self.pass_time(at)?;
        self.inputs_count += 1;
        let mut queue = VecDeque::from([delivery]);
        while !queue.is_empty() {
            self.plan(&mut queue)?;
        }
        Ok(())
    }

    /// Runs the timers up to the end of the span.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn finish(mut self) -> Result<Replayed, ReplayError> {
        self.pass_time(self.recorded.span.to)?;
        let links_count = self.engine.store().count()?.values().sum();
        let Self { recorded, sent, inputs_count, unreadable_inputs_count, .. } = self;
        Ok(Replayed { recorded, sent, links_count, inputs_count, unreadable_inputs_count })
    }

    /// Whether the replay of the link begins later than with this input.
    fn is_in_start(&self, delivery: &Delivery) -> bool {
        let Ok(link) = delivery.link.parse::<LinkId>() else { return false };
        let start = self.recorded.starts.get(&link);
        let later = start.filter(|start| self.recorded.begins_later(start));
        later.is_some_and(|start| match start.input {
            Some(sequence) => delivery.sequence <= sequence,
            None => delivery.stored_at() <= start.at,
        })
    }

    /// Runs the timers that are due up to `until`, each at its deadline, and adds the links that begin until then.
    fn pass_time(&mut self, until: Timestamp) -> Result<(), ReplayError> {
        loop {
            let begins_at = self.later.front().map(|(at, _)| *at);
            let due_at = self.next_deadline()?.map(|at| at.max(self.now)).filter(|at| *at <= until);
            if let Some(at) = begins_at.filter(|at| *at <= until && due_at.is_none_or(|due_at| *at <= due_at)) {
                self.now = self.now.max(at);
                if let Some((_, link)) = self.later.pop_front() {
                    let start = &self.recorded.starts[&link];
                    let puts = vec![put(&link, start, &self.policy)?];
                    self.engine.store().apply(&Changes { puts, ..Changes::default() })?;
                }
                continue;
            }
            let Some(due_at) = due_at else { break };
            self.now = due_at;
            // A timer that cannot be handled stays due. The others run late then, with the next input. An institution has deadlines at
            // which it forgets an error and nothing else happens.
            let had_effect = self.plan(&mut VecDeque::new())?;
            if !had_effect && self.next_deadline()?.is_some_and(|next| next <= due_at) {
                break;
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    fn next_deadline(&self) -> Result<Option<Timestamp>, ReplayError> {
        let deadlines = [self.engine.store().next_deadline()?, self.engine.next_deadline()];
        Ok(deadlines.into_iter().flatten().min())
    }

    /// Makes a plan at the time of the replay, and commits it to the store in memory. Returns whether it had an effect.
    fn plan(&mut self, queue: &mut VecDeque<Delivery>) -> Result<bool, ReplayError> {
        let plan = self.engine.plan(queue, self.now)?;
        self.engine.store().apply(&plan.changes(None))?;
        self.engine.record_commit(&plan);
        self.unreadable_inputs_count += plan.dead_letters.len() as u64;
        self.note(&plan);
        Ok(!plan.is_idle())
    }

    fn note(&mut self, plan: &Plan) {
        for outgoing in &plan.messages {
            let message = &outgoing.message;
            let (kind, link) = match &message.address {
                Address::Notice(name, link) | Address::Observed(name, link) => (notice_kind(name.as_str()), link),
                Address::Job(JobName::Verify, link) => (Some(SentKind::Question), link),
                Address::Job(..)
                | Address::State(_)
                | Address::Refused(_)
                | Address::Offset(_)
                | Address::Fence(_)
                | Address::Commit(_)
                | Address::Incident(_) => continue,
            };
            self.sent.extend(kind.and_then(|kind| Sent::of(kind, link.clone(), &message.body)));
        }
    }
}

fn put(link: &LinkId, start: &Start, policy: &Policy) -> Result<Put, ReplayError> {
    let failed = |error| ReplayError::State { link: link.clone(), error };
    let record = Record::parse(&start.record).map_err(failed)?;
    let head = Head::of(&record.link().map_err(failed)?, record.partition, policy);
    Ok(Put::of_record(link.clone(), head, start.record.clone()))
}

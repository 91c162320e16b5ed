//! An engine over a store in memory, whose plans are committed one after the other.

use std::collections::VecDeque;

use relink::contract::{Address, Record};
use relink::engine::{Delivery, Engine, Message, Plan};
use relink::link::Timestamp;
use relink::store::{MemoryStore, Store};
use serde_json::Value;

use crate::inputs::{START, delivery};

/// The link of a story about one link.
pub(crate) const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

pub(crate) const HOUR: i64 = 3_600_000;

/// So many milliseconds after the start.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

/// An engine, and the messages that it has planned.
pub(crate) struct Plans {
    pub(crate) engine: Engine<MemoryStore>,
    pub(crate) published: Vec<(Address, Value)>,
}

impl Plans {
    pub(crate) fn of(engine: Engine<MemoryStore>) -> Self {
        Self { engine, published: Vec::new() }
    }

    /// Plans all of `queue` at this time. The plan is neither stored nor committed.
    pub(crate) fn plan(&mut self, mut queue: VecDeque<Delivery>, millis: i64) -> Plan {
        let plan = self.engine.plan(&mut queue, at(millis)).unwrap();
        assert!(queue.is_empty() && plan.dead_letters.is_empty(), "{:?}", plan.dead_letters);
        let messages = plan.messages.iter().map(|outgoing| &outgoing.message);
        self.published.extend(messages.map(|out| (out.address.clone(), serde_json::from_slice(&out.body).unwrap())));
        plan
    }

    pub(crate) fn apply(&self, plan: &Plan) {
        self.engine.store().apply(&plan.changes(None)).unwrap();
    }

    pub(crate) fn commit(&mut self, queue: VecDeque<Delivery>, millis: i64) {
        let plan = self.plan(queue, millis);
        self.apply(&plan);
        self.engine.record_commit(&plan);
    }

    pub(crate) fn record(&self, link: &str) -> Record {
        self.engine.store().get(&link.parse().unwrap()).unwrap().unwrap().parse().unwrap()
    }
}

/// What an engine publishes about one link: at each time, one input or none is planned and committed.
pub(crate) fn messages_of<'a>(
    mut engine: Engine<MemoryStore>,
    story: impl IntoIterator<Item = (i64, Option<(&'a str, Value)>)>,
) -> Vec<Message> {
    let mut messages = Vec::new();
    for (millis, input) in story {
        let delivered = input.map(|(kind, body)| Delivery {
            partition: 0,
            sequence: 1 + millis.unsigned_abs(),
            stored_at_ns: at(millis).as_millis() * 1_000_000,
            ..delivery(kind, LINK, body.to_string())
        });
        let plan = engine.plan(&mut VecDeque::from_iter(delivered), at(millis)).unwrap();
        assert!(plan.dead_letters.is_empty(), "{:?}", plan.dead_letters);
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.record_commit(&plan);
        messages.extend(plan.messages.into_iter().map(|outgoing| outgoing.message));
    }
    messages
}

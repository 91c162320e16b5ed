//! What goes out: everything that a slice of deliveries comes to, before any of it is durable.

use std::collections::BTreeMap;

use serde::Serialize;

use super::delivery::{Dead, Delivery};
use crate::contract::{Address, Because, IncidentBody, JobBody, Mark, NoticeBody, RefusedBody, institution_token};
use crate::link::{Effect, Link, LinkId, Step, Timestamp};
use crate::store::{Changes, Position, Put};

/// One commit, planned.
#[derive(Debug, Default)]
pub struct Plan {
    /// The messages of the atomic batch, in order; every lane's mark is among them.
    pub messages: Vec<Outgoing>,
    /// The links as they are afterwards.
    pub puts: Vec<Put>,
    /// How far each lane has got.
    pub marks: BTreeMap<u16, Mark>,
    /// What to acknowledge, the last delivery of each lane, once all up to there is durable.
    pub receipts: BTreeMap<u16, Receipt>,
    /// How many ends of incidents, timers and deliveries it was made of, without repeats.
    pub items_count: usize,
    /// The first of them.
    pub first_item: Option<Item>,
    /// The incidents that begin or end with it, in order; each is among the messages.
    pub incidents: Vec<IncidentBody>,
    /// How many prompts begin to wait for the end of an incident.
    pub prompts_held_count: u64,
    /// What is set aside. To be made durable **before** the batch: the marks say that it has been handled.
    pub dead: Vec<Dead>,
    /// Fields of accepted or refused messages that could not be read, as paths; each with its link.
    pub unread: Vec<(LinkId, &'static str)>,
    /// Links of which relink's own record cannot be read.
    pub links_unreadable: Vec<LinkId>,
    /// Links whose timer panicked: a bug of ours.
    pub timers_panicked: Vec<LinkId>,
    /// What happened, for metrics.
    pub tally: Tally,
    /// The links of the puts that [`Plan::take_changes`] took, and their versions.
    taken: Vec<(LinkId, u64)>,
}

/// A delivery that can be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence on the input stream.
    pub sequence: u64,
    /// What to acknowledge it with.
    pub receipt: String,
}

/// Something that a plan is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A delivery of this lane and sequence.
    Delivery {
        /// The lane.
        lane: u16,
        /// The sequence on the input stream.
        sequence: u64,
        /// When it was stored there, in nanoseconds since the Unix epoch: a sequence may be given out twice.
        stored_at_ns: i64,
    },
    /// The passed deadline of a link.
    Timer(LinkId),
    /// The end of the incident of this institution.
    IncidentEnd(String),
}

/// A message of the batch, and the lane whose fence guards it.
#[derive(Debug)]
pub struct Outgoing {
    /// The lane.
    pub lane: u16,
    /// The sequence that the lane's fence must have; on one message of each lane, once the batch is guarded.
    pub fence: Option<u64>,
    /// The message.
    pub message: Message,
}

/// A message for the output stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it goes.
    pub address: Address,
    /// Its id, the same whenever the same input is planned: of a link's messages `<link>.<version>.<n>`.
    pub id: String,
    /// When the transition was taken.
    pub at: Timestamp,
    /// Its body, JSON.
    pub body: Vec<u8>,
}

/// How many deliveries came to what.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<TallyKey, u64>);

/// The kind of input, and what it came to.
pub type TallyKey = (&'static str, &'static str);

impl Tally {
    pub(super) fn add(&mut self, kind: &'static str, outcome: &'static str) {
        *self.0.entry((kind, outcome)).or_default() += 1;
    }

    /// The counts.
    pub fn counts(&self) -> impl Iterator<Item = (TallyKey, u64)> {
        self.0.iter().map(|(key, count)| (*key, *count))
    }
}

impl Plan {
    /// Whether there is nothing at all to do about it.
    pub fn is_idle(&self) -> bool {
        self.messages.is_empty()
            && self.dead.is_empty()
            && self.puts.is_empty()
            && self.receipts.is_empty()
            && self.timers_panicked.is_empty()
            && self.links_unreadable.is_empty()
    }

    /// Takes the store's share out of the plan, once the batch is known to be stored.
    pub fn take_changes(&mut self, position: Option<Position>) -> Changes {
        let puts = std::mem::take(&mut self.puts);
        self.taken.extend(puts.iter().map(|put| (put.id.clone(), put.head.version)));
        let marks = self.marks.iter().map(|(lane, mark)| (*lane, mark.clone())).collect();
        Changes { puts, incidents: self.incidents.clone(), marks, position }
    }

    /// The links it changes, and their versions afterwards.
    pub(super) fn versions(&self) -> impl Iterator<Item = (&LinkId, u64)> {
        let puts = self.puts.iter().map(|put| (&put.id, put.head.version));
        puts.chain(self.taken.iter().map(|(id, version)| (id, *version)))
    }

    pub(super) fn add_item(&mut self, item: impl FnOnce() -> Item) {
        if self.items_count == 0 {
            self.first_item = Some(item());
        }
        self.items_count += 1;
    }

    /// Notes the delivery's receipt, if it is the last one of its lane.
    pub(super) fn receive(&mut self, delivery: &Delivery) {
        if self.receipts.get(&delivery.lane).is_none_or(|receipt| receipt.sequence <= delivery.sequence) {
            let receipt = Receipt { sequence: delivery.sequence, receipt: delivery.receipt.clone() };
            self.receipts.insert(delivery.lane, receipt);
        }
    }

    /// A copy of the store's share, once the batch is known to end at `position`.
    pub fn changes(&self, position: Option<Position>) -> Changes {
        let marks = self.marks.iter().map(|(lane, mark)| (*lane, mark.clone())).collect();
        Changes { puts: self.puts.clone(), incidents: self.incidents.clone(), marks, position }
    }

    /// Adds the messages for a step's effects; gives their ids.
    pub(super) fn effects(&mut self, lane: u16, step: &Step, because: &Because) -> Vec<String> {
        let link = &step.link;
        let mut ids = Vec::with_capacity(step.effects.len());
        for (n, effect) in (1..).zip(&step.effects) {
            let (address, body) = match effect {
                Effect::Notice { notice, episode } => {
                    let body = NoticeBody::of(step, notice, episode.as_ref(), because.clone());
                    (Address::Notice(body.news.name(), link.id.clone()), encode(&body))
                }
                Effect::Job(job) => {
                    let body = JobBody::of(step, job, because.clone());
                    (Address::Job(body.name, link.id.clone()), encode(&body))
                }
            };
            let id = message_id(link, n);
            ids.push(id.clone());
            self.push(lane, Message { address, id, at: step.at, body });
        }
        ids
    }

    pub(super) fn state(&mut self, lane: u16, step: &Step, record: &[u8]) {
        let link = &step.link;
        let address = Address::State(link.id.clone());
        self.push(lane, Message { address, id: message_id(link, 0), at: step.at, body: record.to_vec() });
    }

    pub(super) fn refuse(&mut self, lane: u16, sequence: u64, link: &Link, body: RefusedBody) {
        // A stream that was created anew, or lost its tail, gives sequences out again: the time tells them apart.
        let at = body.origin.heard_at.0;
        let id = format!("{}.{}.refused-{lane}-{sequence}-{}", link.id, link.version, at.as_millis());
        self.push(lane, Message { address: Address::Refused(link.id.clone()), id, at, body: encode(&body) });
    }

    /// An incident begins or ends.
    pub(super) fn incident(&mut self, lane: u16, body: IncidentBody) {
        let address = Address::Incident(institution_token(&body.institution));
        self.push(lane, Message { address, id: body.message_id(), at: body.at.0, body: encode(&body) });
        self.incidents.push(body);
    }

    /// A change of the timers' index alone, which the stream need not know of.
    pub(super) fn retime(&mut self, put: Option<Put>) {
        self.puts.extend(put);
    }

    /// Adds the marks.
    pub(super) fn close(&mut self) {
        let marks: Vec<_> = self.marks.iter().map(|(lane, mark)| (*lane, mark.clone())).collect();
        for (lane, mark) in marks {
            let at = Timestamp::from_millis(mark.stored_at_ns.div_euclid(1_000_000));
            let id = format!("mark.{lane}.{}", mark.sequence);
            self.push(lane, Message { address: Address::Mark(lane), id, at, body: encode(&mark) });
        }
    }

    fn push(&mut self, lane: u16, message: Message) {
        self.messages.push(Outgoing { lane, fence: None, message });
    }
}

fn message_id(link: &Link, n: usize) -> String {
    format!("{}.{}.{n}", link.id, link.version)
}

/// The JSON of a body of ours.
pub(super) fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("our bodies have string keys and no failing serializers")
}

//! A plan: the results of some deliveries and timers, before they are durable.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::activity::Activity;
use super::delivery::{DeadDelivery, Delivery};
use super::publishing::Publishing;
use super::spans::{Following, StepSpan};
use crate::contract::{
    Address, Because, CommittedOffset, IncidentBody, JobBody, LinksDigest, NoticeBody, RefusedBody, TraceContext,
    institution_token,
};
use crate::link::{Effect, EpisodeNumber, Link, LinkId, Step, Timestamp};
use crate::store::{Changes, Position, Put};

/// A planned commit.
#[derive(Debug, Default)]
pub struct Plan {
    /// The messages of the atomic batch, in order, including the committed offset of each partition.
    pub messages: Vec<Outgoing>,
    /// The changed records, for the store.
    pub puts: Vec<Put>,
    /// The new committed offset of each partition.
    pub offsets: BTreeMap<u16, CommittedOffset>,
    /// All links after this plan.
    pub links: LinksDigest,
    /// The last delivery of each partition, to be acknowledged when the plan is durable.
    pub receipts: BTreeMap<u16, Receipt>,
    /// How many items (ends of incidents, timers and deliveries) the plan contains, without repeated deliveries.
    pub items_count: usize,
    /// The first item.
    pub first_item: Option<Item>,
    /// The incidents that begin or end, in order. `messages` contains them too.
    pub incidents: Vec<IncidentBody>,
    /// What the steps of this plan do, as numbers.
    pub activity: Activity,
    /// Deliveries to dead-letter. Dead letters must be durable **before** the batch, because its committed offsets pass
    /// them.
    pub dead_letters: Vec<DeadDelivery>,
    /// Paths of fields that could not be read, in accepted and refused messages, each with its link.
    pub unreadable_fields: Vec<(LinkId, &'static str)>,
    /// Links whose record in the store cannot be read.
    pub links_unreadable: Vec<LinkId>,
    /// Links whose timer panicked, because of a bug in the machine.
    pub timers_panicked: Vec<LinkId>,
    /// Whether deadlines have passed that wait for inputs ([`super::Engine::set_due_by`]).
    pub are_timers_held: bool,
    /// Counts of outcomes, for metrics.
    pub tally: Tally,
    /// The recorded steps.
    pub spans: Vec<StepSpan>,
    /// The trace of the input that is being planned.
    pub(super) following: Following,
    /// The links of the puts that [`Plan::take_changes`] took, and their versions.
    taken: Vec<(LinkId, u64)>,
}

/// A delivery that can be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence on the input stream.
    pub sequence: u64,
    /// The subject to which the acknowledgement is published.
    pub receipt: String,
}

/// One item of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A delivery.
    Delivery {
        /// The partition.
        partition: u16,
        /// The sequence on the input stream.
        sequence: u64,
        /// When it was stored, in nanoseconds since the Unix epoch. After a host crash a server may use a sequence
        /// again.
        stored_at_ns: i64,
    },
    /// The passed deadline of a link.
    Timer(LinkId),
    /// The end of the incident of this institution.
    IncidentEnd(String),
}

/// A message of the batch, and the partition whose fence guards it.
#[derive(Debug)]
pub struct Outgoing {
    /// The partition.
    pub partition: u16,
    /// The sequence that the last fence of the partition must have. Set on one message of each partition before the
    /// batch is sent.
    pub fence: Option<u64>,
    /// The message.
    pub message: Message,
}

/// A message for the output stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// The subject.
    pub address: Address,
    /// The message id, `<link>.<version>.<n>` for the messages of a link. It is the same if the same input is planned
    /// again.
    pub id: String,
    /// The time of the transition.
    pub at: Timestamp,
    /// The body, JSON.
    pub body: Bytes,
    /// The span that the message follows from.
    pub trace: Option<TraceContext>,
}

impl Message {
    /// The message with the committed offset of a partition.
    pub fn of_offset(partition: u16, offset: &CommittedOffset) -> Self {
        let at = Timestamp::from_nanos(offset.stored_at_ns);
        // An input stream that was created again uses sequences again. The time makes the id unique.
        let id = format!("offset.{partition}.{}-{}", offset.sequence, at.as_millis());
        Self { address: Address::Offset(partition), id, at, body: encode(offset), trace: None }
    }
}

/// The number of deliveries and timers by kind and outcome.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<TallyKey, u64>);

/// The kind of input, and the outcome.
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
    /// Whether the plan has no effect at all.
    pub fn is_idle(&self) -> bool {
        self.messages.is_empty()
            && self.dead_letters.is_empty()
            && self.puts.is_empty()
            && self.receipts.is_empty()
            && self.timers_panicked.is_empty()
            && self.links_unreadable.is_empty()
    }

    /// Takes the changes of the store out of the plan, when the batch is committed. `position` is its position on the
    /// output stream.
    pub fn take_changes(&mut self, position: Option<Position>) -> Changes {
        let puts = std::mem::take(&mut self.puts);
        self.taken.extend(puts.iter().map(|put| (put.id.clone(), put.head.version)));
        let offsets = self.offsets.iter().map(|(partition, offset)| (*partition, offset.clone())).collect();
        Changes { puts, incidents: self.incidents.clone(), offsets, position, is_end_of_read: false }
    }

    /// The changed links, and their new versions.
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

    /// Records the receipt of the delivery if no later one of the partition is recorded.
    pub(super) fn receive(&mut self, delivery: &Delivery) {
        if self.receipts.get(&delivery.partition).is_none_or(|receipt| receipt.sequence <= delivery.sequence) {
            let receipt = Receipt { sequence: delivery.sequence, receipt: delivery.receipt.clone() };
            self.receipts.insert(delivery.partition, receipt);
        }
    }

    /// A copy of the changes of the store. `position` is the position of the batch on the output stream.
    pub fn changes(&self, position: Option<Position>) -> Changes {
        let offsets = self.offsets.iter().map(|(partition, offset)| (*partition, offset.clone())).collect();
        Changes { puts: self.puts.clone(), incidents: self.incidents.clone(), offsets, position, is_end_of_read: false }
    }

    /// Adds the messages for the effects of a step. Returns their ids.
    pub(super) fn effects(
        &mut self,
        partition: u16,
        step: &Step,
        because: &Because,
        publishing: &Publishing,
    ) -> Vec<String> {
        let (link, repair_links) = (&step.link, publishing.repair_links.as_ref());
        let mut ids = Vec::with_capacity(step.effects.len());
        for (n, effect) in (1..).zip(&step.effects) {
            let (address, body) = match effect {
                Effect::Notice { notice, episode } => {
                    let mut body = NoticeBody::of(step, notice, episode.as_ref(), because.clone());
                    self.activity.count_notice(body.content.name(), notice, episode.as_ref(), step.at);
                    let prompted = episode.as_ref().filter(|_| body.content.prompts());
                    body.repair_url =
                        repair_links.zip(prompted).map(|(links, episode)| links.url(&link.id, episode.number, step.at));
                    for other in &mut body.also_broken {
                        let id = other.link_id.parse().ok();
                        let number = EpisodeNumber(other.episode);
                        other.repair_url = repair_links.zip(id).map(|(links, id)| links.url(&id, number, step.at));
                    }
                    (publishing.address_of(body.content.name(), link.id.clone()), encode(&body))
                }
                // The id of a message is the same with and without observe mode, so a number is left out.
                Effect::Job(job) if !publishing.includes(job) => continue,
                Effect::Job(job) => {
                    let body = JobBody::of(step, job, because.clone());
                    (Address::Job(body.name, link.id.clone()), encode(&body))
                }
            };
            let id = message_id(link, n);
            ids.push(id.clone());
            self.push_traced(partition, address, id, step.at, body);
        }
        ids
    }

    pub(super) fn state(&mut self, partition: u16, step: &Step, record: Bytes) {
        let link = &step.link;
        let address = Address::State(link.id.clone());
        self.push_traced(partition, address, message_id(link, 0), step.at, record);
    }

    pub(super) fn refuse(&mut self, partition: u16, sequence: u64, link: &Link, body: RefusedBody) {
        // A stream that was created again, or lost its tail, uses sequences again. The time makes the id unique.
        let at = body.origin.received_at.0;
        let id = format!("{}.{}.refused-{partition}-{sequence}-{}", link.id, link.version, at.as_millis());
        if let Some(span) = self.span() {
            span.link = Some(link.id.clone());
            (span.event, span.outcome) = (body.event.clone(), body.reason.clone());
        }
        self.push_traced(partition, Address::Refused(link.id.clone()), id, at, encode(&body));
    }

    /// Adds the message about the start or the end of an incident.
    pub(super) fn incident(&mut self, partition: u16, body: IncidentBody) {
        let address = Address::Incident(institution_token(&body.institution));
        self.push_traced(partition, address, body.message_id(), body.at.0, encode(&body));
        self.incidents.push(body);
    }

    /// Adds a change of a deadline in the store. The change is not published.
    pub(super) fn retime(&mut self, put: Option<Put>) {
        self.puts.extend(put);
    }

    /// Adds the messages with the committed offsets.
    pub(super) fn close(&mut self) {
        let offsets: Vec<_> = self.offsets.iter().map(|(partition, offset)| (*partition, offset.clone())).collect();
        for (partition, offset) in offsets {
            self.push(partition, Message::of_offset(partition, &offset));
        }
    }

    /// Adds a message that follows from the input that is being planned.
    fn push_traced(&mut self, partition: u16, address: Address, id: String, at: Timestamp, body: Bytes) {
        let trace = self.following.context().cloned();
        self.push(partition, Message { address, id, at, body, trace });
    }

    fn push(&mut self, partition: u16, message: Message) {
        self.messages.push(Outgoing { partition, fence: None, message });
    }
}

fn message_id(link: &Link, n: usize) -> String {
    format!("{}.{}.{n}", link.id, link.version)
}

/// The size with which the JSON of a body begins, in bytes. Most states and notices are a little shorter; a smaller buffer would grow some
/// times, and be copied each time.
const BODY_BYTES: usize = 1_024;

/// The JSON of a body.
pub(super) fn encode<T: Serialize>(body: &T) -> Bytes {
    let mut json = Vec::with_capacity(BODY_BYTES);
    serde_json::to_writer(&mut json, body).expect("bodies have string keys and no failing serializers");
    json.into()
}

//! JetStream, as far as the commit relies on it: an input log, and an output log that takes a batch whole or not at all.
//!
//! Nothing here knows what a message means, and no rule of the node is here.

use std::collections::{BTreeMap, BTreeSet};

use relink::contract::{Address, Fence, IncidentBody, Mark};
use relink::engine::{Dead, Delivery, Message, Outgoing};
use relink::link::Timestamp;
use relink::node::{FenceFacts, FenceToTake, OutputKind, OutputMessage, StreamFacts};

/// How many lanes there are.
pub(crate) const LANES: u16 = 3;

/// When the streams were created: their identities.
pub(crate) const INPUT_CREATED_NS: i64 = 1_111;
pub(crate) const OUTPUT_CREATED_NS: i64 = 2_222;

/// A message on the output stream. Its sequence is its index plus one.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) owner: u32,
    pub(crate) lane: u16,
    pub(crate) message: Message,
}

/// Something on its way to the output stream.
#[derive(Debug)]
pub(crate) enum Sent {
    Batch { owner: u32, messages: Vec<Outgoing> },
    Fences { owner: u32, fences: Vec<FenceToTake> },
}

/// It was refused: a fence is not where it was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// The three streams.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    pub(crate) input: Vec<Delivery>,
    pub(crate) output: Vec<Stored>,
    pub(crate) dead: Vec<Dead>,
    /// What processes sent that are gone, or have given it up; still in the network.
    pub(crate) ghosts: Vec<Sent>,
}

impl Bus {
    /// Stores an input; the stream gives it its sequence and time.
    pub(crate) fn publish(&mut self, mut delivery: Delivery, now: Timestamp) -> u64 {
        delivery.sequence = self.input.len() as u64 + 1;
        delivery.stored_at_ns = now.as_millis() * 1_000_000 + 7;
        delivery.receipt = format!("{} {}", delivery.lane, delivery.sequence);
        self.input.push(delivery);
        self.input.len() as u64
    }

    pub(crate) fn input_facts(&self) -> StreamFacts {
        StreamFacts { created_ns: INPUT_CREATED_NS, last_sequence: self.input.len() as u64 }
    }

    pub(crate) fn output_facts(&self) -> StreamFacts {
        StreamFacts { created_ns: OUTPUT_CREATED_NS, last_sequence: self.last_sequence() }
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.output.len() as u64
    }

    /// The next input of a lane behind `sequence`.
    pub(crate) fn next_input(&self, lane: u16, sequence: u64) -> Option<&Delivery> {
        self.input.iter().find(|delivery| delivery.lane == lane && delivery.sequence > sequence)
    }

    /// When an input was stored.
    pub(crate) fn stored_at_ns(&self, sequence: u64) -> Option<i64> {
        Some(self.input.get(usize::try_from(sequence).ok()?.checked_sub(1)?)?.stored_at_ns)
    }

    /// Stores what arrives, whole or not at all: the last sequence, or a refusal.
    pub(crate) fn store(&mut self, sent: Sent) -> Result<u64, Refused> {
        let (owner, messages): (u32, Vec<(u16, Option<u64>, Message)>) = match sent {
            Sent::Batch { owner, messages } => {
                let lanes: BTreeSet<u16> = messages.iter().map(|outgoing| outgoing.lane).collect();
                let guarded: BTreeSet<u16> =
                    messages.iter().filter(|outgoing| outgoing.fence.is_some()).map(|outgoing| outgoing.lane).collect();
                assert_eq!(lanes, guarded, "every lane of a batch is guarded");
                (
                    owner,
                    messages.into_iter().map(|outgoing| (outgoing.lane, outgoing.fence, outgoing.message)).collect(),
                )
            }
            Sent::Fences { owner, fences } => {
                (owner, fences.into_iter().map(|fence| (fence.partition, fence.expects, fence.message)).collect())
            }
        };
        let is_expected = |(lane, expects, _): &(u16, Option<u64>, Message)| {
            expects.is_none_or(|expects| expects == self.fence(*lane))
        };
        if !messages.iter().all(is_expected) {
            return Err(Refused);
        }
        self.output.extend(messages.into_iter().map(|(lane, _, message)| Stored { owner, lane, message }));
        Ok(self.last_sequence())
    }

    /// The sequence of a lane's last fence; 0 for none.
    fn fence(&self, lane: u16) -> u64 {
        let last = self.output.iter().rposition(|stored| stored.message.address == Address::Fence(lane));
        last.map_or(0, |last| last as u64 + 1)
    }

    /// The last fences of these lanes.
    pub(crate) fn fences(&self, lanes: &[u16]) -> BTreeMap<u16, FenceFacts> {
        let facts = |&lane: &u16| {
            let sequence = self.fence(lane);
            let stored = &self.output[sequence.checked_sub(1)? as usize];
            let Fence { owner, .. } = serde_json::from_slice(&stored.message.body).unwrap();
            Some((lane, FenceFacts { sequence, owner }))
        };
        lanes.iter().filter_map(facts).collect()
    }

    /// What a reader of the output stream gets first: behind `after`, or the last of each subject; and how far that reaches.
    pub(crate) fn read(&self, after: Option<u64>, up_to: u64) -> (Vec<OutputMessage>, u64) {
        let all = (1..).zip(&self.output).filter(|(_, stored)| is_read(&stored.message.address));
        let mut unread: Vec<(u64, &Stored)> = match after {
            Some(after) => all.filter(|(sequence, _)| *sequence > after).collect(),
            None => {
                let last: BTreeMap<String, (u64, &Stored)> =
                    all.map(|next| (format!("{:?}", next.1.message.address), next)).collect();
                last.into_values().collect()
            }
        };
        unread.sort_by_key(|(sequence, _)| *sequence);
        let end = unread.iter().position(|(sequence, _)| *sequence >= up_to).expect("it can be reached");
        unread.truncate(end + 1);
        let message = |&(sequence, stored): &(u64, &Stored)| {
            let kind = match stored.message.address {
                Address::State(_) => OutputKind::State,
                Address::Mark(lane) => OutputKind::Mark(lane),
                Address::Incident(_) => OutputKind::Incident,
                Address::Notice(..) | Address::Job(..) | Address::Refused(_) | Address::Fence(_) => OutputKind::Other,
            };
            OutputMessage { sequence, kind, body: stored.message.body.clone().into() }
        };
        (unread.iter().map(message).collect(), unread[end].0)
    }
}

fn is_read(address: &Address) -> bool {
    !matches!(address, Address::Notice(..) | Address::Job(..) | Address::Refused(_))
}

/// The incident a message tells of.
pub(crate) fn incident(stored: &Stored) -> IncidentBody {
    serde_json::from_slice(&stored.message.body).unwrap()
}

/// The mark a message is.
pub(crate) fn mark(stored: &Stored) -> Mark {
    serde_json::from_slice(&stored.message.body).unwrap()
}

//! JetStream, as far as the commit relies on it: an input log, and an output log that takes a batch whole or not at all.
//!
//! Nothing here knows what a message means.

use std::collections::{BTreeMap, BTreeSet};

use relink::contract::{Address, IncidentBody, Mark};
use relink::engine::{Dead, Delivery, Message};
use relink::link::{Policy, Timestamp};
use relink::store::{Changes, MemoryStore, Position, Put, Store};

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

/// A batch on its way, with the fences its lanes are guarded by.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) owner: u32,
    pub(crate) fences: BTreeMap<u16, u64>,
    pub(crate) messages: Vec<(u16, Message)>,
}

/// The batch was refused: its writer has been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fenced;

/// The three streams.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    pub(crate) input: Vec<Delivery>,
    pub(crate) output: Vec<Stored>,
    pub(crate) dead: Vec<Dead>,
    /// Batches of processes that are gone, still in the network.
    pub(crate) ghosts: Vec<Batch>,
    pub(crate) refused_batches: usize,
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

    pub(crate) fn last_sequence(&self) -> u64 {
        self.output.len() as u64
    }

    /// The next input of a lane behind `sequence`.
    pub(crate) fn next_input(&self, lane: u16, sequence: u64) -> Option<&Delivery> {
        self.input.iter().find(|delivery| delivery.lane == lane && delivery.sequence > sequence)
    }

    /// Writes a new fence on every lane.
    pub(crate) fn take_fences(&mut self, owner: u32, now: Timestamp) -> BTreeMap<u16, u64> {
        let take = |lane| {
            let id = format!("fence.{lane}.{owner}");
            let message = Message { address: Address::Fence(lane), id, at: now, body: Vec::new() };
            self.output.push(Stored { owner, lane, message });
            (lane, self.output.len() as u64)
        };
        (0..LANES).map(take).collect()
    }

    /// Stores a batch if the fence of every lane in it is still its writer's: the last sequence, or a refusal.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<u64, Fenced> {
        let lanes: BTreeSet<u16> = batch.messages.iter().map(|(lane, _)| *lane).collect();
        if lanes.iter().any(|lane| batch.fences.get(lane).copied() != self.fence(*lane)) {
            self.refused_batches += 1;
            return Err(Fenced);
        }
        let owner = batch.owner;
        self.output.extend(batch.messages.into_iter().map(|(lane, message)| Stored { owner, lane, message }));
        Ok(self.last_sequence())
    }

    fn fence(&self, lane: u16) -> Option<u64> {
        let last = self.output.iter().rposition(|stored| stored.message.address == Address::Fence(lane))?;
        Some(last as u64 + 1)
    }

    /// What a reader of states and marks gets: everything behind the store's position or, for an empty store, the last of each
    /// subject.
    fn unread(&self, position: Option<Position>) -> Vec<(u64, &Stored)> {
        let all = (1..).zip(&self.output);
        match position {
            Some(position) => all.filter(|(sequence, _)| *sequence > position.sequence).collect(),
            None => {
                let last: BTreeMap<String, (u64, &Stored)> =
                    all.map(|next| (format!("{:?}", next.1.message.address), next)).collect();
                let mut last: Vec<_> = last.into_values().collect();
                last.sort_by_key(|(sequence, _)| *sequence);
                last
            }
        }
    }

    /// The rule of `nats::replica`, without NATS. Stops early after `chunks_max` chunks, as a crash would.
    pub(crate) fn catch_up(&self, store: &MemoryStore, policy: &Policy, chunks_max: usize) {
        let unread = self.unread(store.position().unwrap());
        for chunk in unread.chunks(5).take(chunks_max) {
            let mut changes = Changes::default();
            for (sequence, stored) in chunk {
                match stored.message.address {
                    Address::State(_) => {
                        changes.puts.push(Put::of_state_message(&stored.message.body, policy).unwrap());
                    }
                    Address::Mark(lane) => changes.marks.push((lane, mark(stored))),
                    Address::Incident(_) => changes.incidents.push(incident(stored)),
                    Address::Notice(..) | Address::Job(..) | Address::Refused(_) | Address::Fence(_) => {}
                }
                changes.position = Some(Position { stream_created_ns: OUTPUT_CREATED_NS, sequence: *sequence });
            }
            store.apply(&changes).unwrap();
        }
    }
}

/// The incident a message tells of.
pub(crate) fn incident(stored: &Stored) -> IncidentBody {
    serde_json::from_slice(&stored.message.body).unwrap()
}

/// The mark a message is.
pub(crate) fn mark(stored: &Stored) -> Mark {
    serde_json::from_slice(&stored.message.body).unwrap()
}

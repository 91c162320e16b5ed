//! The input stream and the consumer of each partition.
//!
//! A consumer delivers each message to one of the waiting pull requests, of any reader, and counts its deliveries. A message without an
//! acknowledgement is delivered again.

use std::collections::{BTreeMap, BTreeSet};

use crate::contract::CommittedOffset;
use crate::engine::Delivery;
use crate::link::Timestamp;
use crate::node::{Delivered, ReaderId, StreamFacts};

pub(in crate::simulation) struct InputStream {
    created_ns: i64,
    /// The earlier creation times of this stream, which has been restored since.
    created_before_ns: Vec<i64>,
    last_sequence: u64,
    /// The time after which an unacknowledged message is delivered again (`ack_wait`).
    pub(in crate::simulation) ack_wait_ms: i64,
    /// The messages on the stream: their sequence, and their place in `ever`.
    messages: BTreeMap<u64, usize>,
    /// All messages that were ever stored, lost ones included.
    pub(in crate::simulation) ever: Vec<Delivery>,
    /// For each sequence, the places in `ever` of all messages that had it.
    by_sequence: BTreeMap<u64, Vec<usize>>,
    consumers: Vec<Consumer>,
}

/// The consumer of a partition.
#[derive(Default)]
struct Consumer {
    is_deleted: bool,
    /// The last sequence that was delivered for the first time.
    reached: u64,
    /// The number of deliveries.
    count: u64,
    /// The delivery time of each unacknowledged message.
    pending: BTreeMap<u64, i64>,
    pulls: Vec<Pull>,
}

/// A pull request of a reader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::simulation) struct Pull {
    pub(in crate::simulation) process: u32,
    pub(in crate::simulation) reader: ReaderId,
    /// The consumer's count when the reader inspected it.
    pub(in crate::simulation) base: u64,
    /// The next message that the stream had then.
    pub(in crate::simulation) first: Option<u64>,
}

impl InputStream {
    pub(super) fn new(partitions: u16, created_ns: i64, ack_wait_ms: i64) -> Self {
        let consumers = (0..partitions).map(|_| Consumer::default()).collect();
        Self {
            created_ns,
            created_before_ns: Vec::new(),
            last_sequence: 0,
            ack_wait_ms,
            messages: BTreeMap::new(),
            ever: Vec::new(),
            by_sequence: BTreeMap::new(),
            consumers,
        }
    }

    pub(in crate::simulation) fn facts(&self) -> StreamFacts {
        StreamFacts { created_ns: self.created_ns, last_sequence: self.last_sequence }
    }

    /// Stores a message; returns its place in `ever`.
    pub(in crate::simulation) fn publish(&mut self, mut delivery: Delivery, now_ns: i64) -> usize {
        self.last_sequence += 1;
        let place = self.ever.len();
        delivery.sequence = self.last_sequence;
        // No two messages have the same time, as on a busy server. If its clock is set back, a later message has an earlier time.
        delivery.stored_at_ns = now_ns + i64::try_from(place % 1_000_000).unwrap_or(0);
        self.messages.insert(self.last_sequence, place);
        self.by_sequence.entry(self.last_sequence).or_default().push(place);
        self.ever.push(delivery);
        place
    }

    pub(in crate::simulation) fn get(&self, sequence: u64) -> Option<&Delivery> {
        self.messages.get(&sequence).map(|place| &self.ever[*place])
    }

    /// The place of the message that had this sequence and was stored in this millisecond.
    pub(in crate::simulation) fn place_of(&self, sequence: u64, stored_at: Timestamp) -> Option<usize> {
        let places = self.by_sequence.get(&sequence)?;
        places.iter().copied().find(|place| self.ever[*place].stored_at() == stored_at)
    }

    /// The place of the message that had this sequence and was stored at this time.
    pub(in crate::simulation) fn place_at(&self, sequence: u64, stored_at_ns: i64) -> Option<usize> {
        let places = self.by_sequence.get(&sequence)?;
        places.iter().copied().find(|place| self.ever[*place].stored_at_ns == stored_at_ns)
    }

    /// The place of the message of a committed offset.
    pub(in crate::simulation) fn place_of_offset(&self, offset: &CommittedOffset) -> Option<usize> {
        self.place_at(offset.sequence, offset.stored_at_ns)
    }

    /// The places of the messages on the stream.
    pub(in crate::simulation) fn places(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.messages.values().copied()
    }

    /// The first message stored after a time.
    pub(in crate::simulation) fn first_after(&self, after_ns: i64) -> Option<u64> {
        let later = |(_, place): &(&u64, &usize)| self.ever[**place].stored_at_ns > after_ns;
        self.messages.iter().find(later).map(|(sequence, _)| *sequence)
    }

    pub(in crate::simulation) fn lose_tail(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((sequence, _)) = self.messages.pop_last() {
                self.last_sequence = sequence - 1;
            }
        }
        let last = self.last_sequence;
        for consumer in &mut self.consumers {
            consumer.reached = consumer.reached.min(last);
            consumer.pending.retain(|sequence, _| *sequence <= last);
        }
    }

    pub(in crate::simulation) fn recreate(&mut self, created_ns: i64) {
        (self.created_ns, self.last_sequence) = (created_ns, 0);
        self.created_before_ns.clear();
        self.messages.clear();
        self.consumers.iter_mut().for_each(|consumer| *consumer = Consumer::default());
    }

    /// Replaces the stream by its backup, which lacks the last `count` messages.
    pub(in crate::simulation) fn restore(&mut self, created_ns: i64, count: usize) {
        self.created_before_ns.push(std::mem::replace(&mut self.created_ns, created_ns));
        self.lose_tail(count);
        self.consumers.iter_mut().for_each(|consumer| *consumer = Consumer::default());
    }

    /// Whether the stream has, or had before it was restored, this creation time.
    pub(in crate::simulation) fn is_identity(&self, created_ns: i64) -> bool {
        self.created_ns == created_ns || self.created_before_ns.contains(&created_ns)
    }

    /// Removes the messages up to `up_to`, as `max_age` does.
    pub(in crate::simulation) fn age(&mut self, up_to: u64) {
        self.messages.retain(|sequence, _| *sequence > up_to);
    }

    fn consumer(&mut self, partition: u16) -> &mut Consumer {
        &mut self.consumers[usize::from(partition)]
    }

    pub(in crate::simulation) fn delete_consumer(&mut self, partition: u16) {
        *self.consumer(partition) = Consumer { is_deleted: true, ..Consumer::default() };
    }

    /// Creates a deleted consumer again.
    pub(in crate::simulation) fn make_consumer(&mut self, partition: u16) {
        self.consumer(partition).is_deleted = false;
    }

    /// Resets a consumer, so that it continues after `behind` and counts from 1 again.
    pub(in crate::simulation) fn reset(&mut self, partition: u16, behind: u64) -> Result<(), String> {
        let consumer = self.consumer(partition);
        if consumer.is_deleted {
            return Err("there is no such consumer".to_owned());
        }
        (consumer.reached, consumer.count) = (behind, 0);
        consumer.pending.clear();
        Ok(())
    }

    /// The last sequence that a consumer delivered, and its count.
    pub(in crate::simulation) fn consumer_facts(&mut self, partition: u16) -> Result<(u64, u64), String> {
        let consumer = self.consumer(partition);
        if consumer.is_deleted {
            Err("there is no such consumer".to_owned())
        } else {
            Ok((consumer.reached, consumer.count))
        }
    }

    /// The first message of a partition behind a sequence.
    pub(in crate::simulation) fn next_of(&self, partition: u16, behind: u64) -> Option<u64> {
        let mut later = self.messages.range(behind + 1..);
        later.find(|(_, place)| self.ever[**place].partition == partition).map(|(sequence, _)| *sequence)
    }

    /// The last message that a consumer has delivered, if it has no more to deliver; else the last one of the stream.
    pub(in crate::simulation) fn end_of(&self, partition: u16) -> Result<u64, String> {
        let consumer = &self.consumers[usize::from(partition)];
        if consumer.is_deleted {
            return Err("there is no such consumer".to_owned());
        }
        let mut behind = self.messages.range(consumer.reached + 1..);
        let has_more = behind.any(|(_, place)| self.ever[*place].partition == partition);
        Ok(if has_more { self.last_sequence } else { consumer.reached })
    }

    pub(in crate::simulation) fn pull(&mut self, partition: u16, pull: Pull) {
        self.consumer(partition).pulls.push(pull);
    }

    pub(in crate::simulation) fn end_pulls(&mut self, which: impl Fn(&Pull) -> bool) {
        self.consumers.iter_mut().for_each(|consumer| consumer.pulls.retain(|pull| !which(pull)));
    }

    pub(in crate::simulation) fn pulls(&self, partition: u16) -> usize {
        self.consumers[usize::from(partition)].pulls.len()
    }

    pub(in crate::simulation) fn has_pending(&self, partition: u16) -> bool {
        !self.consumers[usize::from(partition)].pending.is_empty()
    }

    pub(in crate::simulation) fn acknowledge(&mut self, partition: u16, sequence: u64) {
        self.consumer(partition).pending.retain(|pending, _| *pending > sequence);
    }

    /// Delivers the next message to the `nth` pull request, if both exist.
    pub(in crate::simulation) fn hand_out(
        &mut self,
        partition: u16,
        nth: usize,
        now_ms: i64,
    ) -> Option<(Pull, Delivered)> {
        let consumer = &mut self.consumers[usize::from(partition)];
        let pull = *consumer.pulls.get(nth)?;
        let overdue = |(sequence, at): (&u64, &i64)| (at + self.ack_wait_ms <= now_ms).then_some(*sequence);
        let again: BTreeSet<u64> = consumer.pending.iter().filter_map(overdue).collect();
        let again = again.into_iter().find(|sequence| self.messages.contains_key(sequence));
        let sequence = match again {
            Some(sequence) => sequence,
            None => {
                let ours = |(_, place): &(&u64, &usize)| self.ever[**place].partition == partition;
                let next = self.messages.range(consumer.reached + 1..).find(ours)?;
                consumer.reached = *next.0;
                consumer.reached
            }
        };
        consumer.count += 1;
        consumer.pending.insert(sequence, now_ms);
        let mut delivery = self.ever[self.messages[&sequence]].clone();
        delivery.receipt = format!("{partition} {sequence} {}", delivery.stored_at_ns);
        let delivered =
            Delivered { reader: pull.reader, nth: consumer.count.saturating_sub(pull.base), pending: None, delivery };
        Some((pull, delivered))
    }
}

//! The input stream, and the consumer of each partition.
//!
//! A consumer hands each message to one of the readers whose pulls wait, whoever they are, and counts what it hands out. What is not
//! acknowledged comes again.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Delivery;
use crate::link::Timestamp;
use crate::node::{Delivered, ReaderId, StreamFacts};

pub(in crate::simulation) struct InputStream {
    created_ns: i64,
    last_sequence: u64,
    /// After this a delivery that was not acknowledged comes again (`ack_wait`).
    pub(in crate::simulation) ack_wait_ms: i64,
    /// What is there: its place in `ever`.
    messages: BTreeMap<u64, usize>,
    /// Everything that was ever stored, also what was lost.
    pub(in crate::simulation) ever: Vec<Delivery>,
    /// The places in `ever` of everything that once had a sequence.
    by_sequence: BTreeMap<u64, Vec<usize>>,
    consumers: Vec<Consumer>,
}

/// The consumer of a partition.
#[derive(Default)]
struct Consumer {
    is_deleted: bool,
    /// The last sequence that it handed out for the first time.
    reached: u64,
    /// How often it handed something out.
    count: u64,
    /// When what is not acknowledged was handed out.
    pending: BTreeMap<u64, i64>,
    pulls: Vec<Pull>,
}

/// A reader that waits for messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::simulation) struct Pull {
    pub(in crate::simulation) process: u32,
    pub(in crate::simulation) reader: ReaderId,
    /// The consumer's count when the reader looked at it.
    pub(in crate::simulation) base: u64,
}

impl InputStream {
    pub(super) fn new(partitions: u16, created_ns: i64, ack_wait_ms: i64) -> Self {
        let consumers = (0..partitions).map(|_| Consumer::default()).collect();
        Self {
            created_ns,
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

    /// Stores a message; gives its place in `ever`.
    pub(in crate::simulation) fn publish(&mut self, mut delivery: Delivery, now_ns: i64) -> usize {
        self.last_sequence += 1;
        let place = self.ever.len();
        delivery.sequence = self.last_sequence;
        // No two messages have one time, as on a server that has something to do.
        delivery.stored_at_ns = self.ever.last().map_or(now_ns, |last| now_ns.max(last.stored_at_ns + 1));
        self.messages.insert(self.last_sequence, place);
        self.by_sequence.entry(self.last_sequence).or_default().push(place);
        self.ever.push(delivery);
        place
    }

    pub(in crate::simulation) fn get(&self, sequence: u64) -> Option<&Delivery> {
        self.messages.get(&sequence).map(|place| &self.ever[*place])
    }

    /// What once had this sequence and was stored in this millisecond.
    pub(in crate::simulation) fn place_of(&self, sequence: u64, stored_at: Timestamp) -> Option<usize> {
        let places = self.by_sequence.get(&sequence)?;
        places.iter().copied().find(|place| self.ever[*place].stored_at() == stored_at)
    }

    /// The places of what is there.
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

    pub(in crate::simulation) fn make_anew(&mut self, created_ns: i64) {
        (self.created_ns, self.last_sequence) = (created_ns, 0);
        self.messages.clear();
        self.consumers.iter_mut().for_each(|consumer| *consumer = Consumer::default());
    }

    /// What is there up to `sequence` has aged out.
    pub(in crate::simulation) fn age(&mut self, up_to: u64) {
        self.messages.retain(|sequence, _| *sequence > up_to);
    }

    fn consumer(&mut self, partition: u16) -> &mut Consumer {
        &mut self.consumers[usize::from(partition)]
    }

    pub(in crate::simulation) fn delete_consumer(&mut self, partition: u16) {
        *self.consumer(partition) = Consumer { is_deleted: true, ..Consumer::default() };
    }

    /// Makes a consumer that is deleted anew.
    pub(in crate::simulation) fn make_consumer(&mut self, partition: u16) {
        self.consumer(partition).is_deleted = false;
    }

    /// Puts a consumer behind a sequence.
    pub(in crate::simulation) fn reset(&mut self, partition: u16, behind: u64) -> Result<(), String> {
        let consumer = self.consumer(partition);
        if consumer.is_deleted {
            return Err("there is no such consumer".to_owned());
        }
        consumer.reached = behind;
        consumer.pending.clear();
        Ok(())
    }

    /// The last sequence that a consumer handed out, and its count.
    pub(in crate::simulation) fn consumer_facts(&mut self, partition: u16) -> Result<(u64, u64), String> {
        let consumer = self.consumer(partition);
        if consumer.is_deleted {
            Err("there is no such consumer".to_owned())
        } else {
            Ok((consumer.reached, consumer.count))
        }
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

    /// Hands the next message to the `nth` of the pulls that wait, if there are both.
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
        let delivered = Delivered { reader: pull.reader, nth: consumer.count.saturating_sub(pull.base), delivery };
        Some((pull, delivered))
    }
}

//! Readers: how a reader is attached to its consumer, and which deliveries it receives.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::jetstream::Pull;
use super::world::{Event, World};
use crate::node::{Delivered, Input, ReaderId, RequestId};

/// The number of messages that a consumer delivers at once.
const HANDED_OUT_MAX: usize = 6;

impl World {
    /// The first half of attaching a reader: the consumer is reset.
    pub(super) fn reset(&mut self, id: u32, reader: ReaderId, partition: u16, behind: u64) -> Vec<Input> {
        // A reader that was replaced meanwhile has been stopped.
        if !self.processes.get(&id).is_some_and(|process| process.is_reading(partition, reader)) {
            return Vec::new();
        }
        match self.jetstream.input.reset(partition, behind) {
            Ok(()) => {
                self.soon(Event::InspectConsumer { process: id, reader, partition, behind });
                Vec::new()
            }
            Err(problem) => vec![Input::ReaderFailed { reader, problem }],
        }
    }

    /// The second half: the reader inspects the consumer, which another reader may have used in between, and begins to pull.
    pub(super) fn inspect_consumer(&mut self, id: u32, reader: ReaderId, partition: u16, behind: u64) {
        let Some(process) = self.processes.get(&id).filter(|process| process.is_reading(partition, reader)) else {
            return;
        };
        let process = process.id;
        let facts = self.jetstream.input.consumer_facts(partition);
        let input = match facts {
            Ok((reached, _)) if reached > behind => {
                Input::ReaderFailed { reader, problem: format!("another process got message {reached}") }
            }
            Ok((_, base)) => {
                let after_ms = self.random.delay_ms(self.latency_ms);
                let arrives_at_ms = self.now_ms + after_ms;
                let created_ns = self.jetstream.input.facts().created_ns;
                let input = Input::Rewound { reader, created_ns, pending: None };
                self.later(after_ms, Event::Receive { process, input });
                self.arrives(process, partition, arrives_at_ms);
                let first = self.jetstream.input.next_of(partition, behind);
                self.soon(Event::Pull { partition, pull: Pull { process, reader, base, first } });
                return;
            }
            Err(problem) => Input::ReaderFailed { reader, problem },
        };
        self.soon(Event::Receive { process, input });
    }

    /// What waits for a process: in the journal of its host, and for its readers.
    pub(super) fn input_ends(&self, id: u32, request: RequestId, partitions: Vec<u16>) -> Input {
        let failed = |problem: String| Input::RequestFailed { request, problem };
        let now = self.now();
        let host = self.journals.host_of.get(&id).and_then(|host| self.journals.hosts.get(*host));
        let Some(until) = host.map_or(Some(now), |host| host.published_until(now)) else {
            return failed("the journal is being read".to_owned());
        };
        let waited_ms = u64::try_from(now.since(until).as_millis()).unwrap_or(u64::MAX);
        let end = |number| self.jetstream.input.end_of(number).map(|end| (number, end));
        match partitions.into_iter().map(end).collect() {
            Ok(ends) => Input::InputEnds { request, waited_ms, ends },
            Err(problem) => failed(problem),
        }
    }

    /// Records the arrival time of a reader's last message; a later message does not arrive before it.
    fn arrives(&mut self, id: u32, partition: u16, at_ms: i64) -> i64 {
        let reader = self.processes.get_mut(&id).and_then(|process| process.readers.get_mut(&partition));
        reader.map_or(at_ms, |(_, last_ms)| {
            *last_ms = at_ms.max(*last_ms);
            *last_ms
        })
    }

    /// A reader finds that another process has reset its consumer, which skips messages.
    fn end_moved_reader(&mut self, partition: u16, pull: Pull) {
        let Pull { process: id, reader, .. } = pull;
        self.jetstream.input.end_pulls(|other| *other == pull);
        if let Some(process) = self.processes.get_mut(&id).filter(|process| process.is_reading(partition, reader)) {
            process.readers.remove(&partition);
            let problem = "another process has reset the consumer".to_owned();
            self.soon(Event::Receive { process: id, input: Input::ReaderFailed { reader, problem } });
        }
    }

    /// A consumer delivers its messages to the waiting readers.
    pub(super) fn hand_out(&mut self, partition: u16) {
        if self.now_ms < self.server_up_at_ms {
            return;
        }
        let mut handed: BTreeMap<(u32, ReaderId), Vec<Delivered>> = BTreeMap::new();
        let mut is_all = false;
        for _ in 0..HANDED_OUT_MAX {
            let nth = self.random.below(self.jetstream.input.pulls(partition));
            let Some((pull, delivered)) = self.jetstream.input.hand_out(partition, nth, self.now_ms) else {
                is_all = true;
                break;
            };
            if self.fault_mix.occurs(Fault::DeliveryLost, &mut self.random) {
                self.counts.lost += 1;
                continue;
            }
            if delivered.nth == 1 && pull.first.is_some_and(|first| delivered.delivery.sequence > first) {
                self.end_moved_reader(partition, pull);
                continue;
            }
            handed.entry((pull.process, pull.reader)).or_default().push(delivered);
        }
        for ((process, reader), deliveries) in handed {
            if !self.processes.get(&process).is_some_and(|process| process.is_reading(partition, reader)) {
                self.counts.lost += 1;
                continue;
            }
            let at_ms = self.now_ms + self.random.delay_ms(self.latency_ms);
            let after_ms = self.arrives(process, partition, at_ms) - self.now_ms;
            self.later(after_ms, Event::Receive { process, input: Input::Delivered { deliveries } });
        }
        if !is_all {
            self.hand_out_later(partition, 0);
        } else if self.jetstream.input.has_pending(partition) && self.jetstream.input.pulls(partition) > 0 {
            self.hand_out_later(partition, self.jetstream.input.ack_wait_ms);
        }
    }
}

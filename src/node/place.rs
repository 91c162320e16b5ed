//! Where a partition goes on, and its reader.
//!
//! A consumer is put behind the committed offset whenever a reader starts: what JetStream remembers of acknowledgements is a hint. So
//! nothing is ever nak'd, and redelivery order does not matter.
//!
//! A consumer hands each message to one reader. A process that has been replaced and does not know it yet still has pulls waiting, and
//! a message that goes to it would be a hole here that later messages step over. The consumer counts its deliveries, so a hole shows.

use std::collections::BTreeMap;

use super::input::{Delivered, ReaderId, RequestId, StreamFacts};
use super::output::Output;
use super::partition::{Question, Reader, Stage};
use super::resume::{self, Place};
use super::{Node, Partition};
use crate::contract::Mark;
use crate::link::Timestamp;
use crate::store::Store;

/// Finding out where some partitions go on.
#[derive(Debug)]
pub(super) struct Placing {
    request: RequestId,
    /// Once it is known.
    input: Option<StreamFacts>,
    /// For each partition the sequence up to which it had been handled when this began; none if that is not known yet.
    behind: BTreeMap<u16, Option<u64>>,
    questions: Vec<Question>,
}

impl<S: Store + Clone> Node<S> {
    pub(super) fn begin_placing(&mut self) {
        if self.placing.is_some() {
            return;
        }
        let mut behind = BTreeMap::new();
        for (number, partition) in &mut self.partitions {
            if matches!(partition.stage, Stage::Unplaced) {
                partition.stage = Stage::Placing;
                behind.insert(*number, partition.behind);
            }
        }
        if behind.is_empty() {
            return;
        }
        let request = self.request();
        self.placing = Some(Placing { request, input: None, behind, questions: Vec::new() });
        self.outputs.push_back(Output::ReadInputFacts { request });
    }

    pub(super) fn input_facts(&mut self, now: Timestamp, request: RequestId, input: StreamFacts) {
        let Some(placing) = &mut self.placing else { return };
        if placing.request != request || placing.input.is_some() {
            return;
        }
        placing.input = Some(input);
        let is_held = self.partitions.values().any(Partition::is_held);
        if is_held && self.input_created_ns != Some(input.created_ns) {
            self.start_over(now, "the input stream was created anew");
            return;
        }
        self.input_created_ns = Some(input.created_ns);
        let numbers: Vec<u16> = placing.behind.keys().copied().collect();
        for number in numbers {
            let Some(partition) = self.partitions.get(&number) else { continue };
            let offset = partition.offset.clone();
            self.take_place(now, number, offset.as_ref(), resume::place(number, offset.as_ref(), input));
        }
        self.end_placing();
    }

    pub(super) fn input_looked_up(&mut self, now: Timestamp, request: RequestId, stored_at_ns: Option<i64>) {
        if let Some(Question { partition, offset, .. }) = self.take_question(request) {
            self.take_place(now, partition, Some(&offset), resume::looked_up(&offset, stored_at_ns));
            self.end_placing();
        }
    }

    pub(super) fn input_found(&mut self, now: Timestamp, request: RequestId, sequence: Option<u64>) {
        let Some(input) = self.placing.as_ref().and_then(|placing| placing.input) else { return };
        if let Some(Question { partition, offset, .. }) = self.take_question(request) {
            self.take_place(now, partition, Some(&offset), resume::found(partition, &offset, input, sequence));
            self.end_placing();
        }
    }

    fn take_question(&mut self, request: RequestId) -> Option<Question> {
        let questions = &mut self.placing.as_mut()?.questions;
        let index = questions.iter().position(|question| question.request == request)?;
        Some(questions.swap_remove(index))
    }

    /// Asks on, or lets a reader begin.
    fn take_place(&mut self, now: Timestamp, number: u16, offset: Option<&Mark>, place: Place) {
        let Some(placing) = &self.placing else { return };
        let was_behind = placing.behind.get(&number).copied().flatten();
        let is_placing = |partition: &Partition| matches!(partition.stage, Stage::Placing);
        if !self.partitions.get(&number).is_some_and(is_placing) {
            return;
        }
        let (behind, note) = match (place, offset) {
            (Place::Behind(behind, note), _) => (behind, note),
            (Place::LookUp { sequence }, Some(offset)) => {
                let request = self.ask(number, offset);
                self.outputs.push_back(Output::LookUpInput { request, sequence });
                return;
            }
            (Place::Find { after_ns }, Some(offset)) => {
                let request = self.ask(number, offset);
                self.outputs.push_back(Output::FindInput { request, after_ns });
                return;
            }
            (Place::LookUp { .. } | Place::Find { .. }, None) => {
                unreachable!("only an offset has a message to ask for")
            }
        };
        if let Some(note) = note {
            self.note(note);
        }
        // What is under way was planned behind an offset that the input stream no longer has.
        if was_behind.is_some_and(|was_behind| was_behind != behind) {
            self.start_over(now, "the input stream lost its tail");
            return;
        }
        let id = ReaderId(self.next_id());
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if partition.behind.is_none() {
            partition.behind = Some(behind);
            // The engine does not know of the partition yet.
            self.is_engine_stale = true;
        }
        let handled_at_ns =
            offset.filter(|offset| offset.sequence == behind).map_or(i64::MAX, |offset| offset.stored_at_ns);
        let queued = partition.newest.filter(|(sequence, _)| *sequence > behind);
        partition.newest = Some(queued.unwrap_or((behind, handled_at_ns)));
        partition.stage = Stage::Rewinding(Reader { id, next: 1 });
        self.outputs.push_back(Output::Rewind { reader: id, partition: number, behind });
    }

    fn ask(&mut self, partition: u16, offset: &Mark) -> RequestId {
        let request = self.request();
        if let Some(placing) = &mut self.placing {
            placing.questions.push(Question { request, partition, offset: offset.clone() });
        }
        request
    }

    fn end_placing(&mut self) {
        self.placing.take_if(|placing| placing.input.is_some() && placing.questions.is_empty());
    }

    /// Whether the failed request was one of these.
    pub(super) fn placing_failed(&mut self, now: Timestamp, request: RequestId, problem: &str) -> bool {
        let Some(placing) = &self.placing else { return false };
        if placing.request != request && !placing.questions.iter().any(|question| question.request == request) {
            return false;
        }
        self.placing = None;
        for partition in self.partitions.values_mut().filter(|partition| matches!(partition.stage, Stage::Placing)) {
            partition.stage = Stage::Unplaced;
        }
        self.fail(now, problem);
        true
    }

    pub(super) fn rewound(&mut self, now: Timestamp, id: ReaderId, created_ns: i64) {
        let input_created_ns = self.input_created_ns;
        let Some(partition) = self.partition_of(id) else { return };
        // It is another stream than the one that was asked about.
        if input_created_ns != Some(created_ns) {
            self.start_over(now, "the input stream was created anew");
            return;
        }
        partition.stage = match std::mem::replace(&mut partition.stage, Stage::Suspect) {
            Stage::Rewinding(reader) => Stage::Reading(reader),
            other => other,
        };
    }

    pub(super) fn delivered(&mut self, now: Timestamp, deliveries: Vec<Delivered>) {
        for Delivered { reader: id, nth, delivery } in deliveries {
            let number = delivery.lane;
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            let Some(reader) = partition.reader().filter(|reader| reader.id == id) else { continue };
            if nth != reader.next {
                let problem = format!(
                    "partition {number}: another process reads it: delivery {nth} came after {}",
                    reader.next - 1
                );
                self.outputs.push_back(Output::StopReader { partition: number });
                self.reader_failed(now, id, &problem);
                continue;
            }
            reader.next += 1;
            let (sequence, stored_at_ns) = partition.newest.unwrap_or((0, i64::MAX));
            if delivery.sequence > sequence {
                partition.newest = Some((delivery.sequence, delivery.stored_at_ns));
            } else if delivery.stored_at_ns > stored_at_ns {
                // A repeat is as old as it was. This one is newer than a message behind it: its sequence was given out twice.
                self.start_over(now, "the input stream gives sequences out a second time");
                return;
            }
            self.queue.push_back(delivery);
        }
    }

    /// The reader has ended, and perhaps because another process has taken the partition.
    pub(super) fn reader_failed(&mut self, now: Timestamp, id: ReaderId, problem: &str) {
        if let Some(partition) = self.partition_of(id) {
            partition.stage = Stage::Suspect;
            self.fail(now, problem);
        }
    }

    fn partition_of(&mut self, id: ReaderId) -> Option<&mut Partition> {
        self.partitions.values_mut().find(|partition| partition.is_read_by(id))
    }
}

//! The resume point of a partition, and its reader.
//!
//! Whenever a reader starts, the driver resets the partition consumer to the message after the committed offset. JetStream's own memory of
//! acknowledgements is only a hint. So the node never sends a negative acknowledgement, and the order of redeliveries does not matter.
//!
//! A consumer delivers each message to one client. A process that was replaced, and does not know it yet, may still have an open pull and
//! get a message; then that message is missing here. The consumer counts its deliveries, so the node notices the missing number.

use std::collections::BTreeMap;

use super::input::{Delivered, ReaderId, RequestId, StreamFacts};
use super::output::{Note, Output};
use super::partition::{Question, Reader, Stage};
use super::resume::{self, Step};
use super::{Node, Partition};
use crate::contract::CommittedOffset;
use crate::link::Timestamp;
use crate::store::Store;

/// The open search for the resume points of some partitions.
#[derive(Debug)]
pub(super) struct Resuming {
    request: RequestId,
    /// The facts of the input stream; `None` until they are known.
    input: Option<StreamFacts>,
    /// For each partition, its last handled sequence at the beginning of the search; `None` if it was unknown.
    handled: BTreeMap<u16, Option<u64>>,
    questions: Vec<Question>,
}

impl<S: Store + Clone> Node<S> {
    pub(super) fn begin_resuming(&mut self) {
        if self.resuming.is_some() {
            return;
        }
        let mut handled = BTreeMap::new();
        for (number, partition) in &mut self.partitions {
            if matches!(partition.stage, Stage::Acquired) {
                partition.stage = Stage::Resuming;
                handled.insert(*number, partition.handled);
            }
        }
        if handled.is_empty() {
            return;
        }
        let request = self.request();
        self.resuming = Some(Resuming { request, input: None, handled, questions: Vec::new() });
        self.outputs.push_back(Output::ReadInputFacts { request });
    }

    pub(super) fn input_facts(&mut self, now: Timestamp, request: RequestId, input: StreamFacts) {
        let Some(resuming) = &mut self.resuming else { return };
        if resuming.request != request || resuming.input.is_some() {
            return;
        }
        resuming.input = Some(input);
        let is_owned = self.partitions.values().any(Partition::is_owned);
        if is_owned && self.input_created_ns != Some(input.created_ns) {
            self.start_over(now, "the input stream was created again");
            return;
        }
        self.input_created_ns = Some(input.created_ns);
        let numbers: Vec<u16> = resuming.handled.keys().copied().collect();
        for number in numbers {
            let Some(partition) = self.partitions.get(&number) else { continue };
            let offset = partition.offset.clone();
            self.follow(now, number, offset.as_ref(), resume::first_step(offset.as_ref(), input));
        }
        self.end_resuming();
    }

    pub(super) fn input_looked_up(&mut self, now: Timestamp, request: RequestId, stored_at_ns: Option<i64>) {
        let Some(input) = self.resuming.as_ref().and_then(|resuming| resuming.input) else { return };
        if let Some(Question { partition, offset, older, .. }) = self.take_question(request) {
            let step = match older {
                Some(sequence) => resume::looked_up_older(partition, &offset, input, sequence, stored_at_ns),
                None => resume::looked_up(partition, &offset, input, stored_at_ns),
            };
            self.follow(now, partition, Some(&offset), step);
            self.end_resuming();
        }
    }

    pub(super) fn input_found(&mut self, now: Timestamp, request: RequestId, sequence: Option<u64>) {
        let Some(input) = self.resuming.as_ref().and_then(|resuming| resuming.input) else { return };
        if let Some(Question { partition, offset, .. }) = self.take_question(request) {
            self.follow(now, partition, Some(&offset), resume::found(partition, &offset, input, sequence));
            self.end_resuming();
        }
    }

    fn take_question(&mut self, request: RequestId) -> Option<Question> {
        let questions = &mut self.resuming.as_mut()?.questions;
        let index = questions.iter().position(|question| question.request == request)?;
        Some(questions.swap_remove(index))
    }

    /// Performs a step: asks the next question about the input stream, or starts the reader.
    fn follow(&mut self, now: Timestamp, number: u16, offset: Option<&CommittedOffset>, step: Step) {
        let Some(resuming) = &self.resuming else { return };
        let handled_before = resuming.handled.get(&number).copied().flatten();
        let is_resuming = |partition: &Partition| matches!(partition.stage, Stage::Resuming);
        if !self.partitions.get(&number).is_some_and(is_resuming) {
            return;
        }
        let (after, note) = match (step, offset) {
            (Step::ResumeAfter(after, note), _) => (after, note),
            (Step::LookUp { sequence }, Some(offset)) => {
                let request = self.ask(number, offset, None);
                self.outputs.push_back(Output::LookUpInput { request, sequence });
                return;
            }
            (Step::LookUpOlder { sequence }, Some(offset)) => {
                let request = self.ask(number, offset, Some(sequence));
                self.outputs.push_back(Output::LookUpInput { request, sequence });
                return;
            }
            (Step::Find { after_ns }, Some(offset)) => {
                let request = self.ask(number, offset, None);
                self.outputs.push_back(Output::FindInput { request, after_ns });
                return;
            }
            (Step::LookUp { .. } | Step::LookUpOlder { .. } | Step::Find { .. }, None) => {
                unreachable!("a look-up or a search needs a committed offset")
            }
        };
        if let Some(note) = note {
            self.note(note);
        }
        // Open plans start at an offset that the input stream no longer has.
        if handled_before.is_some_and(|handled_before| handled_before != after) {
            self.start_over(now, "the input stream lost its last messages");
            return;
        }
        let id = ReaderId(self.next_id());
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if partition.handled.is_none() {
            partition.handled = Some(after);
            // The engine does not know the partition yet.
            self.is_engine_stale = true;
        }
        // Without the time of the last handled message, no delivery counts as newer than it.
        let handled_at_ns =
            offset.filter(|offset| offset.sequence == after).map_or(i64::MAX, |offset| offset.stored_at_ns);
        let queued = partition.newest.filter(|(sequence, _)| *sequence > after);
        partition.newest = Some(queued.unwrap_or((after, handled_at_ns)));
        partition.stage = Stage::Rewinding(Reader::new(id));
        self.outputs.push_back(Output::Rewind { reader: id, partition: number, behind: after });
    }

    fn ask(&mut self, partition: u16, offset: &CommittedOffset, older: Option<u64>) -> RequestId {
        let request = self.request();
        if let Some(resuming) = &mut self.resuming {
            resuming.questions.push(Question { request, partition, offset: offset.clone(), older });
        }
        request
    }

    fn end_resuming(&mut self) {
        self.resuming.take_if(|resuming| resuming.input.is_some() && resuming.questions.is_empty());
    }

    /// Handles a failed request that this file has made; returns `false` for any other request.
    pub(super) fn resuming_failed(&mut self, now: Timestamp, request: RequestId, problem: &str) -> bool {
        let Some(resuming) = &self.resuming else { return false };
        if resuming.request != request && !resuming.questions.iter().any(|question| question.request == request) {
            return false;
        }
        self.resuming = None;
        for partition in self.partitions.values_mut().filter(|partition| matches!(partition.stage, Stage::Resuming)) {
            partition.stage = Stage::Acquired;
        }
        self.fail(now, problem);
        true
    }

    pub(super) fn rewound(&mut self, now: Timestamp, id: ReaderId, created_ns: i64, pending: Option<u64>) {
        let input_created_ns = self.input_created_ns;
        let Some(partition) = self.partition_of(id) else { return };
        // The stream of the consumer is not the one whose facts were read.
        if input_created_ns != Some(created_ns) {
            self.start_over(now, "the input stream was created again");
            return;
        }
        partition.stage = match std::mem::replace(&mut partition.stage, Stage::Suspect) {
            // The next delivery takes one message away, as each delivery after it.
            Stage::Rewinding(reader) => Stage::Reading(Reader { pending, ..reader }),
            other => other,
        };
    }

    pub(super) fn delivered(&mut self, now: Timestamp, deliveries: Vec<Delivered>) {
        for Delivered { reader: id, nth, pending, delivery } in deliveries {
            let number = delivery.partition;
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            let Some(reader) = partition.reader().filter(|reader| reader.id == id) else { continue };
            if nth != reader.next {
                let problem = format!(
                    "partition {number}: another client got a message: delivery {nth} came after {}",
                    reader.next - 1
                );
                self.outputs.push_back(Output::StopReader { partition: number });
                self.reader_failed(now, id, &problem);
                continue;
            }
            reader.next += 1;
            let removed_count = reader.count_removed(pending);
            let (sequence, stored_at_ns) = partition.newest.unwrap_or((0, i64::MAX));
            if delivery.sequence > sequence {
                partition.newest = Some((delivery.sequence, delivery.stored_at_ns));
            } else if delivery.stored_at_ns > stored_at_ns {
                // A repeat has the time of the first delivery. This message is newer than one with a higher sequence, so the stream has
                // assigned its sequence a second time.
                self.start_over(now, "the input stream assigned sequences a second time");
                return;
            }
            if removed_count > 0 {
                self.note(Note::InputsRemoved {
                    partition: number,
                    at_least: removed_count,
                    before: delivery.sequence,
                });
            }
            self.queue.push_back(delivery);
            self.complete.queued();
        }
    }

    /// The reader has ended. The reason may be that another node has taken the partition, so the fences are read next.
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

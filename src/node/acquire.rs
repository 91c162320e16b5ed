//! How partitions become ours: fences, and catching the store up to them.
//!
//! Partitions that are wanted at the same time are acquired together, while others go on. A fence that was ours before is taken again only
//! from where we left it, so that two nodes never take a partition from each other in turn.

use std::collections::{BTreeMap, BTreeSet};

use super::catch_up::{self, Coverage};
use super::commit::Applying;
use super::input::{FenceFacts, OutputMessage, RequestId, StreamFacts};
use super::output::{End, FenceToTake, Note, Output, PartitionEnd};
use super::partition::{Partition, Stage};
use super::{Node, fence_message};
use crate::link::Timestamp;
use crate::store::{Store, StoreError};

/// So many runs of own commits with gaps between them are remembered; then the gaps are read.
const ISLANDS_MAX: usize = 256;

/// Taking some partitions.
#[derive(Debug)]
pub(super) struct Acquisition {
    step: Step,
    /// What has been read for it.
    states_count: u64,
    rebuilt: bool,
}

#[derive(Debug)]
enum Step {
    ReadingFacts(RequestId),
    RestartingStore {
        request: RequestId,
        store_sequence: u64,
        stream_is_another: bool,
        output: StreamFacts,
    },
    TakingFences {
        request: RequestId,
        partitions: BTreeSet<u16>,
        last_sequence: u64,
    },
    /// Is the store still a part of the output stream? Asked behind the fences, before which nothing can be added any more.
    ComparingStore {
        request: RequestId,
        target: u64,
    },
    CatchingUp {
        target: u64,
    },
}

/// Reading the output stream.
#[derive(Debug)]
pub(super) struct Reading {
    request: RequestId,
    up_to: u64,
}

impl<S: Store + Clone> Node<S> {
    /// Asks whether our fences are still ours, if there is a doubt.
    pub(super) fn begin_check(&mut self) {
        let is_suspect = self.partitions.values().any(|partition| matches!(partition.stage, Stage::Suspect));
        if self.checking.is_some() || !(is_suspect || self.must_check) {
            return;
        }
        let known = self.partitions.iter().filter(|(_, partition)| partition.fence.is_some());
        let partitions: Vec<u16> = known.map(|(partition, _)| *partition).collect();
        let request = self.request();
        self.checking = Some((request, partitions.clone()));
        self.outputs.push_back(Output::ReadFences { request, partitions });
    }

    pub(super) fn fences_read(&mut self, now: Timestamp, request: RequestId, fences: &BTreeMap<u16, FenceFacts>) {
        let Some((_, asked)) = self.checking.take_if(|(asked, _)| *asked == request) else { return };
        self.must_check = false;
        let was_refused = std::mem::take(&mut self.was_refused);
        let (mut moved, mut taken) = (false, false);
        for number in asked {
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            // Its fence is being written at this moment: the answer may be of before or after.
            if matches!(partition.stage, Stage::Acquiring) {
                continue;
            }
            let found = match fences.get(&number) {
                Some(found) if found.owner != self.options.owner => {
                    self.end_partition(number, PartitionEnd::Taken);
                    taken = true;
                    continue;
                }
                Some(found) => found.sequence,
                None => 0,
            };
            if partition.fence != Some(found) {
                // A fence of ours that nobody knew to be stored, or the output stream has been made anew.
                partition.fence = Some(found);
                moved |= partition.is_held();
            } else if matches!(partition.stage, Stage::Suspect) {
                partition.stage = Stage::Unplaced;
            }
        }
        if taken && self.partitions.is_empty() {
            self.begin_ending(End::Fenced);
        } else if moved {
            self.start_over(now, "a fence of ours is not where it was");
        } else if was_refused && !taken {
            self.start_over(now, "the output stream has lost our last commit");
        }
    }

    pub(super) fn begin_acquisition(&mut self) {
        let is_wanted = self.partitions.values().any(|partition| matches!(partition.stage, Stage::Wanted));
        let is_busy = self.acquisition.is_some() || self.checking.is_some() || self.must_check;
        if !is_wanted || is_busy || !self.applying.is_empty() {
            return;
        }
        for partition in self.partitions.values_mut().filter(|partition| matches!(partition.stage, Stage::Wanted)) {
            partition.stage = Stage::Acquiring;
        }
        let request = self.request();
        self.acquisition = Some(Acquisition { step: Step::ReadingFacts(request), states_count: 0, rebuilt: false });
        self.outputs.push_back(Output::ReadOutputFacts { request });
    }

    pub(super) fn output_facts(
        &mut self,
        now: Timestamp,
        request: RequestId,
        output: StreamFacts,
    ) -> Result<(), StoreError> {
        let Some(acquisition) = &mut self.acquisition else { return Ok(()) };
        if !matches!(acquisition.step, Step::ReadingFacts(asked) if asked == request) {
            return Ok(());
        }
        let position = self.store.position()?;
        let is_another = position.as_ref().is_some_and(|position| position.stream_created_ns != output.created_ns);
        let known = self.coverage.as_ref().map_or(0, Coverage::last);
        let store_sequence = position.as_ref().map_or(0, |position| position.sequence.max(known));
        let is_ahead = position.is_some() && (self.store_is_ahead || store_sequence > output.last_sequence);
        if !is_another && !is_ahead {
            if !self.partitions.values().any(Partition::is_held) {
                self.coverage = Some(Coverage::at(output.created_ns, position));
            }
            self.take_fences(now, output);
            return Ok(());
        }
        if self.partitions.values().any(Partition::is_held) || !self.applying.is_empty() {
            self.start_over(now, "the output stream lost its tail or was created anew");
            return Ok(());
        }
        let request = self.request();
        let step = Step::RestartingStore { request, store_sequence, stream_is_another: is_another, output };
        self.acquisition = Some(Acquisition { step, states_count: 0, rebuilt: false });
        self.outputs.push_back(Output::RestartStore { request });
        Ok(())
    }

    pub(super) fn store_restarted(&mut self, now: Timestamp, request: RequestId, kept_at: Option<String>) {
        let step = self.acquisition.as_ref().map(|acquisition| &acquisition.step);
        let Some(&Step::RestartingStore { request: asked, store_sequence, stream_is_another, output }) = step else {
            return;
        };
        if asked != request {
            return;
        }
        self.store_is_ahead = false;
        self.coverage = Some(Coverage::at(output.created_ns, None));
        let stream_last_sequence = output.last_sequence;
        self.note(Note::StoreRestarted { store_sequence, stream_last_sequence, stream_is_another, kept_at });
        self.take_fences(now, output);
    }

    fn take_fences(&mut self, now: Timestamp, output: StreamFacts) {
        let request = self.request();
        let acquired = self.partitions.iter().filter(|(_, partition)| matches!(partition.stage, Stage::Acquiring));
        let owner = &self.options.owner;
        let fences: Vec<FenceToTake> = acquired
            .map(|(&partition, Partition { fence, .. })| FenceToTake {
                partition,
                expects: *fence,
                message: fence_message(partition, owner, now),
            })
            .collect();
        // All of them have been lost in the meantime.
        if fences.is_empty() {
            self.acquisition = None;
            return;
        }
        let partitions = fences.iter().map(|fence| fence.partition).collect();
        let step = Step::TakingFences { request, partitions, last_sequence: output.last_sequence };
        self.acquisition = Some(Acquisition { step, states_count: 0, rebuilt: false });
        // Commits of partitions that are held already go on from the last one of theirs.
        let is_first = !self.partitions.values().any(Partition::is_held);
        let closing = is_first.then(|| self.closing_message(now));
        self.outputs.push_back(Output::TakeFences { request, fences, closing });
    }

    pub(super) fn fences_taken(
        &mut self,
        now: Timestamp,
        request: RequestId,
        fences: &BTreeMap<u16, u64>,
        closing: Option<u64>,
    ) {
        let Some(acquisition) = &mut self.acquisition else { return };
        let Step::TakingFences { request: asked, partitions, last_sequence } = &acquisition.step else { return };
        if *asked != request {
            return;
        }
        let (partitions, last_sequence) = (partitions.clone(), *last_sequence);
        let mut target = 0;
        for number in partitions {
            let sequence = fences.get(&number).copied().unwrap_or(0);
            // A fence that is not behind what was there is on another stream.
            if sequence <= last_sequence {
                self.acquisition_failed(now, "the output stream was created anew");
                return;
            }
            if let Some(partition) = self.partitions.get_mut(&number) {
                partition.fence = Some(sequence);
            }
            target = target.max(sequence);
        }
        if closing.is_some() {
            self.last_closing = closing;
        }
        match self.coverage.as_ref().and_then(Coverage::witness).map(|witness| witness.sequence) {
            Some(sequence) => {
                let request = self.request();
                let step = Step::ComparingStore { request, target };
                self.acquisition = Some(Acquisition { step, states_count: 0, rebuilt: false });
                self.outputs.push_back(Output::LookUpOutput { request, sequence });
            }
            None => self.catch_up(target),
        }
    }

    pub(super) fn output_looked_up(&mut self, now: Timestamp, request: RequestId, owner: Option<&str>) {
        let Some(acquisition) = &self.acquisition else { return };
        let Step::ComparingStore { request: asked, target } = acquisition.step else { return };
        if asked != request {
            return;
        }
        let witness = self.coverage.as_ref().and_then(Coverage::witness);
        if witness.is_none_or(|witness| Some(witness.owner.as_str()) == owner) {
            self.catch_up(target);
        } else {
            self.store_is_ahead = true;
            self.start_over(now, "the output stream has lost messages that the store has");
        }
    }

    fn catch_up(&mut self, target: u64) {
        let rebuilt = self.coverage.as_ref().is_some_and(|known| known.reached().is_none());
        self.acquisition = Some(Acquisition { step: Step::CatchingUp { target }, states_count: 0, rebuilt });
        self.read_up_to(target);
    }

    pub(super) fn fences_refused(&mut self, now: Timestamp, request: RequestId) {
        let step = self.acquisition.as_ref().map(|acquisition| &acquisition.step);
        if matches!(step, Some(Step::TakingFences { request: asked, .. }) if *asked == request) {
            self.must_check = true;
            self.acquisition_failed(now, "a fence of ours is not where it was");
        }
    }

    fn read_up_to(&mut self, up_to: u64) {
        let Some(known) = &self.coverage else { return };
        let after = known.reached();
        if self.reading.is_none() && after.is_none_or(|reached| reached < up_to) {
            let request = self.request();
            self.reading = Some(Reading { request, up_to });
            self.outputs.push_back(Output::ReadOutput { request, after, up_to });
        }
    }

    /// # Errors
    /// The record of a newer relink, and what is wrong with it.
    pub(super) fn output_read(
        &mut self,
        request: RequestId,
        messages: &[OutputMessage],
        reached: u64,
    ) -> Result<(), String> {
        let Some(Reading { up_to, .. }) = self.reading.as_ref().filter(|reading| reading.request == request) else {
            return Ok(());
        };
        let (up_to, is_done) = (*up_to, reached >= *up_to);
        let Some(known) = &mut self.coverage else { return Ok(()) };
        let mut read = catch_up::read(messages, known, &self.options.policy).map_err(|error| error.to_string())?;
        known.read_to(reached);
        // It reads up to a fence of ours, or up to our last commit.
        if is_done && known.witness().is_none_or(|witness| witness.sequence < up_to) {
            known.witnessed(up_to, &self.options.owner);
        }
        read.changes.position = known.position();
        for (sequence, problem) in read.skipped {
            self.note(Note::Skipped { sequence, problem });
        }
        if let Some(acquisition) = &mut self.acquisition {
            acquisition.states_count += read.states_count;
        }
        if is_done {
            self.reading = None;
        }
        let request = self.request();
        self.applying.push_back(Applying::read(request));
        self.outputs.push_back(Output::Apply { request, changes: read.changes });
        Ok(())
    }

    /// Goes on once the store has come to the fences.
    pub(super) fn finish_catching_up(&mut self) -> Result<(), StoreError> {
        let Some(Acquisition { step: Step::CatchingUp { target }, states_count, rebuilt }) = self.acquisition else {
            return Ok(());
        };
        let reached = self.coverage.as_ref().and_then(Coverage::reached);
        if reached.is_none_or(|reached| reached < target) {
            // What was being read before may have ended short of these fences.
            self.read_up_to(target);
            return Ok(());
        }
        if !self.applying.is_empty() {
            return Ok(());
        }
        let mut marks = self.store.marks()?;
        for (number, partition) in &mut self.partitions {
            if matches!(partition.stage, Stage::Acquiring) && partition.fence.is_some_and(|fence| fence <= target) {
                (partition.offset, partition.behind) = (marks.remove(number), None);
                partition.stage = Stage::Unplaced;
            }
        }
        self.acquisition = None;
        self.note(Note::CaughtUp { states_count, rebuilt });
        Ok(())
    }

    /// Reads what other nodes wrote between our commits, before it is too much to remember.
    pub(super) fn fill_gaps(&mut self) {
        let Some(known) = &self.coverage else { return };
        if known.islands_count() >= ISLANDS_MAX {
            self.read_up_to(known.last());
        }
    }

    fn acquisition_failed(&mut self, now: Timestamp, problem: &str) {
        self.acquisition = None;
        for partition in self.partitions.values_mut().filter(|partition| matches!(partition.stage, Stage::Acquiring)) {
            partition.start_over();
        }
        self.fail(now, problem);
    }

    /// Whether the failed request was one of these.
    pub(super) fn acquiring_failed(&mut self, now: Timestamp, request: RequestId, problem: &str) -> bool {
        if self.checking.take_if(|(asked, _)| *asked == request).is_some() {
            self.fail(now, problem);
            return true;
        }
        let is_reading = self.reading.take_if(|reading| reading.request == request).is_some();
        let step = self.acquisition.as_ref().map(|acquisition| &acquisition.step);
        let is_step = match step {
            Some(Step::ReadingFacts(asked)) => *asked == request,
            Some(
                Step::RestartingStore { request: asked, .. }
                | Step::TakingFences { request: asked, .. }
                | Step::ComparingStore { request: asked, .. },
            ) => *asked == request,
            Some(Step::CatchingUp { .. }) => is_reading,
            None => false,
        };
        if is_step {
            self.acquisition_failed(now, problem);
        } else if is_reading {
            self.fail(now, problem);
        }
        is_step || is_reading
    }
}

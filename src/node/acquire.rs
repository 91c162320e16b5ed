//! Acquiring partitions: the node takes their fences, and catches up the store to these fences.
//!
//! Partitions that are assigned at the same time are acquired together; the other partitions go on meanwhile. The node takes a fence of its
//! own again only if it is still the last fence of its partition, so that two nodes never take a partition from each other in turn.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::catch_up::{self, Coverage};
use super::commit::Applying;
use super::input::{FenceFacts, OutputMessage, RequestId, StreamFacts};
use super::lost_states::{self, Expected};
use super::messages::fence_message;
use super::output::{End, FenceToTake, Note, Output, PartitionEnd};
use super::partition::{Partition, Stage};
use crate::link::Timestamp;
use crate::store::{Changes, Position, Store, StoreError};

/// The most runs of own commits in [`Coverage`]. When there are more, the node reads the gaps between them.
const RUNS_MAX: usize = 256;

/// The acquisition of some partitions.
#[derive(Debug)]
pub(super) struct Acquisition {
    step: Step,
    /// The number of states that have been read for it.
    states_count: u64,
    /// Whether the store was empty at the beginning.
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
    /// Looks up whether the output stream still has the messages that the store has. It comes after the fences, because from then on the
    /// server refuses every earlier commit for these partitions.
    ComparingStore {
        request: RequestId,
        target: u64,
    },
    CatchingUp {
        target: u64,
    },
}

/// An open read of the output stream.
#[derive(Debug)]
pub(super) struct Reading {
    request: RequestId,
    up_to: u64,
}

impl<S: Store + Clone> Node<S> {
    /// Reads the fences of all partitions, if another node may have taken one.
    pub(super) fn begin_check(&mut self) {
        let is_suspect = self.partitions.values().any(|partition| matches!(partition.stage, Stage::Suspect));
        if self.fence_check.is_some() || !(is_suspect || self.must_check_fences) {
            return;
        }
        let known = self.partitions.iter().filter(|(_, partition)| partition.fence.is_some());
        let partitions: Vec<u16> = known.map(|(partition, _)| *partition).collect();
        let request = self.request();
        self.fence_check = Some((request, partitions.clone()));
        self.outputs.push_back(Output::ReadFences { request, partitions });
    }

    pub(super) fn fences_read(&mut self, now: Timestamp, request: RequestId, fences: &BTreeMap<u16, FenceFacts>) {
        let Some((_, asked)) = self.fence_check.take_if(|(asked, _)| *asked == request) else { return };
        self.must_check_fences = false;
        let was_refused = std::mem::take(&mut self.was_refused);
        let (mut is_moved, mut is_taken) = (false, false);
        for number in asked {
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            // The node is taking this fence now, so the answer may show the old fence or the new one.
            if matches!(partition.stage, Stage::Acquiring) {
                continue;
            }
            let found = match fences.get(&number) {
                Some(found) if !self.options.is_ours(&found.owner) => {
                    self.end_partition(number, PartitionEnd::Taken);
                    is_taken = true;
                    continue;
                }
                Some(found) => found.sequence,
                None => 0,
            };
            if partition.fence != Some(found) {
                // Our fence was stored although its answer was lost, or the output stream was created again.
                partition.fence = Some(found);
                is_moved |= partition.is_owned();
            } else if matches!(partition.stage, Stage::Suspect) {
                partition.stage = Stage::Acquired;
            }
        }
        if is_taken && self.partitions.is_empty() {
            self.begin_ending(End::Fenced);
        } else if is_moved {
            self.start_over(now, "the last fence of a partition has another sequence than expected");
        } else if was_refused && !is_taken {
            self.start_over(now, "the output stream has lost our last commit");
        }
    }

    pub(super) fn begin_acquisition(&mut self) {
        let is_assigned = self.partitions.values().any(|partition| matches!(partition.stage, Stage::Assigned));
        let is_busy = self.acquisition.is_some() || self.fence_check.is_some() || self.must_check_fences;
        if !is_assigned || is_busy || !self.applying.is_empty() {
            return;
        }
        for partition in self.partitions.values_mut().filter(|partition| matches!(partition.stage, Stage::Assigned)) {
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
        // The store may have a commit of its own beyond the position up to which it has every message.
        let witness = |position: &Position| position.witness.as_ref().map_or(0, |witness| witness.sequence);
        let store_sequence =
            position.as_ref().map_or(0, |position| position.sequence.max(known).max(witness(position)));
        let is_ahead = position.is_some() && (self.store_is_ahead || store_sequence > output.last_sequence);
        if !is_another && !is_ahead {
            if !self.partitions.values().any(Partition::is_owned) {
                self.coverage = Some(Coverage::at(output.created_ns, position));
            }
            self.take_fences(now, output);
            return Ok(());
        }
        // A partition that is caught up would go on with an empty store.
        let is_store_used = |partition: &Partition| partition.is_owned() || partition.is_caught_up();
        if self.partitions.values().any(is_store_used) || !self.applying.is_empty() {
            self.start_over(now, "the output stream lost its last messages or was created again");
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
        self.store_restarts_count += 1;
        self.coverage = Some(Coverage::at(output.created_ns, None));
        self.expected = Expected::default();
        let stream_last_sequence = output.last_sequence;
        self.note(Note::StoreRestarted { store_sequence, stream_last_sequence, stream_is_another, kept_at });
        self.take_fences(now, output);
    }

    fn take_fences(&mut self, now: Timestamp, output: StreamFacts) {
        let request = self.request();
        let acquired = self.partitions.iter().filter(|(_, partition)| matches!(partition.stage, Stage::Acquiring));
        let owner = self.owner();
        let fences: Vec<FenceToTake> = acquired
            .map(|(&partition, Partition { fence, .. })| FenceToTake {
                partition,
                expects: *fence,
                message: fence_message(partition, &owner, now),
            })
            .collect();
        // The node has lost all these partitions in the meantime.
        if fences.is_empty() {
            self.acquisition = None;
            return;
        }
        let partitions = fences.iter().map(|fence| fence.partition).collect();
        let step = Step::TakingFences { request, partitions, last_sequence: output.last_sequence };
        self.acquisition = Some(Acquisition { step, states_count: 0, rebuilt: false });
        // A node that holds partitions has a closing message already, and its next commit must follow that one.
        let is_first = !self.partitions.values().any(Partition::is_owned);
        let closing = is_first.then(|| self.closing_message(now, None));
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
            // A new message has a higher sequence than all earlier ones, unless the stream was deleted and created again.
            if sequence <= last_sequence {
                self.acquisition_failed(now, "the output stream was created again");
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
            self.must_check_fences = true;
            self.acquisition_failed(now, "the last fence of a partition has another sequence than expected");
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
    /// The error text, if a record is from a newer version of relink.
    pub(super) fn output_read(
        &mut self,
        request: RequestId,
        messages: &[OutputMessage],
        reached: u64,
    ) -> Result<(), String> {
        let Some(Reading { up_to, .. }) = self.reading.as_ref().filter(|reading| reading.request == request) else {
            return Ok(());
        };
        let (up_to, is_done, owner) = (*up_to, reached >= *up_to, self.owner());
        let Some(known) = &mut self.coverage else { return Ok(()) };
        let mut read = catch_up::read(messages, known, &mut self.expected, &self.options.policy)
            .map_err(|error| error.to_string())?;
        known.read_to(reached);
        // A read ends at a fence of ours or at our last commit, so we wrote the message at `up_to`. It is on the stream already, so it is the
        // witness of an incomplete read too: what was read is before it.
        if known.witness().is_none_or(|witness| witness.sequence < up_to) {
            known.witnessed(up_to, &owner);
        }
        read.changes.position = known.position();
        read.changes.is_end_of_read = is_done;
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

    /// Ends the acquisition once the store has every message up to the fences.
    pub(super) fn finish_catching_up(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let Some(Acquisition { step: Step::CatchingUp { target }, states_count, rebuilt }) = self.acquisition else {
            return Ok(());
        };
        let reached = self.coverage.as_ref().and_then(Coverage::reached);
        if reached.is_none_or(|reached| reached < target) {
            // An earlier read was open, and it may have ended before these fences.
            self.read_up_to(target);
            return Ok(());
        }
        if !self.applying.is_empty() {
            return Ok(());
        }
        if self.repair_lost_states(now, rebuilt)? {
            return Ok(());
        }
        let mut offsets = self.store.offsets()?;
        for (number, partition) in &mut self.partitions {
            if matches!(partition.stage, Stage::Acquiring) && partition.fence.is_some_and(|fence| fence <= target) {
                (partition.offset, partition.handled) = (offsets.remove(number), None);
                partition.stage = Stage::Acquired;
            }
        }
        self.acquisition = None;
        self.followed_at = self.followed_at.max(Some(now));
        self.note(Note::CaughtUp { states_count, rebuilt });
        Ok(())
    }

    /// Compares the store with the last digest on the stream, once. `rebuilt`: the store was empty before. Returns whether a repair was begun.
    fn repair_lost_states(&mut self, now: Timestamp, rebuilt: bool) -> Result<bool, StoreError> {
        let Some(expected) = std::mem::take(&mut self.expected).digest() else { return Ok(false) };
        let found = self.store.links_digest()?;
        // The digests of other nodes do not include the commits of this one.
        if found == expected || self.partitions.values().any(Partition::is_owned) {
            return Ok(false);
        }
        if !rebuilt {
            // A rebuild reads only the last state of each link. If it was interrupted, and the stream has lost its end since, an earlier state
            // of a link is the last one now, at a place that was read already.
            self.store_is_ahead = true;
            self.start_over(now, "the store has other states than the output stream");
            return Ok(true);
        }
        let repair = lost_states::only_one(&self.store, &found, &expected)?;
        self.note(Note::StatesLost {
            links_count: found.links_count,
            expected_links_count: expected.links_count,
            link: repair.as_ref().map(|put| (put.id.clone(), put.head.version)),
        });
        let Some(put) = repair else { return Ok(false) };
        let request = self.request();
        self.applying.push_back(Applying::read(request));
        self.outputs.push_back(Output::Apply { request, changes: Changes { puts: vec![put], ..Changes::default() } });
        Ok(true)
    }

    /// Reads the messages of other nodes between our commits, if the list of gaps is too long.
    pub(super) fn fill_gaps(&mut self) {
        let Some(known) = &self.coverage else { return };
        if known.runs_count() >= RUNS_MAX {
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

    /// Handles a failed request that this file has made; returns `false` for any other request.
    pub(super) fn acquiring_failed(&mut self, now: Timestamp, request: RequestId, problem: &str) -> bool {
        if self.fence_check.take_if(|(asked, _)| *asked == request).is_some() {
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

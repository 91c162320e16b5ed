//! The pipeline: from the queue over the plan, the dead letters and the batch to the store and the acknowledgement.
//!
//! One commit is under way at a time. While it is, the next slice is planned over the engine's overlay, and staged with the server once it
//! is about full; it is committed only after the one before is known to be stored. So a refused commit takes nothing with it that was
//! built on top.

use std::collections::BTreeMap;

use super::Node;
use super::input::{BatchId, Limit, RequestId};
use super::output::{Closing, Note, Output};
use super::partition::Stage;
use crate::engine::{Item, Plan};
use crate::link::Timestamp;
use crate::store::{Store, StoreError};

/// The plan after the one that is under way.
#[derive(Debug)]
pub(super) struct Next {
    batch: Batch,
    stage: BatchStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BatchStage {
    SettingAside,
    Staging,
    Staged,
}

/// A plan and the batch that it makes.
#[derive(Debug)]
pub(super) struct Batch {
    id: BatchId,
    plan: Plan,
    messages_count: u64,
    /// The fences that guard it.
    fences: BTreeMap<u16, u64>,
}

/// The batch that is being committed.
#[derive(Debug)]
pub(super) struct InFlight {
    batch: Batch,
    /// The last sequence of the output stream that was known when it was sent.
    known: u64,
}

/// A write that the store has been asked for.
#[derive(Debug)]
pub(super) struct Applying {
    request: RequestId,
    /// The plan whose changes they are; none if they were read from the output stream.
    plan: Option<Plan>,
}

impl Applying {
    pub(super) fn read(request: RequestId) -> Self {
        Self { request, plan: None }
    }
}

impl<S: Store + Clone> Node<S> {
    pub(super) fn is_pipeline_empty(&self) -> bool {
        self.next.is_none() && self.in_flight.is_none() && self.applying.is_empty()
    }

    /// Plans what is there, if it is time to.
    pub(super) fn plan(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let Some(engine) = self.engine.as_mut().filter(|_| !self.is_engine_stale) else { return Ok(()) };
        let is_worth_it = self.in_flight.is_none() || self.queue.len() >= self.options.plan_ahead_min;
        if self.next.is_some() || !self.applying.is_empty() || !is_worth_it {
            return Ok(());
        }
        let mut plan = engine.plan_at_most(self.items_max, &mut self.queue, now)?;
        let counts: BTreeMap<_, _> = plan.tally.counts().collect();
        if !counts.is_empty() {
            self.note(Note::Planned { counts });
        }
        for link in plan.links_unreadable.drain(..) {
            self.note(Note::LinkUnreadable { link });
        }
        for link in plan.timers_panicked.drain(..) {
            self.note(Note::TimerSetAside { of: link.to_string() });
        }
        if plan.messages.is_empty() {
            assert!(plan.dead.is_empty() && plan.marks.is_empty(), "what is handled has its offset in a batch");
            // Nothing for the stream: redeliveries to acknowledge again, timers to move, or nothing at all.
            if !plan.puts.is_empty() {
                self.apply(plan);
            } else {
                self.acknowledge(&plan);
            }
            return Ok(());
        }
        let fences = self.guard(&mut plan);
        let (id, messages_count) = (BatchId(self.next_id()), plan.messages.len() as u64 + 1);
        let letters = std::mem::take(&mut plan.dead);
        let batch = Batch { id, plan, messages_count, fences };
        self.next = Some(Next { batch, stage: BatchStage::SettingAside });
        if letters.is_empty() {
            self.stage();
        } else {
            let input_created_ns = self.input_created_ns.expect("a partition that is held has an input stream");
            self.outputs.push_back(Output::StoreDeadLetters { batch: id, input_created_ns, letters });
        }
        Ok(())
    }

    /// Puts each partition's fence on the first of its messages.
    fn guard(&self, plan: &mut Plan) -> BTreeMap<u16, u64> {
        let mut fences = BTreeMap::new();
        for outgoing in &mut plan.messages {
            if fences.contains_key(&outgoing.lane) {
                continue;
            }
            let partition = self.partitions.get(&outgoing.lane).filter(|partition| partition.is_held());
            let fence = partition.and_then(|partition| partition.fence);
            let fence =
                fence.unwrap_or_else(|| panic!("nothing is staged for partition {}, which is not held", outgoing.lane));
            outgoing.fence = Some(fence);
            fences.insert(outgoing.lane, fence);
        }
        fences
    }

    /// Stages the next batch: its dead letters are stored, or it has none.
    fn stage(&mut self) {
        if let Some(Next { batch, stage }) = &mut self.next {
            *stage = BatchStage::Staging;
            let messages = std::mem::take(&mut batch.plan.messages);
            self.outputs.push_back(Output::StageBatch { batch: batch.id, messages });
        }
    }

    pub(super) fn dead_letters_stored(&mut self, id: BatchId) {
        if self.is_next(id, BatchStage::SettingAside) {
            self.stage();
        }
    }

    pub(super) fn batch_staged(&mut self, now: Timestamp, id: BatchId) {
        if self.is_next(id, BatchStage::Staging) {
            if let Some(next) = &mut self.next {
                next.stage = BatchStage::Staged;
            }
            self.commit_staged(now);
        } else if !self.is_next(id, BatchStage::Staged)
            && self.in_flight.as_ref().is_none_or(|flight| flight.batch.id != id)
        {
            // It was given up while it was being staged.
            self.outputs.push_back(Output::DiscardBatch { batch: id });
        }
    }

    fn is_next(&self, id: BatchId, stage: BatchStage) -> bool {
        self.next.as_ref().is_some_and(|next| next.batch.id == id && next.stage == stage)
    }

    /// Commits the next batch, if it is staged and none is under way.
    fn commit_staged(&mut self, now: Timestamp) {
        if self.in_flight.is_some() {
            return;
        }
        let Some(Next { batch, .. }) = self.next.take_if(|next| next.stage == BatchStage::Staged) else { return };
        for (number, fence) in &batch.fences {
            let held = self.partitions.get(number).filter(|partition| partition.is_held());
            assert_eq!(held.and_then(|partition| partition.fence), Some(*fence), "partition {number} is not held");
        }
        let known = self.coverage.as_ref().map_or(0, super::Coverage::last);
        let follows = self.last_closing.expect("a partition that is held was taken together with a closing message");
        let closing = Closing { follows, message: self.closing_message(now) };
        self.note(Note::Committing { messages_count: batch.messages_count });
        self.outputs.push_back(Output::CommitBatch { batch: batch.id, closing });
        self.in_flight = Some(InFlight { batch, known });
    }

    pub(super) fn batch_committed(&mut self, now: Timestamp, id: BatchId, last_sequence: u64, messages_count: u64) {
        let Some(InFlight { batch, known }) = self.in_flight.take_if(|flight| flight.batch.id == id) else { return };
        assert_eq!(messages_count, batch.messages_count, "a batch is stored whole or not at all");
        let first_sequence = last_sequence + 1 - messages_count;
        if first_sequence <= known {
            self.note(Note::OutputTailLost { store_sequence: known, commit_sequence: first_sequence });
            self.store_is_ahead = true;
            self.start_over(now, "the output stream lost its tail");
            return;
        }
        let Batch { plan, fences, .. } = batch;
        for (number, mark) in &plan.marks {
            let Some(partition) = self.partitions.get_mut(number) else { continue };
            let Some(behind) = partition.behind.filter(|_| partition.fence == fences.get(number).copied()) else {
                continue;
            };
            assert!(mark.sequence > behind, "the committed offset of partition {number} goes back: {behind}, {mark:?}");
            (partition.behind, partition.offset) = (Some(mark.sequence), Some(mark.clone()));
        }
        // Fences may have been taken, and a first message of ours been stored, behind a commit of partitions that are lost by now.
        self.last_closing = self.last_closing.max(Some(last_sequence));
        if let Some(known) = &mut self.coverage {
            known.committed(first_sequence, last_sequence);
            known.witnessed(last_sequence, &self.options.owner);
        }
        self.items_max = self.items_max.saturating_mul(2).min(self.items_ceiling);
        // The next commit goes out before this one's bookkeeping, which is no longer in anybody's way.
        self.commit_staged(now);
        self.apply(plan);
    }

    fn apply(&mut self, mut plan: Plan) {
        let request = self.request();
        let position = self.coverage.as_ref().and_then(super::Coverage::position);
        let changes = plan.take_changes(position);
        self.applying.push_back(Applying { request, plan: Some(plan) });
        self.outputs.push_back(Output::Apply { request, changes });
    }

    pub(super) fn applied(&mut self, now: Timestamp, request: RequestId) {
        // Writes are finished in order.
        let Some(Applying { plan, .. }) = self.applying.pop_front_if(|applying| applying.request == request) else {
            return;
        };
        self.checkpoint_at.get_or_insert(now.after(super::CHECKPOINT_EVERY));
        let Some(mut plan) = plan else { return };
        let Some(engine) = &mut self.engine else { return };
        engine.settle(&plan);
        let incidents_count = engine.incidents_count();
        let (incidents, prompts_held_count) = (std::mem::take(&mut plan.incidents), plan.prompts_held_count);
        let unread = std::mem::take(&mut plan.unread);
        self.note(Note::Committed { incidents, prompts_held_count, incidents_count, unread });
        self.acknowledge(&plan);
    }

    /// Acknowledges what the plan was made of, as far as it is committed: a repeat may be of a message that is still under way.
    fn acknowledge(&mut self, plan: &Plan) {
        let mut receipts = Vec::with_capacity(plan.receipts.len());
        for (number, receipt) in &plan.receipts {
            let Some(behind) = self.partitions.get(number).and_then(|partition| partition.behind) else { continue };
            if receipt.sequence <= behind {
                receipts.push(receipt.receipt.clone());
            } else {
                assert!(plan.marks.is_empty(), "partition {number}: {} is not committed", receipt.sequence);
            }
        }
        if !receipts.is_empty() {
            self.outputs.push_back(Output::Acknowledge { receipts });
        }
    }

    /// Nothing of the batch is stored: another node has a fence of it, or the output stream has lost what we wrote last.
    pub(super) fn batch_refused(&mut self, now: Timestamp, id: BatchId) {
        if self.take_batch(id).is_none() {
            return;
        }
        self.retreat();
        for partition in self.partitions.values_mut().filter(|partition| partition.is_held()) {
            partition.stage = Stage::Suspect;
        }
        self.was_refused = true;
        self.fail(now, "a commit was refused: a fence in it is no longer ours, or our last commit is no longer there");
    }

    /// Nothing of the batch is stored, and nothing like it ever will be: smaller ones may.
    pub(super) fn batch_too_large(&mut self, id: BatchId, limit: &Limit) {
        let Some(Batch { plan: Plan { items_count, first_item, .. }, .. }) = self.take_batch(id) else { return };
        self.note(Note::TooLarge { items_count, limit: limit.clone() });
        match first_item.filter(|_| items_count <= 1) {
            Some(item) => {
                match &item {
                    Item::Timer(link) => self.note(Note::TimerSetAside { of: link.to_string() }),
                    Item::IncidentEnd(institution) => self.note(Note::TimerSetAside { of: institution.clone() }),
                    Item::Delivery { .. } => {}
                }
                let detail = match limit {
                    Limit::Messages => "its commit has more messages than NATS takes at once",
                    Limit::MessageBytes => "its commit has a message larger than NATS takes",
                };
                if let Some(engine) = &mut self.engine {
                    engine.set_aside(item, detail.to_owned());
                }
            }
            None => {
                self.items_max = (items_count / 2).max(1);
                if *limit == Limit::Messages {
                    self.items_ceiling = self.items_max;
                }
            }
        }
        self.retreat();
    }

    /// The batch with this id, if it is under way: nothing of it is stored, so what was planned on top of it is given up too.
    fn take_batch(&mut self, id: BatchId) -> Option<Batch> {
        if let Some(flight) = self.in_flight.take_if(|flight| flight.batch.id == id) {
            self.drop_next();
            return Some(flight.batch);
        }
        Some(self.next.take_if(|next| next.batch.id == id)?.batch)
    }

    pub(super) fn has_batch(&self, id: BatchId) -> bool {
        self.next.as_ref().is_some_and(|next| next.batch.id == id)
            || self.in_flight.as_ref().is_some_and(|flight| flight.batch.id == id)
    }

    pub(super) fn drop_next(&mut self) {
        if let Some(Next { batch, stage: BatchStage::Staged }) = self.next.take() {
            self.outputs.push_back(Output::DiscardBatch { batch: batch.id });
        }
    }

    /// Whether the next batch has a message of this partition.
    pub(super) fn is_next_of(&self, partition: u16) -> bool {
        self.next.as_ref().is_some_and(|next| next.batch.fences.contains_key(&partition))
    }

    /// What was planned has been given up, and certainly none of it is stored: everything is read again behind the committed offsets.
    pub(super) fn retreat(&mut self) {
        self.is_engine_stale = true;
        self.queue.clear();
        for (number, partition) in &mut self.partitions {
            partition.newest = None;
            if partition.reader().is_some() {
                partition.stage = Stage::Unplaced;
                self.outputs.push_back(Output::StopReader { partition: *number });
            }
        }
    }
}

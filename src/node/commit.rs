//! The pipeline: queue, plan, dead letters, batch, store, acknowledgement. The head of `mod.rs` describes the steps.
//!
//! One commit is in flight at a time. Meanwhile the node makes the next plan over the engine's overlay, and stages its batch with the
//! server. It commits that batch only after it knows that the previous one is stored, because the plan depends on the previous changes.

use std::collections::BTreeMap;

use super::Node;
use super::input::{BatchId, Limit, RequestId};
use super::lost_states::Expected;
use super::output::{Closing, Note, Output};
use super::partition::Stage;
use crate::engine::{Engine, Item, Plan, Publishing, WithTimers};
use crate::institution::Components;
use crate::link::Timestamp;
use crate::store::{Store, StoreError};

/// The most writes of the store that may be open when the node plans the next commit, or takes the next messages of the output stream.
const APPLYING_MAX: usize = 4;

/// The most plans without timers in a row.
const PLANS_WITHOUT_TIMERS_MAX: u32 = 4;

/// The batch that follows the one in flight.
#[derive(Debug)]
pub(super) struct Next {
    batch: Batch,
    stage: BatchStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BatchStage {
    /// The driver stores its dead letters.
    StoringDeadLetters,
    /// The driver sends its messages, except the last one.
    Staging,
    /// Only the closing message is missing.
    Staged,
}

/// A plan and its batch.
#[derive(Debug)]
pub(super) struct Batch {
    id: BatchId,
    plan: Plan,
    messages_count: u64,
    /// The fence that the batch names for each partition.
    fences: BTreeMap<u16, u64>,
    planned_at: Timestamp,
}

/// The batch whose closing message was sent, and whose outcome is not known yet.
#[derive(Debug)]
pub(super) struct InFlight {
    batch: Batch,
    /// The last known sequence of the output stream when the closing message was sent.
    known_sequence: u64,
    /// When the closing message was sent.
    sent_at: Timestamp,
}

impl InFlight {
    pub(super) const fn sent_at(&self) -> Timestamp {
        self.sent_at
    }
}

/// A write to the store that the driver has not finished.
#[derive(Debug)]
pub(super) struct Applying {
    pub(super) request: RequestId,
    /// The plan whose changes are written; `None` if the changes were read from the output stream.
    plan: Option<Plan>,
    /// When the closing message of the commit was sent; `None` if the changes are not those of a commit.
    sent_at: Option<Timestamp>,
}

impl Applying {
    pub(super) fn read(request: RequestId) -> Self {
        Self { request, plan: None, sent_at: None }
    }

    pub(super) fn is_of_commit(&self) -> bool {
        self.sent_at.is_some()
    }
}

impl<S: Store + Clone> Node<S> {
    /// Whether the node takes the next messages of the output stream ([`super::Input::OutputRead`]). If not, several writes of the store are open,
    /// and a driver that can wait should wait.
    pub fn is_ready_to_read(&self) -> bool {
        self.applying.len() < APPLYING_MAX
    }

    /// Sets how the effects of the machine are published.
    #[must_use]
    pub fn with_publishing(mut self, publishing: Publishing) -> Self {
        self.publishing = publishing;
        self
    }

    /// Sets the institutions that the components of Belvo's status page stand for.
    #[must_use]
    pub fn with_components(mut self, components: Components) -> Self {
        self.components = components;
        self
    }

    /// Gives the settings of this node to a new engine.
    pub(super) fn set_up(&self, engine: Engine<S>) -> Engine<S> {
        engine.with_components(self.components.clone()).with_publishing(self.publishing.clone())
    }

    pub(super) fn is_pipeline_empty(&self) -> bool {
        self.next.is_none() && self.in_flight.is_none() && self.applying.is_empty()
    }

    /// Makes the next plan, if the pipeline has room for it and there is enough input.
    pub(super) fn plan(&mut self, now: Timestamp) -> Result<(), StoreError> {
        // Timers need the server's time.
        let is_ready = !self.is_engine_stale && self.clock.is_known();
        let has_enough = self.in_flight.is_none() || self.queue.len() >= self.options.plan_ahead_min;
        if self.next.is_some() || !has_enough || !self.may_plan() {
            return Ok(());
        }
        let due_by = self.due_by(now);
        let Some(engine) = self.engine.as_mut().filter(|_| is_ready) else { return Ok(()) };
        let with_timers = if self.applying.is_empty() { WithTimers::Yes } else { WithTimers::No };
        engine.set_latest_now(self.clock.latest_now(now));
        engine.set_due_by(due_by);
        let mut plan = engine.plan_at_most(self.items_max, with_timers, &mut self.queue, self.clock.now(now))?;
        if with_timers == WithTimers::Yes {
            self.timers_held(now, plan.are_timers_held);
        }
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
            assert!(
                plan.dead_letters.is_empty() && plan.offsets.is_empty(),
                "a plan that handles inputs must commit an offset"
            );
            // The plan needs no commit. It may have redeliveries to acknowledge again, or timers to move in the store.
            if !plan.puts.is_empty() {
                self.apply(plan, None);
            } else {
                self.acknowledge(&plan);
            }
            return Ok(());
        }
        self.plans_without_timers = if with_timers == WithTimers::Yes { 0 } else { self.plans_without_timers + 1 };
        let fences = self.guard(&mut plan);
        let (id, messages_count) = (BatchId(self.next_id()), plan.messages.len() as u64 + 1);
        let letters = std::mem::take(&mut plan.dead_letters);
        let batch = Batch { id, plan, messages_count, fences, planned_at: now };
        self.next = Some(Next { batch, stage: BatchStage::StoringDeadLetters });
        if letters.is_empty() {
            self.stage();
        } else {
            let input_created_ns = self.input_created_ns.expect("a partition with a fence has an input stream");
            self.outputs.push_back(Output::StoreDeadLetters { batch: id, input_created_ns, letters });
        }
        Ok(())
    }

    /// Whether the open writes of the store allow a plan. The overlay has the changes of our own commits until they are applied. It has not
    /// those that another node has committed.
    ///
    /// Timers are found in the store, so they wait until nothing is being applied: what a plan contains must not depend on the moment of a
    /// write. After some plans without timers, the next plan waits for the store, so that timers wait no longer than that.
    fn may_plan(&self) -> bool {
        let is_current = self.applying.is_empty();
        let is_overlaid = self.applying.len() < APPLYING_MAX && self.applying.iter().all(Applying::is_of_commit);
        is_current || (is_overlaid && self.plans_without_timers < PLANS_WITHOUT_TIMERS_MAX)
    }

    /// Adds each partition's fence to the partition's first message.
    fn guard(&self, plan: &mut Plan) -> BTreeMap<u16, u64> {
        let mut fences = BTreeMap::new();
        for outgoing in &mut plan.messages {
            if fences.contains_key(&outgoing.partition) {
                continue;
            }
            let partition = self.partitions.get(&outgoing.partition).filter(|partition| partition.is_owned());
            let fence = partition.and_then(|partition| partition.fence);
            let fence = fence.unwrap_or_else(|| {
                panic!("a message must not be staged for partition {}, whose fence is not ours", outgoing.partition)
            });
            outgoing.fence = Some(fence);
            fences.insert(outgoing.partition, fence);
        }
        fences
    }

    /// Stages the next batch, after its dead letters are stored.
    fn stage(&mut self) {
        if let Some(Next { batch, stage }) = &mut self.next {
            *stage = BatchStage::Staging;
            let messages = std::mem::take(&mut batch.plan.messages);
            self.outputs.push_back(Output::StageBatch { batch: batch.id, messages });
        }
    }

    pub(super) fn dead_letters_stored(&mut self, id: BatchId) {
        if self.is_next(id, BatchStage::StoringDeadLetters) {
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
            // The batch was discarded while the driver staged it.
            self.outputs.push_back(Output::DiscardBatch { batch: id });
        }
    }

    fn is_next(&self, id: BatchId, stage: BatchStage) -> bool {
        self.next.as_ref().is_some_and(|next| next.batch.id == id && next.stage == stage)
    }

    /// Commits the next batch, if it is staged and no other batch is in flight.
    fn commit_staged(&mut self, now: Timestamp) {
        if self.in_flight.is_some() {
            return;
        }
        let Some(Next { batch, .. }) = self.next.take_if(|next| next.stage == BatchStage::Staged) else { return };
        for (number, fence) in &batch.fences {
            let owned = self.partitions.get(number).filter(|partition| partition.is_owned());
            assert_eq!(
                owned.and_then(|partition| partition.fence),
                Some(*fence),
                "the fence of partition {number} is not ours"
            );
        }
        let known_sequence = self.coverage.as_ref().map_or(0, super::Coverage::last);
        let follows = self.last_closing.expect("the first fences are taken together with a closing message");
        // A node that shares the partitions with others does not know their links.
        let owned_count = self.partitions.values().filter(|partition| partition.is_owned()).count();
        let links =
            (self.has_all && owned_count == usize::from(self.options.partitions_count)).then_some(batch.plan.links);
        let closing = Closing { follows, message: self.closing_message(now, links) };
        self.outputs.push_back(Output::CommitBatch { batch: batch.id, closing });
        self.in_flight = Some(InFlight { batch, known_sequence, sent_at: now });
    }

    pub(super) fn batch_committed(&mut self, now: Timestamp, id: BatchId, last_sequence: u64, messages_count: u64) {
        let Some(InFlight { batch, known_sequence, sent_at }) = self.in_flight.take_if(|flight| flight.batch.id == id)
        else {
            return;
        };
        assert_eq!(messages_count, batch.messages_count, "a batch is stored whole or not at all");
        let first_sequence = last_sequence + 1 - messages_count;
        if first_sequence <= known_sequence {
            self.note(Note::OutputTailLost { store_sequence: known_sequence, commit_sequence: first_sequence });
            self.store_is_ahead = true;
            self.start_over(now, "the output stream lost its last messages");
            return;
        }
        let Batch { mut plan, fences, planned_at, .. } = batch;
        let (took, planned_ago) = (now.since(sent_at), now.since(planned_at));
        self.note(Note::Stored { messages_count, took, spans: std::mem::take(&mut plan.spans), planned_ago });
        for (number, offset) in &plan.offsets {
            let Some(partition) = self.partitions.get_mut(number) else { continue };
            let Some(handled) = partition.handled.filter(|_| partition.fence == fences.get(number).copied()) else {
                continue;
            };
            assert!(
                offset.sequence > handled,
                "the committed offset of partition {number} decreases: {handled}, {offset:?}"
            );
            (partition.handled, partition.offset) = (Some(offset.sequence), Some(offset.clone()));
        }
        // If the node has lost this commit's partitions and gained others, a later closing message is stored with their fences.
        self.last_closing = self.last_closing.max(Some(last_sequence));
        let owner = self.owner();
        if let Some(coverage) = &mut self.coverage {
            coverage.committed(first_sequence, last_sequence);
            coverage.witnessed(last_sequence, &owner);
        }
        self.expected = Expected::default();
        self.items_max = self.items_max.saturating_mul(2).min(self.items_ceiling);
        // The next batch is committed before this one is applied: it depends on this one being stored, not on the store.
        self.commit_staged(now);
        self.apply(plan, Some(sent_at));
    }

    fn apply(&mut self, mut plan: Plan, sent_at: Option<Timestamp>) {
        let request = self.request();
        let position = self.coverage.as_ref().and_then(super::Coverage::position);
        let changes = plan.take_changes(position);
        self.applying.push_back(Applying { request, plan: Some(plan), sent_at });
        self.outputs.push_back(Output::Apply { request, changes });
    }

    pub(super) fn applied(&mut self, now: Timestamp, request: RequestId) {
        // The driver finishes writes in order.
        let Some(Applying { plan, sent_at, .. }) = self.applying.pop_front_if(|applying| applying.request == request)
        else {
            return;
        };
        self.checkpoint_at.get_or_insert(now.after(super::CHECKPOINT_EVERY));
        let Some(mut plan) = plan else { return };
        // Only our commits follow each other on the stream, so the store has everything that was there when this one was sent.
        self.followed_at = self.followed_at.max(sent_at);
        let Some(engine) = &mut self.engine else { return };
        engine.record_commit(&plan);
        let incidents_count = engine.incidents_count();
        let incidents = std::mem::take(&mut plan.incidents);
        let activity = Box::new(std::mem::take(&mut plan.activity));
        let unreadable_fields = std::mem::take(&mut plan.unreadable_fields);
        self.note(Note::Committed { incidents, activity, incidents_count, unreadable_fields });
        self.acknowledge(&plan);
    }

    /// Acknowledges the deliveries of a plan that are committed. A redelivery may be of a message whose commit is still in flight.
    fn acknowledge(&mut self, plan: &Plan) {
        let mut receipts = Vec::with_capacity(plan.receipts.len());
        for (number, receipt) in &plan.receipts {
            let Some(handled) = self.partitions.get(number).and_then(|partition| partition.handled) else { continue };
            if receipt.sequence <= handled {
                receipts.push(receipt.receipt.clone());
            } else {
                assert!(
                    plan.offsets.is_empty(),
                    "partition {number}: message {} is not committed and cannot be acknowledged",
                    receipt.sequence
                );
            }
        }
        if !receipts.is_empty() {
            self.outputs.push_back(Output::Acknowledge { receipts });
        }
    }

    /// Nothing of the batch is stored: another node has taken one of its fences, or the output stream has lost our last closing message.
    pub(super) fn batch_refused(&mut self, now: Timestamp, id: BatchId) {
        if self.take_batch(id).is_none() {
            return;
        }
        self.discard_plans();
        for partition in self.partitions.values_mut().filter(|partition| partition.is_owned()) {
            partition.stage = Stage::Suspect;
        }
        self.was_refused = true;
        self.fail(
            now,
            "a commit was refused: another node has taken a fence, or our last commit is no longer on the stream",
        );
    }

    /// Nothing of the batch is stored. The next plan has half the items; an item that is too large alone is set aside.
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
        self.discard_plans();
    }

    /// Removes a batch from the pipeline, because nothing of it is stored. The next batch depends on the one in flight, so it
    /// is discarded with it.
    fn take_batch(&mut self, id: BatchId) -> Option<Batch> {
        if let Some(flight) = self.in_flight.take_if(|flight| flight.batch.id == id) {
            self.discard_next();
            return Some(flight.batch);
        }
        Some(self.next.take_if(|next| next.batch.id == id)?.batch)
    }

    pub(super) fn has_batch(&self, id: BatchId) -> bool {
        self.next.as_ref().is_some_and(|next| next.batch.id == id)
            || self.in_flight.as_ref().is_some_and(|flight| flight.batch.id == id)
    }

    pub(super) fn discard_next(&mut self) {
        if let Some(Next { batch, stage: BatchStage::Staged }) = self.next.take() {
            self.outputs.push_back(Output::DiscardBatch { batch: batch.id });
        }
    }

    /// Whether the next batch has a message of this partition.
    pub(super) fn is_next_of(&self, partition: u16) -> bool {
        self.next.as_ref().is_some_and(|next| next.batch.fences.contains_key(&partition))
    }

    /// Discards all plans and the queue, and stops the readers: the partitions read their inputs again after the committed offsets. The
    /// caller has discarded the batches.
    pub(super) fn discard_plans(&mut self) {
        self.is_engine_stale = true;
        self.queue.clear();
        for (number, partition) in &mut self.partitions {
            partition.newest = None;
            if partition.reader().is_some() {
                partition.stage = Stage::Acquired;
                self.outputs.push_back(Output::StopReader { partition: *number });
            }
        }
    }
}

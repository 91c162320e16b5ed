//! Checkpoints of the store, and the end of a partition and of a node.
//!
//! A node ends in order: the driver finishes its writes to the store, then the last checkpoint, then it gets [`Output::End`]. If the store
//! fails, the node ends at once.

use super::Node;
use super::input::RequestId;
use super::output::{End, Output, PartitionEnd};
use crate::store::Store;

/// A node that is ending.
pub(super) struct Ending {
    pub(super) why: End,
    pub(super) stage: EndingStage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EndingStage {
    /// The driver still writes to the store.
    Writing,
    /// The driver makes the last checkpoint.
    Checkpointing,
    /// [`Output::End`] was the last output.
    Ended,
}

impl<S: Store + Clone> Node<S> {
    pub(super) fn end_partition(&mut self, number: u16, why: PartitionEnd) {
        if self.partitions.remove(&number).is_none() {
            return;
        }
        self.has_all = false;
        self.queue.retain(|delivery| delivery.partition != number);
        self.complete.forget_awaited();
        if let Some(engine) = &mut self.engine {
            engine.release(number);
        }
        // The messages of one partition cannot be removed from a batch, so the whole next batch is discarded.
        if self.is_next_of(number) {
            self.discard_next();
            self.discard_plans();
        }
        self.outputs.push_back(Output::StopReader { partition: number });
        self.outputs.push_back(Output::PartitionEnded { partition: number, why });
    }

    pub(super) fn begin_ending(&mut self, why: End) {
        self.discard_next();
        self.in_flight = None;
        self.discard_plans();
        self.ending.get_or_insert(Ending { why, stage: EndingStage::Writing });
    }

    pub(super) fn go_on_ending(&mut self) {
        let stage = self.ending.as_ref().map(|ending| ending.stage);
        if stage == Some(EndingStage::Writing) && self.applying.is_empty() && self.checkpointing.is_none() {
            self.checkpoint();
            if let Some(ending) = &mut self.ending {
                ending.stage = EndingStage::Checkpointing;
            }
        }
    }

    pub(super) fn checkpoint(&mut self) {
        let request = self.request();
        (self.checkpointing, self.checkpoint_at) = (Some(request), None);
        self.outputs.push_back(Output::Checkpoint { request });
    }

    pub(super) fn checkpointed(&mut self, request: RequestId) {
        if self.checkpointing.take_if(|asked| *asked == request).is_none() {
            return;
        }
        let last = self.ending.as_ref().filter(|ending| ending.stage == EndingStage::Checkpointing);
        if let Some(why) = last.map(|ending| ending.why.clone()) {
            self.end(why);
        }
    }

    pub(super) fn end(&mut self, why: End) {
        self.ending = Some(Ending { why: why.clone(), stage: EndingStage::Ended });
        self.outputs.push_back(Output::End { why });
    }
}

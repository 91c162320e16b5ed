//! One partition of this node: its fence, its committed offset, and its reader.

use super::input::{ReaderId, RequestId};
use crate::contract::CommittedOffset;

/// A partition that is assigned to the node.
#[derive(Debug)]
pub(super) struct Partition {
    /// The sequence of the last fence that this node wrote; 0 if the partition has no fence. `None`: the node has not taken the partition
    /// yet, and will replace any earlier owner.
    pub(super) fence: Option<u64>,
    /// The committed offset on the output stream. `None`: no input has been handled yet.
    pub(super) offset: Option<CommittedOffset>,
    /// The last sequence of the input stream that is handled. `None`: unknown, because the fence is not ours, or because the offset has not
    /// been compared with the input stream.
    pub(super) handled: Option<u64>,
    /// The sequence of the newest message that is queued or handled, and when it was stored (nanoseconds since the Unix epoch). A delivery
    /// with a lower sequence is a repeat only if it is not newer. The value stays when a reader ends, because its deliveries stay queued.
    /// `None`: no message of the input stream is queued or handled.
    pub(super) newest: Option<(u64, i64)>,
    pub(super) stage: Stage,
}

/// The stage of a partition; the picture in `mod.rs` shows the changes.
#[derive(Debug)]
pub(super) enum Stage {
    /// The node must take the fence, and catch up the store to it.
    Assigned,
    /// The node is taking the fence, or is catching up.
    Acquiring,
    /// The reader failed, or a commit was refused: another node may have taken the fence.
    Suspect,
    /// The fence is ours and the store is caught up. The node must find the resume point.
    Acquired,
    /// The node is finding the resume point.
    Resuming,
    /// The driver is resetting the consumer to the resume point.
    Rewinding(Reader),
    /// The reader delivers messages.
    Reading(Reader),
}

/// The reader of a partition.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) id: ReaderId,
    /// The number of the next delivery; the first one is 1.
    pub(super) next: u64,
    /// How many messages the stream had behind the last delivery. `None`: unknown.
    pub(super) pending: Option<u64>,
}

impl Reader {
    /// A reader without a delivery.
    pub(super) fn new(id: ReaderId) -> Self {
        Self { id, next: 1, pending: None }
    }

    /// Takes the next number of waiting messages. Returns how many messages were removed from the stream unread, at least: each delivery
    /// takes one away, and new messages only add to them.
    pub(super) fn count_removed(&mut self, pending: Option<u64>) -> u64 {
        let before = std::mem::replace(&mut self.pending, pending);
        before.zip(pending).map_or(0, |(before, pending)| before.saturating_sub(1).saturating_sub(pending))
    }
}

impl Partition {
    pub(super) fn assigned() -> Self {
        Self { fence: None, offset: None, handled: None, newest: None, stage: Stage::Assigned }
    }

    /// Forgets everything except the fence: the node takes it again only if it is still the last one.
    pub(super) fn start_over(&mut self) {
        (self.offset, self.handled, self.newest, self.stage) = (None, None, None, Stage::Assigned);
    }

    /// Whether the fence is ours, and the last handled sequence is known.
    pub(super) fn is_owned(&self) -> bool {
        self.handled.is_some()
    }

    /// Whether the node has caught up the store to the fence.
    pub(super) const fn is_caught_up(&self) -> bool {
        match self.stage {
            Stage::Assigned | Stage::Acquiring => false,
            Stage::Suspect | Stage::Acquired | Stage::Resuming | Stage::Rewinding(_) | Stage::Reading(_) => true,
        }
    }

    pub(super) fn is_read_by(&self, id: ReaderId) -> bool {
        matches!(&self.stage, Stage::Rewinding(reader) | Stage::Reading(reader) if reader.id == id)
    }

    pub(super) fn reader(&mut self) -> Option<&mut Reader> {
        match &mut self.stage {
            Stage::Rewinding(reader) | Stage::Reading(reader) => Some(reader),
            Stage::Assigned | Stage::Acquiring | Stage::Suspect | Stage::Acquired | Stage::Resuming => None,
        }
    }
}

/// An open request about a message of the input stream, to find the resume point of a partition.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) request: RequestId,
    pub(super) partition: u16,
    /// The committed offset of the partition.
    pub(super) offset: CommittedOffset,
    /// The looked-up sequence, if it is not that of the offset.
    pub(super) older: Option<u64>,
}

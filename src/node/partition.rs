//! One partition of this node, between its fence and its reader.

use super::input::{ReaderId, RequestId};
use crate::contract::CommittedOffset;

/// A partition that the node has been told to run.
#[derive(Debug)]
pub(super) struct Partition {
    /// The sequence of its last fence that we know to be ours; 0 if it is known to have none. `None`: nothing is known, and whoever
    /// has it is replaced.
    pub(super) fence: Option<u64>,
    /// Its committed offset, as the output stream has it. `None`: nothing has been handled yet.
    pub(super) offset: Option<CommittedOffset>,
    /// The sequence on the input stream up to which it has been handled. `None`: not known, since its fence is not ours or its offset
    /// has not been compared with the input stream.
    pub(super) behind: Option<u64>,
    /// The sequence of the newest message that is queued or handled, and when that was stored: what comes with a sequence below is a
    /// repeat only if it is as old. It outlives a reader, as what that has read does. `None`: nothing that the input stream has is.
    pub(super) newest: Option<(u64, i64)>,
    pub(super) stage: Stage,
}

/// How far a partition has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its fence is to be taken, and the store to be caught up to it.
    Wanted,
    /// That is under way.
    Acquiring,
    /// Its reader failed, or a commit was refused: somebody else may have taken its fence.
    Suspect,
    /// Its fence is ours; where it goes on is to be found out.
    Unplaced,
    /// That is under way.
    Placing,
    /// Its consumer is being put there.
    Rewinding(Reader),
    /// It is being read.
    Reading(Reader),
}

/// The reader of a partition.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) id: ReaderId,
    /// Which delivery comes next; 1 is the first.
    pub(super) next: u64,
}

impl Partition {
    pub(super) fn wanted() -> Self {
        Self { fence: None, offset: None, behind: None, newest: None, stage: Stage::Wanted }
    }

    /// Everything has to be found out anew; but that its fence was ours once is not forgotten.
    pub(super) fn start_over(&mut self) {
        (self.offset, self.behind, self.newest, self.stage) = (None, None, None, Stage::Wanted);
    }

    /// Whether its fence is ours, and its commits are known.
    pub(super) fn is_held(&self) -> bool {
        self.behind.is_some()
    }

    pub(super) fn is_read_by(&self, id: ReaderId) -> bool {
        matches!(&self.stage, Stage::Rewinding(reader) | Stage::Reading(reader) if reader.id == id)
    }

    pub(super) fn reader(&mut self) -> Option<&mut Reader> {
        match &mut self.stage {
            Stage::Rewinding(reader) | Stage::Reading(reader) => Some(reader),
            Stage::Wanted | Stage::Acquiring | Stage::Suspect | Stage::Unplaced | Stage::Placing => None,
        }
    }
}

/// A question about the input stream, on the way to where a partition goes on.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) request: RequestId,
    pub(super) partition: u16,
    /// The offset that the question is about.
    pub(super) offset: CommittedOffset,
}

//! THE NODE: the commit protocol of this process's partitions, as one state machine without I/O.
//!
//! ```text
//!   partition:  wanted ─▶ fence taken ─▶ caught up ─▶ placed ─▶ rewound ─▶ reading ──▶ ended (another node took the fence)
//!                 ▲                                     ▲                    │
//!                 │ anything else failed, or            │ its reader failed, │
//!                 │ nobody knows the outcome            │ its fence is ours  │
//!                 └─────────────────────────────────────┴────────────────────┘
//!
//!   commit:     queue ─▶ plan ─▶ dead letters ─▶ stage ─▶ commit ─▶ apply ─▶ acknowledge
//!                        k + 1: planned over the overlay ┘ k: one at a time
//! ```
//!
//! **How to drive it.** A driver owns a [`Node`] and does what it says. There is no clock in it, no randomness and no I/O but reading the
//! store; the same inputs at the same times over the same store give the same outputs.
//!
//! ```text
//!   node.handle(now, Input::Gained { partitions: all of them });
//!   loop {
//!       while let Some(output) = node.poll_output() { begin it; Output::End: return }
//!       wait for an answer, deliveries (at most node.room()), the time of the last WakeAt, or shutdown
//!       node.handle(now, the input);
//!   }
//! ```
//!
//! - Outputs are begun in the order in which they come. Writes to the store are finished in that order; a driver may do them at once and
//!   hand in the answer before it looks at the next output. Everything else may take its time.
//! - An answer repeats the number of its output. Late, doubled and unknown answers are ignored, so a driver need not cancel anything.
//! - A crash is to drop the node, and everything that it asked for and that has not yet reached its stream or store.
//! - The node reads its store in `handle`. Nobody writes the store but the driver, when the node asks for it.
//!
//! **What it promises**, whatever its answers are (each is an assertion here or a checker of the simulation):
//! one commit is under way at a time, and the next is committed only after it is known to be stored; dead letters are stored before the
//! commit that counts them as handled; a partition's committed offset never goes back while the input stream is the same; nothing is
//! acknowledged beyond the committed offset; nothing is staged for a partition whose fence is not ours.
//!
//! - `input`, `output`: what goes in and out
//! - `acquire`: fences, catching up; `place`: where a partition goes on, and its reader
//! - `commit`: the pipeline from the queue to the acknowledgement
//! - `catch_up`: what messages of the output stream come to; how much of it the store has
//! - `resume`: whether a committed offset still speaks of this input stream
//!
//! It must never: read a clock, decide about a link (that is `engine`), or forget an answer that leaves an outcome open.

mod input;
mod output;

pub use self::input::{
    BatchId, Delivered, FenceFacts, Input, Limit, OutputKind, OutputMessage, ReaderId, RequestId, StreamFacts,
};
pub use self::output::{End, FenceToTake, Note, Output, PartitionEnd};
use std::collections::VecDeque;

use crate::link::{Policy, Timestamp};
use crate::store::Store;

/// What a node needs to know.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Who writes the fences: this node and no other, also of the same process.
    pub owner: String,
    /// How many partitions the input stream has.
    pub partitions_count: u16,
    /// The policy of the machine.
    pub policy: Policy,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A partition is not being read yet, or not at present.
    Starting,
    /// Every partition is being read.
    Running,
    /// It ended.
    Stopped,
}

/// The partitions of this process.
pub struct Node<S> {
    options: NodeOptions,
    store: S,
    outputs: VecDeque<Output>,
}

impl<S: Store + Clone> Node<S> {
    /// A node without partitions, over this store. The store's clones are the same store.
    pub fn new(options: NodeOptions, store: S) -> Self {
        Self { options, store, outputs: VecDeque::new() }
    }

    /// Takes in what happened, at `now`. A time before the last one is fine: the system's clock may be set back.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        let _ = (now, input, &self.options, &self.store);
    }

    /// The next thing to do. To be called until there is nothing, before the next [`Node::handle`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How many more deliveries fit the queue.
    pub fn room(&self) -> usize {
        0
    }

    /// Where the node stands.
    pub fn phase(&self) -> Phase {
        Phase::Starting
    }
}

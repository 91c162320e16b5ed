//! What a node is told: one closed list of values.
//!
//! An answer repeats the number of the output that asked for it. A node ignores an answer that it no longer waits for, so a driver may
//! hand in late answers, and answers in any order. Everything here can be written as JSON: a log of inputs replays to the same outputs
//! (`recording.rs`).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::{Delivery, payload};

/// Connects an answer with the output that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// One batch, from its dead letters to its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub u64);

/// One reader of one partition, from one [`super::Output::Rewind`] to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReaderId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The node shall run these partitions: all of them at the start of a single node, one by one where several nodes share them.
    /// Whoever had them before is replaced.
    Gained {
        /// Which.
        partitions: Vec<u16>,
    },
    /// The node shall no longer run these partitions. Nothing is written for them any more; their fences stay as they are.
    Lost {
        /// Which.
        partitions: Vec<u16>,
    },

    /// Answers [`super::Output::ReadOutputFacts`].
    OutputFacts {
        /// Of the output.
        request: RequestId,
        /// The output stream.
        stream: StreamFacts,
    },
    /// Answers [`super::Output::RestartStore`]: the store is empty.
    StoreRestarted {
        /// Of the output.
        request: RequestId,
        /// Where the old store was kept, printable.
        kept_at: Option<String>,
    },
    /// Answers [`super::Output::TakeFences`]: all of them are stored.
    FencesTaken {
        /// Of the output.
        request: RequestId,
        /// For each partition the sequence of its fence on the output stream.
        fences: BTreeMap<u16, u64>,
        /// The sequence of the message behind them, if there was one.
        closing: Option<u64>,
    },
    /// Answers [`super::Output::LookUpOutput`].
    OutputLookedUp {
        /// Of the output.
        request: RequestId,
        /// The process that wrote the message: the `owner` in its body. None if it is not there, or has no owner.
        owner: Option<String>,
    },
    /// Answers [`super::Output::TakeFences`]: none is stored, because one of them is not where it was expected.
    FencesRefused {
        /// Of the output.
        request: RequestId,
    },
    /// Answers [`super::Output::ReadFences`].
    FencesRead {
        /// Of the output.
        request: RequestId,
        /// The last fence of each partition that has one.
        fences: BTreeMap<u16, FenceFacts>,
    },
    /// Answers [`super::Output::ReadOutput`], as often as it takes: the next messages, in the order of the stream.
    OutputRead {
        /// Of the output.
        request: RequestId,
        /// States, committed offsets and incidents; other messages may be left out.
        messages: Vec<OutputMessage>,
        /// Everything up to this sequence has been handed in.
        reached: u64,
    },

    /// Answers [`super::Output::ReadInputFacts`].
    InputFacts {
        /// Of the output.
        request: RequestId,
        /// The input stream.
        stream: StreamFacts,
    },
    /// Answers [`super::Output::LookUpInput`].
    InputLookedUp {
        /// Of the output.
        request: RequestId,
        /// When the message was stored, in nanoseconds since the Unix epoch; none if it is no longer there.
        stored_at_ns: Option<i64>,
    },
    /// Answers [`super::Output::FindInput`].
    InputFound {
        /// Of the output.
        request: RequestId,
        /// The sequence of the first message stored later; none if there is none.
        sequence: Option<u64>,
    },
    /// Answers [`super::Output::Rewind`]: the consumer stands where it was asked to, and deliveries follow.
    Rewound {
        /// Of the output.
        reader: ReaderId,
        /// When the input stream that the consumer is of was created, in nanoseconds since the Unix epoch, asked after the consumer stood
        /// there.
        created_ns: i64,
    },
    /// Messages of the input stream. At most [`super::Node::room`] of them, else the queue grows beyond its bound.
    Delivered {
        /// In the order in which each reader got them.
        deliveries: Vec<Delivered>,
    },
    /// A reader has ended. Deliveries that it handed over before stay valid.
    ReaderFailed {
        /// Which.
        reader: ReaderId,
        /// Why, for people.
        problem: String,
    },

    /// Answers [`super::Output::StoreDeadLetters`]: all of them are on the disk of the server.
    DeadLettersStored {
        /// Of the output.
        batch: BatchId,
    },
    /// Answers [`super::Output::StageBatch`].
    BatchStaged {
        /// Of the output.
        batch: BatchId,
    },
    /// Answers [`super::Output::CommitBatch`]: the batch is stored, whole.
    BatchCommitted {
        /// Of the output.
        batch: BatchId,
        /// The sequence of its last message on the output stream. The messages of a batch are consecutive.
        last_sequence: u64,
        /// How many messages were stored.
        messages_count: u64,
    },
    /// Answers [`super::Output::StageBatch`] or [`super::Output::CommitBatch`]: nothing is stored, because a fence in it is no longer the
    /// last of its partition.
    BatchRefused {
        /// Of the output.
        batch: BatchId,
    },
    /// Answers [`super::Output::StageBatch`] or [`super::Output::CommitBatch`]: nothing is stored, and the same batch never will be.
    BatchTooLarge {
        /// Of the output.
        batch: BatchId,
        /// In what respect.
        limit: Limit,
    },
    /// Answers [`super::Output::StoreDeadLetters`], [`super::Output::StageBatch`] or [`super::Output::CommitBatch`]: certainly nothing of
    /// the batch is stored. It may succeed another time.
    BatchFailed {
        /// Of the output.
        batch: BatchId,
        /// Why, for people.
        problem: String,
    },
    /// Answers [`super::Output::CommitBatch`]: nobody knows whether the batch is stored. It may even be stored later, until its fences
    /// have been taken anew.
    BatchUnknown {
        /// Of the output.
        batch: BatchId,
        /// What went wrong, for people.
        problem: String,
    },

    /// Answers [`super::Output::Apply`]: every reader of the store sees the changes.
    Applied {
        /// Of the output.
        request: RequestId,
    },
    /// Answers [`super::Output::Checkpoint`].
    Checkpointed {
        /// Of the output.
        request: RequestId,
    },
    /// Answers [`super::Output::Apply`], [`super::Output::RestartStore`] or [`super::Output::Checkpoint`]: the disk failed. The node ends.
    StoreFailed {
        /// Why, for people.
        problem: String,
    },

    /// Answers any output with a `request`, but those to the store: it did not work, or nobody knows whether it did. The node tries
    /// again after a pause.
    RequestFailed {
        /// Of the output.
        request: RequestId,
        /// Why, for people.
        problem: String,
    },
    /// Time has passed: due at [`super::Output::WakeAt`], harmless at any other time.
    Tick,
    /// The node shall come to an end: the commits under way are finished, the store is checkpointed, then
    /// [`super::Output::End`].
    Shutdown,
}

/// A stream, as the server describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFacts {
    /// When it was created, in nanoseconds since the Unix epoch: its identity, since its name outlives it.
    pub created_ns: i64,
    /// The last sequence given out; 0 in a new stream.
    pub last_sequence: u64,
}

/// The last message on a partition's fence subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceFacts {
    /// Its sequence.
    pub sequence: u64,
    /// Who wrote it: [`super::NodeOptions::owner`] of some node.
    pub owner: String,
}

/// A message of the output stream, as far as catching up needs it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputMessage {
    /// Its sequence.
    pub sequence: u64,
    /// What its subject says it is.
    pub kind: OutputKind,
    /// Its body.
    #[serde(with = "payload")]
    pub body: Bytes,
}

impl fmt::Debug for OutputMessage {
    /// Without the body, which may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OutputMessage");
        shown.field("sequence", &self.sequence).field("kind", &self.kind).field("body_bytes", &self.body.len()).finish()
    }
}

/// The kinds of messages on the output stream that the store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// The state of a link.
    State,
    /// The committed offset of this partition.
    Mark(u16),
    /// The latest incident of an institution.
    Incident,
    /// Anything else: it only says how far the reading has come.
    Other,
}

/// One delivery, and which one of its reader's it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivered {
    /// Who read it.
    pub reader: ReaderId,
    /// 1 for the first delivery since the consumer was rewound, then 2, 3, …, as the server's consumer counts them. A number left out is
    /// a message that somebody else got.
    pub nth: u64,
    /// The message.
    pub delivery: Delivery,
}

/// What a batch was too large for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The number of messages that the server takes in one batch (`jetstream.limits.batch.max_msgs`; error 10199).
    Messages,
    /// The size of one message: the server's `max_payload`, or the stream's `max_msg_size` (error 10054).
    MessageBytes,
}

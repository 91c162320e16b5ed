//! The inputs of a node: one closed list of values.
//!
//! An answer carries the id of its output. The node ignores an answer to an output that is no longer open, so a driver may hand in late
//! answers, and answers in any order. Every input can be written as JSON: a replayed log of inputs gives the same outputs
//! (`recording.rs`).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::{Delivery, payload};

/// The id that connects an answer with its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// The id of a batch, from its dead letters to its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub u64);

/// The id of a reader of one partition, from one [`super::Output::Rewind`] to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReaderId(pub u64);

/// An input: an event, or the answer to an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The node must run these partitions. A single node gains all of them at its start. The node takes their fences, which replaces any
    /// earlier owner.
    Gained {
        /// The numbers of the partitions.
        partitions: Vec<u16>,
    },
    /// The node must no longer run these partitions. It writes nothing for them any more, and does not change their fences.
    Lost {
        /// The numbers of the partitions.
        partitions: Vec<u16>,
    },

    /// Answers [`super::Output::ReadOutputFacts`].
    OutputFacts {
        /// The id of the output that it answers.
        request: RequestId,
        /// The output stream.
        stream: StreamFacts,
    },
    /// Answers [`super::Output::RestartStore`]: the store is empty.
    StoreRestarted {
        /// The id of the output that it answers.
        request: RequestId,
        /// The directory to which the old store was moved, as printable text; `None` if it was not kept.
        kept_at: Option<String>,
    },
    /// Answers [`super::Output::TakeFences`]: all fences are stored.
    FencesTaken {
        /// The id of the output that it answers.
        request: RequestId,
        /// For each partition the sequence of its fence on the output stream.
        fences: BTreeMap<u16, u64>,
        /// The sequence of the closing message that was stored after them, if the output had one.
        closing: Option<u64>,
    },
    /// Answers [`super::Output::LookUpOutput`].
    OutputLookedUp {
        /// The id of the output that it answers.
        request: RequestId,
        /// The process that wrote the message: the `owner` in its body. `None` if the message does not exist, or has no owner.
        owner: Option<String>,
    },
    /// Answers [`super::Output::TakeFences`]: no fence is stored, because the last fence of a partition has another sequence than expected.
    FencesRefused {
        /// The id of the output that it answers.
        request: RequestId,
    },
    /// Answers [`super::Output::ReadFences`].
    FencesRead {
        /// The id of the output that it answers.
        request: RequestId,
        /// The last fence of each partition that has one.
        fences: BTreeMap<u16, FenceFacts>,
    },
    /// Answers [`super::Output::ReadOutput`], one or more times: the next messages, in the order of the stream.
    OutputRead {
        /// The id of the output that it answers.
        request: RequestId,
        /// States, committed offsets and incidents; other messages may be left out.
        messages: Vec<OutputMessage>,
        /// The driver has handed in every message up to this sequence.
        reached: u64,
    },

    /// Answers [`super::Output::ReadInputFacts`].
    InputFacts {
        /// The id of the output that it answers.
        request: RequestId,
        /// The input stream.
        stream: StreamFacts,
    },
    /// Answers [`super::Output::LookUpInput`].
    InputLookedUp {
        /// The id of the output that it answers.
        request: RequestId,
        /// When the message was stored, in nanoseconds since the Unix epoch; `None` if the stream no longer has it.
        stored_at_ns: Option<i64>,
    },
    /// Answers [`super::Output::FindInput`].
    InputFound {
        /// The id of the output that it answers.
        request: RequestId,
        /// The sequence of the first message that was stored after the time; `None` if there is no such message.
        sequence: Option<u64>,
    },
    /// Answers [`super::Output::ReadStreamTime`].
    StreamTime {
        /// The id of the output that it answers.
        request: RequestId,
        /// The time of the server when it answered, in nanoseconds since the Unix epoch.
        stream_at_ns: i64,
        /// The wall clock of the host when the answer arrived, in milliseconds since the Unix epoch.
        host_at_ms: i64,
    },
    /// Answers [`super::Output::ReadInputEnds`].
    InputEnds {
        /// The id of the output that it answers.
        request: RequestId,
        /// For how long the oldest message of the journal has waited, in milliseconds; 0 if nothing waits. The driver must look at the journal
        /// before it asks for `ends`.
        waited_ms: u64,
        /// For each partition, a sequence of the input stream: the partition has no message behind it, or none that was stored before the question.
        ends: BTreeMap<u16, u64>,
    },
    /// Answers [`super::Output::Rewind`]: the consumer is reset to the sequence, and deliveries follow.
    Rewound {
        /// The id of the output that it answers.
        reader: ReaderId,
        /// When the input stream of the consumer was created, in nanoseconds since the Unix epoch. The driver reads it after the reset.
        created_ns: i64,
        /// How many messages the stream has for this reader. `None`: unknown.
        pending: Option<u64>,
    },
    /// Messages of the input stream: at most [`super::Node::room`] of them, because the queue does not check its limit.
    Delivered {
        /// The deliveries; those of one reader are in the order in which it got them.
        deliveries: Vec<Delivered>,
    },
    /// A reader has ended with an error. Its earlier deliveries stay valid.
    ReaderFailed {
        /// The reader.
        reader: ReaderId,
        /// The error text, for the log.
        problem: String,
    },

    /// Answers [`super::Output::StoreDeadLetters`]: the server has stored all of them.
    DeadLettersStored {
        /// The id of the output that it answers.
        batch: BatchId,
    },
    /// Answers [`super::Output::StageBatch`]: the server has received all messages of the batch except the last one.
    BatchStaged {
        /// The id of the output that it answers.
        batch: BatchId,
    },
    /// Answers [`super::Output::CommitBatch`]: the whole batch is stored.
    BatchCommitted {
        /// The id of the output that it answers.
        batch: BatchId,
        /// The sequence of its last message on the output stream. The messages of a batch are consecutive.
        last_sequence: u64,
        /// The number of messages that were stored.
        messages_count: u64,
    },
    /// Answers [`super::Output::StageBatch`] or [`super::Output::CommitBatch`]: nothing is stored, because a fence that the batch names is
    /// no longer the last one of its partition, or because the previous closing message of this node is no longer on the stream.
    BatchRefused {
        /// The id of the output that it answers.
        batch: BatchId,
    },
    /// Answers [`super::Output::StageBatch`] or [`super::Output::CommitBatch`]: nothing is stored, and a retry of the same batch would fail
    /// too.
    BatchTooLarge {
        /// The id of the output that it answers.
        batch: BatchId,
        /// The limit that the batch exceeds.
        limit: Limit,
    },
    /// Answers [`super::Output::StoreDeadLetters`], [`super::Output::StageBatch`] or [`super::Output::CommitBatch`]: nothing of the batch
    /// is stored on the output stream. A retry may succeed.
    BatchFailed {
        /// The id of the output that it answers.
        batch: BatchId,
        /// The error text, for the log.
        problem: String,
    },
    /// Answers [`super::Output::CommitBatch`]: it is unknown whether the batch is stored. The server may even store it later, until new
    /// fences are taken.
    BatchUnknown {
        /// The id of the output that it answers.
        batch: BatchId,
        /// The error text, for the log.
        problem: String,
    },

    /// Answers [`super::Output::Apply`]: reads of the store return the changes.
    Applied {
        /// The id of the output that it answers.
        request: RequestId,
    },
    /// Answers [`super::Output::Checkpoint`]: every applied change is on stable storage.
    Checkpointed {
        /// The id of the output that it answers.
        request: RequestId,
    },
    /// Answers [`super::Output::Apply`], [`super::Output::RestartStore`] or [`super::Output::Checkpoint`]: the write failed. The node ends.
    StoreFailed {
        /// The error text, for the log.
        problem: String,
    },

    /// Answers any output with a `request`, except those to the store: the request failed, or its outcome is unknown. The node tries again
    /// after a pause.
    RequestFailed {
        /// The id of the output that it answers.
        request: RequestId,
        /// The error text, for the log.
        problem: String,
    },
    /// A stream may have been created again: the node takes its fences anew, and finds out. At any other time this is harmless.
    StartOver {
        /// The reason, for the log.
        problem: String,
    },
    /// The time of the last [`super::Output::WakeAt`] has come. A tick at any other time is harmless.
    Tick,
    /// The node must end. It finishes the commits in flight and checkpoints the store; then its last output is [`super::Output::End`].
    Shutdown,
}

/// The server's description of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFacts {
    /// When the stream was created, in nanoseconds since the Unix epoch. The creation time identifies the stream, because a new stream may have the same name.
    pub created_ns: i64,
    /// The last sequence that the stream has assigned; 0 in a new stream.
    pub last_sequence: u64,
}

/// The last message on a partition's fence subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceFacts {
    /// The sequence of the message.
    pub sequence: u64,
    /// The [`super::NodeOptions::owner`] of the node that wrote it.
    pub owner: String,
}

/// A message of the output stream, with the parts that catching up needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputMessage {
    /// The sequence of the message.
    pub sequence: u64,
    /// The kind of the message, from its subject.
    pub kind: OutputKind,
    /// The body.
    #[serde(with = "payload")]
    pub body: Bytes,
}

impl fmt::Debug for OutputMessage {
    /// Omits the body, which may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OutputMessage");
        shown.field("sequence", &self.sequence).field("kind", &self.kind).field("body_bytes", &self.body.len()).finish()
    }
}

/// The kinds of messages on the output stream, for catching up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// The state of a link.
    State,
    /// The committed offset of this partition.
    Offset(u16),
    /// The latest incident of an institution.
    Incident,
    /// The last message of a commit.
    Commit,
    /// Any other kind; only its sequence matters, as the progress of the read.
    Other,
}

/// A delivery, with its number in the count of its reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivered {
    /// The reader that got the delivery.
    pub reader: ReaderId,
    /// The server's consumer counts deliveries: 1 is the first one since the consumer was reset. A missing number means that another client
    /// got that message.
    pub nth: u64,
    /// How many messages of the partition the stream had behind this one. `None`: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// The message.
    pub delivery: Delivery,
}

/// The limit that a batch exceeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The number of messages that the server takes in one batch (`jetstream.limits.batch.max_msgs`; error 10199).
    Messages,
    /// The size of one message: the server's `max_payload`, or the stream's `max_msg_size` (error 10054).
    MessageBytes,
}

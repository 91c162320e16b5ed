//! What a node wants done: one closed list of values. The driver does it, and answers with the input that the output's comment names.
//!
//! Outputs are to be begun in the order in which they are drained. Those that write the store ([`Output::Apply`],
//! [`Output::RestartStore`]) are to be finished in that order too; all others may take their time and overtake one another.

use std::collections::BTreeMap;

use super::input::{BatchId, ReaderId, RequestId};
use crate::contract::IncidentBody;
use crate::engine::{Dead, Message, Outgoing, TallyKey};
use crate::link::{LinkId, Timestamp};
use crate::store::Changes;

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Ask for the output stream's identity and last sequence. Answer: `OutputFacts` or `RequestFailed`.
    ReadOutputFacts {
        /// For the answer.
        request: RequestId,
    },
    /// Empty the store, which knows more than the output stream (`Store::restart_empty`). Answer: `StoreRestarted` or `StoreFailed`.
    RestartStore {
        /// For the answer.
        request: RequestId,
    },
    /// Store these fences on the output stream, all or none. From then on the commits of every earlier owner are refused.
    /// Answer: `FencesTaken`, `FencesRefused`, or `RequestFailed` also where nobody knows.
    TakeFences {
        /// For the answer.
        request: RequestId,
        /// One for each partition.
        fences: Vec<FenceToTake>,
        /// A message to store behind them: the first of this process's commits, none where commits are under way.
        closing: Option<Message>,
    },
    /// Ask who wrote a message of the output stream. Answer: `OutputLookedUp` or `RequestFailed`.
    LookUpOutput {
        /// For the answer.
        request: RequestId,
        /// Its sequence.
        sequence: u64,
    },
    /// Read the last fence of each of these partitions. Answer: `FencesRead` or `RequestFailed`.
    ReadFences {
        /// For the answer.
        request: RequestId,
        /// Which.
        partitions: Vec<u16>,
    },
    /// Read the output stream: states, committed offsets, incidents and fences. Answer: `OutputRead`, again and again, until it has reached
    /// `up_to`, which is the sequence of such a message; or `RequestFailed`, at any time.
    ReadOutput {
        /// For the answers.
        request: RequestId,
        /// Read everything behind this sequence. `None`: the last message of each subject is enough.
        after: Option<u64>,
        /// Where to stop.
        up_to: u64,
    },

    /// Ask for the input stream's identity and last sequence. Answer: `InputFacts` or `RequestFailed`.
    ReadInputFacts {
        /// For the answer.
        request: RequestId,
    },
    /// Ask when a message of the input stream was stored. Answer: `InputLookedUp` or `RequestFailed`.
    LookUpInput {
        /// For the answer.
        request: RequestId,
        /// Its sequence.
        sequence: u64,
    },
    /// Find the first message of the input stream that was stored after a time. Answer: `InputFound` or `RequestFailed`.
    FindInput {
        /// For the answer.
        request: RequestId,
        /// The time, in nanoseconds since the Unix epoch.
        after_ns: i64,
    },
    /// End the partition's reader, if there is one; put the partition's consumer behind a sequence, whatever it remembers; read on from
    /// there. Answer: `Rewound`, then `Delivered` again and again; or `ReaderFailed`, at any time.
    Rewind {
        /// The new reader, for the answers.
        reader: ReaderId,
        /// Which partition.
        partition: u16,
        /// The last sequence that is not to be delivered.
        behind: u64,
    },
    /// End the partition's reader. No answer.
    StopReader {
        /// Which partition.
        partition: u16,
    },

    /// Make these dead letters durable. Answer: `DeadLettersStored` or `BatchFailed`.
    StoreDeadLetters {
        /// The batch that has to wait for them.
        batch: BatchId,
        /// When the input stream was created, in nanoseconds since the Unix epoch: the identity of the stream that they lay in.
        input_created_ns: i64,
        /// What is set aside.
        letters: Vec<Dead>,
    },
    /// Send a batch to the server without making it real. Answer: `BatchStaged`, `BatchRefused`, `BatchTooLarge` or `BatchFailed`.
    StageBatch {
        /// For the answer.
        batch: BatchId,
        /// The messages, in order. Where one names a fence, the whole batch is to be refused unless that is the last message on the
        /// fence subject of the message's partition.
        messages: Vec<Outgoing>,
    },
    /// Send the last message of a staged batch, which makes it real. Answer: `BatchCommitted`, `BatchRefused`, `BatchTooLarge`, `BatchFailed` or `BatchUnknown`.
    CommitBatch {
        /// Which.
        batch: BatchId,
        /// Its last message.
        closing: Closing,
    },
    /// Give a staged batch up. No answer.
    DiscardBatch {
        /// Which.
        batch: BatchId,
    },

    /// Apply a commit, or what was read, to the store (`Store::apply`). Answer: `Applied` or `StoreFailed`.
    Apply {
        /// For the answer.
        request: RequestId,
        /// The changes.
        changes: Changes,
    },
    /// Put the store on stable storage (`Store::checkpoint`). Answer: `Checkpointed` or `StoreFailed`.
    Checkpoint {
        /// For the answer.
        request: RequestId,
    },
    /// Tell JetStream that everything up to these deliveries has been handled. A hint: one that is lost costs a redelivery. No answer.
    Acknowledge {
        /// The receipts of the deliveries ([`crate::engine::Delivery::receipt`]).
        receipts: Vec<String>,
    },

    /// Hand in a `Tick` at this time, instead of the time asked for before.
    WakeAt {
        /// When.
        at: Timestamp,
    },
    /// A partition has come to its end here: it is no longer read or written. The others go on. No answer.
    PartitionEnded {
        /// Which.
        partition: u16,
        /// Why.
        why: PartitionEnd,
    },
    /// Something that people should see: for the log and the metrics. No answer.
    Note(Note),
    /// The last output. No answer; the node ignores whatever comes.
    End {
        /// Why.
        why: End,
    },
}

/// A fence to be written.
#[derive(Clone, Debug)]
pub struct FenceToTake {
    /// Of which partition.
    pub partition: u16,
    /// The sequence that the partition's last fence must have, 0 for none; `None`: whatever is there is replaced.
    pub expects: Option<u64>,
    /// The message.
    pub message: Message,
}

/// The last message of a commit. Its subject is this process's own ([`crate::contract::Address::Commit`]).
#[derive(Clone, Debug)]
pub struct Closing {
    /// The whole batch is to be refused unless this is the sequence of the last message on the subject: what this process wrote last is
    /// still on the stream.
    pub follows: u64,
    /// The message.
    pub message: Message,
}

/// Why a partition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionEnd {
    /// Another node has taken its fence.
    Taken,
    /// [`super::Input::Lost`].
    GivenUp,
}

/// Why a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// [`super::Input::Shutdown`].
    Stopped,
    /// Other nodes have taken the fences of all its partitions.
    Fenced,
    /// The store failed.
    Store {
        /// How, for people.
        problem: String,
    },
    /// A record is from a newer relink.
    Record {
        /// What is wrong, for people.
        problem: String,
    },
}

/// What people should see.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A slice was planned: how many inputs of which kind came to what.
    Planned {
        /// The counts.
        counts: BTreeMap<TallyKey, u64>,
    },
    /// A commit is on its way.
    Committing {
        /// How many messages it has.
        messages_count: u64,
    },
    /// A commit is stored and applied.
    Committed {
        /// The incidents that began or ended with it.
        incidents: Vec<IncidentBody>,
        /// How many prompts begin to wait for the end of an incident.
        prompts_held_count: u64,
        /// How many incidents are on now.
        incidents_count: usize,
        /// Fields of its inputs that could not be read, as paths; each with its link. Their messages counted without them.
        unread: Vec<(LinkId, &'static str)>,
    },
    /// The store is up to the fences.
    CaughtUp {
        /// How many states were read.
        states_count: u64,
        /// Whether the store was empty and has been rebuilt.
        rebuilt: bool,
    },
    /// The store knew more than the output stream, and was emptied.
    StoreRestarted {
        /// How far the store had come.
        store_sequence: u64,
        /// How far the stream has come.
        stream_last_sequence: u64,
        /// Whether the stream is another one.
        stream_is_another: bool,
        /// Where the old store was kept, printable.
        kept_at: Option<String>,
    },
    /// The input stream was created anew; the partition starts at its beginning.
    InputStreamIsAnother {
        /// Which partition.
        partition: u16,
    },
    /// The input stream lost its tail, and with it messages that it had acknowledged; the partition goes on with what was stored since.
    InputTailLost {
        /// Which partition.
        partition: u16,
        /// How far it had been handled.
        committed: u64,
        /// How far the stream has come.
        stream_last_sequence: u64,
        /// Behind which message the partition goes on.
        behind: u64,
    },
    /// The output stream lost its tail while the node was running.
    OutputTailLost {
        /// How far the store has come.
        store_sequence: u64,
        /// Where a new commit was stored.
        commit_sequence: u64,
    },
    /// A message on the output stream is not one of ours and was skipped.
    Skipped {
        /// Its sequence.
        sequence: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A batch was too large; the next ones hold less.
    TooLarge {
        /// What was in it: deliveries and timers.
        items_count: usize,
        /// What it was too large for.
        limit: super::Limit,
    },
    /// relink's own record of a link cannot be read: what is delivered for the link is set aside, its timers are left alone, and all
    /// other links go on.
    LinkUnreadable {
        /// Which.
        link: LinkId,
    },
    /// A timer cannot be stored, however small its batch; it is left alone until the next start.
    TimerSetAside {
        /// Of which link, or of which institution's incident.
        of: String,
    },
    /// Something that passes: these partitions start again behind their committed offsets.
    StartingOver {
        /// Why.
        problem: String,
        /// After how long, in milliseconds.
        pause_ms: u64,
    },
}

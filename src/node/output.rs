//! The outputs of a node: one closed list of values. The driver performs an output, and answers with an input that the output's comment
//! names.
//!
//! The driver begins outputs in the order in which it polls them. The driver finishes writes to the store ([`Output::Apply`],
//! [`Output::RestartStore`], [`Output::Checkpoint`]) in that order too. All other outputs may finish in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::input::{BatchId, ReaderId, RequestId};
use crate::contract::IncidentBody;
use crate::engine::{Activity, DeadDelivery, Message, Outgoing, StepSpan, TallyKey};
use crate::link::{LinkId, Timestamp};
use crate::store::Changes;

/// An action that the driver must perform.
#[derive(Debug)]
pub enum Output {
    /// Read the output stream's creation time and last sequence. Answer: `OutputFacts` or `RequestFailed`.
    ReadOutputFacts {
        /// The answer carries this id.
        request: RequestId,
    },
    /// Empty the store, because it has messages that are not on the output stream (`Store::restart_empty`). Answer: `StoreRestarted` or
    /// `StoreFailed`.
    RestartStore {
        /// The answer carries this id.
        request: RequestId,
    },
    /// Store these fences on the output stream, all or none. From then on the server refuses every commit of an earlier owner.
    /// Answer: `FencesTaken`, `FencesRefused`, or `RequestFailed`, also if the outcome is unknown.
    TakeFences {
        /// The answer carries this id.
        request: RequestId,
        /// One for each partition.
        fences: Vec<FenceToTake>,
        /// A closing message to store after the fences; the node's first commit must follow it. `None` if the node commits already.
        closing: Option<Message>,
    },
    /// Read the owner of one message of the output stream. Answer: `OutputLookedUp` or `RequestFailed`.
    LookUpOutput {
        /// The answer carries this id.
        request: RequestId,
        /// The sequence of the message.
        sequence: u64,
    },
    /// Read the last fence of each of these partitions. Answer: `FencesRead` or `RequestFailed`.
    ReadFences {
        /// The answer carries this id.
        request: RequestId,
        /// The numbers of the partitions.
        partitions: Vec<u16>,
    },
    /// Read the output stream: states, committed offsets, incidents, fences and the last messages of commits. Answer: `OutputRead`, repeated until `up_to` is reached; or
    /// `RequestFailed`, at any time.
    ReadOutput {
        /// Every answer carries this id.
        request: RequestId,
        /// Read every message after this sequence. `None`: read only the last message of each subject.
        after: Option<u64>,
        /// The read ends when it has reached this sequence.
        up_to: u64,
    },

    /// Read the input stream's creation time and last sequence. Answer: `InputFacts` or `RequestFailed`.
    ReadInputFacts {
        /// The answer carries this id.
        request: RequestId,
    },
    /// Read when a message of the input stream was stored. Answer: `InputLookedUp` or `RequestFailed`.
    LookUpInput {
        /// The answer carries this id.
        request: RequestId,
        /// The sequence of the message.
        sequence: u64,
    },
    /// Find the first message of the input stream that was stored after a time. Answer: `InputFound` or `RequestFailed`.
    FindInput {
        /// The answer carries this id.
        request: RequestId,
        /// The time, in nanoseconds since the Unix epoch.
        after_ns: i64,
    },
    /// Ask the server that has the input stream for its time. Answer: `StreamTime` or `RequestFailed`.
    ReadStreamTime {
        /// The answer carries this id.
        request: RequestId,
    },
    /// Find out which inputs relink has accepted and this node may not have: first look since when the journal of this process has messages,
    /// then read the last sequence of the input stream, and then ask the consumer of each partition for the last message that it has
    /// delivered. If it has more to deliver, the end of the partition is that of the stream. Answer: `InputEnds` or `RequestFailed`.
    ReadInputEnds {
        /// The answer carries this id.
        request: RequestId,
        /// The numbers of the partitions.
        partitions: Vec<u16>,
    },
    /// End the partition's reader, if there is one. Reset the partition consumer to a sequence, without regard to the acknowledgements that JetStream has, and start a new reader. Answer: `Rewound`, then `Delivered` for each message; or `ReaderFailed`, at any time.
    Rewind {
        /// The new reader. Every answer carries this id.
        reader: ReaderId,
        /// The number of the partition.
        partition: u16,
        /// The last sequence that is handled already. The first delivery is the message after it.
        behind: u64,
    },
    /// End the partition's reader. No answer.
    StopReader {
        /// The number of the partition.
        partition: u16,
    },

    /// Store these dead letters on the dead-letter stream. Answer: `DeadLettersStored` or `BatchFailed`.
    StoreDeadLetters {
        /// The batch that follows. The answer carries this id.
        batch: BatchId,
        /// When the input stream was created, in nanoseconds since the Unix epoch: the identity of the stream from which they come.
        input_created_ns: i64,
        /// The dead letters.
        letters: Vec<DeadDelivery>,
    },
    /// Send all messages of a batch except the last one; the server does not store them yet. Answer: `BatchStaged`, `BatchRefused`,
    /// `BatchTooLarge` or `BatchFailed`.
    StageBatch {
        /// The answer carries this id.
        batch: BatchId,
        /// The messages, in order. If a message names a fence, the server must refuse the whole batch unless that fence is the last message
        /// on the fence subject of the message's partition.
        messages: Vec<Outgoing>,
    },
    /// Send the last message of a staged batch. The server then stores the whole batch or refuses it. Answer: `BatchCommitted`,
    /// `BatchRefused`, `BatchTooLarge`, `BatchFailed` or `BatchUnknown`.
    CommitBatch {
        /// The answer carries this id.
        batch: BatchId,
        /// The last message.
        closing: Closing,
    },
    /// Discard a staged batch: never send its last message. No answer.
    DiscardBatch {
        /// The id of the batch.
        batch: BatchId,
    },

    /// Write changes to the store (`Store::apply`): those of a commit, or those read from the output stream. Answer: `Applied` or
    /// `StoreFailed`.
    Apply {
        /// The answer carries this id.
        request: RequestId,
        /// The changes.
        changes: Changes,
    },
    /// Make every applied change durable (`Store::checkpoint`). Answer: `Checkpointed` or `StoreFailed`.
    Checkpoint {
        /// The answer carries this id.
        request: RequestId,
    },
    /// Acknowledge everything up to these deliveries to JetStream. This is a hint: if it is lost, JetStream delivers the messages again,
    /// and the node skips them. No answer.
    Acknowledge {
        /// The receipts of the deliveries ([`crate::engine::Delivery::receipt`]).
        receipts: Vec<String>,
    },

    /// Hand in a `Tick` at this time. It replaces the time of the previous `WakeAt`.
    WakeAt {
        /// The time of the tick, by the driver's own clock.
        at: Timestamp,
    },
    /// The node no longer reads or writes this partition. Its other partitions go on. No answer.
    PartitionEnded {
        /// The number of the partition.
        partition: u16,
        /// The reason.
        why: PartitionEnd,
    },
    /// An entry for the log and the metrics. No answer.
    Note(Note),
    /// The last output. The node ignores every later input.
    End {
        /// The reason.
        why: End,
    },
}

/// A fence to write.
#[derive(Clone, Debug)]
pub struct FenceToTake {
    /// The number of the partition.
    pub partition: u16,
    /// The sequence that the partition's last fence must have now; 0 if there must be none. `None`: replace any fence.
    pub expects: Option<u64>,
    /// The message.
    pub message: Message,
}

/// The closing message: the last message of a commit. Its subject belongs to this node alone ([`crate::contract::Address::Commit`]).
#[derive(Clone, Debug)]
pub struct Closing {
    /// The sequence of the node's previous closing message. The server must refuse the whole batch unless this is the last message on the
    /// subject. So no commit is stored on a stream that has lost the previous one.
    pub follows: u64,
    /// The message.
    pub message: Message,
}

/// The reason why a partition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionEnd {
    /// Another node has taken its fence.
    Taken,
    /// The driver handed in [`super::Input::Lost`].
    GivenUp,
}

/// The reason why a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The driver handed in [`super::Input::Shutdown`].
    Stopped,
    /// Other nodes have taken the fences of all its partitions.
    Fenced,
    /// The store failed.
    Store {
        /// The error text, for the log.
        problem: String,
    },
    /// A newer version of relink wrote a record, and this version cannot read it.
    Record {
        /// The error text, for the log.
        problem: String,
    },
}

/// An entry for the log and the metrics.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// The engine made a plan.
    Planned {
        /// The number of inputs by their kind and outcome.
        counts: BTreeMap<TallyKey, u64>,
    },
    /// A commit is stored.
    Stored {
        /// The number of messages of the commit.
        messages_count: u64,
        /// The time from its closing message to the answer of NATS.
        took: Duration,
        /// Its steps, if they are recorded as spans.
        spans: Vec<StepSpan>,
        /// How long ago it was planned.
        planned_ago: Duration,
    },
    /// A commit is stored and applied.
    Committed {
        /// The incidents that began or ended in this commit.
        incidents: Vec<IncidentBody>,
        /// What the steps did, as numbers.
        activity: Box<Activity>,
        /// The number of incidents that have not ended.
        incidents_count: usize,
        /// Paths of fields that could not be read, each with the link of its input. The inputs were handled without these fields.
        unreadable_fields: Vec<(LinkId, &'static str)>,
    },
    /// The store has every message of the output stream up to the fences.
    CaughtUp {
        /// The number of states that were read.
        states_count: u64,
        /// Whether the store was empty and has been rebuilt.
        rebuilt: bool,
    },
    /// Messages were removed from the input stream before the node has read them: by a purge, a deletion, a size limit or their age.
    InputsRemoved {
        /// The partition.
        partition: u16,
        /// The number of removed messages. Messages that arrived in the same time hide as many.
        at_least: u64,
        /// The sequence of the next message that the node got.
        before: u64,
    },
    /// The output stream has lost states in its middle: its last digest is not that of the states that the node has read.
    StatesLost {
        /// The number of links that the node has read.
        links_count: u64,
        /// The number of links in the digest.
        expected_links_count: u64,
        /// The link, if only one state is missing, and the version of that state. The node continues after this version.
        link: Option<(LinkId, u64)>,
    },
    /// The store had messages that are not on the output stream, so it was emptied.
    StoreRestarted {
        /// The last sequence of the output stream that the store had.
        store_sequence: u64,
        /// The last sequence of the output stream.
        stream_last_sequence: u64,
        /// Whether the output stream was deleted and created again.
        stream_is_another: bool,
        /// The directory to which the old store was moved, as printable text; `None` if it was not kept.
        kept_at: Option<String>,
    },
    /// The input stream was restored from a backup, or moved to another server or account: its creation time is another one, but it has the
    /// message at the committed offset.
    InputStreamMoved {
        /// The number of the partition.
        partition: u16,
        /// The partition resumes after this sequence.
        behind: u64,
    },
    /// The input stream was deleted and created again, so the partition starts at the stream's beginning.
    InputStreamIsAnother {
        /// The number of the partition.
        partition: u16,
    },
    /// The input stream lost its last messages, although it had acknowledged them. The partition resumes with the first message that was
    /// stored after the loss.
    InputTailLost {
        /// The number of the partition.
        partition: u16,
        /// The sequence of the committed offset.
        committed: u64,
        /// The last sequence of the input stream.
        stream_last_sequence: u64,
        /// The partition resumes after this sequence.
        behind: u64,
    },
    /// Deadlines have waited for inputs that relink has accepted and could not handle. Now they no longer wait.
    TimersHeldTooLong {
        /// For how long they have waited.
        held: Duration,
    },
    /// The server's clock has another time than expected: it has jumped, or the clock of this host has, or was wrong at the start.
    ClockJumped {
        /// By how many milliseconds the server is ahead of the expected time; negative: behind it.
        by_ms: i64,
        /// Whether the jump has stayed for a minute, so that the new time counts.
        is_confirmed: bool,
    },
    /// The wall clock of this host was changed.
    HostClockJumped {
        /// By how many milliseconds; negative: back.
        by_ms: i64,
    },
    /// The server's clock has the expected time again, after a jump.
    ClockRight,
    /// The output stream lost its last messages while the node was running.
    OutputTailLost {
        /// The last sequence that the store has.
        store_sequence: u64,
        /// The first sequence of the commit that was stored after the loss. It is not higher than `store_sequence`.
        commit_sequence: u64,
    },
    /// A message on the output stream cannot be read, so it was skipped.
    Skipped {
        /// The sequence of the message.
        sequence: u64,
        /// The error text.
        problem: String,
    },
    /// A batch was too large. The next plans have fewer items.
    TooLarge {
        /// The number of deliveries and timers in the batch.
        items_count: usize,
        /// The limit that the batch exceeds.
        limit: super::Limit,
    },
    /// relink's own record of a link cannot be read. Deliveries for the link become dead letters, its timers do not fire, and all other
    /// links go on.
    LinkUnreadable {
        /// The link.
        link: LinkId,
    },
    /// A timer panicked, or its own batch is too large. It does not fire again until the next start.
    TimerSetAside {
        /// The id of the link, or the institution of the incident.
        of: String,
    },
    /// A temporary failure. The node tries again after a pause, and reads the partitions after their committed offsets.
    StartingOver {
        /// The error text.
        problem: String,
        /// The length of the pause, in milliseconds.
        pause_ms: u64,
    },
}

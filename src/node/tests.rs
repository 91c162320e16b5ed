//! The node with scripted streams: one test for each way in which something can fail.

mod chain;
mod complete;
mod driver;
mod lost_states;
mod places;
mod times;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::engine::Outgoing;
use crate::link::PolicySettings;
use crate::store::{Changes, MemoryStore};

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const US: &str = "us";
const INPUT_NS: i64 = 11;
const OUTPUT_NS: i64 = 22;

/// A node with streams that answer common outputs at once. Other outputs are returned to the test.
struct Rig {
    node: Node<MemoryStore>,
    now: Timestamp,
    output_last: u64,
    input_last: u64,
    fences: BTreeMap<u16, FenceFacts>,
    readers: BTreeMap<u16, (ReaderId, u64)>,
    rewound: Vec<(u16, u64)>,
    /// The prefix of message ids that make a batch too large.
    too_large_link: Option<&'static str>,
    /// The most messages of a batch.
    batch_messages_max: usize,
    staged: BTreeMap<BatchId, Vec<Outgoing>>,
    committed: Vec<String>,
    /// The bodies of all committed messages.
    bodies: Vec<String>,
    dead: Vec<(u64, &'static str)>,
    /// The sequence of the last closing message, and for each batch the sequence that it expects there.
    closed_at: u64,
    closings: BTreeMap<BatchId, u64>,
    /// Messages of the output stream that were lost and replaced by messages of other nodes.
    lost_sequences: std::ops::RangeInclusive<u64>,
    /// What reads of the output stream return.
    readable: Vec<OutputMessage>,
    acknowledged: Vec<String>,
    notes: Vec<Note>,
    /// Whether the streams answer commits, and questions about the input stream.
    answers_commits: bool,
    answers_input_facts: bool,
    /// Whether the store answers writes, and those that it has not made.
    answers_writes: bool,
    writes: VecDeque<(RequestId, Changes)>,
    /// Whether readers find an input stream that was created again.
    is_input_recreated: bool,
    /// How many messages wait for a reader when it starts.
    pending_at_start: Option<u64>,
    /// The end of each partition, and how long the oldest message of the journal has waited.
    input_ends: BTreeMap<u16, u64>,
    journal_waited: Duration,
    /// By how many milliseconds the server's clock is ahead.
    server_ahead_ms: i64,
}

impl Rig {
    fn new(partitions: &[u16]) -> Self {
        let mut rig = Self::over(MemoryStore::default());
        assert_eq!(rig.drive(Input::Gained { partitions: partitions.to_vec() }), Vec::<String>::new());
        assert_eq!(rig.node.phase(), Phase::Running);
        rig
    }

    /// A rig whose node has no partition yet.
    fn over(store: MemoryStore) -> Self {
        // Without keys: the prompts of these links, which nobody reads, wait for no read.
        let policy = Policy::new(PolicySettings { can_verify: false, ..PolicySettings::default() }).unwrap();
        let options =
            NodeOptions { owner: US.to_owned(), writer: US.to_owned(), partitions_count: 4, policy, plan_ahead_min: 1 };
        Self {
            node: Node::new(options, store),
            now: START,
            output_last: 0,
            input_last: 0,
            fences: BTreeMap::new(),
            readers: BTreeMap::new(),
            rewound: Vec::new(),
            too_large_link: None,
            batch_messages_max: usize::MAX,
            staged: BTreeMap::new(),
            committed: Vec::new(),
            bodies: Vec::new(),
            dead: Vec::new(),
            closed_at: 0,
            closings: BTreeMap::new(),
            lost_sequences: 0..=0,
            readable: Vec::new(),
            acknowledged: Vec::new(),
            notes: Vec::new(),
            answers_commits: true,
            answers_input_facts: true,
            answers_writes: true,
            writes: VecDeque::new(),
            is_input_recreated: false,
            pending_at_start: None,
            input_ends: BTreeMap::new(),
            journal_waited: Duration::ZERO,
            server_ahead_ms: 0,
        }
    }

    /// Hands in an input and answers the outputs that follow. Returns the debug texts of the outputs that were not answered.
    fn drive(&mut self, input: Input) -> Vec<String> {
        let (mut inputs, mut rest) = (VecDeque::from([input]), Vec::new());
        while let Some(input) = inputs.pop_front() {
            self.node.handle(self.now, input);
            while let Some(output) = self.node.poll_output() {
                match self.perform(output) {
                    Ok(answer) => inputs.extend(answer),
                    Err(output) => rest.push(format!("{output:?}")),
                }
            }
        }
        rest
    }

    fn stream_now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.as_millis() + self.server_ahead_ms)
    }

    fn perform(&mut self, output: Output) -> Result<Option<Input>, Box<Output>> {
        let facts = |created_ns, last_sequence| StreamFacts { created_ns, last_sequence };
        Ok(Some(match output {
            Output::ReadOutputFacts { request } => {
                Input::OutputFacts { request, stream: facts(OUTPUT_NS, self.output_last) }
            }
            Output::ReadInputFacts { request } => {
                if !self.answers_input_facts {
                    return Err(Box::new(Output::ReadInputFacts { request }));
                }
                Input::InputFacts { request, stream: facts(INPUT_NS, self.input_last) }
            }
            Output::ReadStreamTime { request } => Input::StreamTime {
                request,
                stream_at_ns: self.stream_now().as_millis() * 1_000_000,
                host_at_ms: self.now.as_millis(),
            },
            Output::LookUpInput { request, sequence } => {
                Input::InputLookedUp { request, stored_at_ns: Some(stored_at_ns(sequence)) }
            }
            Output::ReadFences { request, .. } => Input::FencesRead { request, fences: self.fences.clone() },
            Output::LookUpOutput { request, sequence } => Input::OutputLookedUp {
                request,
                owner: (!self.lost_sequences.contains(&sequence)).then(|| US.to_owned()),
            },
            Output::TakeFences { request, fences, closing } => {
                let there = |partition| self.fences.get(&partition).map_or(0, |fence: &FenceFacts| fence.sequence);
                if fences.iter().any(|fence| fence.expects.is_some_and(|expects| expects != there(fence.partition))) {
                    return Ok(Some(Input::FencesRefused { request }));
                }
                let taken = fences.iter().map(|fence| (fence.partition, self.take(fence.partition, US))).collect();
                let closing = closing.map(|_first| self.close());
                Input::FencesTaken { request, fences: taken, closing }
            }
            Output::ReadOutput { request, after, up_to } => {
                let is_after = |message: &&OutputMessage| after.is_none_or(|after| message.sequence > after);
                let messages = self.readable.iter().filter(is_after).cloned().collect();
                Input::OutputRead { request, messages, reached: up_to }
            }
            Output::RestartStore { request } => {
                self.node.store().restart_empty().unwrap();
                Input::StoreRestarted { request, kept_at: None }
            }
            Output::ReadInputEnds { request, partitions } => {
                let ends = partitions
                    .into_iter()
                    .map(|number| (number, *self.input_ends.get(&number).unwrap_or(&0)))
                    .collect();
                let waited_ms = u64::try_from(self.journal_waited.as_millis()).unwrap();
                Input::InputEnds { request, waited_ms, ends }
            }
            Output::Rewind { reader, partition, behind } => {
                self.readers.insert(partition, (reader, 0));
                self.rewound.push((partition, behind));
                let created_ns = INPUT_NS + i64::from(self.is_input_recreated);
                Input::Rewound { reader, created_ns, pending: self.pending_at_start }
            }
            Output::StoreDeadLetters { batch, letters, .. } => {
                self.dead.extend(letters.iter().map(|dead| (dead.delivery.sequence, dead.reason.as_str())));
                Input::DeadLettersStored { batch }
            }
            Output::StageBatch { batch, messages } => {
                let is_too_large = |too_large_link: &str| {
                    messages.iter().any(|outgoing| outgoing.message.id.starts_with(too_large_link))
                };
                if self.too_large_link.is_some_and(is_too_large) {
                    return Ok(Some(Input::BatchTooLarge { batch, limit: Limit::MessageBytes }));
                }
                if messages.len() > self.batch_messages_max {
                    return Ok(Some(Input::BatchTooLarge { batch, limit: Limit::Messages }));
                }
                self.staged.insert(batch, messages);
                Input::BatchStaged { batch }
            }
            Output::CommitBatch { batch, closing } => {
                self.closings.insert(batch, closing.follows);
                if !self.answers_commits {
                    return Err(Box::new(Output::CommitBatch { batch, closing }));
                }
                self.commit(batch)
            }
            Output::Apply { request, changes } => {
                if !self.answers_writes {
                    self.writes.push_back((request, changes));
                    return Ok(None);
                }
                self.node.store().apply(&changes).unwrap();
                Input::Applied { request }
            }
            Output::Checkpoint { request } => Input::Checkpointed { request },
            Output::Acknowledge { receipts } => {
                self.acknowledged.extend(receipts);
                return Ok(None);
            }
            Output::Note(note) => {
                self.notes.push(note);
                return Ok(None);
            }
            Output::StopReader { partition } => {
                self.readers.remove(&partition);
                return Ok(None);
            }
            Output::WakeAt { .. } => return Ok(None),
            other => return Err(Box::new(other)),
        }))
    }

    /// Stores or refuses a batch, as the server does.
    fn commit(&mut self, batch: BatchId) -> Input {
        let messages = self.staged.remove(&batch).expect("the batch is staged");
        let is_fenced = |outgoing: &Outgoing| {
            let there = self.fences.get(&outgoing.partition).map(|fence| fence.sequence);
            outgoing.fence.is_some_and(|fence| Some(fence) != there)
        };
        let is_lost = self.closings.get(&batch).is_some_and(|follows| *follows != self.closed_at);
        if messages.iter().any(is_fenced) || is_lost {
            return Input::BatchRefused { batch };
        }
        let messages_count = messages.len() as u64 + 1;
        self.output_last += messages_count - 1;
        self.close();
        for Outgoing { message, .. } in messages {
            self.bodies.push(String::from_utf8(message.body.into()).expect("a body is JSON"));
            self.committed.push(message.id);
        }
        Input::BatchCommitted { batch, last_sequence: self.output_last, messages_count }
    }

    /// Stores a closing message.
    fn close(&mut self) -> u64 {
        self.output_last += 1;
        self.closed_at = self.output_last;
        self.output_last
    }

    fn take(&mut self, partition: u16, owner: &str) -> u64 {
        self.output_last += 1;
        self.fences.insert(partition, FenceFacts { sequence: self.output_last, owner: owner.to_owned() });
        self.output_last
    }

    fn delivered(&mut self, partition: u16, sequence: u64) -> Delivered {
        let (reader, nth) = self.readers.get_mut(&partition).expect("the partition has a reader");
        *nth += 1;
        self.input_last = self.input_last.max(sequence);
        Delivered { reader: *reader, nth: *nth, pending: None, delivery: delivery(partition, sequence) }
    }

    fn deliver(&mut self, sequences: &[(u16, u64)]) -> Vec<String> {
        let deliveries = sequences.iter().map(|&(partition, sequence)| self.delivered(partition, sequence)).collect();
        self.drive(Input::Delivered { deliveries })
    }

    /// Lets the longest pause pass.
    fn wait(&mut self) -> Vec<String> {
        self.now = self.now.after(PAUSE_MAX);
        self.drive(Input::Tick)
    }

    fn offsets(&self) -> BTreeMap<u16, u64> {
        self.node.store.offsets().unwrap().into_iter().map(|(partition, offset)| (partition, offset.sequence)).collect()
    }
}

const fn stored_at_ns(sequence: u64) -> i64 {
    START.as_millis() * 1_000_000 + sequence.cast_signed()
}

/// A delivery; each sequence has its own link.
fn delivery(partition: u16, sequence: u64) -> Delivery {
    Delivery {
        partition,
        sequence,
        stored_at_ns: stored_at_ns(sequence),
        subject: format!("belvo.{partition}.webhook.link-{sequence}"),
        kind: "webhook".to_owned(),
        link: format!("link-{sequence}"),
        headers: Vec::new(),
        payload: format!(
            r#"{{"webhook_id":"w{sequence}","webhook_type":"LINK","webhook_code":"token_required",
                "process_type":"recurrent_update","link_id":"link-{sequence}","request_id":"r","data":{{}}}}"#
        )
        .into(),
        receipt: format!("{partition}:{sequence}"),
    }
}

#[test]
fn deliveries_are_committed_applied_and_then_acknowledged() {
    let mut rig = Rig::new(&[0, 1]);
    assert_eq!(rig.rewound, [(0, 0), (1, 0)]);
    rig.deliver(&[(0, 1), (1, 2), (0, 3)]);
    assert_eq!(rig.offsets(), [(0, 3), (1, 2)].into());
    assert_eq!(rig.acknowledged, ["0:3", "1:2"]);
    assert!(rig.committed.contains(&"link-3.1.0".to_owned()), "{:?}", rig.committed);
}

#[test]
fn one_commit_is_in_flight_and_the_next_one_is_only_staged() {
    let mut rig = Rig::new(&[0]);
    rig.answers_commits = false;
    let first = rig.deliver(&[(0, 1)]);
    assert!(first[0].starts_with("CommitBatch") && first.len() == 1, "{first:?}");
    assert_eq!(rig.deliver(&[(0, 2)]), Vec::<String>::new(), "the second batch is staged but not committed");
    // A repeat of a message in flight is acknowledged only after its commit.
    rig.deliver(&[(0, 1)]);
    assert_eq!(rig.acknowledged, Vec::<String>::new());
    let batches: Vec<BatchId> = rig.staged.keys().copied().collect();
    rig.answers_commits = true;
    let committed = rig.commit(batches[0]);
    rig.drive(committed);
    assert_eq!(rig.offsets(), [(0, 2)].into());
    assert_eq!(rig.acknowledged, ["0:1", "0:1", "0:2"]);
}

#[test]
fn a_partition_that_another_node_has_taken_ends_and_the_others_go_on() {
    let mut rig = Rig::new(&[0, 1, 2]);
    rig.deliver(&[(0, 1), (1, 2), (2, 3)]);
    let fences = rig.fences.clone();
    rig.take(1, "another");
    rig.rewound.clear();
    // The batch has messages of all three partitions, and is refused as a whole.
    assert_eq!(rig.deliver(&[(0, 4), (1, 5), (2, 6)]), Vec::<String>::new());
    let ended = rig.wait();
    assert_eq!(ended, ["PartitionEnded { partition: 1, why: Taken }"]);
    assert_eq!(rig.rewound, [(0, 1), (2, 3)], "the others resume after their committed offsets");
    assert_eq!((rig.fences[&0].sequence, rig.fences[&2].sequence), (fences[&0].sequence, fences[&2].sequence));
    rig.deliver(&[(0, 4), (2, 6)]);
    assert_eq!(rig.offsets(), [(0, 4), (1, 2), (2, 6)].into());
    assert_eq!(rig.node.phase(), Phase::Running);
}

#[test]
fn a_node_ends_when_another_node_has_taken_its_last_partition() {
    let mut rig = Rig::new(&[0, 1]);
    rig.take(0, "another");
    rig.take(1, "another");
    rig.deliver(&[(1, 1)]);
    let rest = rig.wait();
    assert_eq!(rest.last().map(String::as_str), Some("End { why: Fenced }"), "{rest:?}");
    assert_eq!(rig.wait(), Vec::<String>::new(), "an ended node has no outputs");
}

#[test]
fn after_an_unknown_outcome_the_node_takes_new_fences() {
    let mut rig = Rig::new(&[0]);
    rig.answers_commits = false;
    rig.deliver(&[(0, 1)]);
    let before = rig.fences[&0].sequence;
    let batch = *rig.staged.keys().next().unwrap();
    rig.answers_commits = true;
    rig.drive(Input::BatchUnknown { batch, problem: "lost".to_owned() });
    rig.wait();
    assert!(rig.fences[&0].sequence > before);
    // The batch reaches the server late and is refused. The node ignores the answer.
    assert_eq!(rig.commit(batch), Input::BatchRefused { batch });
    rig.drive(Input::BatchRefused { batch });
    assert_eq!(rig.node.phase(), Phase::Running);
    rig.deliver(&[(0, 1)]);
    assert_eq!(rig.offsets(), [(0, 1)].into());
}

#[test]
fn a_fence_is_never_taken_back_from_another_node() {
    let mut rig = Rig::new(&[0]);
    rig.answers_commits = false;
    rig.deliver(&[(0, 1)]);
    let batch = *rig.staged.keys().next().unwrap();
    rig.drive(Input::BatchUnknown { batch, problem: "lost".to_owned() });
    rig.take(0, "another");
    let rest = [rig.wait(), rig.wait()].concat();
    assert_eq!(rest.last().map(String::as_str), Some("End { why: Fenced }"), "{rest:?}");
    assert_eq!(rig.fences[&0].owner, "another");
}

#[test]
fn an_own_fence_whose_answer_was_lost_is_not_taken_for_another_nodes() {
    let mut rig = Rig::new(&[0, 1]);
    rig.take(1, US);
    rig.deliver(&[(0, 1), (1, 2)]);
    for _ in 0..3 {
        assert_eq!(rig.wait(), Vec::<String>::new());
    }
    assert_eq!(rig.node.phase(), Phase::Running);
    rig.deliver(&[(0, 1), (1, 2)]);
    assert_eq!(rig.offsets(), [(0, 1), (1, 2)].into());
}

#[test]
fn a_delivery_whose_commit_is_too_large_becomes_the_only_dead_letter() {
    let mut rig = Rig::new(&[0, 1]);
    rig.too_large_link = Some("link-5.");
    let sequences: Vec<(u16, u64)> = (1..=9).map(|sequence| (u16::from(sequence % 2 == 0), sequence)).collect();
    rig.deliver(&sequences);
    // The readers start again after each refusal.
    for _ in 0..20 {
        let offsets = rig.offsets();
        let left = |(partition, sequence): &(u16, u64)| offsets.get(partition).is_none_or(|offset| sequence > offset);
        let left: Vec<_> = sequences.iter().copied().filter(left).collect();
        rig.deliver(&left);
    }
    assert_eq!(rig.offsets(), [(0, 9), (1, 8)].into());
    assert_eq!(rig.dead, [(5, "too_large")]);
    let links: BTreeSet<_> = rig.committed.iter().filter_map(|id| id.strip_suffix(".1.0")).collect();
    assert_eq!(links.len(), 8, "{links:?}");
}

#[test]
fn a_server_with_a_lower_batch_limit_gets_smaller_batches() {
    let mut rig = Rig::new(&[0]);
    rig.batch_messages_max = 10;
    let sequences: Vec<(u16, u64)> = (1..=50).map(|sequence| (0, sequence)).collect();
    let mut refused = 0;
    while rig.offsets().get(&0) != Some(&50) {
        let handled = rig.offsets().get(&0).copied().unwrap_or(0);
        let left: Vec<_> = sequences.iter().copied().filter(|(_, sequence)| *sequence > handled).collect();
        rig.deliver(&left);
        refused += 1;
        assert!(refused < 20, "{:?}", rig.notes);
    }
    assert_eq!(rig.dead, []);
}

#[test]
fn a_shutdown_finishes_open_commits() {
    let mut rig = Rig::new(&[0]);
    rig.answers_commits = false;
    rig.deliver(&[(0, 1)]);
    rig.deliver(&[(0, 2)]);
    assert_eq!(rig.drive(Input::Shutdown), Vec::<String>::new());
    rig.answers_commits = true;
    let batch = *rig.staged.keys().next().unwrap();
    let committed = rig.commit(batch);
    assert_eq!(rig.drive(committed), ["End { why: Stopped }"]);
    assert_eq!(rig.offsets(), [(0, 2)].into());
}

#[test]
fn late_and_unknown_answers_change_nothing() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1)]);
    let (batch, request) = (BatchId(1), RequestId(1));
    for input in [
        Input::BatchCommitted { batch, last_sequence: 1, messages_count: 1 },
        Input::BatchRefused { batch },
        Input::BatchTooLarge { batch, limit: Limit::Messages },
        Input::BatchUnknown { batch, problem: String::new() },
        Input::DeadLettersStored { batch },
        Input::OutputFacts { request, stream: StreamFacts { created_ns: 1, last_sequence: 1 } },
        Input::InputFacts { request, stream: StreamFacts { created_ns: 1, last_sequence: 1 } },
        Input::FencesTaken { request, fences: BTreeMap::new(), closing: None },
        Input::OutputLookedUp { request, owner: None },
        Input::FencesRefused { request },
        Input::FencesRead { request, fences: BTreeMap::new() },
        Input::OutputRead { request, messages: Vec::new(), reached: 99 },
        Input::InputLookedUp { request, stored_at_ns: None },
        Input::InputFound { request, sequence: None },
        Input::Rewound { reader: ReaderId(1), created_ns: INPUT_NS, pending: None },
        Input::ReaderFailed { reader: ReaderId(1), problem: String::new() },
        Input::StoreRestarted { request, kept_at: None },
        Input::Applied { request },
        Input::Checkpointed { request },
        Input::RequestFailed { request, problem: String::new() },
    ] {
        assert_eq!(rig.drive(input.clone()), Vec::<String>::new(), "{input:?}");
        assert_eq!(rig.node.phase(), Phase::Running, "{input:?}");
    }
}

//! The node against streams that do as they are told: one test for each way in which something can go wrong.

mod chain;
mod driver;
mod places;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::link::PolicySettings;
use crate::store::MemoryStore;

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const US: &str = "us";
const INPUT_NS: i64 = 11;
const OUTPUT_NS: i64 = 22;

/// A node, and streams that answer at once what every test needs. What a test is about is given back.
struct Rig {
    node: Node<MemoryStore>,
    now: Timestamp,
    said: u64,
    received: u64,
    fences: BTreeMap<u16, FenceFacts>,
    readers: BTreeMap<u16, (ReaderId, u64)>,
    rewound: Vec<(u16, u64)>,
    /// `max_payload` as a number of messages of inputs in one batch; a link that is in no batch.
    poison: Option<&'static str>,
    batch_messages_max: usize,
    staged: BTreeMap<BatchId, Vec<crate::engine::Outgoing>>,
    committed: Vec<String>,
    dead: Vec<(u64, &'static str)>,
    /// The last message that closed a commit, and what must be there before each batch.
    closed_at: u64,
    closings: BTreeMap<BatchId, u64>,
    /// Messages of the output stream that are no longer ours.
    lost: std::ops::RangeInclusive<u64>,
    acknowledged: Vec<String>,
    notes: Vec<Note>,
    /// Whether commits are answered.
    answers: bool,
    /// Whether readers find another stream.
    anew: bool,
}

impl Rig {
    fn new(partitions: &[u16]) -> Self {
        let mut rig = Self::over(MemoryStore::default());
        let rest = rig.drive(Input::Gained { partitions: partitions.to_vec() });
        assert_eq!(rest, Vec::<String>::new());
        assert_eq!(rig.node.phase(), Phase::Running);
        rig
    }

    /// A node that has no partition yet.
    fn over(store: MemoryStore) -> Self {
        let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() }).unwrap();
        let options =
            NodeOptions { owner: US.to_owned(), writer: US.to_owned(), partitions_count: 4, policy, plan_ahead_min: 1 };
        Self {
            node: Node::new(options, store),
            now: START,
            said: 0,
            received: 0,
            fences: BTreeMap::new(),
            readers: BTreeMap::new(),
            rewound: Vec::new(),
            poison: None,
            batch_messages_max: usize::MAX,
            staged: BTreeMap::new(),
            committed: Vec::new(),
            dead: Vec::new(),
            closed_at: 0,
            closings: BTreeMap::new(),
            lost: 0..=0,
            acknowledged: Vec::new(),
            notes: Vec::new(),
            answers: true,
            anew: false,
        }
    }

    /// Hands an input in, and answers what follows; gives the outputs that are left, by their names.
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

    fn perform(&mut self, output: Output) -> Result<Option<Input>, Output> {
        let facts = |created_ns, last_sequence| StreamFacts { created_ns, last_sequence };
        Ok(Some(match output {
            Output::ReadOutputFacts { request } => Input::OutputFacts { request, stream: facts(OUTPUT_NS, self.said) },
            Output::ReadInputFacts { request } => Input::InputFacts { request, stream: facts(INPUT_NS, self.received) },
            Output::LookUpInput { request, sequence } => {
                Input::InputLookedUp { request, stored_at_ns: Some(stored_at_ns(sequence)) }
            }
            Output::ReadFences { request, .. } => Input::FencesRead { request, fences: self.fences.clone() },
            Output::LookUpOutput { request, sequence } => {
                Input::OutputLookedUp { request, owner: (!self.lost.contains(&sequence)).then(|| US.to_owned()) }
            }
            Output::TakeFences { request, fences, closing } => {
                let there = |partition| self.fences.get(&partition).map_or(0, |fence: &FenceFacts| fence.sequence);
                if fences.iter().any(|fence| fence.expects.is_some_and(|expects| expects != there(fence.partition))) {
                    return Ok(Some(Input::FencesRefused { request }));
                }
                let taken = fences.iter().map(|fence| (fence.partition, self.take(fence.partition, US))).collect();
                let closing = closing.map(|_first| self.close());
                Input::FencesTaken { request, fences: taken, closing }
            }
            Output::ReadOutput { request, up_to, .. } => {
                Input::OutputRead { request, messages: Vec::new(), reached: up_to }
            }
            Output::RestartStore { request } => {
                self.node.store().restart_empty().unwrap();
                Input::StoreRestarted { request, kept_at: None }
            }
            Output::Rewind { reader, partition, behind } => {
                self.readers.insert(partition, (reader, 0));
                self.rewound.push((partition, behind));
                Input::Rewound { reader, created_ns: INPUT_NS + i64::from(self.anew) }
            }
            Output::StoreDeadLetters { batch, letters, .. } => {
                self.dead.extend(letters.iter().map(|dead| (dead.delivery.sequence, dead.reason.as_str())));
                Input::DeadLettersStored { batch }
            }
            Output::StageBatch { batch, messages } => {
                let is_poisoned =
                    |poison: &str| messages.iter().any(|outgoing| outgoing.message.id.starts_with(poison));
                if self.poison.is_some_and(is_poisoned) {
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
                if !self.answers {
                    return Err(Output::CommitBatch { batch, closing });
                }
                self.commit(batch)
            }
            Output::Apply { request, changes } => {
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
            other => return Err(other),
        }))
    }

    /// The server stores or refuses a batch.
    fn commit(&mut self, batch: BatchId) -> Input {
        let messages = self.staged.remove(&batch).expect("it is staged");
        let moved = |outgoing: &crate::engine::Outgoing| {
            let there = self.fences.get(&outgoing.partition).map(|fence| fence.sequence);
            outgoing.fence.is_some_and(|fence| Some(fence) != there)
        };
        let is_lost = self.closings.get(&batch).is_some_and(|follows| *follows != self.closed_at);
        if messages.iter().any(moved) || is_lost {
            return Input::BatchRefused { batch };
        }
        let messages_count = messages.len() as u64 + 1;
        self.said += messages_count - 1;
        self.close();
        self.committed.extend(messages.into_iter().map(|outgoing| outgoing.message.id));
        Input::BatchCommitted { batch, last_sequence: self.said, messages_count }
    }

    /// A message that closes a commit.
    fn close(&mut self) -> u64 {
        self.said += 1;
        self.closed_at = self.said;
        self.said
    }

    fn take(&mut self, partition: u16, owner: &str) -> u64 {
        self.said += 1;
        self.fences.insert(partition, FenceFacts { sequence: self.said, owner: owner.to_owned() });
        self.said
    }

    fn delivered(&mut self, partition: u16, sequence: u64) -> Delivered {
        let (reader, nth) = self.readers.get_mut(&partition).expect("it is read");
        *nth += 1;
        self.received = self.received.max(sequence);
        Delivered { reader: *reader, nth: *nth, delivery: delivery(partition, sequence) }
    }

    fn deliver(&mut self, sequences: &[(u16, u64)]) -> Vec<String> {
        let deliveries = sequences.iter().map(|&(partition, sequence)| self.delivered(partition, sequence)).collect();
        self.drive(Input::Delivered { deliveries })
    }

    /// Lets so many pauses pass.
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

/// Each is of a link of its own.
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
fn what_is_delivered_is_committed_applied_and_then_acknowledged() {
    let mut rig = Rig::new(&[0, 1]);
    assert_eq!(rig.rewound, [(0, 0), (1, 0)]);
    rig.deliver(&[(0, 1), (1, 2), (0, 3)]);
    assert_eq!(rig.offsets(), [(0, 3), (1, 2)].into());
    assert_eq!(rig.acknowledged, ["0:3", "1:2"]);
    assert!(rig.committed.contains(&"link-3.1.0".to_owned()), "{:?}", rig.committed);
}

#[test]
fn one_commit_is_under_way_and_the_next_waits_for_it() {
    let mut rig = Rig::new(&[0]);
    rig.answers = false;
    let first = rig.deliver(&[(0, 1)]);
    assert!(first[0].starts_with("CommitBatch") && first.len() == 1, "{first:?}");
    assert_eq!(rig.deliver(&[(0, 2)]), Vec::<String>::new(), "it is staged, and not more");
    // A repeat of what is under way is acknowledged when it is committed, and not before.
    rig.deliver(&[(0, 1)]);
    assert_eq!(rig.acknowledged, Vec::<String>::new());
    let batches: Vec<BatchId> = rig.staged.keys().copied().collect();
    rig.answers = true;
    let committed = rig.commit(batches[0]);
    rig.drive(committed);
    assert_eq!(rig.offsets(), [(0, 2)].into());
    assert_eq!(rig.acknowledged, ["0:1", "0:2", "0:1"]);
}

#[test]
fn a_partition_that_another_node_has_taken_ends_and_the_others_go_on() {
    let mut rig = Rig::new(&[0, 1, 2]);
    rig.deliver(&[(0, 1), (1, 2), (2, 3)]);
    let fences = rig.fences.clone();
    rig.take(1, "another");
    rig.rewound.clear();
    // One batch of all three is refused as a whole.
    assert_eq!(rig.deliver(&[(0, 4), (1, 5), (2, 6)]), Vec::<String>::new());
    let ended = rig.wait();
    assert_eq!(ended, ["PartitionEnded { partition: 1, why: Taken }"]);
    assert_eq!(rig.rewound, [(0, 1), (2, 3)], "behind their committed offsets");
    assert_eq!((rig.fences[&0].sequence, rig.fences[&2].sequence), (fences[&0].sequence, fences[&2].sequence));
    rig.deliver(&[(0, 4), (2, 6)]);
    assert_eq!(rig.offsets(), [(0, 4), (1, 2), (2, 6)].into());
    assert_eq!(rig.node.phase(), Phase::Running);
}

#[test]
fn a_node_ends_when_others_have_taken_its_last_partition() {
    let mut rig = Rig::new(&[0, 1]);
    rig.take(0, "another");
    rig.take(1, "another");
    rig.deliver(&[(1, 1)]);
    let rest = rig.wait();
    assert_eq!(rest.last().map(String::as_str), Some("End { why: Fenced }"), "{rest:?}");
    assert_eq!(rig.wait(), Vec::<String>::new(), "it is over");
}

#[test]
fn an_unknown_outcome_is_looked_up_behind_new_fences() {
    let mut rig = Rig::new(&[0]);
    rig.answers = false;
    rig.deliver(&[(0, 1)]);
    let before = rig.fences[&0].sequence;
    let batch = *rig.staged.keys().next().unwrap();
    rig.answers = true;
    rig.drive(Input::BatchUnknown { batch, problem: "lost".to_owned() });
    rig.wait();
    assert!(rig.fences[&0].sequence > before);
    // The batch comes too late, and its answer is of no interest.
    assert_eq!(rig.commit(batch), Input::BatchRefused { batch });
    rig.drive(Input::BatchRefused { batch });
    assert_eq!(rig.node.phase(), Phase::Running);
    rig.deliver(&[(0, 1)]);
    assert_eq!(rig.offsets(), [(0, 1)].into());
}

#[test]
fn a_fence_is_never_taken_back_from_another_node() {
    let mut rig = Rig::new(&[0]);
    rig.answers = false;
    rig.deliver(&[(0, 1)]);
    let batch = *rig.staged.keys().next().unwrap();
    rig.drive(Input::BatchUnknown { batch, problem: "lost".to_owned() });
    rig.take(0, "another");
    let rest = [rig.wait(), rig.wait()].concat();
    assert_eq!(rest.last().map(String::as_str), Some("End { why: Fenced }"), "{rest:?}");
    assert_eq!(rig.fences[&0].owner, "another");
}

#[test]
fn a_fence_of_ours_that_was_stored_unnoticed_is_no_other_node() {
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
fn a_delivery_whose_commit_cannot_be_stored_is_set_aside_alone() {
    let mut rig = Rig::new(&[0, 1]);
    rig.poison = Some("link-5.");
    let sequences: Vec<(u16, u64)> = (1..=9).map(|sequence| (u16::from(sequence % 2 == 0), sequence)).collect();
    rig.deliver(&sequences);
    // The readers begin anew after each refusal.
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
fn a_server_that_takes_fewer_messages_at_once_gets_smaller_batches() {
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
fn a_partition_that_is_given_up_ends_alone() {
    let mut rig = Rig::new(&[0, 1]);
    rig.answers = false;
    rig.deliver(&[(0, 1)]);
    rig.deliver(&[(0, 2), (1, 3)]);
    let rest = rig.drive(Input::Lost { partitions: vec![1] });
    assert!(rest.iter().any(|output| output == "PartitionEnded { partition: 1, why: GivenUp }"), "{rest:?}");
    assert!(rest[0].starts_with("DiscardBatch"), "what was planned with it is given up: {rest:?}");
    rig.answers = true;
    let batch = *rig.staged.keys().next().unwrap();
    let committed = rig.commit(batch);
    rig.drive(committed);
    rig.deliver(&[(0, 2)]);
    assert_eq!(rig.offsets(), [(0, 2)].into());
    // It may come back.
    rig.drive(Input::Gained { partitions: vec![1] });
    rig.deliver(&[(1, 3)]);
    assert_eq!(rig.offsets(), [(0, 2), (1, 3)].into());
}

#[test]
fn partitions_that_are_given_up_before_they_were_taken_leave_nothing_behind() {
    let mut rig = Rig::new(&[0]);
    rig.node.handle(rig.now, Input::Gained { partitions: vec![1] });
    let Some(Output::ReadOutputFacts { request }) = rig.node.poll_output() else { panic!("it begins") };
    rig.drive(Input::Lost { partitions: vec![1] });
    let stream = StreamFacts { created_ns: OUTPUT_NS, last_sequence: rig.said };
    assert_eq!(rig.drive(Input::OutputFacts { request, stream }), Vec::<String>::new());
    rig.drive(Input::Gained { partitions: vec![2] });
    rig.deliver(&[(0, 1), (2, 2)]);
    assert_eq!(rig.offsets(), [(0, 1), (2, 2)].into());
}

#[test]
fn a_shutdown_finishes_what_is_under_way() {
    let mut rig = Rig::new(&[0]);
    rig.answers = false;
    rig.deliver(&[(0, 1)]);
    rig.deliver(&[(0, 2)]);
    assert_eq!(rig.drive(Input::Shutdown), Vec::<String>::new());
    rig.answers = true;
    let batch = *rig.staged.keys().next().unwrap();
    let committed = rig.commit(batch);
    assert_eq!(rig.drive(committed), ["End { why: Stopped }"]);
    assert_eq!(rig.offsets(), [(0, 2)].into());
}

#[test]
fn a_store_that_fails_ends_the_node() {
    let mut rig = Rig::new(&[0]);
    let rest = rig.drive(Input::StoreFailed { problem: "no space".to_owned() });
    assert_eq!(rest, [r#"End { why: Store { problem: "no space" } }"#]);
}

#[test]
fn a_clock_that_is_set_back_makes_nobody_wait_for_it() {
    let mut rig = Rig::new(&[0]);
    let (reader, _) = rig.readers[&0];
    rig.drive(Input::ReaderFailed { reader, problem: "gone".to_owned() });
    assert_eq!(rig.node.phase(), Phase::Starting);
    rig.now = rig.now.before(Duration::from_secs(86_400));
    rig.drive(Input::Tick);
    rig.wait();
    assert_eq!(rig.node.phase(), Phase::Running);
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
        Input::Rewound { reader: ReaderId(1), created_ns: INPUT_NS },
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

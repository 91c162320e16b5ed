//! A process: the shipped node, with everything that it asked for on its way, so that it can be stopped between any two steps.
//!
//! It only carries: requests to the streams and to the store wait in two lines, and so do their answers.

use std::collections::{BTreeMap, VecDeque};

use relink::engine::Outgoing;
use relink::link::{Policy, Timestamp};
use relink::node::{
    BatchId, Delivered, End, FenceToTake, Input, Node, NodeOptions, Note, Output, Phase, ReaderId, RequestId,
};
use relink::store::{MemoryStore, Store};

use crate::bus::{Bus, LANES, Sent};
use crate::replay::Recording;

/// How many messages of the output stream are handed over at once.
const CHUNK: usize = 5;

pub(crate) struct Running {
    owner: u32,
    pub(crate) store: MemoryStore,
    node: Node<MemoryStore>,
    /// What is on its way to the streams, and what is on its way back.
    asked: VecDeque<Output>,
    answers: VecDeque<Input>,
    /// What is on its way to the store, and back.
    writes: VecDeque<Output>,
    written: VecDeque<Input>,
    readers: BTreeMap<u16, Reader>,
    staged: BTreeMap<BatchId, Vec<Outgoing>>,
    /// Readers begin so many messages too early.
    back: u64,
    wake_at: Option<Timestamp>,
    pub(crate) ended: Option<End>,
    pub(crate) notes: Vec<Note>,
    pub(crate) recording: Recording,
}

struct Reader {
    id: ReaderId,
    pulled: u64,
    nth: u64,
    /// The last message that went to another process. Nobody acknowledges it, so the server sends it again when `ack_wait` is over.
    missed: Option<u64>,
}

impl Running {
    /// A process that has just been told which lanes are its own.
    pub(crate) fn start(
        owner: u32,
        store: MemoryStore,
        policy: &Policy,
        now: Timestamp,
        lanes: &[u16],
        back: u64,
    ) -> Self {
        let (owner_name, policy) = (format!("process {owner}"), policy.clone());
        let options = NodeOptions { owner: owner_name, partitions_count: LANES, policy, plan_ahead_min: 1 };
        let recording = Recording::of(options.clone(), &store);
        let mut running = Self {
            owner,
            node: Node::new(options, store.clone()),
            store,
            asked: VecDeque::new(),
            answers: VecDeque::new(),
            writes: VecDeque::new(),
            written: VecDeque::new(),
            readers: BTreeMap::new(),
            staged: BTreeMap::new(),
            back,
            wake_at: None,
            ended: None,
            notes: Vec::new(),
            recording,
        };
        running.gain(lanes, now);
        running
    }

    pub(crate) fn gain(&mut self, lanes: &[u16], now: Timestamp) {
        self.handle(Input::Gained { partitions: lanes.to_vec() }, now);
    }

    pub(crate) fn handle(&mut self, input: Input, now: Timestamp) {
        self.recording.input(now, &input);
        self.node.handle(now, input);
        while let Some(output) = self.node.poll_output() {
            self.recording.output(&output);
            match output {
                Output::Apply { .. } | Output::RestartStore { .. } | Output::Checkpoint { .. } => {
                    self.writes.push_back(output);
                }
                Output::Rewind { reader, partition, behind } => {
                    let pulled = behind.saturating_sub(self.back);
                    self.readers.insert(partition, Reader { id: reader, pulled, nth: 0, missed: None });
                    self.answers.push_back(Input::Rewound { reader });
                }
                Output::StopReader { partition } => drop(self.readers.remove(&partition)),
                Output::DiscardBatch { batch } => {
                    self.staged.remove(&batch).expect("only what is staged is discarded");
                }
                Output::WakeAt { at } => self.wake_at = Some(at),
                Output::Note(note) => self.notes.push(note),
                Output::End { why } => self.ended = Some(why),
                Output::PartitionEnded { .. } | Output::Acknowledge { .. } => {}
                output => self.asked.push_back(output),
            }
        }
    }

    /// The lane's reader gets the next messages.
    pub(crate) fn pull(&mut self, bus: &Bus, lane: u16, count: usize, now: Timestamp) {
        let room = self.node.room();
        let Some(reader) = self.readers.get_mut(&lane) else { return };
        let mut deliveries = Vec::new();
        while deliveries.len() < count.min(room) {
            let Some(next) = bus.next_input(lane, reader.pulled) else { break };
            (reader.pulled, reader.nth) = (next.sequence, reader.nth + 1);
            deliveries.push(Delivered { reader: reader.id, nth: reader.nth, delivery: next.clone() });
        }
        if !deliveries.is_empty() {
            self.handle(Input::Delivered { deliveries }, now);
        }
    }

    /// The server sends something again that this reader has had before.
    pub(crate) fn pull_again(&mut self, bus: &Bus, lane: u16, nth: usize, now: Timestamp) {
        let Some(reader) = self.readers.get_mut(&lane) else { return };
        let old: Vec<_> = bus.input.iter().filter(|old| old.lane == lane && old.sequence <= reader.pulled).collect();
        if !old.is_empty() {
            reader.nth += 1;
            let delivery = old[nth % old.len()].clone();
            let delivered = Delivered { reader: reader.id, nth: reader.nth, delivery };
            self.handle(Input::Delivered { deliveries: vec![delivered] }, now);
        }
    }

    /// Another process gets the lane's next message.
    pub(crate) fn miss(&mut self, bus: &Bus, lane: u16) {
        let Some(reader) = self.readers.get_mut(&lane) else { return };
        if let Some(next) = bus.next_input(lane, reader.pulled) {
            (reader.pulled, reader.nth, reader.missed) = (next.sequence, reader.nth + 1, Some(next.sequence));
        }
    }

    /// `ack_wait` is over.
    fn redeliver(&mut self, bus: &Bus, lane: u16, now: Timestamp) {
        let Some(reader) = self.readers.get_mut(&lane) else { return };
        if let Some(missed) = reader.missed.take() {
            reader.nth += 1;
            let delivery = bus.input[missed as usize - 1].clone();
            let delivered = Delivered { reader: reader.id, nth: reader.nth, delivery };
            self.handle(Input::Delivered { deliveries: vec![delivered] }, now);
        }
    }

    pub(crate) fn lane_fails(&mut self, lane: u16, now: Timestamp) {
        if let Some(Reader { id, .. }) = self.readers.remove(&lane) {
            self.handle(Input::ReaderFailed { reader: id, problem: "as the turn will".to_owned() }, now);
        }
    }

    /// The streams do the first thing that they were asked for; the process does not know yet.
    pub(crate) fn server_decides(&mut self, bus: &mut Bus) {
        let Some(output) = self.asked.pop_front() else { return };
        let owner = self.owner;
        let answer = match output {
            Output::ReadOutputFacts { request } => Input::OutputFacts { request, stream: bus.output_facts() },
            Output::ReadInputFacts { request } => Input::InputFacts { request, stream: bus.input_facts() },
            Output::ReadFences { request, partitions } => {
                Input::FencesRead { request, fences: bus.fences(&partitions) }
            }
            Output::LookUpInput { request, sequence } => {
                Input::InputLookedUp { request, stored_at_ns: bus.stored_at_ns(sequence) }
            }
            Output::TakeFences { request, fences } => take_fences(bus, owner, request, fences),
            Output::ReadOutput { request, after, up_to } => {
                let (messages, reached) = bus.read(after, up_to);
                for chunk in messages.chunks(CHUNK) {
                    let reached = chunk.last().map_or(reached, |last| last.sequence);
                    self.answers.push_back(Input::OutputRead { request, messages: chunk.to_vec(), reached });
                }
                return;
            }
            Output::StoreDeadLetters { batch, letters, .. } => {
                bus.dead.extend(letters);
                Input::DeadLettersStored { batch }
            }
            Output::StageBatch { batch, messages } => {
                self.staged.insert(batch, messages);
                Input::BatchStaged { batch }
            }
            Output::CommitBatch { batch } => {
                let messages = self.staged.remove(&batch).expect("it is staged");
                let messages_count = messages.len() as u64;
                match bus.store(Sent::Batch { owner, messages }) {
                    Ok(last_sequence) => Input::BatchCommitted { batch, last_sequence, messages_count },
                    Err(_) => Input::BatchRefused { batch },
                }
            }
            other => panic!("nothing here leads to {other:?}"),
        };
        self.answers.push_back(answer);
    }

    /// The first answer arrives.
    pub(crate) fn hear(&mut self, now: Timestamp) {
        if let Some(answer) = self.answers.pop_front() {
            self.handle(answer, now);
        }
    }

    /// The connection is away for a moment: nobody knows what became of anything that was asked for.
    pub(crate) fn lose_answers(&mut self, bus: &mut Bus, now: Timestamp) {
        let lost = "the connection was lost".to_owned();
        for output in std::mem::take(&mut self.asked) {
            let problem = lost.clone();
            let input = match output {
                Output::CommitBatch { batch } => {
                    bus.ghosts
                        .extend(self.staged.remove(&batch).map(|messages| Sent::Batch { owner: self.owner, messages }));
                    Input::BatchUnknown { batch, problem }
                }
                Output::TakeFences { request, fences } => {
                    bus.ghosts.push(Sent::Fences { owner: self.owner, fences });
                    Input::RequestFailed { request, problem }
                }
                Output::StoreDeadLetters { batch, .. } | Output::StageBatch { batch, .. } => {
                    Input::BatchFailed { batch, problem }
                }
                Output::ReadOutputFacts { request }
                | Output::ReadInputFacts { request }
                | Output::ReadFences { request, .. }
                | Output::LookUpInput { request, .. }
                | Output::ReadOutput { request, .. } => Input::RequestFailed { request, problem },
                other => panic!("nothing here leads to {other:?}"),
            };
            self.answers.push_back(input);
        }
        for answer in std::mem::take(&mut self.answers) {
            let problem = lost.clone();
            let input = match answer {
                Input::BatchCommitted { batch, .. } | Input::BatchRefused { batch } => {
                    Input::BatchUnknown { batch, problem }
                }
                Input::FencesTaken { request, .. } | Input::FencesRefused { request } => {
                    Input::RequestFailed { request, problem }
                }
                other => other,
            };
            self.handle(input, now);
        }
    }

    /// One step of what is for the store: it is written, then the process learns of it.
    pub(crate) fn finish(&mut self, now: Timestamp) {
        if let Some(answer) = self.written.pop_front() {
            self.handle(answer, now);
            return;
        }
        let Some(write) = self.writes.pop_front() else { return };
        let answer = match write {
            Output::Apply { request, changes } => {
                self.store.apply(&changes).unwrap();
                Input::Applied { request }
            }
            Output::Checkpoint { request } => {
                self.store.checkpoint().unwrap();
                Input::Checkpointed { request }
            }
            Output::RestartStore { request } => {
                self.store.restart_empty().unwrap();
                Input::StoreRestarted { request, kept_at: None }
            }
            other => panic!("{other:?} is not for the store"),
        };
        self.written.push_back(answer);
    }

    /// What may still reach the streams when the process is gone.
    pub(crate) fn leave(mut self) -> Vec<Sent> {
        let owner = self.owner;
        let on_its_way = |output: Output| match output {
            Output::CommitBatch { batch } => {
                let messages = self.staged.remove(&batch)?;
                Some(Sent::Batch { owner, messages })
            }
            Output::TakeFences { fences, .. } => Some(Sent::Fences { owner, fences }),
            _ => None,
        };
        self.asked.into_iter().filter_map(on_its_way).collect()
    }

    /// Runs without any trouble until there is nothing left to do; gives the time at which that is.
    pub(crate) fn run_dry(&mut self, bus: &mut Bus, mut now: Timestamp) -> Timestamp {
        for _ in 0..20_000 {
            while !(self.asked.is_empty()
                && self.answers.is_empty()
                && self.writes.is_empty()
                && self.written.is_empty())
            {
                self.finish(now);
                self.server_decides(bus);
                self.hear(now);
            }
            if self.ended.is_some() {
                return now;
            }
            for lane in 0..LANES {
                self.redeliver(bus, lane, now);
                self.pull(bus, lane, usize::MAX, now);
            }
            self.handle(Input::Tick, now);
            if !(self.asked.is_empty() && self.answers.is_empty() && self.writes.is_empty()) {
                continue;
            }
            if self.node.phase() == Phase::Running {
                return now;
            }
            // It pauses.
            now = self.wake_at.expect("a node that does not run wants to be woken").max(now);
        }
        panic!("it goes round in circles at {now}: {:?}", self.notes);
    }
}

fn take_fences(bus: &mut Bus, owner: u32, request: RequestId, fences: Vec<FenceToTake>) -> Input {
    let lanes: Vec<u16> = fences.iter().map(|fence| fence.partition).collect();
    match bus.store(Sent::Fences { owner, fences }) {
        Ok(last) => {
            let first = last + 1 - lanes.len() as u64;
            Input::FencesTaken { request, fences: lanes.into_iter().zip(first..).collect() }
        }
        Err(_) => Input::FencesRefused { request },
    }
}

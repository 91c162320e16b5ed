//! The world: what is to happen next, in virtual time.
//!
//! One thing happens at a time. Between any two of them everything may go wrong, and after each of them the checkers look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bank::Bank;
use super::chance::{Chance, Mix, Trouble};
use super::checkers::{Checked, Checkers, Rest};
use super::jetstream::{JetStream, Pull};
use super::process::Process;
use super::trace::Trace;
use super::{Counts, Options};
use crate::contract::JobBody;
use crate::engine::Delivery;
use crate::link::{Policy, Settings, Timestamp};
use crate::node::{BatchId, Input, Output, Phase, ReaderId};
use crate::store::MemoryStore;

/// When every run begins.
const START_MS: i64 = 1_790_000_000_000;

/// Something that happens.
pub(super) enum Event {
    /// Somebody has something to say.
    People,
    /// It arrives at the input stream.
    Publish(Delivery),
    /// What a process asked for arrives at the server, which answers or not.
    Arrive { process: u32, output: Output, is_answered: bool },
    /// A batch that was given up arrives after all.
    Ghost { process: u32, batch: Vec<crate::engine::Outgoing>, closing: crate::node::Closing },
    /// An answer arrives at a process.
    Hear { process: u32, input: Input },
    /// A reader looks at its consumer after it has been reset.
    LookAt { process: u32, reader: ReaderId, partition: u16, behind: u64 },
    /// A reader begins to wait.
    Pull { partition: u16, pull: Pull },
    /// The pull of a reader that is gone ends.
    EndPull { process: u32, reader: ReaderId },
    /// A consumer hands out what it has.
    HandOut(u16),
    /// An acknowledgement arrives.
    Acknowledge { partition: u16, sequence: u64 },
    /// The disk of a process does the next write.
    Write(u32),
    /// The time a process wanted to be woken at.
    Wake { process: u32, nth: u64 },
    /// A batch that was staged has been idle for too long.
    Expire { process: u32, batch: BatchId },
    /// Belvo does a job.
    Belvo(JobBody),
    /// Something may go wrong.
    Trouble,
    /// A process is started in place of another, over this store.
    Start { instead_of: u32, store: MemoryStore },
    /// A process is told which partitions are its own, as far as they still are.
    Gain { process: u32, partitions: Vec<u16> },
    /// A process is told to give a partition up.
    Lose { process: u32, partition: u16 },
    /// Somebody makes a consumer anew.
    ConsumerBack(u16),
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) chance: Chance,
    pub(super) mix: Mix,
    troubles: Vec<Trouble>,
    pub(super) policy: Policy,
    pub(super) now_ms: i64,
    calendar: BTreeMap<(i64, u64), Event>,
    events_count: u64,
    pub(super) partitions: u16,
    /// Whether the partitions are shared by several processes.
    pub(super) is_shared: bool,
    /// Whether writes to the store are done at once.
    pub(super) writes_at_once: bool,
    pub(super) latency_ms: i64,
    pub(super) batch_messages_max: usize,
    pub(super) jetstream: JetStream,
    pub(super) server_up_at_ms: i64,
    pub(super) bank: Bank,
    pub(super) processes: BTreeMap<u32, Process>,
    /// Those that are no more, and whether what went into all of them is recorded and replayed.
    pub(super) ended: Vec<Process>,
    is_recorded: bool,
    /// The process that each partition is given to; it may be dead.
    pub(super) assigned: Vec<u32>,
    /// Processes in whose place one is going to be started.
    pub(super) starting: BTreeSet<u32>,
    processes_count: u32,
    /// When each consumer hands out next.
    handing_out: BTreeMap<u16, i64>,
    people_left: usize,
    pub(super) is_resting: bool,
    pub(super) checkers: Checkers,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let mut chance = Chance::of(options.seed);
        let mut mix = Mix::of(&mut chance);
        if let Some(kept) = &options.troubles {
            mix.set(kept);
        }
        let is_shared = chance.one_in(3);
        let partitions = u16::try_from(chance.within(1, 3)).unwrap_or(1);
        // With incidents, two links that fail are one, and one calm minute its end. Which of several nodes tells of one is not settled.
        let incident_links = if is_shared { 0 } else { u32::try_from(chance.within(0, 3)).unwrap_or(0) };
        let minute = Duration::from_secs(60);
        let settings = Settings {
            can_verify: chance.below(4) > 0,
            incident_links,
            incident_window: minute,
            incident_wait: minute,
            ..Settings::default()
        };
        let policy = Policy::new(settings).expect("these settings are in range");
        let slow = if mix.has(Trouble::Slow) { 40 } else { 1 };
        let latency_ms = chance.within(1, 40) * slow;
        let limit = usize::try_from(chance.within(14, 40)).unwrap_or(14);
        let batch_messages_max = if mix.has(Trouble::BatchLimit) { limit } else { 1_000 };
        let people_left = options.steps.unwrap_or_else(|| 40 + chance.below(120));
        Self {
            partitions,
            is_shared,
            writes_at_once: chance.one_in(2),
            latency_ms,
            batch_messages_max,
            jetstream: JetStream::new(partitions, START_MS * 1_000_000, *chance.pick(&[2_000, 8_000, 30_000])),
            server_up_at_ms: START_MS,
            bank: Bank::new(partitions),
            processes: BTreeMap::new(),
            ended: Vec::new(),
            is_recorded: chance.one_in(8) && options.bug.is_none(),
            assigned: vec![0; usize::from(partitions)],
            starting: BTreeSet::new(),
            processes_count: 0,
            handing_out: BTreeMap::new(),
            people_left,
            is_resting: false,
            checkers: Checkers::new(policy.clone()),
            trace: Trace::new(options.trace),
            counts: Counts { people: people_left, ..Counts::default() },
            now_ms: START_MS,
            calendar: BTreeMap::new(),
            events_count: 0,
            policy,
            troubles: mix.all(),
            mix,
            chance,
            options,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms)
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        self.trace.say(self.now_ms - START_MS, line);
    }

    /// How long the run has lasted.
    pub(super) fn run_ms(&self) -> i64 {
        self.now_ms - START_MS
    }

    /// A reader whose consumer is gone before it waits there, waits in vain and fails.
    pub(super) fn end_coming_pulls(&mut self) {
        self.calendar.retain(|_, event| !matches!(event, Event::Pull { .. }));
    }

    /// What has been sent by processes that died with the server does not arrive.
    pub(super) fn forget_what_is_sent(&mut self) {
        self.calendar.retain(|_, event| !matches!(event, Event::Arrive { .. } | Event::Ghost { .. }));
    }

    pub(super) fn later(&mut self, after_ms: i64, event: Event) {
        self.events_count += 1;
        self.calendar.insert((self.now_ms + after_ms.max(0), self.events_count), event);
    }

    /// After about as long as a message travels.
    pub(super) fn soon(&mut self, event: Event) {
        let after_ms = self.chance.delay_ms(self.latency_ms);
        self.later(after_ms, event);
    }

    /// The troubles that the run began with.
    pub(super) fn known_troubles(&self) -> Vec<Trouble> {
        self.troubles.clone()
    }

    /// How many times somebody has had something to say.
    pub(super) fn people_had(&self) -> usize {
        self.counts.people - self.people_left
    }

    /// Lives through the run.
    pub(super) fn run(&mut self) -> Checked {
        let (mix, shared) = (self.mix.all(), self.is_shared);
        self.say(|| format!("partitions shared: {shared}; troubles: {mix:?}"));
        for (after_ms, delivery) in self.bank.begin(self.now()) {
            self.later(after_ms, Event::Publish(delivery));
        }
        self.start(0, MemoryStore::default())?;
        self.later(0, Event::People);
        self.later(1_000, Event::Trouble);
        while self.people_left > 0 {
            self.step()?;
        }
        self.come_to_rest()
    }

    /// The next event.
    fn step(&mut self) -> Checked {
        let Some(((at_ms, _), event)) = self.calendar.pop_first() else {
            return Err("nothing happens any more".to_owned());
        };
        self.now_ms = self.now_ms.max(at_ms);
        self.counts.events += 1;
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::People => self.people(),
            Event::Publish(delivery) => self.publish(delivery),
            Event::Arrive { process, output, is_answered } => return self.arrive(process, output, is_answered),
            Event::Ghost { process, batch, closing } => return self.ghost(process, batch, closing),
            Event::Hear { process, input } => return self.hear(process, input),
            Event::LookAt { process, reader, partition, behind } => self.look_at(process, reader, partition, behind),
            Event::Pull { partition, pull } => {
                // One that was given up on the way has been stopped with its task.
                if self.processes.get(&pull.process).is_some_and(|process| process.is_reading(partition, pull.reader)) {
                    self.jetstream.input.pull(partition, pull);
                    self.hand_out_later(partition, 1);
                }
            }
            Event::EndPull { process, reader } => {
                self.jetstream.input.end_pulls(|pull| pull.process == process && pull.reader == reader);
            }
            Event::HandOut(partition) => {
                if self.handing_out.get(&partition).is_some_and(|at_ms| *at_ms <= self.now_ms) {
                    self.handing_out.remove(&partition);
                }
                self.hand_out(partition);
            }
            Event::Acknowledge { partition, sequence } => self.jetstream.input.acknowledge(partition, sequence),
            Event::Write(process) => return self.write(process),
            Event::Wake { process, nth } => {
                if self.processes.get(&process).is_some_and(|process| process.wakes_count == nth) {
                    return self.hear(process, Input::Tick);
                }
            }
            Event::Expire { process, batch } => drop(self.jetstream.output.take_staged(process, batch)),
            Event::Belvo(job) => {
                let now = self.now();
                let published = self.bank.answer(&job, &mut self.chance, &self.mix, now);
                published.into_iter().for_each(|(after_ms, delivery)| self.later(after_ms, Event::Publish(delivery)));
            }
            Event::Trouble => return self.trouble(),
            Event::Start { instead_of, store } => {
                self.starting.remove(&instead_of);
                return self.start(instead_of, store);
            }
            Event::Gain { process, partitions } => return self.gain(process, partitions),
            Event::Lose { process, partition } => {
                if self.assigned[usize::from(partition)] != process {
                    return self.hear(process, Input::Lost { partitions: vec![partition] });
                }
            }
            Event::ConsumerBack(partition) => self.jetstream.input.make_consumer(partition),
        }
        Ok(())
    }

    fn people(&mut self) {
        if self.is_resting {
            return;
        }
        self.people_left = self.people_left.saturating_sub(1);
        let now = self.now();
        for (after_ms, delivery) in self.bank.next(&mut self.chance, &self.mix, now) {
            if self.mix.strikes(Trouble::Repeats, &mut self.chance) {
                let again_ms = after_ms + self.chance.delay_ms(3_000);
                self.later(again_ms, Event::Publish(delivery.clone()));
            }
            self.later(after_ms, Event::Publish(delivery));
        }
        let pause_ms = self.chance.delay_ms(400);
        self.later(pause_ms, Event::People);
    }

    fn publish(&mut self, delivery: Delivery) {
        // Who publishes hears that it did not work, and does it again.
        if self.now_ms < self.server_up_at_ms {
            let wait_ms = self.server_up_at_ms - self.now_ms + self.chance.delay_ms(50);
            self.later(wait_ms, Event::Publish(delivery));
            return;
        }
        let (partition, subject) = (delivery.lane, delivery.subject.clone());
        let place = self.jetstream.input.publish(delivery, self.now_ms * 1_000_000);
        let sequence = self.jetstream.input.ever[place].sequence;
        self.say(|| format!("input {sequence} of partition {partition}: {subject}"));
        self.hand_out_later(partition, 0);
    }

    pub(super) fn hand_out_later(&mut self, partition: u16, after_ms: i64) {
        let after_ms = after_ms + self.chance.delay_ms(self.latency_ms);
        let at_ms = self.now_ms + after_ms;
        if self.handing_out.get(&partition).is_none_or(|before_ms| at_ms < *before_ms) {
            self.handing_out.insert(partition, at_ms);
            self.later(after_ms, Event::HandOut(partition));
        }
    }

    /// Starts a process for all partitions that are given to `instead_of`.
    pub(super) fn start(&mut self, instead_of: u32, store: MemoryStore) -> Checked {
        let all = 0..self.partitions;
        let partitions: Vec<u16> =
            all.filter(|partition| self.assigned[usize::from(*partition)] == instead_of).collect();
        if partitions.is_empty() {
            return Ok(());
        }
        let id = self.start_with(&partitions, store);
        self.gain(id, partitions)
    }

    /// A new process that these partitions are given to; it does not know of them yet.
    pub(super) fn start_with(&mut self, partitions: &[u16], store: MemoryStore) -> u32 {
        self.processes_count += 1;
        let id = self.processes_count;
        self.say(|| format!("process {id} starts with partitions {partitions:?}"));
        let process = Process::new(id, store, self.partitions, &self.policy, self.options.bug, self.is_recorded);
        self.processes.insert(id, process);
        partitions.iter().for_each(|partition| self.assigned[usize::from(*partition)] = id);
        id
    }

    fn gain(&mut self, process: u32, mut partitions: Vec<u16>) -> Checked {
        partitions.retain(|partition| self.assigned[usize::from(*partition)] == process);
        if partitions.is_empty() {
            return Ok(());
        }
        self.hear(process, Input::Gained { partitions })
    }

    /// All troubles are over, and everybody has said what they had to say.
    fn come_to_rest(&mut self) -> Checked {
        self.is_resting = true;
        self.mix.clear();
        (self.latency_ms, self.batch_messages_max) = (2, 1_000);
        self.say(|| "all troubles are over".to_owned());
        self.processes.values_mut().for_each(|process| process.skew_ms = 0);
        for partition in 0..self.partitions {
            let event = Event::ConsumerBack(partition);
            self.later(25_000, event);
        }
        self.settle()?;
        self.check_rest()?;
        // The store is a copy of the stream: one that is lost is the same again.
        let lost: Vec<u32> = self.assigned.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        for process in lost {
            self.say(|| format!("process {process} loses its store"));
            self.remove(process);
            self.start(process, MemoryStore::default())?;
        }
        self.settle_for(30_000)?;
        self.check_rest()?;
        let processes =
            std::mem::take(&mut self.ended).into_iter().chain(std::mem::take(&mut self.processes).into_values());
        processes.into_iter().try_for_each(Process::replay)
    }

    /// What is doubted is believed, what waits is looked at, and no institution is in trouble for ever.
    fn settle(&mut self) -> Checked {
        self.settle_for(200_000)?;
        for _ in 0..10 {
            self.now_ms += 3_600_000;
            self.settle_for(8_000)?;
        }
        Ok(())
    }

    fn settle_for(&mut self, span_ms: i64) -> Checked {
        let end_ms = self.now_ms + span_ms;
        loop {
            self.restart_who_is_missing();
            let is_next = self.calendar.first_key_value().is_some_and(|((at_ms, _), _)| *at_ms <= end_ms);
            if !is_next {
                self.now_ms = self.now_ms.max(end_ms);
                return Ok(());
            }
            self.step()?;
        }
    }

    /// An operator starts what has ended and should not have.
    pub(super) fn restart_who_is_missing(&mut self) {
        let wanted: BTreeSet<u32> = self.assigned.iter().copied().collect();
        for process in wanted {
            if !self.processes.contains_key(&process) && self.starting.insert(process) {
                self.later(500, Event::Start { instead_of: process, store: MemoryStore::default() });
            }
        }
    }

    fn check_rest(&mut self) -> Checked {
        let wanted: BTreeSet<u32> = self.assigned.iter().copied().collect();
        for id in wanted {
            let process = self.processes.get(&id).ok_or_else(|| format!("process {id} does not stay"))?;
            let ours = |partition: &u16| self.assigned[usize::from(*partition)] == id;
            let partitions: BTreeSet<u16> = (0..self.partitions).filter(ours).collect();
            let (phase, now) = (process.node.phase(), self.now());
            let Process { store, set_aside, .. } = process;
            let rest = Rest { process: id, phase, store, partitions: &partitions, set_aside, now };
            self.checkers.at_rest(&rest, &self.jetstream)?;
            if phase != Phase::Running {
                return Err(format!("process {id} does not run"));
            }
        }
        self.counts.inputs = self.jetstream.input.ever.len();
        self.counts.told = self.checkers.told_count();
        self.counts.processes = self.processes_count as usize;
        Ok(())
    }
}

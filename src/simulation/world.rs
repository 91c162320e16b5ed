//! The world: the event queue, in virtual time.
//!
//! One event is handled at a time. A fault can occur between any two events, and the checkers run after each event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::background::BackgroundTasks;
use super::background_events::BackgroundEvent;
use super::belvo::Belvo;
use super::checkers::{self, Checked, Checkers};
use super::fault::{Fault, FaultMix, RandomSource};
use super::jetstream::{JetStream, Pull};
use super::journal_events::JournalEvent;
use super::journals::Journals;
use super::process::Process;
use super::publishers::{LINKS_AT_BELVO, Publishers};
use super::status_page::StatusPage;
use super::trace::Trace;
use super::{Counts, Options};
use crate::belvo::Client;
use crate::engine::Delivery;
use crate::link::{InstitutionNotices, Policy, PolicySettings, Supersede, Timestamp};
use crate::node::{BatchId, Input, Output, ReaderId};
use crate::store::MemoryStore;

/// The start time of every run.
const START_MS: i64 = 1_790_000_000_000;

/// A run has about ten thousand events. With so many it does not end: something wakes itself again and again.
const EVENTS_MAX: usize = 2_000_000;

/// An event of the simulation.
pub(super) enum Event {
    /// A publisher has its turn.
    PublisherTurn,
    /// A message arrives at the input stream.
    Publish(Delivery),
    /// A request of a process arrives at the server, which may answer.
    Arrive { process: u32, output: Output, is_answered: bool },
    /// A batch arrives after the timeout of its sender.
    LateBatch { process: u32, batch: Vec<crate::engine::Outgoing>, closing: crate::node::Closing },
    /// A response arrives at a process.
    Receive { process: u32, input: Input },
    /// A reader inspects its consumer after the reset.
    InspectConsumer { process: u32, reader: ReaderId, partition: u16, behind: u64 },
    /// A reader begins to pull.
    Pull { partition: u16, pull: Pull },
    /// The pull request of a stopped reader ends.
    EndPull { process: u32, reader: ReaderId },
    /// A consumer delivers its messages.
    HandOut(u16),
    /// An acknowledgement arrives.
    Acknowledge { partition: u16, sequence: u64 },
    /// The disk of a process performs the next write.
    Write(u32),
    /// The wake-up time of a process.
    Wake { process: u32, nth: u64 },
    /// A staged batch has been idle for too long.
    Expire { process: u32, batch: BatchId },
    /// An event of the background tasks of a process.
    Background(BackgroundEvent),
    /// An event of the journals.
    Journal(JournalEvent),
    /// A spontaneous fault may be injected.
    Fault,
    /// A process replaces another one, with this store.
    Start { instead_of: u32, store: MemoryStore },
    /// A process gains partitions, if they are still assigned to it.
    Gain { process: u32, partitions: Vec<u16> },
    /// A process loses a partition.
    Lose { process: u32, partition: u16 },
    /// A deleted consumer is created again.
    RecreateConsumer(u16),
    /// The clock of the server is right again.
    ServerClockRight,
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) random: RandomSource,
    pub(super) fault_mix: FaultMix,
    faults: Vec<Fault>,
    pub(super) policy: Policy,
    pub(super) now_ms: i64,
    event_queue: BTreeMap<(i64, u64), Event>,
    events_count: u64,
    pub(super) partitions: u16,
    /// Whether several processes share the partitions.
    pub(super) is_shared: bool,
    /// Whether writes to the store are synchronous.
    pub(super) writes_at_once: bool,
    pub(super) latency_ms: i64,
    pub(super) batch_messages_max: usize,
    pub(super) jetstream: JetStream,
    pub(super) server_up_at_ms: i64,
    /// The offset of the server's clock, and whether it ever had one.
    pub(super) server_skew_ms: i64,
    pub(super) had_server_skew: bool,
    /// Whether the input stream ever lost messages, or was created again or restored.
    pub(super) had_input_loss: bool,
    /// The offset of the clock of the next host.
    pub(super) host_skew_ms: i64,
    pub(super) publishers: Publishers,
    pub(super) processes: BTreeMap<u32, Process>,
    /// The client for Belvo; `None` if relink has no keys.
    pub(super) client: Option<Client>,
    pub(super) journals: Journals,
    /// The background tasks of each process.
    pub(super) background: BTreeMap<u32, BackgroundTasks>,
    /// The time of the next job delivery, and of the next scheduled event of Belvo.
    pub(super) handing_out_jobs_ms: Option<i64>,
    pub(super) belvo_at_ms: Option<i64>,
    /// Until this time the calls go to another Belvo account.
    pub(super) wrong_account_until_ms: i64,
    pub(super) had_wrong_account: bool,
    /// Processes that have ended, and whether all inputs are recorded and replayed.
    pub(super) ended: Vec<Process>,
    is_recorded: bool,
    /// The process that each partition is assigned to; it may have crashed.
    pub(super) assigned: Vec<u32>,
    /// Processes whose successor is about to start.
    pub(super) starting: BTreeSet<u32>,
    pub(super) processes_count: u32,
    /// The time of the next delivery of each consumer.
    handing_out: BTreeMap<u16, i64>,
    pub(super) turns_left: usize,
    pub(super) is_finishing: bool,
    pub(super) checkers: Checkers,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let mut random = RandomSource::of(options.seed);
        let mut fault_mix = FaultMix::of(&mut random);
        if let Some(kept) = &options.faults {
            fault_mix.set(kept);
        }
        let is_shared = random.one_in(3);
        let partitions = u16::try_from(random.within(1, 3)).unwrap_or(1);
        // With incidents on, 0 to 3 failures make an incident, and one minute without failures ends it. With several nodes it is not
        // decided yet which one reports an incident, so incidents are off.
        let incident_links = if is_shared { 0 } else { u32::try_from(random.within(0, 3)).unwrap_or(0) };
        let minute = Duration::from_secs(60);
        let settings = PolicySettings {
            can_verify: random.below(4) > 0,
            incident_links,
            incident_window: minute,
            outage_links: incident_links,
            incident_wait: minute,
            // Without a random number, so that the seeds of named tests keep their faults.
            quiet_hours: options.seed.is_multiple_of(3).then(checkers::quiet_hours),
            // A node does not know the links of partitions that it does not own.
            institution_notices: match options.seed % 4 {
                0 => InstitutionNotices::Off,
                1 => InstitutionNotices::Repair,
                _ => InstitutionNotices::All,
            },
            supersede: if is_shared { Supersede::Never } else { PolicySettings::default().supersede },
            per_person: !is_shared,
            reminder_pause: if options.seed.is_multiple_of(2) {
                10 * minute
            } else {
                PolicySettings::default().reminder_pause
            },
            ..PolicySettings::default()
        };
        let policy = Policy::new(settings).expect("these settings are in range");
        let slow = if fault_mix.has(Fault::Slow) { 40 } else { 1 };
        let latency_ms = random.within(1, 40) * slow;
        let limit = usize::try_from(random.within(14, 40)).unwrap_or(14);
        let batch_messages_max = if fault_mix.has(Fault::BatchLimit) { limit } else { 1_000 };
        let refused = fault_mix.has(Fault::BelvoRefuses).then_some(0);
        let turns_left = options.steps.unwrap_or_else(|| 40 + random.below(120));
        Self {
            partitions,
            is_shared,
            writes_at_once: random.one_in(2),
            latency_ms,
            batch_messages_max,
            jetstream: JetStream::new(partitions, START_MS * 1_000_000, *random.pick(&[2_000, 8_000, 30_000])),
            server_up_at_ms: START_MS,
            server_skew_ms: 0,
            had_server_skew: false,
            had_input_loss: false,
            host_skew_ms: 0,
            publishers: Publishers::new(
                partitions,
                Belvo::new(options.seed, START_MS, LINKS_AT_BELVO),
                StatusPage::new(options.seed, partitions, !is_shared),
                refused,
            ),
            processes: BTreeMap::new(),
            client: policy.settings().can_verify.then(Belvo::client),
            journals: Journals::default(),
            background: BTreeMap::new(),
            handing_out_jobs_ms: None,
            belvo_at_ms: None,
            wrong_account_until_ms: 0,
            had_wrong_account: false,
            ended: Vec::new(),
            is_recorded: random.one_in(8) && options.bug.is_none(),
            assigned: vec![0; usize::from(partitions)],
            starting: BTreeSet::new(),
            processes_count: 0,
            handing_out: BTreeMap::new(),
            turns_left,
            is_finishing: false,
            checkers: Checkers::new(policy.clone(), options.bug),
            trace: Trace::new(options.trace),
            counts: Counts { turns: turns_left, ..Counts::default() },
            now_ms: START_MS,
            event_queue: BTreeMap::new(),
            events_count: 0,
            policy,
            faults: fault_mix.all(),
            fault_mix,
            random,
            options,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms)
    }

    /// The time of the server.
    pub(super) fn server_now_ms(&self) -> i64 {
        self.now_ms + self.server_skew_ms
    }

    pub(super) fn log(&mut self, line: impl FnOnce() -> String) {
        self.trace.record(self.now_ms - START_MS, line);
    }

    /// The elapsed time of the run.
    pub(super) fn run_ms(&self) -> i64 {
        self.now_ms - START_MS
    }

    /// Cancels the pulls that have not reached their consumer: the consumer is gone, and the readers will fail.
    pub(super) fn cancel_scheduled_pulls(&mut self) {
        self.event_queue.retain(|_, event| !matches!(event, Event::Pull { .. }));
    }

    /// Drops the messages in transit of processes that crashed together with the server.
    pub(super) fn drop_messages_in_transit(&mut self) {
        self.event_queue.retain(|_, event| !matches!(event, Event::Arrive { .. } | Event::LateBatch { .. }));
    }

    pub(super) fn later(&mut self, after_ms: i64, event: Event) {
        self.events_count += 1;
        self.event_queue.insert((self.now_ms + after_ms.max(0), self.events_count), event);
    }

    /// Schedules an event after one network latency.
    pub(super) fn soon(&mut self, event: Event) {
        let after_ms = self.random.delay_ms(self.latency_ms);
        self.later(after_ms, event);
    }

    /// The kinds of faults at the start of the run.
    pub(super) fn initial_faults(&self) -> Vec<Fault> {
        self.faults.clone()
    }

    /// The number of publisher turns so far.
    pub(super) fn turns_taken(&self) -> usize {
        self.counts.turns - self.turns_left
    }

    /// Executes the run.
    pub(super) fn run(&mut self) -> Checked {
        let (fault_mix, shared) = (self.fault_mix.all(), self.is_shared);
        self.log(|| format!("partitions shared: {shared}; faults: {fault_mix:?}"));
        let now = self.now();
        for (after_ms, delivery) in self.publishers.begin(&mut self.random, now) {
            self.later(after_ms, Event::Publish(delivery));
        }
        self.start(0, MemoryStore::default())?;
        self.later(0, Event::PublisherTurn);
        self.later(1_000, Event::Fault);
        while self.turns_left > 0 {
            self.step()?;
        }
        self.finish()
    }

    /// Handles the next event.
    fn step(&mut self) -> Checked {
        let Some(((at_ms, _), event)) = self.event_queue.pop_first() else {
            return Err("the event queue is empty".to_owned());
        };
        self.now_ms = self.now_ms.max(at_ms);
        self.counts.events += 1;
        if self.counts.events > EVENTS_MAX {
            return Err(format!("the run does not end: it has had more than {EVENTS_MAX} events"));
        }
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::PublisherTurn => self.publisher_turn(),
            Event::Publish(delivery) => self.publish(delivery),
            Event::Arrive { process, output, is_answered } => return self.arrive(process, output, is_answered),
            Event::LateBatch { process, batch, closing } => return self.late_batch(process, batch, closing),
            Event::Receive { process, input } => return self.receive(process, input),
            Event::InspectConsumer { process, reader, partition, behind } => {
                self.inspect_consumer(process, reader, partition, behind)
            }
            Event::Pull { partition, pull } => {
                // A reader that was replaced meanwhile has been stopped.
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
                    return self.receive(process, Input::Tick);
                }
            }
            Event::Expire { process, batch } => drop(self.jetstream.output.take_staged(process, batch)),
            Event::Background(event) => return self.handle_background_event(event),
            Event::Journal(event) => return self.handle_journal_event(event),
            Event::Fault => return self.maybe_inject_fault(),
            Event::Start { instead_of, store } => {
                self.starting.remove(&instead_of);
                return self.start(instead_of, store);
            }
            Event::Gain { process, partitions } => return self.gain(process, partitions),
            Event::Lose { process, partition } => {
                if self.assigned[usize::from(partition)] != process {
                    return self.receive(process, Input::Lost { partitions: vec![partition] });
                }
            }
            Event::RecreateConsumer(partition) => self.jetstream.input.make_consumer(partition),
            Event::ServerClockRight => self.server_skew_ms = 0,
        }
        Ok(())
    }

    pub(super) fn hand_out_later(&mut self, partition: u16, after_ms: i64) {
        let after_ms = after_ms + self.random.delay_ms(self.latency_ms);
        let at_ms = self.now_ms + after_ms;
        if self.handing_out.get(&partition).is_none_or(|before_ms| at_ms < *before_ms) {
            self.handing_out.insert(partition, at_ms);
            self.later(after_ms, Event::HandOut(partition));
        }
    }

    /// Starts a process for all partitions that are assigned to `instead_of`.
    pub(super) fn start(&mut self, instead_of: u32, store: MemoryStore) -> Checked {
        let all = 0..self.partitions;
        let partitions: Vec<u16> =
            all.filter(|partition| self.assigned[usize::from(*partition)] == instead_of).collect();
        if partitions.is_empty() {
            return Ok(());
        }
        let id = self.start_with(&partitions, store, Some(instead_of));
        self.gain(id, partitions)
    }

    /// Starts a process and assigns these partitions to it; the process is not notified yet.
    pub(super) fn start_with(&mut self, partitions: &[u16], store: MemoryStore, instead_of: Option<u32>) -> u32 {
        self.processes_count += 1;
        let id = self.processes_count;
        self.log(|| format!("process {id} starts with partitions {partitions:?}"));
        let mut process = Process::new(id, store, self.partitions, &self.policy, self.options.bug, self.is_recorded);
        (process.skew_ms, process.host_skew_ms) = (self.host_skew_ms, self.host_skew_ms);
        self.place_on_host(id, instead_of);
        self.processes.insert(id, process);
        self.start_background(id);
        partitions.iter().for_each(|partition| self.assigned[usize::from(*partition)] = id);
        id
    }

    fn gain(&mut self, process: u32, mut partitions: Vec<u16>) -> Checked {
        partitions.retain(|partition| self.assigned[usize::from(*partition)] == process);
        if partitions.is_empty() {
            return Ok(());
        }
        self.receive(process, Input::Gained { partitions })
    }

    pub(super) fn run_for(&mut self, span_ms: i64) -> Checked {
        let end_ms = self.now_ms + span_ms;
        loop {
            self.restart_missing_processes();
            let is_next = self.event_queue.first_key_value().is_some_and(|((at_ms, _), _)| *at_ms <= end_ms);
            if !is_next {
                self.now_ms = self.now_ms.max(end_ms);
                return Ok(());
            }
            self.step()?;
        }
    }

    /// Restarts processes that have ended and still have partitions, as an operator would.
    pub(super) fn restart_missing_processes(&mut self) {
        let wanted: BTreeSet<u32> = self.assigned.iter().copied().collect();
        for process in wanted {
            if !self.processes.contains_key(&process) && self.starting.insert(process) {
                self.later(500, Event::Start { instead_of: process, store: MemoryStore::default() });
            }
        }
    }
}

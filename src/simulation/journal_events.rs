//! The events of the journals: hosts lose and restart their processes, forwarders publish, and their publishes are answered or fail.

use futures::channel::oneshot;

use super::bug_injector::Bug;
use super::checkers::Checked;
use super::fault::Fault;
use super::journals::{JournalCall, number_of};
use super::world::{Event, World};
use crate::contract::{DeadReason, JOURNAL_HEADER};
use crate::engine::Delivery;
use crate::journal::{Dead, Entry, Step};
use crate::nats::publisher::PublishError;

/// The timeout of a publish.
const TIMEOUT_MS: i64 = 10_000;

/// The longest pause of a forwarder after a failure.
const PAUSE_MAX_MS: i64 = 2_000;

/// The most bits that are changed on a host, so that the checker still recognises a damaged message.
const DAMAGES_MAX: u32 = 2;

type Outcomes = Vec<Result<u64, PublishError>>;

/// An event of the journals. `run` counts the processes of a host: an event for an earlier process is ignored.
pub(super) enum JournalEvent {
    /// A message arrives at the HTTP server of a process.
    Request { delivery: Delivery, retries: u32 },
    /// A forwarder has something to do.
    Forward { host: usize, run: u32 },
    /// A publish arrives at the input stream; only the chosen entries of it are stored.
    Arrive { entries: Vec<(Entry, bool)>, answer: Option<Waiting<Outcomes>> },
    /// Messages that a forwarder sets aside arrive at the stream of dead letters.
    SetAside { letters: Vec<(Entry, Dead)>, answer: Option<Waiting<Result<Vec<u64>, String>>> },
    /// The answer to a publish arrives.
    Published { answer: Waiting<Outcomes>, outcomes: Outcomes },
    /// The answer to a set-aside arrives.
    SetAsideDone { answer: Waiting<Result<Vec<u64>, String>>, outcome: Result<Vec<u64>, String> },
    /// The disk of a host works again.
    DiskWorks(usize),
    /// A host without a process gets one that only publishes its journal.
    Return(usize),
}

/// A forwarder that waits for an answer.
pub(super) struct Waiting<T> {
    host: usize,
    run: u32,
    answer: oneshot::Sender<T>,
}

impl World {
    pub(super) fn handle_journal_event(&mut self, event: JournalEvent) -> Checked {
        match event {
            JournalEvent::Request { delivery, retries } => self.request(delivery, retries),
            JournalEvent::Forward { host, run } => self.forward(host, run),
            JournalEvent::Arrive { entries, answer } => return self.arrive_from_journal(entries, answer),
            JournalEvent::SetAside { letters, answer } => self.set_aside(letters, answer),
            JournalEvent::Published { answer: Waiting { host, run, answer }, outcomes } => {
                self.journals.hosts[host].has_failed = outcomes.iter().any(Result::is_err);
                let _crashed = answer.send(outcomes);
                self.forward(host, run);
            }
            JournalEvent::SetAsideDone { answer: Waiting { host, run, answer }, outcome } => {
                let _crashed = answer.send(outcome);
                self.forward(host, run);
            }
            JournalEvent::DiskWorks(host) => self.repair_disk(host),
            JournalEvent::Return(host) => {
                if !self.journals.hosts[host].is_running() {
                    self.open_journal(host);
                }
            }
        }
        Ok(())
    }

    /// Chooses the host of a new process, and opens its journal. A successor mostly starts on the same host.
    pub(super) fn place_on_host(&mut self, id: u32, instead_of: Option<u32>) {
        let before = instead_of.and_then(|before| self.journals.host_of.get(&before).copied());
        let is_in_use = |host: &usize| {
            let mut hosts = self.processes.keys().filter_map(|other| self.journals.host_of.get(other));
            hosts.any(|other| other == host)
        };
        let before = before.filter(|host| !is_in_use(host));
        let moves = self.random.one_in(4) && !self.is_finishing;
        let host = before.filter(|_| !moves).unwrap_or_else(|| self.journals.add_host());
        self.journals.host_of.insert(id, host);
        self.journals.hosts[host].crash();
        self.open_journal(host);
    }

    fn open_journal(&mut self, host: usize) {
        self.log(|| format!("the journal of host {host} is opened"));
        self.journals.open(host).expect("a disk in memory works after a start");
        self.forward_later(host, 10);
    }

    /// The process of a host ends. Its journal stays, and in half of the cases it is published before the end of the faults.
    pub(super) fn close_journal(&mut self, process: u32) {
        let Some(host) = self.journals.host_of.get(&process).copied() else { return };
        self.journals.hosts[host].crash();
        // A process may end because another one has replaced it, also after the faults.
        if self.random.one_in(2) || self.is_finishing {
            let after_ms = self.random.within(1_000, 60_000);
            self.later(after_ms, Event::Journal(JournalEvent::Return(host)));
        }
    }

    /// The host of a process crashes while it writes a message, whose sender gets no answer.
    pub(super) fn crash_host(&mut self, process: u32) {
        let Some(host) = self.journals.host_of.get(&process).copied() else { return };
        let link = self.random.below(6);
        let delivery = self.publishers.message(link, "command", serde_json::json!({"command": "unmute"}));
        let now = self.now();
        let (number, entry) = self.journals.note(delivery.clone(), false, now);
        let random = &mut self.random;
        let _not_synced = self.journals.hosts[host].crash_host(entry, |below| random.below(below));
        if self.options.bug == Some(Bug::AnsweredBeforeSync) {
            self.checkers.journal.accepted(number, host, delivery, now);
        }
    }

    /// All hosts come back and all disks work.
    pub(super) fn return_all_hosts(&mut self) {
        for host in 0..self.journals.hosts.len() {
            self.repair_disk(host);
            self.later(0, Event::Journal(JournalEvent::Return(host)));
        }
    }

    fn repair_disk(&mut self, host: usize) {
        let disk = &self.journals.hosts[host].disk;
        disk.fail(false);
        disk.stall(false);
    }

    /// The disk of a journal is full for a while, or does not sync.
    pub(super) fn fail_journal_disk(&mut self) {
        let host = self.random.below(self.journals.hosts.len());
        // A relink that finds such a disk at its start ends and is started again, until the disk works.
        if !self.journals.hosts[host].is_running() {
            return;
        }
        let disk = &self.journals.hosts[host].disk;
        if self.random.one_in(2) {
            disk.fail(true)
        } else {
            disk.stall(true)
        }
        let for_ms = self.random.within(10, 10_000);
        self.later(for_ms, Event::Journal(JournalEvent::DiskWorks(host)));
    }

    /// The disk changes a bit of a journal.
    pub(super) fn damage_journal(&mut self) {
        let at = self.random.below(self.journals.hosts.len());
        let (host, random) = (&mut self.journals.hosts[at], &mut self.random);
        if host.damages < DAMAGES_MAX && host.disk.damage(|below| random.below(below)) {
            host.damages += 1;
            self.checkers.journal_is_damaged(at);
            self.log(|| format!("a bit of the journal of host {at} has changed"));
        }
    }

    pub(super) fn forward_later(&mut self, host: usize, at_most_ms: i64) {
        let (after_ms, run) = (self.random.delay_ms(at_most_ms), self.journals.hosts[host].run);
        self.later(after_ms, Event::Journal(JournalEvent::Forward { host, run }));
    }

    /// Polls a forwarder, and handles its calls and its result.
    fn forward(&mut self, host: usize, run: u32) {
        if self.journals.hosts[host].run != run {
            return;
        }
        let (calls, step) = self.journals.hosts[host].poll();
        for call in calls {
            match call {
                JournalCall::Publish(entries, answer) => self.send_entries(entries, Waiting { host, run, answer }),
                JournalCall::SetAside(letters, answer) => self.send_letters(letters, Waiting { host, run, answer }),
            }
        }
        match step {
            Some(Step::Published) => self.forward_later(host, 1),
            Some(Step::Failed(problem)) => {
                self.log(|| format!("the forwarder of host {host} has failed: {problem}"));
                let pause_ms = self.random.within(100, PAUSE_MAX_MS);
                self.later(pause_ms, Event::Journal(JournalEvent::Forward { host, run }));
            }
            Some(Step::Idle) | None => {}
        }
    }

    /// Sends a publish: all or a part of it is stored, now or later, and the forwarder learns it or not.
    fn send_entries(&mut self, mut entries: Vec<Entry>, answer: Waiting<Outcomes>) {
        let (count, host) = (entries.len(), answer.host);
        self.log(|| {
            let numbers: Vec<Option<u64>> = entries.iter().map(|entry| number_of(&entry.headers)).collect();
            format!("host {host} publishes {numbers:?}")
        });
        if self.options.bug == Some(Bug::JournalBatchReversed) && self.journals.hosts[host].has_failed {
            entries.reverse();
        }
        let answer = if self.options.bug == Some(Bug::JournalNotedTooEarly) {
            let outcomes = (0..count as u64).map(Ok).collect();
            self.later(0, Event::Journal(JournalEvent::Published { answer, outcomes }));
            None
        } else {
            Some(answer)
        };
        let faults = (
            self.fault_mix.occurs(Fault::PublishLost, &mut self.random),
            self.fault_mix.occurs(Fault::AnswerLost, &mut self.random),
            self.fault_mix.occurs(Fault::RequestLate, &mut self.random),
        );
        let (which, patience_ms) = (self.random.below(3), self.random.within(1, TIMEOUT_MS));
        let is_down = self.now_ms < self.server_up_at_ms;
        let all = |entries: Vec<Entry>| entries.into_iter().map(|entry| (entry, true)).collect();
        let unknown = vec![unavailable("no response"); count];
        let (entries, arrives_ms) = match faults {
            (false, false, false) if !is_down => {
                self.soon(Event::Journal(JournalEvent::Arrive { entries: all(entries), answer }));
                return;
            }
            (true, ..) if !is_down && which == 0 => {
                let entries = self.without_some(entries);
                self.soon(Event::Journal(JournalEvent::Arrive { entries, answer }));
                return;
            }
            (_, true, _) if !is_down => (Some(all(entries)), self.random.delay_ms(self.latency_ms)),
            (.., true) if !is_down => (Some(all(entries)), patience_ms + self.random.delay_ms(4_000)),
            _ => (None, 0),
        };
        self.counts.lost += 1;
        if let Some(answer) = answer {
            let outcomes = if which == 1 && entries.is_none() { vec![Err(PublishError::Busy); count] } else { unknown };
            self.later(patience_ms, Event::Journal(JournalEvent::Published { answer, outcomes }));
        }
        if let Some(entries) = entries {
            self.later(arrives_ms, Event::Journal(JournalEvent::Arrive { entries, answer: None }));
        }
    }

    /// Chooses an entry that is not stored; and then no later entry is stored, as `Target::publish` requires.
    fn without_some(&mut self, entries: Vec<Entry>) -> Vec<(Entry, bool)> {
        let mut is_stored = true;
        let choose = |entry: Entry| {
            is_stored &= !self.random.one_in(3);
            (entry, is_stored)
        };
        entries.into_iter().map(choose).collect()
    }

    /// Handles a publish that has reached the input stream.
    fn arrive_from_journal(&mut self, entries: Vec<(Entry, bool)>, answer: Option<Waiting<Outcomes>>) -> Checked {
        if self.now_ms < self.server_up_at_ms {
            if let Some(answer) = answer {
                let outcomes = vec![unavailable("the server is down"); entries.len()];
                self.later(TIMEOUT_MS, Event::Journal(JournalEvent::Published { answer, outcomes }));
            }
            return Ok(());
        }
        let mut outcomes = Vec::new();
        for (entry, is_stored) in entries {
            let number = number_of(&entry.headers).ok_or("a journal publishes a message that nobody has sent")?;
            let sent = usize::try_from(number).ok().and_then(|number| self.journals.messages.get(number));
            let sent = sent.ok_or("a journal publishes a message that nobody has sent")?;
            if (&entry.subject, &entry.payload) != (&sent.delivery.subject, &sent.delivery.payload) {
                return Err(format!("a journal has changed message {number}"));
            }
            outcomes.push(match is_stored {
                _ if sent.is_refused => Err(PublishError::TooLarge { size: 2, max: 1 }),
                false => unavailable("not stored"),
                true => {
                    let mut delivery = Delivery { headers: entry.headers, ..sent.delivery.clone() };
                    if self.options.bug == Some(Bug::JournalRepeatHasAnotherId) {
                        self.journals.ids_count += 1;
                        let id = format!("another-{}", self.journals.ids_count);
                        delivery.headers.retain(|(name, _)| name != JOURNAL_HEADER);
                        delivery.headers.push((JOURNAL_HEADER.to_owned(), id));
                    }
                    self.counts.published_again += usize::from(self.checkers.journal.published(number)?);
                    self.publish(delivery);
                    Ok(self.jetstream.input.facts().last_sequence)
                }
            });
        }
        if let Some(answer) = answer {
            self.soon(Event::Journal(JournalEvent::Published { answer, outcomes }));
        }
        Ok(())
    }

    fn send_letters(&mut self, letters: Vec<(Entry, Dead)>, answer: Waiting<Result<Vec<u64>, String>>) {
        let is_lost = self.fault_mix.occurs(Fault::PublishLost, &mut self.random);
        let (which, patience_ms) = (self.random.below(2), self.random.within(1, TIMEOUT_MS));
        if !is_lost {
            self.soon(Event::Journal(JournalEvent::SetAside { letters, answer: Some(answer) }));
            return;
        }
        self.counts.lost += 1;
        let outcome = Err("no response".to_owned());
        self.later(patience_ms, Event::Journal(JournalEvent::SetAsideDone { answer, outcome }));
        if which == 0 {
            self.soon(Event::Journal(JournalEvent::SetAside { letters, answer: None }));
        }
    }

    /// Handles messages that have reached the stream of dead letters.
    fn set_aside(&mut self, letters: Vec<(Entry, Dead)>, answer: Option<Waiting<Result<Vec<u64>, String>>>) {
        let is_down = self.now_ms < self.server_up_at_ms;
        let sequences = (0..letters.len() as u64).collect();
        for (entry, dead) in letters.into_iter().filter(|_| !is_down) {
            match (dead.reason, number_of(&entry.headers)) {
                (DeadReason::DamagedJournal, _) if self.options.bug == Some(Bug::DamagedBytesDropped) => {}
                (DeadReason::DamagedJournal, _) => self.checkers.journal.damaged(&entry.payload),
                (_, number) => number.into_iter().for_each(|number| self.checkers.journal.set_aside(number)),
            }
        }
        if let Some(answer) = answer {
            let outcome = if is_down { Err("the server is down".to_owned()) } else { Ok(sequences) };
            self.soon(Event::Journal(JournalEvent::SetAsideDone { answer, outcome }));
        }
    }
}

fn unavailable(cause: &str) -> Result<u64, PublishError> {
    Err(PublishError::Unavailable { cause: cause.to_owned() })
}

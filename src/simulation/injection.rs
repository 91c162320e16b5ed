//! Injects the spontaneous faults.

use super::checkers::Checked;
use super::fault::Fault;
use super::world::{Event, World};
use crate::node::Input;
use crate::store::MemoryStore;

/// A reader detects a lost server after two missed heartbeats.
const HEARTBEATS_MS: i64 = 11_000;

impl World {
    /// Injects a fault, if the fault mix says so.
    pub(super) fn maybe_inject_fault(&mut self) -> Checked {
        if self.is_finishing {
            return Ok(());
        }
        let pause_ms = self.random.within(100, 5_000);
        self.later(pause_ms, Event::Fault);
        let known: Vec<Fault> = Fault::SPONTANEOUS.into_iter().filter(|fault| self.fault_mix.has(*fault)).collect();
        if known.is_empty() {
            return Ok(());
        }
        let fault = *self.random.pick(&known);
        if !self.fault_mix.occurs(fault, &mut self.random) {
            return Ok(());
        }
        self.counts.faults += 1;
        self.log(|| format!("fault: {fault}"));
        self.inject(fault)
    }

    fn inject(&mut self, fault: Fault) -> Checked {
        let ids: Vec<u32> = self.processes.keys().copied().collect();
        let victim = if ids.is_empty() { None } else { Some(*self.random.pick(&ids)) };
        let partition = u16::try_from(self.random.below(usize::from(self.partitions))).unwrap_or(0);
        let is_input_loss = matches!(fault, Fault::InputTailLost | Fault::InputRestored | Fault::InputRecreated);
        match fault {
            // The first message after a loss is found by its time, which says nothing if the server's clock is wrong before or after the
            // loss (docs/guarantees.md).
            _ if is_input_loss && self.had_server_skew => return Ok(()),
            Fault::ServerClockJump if self.had_input_loss => return Ok(()),
            _ => self.had_input_loss |= is_input_loss,
        }
        match fault {
            Fault::Crash => self.crash(victim, |process| process.store.copy()),
            Fault::HostCrash => {
                victim.into_iter().for_each(|id| self.crash_host(id));
                self.crash(victim, |process| process.store.durable());
            }
            Fault::StoreLost => self.crash(victim, |_process| MemoryStore::default()),
            Fault::StoreOutdated => self.crash(victim, |process| process.store_before.copy()),
            Fault::StoreFails => return self.fail_store(victim),
            Fault::Stop => return self.stop(victim),
            Fault::TakeOver => self.take_over(victim),
            Fault::PartitionMoved => self.move_partition(partition),
            Fault::StartsOver => {
                let Some(id) = victim else { return Ok(()) };
                return self.receive(id, Input::StartOver { problem: "injected fault".to_owned() });
            }
            Fault::ReaderFails => self.fail_reader(victim, partition),
            Fault::ConsumerDeleted => {
                self.jetstream.input.delete_consumer(partition);
                self.fail_readers(Some(partition), 2_000);
                let after_ms = self.random.within(1, 20_000);
                self.later(after_ms, Event::RecreateConsumer(partition));
            }
            Fault::ServerRestarts => self.restart_server(),
            Fault::InputTailLost => {
                self.restart_server();
                let count = 1 + self.random.below(8);
                self.jetstream.input.lose_tail(count);
                self.checkers.input_lost();
            }
            Fault::OutputTailLost => {
                // Once another process has written to the stream, a store that is ahead of it cannot be recognised any more.
                self.all_crash(self.is_shared);
                return self.lose_output();
            }
            Fault::OutputTailLostAlone => return self.lose_output(),
            Fault::InputRecreated => {
                self.pass_one_millisecond();
                self.jetstream.input.recreate(self.now_ms * 1_000_000 + 1);
                self.cancel_scheduled_pulls();
                self.checkers.input_lost();
                self.fail_readers(None, HEARTBEATS_MS);
            }
            Fault::InputRestored => {
                self.pass_one_millisecond();
                let count = self.random.below(2) * self.random.below(8);
                self.jetstream.input.restore(self.now_ms * 1_000_000 + 1, count);
                self.cancel_scheduled_pulls();
                if count > 0 {
                    self.checkers.input_lost();
                }
                self.fail_readers(None, HEARTBEATS_MS);
            }
            Fault::OutputRecreated | Fault::OutputRecreatedAlone => {
                if fault == Fault::OutputRecreated {
                    self.all_crash(false);
                }
                self.jetstream.output.recreate(self.now_ms * 1_000_000 + 1);
                return self.output_is_lost();
            }
            Fault::InputAges => {
                let up_to = self.checkers.handled_up_to(&self.jetstream);
                self.jetstream.input.age(up_to);
            }
            Fault::TimeJump => {
                let most_ms = *self.random.pick(&[60_000, 3_600_000, 86_400_000, 5 * 86_400_000]);
                self.now_ms += self.random.within(1, most_ms);
            }
            Fault::ClockSkew => {
                // The own clock of a process is steady, so only the next process begins with the other time.
                self.host_skew_ms = self.some_skew_ms();
                let process = victim.and_then(|id| self.processes.get_mut(&id));
                process.into_iter().for_each(|process| process.host_skew_ms = self.host_skew_ms);
            }
            Fault::ServerClockJump => {
                self.server_skew_ms = self.some_skew_ms();
                self.had_server_skew = true;
                let for_ms = *self.random.pick(&[6_000, 30_000, 150_000]);
                self.later(for_ms, Event::ServerClockRight);
            }
            Fault::StagedExpires => self.jetstream.output.forget_staged(|_| true),
            Fault::BelvoWrongAccount if !self.had_wrong_account => {
                self.had_wrong_account = true;
                self.wrong_account_until_ms = self.now_ms + self.random.within(60_000, 10_800_000);
            }
            Fault::BelvoWrongAccount => {}
            Fault::JournalDiskFails => self.fail_journal_disk(),
            Fault::JournalDamaged => self.damage_journal(),
            other => unreachable!("{other} affects an operation in progress"),
        }
        Ok(())
    }

    /// A new stream, or a backup, takes time. So no two inputs have both the same sequence and the same millisecond, by which the ids of
    /// relink's messages and the checkers distinguish them.
    const fn pass_one_millisecond(&mut self) {
        self.now_ms += 1;
    }

    fn some_skew_ms(&mut self) -> i64 {
        let most_ms = *self.random.pick(&[600_000, 400 * 86_400_000]);
        self.random.within(-most_ms, most_ms)
    }

    /// A process crashes; its successor starts with the remaining store.
    fn crash(&mut self, victim: Option<u32>, left: impl FnOnce(&super::process::Process) -> MemoryStore) {
        let Some(process) = victim.and_then(|id| self.processes.get(&id)) else { return };
        let (id, store) = (process.id, left(process));
        self.remove(id);
        self.start_later(id, store);
    }

    /// All processes crash, and their messages in transit are lost.
    fn all_crash(&mut self, is_lost: bool) {
        let ids: Vec<u32> = self.processes.keys().copied().collect();
        for id in ids {
            self.crash_host(id);
            self.crash(Some(id), |process| if is_lost { MemoryStore::default() } else { process.store.durable() });
        }
        self.drop_messages_in_transit();
    }

    fn lose_output(&mut self) -> Checked {
        self.restart_server();
        let count = 1 + self.random.below(6);
        self.jetstream.output.lose_tail(count);
        self.output_is_lost()
    }

    /// Updates the jobs, which are on the output stream too.
    fn output_is_lost(&mut self) -> Checked {
        let stored = self.jetstream.output.messages.iter().map(|stored| stored.message.id.clone()).collect();
        self.jetstream.jobs.retain(&stored);
        self.checkers.output_lost(&self.jetstream)
    }

    /// The next write fails completely.
    fn fail_store(&mut self, victim: Option<u32>) -> Checked {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return Ok(()) };
        if process.writes.pop_front().is_none() {
            // Without a pending write, the old copy of the store is renewed instead.
            process.store_before = process.store.copy();
            return Ok(());
        }
        process.writes.clear();
        let id = process.id;
        self.receive(id, Input::StoreFailed { problem: "injected fault".to_owned() })
    }

    fn stop(&mut self, victim: Option<u32>) -> Checked {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return Ok(()) };
        if std::mem::replace(&mut process.is_stopping, true) {
            return Ok(());
        }
        process.store_before = process.store.copy();
        let id = process.id;
        self.receive(id, Input::Shutdown)
    }

    /// Another process takes all partitions of a process, which is not notified.
    fn take_over(&mut self, victim: Option<u32>) {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return };
        let id = process.id;
        process.store_before = process.store.copy();
        let ours = |partition: &u16| self.assigned[usize::from(*partition)] == id;
        let partitions: Vec<u16> = (0..self.partitions).filter(ours).collect();
        if partitions.is_empty() || self.processes.len() > 3 {
            return;
        }
        let copy = self.some_copy(id);
        let next = self.start_with(&partitions, copy, None);
        self.later(0, Event::Gain { process: next, partitions });
    }

    /// A copy of a process's store that another host may have: current, checkpointed, old or empty.
    fn some_copy(&mut self, id: u32) -> MemoryStore {
        let which = self.random.below(4);
        let Some(process) = self.processes.get(&id) else { return MemoryStore::default() };
        match which {
            0 => process.store.copy(),
            1 => process.store.durable(),
            2 => process.store_before.copy(),
            _ => MemoryStore::default(),
        }
    }

    /// A partition moves to another process; both are notified, in any order.
    fn move_partition(&mut self, partition: u16) {
        if !self.is_shared {
            return;
        }
        let from = self.assigned[usize::from(partition)];
        let others: Vec<u32> = self.processes.keys().copied().filter(|id| *id != from).collect();
        let to = if others.is_empty() || (others.len() < 2 && self.random.one_in(3)) {
            let copy = self.some_copy(from);
            self.start_with(&[], copy, None)
        } else {
            *self.random.pick(&others)
        };
        self.assigned[usize::from(partition)] = to;
        let (lost_ms, gained_ms) = (self.random.delay_ms(200), self.random.delay_ms(200));
        self.later(lost_ms, Event::Lose { process: from, partition });
        self.later(gained_ms, Event::Gain { process: to, partitions: vec![partition] });
    }

    fn fail_reader(&mut self, victim: Option<u32>, partition: u16) {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return };
        let Some((reader, _)) = process.readers.remove(&partition) else { return };
        let id = process.id;
        self.later(0, Event::EndPull { process: id, reader });
        let problem = "injected fault".to_owned();
        self.soon(Event::Receive { process: id, input: Input::ReaderFailed { reader, problem } });
    }

    /// All readers of one partition or of all partitions fail; each detects it at its own time.
    fn fail_readers(&mut self, partition: Option<u16>, within_ms: i64) {
        let mut failing = Vec::new();
        for process in self.processes.values_mut() {
            let id = process.id;
            let ours = |at: &u16| partition.is_none_or(|partition| partition == *at);
            let partitions: Vec<u16> = process.readers.keys().copied().filter(ours).collect();
            failing.extend(partitions.into_iter().filter_map(|at| Some((id, process.readers.remove(&at)?.0))));
        }
        for (process, reader) in failing {
            self.jetstream.input.end_pulls(|pull| pull.process == process && pull.reader == reader);
            let after_ms = self.random.within(0, within_ms);
            let problem = "the consumer is gone".to_owned();
            self.later(after_ms, Event::Receive { process, input: Input::ReaderFailed { reader, problem } });
        }
    }

    /// The server restarts: staged batches and pull requests are lost.
    fn restart_server(&mut self) {
        self.server_up_at_ms = self.now_ms + self.random.within(1_001, 5_000);
        self.jetstream.output.forget_staged(|_| true);
        self.jetstream.input.end_pulls(|_| true);
        self.fail_readers(None, HEARTBEATS_MS);
        for partition in 0..self.partitions {
            let after_ms = self.server_up_at_ms - self.now_ms;
            self.hand_out_later(partition, after_ms);
        }
    }
}

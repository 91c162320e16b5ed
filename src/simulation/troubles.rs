//! Troubles that strike by themselves.

use super::chance::Trouble;
use super::checkers::Checked;
use super::world::{Event, World};
use crate::node::Input;
use crate::store::MemoryStore;

/// A reader misses two heartbeats before it knows that the server is gone.
const HEARTBEATS_MS: i64 = 11_000;

impl World {
    /// Something goes wrong, or not.
    pub(super) fn trouble(&mut self) -> Checked {
        if self.is_resting {
            return Ok(());
        }
        let pause_ms = self.chance.within(100, 5_000);
        self.later(pause_ms, Event::Trouble);
        let known: Vec<Trouble> = Trouble::STRIKING.into_iter().filter(|trouble| self.mix.has(*trouble)).collect();
        if known.is_empty() {
            return Ok(());
        }
        let trouble = *self.chance.pick(&known);
        if !self.mix.strikes(trouble, &mut self.chance) {
            return Ok(());
        }
        self.counts.troubles += 1;
        self.say(|| format!("trouble: {trouble}"));
        self.strike(trouble)
    }

    fn strike(&mut self, trouble: Trouble) -> Checked {
        let ids: Vec<u32> = self.processes.keys().copied().collect();
        let victim = if ids.is_empty() { None } else { Some(*self.chance.pick(&ids)) };
        let partition = u16::try_from(self.chance.below(usize::from(self.partitions))).unwrap_or(0);
        match trouble {
            Trouble::Crash => self.crash(victim, |process| process.store.copy()),
            Trouble::HostCrash => self.crash(victim, |process| process.store.durable()),
            Trouble::StoreLost => self.crash(victim, |_process| MemoryStore::default()),
            Trouble::StoreOld => self.crash(victim, |process| process.store_before.copy()),
            Trouble::StoreFails => return self.fail_store(victim),
            Trouble::Stop => return self.stop(victim),
            Trouble::TakeOver => self.take_over(victim),
            Trouble::Move => self.move_partition(partition),
            Trouble::ReaderFails => self.fail_reader(victim, partition),
            Trouble::ConsumerDeleted => {
                self.jetstream.input.delete_consumer(partition);
                self.fail_readers(Some(partition), 2_000);
                let after_ms = self.chance.within(1, 20_000);
                self.later(after_ms, Event::ConsumerBack(partition));
            }
            Trouble::ServerRestarts => self.restart_server(),
            Trouble::InputTailLost => {
                self.restart_server();
                let count = 1 + self.chance.below(8);
                self.jetstream.input.lose_tail(count);
                self.checkers.input_lost();
            }
            Trouble::OutputTailLost => {
                // Which of several stores knows more than the stream is not to be seen once another process has written on.
                self.all_crash(self.is_shared);
                return self.lose_output();
            }
            Trouble::OutputTailLostAlone => return self.lose_output(),
            Trouble::InputMadeAnew => {
                self.jetstream.input.make_anew(self.now_ms * 1_000_000 + 1);
                self.end_coming_pulls();
                self.checkers.input_lost();
                self.fail_readers(None, HEARTBEATS_MS);
            }
            Trouble::OutputMadeAnew | Trouble::OutputMadeAnewAlone => {
                if trouble == Trouble::OutputMadeAnew {
                    self.all_crash(false);
                }
                self.jetstream.output.make_anew(self.now_ms * 1_000_000 + 1);
                return self.checkers.output_lost(&self.jetstream);
            }
            Trouble::InputAges => {
                let up_to = self.checkers.handled_up_to(&self.jetstream);
                self.jetstream.input.age(up_to);
            }
            Trouble::TimeJump => {
                let most_ms = *self.chance.pick(&[60_000, 3_600_000, 86_400_000, 5 * 86_400_000]);
                self.now_ms += self.chance.within(1, most_ms);
            }
            Trouble::ClockSkew => {
                let skew_ms = self.chance.within(-600_000, 600_000);
                let process = victim.and_then(|id| self.processes.get_mut(&id));
                process.into_iter().for_each(|process| process.skew_ms = skew_ms);
            }
            Trouble::StagedExpires => self.jetstream.output.forget_staged(|_| true),
            other => unreachable!("{other} strikes what is being done"),
        }
        Ok(())
    }

    /// A process dies; the next one finds what is left of its store.
    fn crash(&mut self, victim: Option<u32>, left: impl FnOnce(&super::process::Process) -> MemoryStore) {
        let Some(process) = victim.and_then(|id| self.processes.get(&id)) else { return };
        let (id, store) = (process.id, left(process));
        self.remove(id);
        self.start_later(id, store);
    }

    /// All processes die, and nothing of them is on its way any more.
    fn all_crash(&mut self, is_lost: bool) {
        let ids: Vec<u32> = self.processes.keys().copied().collect();
        for id in ids {
            self.crash(Some(id), |process| if is_lost { MemoryStore::default() } else { process.store.durable() });
        }
        self.forget_what_is_sent();
    }

    fn lose_output(&mut self) -> Checked {
        self.restart_server();
        let count = 1 + self.chance.below(6);
        self.jetstream.output.lose_tail(count);
        self.checkers.output_lost(&self.jetstream)
    }

    /// The next write fails, and nothing of it is there.
    fn fail_store(&mut self, victim: Option<u32>) -> Checked {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return Ok(()) };
        if process.writes.pop_front().is_none() {
            // A copy is made now and then.
            process.store_before = process.store.copy();
            return Ok(());
        }
        process.writes.clear();
        let id = process.id;
        self.hear(id, Input::StoreFailed { problem: "as the dice will".to_owned() })
    }

    fn stop(&mut self, victim: Option<u32>) -> Checked {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return Ok(()) };
        if std::mem::replace(&mut process.is_stopping, true) {
            return Ok(());
        }
        process.store_before = process.store.copy();
        let id = process.id;
        self.hear(id, Input::Shutdown)
    }

    /// Another process takes everything that one has; that one is not told.
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
        let next = self.start_with(&partitions, copy);
        self.later(0, Event::Gain { process: next, partitions });
    }

    /// What another host may have of a process's store.
    fn some_copy(&mut self, id: u32) -> MemoryStore {
        let which = self.chance.below(4);
        let Some(process) = self.processes.get(&id) else { return MemoryStore::default() };
        match which {
            0 => process.store.copy(),
            1 => process.store.durable(),
            2 => process.store_before.copy(),
            _ => MemoryStore::default(),
        }
    }

    /// A partition goes to another process; both hear of it, in any order.
    fn move_partition(&mut self, partition: u16) {
        if !self.is_shared {
            return;
        }
        let from = self.assigned[usize::from(partition)];
        let others: Vec<u32> = self.processes.keys().copied().filter(|id| *id != from).collect();
        let to = if others.is_empty() || (others.len() < 2 && self.chance.one_in(3)) {
            let copy = self.some_copy(from);
            self.start_with(&[], copy)
        } else {
            *self.chance.pick(&others)
        };
        self.assigned[usize::from(partition)] = to;
        let (lost_ms, gained_ms) = (self.chance.delay_ms(200), self.chance.delay_ms(200));
        self.later(lost_ms, Event::Lose { process: from, partition });
        self.later(gained_ms, Event::Gain { process: to, partitions: vec![partition] });
    }

    fn fail_reader(&mut self, victim: Option<u32>, partition: u16) {
        let Some(process) = victim.and_then(|id| self.processes.get_mut(&id)) else { return };
        let Some((reader, _)) = process.readers.remove(&partition) else { return };
        let id = process.id;
        self.later(0, Event::EndPull { process: id, reader });
        let problem = "as the dice will".to_owned();
        self.soon(Event::Hear { process: id, input: Input::ReaderFailed { reader, problem } });
    }

    /// All readers fail, of one partition or of all; each notices when it does.
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
            let after_ms = self.chance.within(0, within_ms);
            let problem = "the consumer is gone".to_owned();
            self.later(after_ms, Event::Hear { process, input: Input::ReaderFailed { reader, problem } });
        }
    }

    /// The server is away for a moment: what is staged is forgotten, and nobody waits at a consumer any more.
    fn restart_server(&mut self) {
        self.server_up_at_ms = self.now_ms + self.chance.within(1_001, 5_000);
        self.jetstream.output.forget_staged(|_| true);
        self.jetstream.input.end_pulls(|_| true);
        self.fail_readers(None, HEARTBEATS_MS);
        for partition in 0..self.partitions {
            let after_ms = self.server_up_at_ms - self.now_ms;
            self.hand_out_later(partition, after_ms);
        }
    }
}

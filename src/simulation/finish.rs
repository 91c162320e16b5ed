//! The end of a run: all faults end, the processes finish their work, and the final state is checked.

use std::collections::BTreeSet;

use super::checkers::{Checked, FinalState};
use super::process::Process;
use super::world::{Event, World};
use crate::node::Phase;
use crate::store::MemoryStore;

/// The number of days for which the reconciler runs after all faults have ended.
const DAYS_OF_SWEEPS: usize = 3;

impl World {
    /// Ends all faults and publisher turns, lets the processes finish their work, and checks the final state.
    pub(super) fn finish(&mut self) -> Checked {
        self.is_finishing = true;
        self.fault_mix.clear();
        self.wrong_account_until_ms = 0;
        (self.latency_ms, self.batch_messages_max) = (2, 1_000);
        self.log(|| "all faults have ended".to_owned());
        (self.server_skew_ms, self.host_skew_ms) = (0, 0);
        self.processes.values_mut().for_each(|process| process.host_skew_ms = 0);
        for partition in 0..self.partitions {
            let event = Event::RecreateConsumer(partition);
            self.later(25_000, event);
        }
        self.return_all_hosts();
        for (after_ms, delivery) in self.publishers.status_page.last(self.now()) {
            self.later(after_ms, Event::Publish(delivery));
        }
        self.run_out_timers()?;
        self.checkers.journal.check_end()?;
        self.check_waits()?;
        self.check_final_state()?;
        self.check_ground_truth()?;
        // The store is a copy of the stream: a rebuilt store must have the same content.
        let lost: Vec<u32> = self.assigned.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        for process in lost {
            self.log(|| format!("process {process} loses its store"));
            self.remove(process);
            self.start(process, MemoryStore::default())?;
        }
        self.run_for(30_000)?;
        self.check_final_state()?;
        self.lose_state()?;
        let processes =
            std::mem::take(&mut self.ended).into_iter().chain(std::mem::take(&mut self.processes).into_values());
        processes.into_iter().try_for_each(Process::replay)
    }

    /// Advances the time until all suspicions, deferred prompts and incidents have ended.
    fn run_out_timers(&mut self) -> Checked {
        self.run_for(200_000)?;
        // Without keys a wait lasts at most as long as the last report of the status page counts, which is a day.
        for _ in 0..if self.client.is_some() { 10 } else { 30 } {
            self.now_ms += 3_600_000;
            self.run_for(8_000)?;
        }
        // With keys, sweeps find the changes without a webhook, and the next successful access outweighs a refused login.
        for _ in 0..if self.client.is_some() { DAYS_OF_SWEEPS * 24 } else { 0 } {
            self.now_ms += 3_595_000;
            self.run_for(5_000)?;
        }
        Ok(())
    }

    /// Checks that every wait is over, but those for links whose timers cannot be handled.
    fn check_waits(&self) -> Checked {
        let set_aside = self.processes.values().flat_map(|process| process.set_aside.iter().cloned()).collect();
        self.checkers.check_waits(self.now(), &set_aside)
    }

    fn check_final_state(&mut self) -> Checked {
        let wanted: BTreeSet<u32> = self.assigned.iter().copied().collect();
        for id in wanted {
            let process = self.processes.get(&id).ok_or_else(|| format!("process {id} is not running at the end"))?;
            let ours = |partition: &u16| self.assigned[usize::from(*partition)] == id;
            let partitions: BTreeSet<u16> = (0..self.partitions).filter(ours).collect();
            let (phase, now) = (process.node.phase(), self.now());
            let Process { store, set_aside, .. } = process;
            let final_state = FinalState { process: id, phase, store, partitions: &partitions, set_aside, now };
            self.checkers.check_final_state(&final_state, &self.jetstream)?;
            if phase != Phase::Running {
                return Err(format!("process {id} is not in the running phase"));
            }
        }
        self.counts.inputs = self.jetstream.input.ever.len();
        self.counts.outcomes = self.checkers.outcomes_count();
        self.counts.processes = self.processes_count as usize;
        Ok(())
    }
}

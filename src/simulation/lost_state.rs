//! The output stream loses a state in its middle, and all stores are lost too.
//!
//! This comes last in a run: what the link has been through after its older state is gone, so no other checker applies from here on.

use std::collections::BTreeSet;

use super::checkers::Checked;
use super::fault::Fault;
use super::world::World;
use crate::node::Phase;
use crate::store::{MemoryStore, Store};

/// The time within which a process reads the stream, with all faults off.
const REBUILD_MS: i64 = 60_000;

impl World {
    /// Loses the last state of a link and all stores, and checks that no version of the link is given out again.
    pub(super) fn lose_state(&mut self) -> Checked {
        // A process that shares the partitions with others publishes no digest.
        if self.is_shared || !self.initial_faults().contains(&Fault::StateLost) {
            return Ok(());
        }
        let Some((link, version)) = self.jetstream.output.lose_state(&mut self.random) else { return Ok(()) };
        self.counts.faults += 1;
        self.checkers.state_lost(link.clone(), version);
        self.log(|| format!("the output stream loses version {version} of {link}, and all stores are lost"));
        for process in self.assigned.iter().copied().collect::<BTreeSet<_>>() {
            self.remove(process);
            self.start(process, MemoryStore::default())?;
        }
        let end_ms = self.now_ms + REBUILD_MS;
        while self.processes.values().any(|process| process.node.phase() != Phase::Running) {
            if self.now_ms > end_ms {
                return Err("a process does not start on a stream that has lost a state".to_owned());
            }
            self.run_for(1)?;
        }
        for process in self.processes.values() {
            let stored = process.store.get(&link).map_err(|error| error.to_string())?;
            let found = stored.map_or(0, |stored| stored.head.version);
            if found < version {
                return Err(format!(
                    "{link} goes on after version {found}, but version {version} was given out before"
                ));
            }
        }
        Ok(())
    }
}

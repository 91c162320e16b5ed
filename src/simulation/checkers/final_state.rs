//! The final state after all faults have ended: no input and no timer is left, and each store equals a rebuilt one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::jetstream::JetStream;
use super::Checked;
use super::history::History;
use crate::contract::Address;
use crate::link::{LinkId, Timestamp};
use crate::node::Phase;
use crate::store::{Head, MemoryStore, Put, Query, Store, StoredLink};

/// A process at the end of a run.
pub(in crate::simulation) struct FinalState<'a> {
    pub(in crate::simulation) process: u32,
    pub(in crate::simulation) phase: Phase,
    pub(in crate::simulation) store: &'a MemoryStore,
    /// The partitions of the process.
    pub(in crate::simulation) partitions: &'a BTreeSet<u16>,
    /// Links whose timers the process has set aside.
    pub(in crate::simulation) set_aside: &'a BTreeSet<String>,
    pub(in crate::simulation) now: Timestamp,
}

impl History {
    pub(super) fn check_final_state(&self, final_state: &FinalState<'_>, jetstream: &JetStream) -> Checked {
        let process = final_state.process;
        if final_state.phase != Phase::Running {
            return Err(format!("process {process} is in phase {:?} at the end", final_state.phase));
        }
        for place in jetstream.input.places() {
            let delivery = &jetstream.input.ever[place];
            if !final_state.partitions.contains(&delivery.partition) {
                continue;
            }
            let offset = self.offsets.get(&delivery.partition);
            let is_passed = |offset: &&crate::contract::CommittedOffset| {
                let input = &jetstream.input;
                input.is_identity(offset.stream_created_ns) && input.place_of_offset(offset) >= Some(place)
            };
            if offset.filter(is_passed).is_none() {
                let (sequence, partition) = (delivery.sequence, delivery.partition);
                return Err(format!(
                    "input {sequence} of partition {partition} is never handled; the committed offset is {offset:?}"
                ));
            }
        }
        self.check_store(final_state, jetstream)
    }

    /// Checks that the store has the last state of each link, byte for byte, with its deadline.
    fn check_store(&self, final_state: &FinalState<'_>, jetstream: &JetStream) -> Checked {
        let broken = |error: &dyn std::fmt::Display| format!("the store of process {}: {error}", final_state.process);
        let is_ours = |stored: &StoredLink| final_state.partitions.contains(&stored.head.partition);
        let mut last: BTreeMap<&LinkId, &Bytes> = BTreeMap::new();
        for stored in &jetstream.output.messages {
            if let Address::State(link) = &stored.message.address {
                last.insert(link, &stored.message.body);
            }
        }
        let mut expected: BTreeMap<LinkId, (Head, Bytes)> = BTreeMap::new();
        for body in last.into_values() {
            let Put { id, head, record, .. } =
                Put::of_state_message(body, &self.policy).map_err(|error| broken(&error))?;
            if final_state.partitions.contains(&head.partition) {
                expected.insert(id, (head, record));
            }
        }
        let page =
            final_state.store.page(&Query { limit: usize::MAX, ..Query::default() }).map_err(|error| broken(&error))?;
        let mut found: BTreeMap<LinkId, (Head, Bytes)> = BTreeMap::new();
        for stored in page.links.into_iter().filter(is_ours) {
            let record = stored.parse().map_err(|error| broken(&error))?;
            let link = record.link().map_err(|error| broken(&error))?;
            found.insert(link.id, (stored.head, stored.record.into()));
        }
        if let Some(link) = expected.keys().chain(found.keys()).find(|link| expected.get(*link) != found.get(*link)) {
            let version = |of: &BTreeMap<LinkId, (Head, Bytes)>| of.get(link).map(|(head, _)| head.version);
            let (stored, on_stream) = (version(&found), version(&expected));
            return Err(broken(&format!(
                "{link} is version {stored:?} in it and {on_stream:?} on the stream, or differs"
            )));
        }
        let offsets = final_state.store.offsets().map_err(|error| broken(&error))?;
        let differs = |partition: &&u16| offsets.get(*partition) != self.offsets.get(*partition);
        if let Some(partition) = final_state.partitions.iter().find(differs) {
            return Err(broken(&format!(
                "the committed offset of partition {partition} differs from that on the stream"
            )));
        }
        let due = final_state.store.due(final_state.now, usize::MAX).map_err(|error| broken(&error))?;
        let ours =
            due.iter().filter(|link| found.contains_key(*link) && !final_state.set_aside.contains(link.as_str()));
        if let Some(link) = ours.into_iter().next() {
            return Err(format!("the timer of {link} is due and never handled"));
        }
        if self.incidents.0.is_empty() {
            return Ok(());
        }
        let incidents = final_state.store.incidents().map_err(|error| broken(&error))?;
        let is_equal = incidents.iter().eq(self.incidents.0.values());
        if is_equal { Ok(()) } else { Err(broken(&"its incidents differ from those on the stream")) }
    }
}

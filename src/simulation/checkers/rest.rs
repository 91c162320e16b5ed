//! How everything stands once all troubles are over: nothing waits, and what is stored is what a rebuild would be.

use std::collections::{BTreeMap, BTreeSet};

use super::super::jetstream::JetStream;
use super::Checked;
use super::history::History;
use crate::contract::Address;
use crate::link::{LinkId, Timestamp};
use crate::node::Phase;
use crate::store::{Head, MemoryStore, Put, Query, Store, StoredLink};

/// A process that has come to rest.
pub(in crate::simulation) struct Rest<'a> {
    pub(in crate::simulation) process: u32,
    pub(in crate::simulation) phase: Phase,
    pub(in crate::simulation) store: &'a MemoryStore,
    /// Its partitions.
    pub(in crate::simulation) partitions: &'a BTreeSet<u16>,
    /// Its timers that cannot be handled: it has said so.
    pub(in crate::simulation) set_aside: &'a BTreeSet<String>,
    pub(in crate::simulation) now: Timestamp,
}

impl History {
    pub(super) fn at_rest(&self, rest: &Rest<'_>, jetstream: &JetStream) -> Checked {
        let process = rest.process;
        if rest.phase != Phase::Running {
            return Err(format!("process {process} does not come to rest: {:?}", rest.phase));
        }
        for place in jetstream.input.places() {
            let delivery = &jetstream.input.ever[place];
            if !rest.partitions.contains(&delivery.partition) {
                continue;
            }
            let offset = self.offsets.get(&delivery.partition);
            let created_ns = jetstream.input.facts().created_ns;
            let is_passed = |offset: &&crate::contract::CommittedOffset| {
                offset.stream_created_ns == created_ns && offset.stored_at_ns >= delivery.stored_at_ns
            };
            if offset.filter(is_passed).is_none() {
                let (sequence, partition) = (delivery.sequence, delivery.partition);
                return Err(format!(
                    "input {sequence} of partition {partition} is never handled; committed is {offset:?}"
                ));
            }
        }
        self.check_store(rest, jetstream)
    }

    /// The store has the last state of each link, byte for byte, with its deadline.
    fn check_store(&self, rest: &Rest<'_>, jetstream: &JetStream) -> Checked {
        let broken = |error: &dyn std::fmt::Display| format!("the store of process {}: {error}", rest.process);
        let is_ours = |stored: &StoredLink| rest.partitions.contains(&stored.head.partition);
        let mut last: BTreeMap<&LinkId, &[u8]> = BTreeMap::new();
        for stored in &jetstream.output.messages {
            if let Address::State(link) = &stored.message.address {
                last.insert(link, &stored.message.body);
            }
        }
        let mut expected: BTreeMap<LinkId, (Head, Vec<u8>)> = BTreeMap::new();
        for body in last.into_values() {
            let Put { id, head, record } = Put::of_state_message(body, &self.policy).map_err(|error| broken(&error))?;
            if rest.partitions.contains(&head.partition) {
                expected.insert(id, (head, record));
            }
        }
        let page = rest.store.page(&Query { limit: usize::MAX, ..Query::default() }).map_err(|error| broken(&error))?;
        let mut found: BTreeMap<LinkId, (Head, Vec<u8>)> = BTreeMap::new();
        for stored in page.links.into_iter().filter(is_ours) {
            let record = stored.parse().map_err(|error| broken(&error))?;
            let link = record.link().map_err(|error| broken(&error))?;
            found.insert(link.id, (stored.head, stored.record));
        }
        if let Some(link) = expected.keys().chain(found.keys()).find(|link| expected.get(*link) != found.get(*link)) {
            let version = |of: &BTreeMap<LinkId, (Head, Vec<u8>)>| of.get(link).map(|(head, _)| head.version);
            let (stored, told) = (version(&found), version(&expected));
            return Err(broken(&format!("{link} is version {stored:?} in it and {told:?} on the stream, or differs")));
        }
        let offsets = rest.store.offsets().map_err(|error| broken(&error))?;
        let differs = |partition: &&u16| offsets.get(*partition) != self.offsets.get(*partition);
        if let Some(partition) = rest.partitions.iter().find(differs) {
            return Err(broken(&format!("partition {partition} is at another committed offset than on the stream")));
        }
        let due = rest.store.due(rest.now, usize::MAX).map_err(|error| broken(&error))?;
        let ours = due.iter().filter(|link| found.contains_key(*link) && !rest.set_aside.contains(link.as_str()));
        if let Some(link) = ours.into_iter().next() {
            return Err(format!("the timer of {link} is due and never handled"));
        }
        if self.incidents.0.is_empty() {
            return Ok(());
        }
        let incidents = rest.store.incidents().map_err(|error| broken(&error))?;
        let is_told = incidents.iter().eq(self.incidents.0.values());
        if is_told { Ok(()) } else { Err(broken(&"its incidents are not those of the stream")) }
    }
}

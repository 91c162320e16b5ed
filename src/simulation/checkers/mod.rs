//! THE CHECKERS: the rules that must hold after every event, each told in its own words and not in those of the code that keeps it.
//!
//! - `history`: the output stream as it stands: owners, ids, committed offsets, one outcome for each input
//! - `story`: what is told of one link follows from what was heard of it, and keeps the rules for users
//! - `incidents`: what is told of institutions
//! - `rest`: how everything stands once all troubles are over
//!
//! A stream that has lost its tail, or is made anew, is read again from its beginning: docs/guarantees.md ("What is lost") allows that what
//! was lost is said again, and nothing else. They must never: be loosened until they are green.

mod history;
mod incidents;
mod rest;
mod story;

use std::collections::{BTreeMap, BTreeSet};

use self::history::History;
pub(super) use self::rest::Rest;
use super::jetstream::{JetStream, Stored};
use crate::contract::{Address, Mark};
use crate::engine::Message;
use crate::link::Policy;
use crate::node::FenceToTake;
use crate::store::Changes;

/// What a checker found, as a sentence for people.
pub(super) type Checked = Result<(), String>;

pub(super) struct Checkers {
    policy: Policy,
    history: History,
    /// What was ever on the output stream, of before a loss too: states by the id of their message, committed offsets and incidents.
    states_ever: BTreeMap<String, BTreeSet<Vec<u8>>>,
    marks_ever: BTreeMap<u16, Vec<Mark>>,
    incidents_ever: BTreeSet<String>,
    /// Whether the output stream has ever lost something.
    is_output_lost: bool,
}

impl Checkers {
    pub(super) fn new(policy: Policy) -> Self {
        let history = History::new(policy.clone());
        let (states_ever, marks_ever, incidents_ever) = Default::default();
        Self { policy, history, states_ever, marks_ever, incidents_ever, is_output_lost: false }
    }

    /// The output stream has taken these messages, whole.
    pub(super) fn stored(&mut self, batch: &[Stored], jetstream: &JetStream) -> Checked {
        for Stored { message: Message { address, id, body, .. }, .. } in batch {
            match address {
                Address::State(_) => drop(self.states_ever.entry(id.clone()).or_default().insert(body.clone())),
                Address::Mark(partition) => {
                    let mark = serde_json::from_slice(body).map_err(|error| format!("{id}: {error}"))?;
                    self.marks_ever.entry(*partition).or_default().push(mark);
                }
                Address::Incident(_) => drop(self.incidents_ever.insert(id.clone())),
                Address::Notice(..)
                | Address::Job(..)
                | Address::Refused(_)
                | Address::Fence(_)
                | Address::Commit(_) => {}
            }
        }
        self.history.append(batch, jetstream)
    }

    /// The input stream has lost messages, or is another one.
    pub(super) fn input_lost(&mut self) {
        self.history.input_lost();
    }

    /// The output stream has lost messages, or is another one.
    pub(super) fn output_lost(&mut self, jetstream: &JetStream) -> Checked {
        self.is_output_lost = true;
        self.history = History::new(self.policy.clone());
        self.history.input_lost();
        for batch in jetstream.output.messages.chunk_by(|a, b| a.batch == b.batch) {
            self.history.append(batch, jetstream)?;
        }
        Ok(())
    }

    /// A process tells JetStream that everything up to a delivery has been handled.
    pub(super) fn acknowledged(&self, partition: u16, sequence: u64, stored_at_ns: i64) -> Checked {
        let covers = |mark: &Mark| mark.sequence >= sequence && mark.stored_at_ns >= stored_at_ns;
        let marks = self.marks_ever.get(&partition);
        if marks.is_some_and(|marks| marks.iter().any(covers)) {
            return Ok(());
        }
        Err(format!(
            "input {sequence} of partition {partition} is acknowledged, and no committed offset has reached it"
        ))
    }

    /// A store is given these changes.
    pub(super) fn applied(&self, changes: &Changes) -> Checked {
        for put in &changes.puts {
            let id = format!("{}.{}.0", put.id, put.head.version);
            if !self.states_ever.get(&id).is_some_and(|bodies| bodies.contains(&put.record)) {
                return Err(format!("a store is given {id}, which is not on the output stream"));
            }
        }
        for (partition, mark) in &changes.marks {
            if !self.marks_ever.get(partition).is_some_and(|marks| marks.contains(mark)) {
                return Err(format!(
                    "a store is given {mark:?} of partition {partition}, which is not on the output stream"
                ));
            }
        }
        let unknown = changes.incidents.iter().find(|incident| !self.incidents_ever.contains(&incident.message_id()));
        unknown
            .map_or(Ok(()), |incident| Err(format!("a store is given {}, which was never told", incident.message_id())))
    }

    /// A process asks for fences: one that is not its own it never takes from where it lies.
    pub(super) fn takes(&self, owner: u32, fences: &[FenceToTake], jetstream: &JetStream) -> Checked {
        for FenceToTake { partition, expects, .. } in fences {
            let there = expects.and_then(|expects| jetstream.output.stored(expects));
            let is_foreign =
                |there: &&Stored| there.message.address == Address::Fence(*partition) && there.owner != owner;
            // Behind a loss a sequence has been given out twice.
            if let Some(there) = there.filter(is_foreign).filter(|_| !self.is_output_lost) {
                return Err(format!("process {owner} takes partition {partition} back from process {}", there.owner));
            }
        }
        Ok(())
    }

    /// The last input before the first that is not handled.
    pub(super) fn handled_up_to(&self, jetstream: &JetStream) -> u64 {
        self.history.handled_up_to(&jetstream.input)
    }

    /// How everything stands.
    pub(super) fn at_rest(&self, rest: &Rest<'_>, jetstream: &JetStream) -> Checked {
        self.history.at_rest(rest, jetstream)
    }

    /// How many messages the output stream has of which kind: a run in which nothing is said proves nothing.
    pub(super) fn told_count(&self) -> usize {
        self.history.told_count()
    }
}

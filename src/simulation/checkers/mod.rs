//! The checkers: the invariants after every event. Each is written independently of the code that it checks.
//!
//! - `history`: the output stream: owners, ids, committed offsets, one outcome for each input
//! - `link`: the messages about one link follow from its inputs and obey the rules for users
//! - `person`: what a person with several links gets; `waits`: every wait of a link ends
//! - `machine`: each state is the one that the machine leads to
//! - `incidents`: the incident messages of institutions
//! - `journal`: what the HTTP servers have accepted is published in order, and repeats change nothing
//! - `deadlines`: a deadline waits for the inputs that relink has accepted before it
//! - `adoption`: links that were broken before relink was installed
//! - `final_state`: the processes and stores after all faults have ended; `ground_truth`: Belvo's status of the links then
//!
//! If a stream loses its tail or is created again, the checkers read it from its beginning: docs/guarantees.md ("What is lost") allows
//! only that lost messages are published again. A checker must never be relaxed to make a run pass.

mod adoption;
mod deadlines;
mod final_state;
mod ground_truth;
mod history;
mod incidents;
mod journal;
mod link;
mod machine;
mod person;
mod waits;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use self::adoption::Adoption;
pub(super) use self::final_state::FinalState;
pub(super) use self::ground_truth::GroundTruth;
use self::history::History;
use self::journal::JournalChecker;
use super::bug_injector::Bug;
use super::jetstream::{JetStream, Stored};
use crate::contract::{Address, CommittedOffset, OriginKind, Record};
use crate::engine::Message;
use crate::link::{Link, LinkId, Policy, QuietHours, Timestamp};
use crate::node::FenceToTake;
use crate::store::{Changes, Put};

/// The quiet hours of some runs: the first 100 seconds, because then most links break for the first time. Every run begins at 08:13:20 in
/// Mexico City.
pub(super) fn quiet_hours() -> QuietHours {
    let hours: QuietHours = "08:13-08:15".parse().expect("two times of a day");
    hours.in_zone("America/Mexico_City").expect("a zone that exists")
}

/// The result of a checker; the error is a sentence for the log.
pub(super) type Checked = Result<(), String>;

pub(super) struct Checkers {
    policy: Policy,
    /// The bug that is injected into every node.
    bug: Option<Bug>,
    history: History,
    adoption: Adoption,
    pub(super) journal: JournalChecker,
    /// Everything that was ever on the output stream, lost messages included: states by message id, committed offsets and incidents.
    states_ever: BTreeMap<String, BTreeSet<Bytes>>,
    offsets_ever: BTreeMap<u16, Vec<CommittedOffset>>,
    incidents_ever: BTreeSet<String>,
    /// The link and the version that the output stream has lost in its middle.
    lost_state: Option<(LinkId, u64)>,
    /// Whether the output stream has ever lost messages.
    is_output_lost: bool,
    /// Whether the input stream has ever lost messages.
    is_input_lost: bool,
    /// Whether the deadlines of a process no longer wait for inputs, because they have waited for too long.
    were_timers_held_too_long: bool,
}

impl Checkers {
    pub(super) fn new(policy: Policy, bug: Option<Bug>) -> Self {
        let history = History::new(policy.clone(), bug);
        let (adoption, states_ever, offsets_ever, incidents_ever) = Default::default();
        Self {
            policy,
            bug,
            history,
            adoption,
            journal: JournalChecker::default(),
            states_ever,
            offsets_ever,
            incidents_ever,
            lost_state: None,
            is_output_lost: false,
            is_input_lost: false,
            were_timers_held_too_long: false,
        }
    }

    /// Checks a batch that the output stream has stored. `latest` is the latest time that a timer may have; `None`: the clock of the server
    /// was wrong. `host` is the host of the process that has stored it.
    pub(super) fn stored(
        &mut self,
        batch: &[Stored],
        latest: Option<Timestamp>,
        host: Option<usize>,
        jetstream: &JetStream,
    ) -> Checked {
        if latest.is_some() {
            self.check_deadlines(batch, host, jetstream)?;
        }
        for Stored { message, .. } in batch {
            self.adoption.check(message)?;
            check_timer(message, latest)?;
            let Message { address, id, body, .. } = message;
            match address {
                Address::State(_) => drop(self.states_ever.entry(id.clone()).or_default().insert(body.clone())),
                Address::Offset(partition) => {
                    let offset = serde_json::from_slice(body).map_err(|error| format!("{id}: {error}"))?;
                    self.offsets_ever.entry(*partition).or_default().push(offset);
                }
                Address::Incident(_) => drop(self.incidents_ever.insert(id.clone())),
                Address::Notice(..)
                | Address::Observed(..)
                | Address::Job(..)
                | Address::Refused(_)
                | Address::Fence(_)
                | Address::Commit(_) => {}
            }
        }
        // What a link has been through after its older state is not on the stream any more, so nothing can be derived from it.
        if self.lost_state.is_some() {
            return Ok(());
        }
        self.history.append(batch, jetstream)
    }

    /// Records a message that the input stream has stored.
    pub(super) fn received(&mut self, jetstream: &JetStream, place: usize) {
        self.adoption.received(&jetstream.input, place);
    }

    /// The state of a link according to the output stream.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.history.link_checker.link(&name.parse::<LinkId>().ok()?)
    }

    /// Records that the input stream has lost messages or was created again.
    pub(super) fn input_lost(&mut self) {
        self.is_input_lost = true;
        self.adoption.forget();
        self.history.input_lost();
    }

    /// Records that the output stream has lost messages or was created again, and checks the rest.
    pub(super) fn output_lost(&mut self, jetstream: &JetStream) -> Checked {
        self.is_output_lost = true;
        self.adoption.forget();
        self.history = History::new(self.policy.clone(), self.bug);
        self.history.input_lost();
        self.history.repeats_are_uncertain();
        for batch in jetstream.output.messages.chunk_by(|a, b| a.batch == b.batch) {
            self.history.append(batch, jetstream)?;
        }
        Ok(())
    }

    /// A bit of the journal of a host was changed.
    pub(super) fn journal_is_damaged(&mut self, host: usize) {
        self.journal.is_damaged(host);
        self.history.repeats_are_uncertain();
    }

    /// Checks an acknowledgement: a committed offset must have reached the delivery.
    pub(super) fn acknowledged(
        &self,
        partition: u16,
        sequence: u64,
        stored_at_ns: i64,
        jetstream: &JetStream,
    ) -> Checked {
        let input = &jetstream.input;
        let place = input.place_at(sequence, stored_at_ns);
        let covers = |offset: &CommittedOffset| offset.sequence >= sequence && input.place_of_offset(offset) >= place;
        let offsets = self.offsets_ever.get(&partition);
        if offsets.is_some_and(|offsets| offsets.iter().any(covers)) {
            return Ok(());
        }
        Err(format!(
            "input {sequence} of partition {partition} is acknowledged before a committed offset has reached it"
        ))
    }

    /// Checks changes that are written to a store: they must be on the output stream.
    pub(super) fn applied(&self, changes: &Changes) -> Checked {
        for put in &changes.puts {
            let id = format!("{}.{}.0", put.id, put.head.version);
            let is_published = self.states_ever.get(&id).is_some_and(|bodies| bodies.contains(&put.record));
            if !is_published && !self.is_repair(put) {
                return Err(format!("{id} is written to a store and is not on the output stream"));
            }
        }
        for (partition, offset) in &changes.offsets {
            if !self.offsets_ever.get(partition).is_some_and(|offsets| offsets.contains(offset)) {
                return Err(format!(
                    "{offset:?} of partition {partition} is written to a store and is not on the output stream"
                ));
            }
        }
        let unknown = changes.incidents.iter().find(|incident| !self.incidents_ever.contains(&incident.message_id()));
        unknown.map_or(Ok(()), |incident| {
            Err(format!("{} is written to a store and was never published", incident.message_id()))
        })
    }

    /// The output stream has lost this version of a link in its middle.
    pub(super) fn state_lost(&mut self, link: LinkId, version: u64) {
        self.lost_state = Some((link, version));
    }

    /// Whether the put is an earlier state of the link whose last state was lost, under the lost version.
    fn is_repair(&self, put: &Put) -> bool {
        if self.lost_state != Some((put.id.clone(), put.head.version)) {
            return false;
        }
        let of_link = format!("{}.", put.id);
        let states = self.states_ever.iter().filter(|(id, _)| id.starts_with(&of_link)).flat_map(|(_, bodies)| bodies);
        let under_lost_version = |body: &Bytes| {
            let record = Record::parse(body).ok().filter(|record| record.version < put.head.version)?;
            Some(Record { version: put.head.version, ..record })
        };
        Record::parse(&put.record)
            .is_ok_and(|record| states.filter_map(under_lost_version).any(|state| state == record))
    }

    /// Checks a request for fences: a process must not take over from a fence of another process that it names as its own.
    pub(super) fn takes(&self, owner: u32, fences: &[FenceToTake], jetstream: &JetStream) -> Checked {
        for FenceToTake { partition, expects, .. } in fences {
            let there = expects.and_then(|expects| jetstream.output.stored(expects));
            let is_foreign =
                |there: &&Stored| there.message.address == Address::Fence(*partition) && there.owner != owner;
            // After a loss a server can assign a sequence a second time.
            if let Some(there) = there.filter(is_foreign).filter(|_| !self.is_output_lost) {
                return Err(format!("process {owner} takes partition {partition} back from process {}", there.owner));
            }
        }
        Ok(())
    }

    /// The sequence of the last input before the first unhandled one.
    pub(super) fn handled_up_to(&self, jetstream: &JetStream) -> u64 {
        self.history.handled_up_to(&jetstream.input)
    }

    /// Checks at the end that no link is asked about whose successor works.
    pub(super) fn check_superseded(&self) -> Checked {
        self.history.link_checker.check_superseded(&self.history.policy)
    }

    /// Checks at the end that every wait is over: of the institutions, and of all links but `set_aside`, whose timers cannot be handled.
    pub(super) fn check_waits(&self, now: Timestamp, set_aside: &BTreeSet<String>) -> Checked {
        self.history.link_checker.check_waits(now, set_aside)?;
        self.history.incidents.check_end()
    }

    /// Checks the final state of a process.
    pub(super) fn check_final_state(&self, final_state: &FinalState<'_>, jetstream: &JetStream) -> Checked {
        self.history.check_final_state(final_state, jetstream)
    }

    /// The number of inputs that have an outcome.
    pub(super) fn outcomes_count(&self) -> usize {
        self.history.outcomes_count()
    }
}

/// Checks that a timer did not fire by a clock that is ahead of the server's.
fn check_timer(message: &Message, latest: Option<Timestamp>) -> Checked {
    let Message { address: Address::State(_), id, body, .. } = message else { return Ok(()) };
    let origin = Record::parse(body).map_err(|error| format!("{id}: {error}"))?.because.origin;
    if origin.kind == OriginKind::Timer && latest.is_some_and(|latest| origin.received_at.0 > latest) {
        return Err(format!("{id} is a timer at {}, which is in the future", origin.received_at.0));
    }
    Ok(())
}

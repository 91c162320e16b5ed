//! A deadline waits for the inputs of its link that relink has accepted before it: those on the input stream, and those in the journal of
//! the host whose process handles the link.

use std::collections::BTreeSet;

use super::{Checked, Checkers};
use crate::contract::{Address, CommittedOffset, OriginKind, Record};
use crate::link::LinkId;
use crate::simulation::jetstream::{JetStream, Stored};
use crate::simulation::network::CLOCK_DEVIATION;

impl Checkers {
    /// A process has waited for inputs for so long that its deadlines no longer wait.
    pub(in crate::simulation) fn timers_held_too_long(&mut self) {
        self.were_timers_held_too_long = true;
    }

    /// Checks the timers of a batch, before it is taken. `host` has the journal of the process that has stored it.
    pub(super) fn check_deadlines(&self, batch: &[Stored], host: Option<usize>, jetstream: &JetStream) -> Checked {
        if self.were_timers_held_too_long || self.is_output_lost || self.is_input_lost {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for Stored { message, .. } in batch {
            let Address::State(link) = &message.address else { continue };
            // Only the first state of a link in a batch follows from the state that the checkers know.
            if !seen.insert(link) {
                continue;
            }
            let record = Record::parse(&message.body).map_err(|error| format!("{}: {error}", message.id))?;
            if record.because.origin.kind == OriginKind::Timer {
                self.check_deadline(link, &message.id, host, jetstream)?;
            }
        }
        Ok(())
    }

    fn check_deadline(&self, link: &LinkId, id: &str, host: Option<usize>, jetstream: &JetStream) -> Checked {
        let before = self.history.link_checker.link(link);
        let Some(deadline) = before.and_then(|before| before.deadline(&self.policy)) else { return Ok(()) };
        let latest = deadline.before(CLOCK_DEVIATION);
        let input = &jetstream.input;
        let is_handled = |place: usize, partition: u16| {
            let covers = |offset: &CommittedOffset| input.place_of_offset(offset) >= Some(place);
            self.offsets_ever.get(&partition).is_some_and(|offsets| offsets.iter().any(covers))
        };
        let waits = input.places().find(|place| {
            let delivery = &input.ever[*place];
            delivery.link == link.as_str() && delivery.stored_at() < latest && !is_handled(*place, delivery.partition)
        });
        if let Some(place) = waits {
            let sequence = input.ever[place].sequence;
            return Err(format!(
                "{id} is a deadline of {deadline}, and input {sequence} of the link is older and not handled"
            ));
        }
        let in_journal = host.and_then(|host| self.journal.waiting_for(link, host, latest));
        in_journal.map_or(Ok(()), |number| {
            Err(format!("{id} is a deadline of {deadline}, and message {number} of the link waits in the journal since before it"))
        })
    }
}

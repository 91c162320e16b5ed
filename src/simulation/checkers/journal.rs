//! The journals: what the HTTP server has accepted is published or set aside, in order, and a repeat of it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::journals::{NUMBER_HEADER, number_of, number_text};
use super::Checked;
use crate::engine::Delivery;
use crate::link::{LinkId, Timestamp};

/// The messages that were sent to the HTTP servers, by number.
#[derive(Default)]
pub(in crate::simulation) struct JournalChecker {
    accepted: BTreeMap<u64, Accepted>,
    published: BTreeSet<u64>,
    /// The last message of each link that each host has published for the first time.
    last_first: BTreeMap<(usize, String), u64>,
    /// The payloads of dead letters from damaged bytes, and the numbers of other messages that were set aside.
    damaged: Vec<Vec<u8>>,
    set_aside: BTreeSet<u64>,
    /// How many bits were changed on each host.
    damages: BTreeMap<usize, u32>,
}

/// A message that a host has accepted.
struct Accepted {
    host: usize,
    delivery: Delivery,
    at: Timestamp,
}

impl JournalChecker {
    /// The sender of the message got an answer with 2xx.
    pub(in crate::simulation) fn accepted(&mut self, number: u64, host: usize, delivery: Delivery, at: Timestamp) {
        self.accepted.insert(number, Accepted { host, delivery, at });
    }

    /// A message about the link that this host has accepted before `latest`, and that still waits.
    pub(super) fn waiting_for(&self, link: &LinkId, host: usize, latest: Timestamp) -> Option<u64> {
        if self.damages.contains_key(&host) {
            return None;
        }
        let is_meant = |accepted: &Accepted| {
            accepted.host == host && accepted.at < latest && accepted.delivery.link == link.as_str()
        };
        self.waiting().find(|(_, accepted)| is_meant(accepted)).map(|(number, _)| *number)
    }

    /// What is accepted, and neither published nor set aside.
    fn waiting(&self) -> impl Iterator<Item = (&u64, &Accepted)> {
        let is_done = |number: &u64| self.published.contains(number) || self.set_aside.contains(number);
        self.accepted.iter().filter(move |(number, _)| !is_done(number))
    }

    /// The input stream has stored a message; returns whether it is a repeat. A message whose sender got an error may be published too.
    ///
    /// The order holds within the journal of a host: what another host accepts meanwhile may be published earlier or later. It does not
    /// hold for a damaged record: after it was set aside, a publish of it from before the damage may arrive late.
    pub(in crate::simulation) fn published(&mut self, number: u64) -> Result<bool, String> {
        if !self.published.insert(number) {
            return Ok(true);
        }
        let Some(Accepted { host, delivery, .. }) = self.accepted.get(&number) else { return Ok(false) };
        if self.has_damaged(number, *host, delivery) {
            return Ok(false);
        }
        match self.last_first.insert((*host, delivery.link.clone()), number) {
            Some(before) if before > number => Err(format!(
                "message {number} about {} was accepted before message {before} and is published after it",
                delivery.link
            )),
            Some(_) | None => Ok(false),
        }
    }

    pub(in crate::simulation) fn set_aside(&mut self, number: u64) {
        self.set_aside.insert(number);
    }

    pub(in crate::simulation) fn damaged(&mut self, bytes: &[u8]) {
        self.damaged.push(bytes.to_vec());
    }

    /// A bit of the journal of a host was changed.
    pub(in crate::simulation) fn is_damaged(&mut self, host: usize) {
        *self.damages.entry(host).or_default() += 1;
    }

    /// Checks that no accepted message is lost, after all hosts have come back.
    pub(in crate::simulation) fn check_end(&self) -> Checked {
        for (number, Accepted { host, delivery, .. }) in self.waiting() {
            if !self.has_damaged(*number, *host, delivery) {
                return Err(format!(
                    "message {number} ({}) was accepted by host {host}, and is neither published nor set aside",
                    delivery.subject
                ));
            }
        }
        Ok(())
    }

    /// Whether a dead letter has the bytes of the message, except for the bits that the disk has changed.
    fn has_damaged(&self, number: u64, host: usize, delivery: &Delivery) -> bool {
        let damages = self.damages.get(&host).copied().unwrap_or(0);
        // The end of the record. Its number, its time and its checks are before it.
        let mut expected = format!("[\"{NUMBER_HEADER}\",\"{}\"]]}}\n", number_text(number)).into_bytes();
        expected.extend_from_slice(&delivery.payload);
        let is_there =
            |bytes: &Vec<u8>| bytes.windows(expected.len()).any(|window| differing_bits(window, &expected) <= damages);
        damages > 0 && self.damaged.iter().any(is_there)
    }
}

fn differing_bits(one: &[u8], other: &[u8]) -> u32 {
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

/// The messages from journals that have an outcome: a repeat changes nothing.
#[derive(Default)]
pub(super) struct Repeats {
    handled: BTreeSet<u64>,
    /// The output stream has lost outcomes, or a record was damaged and a publish of it from before may arrive late. Then relink may know
    /// more than this checker.
    pub(super) are_uncertain: bool,
}

impl Repeats {
    /// Notes the outcome of the last of these inputs, and checks it if the input is a repeat. `refused`: the reason of a refusal; `None`: it has changed its
    /// link. Returns whether the outcome is certainly right.
    pub(super) fn check(
        &mut self,
        link: &LinkId,
        inputs: &[Delivery],
        is_event: bool,
        refused: Option<&str>,
    ) -> Result<bool, String> {
        let Some((delivery, earlier)) = inputs.split_last() else { return Ok(false) };
        let Some(number) = number_of(&delivery.headers) else { return Ok(false) };
        let is_repeat = !self.handled.insert(number);
        // The first copy may have become a dead letter, which is no outcome here.
        let has_earlier = || earlier.iter().any(|input| number_of(&input.headers) == Some(number));
        match refused {
            None if is_repeat => Err(format!("{link}: message {number} of a journal has changed the link twice")),
            Some("repeated") if is_repeat || self.are_uncertain || has_earlier() => Ok(true),
            Some(reason) if is_repeat && is_event => {
                Err(format!("{link}: a repeat of message {number} is refused as {reason}"))
            }
            Some(_) | None => Ok(false),
        }
    }
}

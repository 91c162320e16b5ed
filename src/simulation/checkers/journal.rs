//! The journals: what the HTTP server has accepted is published or set aside, in order, and a repeat of it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::journals::{NUMBER_HEADER, number_of, number_text};
use super::Checked;
use crate::engine::Delivery;
use crate::link::{LinkId, Policy, Timestamp};

/// The number of facts among which a link recognises a repeat.
const FACTS_MAX: usize = 32;

/// The messages that were sent to the HTTP servers, by number.
#[derive(Default)]
pub(in crate::simulation) struct JournalChecker {
    /// The host that has accepted the message, and the message.
    accepted: BTreeMap<u64, (usize, Delivery)>,
    published: BTreeSet<u64>,
    /// The last message of each link that each host has published for the first time.
    last_first: BTreeMap<(usize, String), u64>,
    /// The payloads of dead letters from damaged bytes, and the numbers of other messages that were set aside.
    damaged: Vec<Vec<u8>>,
    set_aside: BTreeSet<u64>,
    /// How many bits were changed on each host.
    damages: BTreeMap<usize, u32>,
}

impl JournalChecker {
    /// The sender of the message got an answer with 2xx.
    pub(in crate::simulation) fn accepted(&mut self, number: u64, host: usize, delivery: Delivery) {
        self.accepted.insert(number, (host, delivery));
    }

    /// The input stream has stored a message; returns whether it is a repeat. A message whose sender got an error may be published too.
    ///
    /// The order holds within the journal of a host: what another host accepts meanwhile may be published earlier or later. It does not
    /// hold for a damaged record: after it was set aside, a publish of it from before the damage may arrive late.
    pub(in crate::simulation) fn published(&mut self, number: u64) -> Result<bool, String> {
        if !self.published.insert(number) {
            return Ok(true);
        }
        let Some((host, delivery)) = self.accepted.get(&number) else { return Ok(false) };
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
        let is_done = |number: &u64| self.published.contains(number) || self.set_aside.contains(number);
        for (number, (host, delivery)) in self.accepted.iter().filter(|(number, _)| !is_done(number)) {
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

/// The accepted facts of each link: a record of a journal changes its link once.
///
/// relink promises more than this checks: a partition recognises a repeat at any time, also of a record that its link has refused, unless
/// the output stream has lost the first outcome.
#[derive(Default)]
pub(super) struct Repeats(BTreeMap<LinkId, Vec<(Option<u64>, Timestamp)>>);

impl Repeats {
    /// Checks an input that has changed the link at this time. `is_fact`: the input can be recognised.
    pub(super) fn check(
        &mut self,
        link: &LinkId,
        delivery: &Delivery,
        is_fact: bool,
        at: Timestamp,
        policy: &Policy,
    ) -> Checked {
        if !is_fact {
            return Ok(());
        }
        let window = policy.settings().repeat_window;
        let facts = self.0.entry(link.clone()).or_default();
        let number = number_of(&delivery.headers);
        let is_repeat = |(before, before_at): &(Option<u64>, Timestamp)| {
            before.is_some() && *before == number && at.since(*before_at) <= window
        };
        if facts.iter().rev().take(FACTS_MAX).any(is_repeat) {
            return Err(format!("{link}: message {number:?} of a journal has changed the link twice"));
        }
        facts.push((number, at));
        Ok(())
    }

    /// The times of the link were corrected, so the times of its facts are not known any more.
    pub(super) fn forget(&mut self, link: &LinkId) {
        self.0.remove(link);
    }
}

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
    /// Messages of hosts with a changed bit that were published after a later one, and the later one.
    late: Vec<(u64, u64)>,
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
    /// hold for a damaged record: a publish of it from before the damage may arrive late, also before its dead letter does. So the end shows
    /// whether the record was damaged ([`Self::check_end`]).
    pub(in crate::simulation) fn published(&mut self, number: u64) -> Result<bool, String> {
        if !self.published.insert(number) {
            return Ok(true);
        }
        let Some(Accepted { host, delivery, .. }) = self.accepted.get(&number) else { return Ok(false) };
        let last = self.last_first.entry((*host, delivery.link.clone())).or_insert(number);
        if *last <= number {
            *last = number;
        } else if self.damages.contains_key(host) {
            self.late.push((number, *last));
        } else {
            return Err(out_of_order(number, *last, delivery));
        }
        Ok(false)
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

    /// Checks that no accepted message is lost, and that only damaged records were published late, after all hosts have come back.
    pub(in crate::simulation) fn check_end(&self) -> Checked {
        for (number, later) in &self.late {
            let Some(Accepted { host, delivery, .. }) = self.accepted.get(number) else { continue };
            if !self.has_damaged(*number, *host, delivery) {
                return Err(out_of_order(*number, *later, delivery));
            }
        }
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

fn out_of_order(number: u64, later: u64, delivery: &Delivery) -> String {
    format!("message {number} about {} was accepted before message {later} and is published after it", delivery.link)
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: usize = 0;

    fn delivery() -> Delivery {
        Delivery {
            partition: 0,
            sequence: 0,
            stored_at_ns: 0,
            subject: "belvo.webhook.link-1".to_owned(),
            kind: "webhook".to_owned(),
            link: "link-1".to_owned(),
            headers: Vec::new(),
            payload: "{}".into(),
            receipt: String::new(),
        }
    }

    /// A host has accepted message 1 and then message 2.
    fn checker() -> JournalChecker {
        let mut checker = JournalChecker::default();
        for number in [1, 2] {
            checker.accepted(number, HOST, delivery(), Timestamp::from_millis(0));
        }
        checker
    }

    #[test]
    fn messages_of_a_journal_that_is_not_damaged_are_published_in_order() {
        let mut checker = checker();
        assert_eq!(checker.published(2), Ok(false));
        assert!(checker.published(1).is_err());
    }

    /// Seeds 5003025 and 7005278: a forwarder did not read the damaged record, and had published what follows. Before it had set the record
    /// aside, a publish of an earlier forwarder arrived, from before the damage.
    #[test]
    fn a_damaged_record_may_be_published_late_before_it_is_set_aside() {
        let mut checker = checker();
        checker.is_damaged(HOST);
        assert_eq!((checker.published(2), checker.published(1)), (Ok(false), Ok(false)));
        assert!(checker.check_end().is_err(), "the record was not damaged");
        checker.damaged(format!("[\"{NUMBER_HEADER}\",\"{}\"]]}}\n{{}}", number_text(1)).as_bytes());
        assert_eq!(checker.check_end(), Ok(()));
    }
}

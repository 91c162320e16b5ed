//! Checks the output stream against the input stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::bug_injector::Bug;
use super::super::jetstream::{InputStream, JetStream, Stored};
use super::super::journals::NUMBER_HEADER;
use super::super::publishers::TOO_LARGE;
use super::Checked;
use super::incidents::{Incidents, check_page};
use super::journal::Repeats;
use super::link::{LinkChecker, PendingEffects};
use crate::belvo::{Meaning, translate};
use crate::contract::{
    Address, Commit, CommittedOffset, DeadReason, InputKind, LinksDigest, Origin, Record, RefusedBody,
};
use crate::engine::Delivery;
use crate::institution::Components;
use crate::link::{Event, Input, LinkId, Policy};

/// The required outcome of an input.
pub(super) enum Due {
    /// A state, or a refusal of the machine.
    Event(Box<Input>),
    /// A refusal without an event; and a dead letter if the code is unknown.
    Remark { and_dead: bool },
    /// A report of the status page: no message of a link; and a dead letter if a component is unknown.
    Page { and_dead: bool },
    /// A dead letter only.
    Dead,
}

pub(super) struct History {
    pub(super) policy: Policy,
    /// The owner of the last fence of each partition.
    pub(super) owners: BTreeMap<u16, u32>,
    /// The address and the body for each message id.
    ids: HashMap<String, (Address, Vec<u8>)>,
    pub(super) link_checker: LinkChecker,
    pub(super) incidents: Incidents,
    repeats: Repeats,
    /// The link of each input that has an outcome, by the input's place.
    places: HashMap<usize, LinkId>,
    last_place: BTreeMap<LinkId, usize>,
    /// The version of the last state of each link.
    versions: BTreeMap<LinkId, u64>,
    pub(super) offsets: BTreeMap<u16, CommittedOffset>,
    /// Partitions whose next committed offset may be lower than the last one, because the input stream has lost messages.
    may_go_back: BTreeSet<u16>,
    is_input_lost: bool,
}

impl History {
    pub(super) fn new(policy: Policy, bug: Option<Bug>) -> Self {
        Self {
            policy,
            owners: BTreeMap::new(),
            ids: HashMap::new(),
            link_checker: LinkChecker::new(bug),
            incidents: Incidents::default(),
            repeats: Repeats::default(),
            places: HashMap::new(),
            last_place: BTreeMap::new(),
            versions: BTreeMap::new(),
            offsets: BTreeMap::new(),
            may_go_back: BTreeSet::new(),
            is_input_lost: false,
        }
    }

    pub(super) fn input_lost(&mut self) {
        self.is_input_lost = true;
        self.may_go_back = self.offsets.keys().copied().collect();
    }

    /// relink may recognise more repeats than the checker.
    pub(super) fn repeats_are_uncertain(&mut self) {
        self.repeats.are_uncertain = true;
    }

    pub(super) fn outcomes_count(&self) -> usize {
        self.places.len()
    }

    /// Checks the messages of a batch in their order.
    pub(super) fn append(&mut self, batch: &[Stored], jetstream: &JetStream) -> Checked {
        let mut effects = PendingEffects::default();
        let mut completed_now: Vec<(u16, usize)> = Vec::new();
        for Stored { owner, partition, message, .. } in batch {
            let (id, body) = (&message.id, &message.body);
            if let Address::Fence(partition) = message.address {
                self.owners.insert(partition, *owner);
                continue;
            }
            let replaced_by = self.owners.get(partition);
            if replaced_by != Some(owner) {
                let by = replaced_by.map_or_else(|| "no process".to_owned(), |by| format!("process {by}"));
                return Err(format!("process {owner} stored {id} for partition {partition}, which belongs to {by}"));
            }
            self.check_id(id, &message.address, body)?;
            let unreadable = |error: &dyn std::fmt::Display| format!("{id}: {error}");
            match &message.address {
                Address::State(link) => {
                    let record = Record::parse(body).map_err(|error| unreadable(&error))?;
                    let (input, place) = self.input_of(link, &record.because.origin, &jetstream.input)?;
                    let input = input.or_else(|| outage_met(&jetstream.input.ever[place?]));
                    let incident = self.incidents.down_since(input.as_deref(), self.link_checker.link(link));
                    self.link_checker.down = self.incidents.down();
                    self.link_checker.take(link, &record, input.as_deref(), incident, &effects, &self.policy)?;
                    if let Some(place) = place {
                        self.repeats.check(link, &jetstream.input.ever[..=place], true, None)?;
                        self.record_input(link, place)?;
                        completed_now.push((*partition, place));
                    }
                    self.versions.insert(link.clone(), record.version);
                    effects.clear();
                }
                Address::Refused(link) => {
                    let refused: RefusedBody = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
                    let (input, place) = self.input_of(link, &refused.origin, &jetstream.input)?;
                    let place = place.ok_or_else(|| format!("{id}: a refusal names no input"))?;
                    let incident = self.incidents.down_since(input.as_deref(), self.link_checker.link(link));
                    let inputs = &jetstream.input.ever[..=place];
                    if !self.repeats.check(link, inputs, input.is_some(), Some(&refused.reason))? {
                        self.link_checker.refuse(link, &refused, input.as_deref(), incident, &self.policy)?;
                        // The institution may have gone down after the error; its repeat by a journal changes nothing.
                        let is_new = !is_repeat(&jetstream.input.ever[..place], &jetstream.input.ever[place]);
                        if let Some(met) = outage_met(&jetstream.input.ever[place]).filter(|_| is_new) {
                            self.link_checker.check_unmet(link, &refused, &met, incident, &self.policy)?;
                        }
                    }
                    self.record_input(link, place)?;
                    completed_now.push((*partition, place));
                }
                Address::Notice(name, link) => {
                    self.link_checker.check_notice(*name, link)?;
                    let notice = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
                    effects.notice(*name, link, id, notice);
                }
                Address::Observed(..) => {
                    return Err(format!("{id} is a message of observe mode, which this relink is not in"));
                }
                Address::Job(name, link) => effects.job(*name, link, id),
                Address::Incident(token) => {
                    let change = self.incidents.take(token, body, self.link_checker.opened_last())?;
                    let origin = &change.because.origin;
                    let place = origin.input_sequence.and_then(|at| jetstream.input.place_of(at, origin.received_at.0));
                    check_page(change, place.map(|place| &jetstream.input.ever[place]))?;
                }
                Address::Offset(partition) => {
                    let offset: CommittedOffset = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
                    self.commit_offset(*partition, offset, jetstream)?;
                }
                Address::Commit(_) => self.check_digest(id, body)?,
                Address::Fence(_) => {}
            }
        }
        if !effects.is_empty() {
            return Err(format!("the effects {effects} were published without a state"));
        }
        for (partition, place) in completed_now {
            let input = &jetstream.input.ever[place];
            if self.offsets.get(&partition).and_then(|offset| jetstream.input.place_of_offset(offset)) < Some(place) {
                return Err(format!(
                    "input {} has an outcome, but its batch has no committed offset that covers it",
                    input.sequence
                ));
            }
        }
        Ok(())
    }

    /// Checks that the digest of a commit is that of the states on the stream.
    fn check_digest(&self, id: &str, body: &[u8]) -> Checked {
        let commit: Commit = serde_json::from_slice(body).map_err(|error| format!("{id}: {error}"))?;
        let owners: BTreeSet<u32> = self.owners.values().copied().collect();
        // A process may not know yet that another one has taken a partition. In the service one process owns all of them.
        let Some(links) = commit.links.filter(|_| owners.len() == 1) else { return Ok(()) };
        let mut expected = LinksDigest::default();
        self.versions.iter().for_each(|(link, version)| expected.replace(link, None, *version));
        if links == expected { Ok(()) } else { Err(format!("{id} has {links:?}, but the stream has {expected:?}")) }
    }

    /// Checks that an id belongs to one content only.
    fn check_id(&mut self, id: &str, address: &Address, body: &[u8]) -> Checked {
        let Some(before) = self.ids.insert(id.to_owned(), (address.clone(), body.to_vec())) else { return Ok(()) };
        // The ids of refusals and committed offsets contain the sequence of the input. After a loss, a server assigns
        // sequences a second time.
        let is_named_by_input = matches!(address, Address::Offset(_) | Address::Refused(_));
        if is_named_by_input && self.is_input_lost {
            return Ok(());
        }
        let same =
            if before == (address.clone(), body.to_vec()) { "published twice" } else { "the id of two messages" };
        Err(format!("{id} is {same}"))
    }

    /// The input that led to a message, and its place; `None` for a timer.
    fn input_of(
        &self,
        link: &LinkId,
        origin: &Origin,
        stream: &InputStream,
    ) -> Result<(Option<Box<Input>>, Option<usize>), String> {
        let Some(sequence) = origin.input_sequence else { return Ok((None, None)) };
        let place = stream.place_of(sequence, origin.received_at.0);
        let place = place
            .ok_or_else(|| format!("{link}: there never was an input {sequence} stored at {}", origin.received_at.0))?;
        let delivery = &stream.ever[place];
        if delivery.link != link.as_str() {
            return Err(format!("input {sequence} is about {}, but its outcome is about {link}", delivery.link));
        }
        match due(delivery) {
            Due::Event(input) => Ok((Some(input), Some(place))),
            Due::Remark { .. } => Ok((None, Some(place))),
            Due::Dead | Due::Page { .. } => {
                Err(format!("input {sequence} is about no link, but has an outcome for {link}"))
            }
        }
    }

    /// Checks that each input has one outcome, and that the outcomes of a link are in the order of the inputs.
    fn record_input(&mut self, link: &LinkId, place: usize) -> Checked {
        if self.places.insert(place, link.clone()).is_some() {
            return Err(format!("input {place} of {link} has two outcomes"));
        }
        match self.last_place.insert(link.clone(), place) {
            Some(before) if before > place => {
                Err(format!("{link}: the outcome of input {place} follows that of input {before}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks that a partition's offset only grows, and that every input up to it has an outcome.
    fn commit_offset(&mut self, partition: u16, offset: CommittedOffset, jetstream: &JetStream) -> Checked {
        let before = self.offsets.get(&partition).filter(|before| {
            let is_identity = |created_ns| jetstream.input.is_identity(created_ns);
            before.stream_created_ns == offset.stream_created_ns
                || (is_identity(before.stream_created_ns) && is_identity(offset.stream_created_ns))
        });
        let input = &jetstream.input;
        let (place_before, to) = (before.map(|before| input.place_of_offset(before)), input.place_of_offset(&offset));
        let is_back = place_before.is_some_and(|before| to <= before);
        if is_back && !self.may_go_back.contains(&partition) {
            return Err(format!(
                "the committed offset of partition {partition} goes back: {offset:?} after {before:?}"
            ));
        }
        self.may_go_back.remove(&partition);
        let is_this_stream = input.is_identity(offset.stream_created_ns);
        for place in input.places().rev().filter(|_| is_this_stream) {
            let delivery = &input.ever[place];
            if place_before.is_some_and(|before| Some(place) <= before) {
                break;
            }
            if delivery.partition == partition && Some(place) <= to {
                self.check_outcome(place, delivery, jetstream)?;
            }
        }
        self.offsets.insert(partition, offset);
        Ok(())
    }

    pub(super) fn handled_up_to(&self, input: &InputStream) -> u64 {
        let is_handled = |place: &usize| {
            let offset = self.offsets.get(&input.ever[*place].partition);
            offset.is_some_and(|offset| {
                input.is_identity(offset.stream_created_ns) && input.place_of_offset(offset) >= Some(*place)
            })
        };
        let handled = input.places().take_while(is_handled);
        handled.last().map_or(0, |place| input.ever[place].sequence)
    }

    /// Checks that an input has the required outcome: a message on the output stream, or a dead letter with the same bytes.
    pub(super) fn check_outcome(&self, place: usize, delivery: &Delivery, jetstream: &JetStream) -> Checked {
        let has_outcome = self.places.contains_key(&place);
        let dead_letters = jetstream.dead_letters.all.iter().filter(|dead_letter| {
            dead_letter.delivery.stored_at_ns == delivery.stored_at_ns
                && dead_letter.delivery.payload == delivery.payload
        });
        let reasons: Vec<DeadReason> = dead_letters.map(|dead_letter| dead_letter.reason).collect();
        let is_dead = !reasons.is_empty();
        let is_too_large = delivery.payload.windows(TOO_LARGE.len()).any(|window| window == TOO_LARGE.as_bytes());
        let expected = match due(delivery) {
            Due::Event(_) if is_too_large => {
                // An input whose commit alone is too large is dead-lettered; a later node may find that the machine refuses it.
                let is_set_aside = is_dead && reasons.iter().all(|reason| *reason == DeadReason::TooLarge);
                if has_outcome || is_set_aside {
                    return Ok(());
                }
                (false, true)
            }
            Due::Event(_) => (true, false),
            Due::Remark { and_dead } => (true, and_dead),
            // A journal that publishes a report again makes no second dead letter.
            Due::Page { and_dead } => {
                (false, and_dead && (is_dead || !is_repeat(&jetstream.input.ever[..place], delivery)))
            }
            Due::Dead => (false, true),
        };
        if (has_outcome, is_dead) == expected {
            return Ok(());
        }
        let (sequence, partition) = (delivery.sequence, delivery.partition);
        Err(format!(
            "the committed offset has passed input {sequence} of partition {partition} ({}): outcome {has_outcome}, dead letter {is_dead}",
            delivery.subject
        ))
    }
}

/// Whether a journal has published this message before.
fn is_repeat(earlier: &[Delivery], delivery: &Delivery) -> bool {
    let number = |delivery: &Delivery| {
        delivery.headers.iter().find(|(name, _)| name == NUMBER_HEADER).map(|(_, number)| number.clone())
    };
    number(delivery).is_some_and(|of_delivery| earlier.iter().any(|other| number(other).as_ref() == Some(&of_delivery)))
}

/// The event of an outage error, which is no event of the link unless the institution is down.
fn outage_met(delivery: &Delivery) -> Option<Box<Input>> {
    let kind = delivery.kind.parse::<InputKind>().ok().filter(|kind| *kind == InputKind::ApiError)?;
    let meaning = translate(kind, &delivery.link.parse().ok()?, &delivery.payload, delivery.stored_at()).ok()?;
    let Meaning::NotAboutTheLink { class, .. } = meaning else { return None };
    class.is_about_the_institution().then(|| Box::new(Event::OutageMet { by_user: false }.into()))
}

/// The required outcome of an input.
pub(super) fn due(delivery: &Delivery) -> Due {
    let kind = delivery.kind.parse::<InputKind>();
    let of_another_version = |(name, _): &(String, String)| name.eq_ignore_ascii_case("ce-specversion");
    let is_ours = !delivery.headers.iter().any(of_another_version);
    let (Ok(kind), Ok(link), true) = (kind, delivery.link.parse(), is_ours) else { return Due::Dead };
    match translate(kind, &link, &delivery.payload, delivery.stored_at()) {
        Ok(Meaning::Event(input)) => Due::Event(Box::new(input)),
        Ok(Meaning::NotAboutTheLink { .. }) => Due::Remark { and_dead: false },
        Ok(Meaning::StatusPage(report)) => {
            let is_unknown = |name: &str| Components::default().institutions(name).is_empty();
            let unknown = report.components.iter().any(|component| is_unknown(&component.name));
            Due::Page { and_dead: unknown || !report.unreadable.is_empty() }
        }
        Ok(Meaning::Unknown { .. }) => Due::Remark { and_dead: true },
        Err(_) => Due::Dead,
    }
}

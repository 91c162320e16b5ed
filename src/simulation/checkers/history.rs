//! The output stream as it stands, held against the input stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::bank::TOO_LARGE;
use super::super::jetstream::{InputStream, JetStream, Stored};
use super::Checked;
use super::incidents::Incidents;
use super::story::{Said, Stories};
use crate::belvo::{Meaning, translate};
use crate::contract::{Address, DeadReason, InputKind, Mark, Origin, Record, RefusedBody};
use crate::engine::Delivery;
use crate::link::{Input, LinkId, Policy};

/// What one input must come to.
pub(super) enum Due {
    /// A state, or the machine's refusal.
    Event(Box<Input>),
    /// A remark that it changed nothing; kept in the dead letters as well if nobody knows what it is.
    Remark { and_dead: bool },
    /// The dead letters only.
    Dead,
}

pub(super) struct History {
    pub(super) policy: Policy,
    /// Who has each partition's last fence.
    pub(super) owners: BTreeMap<u16, u32>,
    /// The address and the body of each id.
    ids: HashMap<String, (Address, Vec<u8>)>,
    pub(super) stories: Stories,
    pub(super) incidents: Incidents,
    /// The inputs that are told, by their place.
    told: HashMap<usize, LinkId>,
    told_last: BTreeMap<LinkId, usize>,
    pub(super) marks: BTreeMap<u16, Mark>,
    /// Partitions whose next committed offset may be behind the last: the input stream has lost what lies between.
    may_go_back: BTreeSet<u16>,
    is_input_lost: bool,
}

impl History {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            owners: BTreeMap::new(),
            ids: HashMap::new(),
            stories: Stories::default(),
            incidents: Incidents::default(),
            told: HashMap::new(),
            told_last: BTreeMap::new(),
            marks: BTreeMap::new(),
            may_go_back: BTreeSet::new(),
            is_input_lost: false,
        }
    }

    pub(super) fn input_lost(&mut self) {
        self.is_input_lost = true;
        self.may_go_back = self.marks.keys().copied().collect();
    }

    pub(super) fn told_count(&self) -> usize {
        self.told.len()
    }

    /// Checks a batch, in the order of its messages.
    pub(super) fn append(&mut self, batch: &[Stored], jetstream: &JetStream) -> Checked {
        let mut said = Said::default();
        let mut told_now: Vec<(u16, usize)> = Vec::new();
        for Stored { owner, lane, message, .. } in batch {
            let (id, body) = (&message.id, &message.body);
            if let Address::Fence(partition) = message.address {
                self.owners.insert(partition, *owner);
                continue;
            }
            let replaced_by = self.owners.get(lane);
            if replaced_by != Some(owner) {
                let by = replaced_by.map_or_else(|| "nobody".to_owned(), |by| format!("process {by}"));
                return Err(format!("process {owner} got {id} in for partition {lane}, which belongs to {by}"));
            }
            self.check_id(id, &message.address, body)?;
            let unreadable = |error: &dyn std::fmt::Display| format!("{id}: {error}");
            match &message.address {
                Address::State(link) => {
                    let record = Record::parse(body).map_err(|error| unreadable(&error))?;
                    let (input, place) = self.input_of(link, &record.because.origin, &jetstream.input)?;
                    let incident = self.incidents.is_on(input.as_deref(), self.stories.link(link));
                    self.stories.take(link, &record, input.as_deref(), incident, &said, &self.policy)?;
                    if let Some(place) = place {
                        self.tell(link, place)?;
                        told_now.push((*lane, place));
                    }
                    said.clear();
                }
                Address::Refused(link) => {
                    let refused: RefusedBody = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
                    let (input, place) = self.input_of(link, &refused.origin, &jetstream.input)?;
                    let place = place.ok_or_else(|| format!("{id}: a timer is refused"))?;
                    let incident = self.incidents.is_on(input.as_deref(), self.stories.link(link));
                    self.stories.refuse(link, &refused, input.as_deref(), incident, &self.policy)?;
                    self.tell(link, place)?;
                    told_now.push((*lane, place));
                }
                Address::Notice(name, link) => said.notice(*name, link, id),
                Address::Job(name, link) => said.job(*name, link, id),
                Address::Incident(token) => self.incidents.take(token, body, self.stories.opened_last())?,
                Address::Mark(partition) => {
                    let mark: Mark = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
                    self.commit_offset(*partition, mark, jetstream)?;
                }
                Address::Fence(_) | Address::Commit(_) => {}
            }
        }
        if !said.is_empty() {
            return Err(format!("{said} was said, and no state tells why"));
        }
        for (partition, place) in told_now {
            let input = &jetstream.input.ever[place];
            if self.marks.get(&partition).is_none_or(|mark| mark.stored_at_ns < input.stored_at_ns) {
                return Err(format!(
                    "input {} is told, and no committed offset of its batch has passed it",
                    input.sequence
                ));
            }
        }
        Ok(())
    }

    /// One id, one content.
    fn check_id(&mut self, id: &str, address: &Address, body: &[u8]) -> Checked {
        let Some(before) = self.ids.insert(id.to_owned(), (address.clone(), body.to_vec())) else { return Ok(()) };
        // Inputs whose sequences were given out twice have told of themselves twice: refusals and committed offsets are named by them.
        let is_named_by_input = matches!(address, Address::Mark(_) | Address::Refused(_));
        if is_named_by_input && self.is_input_lost {
            return Ok(());
        }
        let same = if before == (address.clone(), body.to_vec()) { "said twice" } else { "the id of two messages" };
        Err(format!("{id} is {same}"))
    }

    /// The input that a message tells of, and its place; nothing for a timer.
    fn input_of(
        &self,
        link: &LinkId,
        origin: &Origin,
        stream: &InputStream,
    ) -> Result<(Option<Box<Input>>, Option<usize>), String> {
        let Some(sequence) = origin.input_sequence else { return Ok((None, None)) };
        let place = stream.place_of(sequence, origin.heard_at.0);
        let place =
            place.ok_or_else(|| format!("{link}: there never was an input {sequence} of {}", origin.heard_at.0))?;
        let delivery = &stream.ever[place];
        if delivery.link != link.as_str() {
            return Err(format!("input {sequence} is of {}, and told of {link}", delivery.link));
        }
        match due(delivery) {
            Due::Event(input) => Ok((Some(input), Some(place))),
            Due::Remark { .. } => Ok((None, Some(place))),
            Due::Dead => Err(format!("input {sequence} cannot be read, and is told of {link}")),
        }
    }

    /// Each input is told once, and those of a link in their order.
    fn tell(&mut self, link: &LinkId, place: usize) -> Checked {
        if self.told.insert(place, link.clone()).is_some() {
            return Err(format!("an input of {link}, the {place}th that was published, is told twice"));
        }
        match self.told_last.insert(link.clone(), place) {
            Some(before) if before > place => Err(format!("{link}: input {place} is told behind input {before}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A partition's offset only grows, and what it passes has its outcome.
    fn commit_offset(&mut self, partition: u16, mark: Mark, jetstream: &JetStream) -> Checked {
        let before = self.marks.get(&partition).filter(|before| before.stream_created_ns == mark.stream_created_ns);
        let is_back = before.is_some_and(|before| mark.stored_at_ns <= before.stored_at_ns);
        if is_back && !self.may_go_back.contains(&partition) {
            return Err(format!("the committed offset of partition {partition} goes back: {mark:?} after {before:?}"));
        }
        self.may_go_back.remove(&partition);
        let from_ns = before.map_or(i64::MIN, |before| before.stored_at_ns);
        let input = &jetstream.input;
        let is_this_stream = mark.stream_created_ns == input.facts().created_ns;
        for place in input.places().rev().filter(|_| is_this_stream) {
            let delivery = &input.ever[place];
            if delivery.stored_at_ns <= from_ns {
                break;
            }
            if delivery.lane == partition && delivery.stored_at_ns <= mark.stored_at_ns {
                self.check_outcome(place, delivery, jetstream)?;
            }
        }
        self.marks.insert(partition, mark);
        Ok(())
    }

    pub(super) fn handled_up_to(&self, input: &InputStream) -> u64 {
        let created_ns = input.facts().created_ns;
        let is_handled = |delivery: &Delivery| {
            let mark = self.marks.get(&delivery.lane);
            mark.is_some_and(|mark| mark.stream_created_ns == created_ns && mark.stored_at_ns >= delivery.stored_at_ns)
        };
        let handled = input.places().map(|place| &input.ever[place]).take_while(|delivery| is_handled(delivery));
        handled.last().map_or(0, |delivery| delivery.sequence)
    }

    /// Told, or set aside with its very bytes: as it must be.
    pub(super) fn check_outcome(&self, place: usize, delivery: &Delivery, jetstream: &JetStream) -> Checked {
        let is_told = self.told.contains_key(&place);
        let letters = jetstream.letters.all.iter().filter(|letter| {
            letter.delivery.stored_at_ns == delivery.stored_at_ns && letter.delivery.payload == delivery.payload
        });
        let reasons: Vec<DeadReason> = letters.map(|letter| letter.reason).collect();
        let is_dead = !reasons.is_empty();
        let is_too_large = delivery.payload.windows(TOO_LARGE.len()).any(|window| window == TOO_LARGE.as_bytes());
        let expected = match due(delivery) {
            Due::Event(_) if is_too_large => {
                // A batch that could not be stored alone is set aside; a later node may find that the machine refuses it.
                let is_set_aside = is_dead && reasons.iter().all(|reason| *reason == DeadReason::TooLarge);
                if is_told || is_set_aside {
                    return Ok(());
                }
                (false, true)
            }
            Due::Event(_) => (true, false),
            Due::Remark { and_dead } => (true, and_dead),
            Due::Dead => (false, true),
        };
        if (is_told, is_dead) == expected {
            return Ok(());
        }
        let (sequence, partition) = (delivery.sequence, delivery.lane);
        Err(format!(
            "the committed offset has passed input {sequence} of partition {partition} ({}): told {is_told}, set aside {is_dead}",
            delivery.subject
        ))
    }
}

/// What an input must come to.
pub(super) fn due(delivery: &Delivery) -> Due {
    let kind = delivery.kind.parse::<InputKind>();
    let (Ok(kind), Ok(link), []) = (kind, delivery.link.parse(), &delivery.headers[..]) else { return Due::Dead };
    match translate(kind, &link, &delivery.payload, delivery.stored_at()) {
        Ok(Meaning::Event(input)) => Due::Event(Box::new(input)),
        Ok(Meaning::NotAboutTheLink { .. }) => Due::Remark { and_dead: false },
        Ok(Meaning::Unknown { .. }) => Due::Remark { and_dead: true },
        Err(_) => Due::Dead,
    }
}

//! What must be on the output stream, told without batches, overlays, fences or crashes: every input once, in order, through the machine.

use std::collections::{BTreeMap, BTreeSet};

use relink::belvo::{Meaning, translate};
use relink::contract::{
    Address, IncidentBody, IncidentNews, InputKind, Origin, OriginKind, Record, RefusedBody, institution_token,
};
use relink::engine::Delivery;
use relink::link::{Effect, Event, Input, Link, LinkId, Policy, step};

use crate::bus::{Bus, LANES, Stored, incident, mark};

/// What one input must come to.
enum Due {
    /// A state, or the machine's refusal.
    Event(Box<Input>),
    /// A remark that it changed nothing; kept in the dead letters as well if nobody knows what it is.
    Remark { and_dead: bool },
    /// The dead letters only.
    Dead,
}

/// The last word on each institution that had an incident.
pub(crate) type Incidents = BTreeMap<String, IncidentBody>;

/// Reads the whole output stream and holds it against the whole input stream. Returns the links and incidents as they must be now.
pub(crate) fn check(bus: &Bus, policy: &Policy) -> (BTreeMap<LinkId, Link>, Incidents) {
    check_owners(bus);
    check_marks(bus);
    let mut links: BTreeMap<LinkId, Link> = BTreeMap::new();
    let mut incidents = Incidents::new();
    let mut opened_last: Option<LinkId> = None;
    let mut sent: BTreeMap<&str, &Stored> = BTreeMap::new();
    for stored in &bus.output {
        let again = sent.insert(&stored.message.id, stored);
        let is_fence = matches!(stored.message.address, Address::Fence(_));
        assert!(again.is_none() || is_fence, "said twice: {}", stored.message.id);
    }
    // Each input has one message that tells of it, a state or a refusal; they are in the order of the input.
    let mut told: BTreeMap<u64, LinkId> = BTreeMap::new();
    let mut told_last: BTreeMap<LinkId, u64> = BTreeMap::new();
    let mut effects_expected = 0;
    for stored in &bus.output {
        let (id, origin) = match &stored.message.address {
            Address::State(id) => {
                let record = Record::parse(&stored.message.body).unwrap();
                let origin = record.because.origin.clone();
                let before = links.get(id).cloned();
                let before = before.unwrap_or_else(|| Link::unheard_of(id.clone(), origin.heard_at.0));
                let mut input = match origin.input_sequence {
                    Some(sequence) => event(input(bus, sequence)),
                    None => Event::DeadlinePassed.into(),
                };
                assert_eq!(origin.kind == OriginKind::Timer, origin.input_sequence.is_none());
                // The circumstance is what the stream itself has said of the institution before.
                let institution = input.profile.institution.as_ref().or(before.profile.institution.as_ref());
                let latest = institution.and_then(|institution| incidents.get(institution));
                input.incident = latest.is_some_and(|latest| latest.news == IncidentNews::Began);
                assert_eq!(record.because.incident, input.incident, "{}", stored.message.id);
                let step = step(&before, &input, origin.heard_at.0, policy);
                let step = step.unwrap_or_else(|refusal| panic!("{refusal}, but {} was sent", stored.message.id));
                assert_eq!(record.link().unwrap(), step.link, "{}", stored.message.id);
                assert_eq!(record.version, before.version + 1);
                check_effects(&record, &step.effects, &sent);
                effects_expected += step.effects.len();
                opened_last = (step.link.episodes_count > before.episodes_count).then(|| id.clone());
                links.insert(id.clone(), step.link);
                (id, origin)
            }
            Address::Refused(id) => {
                let body: RefusedBody = serde_json::from_slice(&stored.message.body).unwrap();
                check_refusal(bus, links.get(id), id, &body, policy);
                (id, body.origin)
            }
            Address::Incident(token) => {
                let body = incident(stored);
                assert_eq!(*token, institution_token(&body.institution));
                check_incident(&body, incidents.get(&body.institution), opened_last.as_ref());
                incidents.insert(body.institution.clone(), body);
                continue;
            }
            Address::Notice(..) | Address::Job(..) | Address::Mark(_) | Address::Fence(_) => continue,
        };
        let Some(sequence) = origin.input_sequence else { continue };
        assert_eq!(told.insert(sequence, id.clone()), None, "input {sequence} is told twice");
        let before = told_last.insert(id.clone(), sequence);
        assert!(before < Some(sequence), "{id}: input {sequence} behind {before:?}");
    }
    let is_effect = |stored: &&Stored| matches!(stored.message.address, Address::Notice(..) | Address::Job(..));
    assert_eq!(bus.output.iter().filter(is_effect).count(), effects_expected);
    check_every_input(bus, &told);
    (links, incidents)
}

/// One beginning, right behind the opening that made it one; one end; and so on.
fn check_incident(body: &IncidentBody, before: Option<&IncidentBody>, opened_last: Option<&LinkId>) {
    let was_on = before.is_some_and(|before| before.news == IncidentNews::Began);
    assert_eq!(was_on, body.news == IncidentNews::Ended, "{body:?} after {before:?}");
    match (body.news, before) {
        (IncidentNews::Began, before) => {
            assert_eq!(body.because.link_id.as_deref(), opened_last.map(LinkId::as_str));
            assert!(body.links_count >= body.threshold && body.at == body.began_at);
            assert!(before.is_none_or(|before| before.at < body.at));
        }
        (IncidentNews::Ended, Some(began)) => {
            assert!(body.began_at == began.began_at && body.links_count >= began.links_count);
            assert_eq!((body.because.link_id.as_deref(), body.because.origin.kind), (None, OriginKind::Timer));
        }
        (IncidentNews::Ended, None) => unreachable!("it was on"),
    }
}

/// From a fence on, nothing of an earlier owner's is in the lane.
fn check_owners(bus: &Bus) {
    let mut owners = BTreeMap::new();
    for stored in &bus.output {
        match stored.message.address {
            Address::Fence(lane) => drop(owners.insert(lane, stored.owner)),
            _ => assert_eq!(owners.get(&stored.lane), Some(&stored.owner), "{}", stored.message.id),
        }
    }
}

/// A lane's marks only ever grow, and the last is the lane's last input.
fn check_marks(bus: &Bus) {
    for lane in 0..LANES {
        let marks = bus.output.iter().filter(|stored| stored.message.address == Address::Mark(lane));
        let marks: Vec<_> = marks.map(mark).collect();
        assert!(marks.is_sorted_by(|a, b| a.sequence < b.sequence), "{marks:?}");
        let last = bus.input.iter().rev().find(|input| input.lane == lane);
        let reached = marks.last().map(|mark| (mark.sequence, mark.stored_at_ns));
        assert_eq!(reached, last.map(|last| (last.sequence, last.stored_at_ns)), "lane {lane}");
    }
}

fn check_effects(record: &Record, effects: &[Effect], sent: &BTreeMap<&str, &Stored>) {
    assert_eq!(record.sent.len(), effects.len(), "{} {}", record.link_id, record.version);
    for (id, effect) in record.sent.iter().zip(effects) {
        let address = &sent.get(id.as_str()).unwrap_or_else(|| panic!("{id} was not sent")).message.address;
        let fits = match effect {
            Effect::Notice { .. } => matches!(address, Address::Notice(_, link) if link.as_str() == record.link_id),
            Effect::Job(_) => matches!(address, Address::Job(_, link) if link.as_str() == record.link_id),
        };
        assert!(fits, "{id} went to {address:?}");
    }
}

fn check_refusal(bus: &Bus, link: Option<&Link>, id: &LinkId, body: &RefusedBody, policy: &Policy) {
    let Origin { input_sequence: Some(sequence), heard_at, .. } = body.origin else { panic!("no timer is refused") };
    let unheard_of = Link::unheard_of(id.clone(), heard_at.0);
    match due(input(bus, sequence)) {
        Due::Event(input) => {
            let refusal = step(link.unwrap_or(&unheard_of), &input, heard_at.0, policy).unwrap_err();
            assert_eq!(body.reason, refusal.as_str());
        }
        Due::Remark { .. } => assert_eq!(body.event, None),
        Due::Dead => panic!("input {sequence} cannot be read, but was refused"),
    }
}

/// Nothing is lost: every input is told, or set aside with its very bytes.
fn check_every_input(bus: &Bus, told: &BTreeMap<u64, LinkId>) {
    let dead: BTreeSet<_> = bus.dead.iter().map(|dead| (dead.delivery.sequence, &dead.delivery.payload)).collect();
    for input in &bus.input {
        let is_told = told.get(&input.sequence).map(LinkId::as_str) == Some(&input.link);
        let is_dead = dead.contains(&(input.sequence, &input.payload));
        let expected = match due(input) {
            Due::Event(_) => (true, false),
            Due::Remark { and_dead } => (true, and_dead),
            Due::Dead => (false, true),
        };
        assert_eq!((is_told, is_dead), expected, "told and dead, of {input:?}");
    }
}

fn input(bus: &Bus, sequence: u64) -> &Delivery {
    &bus.input[sequence as usize - 1]
}

fn event(delivery: &Delivery) -> Input {
    match due(delivery) {
        Due::Event(input) => *input,
        Due::Remark { .. } | Due::Dead => panic!("no event, but it moved a link: {delivery:?}"),
    }
}

fn due(delivery: &Delivery) -> Due {
    let kind = delivery.kind.parse::<InputKind>();
    let (Ok(kind), Ok(link), []) = (kind, delivery.link.parse(), &delivery.headers[..]) else { return Due::Dead };
    match translate(kind, &link, &delivery.payload, delivery.stored_at()) {
        Ok(Meaning::Event(input)) => Due::Event(Box::new(input)),
        Ok(Meaning::NotAboutTheLink { .. }) => Due::Remark { and_dead: false },
        Ok(Meaning::Unknown { .. }) => Due::Remark { and_dead: true },
        Err(_) => Due::Dead,
    }
}

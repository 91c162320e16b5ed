//! A plan always fits into one atomic batch, a record has a largest size, and the same input gives the same plan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use relink::contract::limits::{
    EXTERNAL_ID_BYTES_MAX, MESSAGE_ID_BYTES_MAX, RECORD_BYTES_MAX, RESOURCE_BYTES_MAX, RESOURCES_MAX, TEXT_BYTES_MAX,
};
use relink::contract::{Address, DeadReason, Record};
use relink::engine::{Delivery, Engine, Item, MESSAGES_MAX, Plan};
use relink::link::{LinkId, Timestamp};
use relink::store::{MemoryStore, Position, Store};
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, START, Sample, delivery, policy};

fn engine() -> Engine<MemoryStore> {
    Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &BTreeMap::new()).unwrap()
}

/// One message per partition and round, numbered as a stream would.
fn deliveries(partitions: u16, rounds: u32, sample: Sample) -> VecDeque<Delivery> {
    let all = (0..rounds).flat_map(|round| (0..partitions).map(move |partition| (round, partition)));
    let numbered = |(sequence, (round, partition)): (u64, (u32, u16))| {
        let mut delivery = sample.about(0, round, START);
        delivery.partition = partition;
        if sample != Sample::NoLink {
            delivery.link = format!("link-{partition}");
            let body = String::from_utf8_lossy(&delivery.payload).replace("link-0", &delivery.link);
            delivery.payload = body.into_bytes().into();
        }
        delivery.sequence = sequence;
        delivery
    };
    (1..).zip(all).map(numbered).collect()
}

/// Plans until the queue is empty. Every plan fits into a batch, and the committed offsets reach the end of every
/// partition.
fn check_fits(partitions: u16, rounds: u32, sample: Sample) -> Vec<Plan> {
    let mut engine = engine();
    let mut queue = deliveries(partitions, rounds, sample);
    let last: BTreeMap<u16, u64> = queue.iter().map(|delivery| (delivery.partition, delivery.sequence)).collect();
    let mut plans = Vec::new();
    while !queue.is_empty() {
        let before = queue.len();
        let plan = engine.plan(&mut queue, START).unwrap();
        assert!(plan.messages.len() <= MESSAGES_MAX, "{sample:?} on {partitions} partitions: {}", plan.messages.len());
        assert!(queue.len() < before, "{sample:?} on {partitions} partitions: no progress");
        plans.push(plan);
    }
    let mut reached = BTreeMap::new();
    plans
        .iter()
        .for_each(|plan| reached.extend(plan.offsets.iter().map(|(partition, offset)| (*partition, offset.sequence))));
    assert_eq!(reached, last);
    plans
}

#[test]
fn every_plan_fits_one_batch_on_few_partitions_and_on_as_many_as_there_can_be() {
    for partitions in [1, 16, 500, 1_024] {
        for sample in
            [Sample::Credentials, Sample::Data, Sample::Outage, Sample::UnknownCode, Sample::NoLink, Sample::SeenValid]
        {
            check_fits(partitions, 4_096 / u32::from(partitions), sample);
        }
    }
}

#[test]
fn a_plan_uses_the_whole_batch() {
    // 16 committed offsets, and two messages for each link: a state and its prompt, then refusals of repeated evidence.
    let plans = check_fits(16, 256, Sample::Credentials);
    assert!(plans[0].messages.len() > MESSAGES_MAX - 10, "{}", plans[0].messages.len());
}

#[test]
fn the_same_input_makes_the_same_messages_under_the_same_ids() {
    for sample in Sample::ALL {
        let message = sample.about(1, 1, START);
        let mut engine = engine();
        let plan = |engine: &mut Engine<MemoryStore>| engine.plan(&mut VecDeque::from([message.clone()]), START);
        let first = plan(&mut engine).unwrap();
        engine =
            Engine::new(engine.store().clone(), engine.policy().clone(), INPUT_CREATED_NS, &BTreeMap::new()).unwrap();
        let again = plan(&mut engine).unwrap();
        let messages_of = |plan: &Plan| -> Vec<(Address, String, Timestamp, Vec<u8>)> {
            let message = plan.messages.iter().map(|outgoing| outgoing.message.clone());
            message.map(|message| (message.address, message.id, message.at, message.body.to_vec())).collect()
        };
        assert_eq!(messages_of(&first), messages_of(&again), "{sample:?}");
        assert!(!messages_of(&first).is_empty(), "{sample:?} changes nothing");
    }
}

/// A server that lost its tail assigns sequences a second time, so the sequence now belongs to another message.
#[test]
fn a_delivery_is_set_aside_by_its_storage_time_too() {
    let mut engine = engine();
    let mut large = Sample::Credentials.about(1, 1, START);
    large.sequence = 5;
    let Delivery { partition, sequence, stored_at_ns, .. } = large;
    engine.set_aside(Item::Delivery { partition, sequence, stored_at_ns }, "too large".to_owned());
    let mut reasons = |delivery: Delivery| -> Vec<DeadReason> {
        engine.restart(INPUT_CREATED_NS, &[(partition, 4)].into()).unwrap();
        let plan = engine.plan(&mut VecDeque::from([delivery]), START).unwrap();
        plan.dead_letters.iter().map(|dead| dead.reason).collect()
    };
    let another = Delivery { stored_at_ns: stored_at_ns + 1, ..large.clone() };
    assert_eq!(reasons(another), []);
    assert_eq!(reasons(large), [DeadReason::TooLarge]);
}

/// An engine with links whose users have been prompted, and are reminded tomorrow.
fn engine_with_broken_links(count: u16) -> Engine<MemoryStore> {
    let mut engine = engine();
    let mut queue = deliveries(count, 1, Sample::Credentials);
    while !queue.is_empty() {
        let plan = engine.plan(&mut queue, START).unwrap();
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.record_commit(&plan);
    }
    engine
}

#[test]
fn many_due_reminders_do_not_delay_deliveries() {
    let mut engine = engine_with_broken_links(400);
    let tomorrow = START.after(std::time::Duration::from_secs(25 * 3600));
    assert_eq!(engine.store().due(tomorrow, 1_000).unwrap().len(), 400);
    let mut arrived = Sample::TokenRequired.about(7, 1, tomorrow);
    arrived.sequence = 1_000;
    let plan = engine.plan(&mut VecDeque::from([arrived]), tomorrow).unwrap();
    let new: LinkId = "link-7".parse().unwrap();
    assert!(plan.messages.iter().any(|outgoing| outgoing.message.address == Address::State(new.clone())));
    let reminded = |plan: &Plan| plan.puts.iter().filter(|put| put.id != new).count();
    assert!((1..400).contains(&reminded(&plan)));
    // The next plans send the other reminders, each once, although no plan is committed.
    let mut total = reminded(&plan);
    engine.store().apply(&plan.changes(Some(Position { stream_created_ns: 1, sequence: 1, witness: None }))).unwrap();
    engine.record_commit(&plan);
    while !engine.store().due(tomorrow, 1).unwrap().is_empty() {
        let plan = engine.plan(&mut VecDeque::new(), tomorrow).unwrap();
        assert!(!plan.puts.is_empty());
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.record_commit(&plan);
        total += plan.puts.len();
    }
    assert_eq!(total, 400);
}

#[test]
fn a_plan_takes_other_timers_than_the_one_in_flight_and_more_of_them_while_nothing_waits() {
    let mut engine = engine_with_broken_links(250);
    let tomorrow = START.after(std::time::Duration::from_secs(25 * 3600));
    let mut arrived = Sample::TokenRequired.about(7, 1, tomorrow);
    arrived.sequence = 1_000;
    let mut links = BTreeSet::new();
    let mut reminded = |plan: Plan| {
        let before = links.len();
        links.extend(plan.puts.into_iter().map(|put| put.id).filter(|id| id.as_str() != "link-7"));
        links.len() - before
    };
    let busy = reminded(engine.plan(&mut VecDeque::from([arrived]), tomorrow).unwrap());
    let idle = [(); 3].map(|()| reminded(engine.plan(&mut VecDeque::new(), tomorrow).unwrap()));
    assert!(busy < idle[0], "{busy} {idle:?}");
    assert!((248..=250).contains(&(busy + idle.iter().sum::<usize>())), "{busy} {idle:?}");
}

/// Messages with every text that a record keeps. `length` gives the length of a text from its limit; JSON escapes each
/// character with six bytes.
fn everything_about_a_link(length: impl Fn(usize) -> usize) -> Vec<Delivery> {
    let text = |limit: usize| "\u{1}".repeat(length(limit));
    let resources = (0..length(RESOURCES_MAX)).map(|n| format!("{n:02}{}", text(RESOURCE_BYTES_MAX - 2)));
    let observed = |outcome: Value| {
        let mut body = json!({"observed_at": START.to_string(), "source": "app"});
        body.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        delivery("observation", "link-1", body.to_string())
    };
    let link = json!({"id": "link-1", "status": "invalid", "institution": text(TEXT_BYTES_MAX), "access_mode": "recurrent",
        "institution_user_id": text(TEXT_BYTES_MAX),
        "external_id": text(EXTERNAL_ID_BYTES_MAX), "fetch_resources": resources.collect::<Vec<_>>()});
    let consent = json!({"id": text(TEXT_BYTES_MAX), "link_id": "link-1", "status": "AUTHORISED",
        "institution_display_name": text(TEXT_BYTES_MAX), "institution_icon_logo": text(TEXT_BYTES_MAX)});
    let mut all = vec![
        observed(json!({"outcome": "consent", "consent": consent})),
        observed(json!({"outcome": "found", "link": link})),
    ];
    for (sequence, delivery) in (1..).zip(&mut all) {
        delivery.sequence = sequence;
        delivery.headers.push(("ce-id".to_owned(), "\\".repeat(length(MESSAGE_ID_BYTES_MAX))));
    }
    all
}

fn record_after(deliveries: Vec<Delivery>) -> (usize, Record) {
    let plan = engine().plan(&mut VecDeque::from(deliveries), START).unwrap();
    let state = plan.messages.iter().rev().find(|outgoing| matches!(outgoing.message.address, Address::State(_)));
    let body = &state.unwrap().message.body;
    (body.len(), serde_json::from_slice(body).unwrap())
}

#[test]
fn a_record_has_a_largest_size() {
    let (bytes, record) = record_after(everything_about_a_link(|limit| limit));
    assert_eq!(record.external_id.as_deref().map(str::len), Some(EXTERNAL_ID_BYTES_MAX));
    assert_eq!(record.fetch_resources.len(), RESOURCES_MAX);
    assert_eq!(record.institution_user_id.as_deref().map(str::len), Some(TEXT_BYTES_MAX));
    assert_eq!(record.because.origin.message_id.as_deref().map(str::len), Some(MESSAGE_ID_BYTES_MAX));
    assert!(bytes <= RECORD_BYTES_MAX, "{bytes}");

    // A text above its limit is left out, and its message is accepted without it.
    let (bytes, record) = record_after(everything_about_a_link(|limit| limit * 100));
    assert_eq!((record.external_id, record.institution), (None, None));
    assert_eq!(record.because.origin.message_id, None);
    assert!(
        record.because.origin.unreadable_fields.contains(&"ce-id".to_owned()),
        "{:?}",
        record.because.origin.unreadable_fields
    );
    assert!(bytes < 4_096, "{bytes}");
}

//! A plan fits one atomic batch, whatever it is made of, a record has a largest size, and the same input makes the same plan.

use std::collections::{BTreeMap, VecDeque};

use relink::contract::limits::{
    EXTERNAL_ID_BYTES_MAX, MESSAGE_ID_BYTES_MAX, RECORD_BYTES_MAX, RESOURCE_BYTES_MAX, RESOURCES_MAX, TEXT_BYTES_MAX,
};
use relink::contract::{Address, Record};
use relink::engine::{Delivery, Engine, MESSAGES_MAX, Plan};
use relink::link::{LinkId, Timestamp};
use relink::store::{MemoryStore, Position, Store};
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, START, Said, delivery, policy};

fn engine() -> Engine<MemoryStore> {
    Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &BTreeMap::new()).unwrap()
}

/// One message per lane and round, numbered as a stream would.
fn deliveries(lanes: u16, rounds: u32, said: Said) -> VecDeque<Delivery> {
    let all = (0..rounds).flat_map(|round| (0..lanes).map(move |lane| (round, lane)));
    let numbered = |(sequence, (round, lane)): (u64, (u32, u16))| {
        let mut delivery = said.about(0, round, START);
        delivery.lane = lane;
        if said != Said::NoLink {
            delivery.link = format!("link-{lane}");
            let body = String::from_utf8_lossy(&delivery.payload).replace("link-0", &delivery.link);
            delivery.payload = body.into_bytes().into();
        }
        delivery.sequence = sequence;
        delivery
    };
    (1..).zip(all).map(numbered).collect()
}

/// Plans until the queue is empty; every plan fits a batch, and their marks come to the end of every lane.
fn check_fits(lanes: u16, rounds: u32, said: Said) -> Vec<Plan> {
    let mut engine = engine();
    let mut queue = deliveries(lanes, rounds, said);
    let last: BTreeMap<u16, u64> = queue.iter().map(|delivery| (delivery.lane, delivery.sequence)).collect();
    let mut plans = Vec::new();
    while !queue.is_empty() {
        let before = queue.len();
        let plan = engine.plan(&mut queue, START).unwrap();
        assert!(plan.messages.len() <= MESSAGES_MAX, "{said:?} on {lanes} lanes: {}", plan.messages.len());
        assert!(queue.len() < before, "{said:?} on {lanes} lanes: no progress");
        plans.push(plan);
    }
    let mut reached = BTreeMap::new();
    plans.iter().for_each(|plan| reached.extend(plan.marks.iter().map(|(lane, mark)| (*lane, mark.sequence))));
    assert_eq!(reached, last);
    plans
}

#[test]
fn every_plan_fits_one_batch_on_few_lanes_and_on_as_many_as_there_can_be() {
    for lanes in [1, 16, 500, 1_024] {
        for said in [Said::Credentials, Said::Data, Said::Outage, Said::UnknownCode, Said::NoLink, Said::SeenValid] {
            check_fits(lanes, 4_096 / u32::from(lanes), said);
        }
    }
}

#[test]
fn a_plan_is_not_smaller_than_it_need_be() {
    // 16 marks and two messages for each link: a state and its prompt, then refusals of what is known already.
    let plans = check_fits(16, 256, Said::Credentials);
    assert!(plans[0].messages.len() > MESSAGES_MAX - 10, "{}", plans[0].messages.len());
}

#[test]
fn the_same_input_makes_the_same_messages_under_the_same_ids() {
    for said in Said::ALL {
        let message = said.about(1, 1, START);
        let mut engine = engine();
        let plan = |engine: &mut Engine<MemoryStore>| engine.plan(&mut VecDeque::from([message.clone()]), START);
        let first = plan(&mut engine).unwrap();
        engine =
            Engine::new(engine.store().clone(), engine.policy().clone(), INPUT_CREATED_NS, &BTreeMap::new()).unwrap();
        let again = plan(&mut engine).unwrap();
        let told = |plan: &Plan| -> Vec<(Address, String, Timestamp, Vec<u8>)> {
            let message = plan.messages.iter().map(|outgoing| outgoing.message.clone());
            message.map(|message| (message.address, message.id, message.at, message.body)).collect()
        };
        assert_eq!(told(&first), told(&again), "{said:?}");
        assert!(!told(&first).is_empty(), "{said:?} leaves no mark");
    }
}

#[test]
fn a_morning_of_reminders_does_not_hold_up_what_arrives() {
    let mut engine = engine();
    let mut queue = deliveries(400, 1, Said::Credentials);
    while !queue.is_empty() {
        let plan = engine.plan(&mut queue, START).unwrap();
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.settle(&plan);
    }
    let tomorrow = START.after(std::time::Duration::from_secs(25 * 3600));
    assert_eq!(engine.store().due(tomorrow, 1_000).unwrap().len(), 400);
    let mut arrived = Said::TokenRequired.about(7, 1, tomorrow);
    arrived.sequence = 1_000;
    let plan = engine.plan(&mut VecDeque::from([arrived]), tomorrow).unwrap();
    let new: LinkId = "link-7".parse().unwrap();
    assert!(plan.messages.iter().any(|outgoing| outgoing.message.address == Address::State(new.clone())));
    let reminded = |plan: &Plan| plan.puts.iter().filter(|put| put.id != new).count();
    assert!((1..400).contains(&reminded(&plan)));
    // The rest are reminded by the next plans, each once, while nothing is settled.
    let mut total = reminded(&plan);
    engine.store().apply(&plan.changes(Some(Position { stream_created_ns: 1, sequence: 1, witness: None }))).unwrap();
    engine.settle(&plan);
    while !engine.store().due(tomorrow, 1).unwrap().is_empty() {
        let plan = engine.plan(&mut VecDeque::new(), tomorrow).unwrap();
        assert!(!plan.puts.is_empty());
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.settle(&plan);
        total += plan.puts.len();
    }
    assert_eq!(total, 400);
}

/// Every text from outside that a record keeps, `length` of its limit long, in letters that JSON writes with six.
fn everything_about_a_link(length: impl Fn(usize) -> usize) -> Vec<Delivery> {
    let text = |limit: usize| "\u{1}".repeat(length(limit));
    let resources = (0..length(RESOURCES_MAX)).map(|n| format!("{n:02}{}", text(RESOURCE_BYTES_MAX - 2)));
    let observed = |outcome: Value| {
        let mut body = json!({"observed_at": START.to_string(), "source": "app"});
        body.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        delivery("observation", "link-1", body.to_string())
    };
    let link = json!({"id": "link-1", "status": "invalid", "institution": text(TEXT_BYTES_MAX), "access_mode": "recurrent",
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
    assert_eq!(record.because.origin.message_id.as_deref().map(str::len), Some(MESSAGE_ID_BYTES_MAX));
    assert!(bytes <= RECORD_BYTES_MAX, "{bytes}");

    // A text beyond its limit is left out, and its message counts all the same.
    let (bytes, record) = record_after(everything_about_a_link(|limit| limit * 100));
    assert_eq!((record.external_id, record.institution), (None, None));
    assert_eq!(record.because.origin.message_id, None);
    assert!(record.because.origin.unread.contains(&"ce-id".to_owned()), "{:?}", record.because.origin.unread);
    assert!(bytes < 4_096, "{bytes}");
}

//! No message stops a partition: every message is accepted, refused or dead-lettered, and the committed offset passes
//! it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use relink::contract::{Address, InputKind, NoticeName};
use relink::engine::{Delivery, Engine, Plan};
use relink::link::StateName;
use relink::store::{Changes, Head, MemoryStore, Put, Store};
use serde_json::{Value, json};
use strum::VariantArray;

use crate::inputs::INPUT_CREATED_NS;
use crate::inputs::{START, Sample, delivery, policy, reasons};

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

fn plan(delivery: Delivery) -> Plan {
    let mut engine = Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &BTreeMap::new()).unwrap();
    // Twice in one plan: for the second delivery the link exists already.
    let mut second = delivery.clone();
    second.sequence += 1;
    engine.plan(&mut VecDeque::from([delivery, second]), START).unwrap()
}

/// The delivery is handled without a panic of relink, and a dead letter is complete.
fn check_survives(delivery: &Delivery) {
    let plan = plan(delivery.clone());
    assert!(!reasons(&plan).contains(&"panicked"), "{:?}: {:?}", reasons(&plan), delivery.payload);
    assert_eq!(plan.offsets[&delivery.partition].sequence, delivery.sequence + 1);
    for dead in &plan.dead_letters {
        assert_eq!((&dead.delivery.payload, &dead.delivery.headers), (&delivery.payload, &delivery.headers));
    }
}

/// Any JSON value.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        select(vec!["9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "99999999999d", "valid", "LINK", LINK])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{0,8}", inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A documented body with one of its values replaced, at any depth.
fn spoilt() -> impl Strategy<Value = (InputKind, Value)> {
    (select(InputKind::VARIANTS.to_vec()), any::<Index>(), any_value()).prop_map(|(kind, which, odd)| {
        let mut body = kind.example();
        let mut left = which.index(count(&body));
        replace(&mut body, &mut left, &odd);
        (kind, body)
    })
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(count).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// Replaces the value at position `left` by `odd`.
fn replace(value: &mut Value, left: &mut usize, odd: &Value) {
    if *left == 0 {
        value.clone_from(odd);
    }
    // Below zero the counter wraps, so that no other value is replaced.
    *left = left.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, left, odd)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, left, odd)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    #[test]
    fn any_bytes_on_any_subject(
        kind in prop_oneof![select(InputKind::VARIANTS.to_vec()).prop_map(|kind| kind.as_str().to_owned()), "\\PC{0,9}"],
        link in prop_oneof![Just(LINK.to_owned()), "\\PC{0,70}"],
        headers in vec((select(vec!["ce-id", "ce-specversion", "ce-dataschema", "x"]), "\\PC{0,20}"), 0..4),
        payload in vec(any::<u8>(), 0..200),
    ) {
        let mut delivery = delivery(&kind, &link, payload);
        delivery.headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        check_survives(&delivery);
    }

    #[test]
    fn any_json(kind in select(InputKind::VARIANTS.to_vec()), body in any_value(), stored_at_ns in any::<i64>()) {
        let mut delivery = delivery(kind.as_str(), LINK, body.to_string());
        delivery.stored_at_ns = stored_at_ns;
        check_survives(&delivery);
    }

    #[test]
    fn any_documented_body_with_something_odd_in_it((kind, body) in spoilt(), stored_at_ns in any::<i64>()) {
        let mut delivery = delivery(kind.as_str(), LINK, body.to_string());
        delivery.stored_at_ns = stored_at_ns;
        check_survives(&delivery);
    }
}

#[test]
fn an_unreadable_message_is_dead_lettered_with_its_reason() {
    for (sample, reason) in [
        (Sample::NotJson, "malformed"),
        (Sample::NoBody, "malformed"),
        (Sample::WrongShape, "malformed"),
        (Sample::AnotherLink, "malformed"),
        (Sample::NoKind, "unknown_subject"),
        (Sample::NoLink, "unknown_subject"),
        (Sample::UnknownCode, "unknown_code"),
        (Sample::FutureEnvelope, "future_version"),
        (Sample::FutureSchema, "future_version"),
    ] {
        let message = sample.about(0, 1, START);
        let plan = plan(message.clone());
        assert_eq!(reasons(&plan), [reason; 2], "{sample:?}");
        assert_eq!(plan.dead_letters[0].delivery.payload, message.payload);
        assert!(!plan.dead_letters[0].detail.is_empty());
    }
}

#[test]
fn a_schema_is_of_the_future_only_by_its_version() {
    let check = |schema: &str, expected: &[&str]| {
        let mut message = delivery("command", LINK, Bytes::from_static(br#"{"command":"mute"}"#));
        message.headers = vec![("ce-dataschema".to_owned(), schema.to_owned())];
        assert_eq!(reasons(&plan(message)), expected, "{schema}");
    };
    check("urn:relink:schema:input.command:1", &[]);
    check("https://example.com/schemas/command/v1", &[]);
    check("https://example.com/schemas/command.json", &[]);
    check("", &[]);
    check("urn:relink:schema:input.command:2", &["future_version"; 2]);
    check("https://example.com/schemas/command/v12", &["future_version"; 2]);
}

/// The bodies of the messages of a plan on the wanted subjects.
fn bodies(plan: &Plan, is_wanted: fn(&Address) -> bool) -> Vec<Value> {
    let wanted = plan.messages.iter().filter(|outgoing| is_wanted(&outgoing.message.address));
    wanted.map(|outgoing| serde_json::from_slice(&outgoing.message.body).unwrap()).collect()
}

fn consent_webhook(due: &Value) -> Vec<u8> {
    let body = json!({"webhook_type": "CONSENT", "webhook_code": "openfinance_consent_about_to_expire", "link_id": LINK,
        "webhook_id": "w", "data": {"consent_id": "c", "consent_due_date": due, "action": "renew"}});
    body.to_string().into_bytes()
}

#[test]
fn an_impossible_due_date_is_unknown_and_reported() {
    for impossible in [
        json!("0001-01-01"),
        json!("1970-01-01T00:00:00Z"),
        json!("0000-01-01T00:00:00+01:00"),
        json!("9999-12-31T23:59:59-03:00"),
        json!(0),
        json!("31/12"),
    ] {
        let store = MemoryStore::default();
        let mut engine = Engine::new(store.clone(), policy(true), INPUT_CREATED_NS, &BTreeMap::new()).unwrap();
        let mut repeat = delivery("webhook", LINK, consent_webhook(&impossible));
        repeat.sequence += 1;
        let message = delivery("webhook", LINK, consent_webhook(&impossible));
        let plan = engine.plan(&mut VecDeque::from([message, repeat]), START).unwrap();
        store.apply(&plan.changes(None)).unwrap();
        engine.record_commit(&plan);
        let states = bodies(&plan, |address| matches!(address, Address::State(_)));
        assert_eq!(states[0]["consent"]["due_at"], Value::Null, "{impossible}");
        assert_eq!(states[0]["because"]["origin"]["unreadable_fields"], json!(["data.consent_due_date"]));
        let refused = bodies(&plan, |address| matches!(address, Address::Refused(_)));
        assert_eq!(refused[0]["origin"]["unreadable_fields"], json!(["data.consent_due_date"]));
        assert_eq!(plan.unreadable_fields.len(), 2);
        // No timer is set for such a date, and no prompt is sent within a year.
        let later = START.after(Duration::from_secs(366 * 86_400));
        let timers = engine.plan(&mut VecDeque::new(), later).unwrap();
        let prompts = bodies(&timers, |address| matches!(address, Address::Notice(NoticeName::UpdateRequired, _)));
        assert_eq!(prompts, Vec::<Value>::new(), "{impossible}");
    }
    let known = plan(delivery("webhook", LINK, consent_webhook(&json!("01/12/2026"))));
    let states = bodies(&known, |address| matches!(address, Address::State(_)));
    assert_eq!(states[0]["consent"]["due_at"], "2026-12-01T00:00:00.000Z");
    assert!(states[0]["because"]["origin"].get("unreadable_fields").is_none());
}

#[test]
fn two_observations_in_one_second_are_two_facts() {
    let seen = |status: &str| {
        let body = json!({"observed_at": START.to_string(), "source": "app", "outcome": "found",
            "link": {"id": LINK, "status": status}});
        delivery("observation", LINK, body.to_string())
    };
    let mut engine = Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &BTreeMap::new()).unwrap();
    let mut queue: VecDeque<Delivery> = ["valid", "invalid", "invalid"].map(seen).into();
    for (sequence, delivery) in (1..).zip(&mut queue) {
        delivery.sequence = sequence;
    }
    let plan = engine.plan(&mut queue, START).unwrap();
    let states = bodies(&plan, |address| matches!(address, Address::State(_)));
    assert_eq!(states.iter().map(|state| state["state"].as_str().unwrap()).collect::<Vec<_>>(), ["valid", "invalid"]);
    let refused = bodies(&plan, |address| matches!(address, Address::Refused(_)));
    assert_eq!((refused.len(), refused[0]["reason"].as_str()), (1, Some("repeated")));
}

#[test]
fn a_refusal_on_a_recreated_stream_has_another_id() {
    let repeated = |stored_at_ns: i64| {
        let mut first = delivery("command", LINK, Bytes::from_static(br#"{"command":"unmute"}"#));
        first.stored_at_ns = stored_at_ns;
        let plan = plan(first);
        plan.messages
            .iter()
            .find(|sent| matches!(sent.message.address, Address::Refused(_)))
            .unwrap()
            .message
            .id
            .clone()
    };
    let at = START.as_millis() * 1_000_000;
    assert_eq!(repeated(at), repeated(at));
    assert_ne!(repeated(at), repeated(at + 1_000_000));
}

#[test]
fn a_message_on_nats_is_read_like_one_over_http() {
    let text = r#"{"webhook_type": "LINK", "webhook_code": "token_required", "link_id": "16f68516-bcbc-4cf7-b815-c500d4204e28"}"#;
    for payload in [
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        text.replace("LINK\"", "LINK\", \"external_id\": \"\\ud83d\n\"").into_bytes(),
        [&text.as_bytes()[..1], b"\"external_id\": \"Jos\xe9\", ", &text.as_bytes()[1..]].concat(),
    ] {
        let plan = plan(delivery("webhook", LINK, payload));
        assert_eq!(reasons(&plan), Vec::<&str>::new());
        let states = bodies(&plan, |address| matches!(address, Address::State(_)));
        assert_eq!(states[0]["state"], "token_required");
    }
}

#[test]
fn an_unreadable_record_stops_only_its_own_link() {
    let store = MemoryStore::default();
    let head = Head { state: StateName::Invalid, partition: 0, version: 3, deadline: Some(START) };
    let damaged = Put::of_record("link-1".parse().unwrap(), head, b"{\"schema_version\":1,".to_vec());
    store.apply(&Changes { puts: vec![damaged], ..Changes::default() }).unwrap();
    let mut engine = Engine::new(store, policy(true), INPUT_CREATED_NS, &BTreeMap::from([(0, 0)])).unwrap();
    // The timer of the link is due, a message for it is delivered, and a webhook of another link follows.
    let mut queue = VecDeque::from([1, 2].map(|link| {
        let mut delivery = Sample::Credentials.about(link, 1, START);
        (delivery.partition, delivery.sequence) = (0, u64::from(link));
        delivery
    }));
    let plan = engine.plan(&mut queue, START).unwrap();
    assert_eq!(reasons(&plan), ["unreadable_record"]);
    assert_eq!(plan.links_unreadable, ["link-1".parse().unwrap(), "link-1".parse().unwrap()]);
    let stored: Vec<&str> = plan.puts.iter().map(|put| put.id.as_str()).collect();
    assert_eq!((stored, plan.offsets[&0].sequence), (vec!["link-2"], 2));
    assert!(!plan.dead_letters[0].detail.contains("schema_version"), "a detail quotes no record");
    engine.record_commit(&plan);
    assert!(engine.plan(&mut VecDeque::new(), START).unwrap().is_idle(), "the unreadable record is reported once");
}

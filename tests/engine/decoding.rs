//! No message stops a lane: whatever comes is taken in, refused or set aside whole, and its lane's mark moves past it.

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

use crate::inputs::INPUT_CREATED_NS;
use crate::inputs::{START, Said, delivery, policy, reasons};

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

fn plan(delivery: Delivery) -> Plan {
    let mut engine = Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &BTreeMap::new()).unwrap();
    // Twice in one plan: the second meets the link that the first made.
    let mut second = delivery.clone();
    second.sequence += 1;
    engine.plan(&mut VecDeque::from([delivery, second]), START).unwrap()
}

/// It is handled without a panic of ours, and what is set aside is whole.
fn check_survives(delivery: &Delivery) {
    let plan = plan(delivery.clone());
    assert!(!reasons(&plan).contains(&"panicked"), "{:?}: {:?}", reasons(&plan), delivery.payload);
    assert_eq!(plan.marks[&delivery.lane].sequence, delivery.sequence + 1);
    for dead in &plan.dead {
        assert_eq!((&dead.delivery.payload, &dead.delivery.headers), (&delivery.payload, &delivery.headers));
    }
}

/// Any JSON at all.
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
    (select(InputKind::ALL.to_vec()), any::<Index>(), any_value()).prop_map(|(kind, which, odd)| {
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

/// Puts `odd` in the place of the value that `left` others come before.
fn replace(value: &mut Value, left: &mut usize, odd: &Value) {
    if *left == 0 {
        value.clone_from(odd);
    }
    // Past zero it wraps, and meets no other value.
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
        kind in prop_oneof![select(InputKind::ALL.to_vec()).prop_map(|kind| kind.as_str().to_owned()), "\\PC{0,9}"],
        link in prop_oneof![Just(LINK.to_owned()), "\\PC{0,70}"],
        headers in vec((select(vec!["ce-id", "ce-specversion", "ce-dataschema", "x"]), "\\PC{0,20}"), 0..4),
        payload in vec(any::<u8>(), 0..200),
    ) {
        let mut delivery = delivery(&kind, &link, payload);
        delivery.headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        check_survives(&delivery);
    }

    #[test]
    fn any_json(kind in select(InputKind::ALL.to_vec()), body in any_value(), stored_at_ns in any::<i64>()) {
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
fn what_cannot_be_read_is_set_aside_with_its_reason() {
    for (said, reason) in [
        (Said::NotJson, "malformed"),
        (Said::NoBody, "malformed"),
        (Said::WrongShape, "malformed"),
        (Said::AnotherLink, "malformed"),
        (Said::NoKind, "unknown_subject"),
        (Said::NoLink, "unknown_subject"),
        (Said::UnknownCode, "unknown_code"),
        (Said::FutureEnvelope, "future_version"),
        (Said::FutureSchema, "future_version"),
    ] {
        let message = said.about(0, 1, START);
        let plan = plan(message.clone());
        assert_eq!(reasons(&plan), [reason; 2], "{said:?}");
        assert_eq!(plan.dead[0].delivery.payload, message.payload);
        assert!(!plan.dead[0].detail.is_empty());
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

/// The bodies of the messages that a plan has for a kind of subject.
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
fn a_due_date_that_cannot_be_one_is_unknown_and_visible() {
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
        let said = delivery("webhook", LINK, consent_webhook(&impossible));
        let plan = engine.plan(&mut VecDeque::from([said, repeat]), START).unwrap();
        store.apply(&plan.changes(None)).unwrap();
        engine.settle(&plan);
        let states = bodies(&plan, |address| matches!(address, Address::State(_)));
        assert_eq!(states[0]["consent"]["due_at"], Value::Null, "{impossible}");
        assert_eq!(states[0]["because"]["origin"]["unread"], json!(["data.consent_due_date"]));
        let refused = bodies(&plan, |address| matches!(address, Address::Refused(_)));
        assert_eq!(refused[0]["origin"]["unread"], json!(["data.consent_due_date"]));
        assert_eq!(plan.unread.len(), 2);
        // No timer runs to such a date, and nobody is prompted in a year.
        let later = START.after(Duration::from_secs(366 * 86_400));
        let timers = engine.plan(&mut VecDeque::new(), later).unwrap();
        let prompts = bodies(&timers, |address| matches!(address, Address::Notice(NoticeName::UpdateRequired, _)));
        assert_eq!(prompts, Vec::<Value>::new(), "{impossible}");
    }
    let known = plan(delivery("webhook", LINK, consent_webhook(&json!("01/12/2026"))));
    let states = bodies(&known, |address| matches!(address, Address::State(_)));
    assert_eq!(states[0]["consent"]["due_at"], "2026-12-01T00:00:00.000Z");
    assert!(states[0]["because"]["origin"].get("unread").is_none());
}

#[test]
fn two_reads_of_one_second_are_two_facts() {
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
fn a_refusal_of_a_stream_made_anew_has_another_id() {
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
fn a_record_that_cannot_be_read_stops_nothing_but_its_link() {
    let store = MemoryStore::default();
    let head = Head { state: StateName::Invalid, lane: 0, version: 3, deadline: Some(START) };
    let damaged = Put { id: "link-1".parse().unwrap(), head, record: b"{\"schema_version\":1,".to_vec() };
    store.apply(&Changes { puts: vec![damaged], ..Changes::default() }).unwrap();
    let mut engine = Engine::new(store, policy(true), INPUT_CREATED_NS, &BTreeMap::from([(0, 0)])).unwrap();
    // Its timer is due, and so is what is delivered for it; another link's webhook comes behind.
    let mut queue = VecDeque::from([1, 2].map(|link| {
        let mut delivery = Said::Credentials.about(link, 1, START);
        (delivery.lane, delivery.sequence) = (0, u64::from(link));
        delivery
    }));
    let plan = engine.plan(&mut queue, START).unwrap();
    assert_eq!(reasons(&plan), ["unreadable_record"]);
    assert_eq!(plan.links_unreadable, ["link-1".parse().unwrap(), "link-1".parse().unwrap()]);
    let stored: Vec<&str> = plan.puts.iter().map(|put| put.id.as_str()).collect();
    assert_eq!((stored, plan.marks[&0].sequence), (vec!["link-2"], 2));
    assert!(!plan.dead[0].detail.contains("schema_version"), "a reason quotes no record");
    engine.settle(&plan);
    assert!(engine.plan(&mut VecDeque::new(), START).unwrap().is_idle(), "it is told once, and not again at once");
}

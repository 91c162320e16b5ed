//! No message stops a lane: whatever comes is taken in, refused or set aside whole, and its lane's mark moves past it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use relink::contract::InputKind;
use relink::engine::{Delivery, Engine, Plan};
use relink::store::MemoryStore;
use serde_json::Value;

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
fn json() -> impl Strategy<Value = Value> {
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
    (select(InputKind::ALL.to_vec()), any::<Index>(), json()).prop_map(|(kind, which, odd)| {
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
    fn any_json(kind in select(InputKind::ALL.to_vec()), body in json(), stored_at_ns in any::<i64>()) {
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

//! The cache of links: a link that was used is not read from the store again, until the engine starts after its committed offsets again.

use std::collections::{BTreeMap, VecDeque};

use relink::engine::{Engine, Plan};
use relink::link::StateName;
use relink::store::{Changes, Head, MemoryStore, Put, Store};

use crate::inputs::{INPUT_CREATED_NS, START, Sample, policy, reasons};

/// Plans and commits one message of a link.
fn commit(engine: &mut Engine<MemoryStore>, sequence: u64, sample: Sample) -> Plan {
    let mut delivery = sample.about(1, u32::try_from(sequence).unwrap(), START);
    (delivery.partition, delivery.sequence) = (0, sequence);
    let plan = engine.plan(&mut VecDeque::from([delivery]), START).unwrap();
    engine.store().apply(&plan.changes(None)).unwrap();
    engine.record_commit(&plan);
    plan
}

/// Replaces the record of the link by one that cannot be read.
fn spoil(engine: &Engine<MemoryStore>, version: u64) {
    let head = Head { state: StateName::Invalid, partition: 0, version, deadline: None };
    let put = Put::of_record("link-1".parse().unwrap(), head, b"{".to_vec());
    engine.store().apply(&Changes { puts: vec![put], ..Changes::default() }).unwrap();
}

#[test]
fn a_link_is_not_read_again_until_a_restart() {
    let offsets = BTreeMap::from([(0, 0)]);
    let mut engine = Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &offsets).unwrap();
    commit(&mut engine, 1, Sample::Credentials);
    spoil(&engine, 1);
    let plan = commit(&mut engine, 2, Sample::TokenRequired);
    assert_eq!((reasons(&plan), plan.puts[0].head.version), (vec![], 2));

    spoil(&engine, 2);
    engine.restart(INPUT_CREATED_NS, &BTreeMap::from([(0, 2)])).unwrap();
    assert_eq!(reasons(&commit(&mut engine, 3, Sample::Credentials)), ["unreadable_record"]);
}

#[test]
fn a_plan_that_is_not_committed_is_forgotten_by_a_restart() {
    let mut engine =
        Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &BTreeMap::from([(0, 0)])).unwrap();
    commit(&mut engine, 1, Sample::Credentials);
    let mut delivery = Sample::TokenRequired.about(1, 2, START);
    (delivery.partition, delivery.sequence) = (0, 2);
    let first = engine.plan(&mut VecDeque::from([delivery.clone()]), START).unwrap();
    engine.restart(INPUT_CREATED_NS, &BTreeMap::from([(0, 1)])).unwrap();
    let again = engine.plan(&mut VecDeque::from([delivery]), START).unwrap();
    assert_eq!((again.puts[0].head.version, &again.puts[0].record), (2, &first.puts[0].record));
}

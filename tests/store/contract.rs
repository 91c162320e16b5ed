//! The contract of `Store`, checked for both stores; and crashes, damage and locks of the store on disk.

use std::collections::BTreeMap;

use proptest::prelude::*;
use relink::contract::{At, CommittedOffset, IncidentBecause, IncidentBody, IncidentCause, IncidentChange, Origin};
use relink::link::{LinkId, StateName, Timestamp};
use relink::store::{Changes, Head, MemoryStore, Position, Put, Query, SledStore, Store, StoreError, Witness};
use strum::VariantArray;

const CACHE: u64 = 16 << 20;

fn id(n: u8) -> LinkId {
    format!("link-{n}").parse().expect("a safe token")
}

fn put(n: u8, version: u64, state: StateName, deadline: Option<i64>) -> Put {
    let head = Head { state, partition: 3, version, deadline: deadline.map(Timestamp::from_millis) };
    Put::of_record(id(n), head, format!("{{\"v\":{version}}}").into_bytes())
}

fn changes(puts: Vec<Put>) -> Changes {
    Changes { puts, ..Changes::default() }
}

fn each_store(check: impl Fn(&dyn Store)) {
    check(&MemoryStore::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    check(&SledStore::open(&directory.path().join("s"), CACHE).expect("a new store opens").store);
}

#[test]
fn applied_changes_are_visible_as_a_whole() {
    each_store(|store| {
        assert_eq!(store.position().unwrap(), None);
        let offset = CommittedOffset { stream_created_ns: 7, sequence: 9, stored_at_ns: 11, journals: Vec::new() };
        let position = Position {
            stream_created_ns: 5,
            sequence: 12,
            witness: Some(Witness { sequence: 11, owner: "us".to_owned() }),
        };
        let changes = Changes {
            puts: vec![put(1, 1, StateName::Valid, Some(100)), put(2, 1, StateName::Invalid, None)],
            offsets: vec![(3, offset.clone())],
            position: Some(position.clone()),
            ..Changes::default()
        };
        store.apply(&changes).unwrap();
        assert_eq!(store.get(&id(1)).unwrap().unwrap().head.state, StateName::Valid);
        assert_eq!(store.get(&id(9)).unwrap(), None);
        assert_eq!(store.offsets().unwrap(), BTreeMap::from([(3, offset)]));
        assert_eq!(store.position().unwrap(), Some(position));
        assert_eq!(store.next_deadline().unwrap(), Some(Timestamp::from_millis(100)));
        assert_eq!(store.count().unwrap()[&StateName::Invalid], 1);
    });
}

fn incident(institution: &str, change: IncidentChange, millis: i64) -> IncidentBody {
    let at = At(Timestamp::from_millis(millis));
    let origin = Origin::timer(at.0);
    IncidentBody {
        change,
        cause: IncidentCause::FailingLinks,
        institution: institution.to_owned(),
        at,
        began_at: At(Timestamp::from_millis(0)),
        links_count: 20,
        deferred_count: 0,
        threshold: 20,
        window_seconds: 600,
        because: IncidentBecause { link_id: None, origin },
    }
}

#[test]
fn the_last_incident_of_each_institution_is_kept() {
    each_store(|store| {
        assert_eq!(store.incidents().unwrap(), []);
        let apply = |incidents| store.apply(&Changes { incidents, ..Changes::default() }).unwrap();
        // A name may be any text, and may be a prefix of another name.
        let (bank, longer) = ("banco.ão \u{0}", "banco.ão \u{0} 2");
        apply(vec![incident(bank, IncidentChange::Began, 0), incident(longer, IncidentChange::Began, 0)]);
        apply(vec![incident(bank, IncidentChange::Ended, 1), incident(bank, IncidentChange::Began, 2)]);
        let expected = [incident(bank, IncidentChange::Began, 2), incident(longer, IncidentChange::Began, 0)];
        assert_eq!(store.incidents().unwrap(), expected);
        apply(vec![incident(longer, IncidentChange::Ended, 3)]);
        assert_eq!(store.incidents().unwrap()[1].change, IncidentChange::Ended);
        assert_eq!(store.count().unwrap().values().sum::<u64>(), 0, "an incident is no link");
        store.restart_empty().unwrap();
        assert_eq!(store.incidents().unwrap(), []);
    });
}

#[test]
fn a_put_that_is_not_newer_changes_nothing() {
    each_store(|store| {
        store.apply(&changes(vec![put(1, 5, StateName::Invalid, Some(50))])).unwrap();
        store.apply(&changes(vec![put(1, 4, StateName::Valid, Some(10))])).unwrap();
        assert_eq!(store.get(&id(1)).unwrap().unwrap().head.version, 5);
        assert_eq!(store.due(Timestamp::from_millis(49), 10).unwrap(), []);
        assert_eq!(store.count().unwrap()[&StateName::Valid], 0);
        // A changed policy moves the deadline of an unchanged link.
        store.apply(&changes(vec![put(1, 5, StateName::Invalid, Some(20))])).unwrap();
        assert_eq!(store.due(Timestamp::from_millis(49), 10).unwrap(), [id(1)]);
    });
}

#[test]
fn pages_follow_each_other_without_gap_or_repeat() {
    each_store(|store| {
        let state = |n: u8| if n.is_multiple_of(3) { StateName::Invalid } else { StateName::Valid };
        store.apply(&changes((0..50).map(|n| put(n, 1, state(n), None)).collect())).unwrap();
        for (filter, expected) in [(None, 50), (Some(StateName::Invalid), 17), (Some(StateName::Removed), 0)] {
            let mut seen = Vec::new();
            let mut query = Query { state: filter, limit: 7, ..Query::default() };
            loop {
                let page = store.page(&query).unwrap();
                seen.extend(page.links.iter().map(|link| link.record.clone()));
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
            assert_eq!(seen.len(), expected, "{filter:?}");
        }
    });
}

/// A model without indexes: it computes the expected results from the heads.
#[derive(Clone, Debug)]
struct Model {
    heads: BTreeMap<LinkId, Head>,
}

impl Model {
    fn apply(&mut self, put: &Put) {
        let newer = self.heads.get(&put.id).is_none_or(|head| put.head.version > head.version);
        if newer {
            self.heads.insert(put.id.clone(), put.head);
        }
    }

    fn due(&self, now: Timestamp) -> Vec<LinkId> {
        let mut due: Vec<_> = self.heads.iter().filter_map(|(id, head)| Some((head.deadline?, id.clone()))).collect();
        due.retain(|(at, _)| *at <= now);
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }
}

fn any_put() -> impl Strategy<Value = Put> {
    // The state and the deadline follow from the version, as in relink under one policy.
    (0..6_u8, 1..20_u64).prop_map(|(n, version)| {
        let mixed = version * 31 + u64::from(n);
        let deadline = i64::try_from(mixed % 23).expect("below 23") - 3;
        let state = StateName::VARIANTS[usize::try_from(mixed % 6).expect("below 6")];
        put(n, version, state, (mixed % 3 > 0).then_some(deadline))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn indexes_agree_with_heads(commits in prop::collection::vec(prop::collection::vec(any_put(), 0..8), 0..12)) {
        let directory = tempfile::tempdir().unwrap();
        let sled = SledStore::open(&directory.path().join("s"), CACHE).unwrap().store;
        let memory = MemoryStore::default();
        let mut model = Model { heads: BTreeMap::new() };
        for commit in commits {
            // In one commit only the newest put of a link counts; the model gets the same result by applying the puts in order.
            commit.iter().for_each(|put| model.apply(put));
            for store in [&sled as &dyn Store, &memory] {
                store.apply(&changes(commit.clone())).unwrap();
            }
        }
        for store in [&sled as &dyn Store, &memory] {
            for now in [-3, 0, 7, 19] {
                let now = Timestamp::from_millis(now);
                prop_assert_eq!(store.due(now, 100).unwrap(), model.due(now));
            }
            for (state, count) in store.count().unwrap() {
                prop_assert_eq!(count, model.heads.values().filter(|head| head.state == state).count() as u64);
            }
        }
    }
}

#[test]
fn a_checkpoint_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    {
        let store = SledStore::open(&path, CACHE).unwrap().store;
        store.apply(&changes(vec![put(1, 1, StateName::Valid, None)])).unwrap();
        store.checkpoint().unwrap();
    }
    let opened = SledStore::open(&path, CACHE).unwrap();
    assert!(opened.quarantined.is_none());
    assert!(opened.store.get(&id(1)).unwrap().is_some());
}

#[test]
fn a_damaged_store_is_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    {
        let store = SledStore::open(&path, CACHE).unwrap().store;
        store.apply(&changes((0..200).map(|n| put(n, 1, StateName::Valid, None)).collect())).unwrap();
        store.checkpoint().unwrap();
    }
    // The damages: a wrong settings file, and a log that is overwritten at many positions. `damage.rs` has single damages.
    let database = path.join("1");
    let mut damaged = std::fs::read(database.join("db")).unwrap();
    damaged.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(database.join("db"), &damaged).unwrap();
    std::fs::write(database.join("conf"), b"nonsense").unwrap();
    let opened = SledStore::open(&path, CACHE).unwrap();
    let (aside, why) = opened.quarantined.expect("the damage is noticed");
    assert!(aside.join("db").exists());
    assert!(!why.is_empty());
    assert_eq!(opened.store.position().unwrap(), None);
}

#[test]
fn a_store_in_use_is_an_error_and_not_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _open = SledStore::open(&path, CACHE).unwrap();
    let error = SledStore::open(&path, CACHE).unwrap_err();
    assert!(matches!(&error, StoreError::InUse { directory } if *directory == path), "{error}");
    assert!(error.to_string().contains("in use by another relink"), "{error}");
}

#[test]
fn a_host_crash_leaves_the_last_checkpoint() {
    let store = MemoryStore::default();
    store.apply(&changes(vec![put(1, 1, StateName::Valid, None)])).unwrap();
    store.checkpoint().unwrap();
    store.apply(&changes(vec![put(1, 2, StateName::Invalid, None)])).unwrap();
    assert_eq!(store.durable().get(&id(1)).unwrap().unwrap().head.version, 1);
}

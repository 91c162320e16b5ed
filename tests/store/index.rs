//! The indexes and the counts of both stores agree with a filter over all links: after every kind of change, after a crash, and in every
//! page.

use std::collections::BTreeMap;

use proptest::prelude::*;
use relink::link::{LinkId, StateName, Timestamp};
use relink::store::{Changes, Head, MemoryStore, Put, Query, SledStore, Store, StoreError, StoredLink, pages};
use strum::VariantArray;

const CACHE: u64 = 16 << 20;

const LINKS: u8 = 12;
const INSTITUTIONS: [Option<&str>; 4] = [None, Some("erebor"), Some("ere"), Some("banco \u{0} ão")];
const EXTERNAL_IDS: [Option<&str>; 4] = [None, Some("maria"), Some("erebor"), Some("")];
const USERS: [Option<&str>; 3] = [None, Some("maria"), Some("u1")];

/// The record of a put: only the fields that have an index.
fn put(n: u8, version: u64, state: StateName, names: [Option<&str>; 3]) -> Put {
    let deadline = version.is_multiple_of(2).then(|| Timestamp::from_millis(i64::from(n)));
    let head = Head { state, partition: 3, version, deadline };
    let [institution, external_id, user] = names;
    let record = serde_json::json!({"version": version, "institution": institution, "external_id": external_id,
        "institution_user_id": user});
    Put::of_record(id(n), head, record.to_string().into_bytes())
}

fn id(n: u8) -> LinkId {
    format!("link-{n}").parse().expect("a safe token")
}

#[derive(Clone, Debug)]
enum Action {
    Commit(Vec<Put>),
    Checkpoint,
    /// The process ends, and another one opens the store.
    Reopen,
    /// The host crashes: the store in memory has its last checkpoint.
    Crash,
    /// The store is emptied and gets all links again, in large commits.
    Rebuild,
}

fn any_put() -> impl Strategy<Value = Put> {
    let (institution, external_id) = (prop::sample::select(&INSTITUTIONS), prop::sample::select(&EXTERNAL_IDS));
    let (state, user) = (prop::sample::select(StateName::VARIANTS), prop::sample::select(&USERS));
    (0..LINKS, 1..40_u64, state, (institution, external_id, user))
        .prop_map(|(n, version, state, names)| put(n, version, state, names.into()))
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => prop::collection::vec(any_put(), 0..8).prop_map(Action::Commit),
        2 => Just(Action::Checkpoint),
        1 => Just(Action::Reopen),
        1 => Just(Action::Crash),
        1 => Just(Action::Rebuild),
    ]
}

fn all(store: &dyn Store) -> Vec<(LinkId, StoredLink)> {
    let page = store.page(&Query { limit: usize::MAX, ..Query::default() }).expect("the store can be read");
    page.ids.into_iter().zip(page.links).collect()
}

/// The institution, the external id and the user of a link.
fn names(link: &StoredLink) -> [Option<String>; 3] {
    let record: serde_json::Value = serde_json::from_slice(&link.record).expect("JSON");
    ["institution", "external_id", "institution_user_id"].map(|name| record[name].as_str().map(str::to_owned))
}

/// Compares the pages of a query with a filter over all links.
fn check_query(store: &dyn Store, all: &[(LinkId, StoredLink)], query: &Query) {
    let is_wanted = |(_, link): &&(LinkId, StoredLink)| {
        let wanted = [&query.institution, &query.external_id, &query.institution_user_id];
        query.state.is_none_or(|state| state == link.head.state)
            && wanted.into_iter().zip(names(link)).all(|(wanted, found)| wanted.is_none() || *wanted == found)
    };
    let expected: Vec<_> = all.iter().filter(is_wanted).map(|(id, _)| id.clone()).collect();
    let mut found = Vec::new();
    for page in pages(store, query.clone()) {
        let page = page.expect("the store can be read");
        assert!(page.ids.len() == 3 || page.next.is_none(), "only the last page has fewer links");
        found.extend(page.ids);
    }
    assert_eq!(found, expected, "{query:?}");
}

/// Compares every query and every count with all links.
fn check(store: &dyn Store) {
    let all = all(store);
    let states = StateName::VARIANTS.iter().copied().map(Some).chain([None]);
    for state in states {
        for institution in INSTITUTIONS.into_iter().chain([Some("gringotts")]).map(|name| name.map(str::to_owned)) {
            for external_id in EXTERNAL_IDS.into_iter().chain([Some("zoe")]).map(|name| name.map(str::to_owned)) {
                for user in USERS.into_iter().chain([Some("u2")]).map(|name| name.map(str::to_owned)) {
                    let query = Query {
                        state,
                        institution: institution.clone(),
                        external_id: external_id.clone(),
                        institution_user_id: user,
                        after: None,
                        limit: 3,
                    };
                    check_query(store, &all, &query);
                }
            }
        }
    }
    let mut expected: BTreeMap<Option<String>, BTreeMap<StateName, u64>> = BTreeMap::new();
    for (_, link) in &all {
        let [institution, ..] = names(link);
        *expected.entry(institution).or_default().entry(link.head.state).or_default() += 1;
    }
    let without_zeros = |mut counts: BTreeMap<StateName, u64>| {
        counts.retain(|_, count| *count > 0);
        counts
    };
    let mut by_state = BTreeMap::new();
    expected.values().flatten().for_each(|(state, count)| *by_state.entry(*state).or_default() += count);
    assert_eq!(without_zeros(store.count().expect("the store can be read")), by_state);
    let counted = store.count_by_institution(usize::MAX).expect("the store can be read").into_iter();
    let counted: Vec<_> = counted.map(|counts| (Some(counts.institution), without_zeros(counts.by_state))).collect();
    expected.remove(&None);
    assert_eq!(counted, expected.into_iter().collect::<Vec<_>>());
    let mut due: Vec<_> = all.iter().filter_map(|(id, link)| Some((link.head.deadline?, id.clone()))).collect();
    due.sort();
    let due: Vec<_> = due.into_iter().map(|(_, id)| id).collect();
    assert_eq!(store.due(Timestamp::from_millis(99), usize::MAX).expect("the store can be read"), due);
}

fn commit(store: &dyn Store, puts: Vec<Put>) -> Result<(), StoreError> {
    store.apply(&Changes { puts, ..Changes::default() })
}

/// The states of all links, as a rebuild reads them from the stream; each link twice, the older state first.
fn history(store: &dyn Store) -> Vec<Put> {
    let older = |(id, link): &(LinkId, StoredLink)| {
        let head = Head { state: StateName::Unconfirmed, version: 0, ..link.head };
        Put::of_record(id.clone(), head, b"{\"institution\":\"ere\"}".to_vec())
    };
    let newer = |(id, link): &(LinkId, StoredLink)| Put::of_record(id.clone(), link.head, link.record.clone());
    let all = all(store);
    all.iter().map(older).chain(all.iter().map(newer)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn indexes_and_counts_agree_with_a_filter_over_all_links(actions in prop::collection::vec(any_action(), 1..24)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut sled = SledStore::open(&path, CACHE).unwrap().store;
        let mut memory = MemoryStore::default();
        for action in actions {
            match action {
                Action::Commit(puts) => {
                    commit(&memory, puts.clone()).unwrap();
                    commit(&sled, puts).unwrap();
                }
                Action::Checkpoint => {
                    memory.checkpoint().unwrap();
                    sled.checkpoint().unwrap();
                }
                Action::Reopen => {
                    drop(sled);
                    let opened = SledStore::open(&path, CACHE).unwrap();
                    prop_assert_eq!(opened.quarantined, None);
                    sled = opened.store;
                }
                Action::Crash => memory = memory.durable(),
                Action::Rebuild => {
                    for store in [&sled as &dyn Store, &memory] {
                        let history = history(store);
                        store.restart_empty().unwrap();
                        commit(store, history).unwrap();
                        store.set_complete().unwrap();
                    }
                }
            }
            check(&memory);
        }
        check(&sled);
    }
}

/// A link that changes its state while a list without a state is read is neither missed nor listed twice.
#[test]
fn a_changing_link_is_never_missing_from_a_list_of_its_institution() {
    const ROUNDS: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(&directory.path().join("s"), CACHE).unwrap().store;
    let states = [StateName::Valid, StateName::Invalid];
    let at = |version: u64| {
        let state = states[usize::from(version.is_multiple_of(2))];
        (0..LINKS).map(|n| put(n, version, state, [Some("erebor"), None, None])).collect()
    };
    commit(&store, at(1)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (2..ROUNDS).for_each(|version| commit(&store, at(version)).unwrap()));
        let query = Query { institution: Some("erebor".to_owned()), limit: 100, ..Query::default() };
        while !writer.is_finished() {
            let page = store.page(&query).unwrap();
            assert_eq!(page.ids.len(), usize::from(LINKS), "{:?}", page.ids);
        }
    });
}

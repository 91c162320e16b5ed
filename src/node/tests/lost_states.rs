//! States that the output stream has lost in its middle are noticed.

use super::*;
use crate::contract::{At, Commit, LinksDigest, Record};

/// After this time the next reminder is due.
const LATER: Duration = Duration::from_secs(25 * 3600);

/// The states of four links, each of which has two versions, and the digest of all of them.
struct History {
    states: Vec<Record>,
    links: LinksDigest,
}

fn history() -> History {
    let mut rig = Rig::new(&[0, 1, 2, 3]);
    rig.deliver(&[(0, 1), (1, 2), (2, 3), (3, 4)]);
    // The first reminder changes each link.
    rig.now = rig.now.after(LATER);
    rig.wait();
    let states: Vec<Record> = rig.bodies.iter().filter_map(|body| Record::parse(body.as_bytes()).ok()).collect();
    let versions: Vec<u64> = states.iter().map(|record| record.version).collect();
    assert_eq!(versions, [1, 1, 1, 1, 2, 2, 2, 2]);
    History { states, links: rig.node.store().links_digest().unwrap() }
}

fn commit(links: Option<LinksDigest>) -> (OutputKind, Vec<u8>) {
    let commit = Commit { owner: "an earlier process".to_owned(), sent_at: At(START), links };
    (OutputKind::Commit, serde_json::to_vec(&commit).unwrap())
}

fn states<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<(OutputKind, Vec<u8>)> {
    records.into_iter().map(|record| (OutputKind::State, serde_json::to_vec(record).unwrap())).collect()
}

/// A node that rebuilds its store from these messages.
fn rebuilt(messages: Vec<(OutputKind, Vec<u8>)>) -> Rig {
    started(MemoryStore::default(), messages)
}

/// A node that starts with this store and these messages on the stream.
fn started(store: MemoryStore, messages: Vec<(OutputKind, Vec<u8>)>) -> Rig {
    let read_up_to = store.position().unwrap().map_or(0, |position| position.sequence);
    let mut rig = Rig::over(store);
    // Not before the states, because times in the future would be corrected.
    rig.now = rig.now.after(LATER);
    let numbered = (1..).zip(messages);
    rig.readable =
        numbered.map(|(sequence, (kind, body))| OutputMessage { sequence, kind, body: body.into() }).collect();
    rig.output_last = read_up_to + 20;
    rig.drive(Input::Gained { partitions: vec![0, 1, 2, 3] });
    if rig.node.phase() != Phase::Running {
        // The node starts over after a pause.
        rig.wait();
    }
    assert_eq!(rig.node.phase(), Phase::Running);
    rig
}

/// The number of links, the expected number, and the link and version if only one is lost.
type Lost = (u64, u64, Option<(String, u64)>);

/// The notes about lost states.
fn lost(rig: &Rig) -> Vec<Lost> {
    let lost = rig.notes.iter().filter_map(|note| match note {
        Note::StatesLost { links_count, expected_links_count, link } => {
            let link = link.as_ref().map(|(link, version)| (link.to_string(), *version));
            Some((*links_count, *expected_links_count, link))
        }
        _other => None,
    });
    lost.collect()
}

#[test]
fn a_complete_stream_has_its_digest() {
    let History { states: all, links } = history();
    let rig = rebuilt([states(&all[4..]), vec![commit(Some(links)), commit(None)]].concat());
    assert_eq!(lost(&rig), []);
    assert_eq!(rig.node.store().links_digest().unwrap(), links);
}

#[test]
fn a_link_whose_last_state_is_lost_goes_on_after_the_lost_version() {
    let History { states: all, links } = history();
    let rig = rebuilt([states(&all[..1]), states(&all[5..]), vec![commit(Some(links))]].concat());
    assert_eq!(lost(&rig), [(4, 4, Some(("link-1".to_owned(), 2)))]);
    // The timer of its older state passes again, with an id that is new.
    let states: Vec<&String> = rig.committed.iter().filter(|id| id.ends_with(".0")).collect();
    assert_eq!(states, ["link-1.3.0"]);
}

#[test]
fn several_lost_states_and_lost_links_are_counted_only() {
    let History { states: all, links } = history();
    let rig = rebuilt([states(&all[..2]), states(&all[6..]), vec![commit(Some(links))]].concat());
    assert_eq!(lost(&rig), [(4, 4, None)]);
    let rig = rebuilt([states(&all[5..]), vec![commit(Some(links))]].concat());
    assert_eq!(lost(&rig), [(3, 4, None)]);
}

/// Seed 1302641 of the simulation: a rebuild reads only the last state of each link. It was interrupted behind the earlier state of a link,
/// and then the stream lost its end with the last one.
#[test]
fn a_store_that_a_rebuild_left_without_some_states_is_rebuilt_from_the_beginning() {
    let History { states: all, links } = history();
    let store = rebuilt(states(&all[5..])).node.store().copy();
    let read_up_to = store.position().unwrap().unwrap().sequence;
    let mut messages = [states(&all[4..]), vec![commit(Some(links))]].concat();
    // The commit is behind the position of the store, and the states are before it.
    let last = messages.pop().unwrap();
    messages.resize(usize::try_from(read_up_to).unwrap(), (OutputKind::Other, Vec::new()));
    messages.push(last);
    let rig = started(store, messages);
    assert!(rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. })), "{:?}", rig.notes);
    assert_eq!((lost(&rig), rig.node.store().links_digest().unwrap()), (vec![], links));
}

#[test]
fn nothing_is_compared_without_a_digest_of_the_last_state() {
    let History { states: all, links } = history();
    for messages in [
        states(&all[5..]),
        [states(&all[5..]), vec![commit(None)]].concat(),
        // A version of relink that publishes no digest wrote the last state.
        [states(&all[5..6]), vec![commit(Some(links))], states(&all[6..]), vec![commit(None)]].concat(),
    ] {
        assert_eq!(lost(&rebuilt(messages)), []);
    }
}

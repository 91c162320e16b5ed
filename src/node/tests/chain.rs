//! Nothing goes on over an output stream that has lost what was stored.

use super::*;

#[test]
fn no_commit_is_built_on_one_that_the_stream_has_lost() {
    let mut rig = Rig::new(&[0]);
    let kept = (rig.said, rig.closed_at);
    rig.deliver(&[(0, 1), (0, 2)]);
    // The server was restored: the fence is still there, the commit is not, and others have written where it was.
    (rig.said, rig.closed_at) = kept;
    rig.said += 20;
    rig.lost = kept.0 + 1..=rig.said;
    rig.committed.clear();
    rig.deliver(&[(0, 3)]);
    assert_eq!(rig.committed, Vec::<String>::new());
    for _ in 0..3 {
        rig.wait();
    }
    assert!(rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. })), "{:?}", rig.notes);
    assert_eq!((rig.node.phase(), rig.rewound.last()), (Phase::Running, Some(&(0, 0))), "all is read again");
}

#[test]
fn a_store_of_a_tail_that_the_stream_has_lost_is_not_gone_on_with() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1), (0, 2)]);
    let store = rig.node.store().copy();
    // Another node has written beyond the place that the store knows, so its sequence alone says nothing.
    for (last_commit, restarts) in [("us", false), ("another", true)] {
        let mut rig = Rig::over(store.copy());
        (rig.said, rig.received) = (100, 2);
        if last_commit != US {
            rig.lost = 1..=100;
        }
        rig.drive(Input::Gained { partitions: vec![0] });
        rig.wait();
        let is_restarted = rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. }));
        assert_eq!((is_restarted, rig.node.phase()), (restarts, Phase::Running), "{last_commit}: {:?}", rig.notes);
    }
}

#[test]
fn a_commit_that_lands_where_another_was_shows_that_the_stream_lost_its_tail() {
    let mut rig = Rig::new(&[0]);
    // Another node's messages are read behind our last one, and then the stream loses them.
    rig.said += 10;
    rig.take(1, "another");
    rig.drive(Input::Gained { partitions: vec![1] });
    let closed_at = rig.closed_at;
    assert!(closed_at < rig.said);
    rig.said = closed_at;
    rig.fences.insert(1, FenceFacts { sequence: closed_at, owner: US.to_owned() });
    rig.deliver(&[(0, 1)]);
    rig.wait();
    rig.wait();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::OutputTailLost { .. })), "{:?}", rig.notes);
    assert!(rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. })), "{:?}", rig.notes);
    assert_eq!(rig.node.phase(), Phase::Running);
}

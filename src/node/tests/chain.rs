//! No commit is stored on an output stream that has lost an earlier commit.

use super::*;
use crate::store::{Changes, Position, Witness};

#[test]
fn no_commit_is_built_on_one_that_the_stream_has_lost() {
    let mut rig = Rig::new(&[0]);
    let kept = (rig.output_last, rig.closed_at);
    rig.deliver(&[(0, 1), (0, 2)]);
    // The server was restored from a backup: it has the fence but not the commit, and other nodes have written at its sequences.
    (rig.output_last, rig.closed_at) = kept;
    rig.output_last += 20;
    rig.lost_sequences = kept.0 + 1..=rig.output_last;
    rig.committed.clear();
    rig.deliver(&[(0, 3)]);
    assert_eq!(rig.committed, Vec::<String>::new());
    for _ in 0..3 {
        rig.wait();
    }
    assert!(rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. })), "{:?}", rig.notes);
    assert_eq!(
        (rig.node.phase(), rig.rewound.last()),
        (Phase::Running, Some(&(0, 0))),
        "the input is read from its beginning"
    );
}

#[test]
fn a_store_whose_witness_is_beyond_the_end_of_the_stream_is_emptied() {
    let store = MemoryStore::default();
    let witness = Some(Witness { sequence: 9, owner: US.to_owned() });
    let position = Some(Position { stream_created_ns: OUTPUT_NS, sequence: 5, witness });
    store.apply(&Changes { position, ..Changes::default() }).unwrap();
    // The stream has lost the messages from 8 on. The node's own fences get these sequences, and they have its name.
    let mut rig = Rig::over(store);
    rig.output_last = 7;
    rig.drive(Input::Gained { partitions: vec![0, 1, 2] });
    rig.wait();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. })), "{:?}", rig.notes);
    assert_eq!(rig.node.phase(), Phase::Running);
}

#[test]
fn an_older_copy_of_the_store_has_another_witness_than_the_messages_after_a_loss() {
    let mut rig = Rig::new(&[0]);
    let kept = (rig.output_last, rig.closed_at);
    let witness = |rig: &Rig| rig.node.store().position().unwrap().and_then(|position| position.witness).unwrap();
    rig.deliver(&[(0, 1)]);
    let copied = witness(&rig);
    // The stream loses the commit, and the node gives its sequence out again.
    (rig.output_last, rig.closed_at) = kept;
    rig.lost_sequences = kept.0 + 1..=rig.output_last;
    rig.deliver(&[(0, 2)]);
    for _ in 0..3 {
        rig.wait();
    }
    while witness(&rig).sequence < copied.sequence {
        let last = rig.input_last;
        rig.deliver(&[(0, last + 1)]);
    }
    assert_ne!(witness(&rig).owner, copied.owner);
    // A fence that was taken under the earlier name, and is late, is still of this node.
    assert!(rig.node.options.is_ours(US) && rig.node.options.is_ours(&witness(&rig).owner));
    assert!(!rig.node.options.is_ours("another") && !rig.node.options.is_ours(&format!("{US}2")));
}

#[test]
fn a_store_with_messages_that_the_stream_has_lost_is_emptied() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1), (0, 2)]);
    let store = rig.node.store().copy();
    // Another node has written beyond the store's position, so the last sequence alone does not show the loss.
    for (last_commit, restarts) in [("us", false), ("another", true)] {
        let mut rig = Rig::over(store.copy());
        (rig.output_last, rig.input_last) = (100, 2);
        if last_commit != US {
            rig.lost_sequences = 1..=100;
        }
        rig.drive(Input::Gained { partitions: vec![0] });
        rig.wait();
        let is_restarted = rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. }));
        assert_eq!((is_restarted, rig.node.phase()), (restarts, Phase::Running), "{last_commit}: {:?}", rig.notes);
    }
}

/// Seed 5003329 of the simulation: a store was copied in the middle of a read, without a witness. The stream lost what had been read, other
/// nodes wrote at these sequences, and the copy went on behind them.
#[test]
fn a_store_that_an_interrupted_read_has_left_has_a_witness() {
    const REACHED: u64 = 5;
    let mut rig = Rig::over(MemoryStore::default());
    rig.output_last = 20;
    let mut inputs = VecDeque::from([Input::Gained { partitions: vec![0] }]);
    while let Some(input) = inputs.pop_front() {
        rig.node.handle(rig.now, input);
        while let Some(output) = rig.node.poll_output() {
            match output {
                Output::ReadOutput { request, .. } => {
                    inputs.push_back(Input::OutputRead { request, messages: Vec::new(), reached: REACHED });
                }
                output => inputs.extend(rig.perform(output).unwrap_or_else(|output| panic!("{output:?}"))),
            }
        }
    }
    let store = rig.node.store().copy();
    let witness = Some(Witness { sequence: rig.fences[&0].sequence, owner: US.to_owned() });
    assert_eq!(store.position().unwrap(), Some(Position { stream_created_ns: OUTPUT_NS, sequence: REACHED, witness }));
    for (lost_sequences, restarts) in [(0..=0, false), (4..=100, true)] {
        let mut rig = Rig::over(store.copy());
        (rig.output_last, rig.lost_sequences) = (100, lost_sequences);
        rig.drive(Input::Gained { partitions: vec![0] });
        rig.wait();
        let is_restarted = rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. }));
        assert_eq!((is_restarted, rig.node.phase()), (restarts, Phase::Running), "{:?}", rig.notes);
    }
}

#[test]
fn a_commit_at_a_known_sequence_shows_that_the_stream_lost_its_tail() {
    let mut rig = Rig::new(&[0]);
    // The node reads messages of another node after its own last one, and then the stream loses them.
    rig.output_last += 10;
    rig.take(1, "another");
    rig.drive(Input::Gained { partitions: vec![1] });
    let closed_at = rig.closed_at;
    assert!(closed_at < rig.output_last);
    rig.output_last = closed_at;
    rig.fences.insert(1, FenceFacts { sequence: closed_at, owner: US.to_owned() });
    rig.deliver(&[(0, 1)]);
    rig.wait();
    rig.wait();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::OutputTailLost { .. })), "{:?}", rig.notes);
    assert!(rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. })), "{:?}", rig.notes);
    assert_eq!(rig.node.phase(), Phase::Running);
}

/// Seed 1306979 of the simulation: the node was finding the place of a partition in the input stream for the first time when it got
/// another one, and went on with an empty store.
#[test]
fn a_store_is_not_emptied_under_a_partition_that_is_caught_up() {
    let mut earlier = Rig::new(&[1]);
    earlier.deliver(&[(1, 1)]);
    let mut rig = Rig::over(earlier.node.store().copy());
    (rig.output_last, rig.input_last, rig.answers_input_facts) = (100, 1, false);
    rig.drive(Input::Gained { partitions: vec![1] });
    // The stream loses its end, and no message of the node that it knows of.
    rig.output_last = 1;
    rig.drive(Input::Gained { partitions: vec![0] });
    let is_restarted = |rig: &Rig| rig.notes.iter().any(|note| matches!(note, Note::StoreRestarted { .. }));
    assert!(!is_restarted(&rig), "{:?}", rig.notes);
    // Both partitions start over, and the store is emptied before the node catches up.
    rig.answers_input_facts = true;
    rig.wait();
    assert!(is_restarted(&rig), "{:?}", rig.notes);
    assert_eq!(rig.node.phase(), Phase::Running);
}

//! Readers and partitions: missing deliveries, sequences that are assigned twice, streams that are created again, lost partitions.

use super::*;

#[test]
fn a_missing_delivery_is_read_again() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1)]);
    rig.readers.get_mut(&0).unwrap().1 += 1;
    rig.rewound.clear();
    rig.deliver(&[(0, 3)]);
    assert_eq!(rig.offsets(), [(0, 1)].into());
    rig.wait();
    assert_eq!(rig.rewound, [(0, 1)]);
    rig.deliver(&[(0, 2), (0, 3)]);
    assert_eq!(rig.offsets(), [(0, 3)].into());
}

#[test]
fn inputs_that_were_removed_unread_are_noticed() {
    let removed_from = |pending_at_start: Option<u64>, pending: &[u64]| {
        let mut rig = Rig::new(&[0]);
        // A new reader.
        rig.pending_at_start = pending_at_start;
        let reader = rig.readers[&0].0;
        rig.drive(Input::ReaderFailed { reader, problem: "the server is gone".to_owned() });
        rig.wait();
        for (&pending, sequence) in pending.iter().zip(1..) {
            let delivered = Delivered { pending: Some(pending), ..rig.delivered(0, sequence) };
            rig.drive(Input::Delivered { deliveries: vec![delivered] });
        }
        let at_least = rig.notes.iter().map(|note| match note {
            Note::InputsRemoved { at_least, .. } => *at_least,
            _ => 0,
        });
        at_least.sum::<u64>()
    };
    let removed = |pending: &[u64]| removed_from(None, pending);
    assert_eq!(removed(&[9, 8, 7, 12, 11, 11, 10]), 0, "new messages arrive");
    assert_eq!(removed(&[0, 0, 0, 1, 0]), 0, "no message waits");
    assert_eq!(removed(&[9, 8, 3, 2]), 4);
    assert_eq!(removed(&[9, 0, 0]), 8);
    assert_eq!(removed_from(Some(10), &[9, 8]), 0, "the first delivery takes one away");
    assert_eq!(removed_from(Some(0), &[0, 3]), 0, "the first message arrives after the start");
    assert_eq!(removed_from(Some(10), &[2, 1]), 7, "removed before the first delivery");
}

#[test]
fn a_sequence_that_is_assigned_twice_is_no_repeat() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1), (0, 2)]);
    let mut again = rig.delivered(0, 2);
    again.delivery.stored_at_ns += 1_000;
    rig.drive(Input::Delivered { deliveries: vec![again] });
    assert!(matches!(rig.notes.last(), Some(Note::StartingOver { .. })), "{:?}", rig.notes);
}

#[test]
fn a_sequence_that_is_assigned_twice_is_noticed_across_readers_of_a_partition() {
    let mut rig = Rig::new(&[0]);
    rig.answers_commits = false;
    rig.deliver(&[(0, 1)]);
    let reader = rig.readers[&0].0;
    rig.drive(Input::ReaderFailed { reader, problem: "the server is gone".to_owned() });
    rig.wait();
    let mut newer = rig.delivered(0, 1);
    newer.delivery.stored_at_ns += 1;
    rig.drive(Input::Delivered { deliveries: vec![newer] });
    assert!(format!("{:?}", rig.notes.last()).contains("a second time"), "{:?}", rig.notes);
}

#[test]
fn a_reader_of_another_stream_makes_the_node_start_over() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1)]);
    let reader = rig.readers[&0].0;
    rig.drive(Input::ReaderFailed { reader, problem: "the stream is gone".to_owned() });
    rig.is_input_recreated = true;
    rig.wait();
    assert!(format!("{:?}", rig.notes.last()).contains("created again"), "{:?}", rig.notes);
    rig.is_input_recreated = false;
    rig.wait();
    assert_eq!(rig.node.phase(), Phase::Running);
}

#[test]
fn a_node_that_is_told_to_start_over_runs_again_and_repeats_nothing() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1)]);
    let committed = rig.committed.clone();
    rig.drive(Input::StartOver { problem: "a stream was created again".to_owned() });
    rig.wait();
    assert_eq!((rig.node.phase(), &rig.committed), (Phase::Running, &committed));
    assert_eq!(rig.rewound.last(), Some(&(0, 1)), "the partition continues after its committed offset");
    rig.deliver(&[(0, 2)]);
    assert!(rig.committed.len() > committed.len());
}

/// A stream with a size limit may delete its oldest messages.
#[test]
fn a_fence_that_the_stream_has_deleted_is_taken_again() {
    let mut rig = Rig::new(&[0, 1]);
    rig.deliver(&[(0, 1)]);
    rig.fences.clear();
    assert_eq!(rig.deliver(&[(0, 2)]), Vec::<String>::new());
    for _ in 0..3 {
        assert_eq!(rig.wait(), Vec::<String>::new(), "no partition ends");
    }
    assert_eq!(rig.node.phase(), Phase::Running);
    rig.deliver(&[(0, 2), (1, 3)]);
    assert_eq!(rig.offsets(), [(0, 2), (1, 3)].into());
}

#[test]
fn a_lost_partition_ends_and_the_others_go_on() {
    let mut rig = Rig::new(&[0, 1]);
    rig.answers_commits = false;
    rig.deliver(&[(0, 1)]);
    rig.deliver(&[(0, 2), (1, 3)]);
    let rest = rig.drive(Input::Lost { partitions: vec![1] });
    assert!(rest.iter().any(|output| output == "PartitionEnded { partition: 1, why: GivenUp }"), "{rest:?}");
    assert!(rest[0].starts_with("DiscardBatch"), "the batch with its messages is discarded: {rest:?}");
    rig.answers_commits = true;
    let batch = *rig.staged.keys().next().unwrap();
    let committed = rig.commit(batch);
    rig.drive(committed);
    rig.deliver(&[(0, 2)]);
    assert_eq!(rig.offsets(), [(0, 2)].into());
    // The partition can be gained again.
    rig.drive(Input::Gained { partitions: vec![1] });
    rig.deliver(&[(1, 3)]);
    assert_eq!(rig.offsets(), [(0, 2), (1, 3)].into());
}

#[test]
fn a_partition_that_is_lost_before_its_fence_is_taken_does_not_block_others() {
    let mut rig = Rig::new(&[0]);
    rig.node.handle(rig.now, Input::Gained { partitions: vec![1] });
    let Some(Output::ReadOutputFacts { request }) = rig.node.poll_output() else { panic!("the acquisition begins") };
    rig.drive(Input::Lost { partitions: vec![1] });
    let stream = StreamFacts { created_ns: OUTPUT_NS, last_sequence: rig.output_last };
    assert_eq!(rig.drive(Input::OutputFacts { request, stream }), Vec::<String>::new());
    rig.drive(Input::Gained { partitions: vec![2] });
    rig.deliver(&[(0, 1), (2, 2)]);
    assert_eq!(rig.offsets(), [(0, 1), (2, 2)].into());
}

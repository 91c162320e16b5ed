//! What a driver must not do.

use super::*;

/// A node whose store is asked for two writes and then a checkpoint.
fn writing() -> Rig {
    let mut rig = Rig::new(&[0]);
    rig.node.applying.extend([RequestId(101), RequestId(102)].map(Applying::read));
    rig.node.checkpointing = Some(RequestId(103));
    rig
}

#[test]
fn writes_are_finished_in_order() {
    let mut rig = writing();
    for request in [101, 102].map(RequestId) {
        rig.drive(Input::Applied { request });
    }
    rig.drive(Input::Checkpointed { request: RequestId(103) });
    assert!(rig.node.applying.is_empty() && rig.node.checkpointing.is_none());
}

#[test]
fn an_answer_that_comes_again_is_ignored() {
    let mut rig = writing();
    for request in [101, 101, 99].map(RequestId) {
        rig.drive(Input::Applied { request });
    }
    assert_eq!(rig.node.applying.len(), 1);
}

#[test]
#[should_panic(expected = "the driver says that write")]
fn a_write_that_overtakes_another_is_a_bug_of_the_driver() {
    writing().drive(Input::Applied { request: RequestId(102) });
}

#[test]
#[should_panic(expected = "the driver says that write")]
fn so_is_a_checkpoint_before_what_it_is_to_keep() {
    writing().drive(Input::Checkpointed { request: RequestId(103) });
}

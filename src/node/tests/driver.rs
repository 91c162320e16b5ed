//! Rules for a driver.

use super::*;

/// A node with two open writes to the store, and then an open checkpoint.
fn writing() -> Rig {
    let mut rig = Rig::new(&[0]);
    rig.node.applying.extend([RequestId(101), RequestId(102)].map(Applying::read));
    rig.node.checkpointing = Some(RequestId(103));
    rig
}

#[test]
fn writes_may_finish_in_order() {
    let mut rig = writing();
    for request in [101, 102].map(RequestId) {
        rig.drive(Input::Applied { request });
    }
    rig.drive(Input::Checkpointed { request: RequestId(103) });
    assert!(rig.node.applying.is_empty() && rig.node.checkpointing.is_none());
}

#[test]
fn a_repeated_answer_is_ignored() {
    let mut rig = writing();
    for request in [101, 101, 99].map(RequestId) {
        rig.drive(Input::Applied { request });
    }
    assert_eq!(rig.node.applying.len(), 1);
}

#[test]
#[should_panic(expected = "the driver finished write")]
fn a_write_that_finishes_before_an_earlier_write_panics() {
    writing().drive(Input::Applied { request: RequestId(102) });
}

#[test]
#[should_panic(expected = "the driver finished write")]
fn a_checkpoint_that_finishes_before_an_earlier_write_panics() {
    writing().drive(Input::Checkpointed { request: RequestId(103) });
}

#[test]
fn a_store_that_fails_ends_the_node() {
    let mut rig = Rig::new(&[0]);
    let rest = rig.drive(Input::StoreFailed { problem: "no space".to_owned() });
    assert_eq!(rest, [r#"End { why: Store { problem: "no space" } }"#]);
}

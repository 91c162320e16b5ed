//! Writes of the store that take long.

use super::*;

impl Rig {
    /// Makes the first open write of the store.
    fn write(&mut self) -> Vec<String> {
        let (request, changes) = self.writes.pop_front().expect("a write is open");
        self.node.store().apply(&changes).unwrap();
        self.drive(Input::Applied { request })
    }

    fn handled(&self) -> Option<u64> {
        self.node.partitions[&0].handled
    }
}

#[test]
fn commits_go_on_while_the_store_writes_up_to_a_limit() {
    let mut rig = Rig::new(&[0]);
    rig.answers_writes = false;
    for sequence in 1..=4 {
        rig.deliver(&[(0, sequence)]);
        assert_eq!((rig.handled(), rig.writes.len()), (Some(sequence), sequence as usize));
    }
    assert_eq!((rig.acknowledged.len(), rig.node.is_ready_to_read()), (0, false));
    rig.deliver(&[(0, 5)]);
    assert_eq!((rig.handled(), rig.writes.len()), (Some(4), 4), "the fifth plan waits");
    rig.write();
    assert_eq!((rig.handled(), rig.writes.len()), (Some(5), 4));
    rig.answers_writes = true;
    while !rig.writes.is_empty() {
        rig.write();
    }
    assert_eq!((rig.offsets(), rig.acknowledged.len()), ([(0, 5)].into(), 5));
}

#[test]
fn a_plan_sees_the_changes_that_the_store_has_not_written() {
    let mut rig = Rig::new(&[0]);
    rig.answers_writes = false;
    rig.deliver(&[(0, 1)]);
    let mut second = rig.delivered(0, 2);
    second.delivery = Delivery { sequence: 2, ..delivery(0, 1) };
    rig.drive(Input::Delivered { deliveries: vec![second] });
    assert!(rig.committed.contains(&"link-1.1.0".to_owned()), "{:?}", rig.committed);
    let repeated = rig.bodies.iter().filter(|body| body.contains("repeated")).count();
    assert_eq!((rig.handled(), repeated), (Some(2), 1), "the second message is a repeat of the first");
}

#[test]
fn timers_wait_for_the_store_only_for_some_plans() {
    let mut rig = Rig::new(&[0]);
    rig.deliver(&[(0, 1)]);
    // The first reminder of link-1 is due, and a write is always open.
    rig.now = rig.now.after(Duration::from_secs(2 * 86_400));
    rig.answers_writes = false;
    let is_reminded = |rig: &Rig| rig.bodies.iter().any(|body| body.contains("\"reminder\""));
    let mut sequence = 1;
    while !is_reminded(&rig) {
        sequence += 1;
        assert!(sequence < 20, "the timer is never planned");
        rig.deliver(&[(0, sequence)]);
        if rig.writes.len() > 1 {
            rig.write();
        } else if rig.handled() < Some(sequence) {
            // The plan waits for the last write.
            rig.write();
        }
    }
}

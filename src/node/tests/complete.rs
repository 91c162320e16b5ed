//! Deadlines wait for the inputs that relink has accepted before them.

use super::*;

const REMINDER_AFTER: Duration = Duration::from_secs(25 * 3600);

impl Rig {
    /// The link of input 1 is broken, its user was prompted, and its reminder is due now.
    fn with_a_due_reminder() -> Self {
        let mut rig = Self::new(&[0, 1]);
        rig.deliver(&[(0, 1)]);
        rig.input_ends = [(0, 1)].into();
        rig.now = rig.now.after(REMINDER_AFTER);
        rig
    }

    fn reminders(&self) -> usize {
        let is_of_link =
            |body: &&String| body.contains(r#""type":"reminder""#) && body.contains(r#""link_id":"link-1""#);
        self.bodies.iter().filter(is_of_link).count()
    }

    /// A command of an operator about the link of input 1.
    fn muted(&mut self, sequence: u64) -> Delivered {
        let mut delivered = self.delivered(0, sequence);
        delivered.delivery.kind = "command".to_owned();
        delivered.delivery.link = "link-1".to_owned();
        delivered.delivery.payload = r#"{"command": "mute"}"#.into();
        delivered.delivery.stored_at_ns = self.now.as_millis() * 1_000_000;
        delivered
    }
}

#[test]
fn a_deadline_waits_for_the_messages_of_the_stream_and_is_handled_when_they_are() {
    for is_muted in [false, true] {
        let mut rig = Rig::with_a_due_reminder();
        // The stream has a message of partition 1, which no delivery has shown yet, and perhaps a command for the link.
        rig.input_ends = [(0, if is_muted { 2 } else { 1 }), (1, 3)].into();
        rig.drive(Input::Tick);
        assert_eq!(rig.reminders(), 0, "{:?}", rig.bodies);
        if is_muted {
            let muted = rig.muted(2);
            rig.drive(Input::Delivered { deliveries: vec![muted] });
        }
        rig.deliver(&[(1, 3)]);
        assert_eq!(rig.reminders(), usize::from(!is_muted));
    }
}

#[test]
fn a_deadline_waits_for_the_journal_but_not_for_what_it_got_later() {
    let mut rig = Rig::with_a_due_reminder();
    // The reminder is due for an hour, and the oldest message of the journal is older.
    rig.journal_waited = Duration::from_secs(7_200);
    rig.drive(Input::Tick);
    assert_eq!(rig.reminders(), 0);
    // Now the oldest one was received after the reminder was due.
    rig.journal_waited = Duration::from_secs(60);
    rig.now = rig.now.after(Duration::from_secs(1));
    rig.drive(Input::Tick);
    assert_eq!(rig.reminders(), 1);
}

#[test]
fn a_deadline_does_not_wait_for_ever() {
    let mut rig = Rig::with_a_due_reminder();
    rig.input_ends = [(0, 99)].into();
    for seconds in (0..=610).step_by(10) {
        rig.drive(Input::Tick);
        let is_over = seconds >= 600;
        assert_eq!(rig.reminders(), usize::from(is_over), "after {seconds} s");
        rig.now = rig.now.after(Duration::from_secs(10));
    }
    let notes = rig.notes.iter().filter(|note| matches!(note, Note::TimersHeldTooLong { .. })).count();
    assert_eq!(notes, 1);
    // When the messages are there, deadlines wait again.
    rig.deliver(&[(0, 99)]);
    rig.input_ends = [(0, 100)].into();
    rig.now = rig.now.after(Duration::from_secs(30 * 24 * 3600));
    rig.drive(Input::Tick);
    assert_eq!(rig.reminders(), 1);
}

#[test]
fn a_new_start_asks_again_before_a_deadline() {
    let mut rig = Rig::with_a_due_reminder();
    rig.drive(Input::Tick);
    assert_eq!(rig.reminders(), 1);
    let mut next = Rig::over(rig.node.store.clone());
    (next.now, next.output_last, next.input_last) = (rig.now.after(REMINDER_AFTER * 3), rig.output_last, 1);
    next.input_ends = [(0, 2)].into();
    next.drive(Input::Gained { partitions: vec![0] });
    assert_eq!(next.reminders(), 0, "a message waits that the process before has not handled");
    let muted = next.muted(2);
    next.drive(Input::Delivered { deliveries: vec![muted] });
    next.wait();
    assert_eq!(next.reminders(), 0);
}

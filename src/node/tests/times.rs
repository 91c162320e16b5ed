//! Clocks that are wrong: that of the server, and that of the host.

use super::*;
use crate::contract::Record;
use crate::link::CLOCK_AHEAD_MAX;

const DAY_MS: i64 = 86_400_000;

impl Rig {
    /// Lets some seconds pass, one by one.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.drive(Input::Tick);
        }
    }

    /// Delivers a message that the server stores now.
    fn receive(&mut self, sequence: u64) {
        let mut delivered = self.delivered(0, sequence);
        delivered.delivery.stored_at_ns = self.stream_now().as_millis() * 1_000_000;
        self.drive(Input::Delivered { deliveries: vec![delivered] });
    }

    /// Lets ten seconds pass, and measures the clocks. That of the host is ahead of the own clock by `host_ahead_ms`.
    fn measure(&mut self, host_ahead_ms: i64) {
        self.now = self.now.after(Duration::from_secs(10));
        let mut inputs = VecDeque::from([Input::Tick]);
        while let Some(input) = inputs.pop_front() {
            self.node.handle(self.now, input);
            while let Some(output) = self.node.poll_output() {
                let mut answer = self.perform(output).unwrap();
                if let Some(Input::StreamTime { host_at_ms, .. }) = &mut answer {
                    *host_at_ms += host_ahead_ms;
                }
                inputs.extend(answer);
            }
        }
    }

    fn record(&self, sequence: u64) -> Record {
        let id = format!("link-{sequence}").parse().unwrap();
        self.node.store.get(&id).unwrap().expect("the link is stored").parse().unwrap()
    }

    fn notices(&self, kind: &str) -> usize {
        self.bodies.iter().filter(|body| body.contains(&format!(r#""type":"{kind}""#))).count()
    }
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_pause() {
    let mut rig = Rig::new(&[0]);
    let (reader, _) = rig.readers[&0];
    rig.drive(Input::ReaderFailed { reader, problem: "gone".to_owned() });
    assert_eq!(rig.node.phase(), Phase::Starting);
    rig.now = rig.now.before(Duration::from_secs(86_400));
    rig.drive(Input::Tick);
    rig.wait();
    assert_eq!(rig.node.phase(), Phase::Running);
}

#[test]
fn a_node_without_partitions_asks_for_no_wake_up_in_the_past() {
    let mut node = Rig::over(MemoryStore::default()).node;
    node.handle(START, Input::Gained { partitions: vec![0] });
    let mut outputs = std::iter::from_fn(|| node.poll_output());
    let request = outputs.find_map(|output| match output {
        Output::ReadStreamTime { request } => Some(request),
        _ => None,
    });
    node.handle(START, Input::Lost { partitions: vec![0] });
    let problem = "no response".to_owned();
    node.handle(START, Input::RequestFailed { request: request.expect("the node asks for the time"), problem });
    while node.poll_output().is_some() {}
    // The node would not sleep: each wake-up asks for the next one at once.
    let now = START.after(Duration::from_secs(2));
    node.handle(now, Input::Tick);
    let wake_ups = std::iter::from_fn(|| node.poll_output()).filter(|output| matches!(output, Output::WakeAt { .. }));
    assert_eq!(wake_ups.count(), 0);
}

#[test]
fn six_seconds_of_a_wrong_server_clock_do_not_silence_a_link() {
    for noticed in [false, true] {
        let mut rig = Rig::new(&[0]);
        rig.receive(1);
        rig.pass(3);
        rig.server_ahead_ms = 400 * DAY_MS;
        if noticed {
            // The next measurement is within these seconds.
            rig.pass(8);
        }
        rig.receive(2);
        // If no jump is unconfirmed, the link is corrected at once.
        let is_corrected = rig.record(2).because.times_corrected;
        assert_eq!(is_corrected, !noticed);
        assert_eq!(rig.record(2).updated_at.0, if noticed { rig.stream_now() } else { rig.now });
        assert_eq!(rig.notices("reminder"), 0, "the timers do not believe the server yet");
        rig.pass(6);
        rig.server_ahead_ms = 0;
        rig.pass(20);
        let corrected = rig.record(2);
        assert!(corrected.because.times_corrected && corrected.updated_at.0 <= rig.now, "{corrected:?}");
        assert_eq!(rig.record(1).version, 1, "the other link is unchanged");
        rig.now = rig.now.after(Duration::from_secs(25 * 3600));
        rig.pass(1);
        assert_eq!(rig.notices("reminder"), 2);
    }
}

#[test]
fn a_link_in_the_future_is_corrected_when_the_clock_of_the_host_is_right_too() {
    let mut rig = Rig::new(&[0]);
    // Both clocks are wrong when the link is stored.
    rig.server_ahead_ms = 400 * DAY_MS;
    (0..8).for_each(|_| rig.measure(400 * DAY_MS));
    rig.receive(1);
    rig.server_ahead_ms = 0;
    (0..8).for_each(|_| rig.measure(400 * DAY_MS));
    assert!(!rig.record(1).because.times_corrected, "the host may be right");
    (0..2).for_each(|_| rig.measure(0));
    assert!(rig.record(1).because.times_corrected);
}

#[test]
fn after_a_long_jump_of_the_server_clock_the_links_are_corrected() {
    let mut rig = Rig::new(&[0]);
    rig.receive(1);
    rig.server_ahead_ms = 400 * DAY_MS;
    rig.pass(90);
    assert_eq!(rig.notices("reminder"), 1, "nobody can know that the server is wrong");
    rig.receive(2);
    rig.server_ahead_ms = 0;
    rig.pass(90);
    for link in [1, 2] {
        let corrected = rig.record(link);
        assert!(corrected.because.times_corrected && corrected.updated_at.0 <= rig.now, "{corrected:?}");
    }
    rig.now = rig.now.after(Duration::from_secs(25 * 3600));
    rig.pass(1);
    assert_eq!(rig.notices("reminder"), 2);
    let jumps = rig.notes.iter().filter(|note| matches!(note, Note::ClockJumped { .. })).count();
    assert_eq!(jumps, 4, "two jumps, both confirmed: {:?}", rig.notes);
}

#[test]
fn a_server_clock_that_is_behind_corrects_nothing_while_the_host_is_right() {
    let mut rig = Rig::new(&[0]);
    rig.receive(1);
    for (seconds, ahead_ms) in [(6, -400 * DAY_MS), (20, 0), (90, -DAY_MS), (90, 0)] {
        rig.server_ahead_ms = ahead_ms;
        rig.pass(seconds);
    }
    assert_eq!(rig.record(1).version, 1);
}

#[test]
fn a_process_finds_the_links_that_an_earlier_one_left_in_the_future() {
    let mut rig = Rig::new(&[0]);
    rig.server_ahead_ms = 400 * DAY_MS;
    rig.receive(1);
    let mut next = Rig::over(rig.node.store.clone());
    (next.now, next.output_last) = (rig.now, rig.output_last);
    next.drive(Input::Gained { partitions: vec![0] });
    next.pass(3);
    let corrected = next.record(1);
    assert!(corrected.because.times_corrected && corrected.updated_at.0 <= next.now.after(CLOCK_AHEAD_MAX));
}

#[test]
fn timers_follow_the_clock_of_the_server_and_not_that_of_the_host() {
    for ahead_minutes in [11, -11, 400 * 24 * 60] {
        let mut rig = Rig::over(MemoryStore::default());
        // The host is ahead of the server, or behind it.
        rig.server_ahead_ms = -60_000 * ahead_minutes;
        rig.now = Timestamp::from_millis(START.as_millis() - rig.server_ahead_ms);
        rig.drive(Input::Gained { partitions: vec![0] });
        rig.receive(1);
        rig.pass(90);
        rig.now = rig.now.after(Duration::from_secs(24 * 3600 - 120));
        rig.pass(20);
        assert_eq!(rig.notices("reminder"), 0, "{ahead_minutes}: the reminder is due a day after the prompt");
        rig.pass(30);
        assert_eq!(rig.notices("reminder"), 1, "{ahead_minutes}");
    }
}

#[test]
fn the_store_has_followed_the_stream_until_its_last_proof() {
    let mut rig = Rig::new(&[0]);
    assert_eq!((rig.node.followed_at(), rig.node.commit_sent_at()), (Some(START), None), "it has caught up");
    rig.pass(1);
    rig.deliver(&[(0, 1)]);
    let committed = rig.now;
    assert_eq!((rig.node.followed_at(), rig.node.commit_sent_at()), (Some(committed), None));
    // While a commit has no answer, answers to other requests prove nothing.
    rig.pass(1);
    rig.answers_commits = false;
    rig.deliver(&[(0, 2)]);
    let sent = rig.now;
    rig.pass(60);
    assert_eq!((rig.node.followed_at(), rig.node.commit_sent_at()), (Some(committed), Some(sent)));
}

#[test]
fn the_store_of_an_idle_node_follows_the_stream() {
    let mut rig = Rig::new(&[0]);
    rig.pass(60);
    assert!(rig.node.followed_at().unwrap() > rig.now.before(Duration::from_secs(15)), "{:?}", rig.node.followed_at());
}

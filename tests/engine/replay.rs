//! The shadow replay: the same policy over its own recording gives no difference, and another policy gives the expected ones.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use relink::contract::{Address, SampleRatio};
use relink::engine::{Delivery, Engine, Plan, Publishing};
use relink::institution::Components;
use relink::link::{Policy, PolicySettings, Timestamp};
use relink::replay::{Comparison, Recorded, Replay, SentKind, Span};
use relink::store::{MemoryStore, Store};

use crate::inputs::{INPUT_CREATED_NS, PARTITIONS, START, Sample};
use crate::plans::{HOUR, at};

const DAY: i64 = 24 * HOUR;

/// The tolerance of all comparisons.
const TOLERANCE: Duration = Duration::from_secs(60);

/// A relink that has run: everything that its two streams have.
struct Ran {
    engine: Engine<MemoryStore>,
    inputs: Vec<Delivery>,
    outputs: Vec<(Address, Vec<u8>)>,
    /// How late its timers run, in milliseconds.
    late: i64,
    /// Whether all links have the same user.
    is_one_person: bool,
    now: Timestamp,
}

impl Ran {
    fn new(policy: &Policy, late: i64) -> Self {
        let offsets: BTreeMap<u16, u64> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
        let engine = Engine::new(MemoryStore::default(), policy.clone(), INPUT_CREATED_NS, &offsets).unwrap();
        // The replay records no spans, and gives no difference by that.
        let spans = Some(SampleRatio::ALL);
        let engine = engine.with_publishing(Publishing { spans, ..Publishing::default() });
        Self { engine, inputs: Vec::new(), outputs: Vec::new(), late, is_one_person: false, now: START }
    }

    fn take(&mut self, plan: &Plan) {
        self.engine.store().apply(&plan.changes(None)).unwrap();
        self.engine.record_commit(plan);
        let messages = plan.messages.iter().map(|outgoing| &outgoing.message);
        self.outputs.extend(messages.map(|message| (message.address.clone(), message.body.to_vec())));
    }

    fn pass_time(&mut self, until: Timestamp) {
        while let Some(due) = self.engine.store().next_deadline().unwrap().filter(|due| *due <= until) {
            self.now = self.now.max(Timestamp::from_millis(due.as_millis() + self.late).min(until));
            let plan = self.engine.plan(&mut VecDeque::new(), self.now).unwrap();
            assert!(!plan.is_idle());
            self.take(&plan);
        }
        self.now = until;
    }

    fn receive(&mut self, link: u8, sample: Sample, millis: i64) {
        let sequence = self.inputs.len() as u64 + 1;
        self.pass_time(at(millis));
        let delivery = sample.about(link, u32::try_from(sequence).unwrap(), at(millis));
        let payload = if self.is_one_person {
            String::from_utf8_lossy(&delivery.payload).replace(&format!("user-of-link-{link}"), "maria").into()
        } else {
            delivery.payload
        };
        let delivery = Delivery { payload, sequence, stored_at_ns: at(millis).as_millis() * 1_000_000, ..delivery };
        self.inputs.push(delivery.clone());
        let plan = self.engine.plan(&mut VecDeque::from([delivery]), self.now).unwrap();
        self.take(&plan);
    }

    /// Replays from `from` to `to`; the stream keeps `per_subject` states of a link.
    fn replay(&self, policy: &Policy, from: i64, to: i64, per_subject: Option<usize>) -> Comparison {
        let span = Span { from: at(from), to: at(to), tolerance: TOLERANCE };
        let mut recorded = Recorded::new(span, per_subject);
        let max = per_subject.unwrap_or(usize::MAX);
        let mut behind: BTreeMap<String, usize> = BTreeMap::new();
        let kept: Vec<bool> = self
            .outputs
            .iter()
            .rev()
            .map(|(address, _)| {
                let count = behind.entry(format!("{address:?}")).or_default();
                *count += 1;
                *count <= max
            })
            .collect();
        for ((address, body), _) in self.outputs.iter().zip(kept.iter().rev()).filter(|(_, kept)| **kept) {
            match address {
                Address::State(link) => recorded.state(link.clone(), body),
                Address::Notice(name, link) => recorded.notice(name.as_str(), link.clone(), body),
                Address::Job(name, link) => recorded.job(name.as_str(), link.clone(), body),
                Address::Incident(_) => recorded.incident(body),
                _ => {}
            }
        }
        let mut replay = Replay::new(recorded, policy.clone(), Components::default()).unwrap();
        for input in &self.inputs {
            replay.input(input.clone()).unwrap();
        }
        Comparison::of(replay.finish().unwrap())
    }
}

fn policy(settings: PolicySettings) -> Policy {
    Policy::new(settings).unwrap()
}

fn default_policy(can_verify: bool) -> Policy {
    policy(PolicySettings { can_verify, ..PolicySettings::default() })
}

/// The notices that differ, without their times.
fn differences(comparison: &Comparison) -> Vec<(&str, &str, Option<i64>, Option<i64>)> {
    let hours = |time: Option<Timestamp>| time.map(|time| (time.as_millis() - START.as_millis()) / HOUR);
    let row =
        |difference: &'_ relink::replay::Difference| (hours(difference.recorded_at), hours(difference.replayed_at));
    comparison
        .differences
        .iter()
        .map(|difference| (difference.kind.as_str(), difference.which.as_str(), row(difference).0, row(difference).1))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Also if the stream no longer has every state of a link.
    #[test]
    fn the_same_policy_over_its_own_recording_gives_no_difference(
        can_verify in any::<bool>(),
        steps in vec((0..4u8, 0..Sample::ALL.len(), prop_oneof![0..600_000i64, 0..8 * HOUR, 0..3 * DAY]), 1..60),
        from in 0..100i64,
        per_subject in prop_oneof![Just(None), (1..12usize).prop_map(Some)],
        is_one_person in any::<bool>(),
    ) {
        let policy = default_policy(can_verify);
        // A link whose replay begins later is not known to the links of its person before that.
        let is_one_person = is_one_person && per_subject.is_none();
        let mut ran = Ran { is_one_person, ..Ran::new(&policy, 0) };
        let mut millis = 0;
        for (link, sample, gap) in steps {
            millis += gap;
            ran.receive(link, Sample::ALL[sample], millis);
        }
        let to = millis + 10 * DAY;
        ran.pass_time(at(to));
        let comparison = ran.replay(&policy, to * from / 100, to, per_subject);
        prop_assert!(comparison.is_same(), "{comparison:#?}");
        prop_assert_eq!(comparison.unanswered_count(), 0);
    }
}

/// Some of the errors about an institution are forgotten, which is a deadline without a message.
#[test]
fn a_deadline_without_a_message_delays_no_timer() {
    let mut ran = Ran::new(&default_policy(false), 0);
    for (link, sample, millis) in [
        (0, Sample::Credentials, 0),
        (2, Sample::SeenValid, 0),
        (3, Sample::SeenValid, 0),
        (3, Sample::History, 6 * DAY),
        (2, Sample::History, 6 * DAY + HOUR),
        (3, Sample::InstitutionDown, 6 * DAY + HOUR + 500_000),
        (2, Sample::InstitutionDown, 6 * DAY + HOUR + 700_000),
        (3, Sample::FutureEnvelope, 8 * DAY),
    ] {
        ran.receive(link, sample, millis);
    }
    ran.pass_time(at(9 * DAY));
    let comparison = ran.replay(&default_policy(false), 5 * DAY, 9 * DAY, None);
    assert_eq!(differences(&comparison), []);
    assert_eq!(comparison.kinds[&SentKind::Notice("reminder")].same, 1);
}

/// One link that breaks after an hour and is never repaired.
fn broken(late: i64) -> Ran {
    let mut ran = Ran::new(&default_policy(false), late);
    ran.receive(1, Sample::Data, 0);
    ran.receive(1, Sample::TokenRequired, HOUR);
    ran.pass_time(at(20 * DAY));
    ran
}

#[test]
fn a_timer_that_ran_late_is_no_difference_within_the_tolerance() {
    let ran = broken(20_000);
    let comparison = ran.replay(&default_policy(false), 0, 19 * DAY, None);
    assert_eq!(differences(&comparison), []);
    assert_eq!(comparison.kinds[&SentKind::Notice("reminder")].same, 3);
}

#[test]
fn another_ladder_moves_adds_and_removes_reminders() {
    let ran = broken(0);
    let days = |days: &[i64]| days.iter().map(|days| Duration::from_secs(86_400 * days.unsigned_abs())).collect();
    let with = |reminders: &[i64]| policy(PolicySettings { reminders: days(reminders), ..PolicySettings::default() });
    // The recording has reminders 1, 3 and 7 days after the prompt.
    let later = ran.replay(&with(&[2, 3]), 0, 19 * DAY, None);
    assert_eq!(differences(&later), [("reminder", "1", Some(25), Some(49)), ("reminder", "3", Some(7 * 24 + 1), None)]);
    let more = ran.replay(&with(&[1, 3, 7, 14]), 0, 19 * DAY, None);
    assert_eq!(differences(&more), [("reminder", "4", None, Some(14 * 24 + 1))]);
    // A span that begins behind the first reminder starts with the recorded state.
    let rest = ran.replay(&with(&[2, 3, 8]), 2 * DAY, 19 * DAY, None);
    assert_eq!(differences(&rest), [("reminder", "3", Some(7 * 24 + 1), Some(8 * 24 + 1))]);
}

#[test]
fn a_longer_pause_moves_the_reminders_behind_it() {
    let ran = broken(0);
    let slow = policy(PolicySettings { reminder_pause: Duration::from_secs(3 * 86_400), ..PolicySettings::default() });
    let comparison = ran.replay(&slow, 0, 19 * DAY, None);
    assert_eq!(
        differences(&comparison),
        [
            ("reminder", "1", Some(25), Some(3 * 24 + 1)),
            ("reminder", "2", Some(73), Some(6 * 24 + 1)),
            ("reminder", "3", Some(7 * 24 + 1), Some(10 * 24 + 1))
        ]
    );
}

/// A question that only the new policy asks has no answer in the recording, and the report counts it.
#[test]
fn a_question_of_the_new_policy_is_counted_as_unanswered() {
    let ran = broken(0);
    let comparison = ran.replay(&default_policy(true), 0, 19 * DAY, None);
    assert!(comparison.unanswered_count() > 0, "{comparison:#?}");
}

//! The journal as a whole: random appends, publishes, crashes, damage and full disks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::runtime::Builder;

use super::*;

/// NATS, as the forwarder sees it.
#[derive(Default)]
struct FakeNats {
    /// The headers `Relink-Journal` and the bodies, in order.
    inputs: Mutex<Vec<(String, Bytes)>>,
    letters: Mutex<Vec<Bytes>>,
    is_away: AtomicBool,
    /// The next publish is stored, but its answer is lost.
    loses_answer: AtomicBool,
}

impl Target for FakeNats {
    fn publish(&self, entries: Vec<Entry>) -> BoxFuture<'_, Vec<Result<u64, PublishError>>> {
        let unavailable = || Err(PublishError::Unavailable { cause: "test".to_owned() });
        if self.is_away.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(entries.iter().map(|_| unavailable()).collect()));
        }
        let is_lost = self.loses_answer.swap(false, Ordering::Relaxed);
        let outcomes = entries.into_iter().map(|entry| {
            if entry.payload.starts_with(b"large") {
                return Err(PublishError::TooLarge { size: 2, max: 1 });
            }
            let id = entry.headers.into_iter().find(|(name, _)| name == JOURNAL_HEADER).expect("a record has an id").1;
            let mut inputs = lock(&self.inputs);
            inputs.push((id, entry.payload));
            if is_lost { unavailable() } else { Ok(inputs.len() as u64) }
        });
        Box::pin(std::future::ready(outcomes.collect()))
    }

    fn set_aside(&self, letters: Vec<(Entry, Dead)>) -> BoxFuture<'_, Result<Vec<u64>, String>> {
        if self.is_away.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Err("test".to_owned())));
        }
        let mut stored = lock(&self.letters);
        let first = stored.len() as u64 + 1;
        let count = letters.len() as u64;
        stored.extend(letters.into_iter().map(|(entry, _)| entry.payload));
        Box::pin(std::future::ready(Ok((first..first + count).collect())))
    }
}

/// A journal without its thread.
struct Parts {
    disk: MemoryDisk,
    writer: Writer<MemoryDisk>,
    forwarder: Forwarder<MemoryDisk>,
    shared: Arc<Shared<MemoryDisk>>,
    cut_bytes: u64,
}

/// Small, so that a short test has several segments.
const SEGMENT_BYTES: u64 = 20_000;

fn start(disk: MemoryDisk, nats: &Arc<FakeNats>, salt: u32) -> Parts {
    let (shared, writer, cut_bytes) = open_log(disk.clone(), salt, SEGMENT_BYTES).unwrap();
    let forwarder = Forwarder::new(Arc::clone(&shared), Arc::clone(nats) as Arc<dyn Target>, watch::channel(()).1);
    Parts { disk, writer, forwarder, shared, cut_bytes }
}

fn entry(payload: impl Into<Bytes>) -> Entry {
    Entry {
        at: Timestamp::from_millis(1_785_000_000_000),
        subject: "belvo.webhook.link-1".to_owned(),
        headers: Vec::new(),
        payload: payload.into(),
        dead: None,
    }
}

impl Parts {
    fn append(&mut self, payloads: impl IntoIterator<Item = String>) -> io::Result<u64> {
        let body = |payload| {
            let bytes = entry(payload).encode();
            Body { check: self.shared.check(&bytes), bytes }
        };
        let bodies: Vec<Body> = payloads.into_iter().map(body).collect();
        self.writer.append(bodies.iter())
    }

    fn step(&mut self) -> Step {
        Builder::new_current_thread().build().unwrap().block_on(self.forwarder.step())
    }

    fn publish_all(&mut self) {
        while self.step() != Step::Idle {}
    }
}

/// One thing that happens to a journal. A number chooses details.
#[derive(Clone, Debug)]
enum Event {
    Append { count: usize, bytes: usize },
    Step,
    Away(bool),
    AnswerLost,
    DiskFull(bool),
    Crash,
    HostCrash(u64),
    Damage(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..20_usize, 0..5_000_usize).prop_map(|(count, bytes)| Event::Append { count, bytes }),
        4 => Just(Event::Step),
        2 => any::<bool>().prop_map(Event::Away),
        1 => Just(Event::AnswerLost),
        1 => any::<bool>().prop_map(Event::DiskFull),
        2 => Just(Event::Crash),
        2 => any::<u64>().prop_map(Event::HostCrash),
        1 => any::<u64>().prop_map(Event::Damage),
    ];
    proptest::collection::vec(event, 1..60)
}

/// Numbers below a limit, from a seed.
fn chance(seed: u64) -> impl FnMut(usize) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    move |below| if below == 0 { 0 } else { random.usize(..below) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was answered with success is published, or its bytes are set aside if the disk has changed them. The order is kept.
    #[test]
    fn every_stored_message_is_published_in_order(events in events()) {
        let nats = Arc::new(FakeNats::default());
        let mut parts = start(MemoryDisk::default(), &nats, 1);
        let mut stored: BTreeSet<u64> = BTreeSet::new();
        let (mut next, mut salt, mut is_damaged) = (0_u64, 1, false);
        let payload = |number: u64, bytes: usize| format!("{number:09}{}", "x".repeat(bytes));
        for event in events {
            match event {
                Event::Append { count, bytes } => {
                    let numbers = next..next + count as u64;
                    next = numbers.end;
                    if parts.append(numbers.clone().map(|number| payload(number, bytes))).is_ok() {
                        stored.extend(numbers);
                    }
                }
                Event::Step => drop(parts.step()),
                Event::Away(is_away) => nats.is_away.store(is_away, Ordering::Relaxed),
                Event::AnswerLost => nats.loses_answer.store(true, Ordering::Relaxed),
                Event::DiskFull(is_full) => parts.disk.fail(is_full),
                Event::Crash | Event::HostCrash(_) => {
                    salt += 1;
                    let disk = match event {
                        Event::HostCrash(seed) => parts.disk.after_host_crash(chance(seed)),
                        _ => parts.disk.after_crash(),
                    };
                    parts = start(disk, &nats, salt);
                }
                Event::Damage(seed) => is_damaged |= parts.disk.damage(chance(seed)),
            }
        }
        nats.is_away.store(false, Ordering::Relaxed);
        parts.disk.fail(false);
        parts.publish_all();
        // What was refused does not wait. After damage, the number of records in it is a guess.
        prop_assert!(is_damaged || parts.shared.waiting().records == 0);

        let inputs = lock(&nats.inputs);
        let number_of = |body: &Bytes| -> u64 { std::str::from_utf8(&body[..9]).unwrap().parse().unwrap() };
        let published: BTreeSet<u64> = inputs.iter().map(|(_, body)| number_of(body)).collect();
        let lost: Vec<_> = stored.difference(&published).collect();
        if !is_damaged {
            prop_assert!(lost.is_empty(), "not published: {lost:?}");
            prop_assert!(lock(&nats.letters).is_empty());
        } else if !lost.is_empty() {
            prop_assert!(!lock(&nats.letters).is_empty(), "lost without a word: {lost:?}");
        }
        // The first publish of each record is in order, and a repeat has the same id.
        let mut ids = BTreeMap::new();
        let mut last_new = None;
        for (id, body) in inputs.iter() {
            let number = number_of(body);
            match ids.insert(number, id.clone()) {
                Some(before) => prop_assert_eq!(&before, id),
                None => {
                    prop_assert!(last_new < Some(number), "{number} after {last_new:?}");
                    last_new = Some(number);
                }
            }
        }
    }
}

#[test]
fn damage_in_the_middle_is_set_aside_and_the_records_around_it_are_published() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    parts.append(["one".to_owned(), "two".to_owned(), "three".to_owned()]).unwrap();
    let name = parts.disk.names().unwrap().pop().unwrap();
    let bytes = parts.disk.read(&name, 0, usize::MAX).unwrap();
    let at = bytes.windows(3).position(|window| window == b"two").unwrap();
    let mut disk_bytes = bytes.clone();
    disk_bytes[at] = b'X';
    parts.disk.cut(&name, 0).unwrap();
    parts.disk.append(&name, &disk_bytes).unwrap();
    parts.disk.sync(&name).unwrap();
    parts.publish_all();
    let bodies: Vec<_> = lock(&nats.inputs).iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(bodies, ["one", "three"]);
    let letters = lock(&nats.letters);
    assert_eq!(letters.len(), 1);
    assert!(letters[0].windows(3).any(|window| window == b"Xwo"), "the bytes are kept");
}

/// The last record was taken for a write that a crash had interrupted, and it was cut, although its sender had its answer.
#[test]
fn a_damaged_last_record_is_set_aside_after_a_restart() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    parts.append(["one".to_owned(), "two".to_owned()]).unwrap();
    let name = parts.disk.names().unwrap().pop().unwrap();
    let mut bytes = parts.disk.read(&name, 0, usize::MAX).unwrap();
    *bytes.last_mut().unwrap() = b'X';
    parts.disk.cut(&name, 0).unwrap();
    parts.disk.append(&name, &bytes).unwrap();
    parts.disk.sync(&name).unwrap();
    let mut parts = start(parts.disk.after_crash(), &nats, 2);
    assert_eq!(parts.cut_bytes, 0);
    parts.append(["three".to_owned()]).unwrap();
    parts.publish_all();
    let bodies: Vec<_> = lock(&nats.inputs).iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(bodies, ["one", "three"]);
    let letters = lock(&nats.letters).len();
    assert_eq!(letters, 1);
    start(parts.disk.after_crash(), &nats, 3).publish_all();
    assert_eq!(lock(&nats.letters).len(), letters, "the bytes are set aside once");
}

#[test]
fn a_message_that_nats_refuses_for_good_becomes_a_dead_letter_and_holds_up_nothing() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    parts.append(["large".to_owned(), "small".to_owned()]).unwrap();
    parts.publish_all();
    assert_eq!(lock(&nats.letters).as_slice(), ["large"]);
    assert_eq!(lock(&nats.inputs).len(), 1);
}

#[test]
fn what_a_killed_process_has_not_synced_is_synced_by_the_next_one() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    parts.append(["stored".to_owned()]).unwrap();
    // Half of the records are written, and nothing is synced or cut.
    parts.disk.fail(true);
    parts.append((0..8).map(|number| number.to_string())).unwrap_err();
    let mut parts = start(parts.disk.after_crash(), &nats, 2);
    parts.append(["new".to_owned()]).unwrap();
    let mut parts = start(parts.disk.after_host_crash(|_| 0), &nats, 3);
    parts.publish_all();
    assert!(lock(&nats.letters).is_empty(), "the first segment has no damage");
    assert!(lock(&nats.inputs).iter().any(|(_, body)| body == "new"));
}

#[test]
fn a_record_that_is_larger_than_a_read_is_published() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    let large = "x".repeat(format::BODY_BYTES_MAX - 1_000);
    parts.append(["before".to_owned(), large.clone(), large, "after".to_owned()]).unwrap();
    parts.publish_all();
    let lengths: Vec<usize> = lock(&nats.inputs).iter().map(|(_, body)| body.len()).collect();
    assert_eq!(lengths, [6, format::BODY_BYTES_MAX - 1_000, format::BODY_BYTES_MAX - 1_000, 5]);
}

#[test]
fn published_segments_are_removed() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    for _ in 0..30 {
        parts.append(["x".repeat(10_000)]).unwrap();
        parts.publish_all();
    }
    assert!(parts.shared.waiting().bytes < 40_000);
    assert_eq!(parts.shared.waiting().records, 0);
    let parts = start(parts.disk.after_crash(), &nats, 2);
    assert_eq!(parts.shared.waiting(), Waiting::default());
}

#[tokio::test]
async fn many_callers_share_a_sync_and_each_gets_its_own_number() {
    let nats = Arc::new(FakeNats::default());
    let target = Arc::clone(&nats) as Arc<dyn Target>;
    let (journal, forwarder) = open_on(MemoryDisk::default(), Options::default(), target).unwrap();
    let closing = tokio_util::sync::CancellationToken::new();
    let forwarding = tokio::spawn(forwarder.run(closing.clone()));
    let appends = (0..500).map(|number| journal.append(entry(format!("{number}"))));
    let numbers: BTreeSet<u64> = futures::future::join_all(appends)
        .await
        .into_iter()
        .map(|stored| match stored.unwrap() {
            Stored::Journal(number) => number,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers.len(), 500);
    closing.cancel();
    forwarding.await.unwrap();
    assert_eq!(lock(&nats.inputs).len(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_stop_publishes_the_journal_although_the_connection_breaks_and_ends_if_nats_is_away() {
    let nats = Arc::new(FakeNats::default());
    let mut parts = start(MemoryDisk::default(), &nats, 1);
    let closing = tokio_util::sync::CancellationToken::new();
    closing.cancel();
    parts.append(["one".to_owned(), "two".to_owned()]).unwrap();
    nats.loses_answer.store(true, Ordering::Relaxed);
    parts.forwarder.run(closing.clone()).await;
    assert_eq!(parts.shared.waiting().records, 0);
    let mut parts = start(parts.disk.after_crash(), &nats, 2);
    parts.append(["three".to_owned()]).unwrap();
    nats.is_away.store(true, Ordering::Relaxed);
    parts.forwarder.run(closing).await;
    assert_eq!(parts.shared.waiting().records, 1);
}

#[tokio::test]
async fn with_acknowledge_stream_the_answer_waits_for_nats() {
    let nats = Arc::new(FakeNats::default());
    let options = Options { acknowledge: Acknowledge::Stream, ..Options::default() };
    let (journal, mut forwarder) =
        open_on(MemoryDisk::default(), options, Arc::clone(&nats) as Arc<dyn Target>).unwrap();
    let append = tokio::spawn(async move { journal.append(entry("one")).await });
    while forwarder.step().await == Step::Idle {
        assert!(!append.is_finished(), "the answer does not come before NATS has the message");
        tokio::task::yield_now().await;
    }
    assert_eq!(append.await.unwrap(), Ok(Stored::Stream(1)));
}

#[tokio::test]
async fn a_full_journal_and_a_failing_disk_refuse_messages_and_recover() {
    let nats = Arc::new(FakeNats::default());
    nats.is_away.store(true, Ordering::Relaxed);
    let options = Options { bytes_max: 1_000, ..Options::default() };
    let disk = MemoryDisk::default();
    let (journal, mut forwarder) = open_on(disk.clone(), options, Arc::clone(&nats) as Arc<dyn Target>).unwrap();
    disk.fail(true);
    assert!(matches!(journal.append(entry("x")).await, Err(JournalError::Disk { .. })));
    assert!(journal.problem().is_some_and(|problem| problem.contains("cannot be written")));
    let failure = journal.last_failure().expect("a failure");
    assert!(failure.contains("check the disk") && failure.contains("cannot be written since 20"), "{failure}");
    let empty = journal.waiting();
    assert_eq!((empty.records, empty.bytes, empty.since), (0, 0, None), "its sender got an error");
    // The time is the one of the first failure, not of the last.
    assert!(matches!(journal.append(entry("x")).await, Err(JournalError::Disk { .. })));
    assert_eq!(journal.last_failure(), Some(failure));
    disk.fail(false);
    journal.append(entry("x".repeat(2_000))).await.unwrap();
    assert_eq!((journal.waiting().records, journal.last_failure()), (1, None));
    assert_eq!(journal.append(entry("y")).await, Err(JournalError::Full { max: 1_000 }));
    assert!(journal.problem().is_some());
    assert!(matches!(forwarder.step().await, Step::Failed(_)));
}

#[tokio::test]
async fn messages_that_wait_for_too_long_refuse_new_ones() {
    let nats = Arc::new(FakeNats::default());
    nats.is_away.store(true, Ordering::Relaxed);
    let options = Options { age_max: Duration::from_secs(60), ..Options::default() };
    let (journal, mut forwarder) =
        open_on(MemoryDisk::default(), options, Arc::clone(&nats) as Arc<dyn Target>).unwrap();
    // The entry of these tests was received long ago.
    journal.append(entry("old")).await.unwrap();
    assert!(matches!(forwarder.step().await, Step::Failed(_)));
    assert_eq!(journal.append(entry("new")).await, Err(JournalError::Stalled { max: Duration::from_secs(60) }));
}

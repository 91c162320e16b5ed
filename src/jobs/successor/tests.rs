//! The jobs about superseded links, and a refresh during an outage, with a store in memory and a Belvo without a network.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::{Value, json};

use super::*;
use crate::belvo::{
    Client, Meaning, MissingGuard, Question, Reply, SecretId, SecretPassword, Timeouts, Wire, translate,
};
use crate::clock::Clock;
use crate::contract::{Because, JobName, Origin, Record};
use crate::link::{Breakage, Cause, Input, PolicySettings, Profile, SuccessorObservation, Supersede, step};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::store::{Changes, Head, MemoryStore, Put};

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const HOUR: i64 = 3_600_000;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + hours * HOUR)
}

#[derive(Default)]
struct Inbox(Mutex<Vec<NewInput>>);

impl Inputs for Inbox {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        self.0.lock().unwrap().push(input);
        Box::pin(ready(Ok(())))
    }
}

/// Belvo answers every request with this response, about the link that is asked for.
#[derive(Debug)]
struct Answers(u16, Value, AtomicUsize);

impl Wire for Answers {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Reply, String>> {
        self.2.fetch_add(1, Ordering::Relaxed);
        let mut body = self.1.clone();
        if let Some(id) = body.get_mut("id") {
            *id = question.target.trim_end_matches('/').rsplit('/').next().into();
        }
        Box::pin(ready(Ok(Reply { status: self.0, retry_after: None, body: body.to_string().into_bytes() })))
    }
}

struct Bench {
    store: MemoryStore,
    inbox: Arc<Inbox>,
    wire: Arc<Answers>,
    worker: Worker,
    policy: Policy,
}

impl Bench {
    fn new(supersede: Supersede, status: u16, answer: Value) -> Self {
        let settings = PolicySettings { can_verify: true, supersede, ..PolicySettings::default() };
        let policy = Policy::new(settings).unwrap();
        let (store, inbox) = (MemoryStore::default(), Arc::new(Inbox::default()));
        let wire = Arc::new(Answers(status, answer, AtomicUsize::new(0)));
        let keys = (SecretId("a".into()), SecretPassword("b".into()));
        let belvo = Client::new("http://belvo.invalid", keys.0, keys.1, Timeouts::default()).unwrap();
        let belvo = belvo.with_wire(Arc::clone(&wire) as Arc<dyn Wire>);
        let known = KnownLinks { store: Arc::new(store.clone()), policy: policy.clone() };
        let (clock, _manual) = Clock::manual(at(3));
        let inputs = Arc::clone(&inbox) as Arc<dyn Inputs>;
        let worker = Worker::new(inputs, belvo, known, MissingGuard::default(), clock);
        Self { store, inbox, wire, worker, policy }
    }

    /// Writes a link to the store, after these events, an hour apart.
    fn know(&self, id: &str, profile: Profile, events: impl IntoIterator<Item = Event>) {
        let mut link = Link::unknown(id.parse().unwrap(), START);
        for (hour, event) in (0..).zip(events) {
            let input = Input { profile: profile.clone(), ..event.into() };
            link = step(&link, &input, at(hour), &self.policy).unwrap().link;
        }
        let record = serde_json::to_vec(&Record::of(&link, 0, because(), Vec::new())).unwrap();
        let head = Head::of(&link, 0, &self.policy);
        let changes = Changes { puts: vec![Put::of_record(link.id, head, record)], ..Changes::default() };
        self.store.apply(&changes).unwrap();
    }

    fn perform(&self, name: JobName, link: &str, other: Option<&str>, asked_at: Timestamp) -> Outcome {
        self.perform_job(&Self::job(name, link, other, asked_at))
    }

    fn job(name: JobName, link: &str, other: Option<&str>, asked_at: Timestamp) -> JobBody {
        JobBody {
            name,
            link_id: link.to_owned(),
            asked_at: At(asked_at),
            version: 1,
            consent_id: None,
            resources: Vec::new(),
            successor_id: other.map(str::to_owned),
            because: because(),
        }
    }

    /// A look-up of the second version of a link, which this transition has led to.
    fn perform_because(&self, link: &str, asked_at: Timestamp, because: Because) -> Outcome {
        let job = Self::job(JobName::FindSuperseded, link, None, asked_at);
        self.perform_job(&JobBody { because, version: 2, ..job })
    }

    fn perform_job(&self, job: &JobBody) -> Outcome {
        let link = job.link_id.parse().unwrap();
        self.worker.perform(job, &link, job.asked_at.0).now_or_never().expect("nothing waits")
    }

    /// The links of the published inputs, and their outcomes.
    fn published(&self) -> Vec<(String, String)> {
        let inputs = self.inbox.0.lock().unwrap();
        let outcome = |input: &NewInput| {
            serde_json::from_slice::<Value>(&input.body).unwrap()["outcome"].as_str().unwrap().to_owned()
        };
        inputs.iter().map(|input| (input.link.to_string(), outcome(input))).collect()
    }
}

fn because() -> Because {
    let event = Event::DeadlinePassed.into();
    let link = Link::unknown("x".parse().unwrap(), START);
    let step = crate::link::Step {
        from: StateName::Valid,
        at: START,
        effects: Vec::new(),
        times_corrected: false,
        due: None,
        held: None,
        outage_notice_at: None,
        link,
    };
    Because::of(&step, &event, Origin::timer(START))
}

fn profile(user: &str, created: i64) -> Profile {
    Profile {
        institution: Some("erebor".into()),
        institution_user_id: Some(user.into()),
        external_id: Some("maria".into()),
        created_at: Some(at(created - 9_000)),
        ..Profile::default()
    }
}

fn seen(status: Status, hour: i64) -> Event {
    Event::Observed(crate::link::LinkObservation { observed_at: at(hour), status, last_accessed_at: None })
}

fn works() -> [Event; 1] {
    [seen(Status::Valid, 0)]
}

fn fails() -> [Event; 2] {
    [seen(Status::Valid, 0), Event::Broken(Breakage::of(Cause::Credentials))]
}

fn superseded(link: &str) -> (String, String) {
    (link.to_owned(), "superseded".to_owned())
}

#[test]
fn every_older_broken_link_of_the_user_gets_one_input() {
    let bench = Bench::new(Supersede::InstitutionUserId, 500, Value::Null);
    bench.know("new", profile("u1", 9), works());
    bench.know("old", profile("u1", 1), fails());
    bench.know("older", profile("u1", 0), [seen(Status::TokenRequired, 0)]);
    let started = Event::UpdateStarted { until: at(2) };
    bench.know("in-widget", profile("u1", 2), fails().into_iter().chain([started]));
    bench.know("works", profile("u1", 3), works());
    bench.know("newest", profile("u1", 10), fails());
    bench.know("other-user", profile("u2", 1), fails());
    bench.know("other-bank", Profile { institution: Some("gringotts".into()), ..profile("u1", 1) }, fails());
    let by = "elsewhere".parse().unwrap();
    let known = Event::Superseded(SuccessorObservation { observed_at: at(2), by });
    bench.know("known", profile("u1", 4), fails().into_iter().chain([known]));
    assert_eq!(bench.perform(JobName::FindSuperseded, "new", None, START), Outcome::Reported);
    let mut published = bench.published();
    published.sort();
    assert_eq!(published, [superseded("in-widget"), superseded("old"), superseded("older")]);
    let inputs = bench.inbox.0.lock().unwrap();
    let body: Value = serde_json::from_slice(&inputs[0].body).unwrap();
    assert_eq!((&body["by"], &body["source"]), (&json!("new"), &json!("lookup")));
    assert_eq!(bench.wire.2.load(Ordering::Relaxed), 0, "Belvo is not asked");
}

#[test]
fn the_weaker_key_counts_only_if_the_policy_says_so() {
    for (supersede, expected) in [(Supersede::InstitutionUserId, 0), (Supersede::ExternalId, 1), (Supersede::Never, 0)]
    {
        let bench = Bench::new(supersede, 500, Value::Null);
        bench.know("new", Profile { institution_user_id: None, ..profile("u1", 9) }, works());
        bench.know("old", profile("u1", 1), fails());
        assert_eq!(bench.perform(JobName::FindSuperseded, "new", None, START), Outcome::Reported);
        assert_eq!(bench.published().len(), expected, "{supersede:?}");
    }
}

#[test]
fn a_job_waits_for_the_commit_that_contains_it() {
    let bench = Bench::new(Supersede::InstitutionUserId, 500, Value::Null);
    let early = Outcome::TooEarly(STORE_PAUSE);
    assert_eq!(bench.perform(JobName::FindSuperseded, "new", None, START), early);
    assert_eq!(super::super::decide_retry(&early, 1), super::super::Next::Again(STORE_PAUSE));
    bench.know("new", profile("u1", 9), works());
    let job = JobBody { version: 2, ..Bench::job(JobName::FindSuperseded, "new", None, at(1)) };
    assert_eq!(bench.perform_job(&job), early);
    assert_eq!(bench.perform(JobName::FindSuperseded, "new", None, at(1)), Outcome::Reported);
    // The commit was lost with the end of the stream. The clock of the worker is behind, so the time of the message counts.
    let link = "new".parse().unwrap();
    for (hours, expected) in [(4, early), (5, Outcome::Reported)] {
        assert_eq!(bench.worker.perform(&job, &link, at(hours)).now_or_never(), Some(expected));
    }
    bench.know("broken", profile("u1", 9), fails());
    bench.know("old", profile("u1", 1), fails());
    assert_eq!(bench.perform(JobName::FindSuperseded, "broken", None, at(1)), Outcome::Reported);
    assert_eq!(bench.published(), [], "a link that has broken since supersedes nothing");
}

#[test]
fn a_job_waits_for_the_version_that_asks_for_it_whatever_the_clocks_say() {
    // Seed 960191 of the simulation: the server's clock was an hour ahead, and the store still had the state before the proof.
    let bench = Bench::new(Supersede::InstitutionUserId, 500, Value::Null);
    bench.know("old", profile("u1", 1), fails());
    bench.know("new", profile("u1", 9), fails());
    let job_at = |hours| JobBody { version: 3, ..Bench::job(JobName::FindSuperseded, "new", None, at(hours)) };
    // One step in the same millisecond as the one before it, and one of a clock that is ahead of the worker's.
    for hours in [1, 3, 5] {
        assert_eq!(bench.perform_job(&job_at(hours)), Outcome::TooEarly(STORE_PAUSE), "{hours}");
    }
    // The clock is corrected, and the version of the proof has an earlier time than the job.
    bench.know("new", profile("u1", 9), fails().into_iter().chain([seen(Status::Valid, 2)]));
    assert_eq!(bench.perform_job(&job_at(5)), Outcome::Reported);
    assert_eq!(bench.published(), [superseded("old")]);
}

#[test]
fn a_job_does_not_take_the_state_before_its_step_for_a_link_that_nobody_has_read() {
    // The application has reported a success of the new link before Belvo's first webhook; then Belvo is read.
    let bench = Bench::new(Supersede::InstitutionUserId, 500, Value::Null);
    bench.know("old", profile("u1", 1), fails());
    bench.know("new", Profile::default(), [Event::UpdateClaimed]);
    let because = Because { from: StateWord::Unconfirmed, ..because() };
    assert_eq!(bench.perform_because("new", at(1), because.clone()), Outcome::TooEarly(STORE_PAUSE));
    bench.know("new", profile("u1", 9), [Event::UpdateClaimed, seen(Status::Valid, 1)]);
    assert_eq!(bench.perform_because("new", at(1), because), Outcome::Reported);
    assert_eq!(bench.published(), [superseded("old")]);
    assert_eq!(bench.wire.2.load(Ordering::Relaxed), 0, "Belvo is not asked");
}

#[test]
fn a_named_link_is_read_and_supersedes_only_if_nothing_contradicts() {
    let resource = |user: Value, status: &str, institution: &str| {
        json!({"id": "new", "status": status, "institution": institution, "institution_user_id": user,
            "created_at": at(1).to_string()})
    };
    let [found, asked] = ["new", "old"].map(|link| (link.to_owned(), "found".to_owned()));
    for (status, answer, expected) in [
        (200, resource(json!("u1"), "valid", "erebor"), vec![found.clone(), superseded("old")]),
        (200, resource(json!(null), "valid", "erebor"), vec![found.clone(), superseded("old")]),
        // The hint contradicts what Belvo says, so the success was about the old link.
        (200, resource(json!("u2"), "valid", "erebor"), vec![found.clone(), asked.clone()]),
        (200, resource(json!("u1"), "valid", "gringotts"), vec![found.clone(), asked.clone()]),
        (200, resource(json!("u1"), "unconfirmed", "erebor"), vec![found, asked]),
        (404, json!([{"code": "not_found", "message": "Not found", "request_id": "r"}]), vec![]),
    ] {
        let bench = Bench::new(Supersede::InstitutionUserId, status, answer.clone());
        bench.know("old", profile("u1", 1), fails());
        let outcome = bench.perform(JobName::ReadSuccessor, "old", Some("new"), at(2));
        let reads = if expected.contains(&superseded("old")) { 1 } else { 2 };
        assert_eq!((outcome, bench.published()), (Outcome::Reported, expected), "{answer}");
        assert_eq!(bench.wire.2.load(Ordering::Relaxed), reads, "{answer}");
    }
    let bench = Bench::new(Supersede::InstitutionUserId, 503, Value::Null);
    bench.know("old", profile("u1", 1), fails());
    let outcome = bench.perform(JobName::ReadSuccessor, "old", Some("new"), at(2));
    assert!(matches!(outcome, Outcome::Retry(..)) && bench.published().is_empty(), "{outcome:?}");
}

#[test]
fn an_outage_error_to_a_refresh_is_published_as_evidence_each_time() {
    for (code, is_retried) in [("institution_down", true), ("institution_inactive", false)] {
        let answer = json!([{"code": code, "message": "x", "request_id": "r1"}]);
        let bench = Bench::new(Supersede::Never, 400, answer);
        for tries in 1..3 {
            let outcome = bench.perform(JobName::Refresh, "link", None, at(3));
            assert_eq!(matches!(outcome, Outcome::Retry(..)), is_retried, "{outcome:?}");
            assert_eq!(matches!(outcome, Outcome::GivenUp(_)), !is_retried, "{outcome:?}");
            assert_eq!(bench.inbox.0.lock().unwrap().len(), tries);
        }
        let inputs = bench.inbox.0.lock().unwrap();
        let body: Value = serde_json::from_slice(&inputs[0].body).unwrap();
        assert_eq!((inputs[0].kind, body["http_status"].as_u64()), (InputKind::ApiError, Some(400)));
        assert_eq!(body["path"], "/api/links/link/refresh/");
        // The engine reads it as an outage error of this link.
        let meaning = translate(inputs[0].kind, &inputs[0].link, &inputs[0].body, START).unwrap();
        let Meaning::NotAboutTheLink { class, .. } = meaning else { panic!("{meaning:?}") };
        assert!(class.is_about_the_institution());
    }
}

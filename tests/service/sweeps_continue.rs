//! One bad element does not stop a sweep: a link, a consent, a page or a record that cannot be read is skipped and
//! read again later. The reconciler and the jobs use real HTTP, a Belvo that each test scripts, and no NATS.

#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures::future::{BoxFuture, ready};
use relink::belvo::{Budget, Client, MissingGuard, SecretId, SecretPassword, Timeouts};
use relink::clock::{Clock, ManualClock};
use relink::contract::{
    At, Because, HistoryEntry, HistoryKind, InputKind, JobBody, JobName, Origin, OriginKind, Record, StateWord,
};
use relink::jobs::{KnownLinks, Outcome, Worker};
use relink::link::{
    Breakage, Cause, Command, Consent, Due, Event, Input, Link, LinkId, LinkObservation, Policy, PolicySettings,
    Profile, Status, Timestamp, step,
};
use relink::nats::history::{HistoryError, LinkHistory, ReadHistory};
use relink::nats::inputs::{Inputs, NewInput};
use relink::nats::publisher::PublishError;
use relink::reconciler::{self, Parts, Reconciler, SweepError, Swept};
use relink::store::{Changes, Head, MemoryStore, Put, Store};
use serde_json::{Value, json};

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// The origin of all transitions in these tests.
fn origin() -> Origin {
    Origin { kind: OriginKind::Command, ..Origin::timer(START) }
}

/// The id of a link by its number, in the same order.
fn id(number: usize) -> LinkId {
    format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
}

fn policy() -> Policy {
    Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() }).unwrap()
}

/// The response of Belvo to a path with its query.
type Answers = Arc<Mutex<Box<dyn Fn(&str) -> Response + Send>>>;

fn json_of(body: Value) -> Response {
    Json(body).into_response()
}

fn page_of(status: u16) -> Response {
    (StatusCode::from_u16(status).unwrap(), [(CONTENT_TYPE, "text/html")], "<html>").into_response()
}

fn error_of(status: u16, code: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(json!([{"code": code, "message": "x"}]))).into_response()
}

fn link_of(id: &str, status: &str) -> Value {
    json!({"id": id, "status": status, "institution": "erebor_mx_retail"})
}

/// The ids in the filter of a list.
fn ids_of(request: &str) -> Option<Vec<String>> {
    let ids = request.split_once("id__in=")?.1.split('&').next()?;
    Some(ids.split(',').map(str::to_owned).collect())
}

/// The id in the path of a single link.
fn single(request: &str) -> Option<&str> {
    request.strip_prefix("/api/links/")?.strip_suffix('/').filter(|id| !id.is_empty())
}

/// The responses of a Belvo that has these links, all valid, and no other.
fn belvo_with(request: &str, known: &BTreeSet<String>) -> Response {
    if let Some(id) = single(request) {
        return if known.contains(id) { json_of(link_of(id, "valid")) } else { error_of(404, "not_found") };
    }
    let wanted = ids_of(request).unwrap_or_else(|| known.iter().cloned().collect());
    let results: Vec<_> = wanted.iter().filter(|id| known.contains(*id)).map(|id| link_of(id, "valid")).collect();
    json_of(json!({"count": results.len(), "next": null, "previous": null, "results": results}))
}

/// The published inputs, and the links whose inputs or histories fail.
#[derive(Default)]
struct Inbox {
    inputs: Mutex<Vec<NewInput>>,
    refused: Mutex<BTreeSet<LinkId>>,
    no_history: Mutex<BTreeSet<LinkId>>,
    panics: Mutex<bool>,
}

impl Inbox {
    /// The links of the published inputs, sorted.
    fn links(&self) -> Vec<LinkId> {
        let links: BTreeSet<_> = self.inputs.lock().unwrap().iter().map(|input| input.link.clone()).collect();
        links.into_iter().collect()
    }
}

impl Inputs for Inbox {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        assert!(!*self.panics.lock().unwrap(), "a bug");
        if self.refused.lock().unwrap().contains(&input.link) {
            return Box::pin(ready(Err(PublishError::TooLarge { size: 9, max: 8 })));
        }
        self.inputs.lock().unwrap().push(input);
        Box::pin(ready(Ok(())))
    }
}

impl ReadHistory for Inbox {
    fn history<'a>(&'a self, link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>> {
        if self.no_history.lock().unwrap().contains(link) {
            return Box::pin(ready(Err(HistoryError { detail: "no answer".to_owned() })));
        }
        let origin = json!({"kind": "command", "message_id": "adoption-1", "received_at": At(START)});
        let because = json!({"event": "mute", "from": "invalid", "to": "invalid", "at": At(START), "origin": origin});
        let (kind, stored_at, body) = (HistoryKind::State, At(START), json!({"because": because}));
        let entry = HistoryEntry { kind, name: None, message_id: None, sequence: 1, stored_at, body };
        Box::pin(ready(Ok(LinkHistory { entries: vec![entry], truncated: false })))
    }
}

struct Bench {
    reconciler: Reconciler,
    worker: Worker,
    store: MemoryStore,
    inbox: Arc<Inbox>,
    manual: ManualClock,
    clock: Clock,
    answers: Answers,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    async fn start(answer: impl Fn(&str) -> Response + Send + 'static) -> Self {
        type Shared = (Answers, Arc<Mutex<Vec<String>>>);
        async fn handle(State((answers, requests)): State<Shared>, request: Request) -> Response {
            let line = request.uri().to_string();
            requests.lock().unwrap().push(line.clone());
            answers.lock().unwrap()(&line)
        }
        let (answers, requests): Shared = (Arc::new(Mutex::new(Box::new(answer))), Arc::default());
        let app = Router::new().fallback(handle).with_state((Arc::clone(&answers), Arc::clone(&requests)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (clock, manual) = Clock::manual(START);
        let keys = (SecretId("a".into()), SecretPassword("b".into()));
        let belvo = Client::new(&url, keys.0, keys.1, Timeouts::default()).unwrap();
        let belvo = belvo.with_budget(Budget::by(clock.clone(), 100_000));
        let (store, inbox, guard) = (MemoryStore::default(), Arc::new(Inbox::default()), MissingGuard::default());
        let inputs = Arc::clone(&inbox) as Arc<dyn Inputs>;
        let known = KnownLinks { store: Arc::new(store.clone()), policy: policy() };
        let worker = Worker::new(Arc::clone(&inputs), belvo.clone(), known, guard.clone(), clock.clone());
        let parts = Parts {
            belvo,
            guard,
            store: Arc::new(store.clone()),
            inputs,
            histories: Arc::clone(&inbox) as Arc<dyn ReadHistory>,
            policy: policy(),
            clock: clock.clone(),
        };
        let hour = Duration::from_secs(3600);
        let settings = reconciler::SweepSettings { sweep_every: hour, rotation: hour * 24, adoption_per_hour: 60 };
        let reconciler = Reconciler::rotating_from(None, settings, parts);
        Self { reconciler, worker, store, inbox, manual, clock, answers, requests }
    }

    /// Sets the responses of Belvo.
    fn answer(&self, answer: impl Fn(&str) -> Response + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answer);
    }

    /// Writes a link to the store, in the state after these events.
    fn knows(&self, link: &LinkId, events: Vec<Input>) {
        let mut record = None;
        let mut state = Link::unknown(link.clone(), START);
        for input in events {
            let step = step(&state, &input, START, &policy()).unwrap();
            record = Some(Record::of(&step.link, 0, Because::of(&step, &input, origin()), Vec::new()));
            state = step.link;
        }
        let record = serde_json::to_vec(&record.unwrap()).unwrap();
        self.put(link, Head::of(&state, 0, &policy()), record);
    }

    fn put(&self, link: &LinkId, head: Head, record: Vec<u8>) {
        let put = Put::of_record(link.clone(), head, record);
        self.store.apply(&Changes { puts: vec![put], ..Changes::default() }).unwrap();
    }

    fn knows_valid(&self, numbers: impl IntoIterator<Item = usize>) {
        numbers.into_iter().for_each(|number| self.knows(&id(number), vec![seen(Status::Valid)]));
    }

    /// Damages the record of a link; its head stays readable.
    fn damage(&self, link: &LinkId) {
        let mut head = self.store.get(link).unwrap().unwrap().head;
        head.version += 1;
        self.put(link, head, b"{\"schema_version\": 1".to_vec());
    }

    /// One round of the rotation, in which no step may fail.
    async fn round(&self) -> Swept {
        let mut total = Swept::default();
        for _ in 0..20 {
            let swept = self.reconciler.rotate().await.unwrap();
            total.read_count += swept.read_count;
            total.drifted_count += swept.drifted_count;
            total.skipped_count += swept.skipped_count;
            if swept.round_ended {
                return total;
            }
        }
        panic!("the rotation does not reach the last link");
    }

    fn pass(&self, span: Duration) {
        self.manual.set(self.clock.now().after(span));
    }

    /// How often a path was requested.
    fn requests(&self, path: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|line| *line == path).count()
    }
}

fn seen(status: Status) -> Input {
    let profile = Profile { institution: Some("erebor_mx_retail".to_owned()), ..Profile::default() };
    let observation = LinkObservation { observed_at: START, status, last_accessed_at: None };
    Input { profile, ..Event::Observed(observation).into() }
}

fn known(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| id(number).to_string()).collect()
}

#[tokio::test]
async fn an_unreadable_link_does_not_hide_the_links_after_it() {
    for poison in [500, 503, 403, 401, 302, 200, 404] {
        let listed = known((0..120).filter(|number| ![3, 7].contains(number)));
        let (bad, path) = (id(3).to_string(), format!("/api/links/{}/", id(3)));
        let bench = Bench::start(move |request| match single(request) {
            Some(link) if link == bad => page_of(poison),
            _ => belvo_with(request, &listed),
        })
        .await;
        bench.knows_valid(0..120);
        let swept = bench.round().await;
        assert_eq!((swept.read_count, swept.drifted_count, swept.skipped_count), (118, 1, 1), "{poison}");
        assert_eq!(bench.inbox.links(), [id(7)], "only the deleted link");

        // The link is read again by itself, with growing pauses.
        assert_eq!(bench.reconciler.retry().await.unwrap(), Swept::default());
        assert_eq!(bench.requests(&path), 1, "{poison}");
        for (minutes, times) in [(5, 2), (5, 2), (5, 3), (15, 3), (5, 4)] {
            bench.pass(Duration::from_secs(minutes * 60));
            bench.reconciler.retry().await.unwrap();
            assert_eq!(bench.requests(&path), times, "{poison}");
        }
        let listed = known((0..120).filter(|number| *number != 3));
        bench.answer(move |request| belvo_with(request, &listed));
        bench.pass(Duration::from_secs(40 * 60));
        assert_eq!(bench.reconciler.retry().await.unwrap().drifted_count, 1, "{poison}");
        assert_eq!(bench.inbox.links(), [id(3), id(7)]);
    }
}

#[tokio::test]
async fn an_id_that_fails_a_list_does_not_hide_the_others() {
    // At any place among the fifty, and any number of them.
    let places = [(500, vec![0]), (403, vec![49]), (400, vec![0, 1]), (302, vec![20, 21, 22, 23, 60])];
    for (status, bad) in places {
        let (failing, listed) = (known(bad.clone()), known(0..70));
        let bench = Bench::start(move |request| match ids_of(request) {
            Some(ids) if ids.iter().any(|id| failing.contains(id)) => page_of(status),
            _ => belvo_with(request, &listed),
        })
        .await;
        bench.knows_valid(0..70);
        let swept = bench.round().await;
        assert_eq!((swept.read_count, swept.skipped_count), (70 - bad.len(), bad.len()), "{bad:?}");
        let swept = bench.round().await;
        assert_eq!((swept.read_count, swept.skipped_count), (70 - bad.len(), bad.len()), "{bad:?} again");
    }
}

#[tokio::test]
async fn a_failing_belvo_stops_the_rotation_only_for_a_while() {
    let bench = Bench::start(|_| page_of(502)).await;
    bench.knows_valid(0..120);
    for _ in 0..3 {
        assert!(matches!(bench.reconciler.rotate().await, Err(SweepError::Belvo(_))));
    }
    let listed = known(0..120);
    bench.answer(move |request| belvo_with(request, &listed));
    bench.requests.lock().unwrap().clear();
    assert_eq!(bench.reconciler.rotate().await.unwrap().read_count, 50);
    let line = bench.requests.lock().unwrap()[0].clone();
    assert_eq!(ids_of(&line).unwrap()[0], id(50).to_string(), "the rotation must continue with the next links");
    bench.pass(Duration::from_secs(3600));
    assert_eq!(bench.reconciler.retry().await.unwrap().read_count, 50, "the skipped links must be read later");
}

#[tokio::test]
async fn an_unreadable_consent_does_not_hide_the_others() {
    let consent = |number: usize| format!("00000000-0000-4000-9000-{number:012}");
    let shown =
        move |number: usize| json!({"id": consent(number), "link_id": id(number).as_str(), "status": "EXPIRED"});
    let bench = Bench::start(move |request| {
        if let Some(id) = request.strip_prefix("/api/consents/00000000-0000-4000-9000-") {
            let number: usize = id.trim_end_matches('/').parse().unwrap();
            return if number == 0 { page_of(500) } else { json_of(shown(number)) };
        }
        let odd = [json!(null), json!({"id": 7}), json!("x"), json!({"id": consent(9), "link_id": 7})];
        let results: Vec<_> = odd.into_iter().chain((0..4).map(shown)).collect();
        json_of(json!({"next": null, "results": results}))
    })
    .await;
    for number in 0..4 {
        let due = Due::At(START.after(Duration::from_secs(30 * 86_400)));
        let known = Consent { id: Some(consent(number)), due, ..Consent::default() };
        let profile = Profile { consent: Some(Box::new(known)), ..Profile::default() };
        let introduced = Input { profile, ..Event::ConsentEnding.into() };
        bench.knows(&id(number), vec![seen(Status::Valid), introduced]);
    }
    let swept = bench.reconciler.sweep_consents().await.unwrap();
    assert_eq!((swept.drifted_count, swept.skipped_count), (3, 1));
    assert_eq!(bench.inbox.links(), [id(1), id(2), id(3)]);

    bench.answer(move |_| json_of(shown(0)));
    bench.pass(Duration::from_secs(5 * 60));
    assert_eq!(bench.reconciler.retry().await.unwrap().drifted_count, 1);
    assert_eq!(bench.inbox.links(), [id(0), id(1), id(2), id(3)]);
}

#[tokio::test]
async fn neither_a_malformed_element_nor_a_page_stops_a_survey() {
    let bench = Bench::start(|request| {
        let page = |number: usize, next: Value| {
            let good = link_of(id(number).as_str(), "valid");
            let results =
                json!([null, {"status": "valid"}, {"id": 7, "status": "valid"}, {"id": null}, [], good, {"id": "a b"}]);
            json_of(json!({"next": next, "results": results}))
        };
        match request.split('&').find_map(|pair| pair.strip_prefix("page=")) {
            None => page(1, json!(format!("http://internal:8000{request}&page=2"))),
            Some("2") => page_of(500),
            Some("3") => page(3, Value::Null),
            Some(_) => error_of(404, "not_found"),
        }
    })
    .await;
    let swept = bench.reconciler.survey().await.unwrap();
    assert_eq!((swept.adopted_count, swept.skipped_count), (2, 1));
    assert_eq!(bench.inbox.links(), [id(1), id(3)]);

    // Elements that were read before a list fails are published.
    let bench = Bench::start(|request| match request.contains("&page=") {
        false => json_of(
            json!({"next": format!("?{}&page=2", &request[12..]), "results": [link_of(id(1).as_str(), "valid")]}),
        ),
        true => page_of(500),
    })
    .await;
    assert!(bench.reconciler.survey().await.is_err());
    assert_eq!(bench.inbox.links(), [id(1)]);
}

#[tokio::test]
async fn an_unreadable_record_does_not_hide_other_links() {
    let listed = known(0..60);
    let bench = Bench::start(move |request| belvo_with(request, &listed)).await;
    bench.knows_valid((0..60).filter(|number| number % 10 != 5));
    for number in [5, 15, 25] {
        bench.knows(&id(number), vec![seen(Status::Valid), Event::Broken(Breakage::of(Cause::Credentials)).into()]);
    }
    bench.damage(&id(0));
    bench.damage(&id(5));
    assert_eq!(bench.round().await.read_count, 57 - 2);
    let swept = bench.reconciler.sweep_known_broken().await.unwrap();
    assert_eq!(swept.read_count, 2, "two of the three broken links are readable");
    let swept = bench.reconciler.survey().await.unwrap();
    assert_eq!(swept.adopted_count, 3, "the links that relink did not know");
    assert!(!bench.inbox.links().contains(&id(5)), "nothing is published about an unreadable link");
}

#[tokio::test]
async fn a_message_that_nats_refuses_does_not_hide_the_others() {
    let listed = known(0..4);
    let bench = Bench::start(move |request| belvo_with(request, &listed)).await;
    bench.inbox.refused.lock().unwrap().insert(id(1));
    let swept = bench.reconciler.survey().await.unwrap();
    assert_eq!((swept.adopted_count, swept.skipped_count), (3, 1));
    assert_eq!(bench.inbox.links(), [id(0), id(2), id(3)]);
}

#[tokio::test]
async fn an_unreadable_history_does_not_block_the_release_of_other_links() {
    let bench = Bench::start(|_| page_of(500)).await;
    for number in 0..4 {
        let mute = Event::Command(Command::Mute);
        bench.knows(&id(number), vec![seen(Status::Invalid), mute.into()]);
    }
    bench.inbox.no_history.lock().unwrap().insert(id(0));
    for _ in 0..3 {
        assert!(bench.reconciler.release_adopted().await.unwrap());
    }
    assert_eq!(bench.inbox.links(), [id(1), id(2), id(3)]);
    bench.inbox.no_history.lock().unwrap().clear();
    let unmuted = bench.inbox.inputs.lock().unwrap().len();
    while !bench.inbox.links().contains(&id(0)) {
        bench.reconciler.release_adopted().await.unwrap();
    }
    assert!(bench.inbox.inputs.lock().unwrap().len() > unmuted);
}

#[tokio::test]
async fn missing_links_that_were_never_observed_do_not_hide_a_deletion() {
    let listed = known(1..5);
    let bench = Bench::start(move |request| belvo_with(request, &listed)).await;
    bench.knows_valid(0..5);
    for number in 100..130 {
        bench.knows(&id(number), vec![Event::Command(Command::Verify).into()]);
    }
    // Verify jobs: first for each link that was never observed, then for the deleted one.
    let job = |number: usize, to: StateWord| job(JobName::Verify, number, to);
    for number in 100..130 {
        let outcome = bench.worker.perform(&job(number, StateWord::Unconfirmed), &id(number), START).await;
        assert_eq!(outcome, Outcome::Reported);
    }
    assert_eq!(bench.worker.perform(&job(0, StateWord::Valid), &id(0), START).await, Outcome::Reported);

    // The same by the rotation.
    bench.inbox.inputs.lock().unwrap().clear();
    let swept = bench.round().await;
    assert_eq!((swept.unconfirmed_count, swept.read_count), (0, 4));
    assert!(bench.inbox.links().contains(&id(0)), "{:?}", bench.inbox.links());
}

/// A job of a link in this state.
fn job(name: JobName, number: usize, state: StateWord) -> JobBody {
    let because = Because {
        event: "verify".to_owned(),
        from: state,
        to: state,
        at: At(START),
        incident: false,
        successor_id: None,
        person: None,
        times_corrected: false,
        due: None,
        held: None,
        outage_notice_at: None,
        origin: origin(),
    };
    let (link_id, asked_at) = (id(number).to_string(), At(START));
    JobBody {
        name,
        link_id,
        asked_at,
        version: 1,
        consent_id: None,
        resources: Vec::new(),
        successor_id: None,
        because,
    }
}

#[tokio::test]
async fn a_job_is_retried_after_a_gateways_page_and_after_a_panic() {
    let bench = Bench::start(|_| page_of(200)).await;
    for name in [JobName::Verify, JobName::Refresh] {
        let job = job(name, 1, StateWord::Valid);
        for status in [200, 202, 204, 302, 400, 401, 403, 404, 409, 428, 500] {
            bench.answer(move |_| page_of(status));
            let outcome = bench.worker.perform(&job, &id(1), START).await;
            assert!(matches!(outcome, Outcome::Retry(..)), "{name:?} {status}: {outcome:?}");
        }
        *bench.inbox.panics.lock().unwrap() = true;
        bench.answer(|request| match request.ends_with("refresh/") {
            true => json_of(json!({"request_id": "r"})),
            false => json_of(link_of(id(1).as_str(), "valid")),
        });
        assert!(matches!(bench.worker.perform(&job, &id(1), START).await, Outcome::Retry(..)));
        *bench.inbox.panics.lock().unwrap() = false;
        assert_eq!(bench.worker.perform(&job, &id(1), START).await, Outcome::Reported);
    }
    let kinds: Vec<_> = bench.inbox.inputs.lock().unwrap().iter().map(|input| input.kind).collect();
    assert_eq!(kinds, [InputKind::Observation; 2]);
}

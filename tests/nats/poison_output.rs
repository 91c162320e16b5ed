//! Messages on relink's own subjects whose headers the NATS client cannot parse. Each reader of the output stream steps over them.

use crate::support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use relink::belvo::{Client, MissingGuard, SecretId, SecretPassword, Timeouts};
use relink::clock::Clock;
use relink::jobs::{KnownLinks, Worker};
use relink::link::{LinkId, Policy};
use relink::nats::history::Histories;
use relink::nats::inputs::{Inputs, NewInput};
use relink::nats::publisher::PublishError;
use relink::nats::stream::{JOBS_CONSUMER, StreamSettings, ensure_all};
use relink::nats::subject::Subjects;
use relink::store::{MemoryStore, Query, Store};
use tokio_util::sync::CancellationToken;

use crate::support::node::{PARTITIONS, RunningNode};
use crate::support::raw_client::RawClient;
use crate::support::{TestNats, within};

/// The server removes a status (`NATS/1.0 503`) when it stores a message, so it is not among them.
const HEADERS: [&[u8]; 3] =
    [b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n", b"NATS/1.0\r\nno colon\r\n\r\n", b"NATS/1.0\r\nX Name: blank\r\n\r\n"];

fn link(n: usize) -> LinkId {
    format!("00000000-0000-4000-8000-{n:012}").parse().expect("a link id")
}

/// The id and the version of each link in a store.
fn versions(store: &MemoryStore) -> Vec<(LinkId, u64)> {
    let page = store.page(&Query { limit: 1_000, ..Query::default() }).expect("a page");
    page.ids.into_iter().zip(page.links).map(|(id, link)| (id, link.head.version)).collect()
}

/// Publishes webhooks for these links, and waits until the store has their next state.
async fn break_links(nats: &TestNats, node: &RunningNode, links: std::ops::Range<usize>, event: usize) {
    for n in links.clone() {
        let body = support::webhook(link(n).as_str(), "invalid_credentials", event * 1_000 + n);
        let subject = format!("belvo.webhook.{}", link(n));
        nats.context.publish(subject, body.into()).await.expect("a publish").await.expect("stored");
    }
    let known = async {
        while !links.clone().all(|n| node.store.get(&link(n)).expect("a read").is_some()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the states", known).await;
}

/// Publishes messages that cannot be parsed on each kind of subject that catching up reads.
async fn poison(nats: &TestNats) {
    let mut raw = RawClient::connect(nats).await;
    for n in 0..20 {
        let subjects = [
            format!("$KV.links.{}", link(n)),
            format!("link.offset.{}", n % usize::from(PARTITIONS)),
            format!("link.fence.{}", n % usize::from(PARTITIONS)),
            "link.incident.erebor".to_owned(),
            "link.commit.somebody".to_owned(),
        ];
        for (i, subject) in subjects.iter().enumerate() {
            raw.publish(subject, HEADERS[(n + i) % HEADERS.len()], b"{}").await;
        }
    }
    raw.flush().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_rebuild_step_over_headers_that_the_client_cannot_parse() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, &node, 0..30, 1).await;
    let store = node.stop().await;
    let expected = versions(&store);
    assert_eq!(expected.len(), 30);
    poison(&nats).await;

    let store = RunningNode::start(&nats, store).await.stop().await;
    assert_eq!(versions(&store), expected, "after a start");
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, &node, 30..40, 2).await;
    let store = node.stop().await;
    assert_eq!(versions(&store)[..30], expected, "after a rebuild");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_message_on_a_fence_or_a_commit_ends_no_node() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, &node, 0..10, 1).await;
    poison(&nats).await;
    break_links(&nats, &node, 10..30, 2).await;
    assert_eq!(versions(&node.stop().await).len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_leaves_such_a_message_out_and_closes_the_connection_once() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, &node, 0..1, 1).await;
    node.stop().await;
    let client = nats.connect().await;
    let histories = Histories::new(async_nats::jetstream::new(client.clone()), Subjects::default());
    let expected = histories.read(&link(0)).await.expect("a history");
    assert!(expected.entries.len() >= 2, "{expected:?}");
    // The marker of a deletion is no state. The first read pulls the messages, the later ones walk.
    let bucket = nats.context.get_key_value("links").await.expect("a bucket");
    bucket.delete(link(0).as_str()).await.expect("deleted");
    assert_eq!(histories.read(&link(0)).await.expect("a history"), expected);
    let mut raw = RawClient::connect(&nats).await;
    for headers in HEADERS {
        raw.publish(&format!("link.refused.{}", link(0)), headers, b"{}").await;
    }
    raw.flush().await;
    for _ in 0..3 {
        assert_eq!(histories.read(&link(0)).await.expect("a history"), expected);
    }
    let connects = client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    // One for each of the three reads would be four; on a busy machine a read may be repeated once.
    assert!(connects <= 3, "{connects} connections");
}

/// Collects what the worker publishes.
#[derive(Default)]
struct Inbox(Mutex<Vec<LinkId>>);

impl Inputs for Inbox {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        self.0.lock().expect("no panic").push(input.link);
        Box::pin(ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_ends_jobs_that_the_client_cannot_parse() {
    let nats = TestNats::start().await;
    let job_ack_wait = Duration::from_secs(2);
    let settings = StreamSettings { partitions: PARTITIONS, job_ack_wait, ..StreamSettings::default() };
    ensure_all(&nats.context, &Subjects::default(), &settings).await.expect("the streams are declared");
    let mut raw = RawClient::connect(&nats).await;
    for n in 0..10 {
        raw.publish(&format!("link.job.verify.{}", link(n)), HEADERS[n % HEADERS.len()], b"{}").await;
    }
    raw.flush().await;
    // A job of relink behind them.
    let because = serde_json::json!({
        "event": "mute", "from": "invalid", "to": "invalid", "at": "2026-09-21T12:00:00Z",
        "origin": {"kind": "command", "received_at": "2026-09-21T12:00:00Z"},
    });
    let job = serde_json::json!({
        "schema_version": 1, "type": "verify", "link_id": link(20).as_str(), "asked_at": "2026-09-21T12:00:00Z", "because": because,
    });
    let subject = format!("link.job.verify.{}", link(20));
    nats.context.publish(subject, job.to_string().into()).await.expect("a publish").await.expect("stored");

    let answer = |request: axum::extract::Request| async move {
        let id = request.uri().path().trim_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        axum::Json(serde_json::json!({"id": id, "status": "valid", "institution": "erebor_mx_retail"}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    let (id, password) = (SecretId("a".into()), SecretPassword("b".into()));
    let belvo = Client::new(&url, id, password, Timeouts::default()).expect("a client");
    let inbox = Arc::new(Inbox::default());
    let known = KnownLinks { store: Arc::new(MemoryStore::default()), policy: Policy::default() };
    let inputs = Arc::clone(&inbox) as Arc<dyn Inputs>;
    let worker = Worker::new(inputs, belvo, known, MissingGuard::default(), Clock::wall());
    let shutdown = CancellationToken::new();
    let context = async_nats::jetstream::new(nats.connect().await);
    let task = tokio::spawn(worker.run(context, Subjects::default(), shutdown.clone()));
    let stream = nats.context.get_stream("KV_links").await.expect("the stream");
    let ended = async {
        loop {
            let info = stream.consumer_info(JOBS_CONSUMER).await.expect("the consumer");
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the end of all jobs", ended).await;
    assert!(inbox.0.lock().expect("no panic").contains(&link(20)));
    shutdown.cancel();
    within("the end of the worker", task).await.expect("no panic");
}

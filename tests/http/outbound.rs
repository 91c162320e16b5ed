//! Messages over HTTP: notices as signed webhooks, and Belvo's webhooks passed on. Real HTTP, and a real nats-server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use metrics_exporter_prometheus::PrometheusBuilder;
use relink::contract::DeadReason;
use relink::outbound::Target;
use reqwest::Method;
use serde_json::json;
use standardwebhooks::Webhook;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET, answer};
use crate::capture;
use crate::receiver::{Received, Receiver, free_address};
use crate::support::raw_client::RawClient;
use crate::support::{message, within};

const OTHER: &str = "9b2d5f14-2f0f-4a4a-a1de-5a4b55b4a001";
const KEYS: [&str; 2] = ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];

async fn bench_for_notices(url: &str, more: &[(&str, &str)]) -> Bench {
    let keys = KEYS.join(",");
    let mut environment = vec![("RELINK_NOTICES_URL", url), ("RELINK_NOTICES_SECRETS", &keys)];
    environment.extend([("RELINK_API_TOKENS", API_TOKEN), ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET)]);
    environment.extend(more);
    Bench::with(&environment).await
}

/// A worker that runs until it is dropped.
struct Running(CancellationToken, JoinHandle<()>);

impl Running {
    fn start(bench: &Bench, target: &Arc<Target>) -> Self {
        let stop = CancellationToken::new();
        Self(stop.clone(), bench.start_worker(target, stop))
    }

    fn notices(bench: &Bench) -> Self {
        Self::start(bench, bench.targets.notices.as_ref().unwrap())
    }

    async fn stop(self) {
        self.0.cancel();
        within("a stop", self.1).await.unwrap();
    }
}

/// Publishes a message like those of relink.
async fn publish(bench: &Bench, subject: &str, id: &str, body: &str) {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/relink"), ("ce-type", "relink.test")]
    {
        headers.insert(name, value);
    }
    headers.insert("content-type", "application/json");
    let batch = vec![message(subject, body).with_headers(headers)];
    bench.nats.batches().publish_atomic(batch).await.unwrap();
}

async fn publish_notice(bench: &Bench, kind: &str, link: &str, n: usize) {
    let body = format!(r#"{{"type": "{kind}", "link_id": "{link}", "n": {n}}}"#);
    publish(bench, &format!("link.notice.{kind}.{link}"), &format!("{link}.{n}.0"), &body).await;
}

/// Waits until this number of messages is delivered to the worker and not acknowledged.
async fn wait_until_pending(bench: &Bench, is_reached: impl Fn(usize) -> bool) {
    let consumer = bench.nats.context.get_consumer_from_stream::<pull::Config, _, _>("relink-notices", "KV_links");
    let consumer = consumer.await.unwrap();
    let reached = async {
        while !is_reached(consumer.get_info().await.unwrap().num_ack_pending) {
            tokio::task::yield_now().await;
        }
    };
    within("the number of open messages", reached).await;
}

fn n_of(received: &Received) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&received.body).unwrap()["n"].as_u64().unwrap()
}

fn is_about(received: &Received, link: &str) -> bool {
    received.text().contains(link)
}

#[tokio::test]
async fn a_notice_is_signed_and_the_official_library_verifies_it() {
    let mut receiver = Receiver::start(|_| Some(204)).await;
    let bench = bench_for_notices(&receiver.url(), &[("RELINK_NOTICES_TYPES", "recovered,incident")]).await;
    let worker = Running::notices(&bench);
    publish_notice(&bench, "data_available", LINK, 1).await;
    publish_notice(&bench, "recovered", LINK, 2).await;
    let received = receiver.next().await;
    // Its type is not in the settings.
    assert_eq!(n_of(&received), 2);
    assert_eq!(received.text(), format!(r#"{{"type": "recovered", "link_id": "{LINK}", "n": 2}}"#));
    for key in KEYS {
        Webhook::new(key).unwrap().verify(&received.body, &received.headers).unwrap();
        let changed = [&received.body[..], b" "].concat();
        assert!(Webhook::new(key).unwrap().verify(&changed, &received.headers).is_err());
    }
    assert!(
        Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
            .unwrap()
            .verify(&received.body, &received.headers)
            .is_err()
    );
    assert_eq!(received.header("webhook-id"), format!("{LINK}_2_0"), "an id has no dot");
    assert_eq!((received.header("ce-id"), received.header("ce-source")), (&*format!("{LINK}.2.0"), "/relink"));
    assert_eq!(received.header("content-type"), "application/json");

    publish(&bench, "link.incident.erebor", "incident.erebor.1.began", r#"{"type":"began"}"#).await;
    let received = receiver.next().await;
    assert_eq!((received.header("webhook-id"), received.text()), ("incident_erebor_1_began", r#"{"type":"began"}"#));
    worker.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_target_is_down_and_each_link_stays_in_order() {
    let address = free_address().await;
    let bench = bench_for_notices(&format!("http://{address}/"), &[]).await;
    let worker = Running::notices(&bench);
    for n in 0..20 {
        publish_notice(&bench, "recovered", [LINK, OTHER][n % 2], n).await;
    }
    wait_until_pending(&bench, |count| count == 20).await;
    // Half of the answers are errors.
    let mut count = 0;
    let busy = move |_: &Received| {
        count += 1;
        Some(if count % 2 == 0 { 503 } else { 200 })
    };
    let mut accepted = BTreeMap::<bool, Vec<u64>>::new();
    let mut receiver = Receiver::start_at(address, busy).await;
    let mut nth = 0;
    while accepted.values().map(Vec::len).sum::<usize>() < 3 {
        let received = receiver.next().await;
        nth += 1;
        if nth % 2 == 1 {
            accepted.entry(is_about(&received, LINK)).or_default().push(n_of(&received));
        }
    }
    receiver.answer_with(|_| Some(200));
    while accepted.values().map(Vec::len).sum::<usize>() < 20 {
        let received = receiver.next().await;
        // A request that had its answer before the change was refused, and comes again.
        let of_link = accepted.entry(is_about(&received, LINK)).or_default();
        if !of_link.contains(&n_of(&received)) {
            of_link.push(n_of(&received));
        }
    }
    assert_eq!(accepted[&true], (0..20).step_by(2).collect::<Vec<_>>());
    assert_eq!(accepted[&false], (1..20).step_by(2).collect::<Vec<_>>());
    worker.stop().await;
}

#[tokio::test]
async fn a_request_without_a_result_is_sent_again_with_its_id_after_a_crash_and_holds_up_no_other_link() {
    let mut receiver = Receiver::start(|received| (!is_about(received, LINK)).then_some(200)).await;
    let bench = bench_for_notices(&receiver.url(), &[]).await;
    let killed = Running::notices(&bench);
    publish_notice(&bench, "recovered", LINK, 1).await;
    let first = receiver.next().await;
    // The target holds the request of one link; another one is served.
    publish_notice(&bench, "recovered", OTHER, 2).await;
    assert_eq!(n_of(&receiver.next().await), 2);
    wait_until_pending(&bench, |count| count == 1).await;
    // The end of the process, between the request and its acknowledgement.
    killed.1.abort();
    publish_notice(&bench, "stale", LINK, 3).await;
    receiver.answer_with(|_| Some(200));
    let next = Running::notices(&bench);
    let (again, later) = (receiver.next().await, receiver.next().await);
    assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
    assert_eq!((again.body.clone(), n_of(&later)), (first.body.clone(), 3), "the order of the link");
    next.stop().await;
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn a_stop_gives_messages_back_and_what_was_accepted_is_not_sent_again() {
    let mut receiver = Receiver::start(|received| Some(if is_about(received, LINK) { 500 } else { 200 })).await;
    let bench = bench_for_notices(&receiver.url(), &[]).await;
    let first = Running::notices(&bench);
    publish_notice(&bench, "recovered", LINK, 1).await;
    publish_notice(&bench, "recovered", OTHER, 2).await;
    let mut numbers = [n_of(&receiver.next().await), n_of(&receiver.next().await)];
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    first.stop().await;
    receiver.rest();
    receiver.answer_with(|_| Some(200));
    publish_notice(&bench, "stale", LINK, 3).await;
    let second = Running::notices(&bench);
    assert_eq!([n_of(&receiver.next().await), n_of(&receiver.next().await)], [1, 3]);
    second.stop().await;
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn a_notice_that_is_always_refused_becomes_a_dead_letter() {
    let mut receiver = Receiver::start(|received| Some(if n_of(received) == 1 { 400 } else { 200 })).await;
    let bench = bench_for_notices(&receiver.url(), &[("RELINK_NOTICES_RETRY_FOR", "0s")]).await;
    let worker = Running::notices(&bench);
    for (link, n) in [(LINK, 1), (LINK, 2), (OTHER, 3)] {
        publish_notice(&bench, "recovered", link, n).await;
    }
    let mut order = Vec::new();
    while order.last() != Some(&2) {
        order.push(n_of(&receiver.next().await));
    }
    assert_eq!(order.iter().filter(|n| **n == 1).count(), 3, "{order:?}");
    assert!(order.contains(&3), "another link does not wait");

    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, DeadReason::NoticeNotDelivered.as_str());
    assert_eq!(letters[0].subject, format!("link.notice.recovered.{LINK}"));
    assert!(letters[0].detail.starts_with("the response has the status 400"), "{}", letters[0].detail);
    assert_eq!(letters[0].input_stream.as_deref().unwrap().split('@').next(), Some("KV_links"));

    let refused = bench.post("/v1/dead-letters/1/replay", "").await;
    refused.problem(502, "not-accepted");
    receiver.answer_with(|_| Some(202));
    let sent = bench.post("/v1/dead-letters/1/replay", "").await;
    assert_eq!((sent.status, sent.body), (200, json!({"dead_letter": 1, "target": "notices", "status": 202})));
    let last = receiver.rest().pop().unwrap();
    assert_eq!((n_of(&last), last.header("webhook-id")), (1, &*format!("{LINK}_1_0")));
    Webhook::new(KEYS[0]).unwrap().verify(&last.body, &last.headers).unwrap();
    assert!(bench.inputs().await.is_empty(), "it is no input");
    worker.stop().await;
}

#[tokio::test]
async fn a_target_that_is_gone_gets_nothing_more_and_its_messages_stay() {
    // The tasks of this test run in its thread, so no other test counts here.
    let recorder = PrometheusBuilder::new().build_recorder();
    let (metrics, _guard) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let mut receiver = Receiver::start(|_| Some(410)).await;
    let bench = bench_for_notices(&receiver.url(), &[]).await;
    let first = Running::notices(&bench);
    publish_notice(&bench, "recovered", LINK, 1).await;
    receiver.next().await;
    publish_notice(&bench, "recovered", OTHER, 2).await;
    let waiting = format!("{}{{target=\"notices\"}} 2", relink::metric::OUTBOUND_WAITING.name);
    let counted = async {
        while !metrics.render().contains(&waiting) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("counting the waiting messages", counted).await;
    first.stop().await;
    assert!(receiver.rest().is_empty());
    receiver.answer_with(|_| Some(200));
    // As after a restart.
    let environment = [("RELINK_NOTICES_URL", receiver.url()), ("RELINK_NOTICES_SECRETS", KEYS[0].to_owned())];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let settings = crate::bench::config(&environment).outbound.notices.unwrap();
    let target = Arc::new(Target::new(settings, relink::clock::Clock::wall()).unwrap());
    let second = Running::start(&bench, &target);
    let mut numbers = [n_of(&receiver.next().await), n_of(&receiver.next().await)];
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    second.stop().await;
}

#[tokio::test]
async fn a_webhook_of_belvo_is_forwarded_as_it_came() {
    let mut receiver = Receiver::start(|_| Some(200)).await;
    let bench = Bench::with(&[
        ("RELINK_FORWARD_URL", &receiver.url()),
        ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET),
        ("RELINK_API_TOKENS", API_TOKEN),
    ])
    .await;
    // A consumer delivers only what comes after its creation, so an old outage is not forwarded when the setting is new.
    let worker = Running::start(&bench, bench.targets.webhooks.as_ref().unwrap());
    let body = format!(
        " {{\"webhook_type\" : \"LINK\",\n\"webhook_code\":\"token_required\", \"link_id\":\"{LINK}\",\"data\":{{\"ñ\":1.00}}}}\r\n"
    );
    // Neither of them came from Belvo over HTTP.
    bench.nats.batches().publish_atomic(vec![message(format!("belvo.webhook.{LINK}"), body.clone())]).await.unwrap();
    let error = json!({"http_status": 428, "method": "POST", "path": "/api/accounts/", "link_id": LINK,
        "body": [{"code": "token_required", "message": "MFA", "request_id": "a"}]});
    assert_eq!(bench.post("/v1/api-errors", error).await.status, 202);
    let accepted = answer(bench.webhook(body.clone()).header("content-type", "application/json")).await;
    assert_eq!(accepted.status, 200);
    let received = receiver.next().await;
    assert_eq!(received.body, body.as_bytes());
    assert_eq!(
        (received.header("authorization"), received.header("content-type")),
        (WEBHOOK_SECRET, "application/json")
    );
    assert_eq!(received.header("relink-message-id"), accepted.body["message_id"].as_str().unwrap());

    // A refused webhook is the sender's matter.
    let refused = answer(bench.request(Method::POST, "/webhooks/belvo").body(body)).await;
    assert_eq!(refused.status, 401);
    worker.stop().await;
    assert!(receiver.rest().is_empty());
    let log = capture::log();
    assert!(
        !log.contains("hooks?of=relink") && !log.contains(WEBHOOK_SECRET),
        "the address or the secret is in the log"
    );
}

#[tokio::test]
async fn a_message_that_relink_did_not_publish_stops_nothing() {
    let mut receiver = Receiver::start(|_| Some(200)).await;
    let bench = bench_for_notices(&receiver.url(), &[]).await;
    let worker = Running::notices(&bench);
    let subject = format!("link.notice.recovered.{LINK}");
    // Without headers, and with headers that the client of NATS cannot parse.
    bench.nats.batches().publish_atomic(vec![message(subject.clone(), "{}")]).await.unwrap();
    let mut raw = RawClient::connect(&bench.nats).await;
    raw.publish(&subject, b"NATS/1.0\r\nno colon in this line\r\n\r\n", b"{}").await;
    // The connection of relink, which this test shares, is closed now and made anew.
    raw.publish(&subject, b"NATS/1.0\r\nce-id: a.1.0\r\nce-source: /relink\r\n\r\n", br#"{"n": 7}"#).await;
    raw.flush().await;
    assert_eq!(n_of(&receiver.next().await), 7);
    worker.stop().await;
    assert!(receiver.rest().is_empty());
}

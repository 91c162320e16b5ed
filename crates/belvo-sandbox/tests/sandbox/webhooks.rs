//! Delivery: retries, faults, old shapes; the control API; and an orderly stop.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use belvo_sandbox::{
    ApiFault, DeliveryOutcome, LinkStatus, NewWebhook, PayloadShape, RefreshOutcome, SandboxTime, WebhookDelivery,
    WebhookFault,
};
use futures::FutureExt;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bench::{Answer, Bench, RECURRENT, codes};

#[tokio::test]
async fn a_refused_webhook_comes_back_five_times() {
    let mut bench = Bench::with(|config| {
        config.webhook_retry_step = Duration::from_secs(3_600);
        config.webhook_timeout = Duration::from_millis(50);
    })
    .await;
    let link = bench.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    bench.answers.send(Answer::Never).unwrap();
    for _ in 0..5 {
        bench.answers.send(Answer::Status(503)).unwrap();
    }
    bench.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    for attempt in 1..=6_u32 {
        bench.webhook().await;
        let delivery = bench.control.wait_for_delivery(u64::from(attempt) - 1, |_| true).await.unwrap();
        assert_eq!(delivery.attempt, attempt);
        let wanted = if attempt == 1 { DeliveryOutcome::TimedOut } else { DeliveryOutcome::Answered(503) };
        assert_eq!(delivery.outcome, wanted);
        // Linear: the nth retry waits n steps.
        bench.control.advance(Duration::from_secs(3_600 * u64::from(attempt)));
    }
    bench.control.settled().await.unwrap();
    assert_eq!(bench.control.deliveries(0).len(), 6, "after the fifth retry it is lost");
}

#[tokio::test]
async fn a_webhook_that_does_not_arrive_is_in_the_log_without_its_body() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || Log(Arc::clone(&writer))).finish();
    // For all threads: one that has no subscriber when it logs first would silence the line for everybody.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Bench::new().await;
    let link = bench.control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    bench.answers.send(Answer::Status(503)).unwrap();
    bench.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    bench.control.wait_for_delivery(0, |_| true).await.unwrap();
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let webhook = format!("link={link}");
    let line = log.lines().find(|line| line.contains(&webhook) && line.contains("answered 503")).unwrap_or_default();
    assert!(line.contains("WARN") && !line.contains("user-1") && !log.contains("typed-into"), "{log}");
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_no_address() {
    let bench = Bench::new().await;
    let link = bench.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    bench.answers.send(Answer::Redirect).unwrap();
    bench.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    let delivery = bench.control.wait_for_delivery(0, |_| true).await.unwrap();
    assert_eq!(delivery.outcome, DeliveryOutcome::Answered(307));
}

#[tokio::test]
async fn a_slow_answer_holds_up_nobody_else() {
    let mut bench = Bench::with(|config| {
        config.deliveries_at_once = 2;
        config.webhook_timeout = Duration::from_secs(3_600);
    })
    .await;
    let link = bench.control.add_link("tatooine_mx_fiscal", RECURRENT, None).unwrap();
    bench.answers.send(Answer::Never).unwrap();
    bench.control.repair(link).unwrap();
    assert_eq!(bench.webhooks(5).await.len(), 5, "one of them is never answered");
    let told = bench.control.wait_for_delivery(3, |_| true).await.unwrap();
    assert_eq!((told.seq, told.outcome), (4, DeliveryOutcome::Answered(200)));
    assert_eq!(bench.control.deliveries(0).len(), 4, "and one slot is still taken by it");
}

#[tokio::test]
async fn webhooks_go_wrong_on_demand() {
    let mut bench = Bench::new().await;
    let control = bench.control.clone();
    let link = control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    let mut broken = async |fault: WebhookFault, count: usize| {
        control.fail_webhooks(fault, 1);
        control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
        bench.webhooks(count).await
    };
    assert_eq!(broken(WebhookFault::Drop, 0).await.len(), 0);
    let twice = broken(WebhookFault::Duplicate, 2).await;
    assert_eq!(twice[0], twice[1]);
    assert_eq!(broken(WebhookFault::NullExternalId, 1).await[0]["external_id"], Value::Null);
    assert_eq!(codes(&broken(WebhookFault::UnknownCode, 1).await), ["LINK/code_from_the_future"]);

    control.set_status(link, LinkStatus::Valid).unwrap();
    control.fail_webhooks(WebhookFault::Reorder, 3);
    control.scheduled_refresh(link, RefreshOutcome::Ok).unwrap();
    assert_eq!(
        codes(&bench.webhooks(3).await),
        ["TRANSACTIONS/new_transactions_available", "OWNERS/new_owners_available", "ACCOUNTS/new_accounts_available"]
    );
    control.replay(2, Duration::ZERO).unwrap();
    assert_eq!(bench.webhook().await, twice[0]);
    let new = NewWebhook {
        webhook_type: "LINK".into(),
        webhook_code: "token_required".into(),
        delay: Duration::from_secs(5),
        ..NewWebhook::default()
    };
    control.send_webhook(Uuid::nil(), new);
    control.advance(Duration::from_secs(5));
    assert_eq!(bench.webhook().await["link_id"], json!(Uuid::nil()));
}

#[tokio::test]
async fn a_delayed_webhook_does_not_come_before_its_time() {
    let bench = Bench::with(|config| {
        config.time = SandboxTime::Driven { from_ms: 1_768_003_200_000 };
        config.delivery = WebhookDelivery::ByHand;
    })
    .await;
    let link = bench.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    bench.control.fail_webhooks(WebhookFault::Delay(Duration::from_secs(60)), 1);
    bench.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    assert_eq!(bench.control.take_webhooks(), []);
    bench.control.advance(Duration::from_millis(59_999));
    assert_eq!(bench.control.take_webhooks(), []);
    bench.control.advance(Duration::from_millis(1));
    let taken = bench.control.take_webhooks();
    assert_eq!((taken.len(), taken[0].webhook_code.as_str()), (1, "invalid_credentials"));
}

#[tokio::test]
async fn a_fault_that_is_called_off_holds_nothing_back() {
    let bench = Bench::new().await;
    bench.control.fail_webhooks(WebhookFault::Reorder, 3);
    let sent = json!({"link": Uuid::nil(), "webhook_type": "LINK", "webhook_code": "token_required"});
    assert_eq!(bench.post("/sandbox/webhooks", sent).await.0, 200);
    assert!(bench.control.settled().now_or_never().is_none(), "it waits for two more");
    assert_eq!(bench.call(Method::DELETE, "/sandbox/faults", Value::Null).await.0, 200);
    assert!(bench.control.settled().now_or_never().is_some_and(|settled| settled.is_ok()));
}

#[tokio::test]
async fn older_bodies_can_be_sent() {
    let mut bench = Bench::new().await;
    let link = bench.control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    for (shape, fields) in [(PayloadShape::Current, 8), (PayloadShape::Mid, 7), (PayloadShape::Oldest, 5)] {
        bench.control.set_payload_shape(shape);
        bench.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
        assert_eq!(bench.webhook().await.as_object().unwrap().len(), fields, "{shape:?}");
    }
}

#[tokio::test]
async fn the_strings_can_be_pulled_over_http() {
    let mut bench = Bench::new().await;
    let created = bench.post("/sandbox/links", json!({"institution": "tatooine_mx_fiscal"})).await;
    let link: Uuid = created.1["link"].as_str().unwrap().parse().unwrap();
    let families = codes(&bench.webhooks(5).await);
    assert_eq!(families.iter().filter(|code| code.starts_with("TAX_RETURNS/")).count(), 2, "yearly and monthly");
    let path = |what: &str| format!("/sandbox/links/{link}/{what}");
    assert_eq!(bench.post(&path("scheduled-refresh"), json!({"outcome": "institution_down"})).await.0, 200);
    assert_eq!(bench.post(&path("scheduled-refresh"), json!({"outcome": "login_error"})).await.0, 200);
    assert_eq!(codes(&bench.webhooks(1).await), ["LINK/invalid_credentials"]);
    assert_eq!(bench.post(&path("scheduled-refresh"), json!({"outcome": "ok"})).await.0, 400);
    assert_eq!(bench.post(&path("repair"), Value::Null).await.0, 200);
    assert_eq!(bench.post(&path("status"), json!({"status": "token_required"})).await.0, 200);
    assert_eq!(bench.status(link).await, "token_required");
    assert_eq!(bench.post(&path("login"), json!({"login": "no_such_code"})).await.0, 400);
    assert_eq!(bench.post(&path("login"), json!({"login": "locked"})).await.0, 200);
    assert_eq!(bench.post(&path("fresh-data"), json!({"fresh": false})).await.0, 200);
    assert_eq!(bench.post(&path("consent"), json!({"event": "expire"})).await.0, 400);
    let brazil = bench.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    let path_of = |what: &str| format!("/sandbox/links/{brazil}/{what}");
    for wrong in [json!({"event": "expire", "within_secs": 1}), json!({"event": "renew", "at": 1})] {
        let (status, _) = bench.post(&path_of("consent"), wrong.clone()).await;
        assert!((400..500).contains(&status), "{wrong}: {status}");
    }
    assert_eq!(bench.post("/sandbox/faults/webhooks", json!({"kind": "drop"})).await.0, 200);
    assert_eq!(bench.post("/sandbox/faults/api", json!({"kind": "institution_down", "on": "/api/"})).await.0, 200);
    assert_eq!(bench.get("/api/links/").await.0, 400);
    assert_eq!(bench.call(Method::DELETE, "/sandbox/faults", Value::Null).await.0, 200);
    assert_eq!(bench.post("/sandbox/payload-shape", json!({"shape": "oldest"})).await.0, 200);
    let before = bench.get("/sandbox/time").await.1["now"].as_str().unwrap().to_owned();
    let (status, time) = bench.post("/sandbox/advance", json!({"secs": 60})).await;
    assert!(status == 200 && time["now"].as_str().unwrap() > before.as_str(), "{time}");
    for wrong in
        [json!({}), json!({"secs": u64::MAX}), json!({"until": "tomorrow"}), json!({"secs": 1, "until": before})]
    {
        assert_eq!(bench.post("/sandbox/advance", wrong.clone()).await.0, 400, "{wrong}");
    }
    let sent = json!({"link": link, "webhook_type": "LINK", "webhook_code": "token_required"});
    assert_eq!(bench.post("/sandbox/webhooks", sent).await.0, 200);
    let last = bench.control.wait_for_delivery(6, |found| found.webhook_code == "token_required").await.unwrap();
    let (status, list) = bench.get(&format!("/sandbox/deliveries?after={}&wait_ms=5000", last.seq - 1)).await;
    assert_eq!((status, &list[0]["outcome"], &list[0]["detail"]), (200, &json!("answered"), &json!(200)));
    assert_eq!(bench.post(&format!("/sandbox/deliveries/{}/replay", last.seq), json!({})).await.0, 200);
    bench.control.wait_for_delivery(last.seq, |found| found.body == last.body).await.unwrap();
    assert_eq!(bench.post("/sandbox/wipe", Value::Null).await.1["links"], 2);
    assert_eq!(bench.post(&path("repair"), Value::Null).await.0, 404);
    assert_eq!(bench.post("/sandbox/webhook", json!({"url": null})).await.0, 200);
    let line = json!({"url": "http://127.0.0.1:1/", "authorization": "Bearer a\nb"});
    for wrong in [json!({}), json!({"url": "127.0.0.1:1"}), line] {
        let (status, _) = bench.post("/sandbox/webhook", wrong.clone()).await;
        assert!((400..500).contains(&status), "{wrong}: {status}");
    }
}

#[tokio::test]
async fn deliveries_are_read_in_pieces() {
    let bench = Bench::new().await;
    for _ in 0..150 {
        bench.control.send_webhook(Uuid::nil(), NewWebhook { webhook_type: "LINK".into(), ..NewWebhook::default() });
    }
    bench.control.settled().await.unwrap();
    let seqs = async |query: &str| {
        let (status, list) = bench.get(&format!("/sandbox/deliveries?{query}")).await;
        assert_eq!(status, 200);
        list.as_array().unwrap().iter().map(|found| found["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(seqs("").await, (1..=100).collect::<Vec<_>>());
    assert_eq!(seqs("after=100").await, (101..=150).collect::<Vec<_>>());
    assert_eq!(seqs("after=5&limit=2").await, [6, 7]);
}

#[tokio::test]
async fn stopping_does_not_wait_for_the_future() {
    let bench = Bench::with(|config| config.data_delay = Duration::from_secs(3_600)).await;
    bench.control.create_link("erebor_mx_retail", RECURRENT, None).unwrap();
    bench.control.fail_api(ApiFault::Timeout(Duration::from_secs(3_600)), 1, "").unwrap();
    let url = format!("{}/api/links/", bench.sandbox.url());
    let request = bench.client.get(url).basic_auth("sandbox", Some("sandbox"));
    let hanging = tokio::spawn(request.send());
    let control = bench.control.clone();
    tokio::time::timeout(Duration::from_secs(20), bench.sandbox.shutdown()).await.expect("it stops");
    drop(bench.client);
    let _answered_or_refused = hanging.await.unwrap();
    assert!(control.settled().await.is_err());
}

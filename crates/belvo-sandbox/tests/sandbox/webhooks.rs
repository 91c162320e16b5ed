//! Delivery: retries, faults, old payload shapes; the control API; and a graceful shutdown.

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

use crate::fixture::{Answer, Fixture, RECURRENT, codes};

#[tokio::test]
async fn a_refused_webhook_is_retried_five_times() {
    let mut fixture = Fixture::with(|config| {
        config.webhook_retry_step = Duration::from_secs(3_600);
        config.webhook_timeout = Duration::from_millis(50);
    })
    .await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    fixture.answers.send(Answer::Never).unwrap();
    for _ in 0..5 {
        fixture.answers.send(Answer::Status(503)).unwrap();
    }
    fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    for attempt in 1..=6_u32 {
        fixture.webhook().await;
        let delivery = fixture.control.wait_for_delivery(u64::from(attempt) - 1, |_| true).await.unwrap();
        assert_eq!(delivery.attempt, attempt);
        let wanted = if attempt == 1 { DeliveryOutcome::TimedOut } else { DeliveryOutcome::Answered(503) };
        assert_eq!(delivery.outcome, wanted);
        // Linear back-off: the nth retry waits n steps.
        fixture.control.advance(Duration::from_secs(3_600 * u64::from(attempt)));
    }
    fixture.control.outbox_idle().await.unwrap();
    assert_eq!(fixture.control.deliveries(0).len(), 6, "after the fifth retry it is lost");
}

#[tokio::test]
async fn a_failed_webhook_is_logged_without_its_body() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || Log(Arc::clone(&writer))).finish();
    // The subscriber is global: a thread that logs first without a subscriber would disable the line for all threads.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    fixture.answers.send(Answer::Status(503)).unwrap();
    fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    fixture.control.wait_for_delivery(0, |_| true).await.unwrap();
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
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    fixture.answers.send(Answer::Redirect).unwrap();
    fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    let delivery = fixture.control.wait_for_delivery(0, |_| true).await.unwrap();
    assert_eq!(delivery.outcome, DeliveryOutcome::Answered(307));
}

#[tokio::test]
async fn a_slow_response_does_not_delay_other_webhooks() {
    let mut fixture = Fixture::with(|config| {
        config.deliveries_at_once = 2;
        config.webhook_timeout = Duration::from_secs(3_600);
    })
    .await;
    let link = fixture.control.add_link("tatooine_mx_fiscal", RECURRENT, None).unwrap();
    fixture.answers.send(Answer::Never).unwrap();
    fixture.control.repair(link).unwrap();
    assert_eq!(fixture.webhooks(5).await.len(), 5, "one of the webhooks is never answered");
    let received = fixture.control.wait_for_delivery(3, |_| true).await.unwrap();
    assert_eq!((received.seq, received.outcome), (4, DeliveryOutcome::Answered(200)));
    assert_eq!(fixture.control.deliveries(0).len(), 4, "the unanswered webhook still occupies one slot");
}

#[tokio::test]
async fn webhook_faults_are_applied() {
    let mut fixture = Fixture::new().await;
    let control = fixture.control.clone();
    let link = control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    let mut broken = async |fault: WebhookFault, count: usize| {
        control.fail_webhooks(fault, 1);
        control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
        fixture.webhooks(count).await
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
        codes(&fixture.webhooks(3).await),
        ["TRANSACTIONS/new_transactions_available", "OWNERS/new_owners_available", "ACCOUNTS/new_accounts_available"]
    );
    control.replay(2, Duration::ZERO).unwrap();
    assert_eq!(fixture.webhook().await, twice[0]);
    let new = NewWebhook {
        webhook_type: "LINK".into(),
        webhook_code: "token_required".into(),
        delay: Duration::from_secs(5),
        ..NewWebhook::default()
    };
    control.send_webhook(Uuid::nil(), new);
    control.advance(Duration::from_secs(5));
    assert_eq!(fixture.webhook().await["link_id"], json!(Uuid::nil()));
}

#[tokio::test]
async fn a_delayed_webhook_is_not_sent_early() {
    let fixture = Fixture::with(|config| {
        config.time = SandboxTime::Driven { from_ms: 1_768_003_200_000 };
        config.delivery = WebhookDelivery::ByHand;
    })
    .await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    fixture.control.fail_webhooks(WebhookFault::Delay(Duration::from_secs(60)), 1);
    fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    assert_eq!(fixture.control.take_webhooks(), []);
    fixture.control.advance(Duration::from_millis(59_999));
    assert_eq!(fixture.control.take_webhooks(), []);
    fixture.control.advance(Duration::from_millis(1));
    let taken = fixture.control.take_webhooks();
    assert_eq!((taken.len(), taken[0].webhook_code.as_str()), (1, "invalid_credentials"));
}

#[tokio::test]
async fn a_removed_fault_has_no_effect() {
    let fixture = Fixture::new().await;
    fixture.control.fail_webhooks(WebhookFault::Reorder, 3);
    let sent = json!({"link": Uuid::nil(), "webhook_type": "LINK", "webhook_code": "token_required"});
    assert_eq!(fixture.post("/sandbox/webhooks", sent).await.0, 200);
    assert!(fixture.control.outbox_idle().now_or_never().is_none(), "the webhook waits for two more");
    assert_eq!(fixture.call(Method::DELETE, "/sandbox/faults", Value::Null).await.0, 200);
    assert!(fixture.control.outbox_idle().now_or_never().is_some_and(|idle| idle.is_ok()));
}

#[tokio::test]
async fn older_bodies_can_be_sent() {
    let mut fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    for (shape, fields) in [(PayloadShape::Current, 8), (PayloadShape::Mid, 7), (PayloadShape::Oldest, 5)] {
        fixture.control.set_payload_shape(shape);
        fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
        assert_eq!(fixture.webhook().await.as_object().unwrap().len(), fields, "{shape:?}");
    }
}

#[tokio::test]
async fn the_control_api_works_over_http() {
    let mut fixture = Fixture::new().await;
    let created = fixture.post("/sandbox/links", json!({"institution": "tatooine_mx_fiscal"})).await;
    let link: Uuid = created.1["link"].as_str().unwrap().parse().unwrap();
    let families = codes(&fixture.webhooks(5).await);
    assert_eq!(families.iter().filter(|code| code.starts_with("TAX_RETURNS/")).count(), 2, "yearly and monthly");
    let path = |what: &str| format!("/sandbox/links/{link}/{what}");
    assert_eq!(fixture.post(&path("scheduled-refresh"), json!({"outcome": "institution_down"})).await.0, 200);
    assert_eq!(fixture.post(&path("scheduled-refresh"), json!({"outcome": "login_error"})).await.0, 200);
    assert_eq!(codes(&fixture.webhooks(1).await), ["LINK/invalid_credentials"]);
    assert_eq!(fixture.post(&path("scheduled-refresh"), json!({"outcome": "ok"})).await.0, 400);
    assert_eq!(fixture.post(&path("repair"), Value::Null).await.0, 200);
    assert_eq!(fixture.post(&path("status"), json!({"status": "token_required"})).await.0, 200);
    assert_eq!(fixture.status(link).await, "token_required");
    assert_eq!(fixture.post(&path("login"), json!({"login": "no_such_code"})).await.0, 400);
    assert_eq!(fixture.post(&path("login"), json!({"login": "locked"})).await.0, 200);
    assert_eq!(fixture.post(&path("fresh-data"), json!({"fresh": false})).await.0, 200);
    assert_eq!(fixture.post(&path("consent"), json!({"event": "expire"})).await.0, 400);
    let brazil = fixture.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    let path_of = |what: &str| format!("/sandbox/links/{brazil}/{what}");
    for wrong in [json!({"event": "expire", "within_secs": 1}), json!({"event": "renew", "at": 1})] {
        let (status, _) = fixture.post(&path_of("consent"), wrong.clone()).await;
        assert!((400..500).contains(&status), "{wrong}: {status}");
    }
    assert_eq!(fixture.post("/sandbox/faults/webhooks", json!({"kind": "drop"})).await.0, 200);
    assert_eq!(fixture.post("/sandbox/faults/api", json!({"kind": "institution_down", "on": "/api/"})).await.0, 200);
    assert_eq!(fixture.get("/api/links/").await.0, 400);
    assert_eq!(fixture.call(Method::DELETE, "/sandbox/faults", Value::Null).await.0, 200);
    assert_eq!(fixture.post("/sandbox/payload-shape", json!({"shape": "oldest"})).await.0, 200);
    let before = fixture.get("/sandbox/time").await.1["now"].as_str().unwrap().to_owned();
    let (status, time) = fixture.post("/sandbox/advance", json!({"secs": 60})).await;
    assert!(status == 200 && time["now"].as_str().unwrap() > before.as_str(), "{time}");
    for wrong in
        [json!({}), json!({"secs": u64::MAX}), json!({"until": "tomorrow"}), json!({"secs": 1, "until": before})]
    {
        assert_eq!(fixture.post("/sandbox/advance", wrong.clone()).await.0, 400, "{wrong}");
    }
    let sent = json!({"link": link, "webhook_type": "LINK", "webhook_code": "token_required"});
    assert_eq!(fixture.post("/sandbox/webhooks", sent).await.0, 200);
    let last = fixture.control.wait_for_delivery(6, |found| found.webhook_code == "token_required").await.unwrap();
    let (status, list) = fixture.get(&format!("/sandbox/deliveries?after={}&wait_ms=5000", last.seq - 1)).await;
    assert_eq!((status, &list[0]["outcome"], &list[0]["detail"]), (200, &json!("answered"), &json!(200)));
    assert_eq!(fixture.post(&format!("/sandbox/deliveries/{}/replay", last.seq), json!({})).await.0, 200);
    fixture.control.wait_for_delivery(last.seq, |found| found.body == last.body).await.unwrap();
    assert_eq!(fixture.post("/sandbox/wipe", Value::Null).await.1["links"], 2);
    assert_eq!(fixture.post(&path("repair"), Value::Null).await.0, 404);
    assert_eq!(fixture.post("/sandbox/webhook", json!({"url": null})).await.0, 200);
    let line = json!({"url": "http://127.0.0.1:1/", "authorization": "Bearer a\nb"});
    for wrong in [json!({}), json!({"url": "127.0.0.1:1"}), line] {
        let (status, _) = fixture.post("/sandbox/webhook", wrong.clone()).await;
        assert!((400..500).contains(&status), "{wrong}: {status}");
    }
}

#[tokio::test]
async fn deliveries_are_read_in_pages() {
    let fixture = Fixture::new().await;
    for _ in 0..150 {
        fixture.control.send_webhook(Uuid::nil(), NewWebhook { webhook_type: "LINK".into(), ..NewWebhook::default() });
    }
    fixture.control.outbox_idle().await.unwrap();
    let seqs = async |query: &str| {
        let (status, list) = fixture.get(&format!("/sandbox/deliveries?{query}")).await;
        assert_eq!(status, 200);
        list.as_array().unwrap().iter().map(|found| found["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(seqs("").await, (1..=100).collect::<Vec<_>>());
    assert_eq!(seqs("after=100").await, (101..=150).collect::<Vec<_>>());
    assert_eq!(seqs("after=5&limit=2").await, [6, 7]);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_queued_webhooks() {
    let fixture = Fixture::with(|config| config.data_delay = Duration::from_secs(3_600)).await;
    fixture.control.create_link("erebor_mx_retail", RECURRENT, None).unwrap();
    fixture.control.fail_api(ApiFault::Timeout(Duration::from_secs(3_600)), 1, "").unwrap();
    let url = format!("{}/api/links/", fixture.sandbox.url());
    let request = fixture.client.get(url).basic_auth("sandbox", Some("sandbox"));
    let hanging = tokio::spawn(request.send());
    let control = fixture.control.clone();
    tokio::time::timeout(Duration::from_secs(20), fixture.sandbox.shutdown()).await.expect("it stops");
    drop(fixture.client);
    let _answered_or_refused = hanging.await.unwrap();
    assert!(control.outbox_idle().await.is_err());
}

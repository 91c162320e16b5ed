//! `POST /webhooks/belvo-status`: its secret, and bodies that cannot be read.

use relink::contract::{DeadReason, InputKind};
use reqwest::Method;
use serde_json::json;

use crate::bench::{Bench, answer};

const SECRET: &str = "of-the-status-page";

#[tokio::test]
async fn a_webhook_with_the_secret_is_stored_and_no_other() {
    let bench = Bench::with(&[("RELINK_STATUS_WEBHOOK_SECRETS", SECRET)]).await;
    let body = InputKind::InstitutionStatus.example().to_string();
    let post = |path: &str| bench.request(Method::POST, path).body(body.clone());
    for path in ["/webhooks/belvo-status", "/webhooks/belvo-status?secret=", "/webhooks/belvo-status?secret=wrong"] {
        answer(post(path)).await.problem(401, "unauthorized");
    }
    // The secret of Belvo's webhooks is another one.
    let of_webhooks = post("/webhooks/belvo-status").header("authorization", crate::bench::WEBHOOK_SECRET);
    answer(of_webhooks).await.problem(401, "unauthorized");
    assert_eq!((bench.inputs().await.len(), bench.dead_letters().await.len()), (0, 0));
    assert_eq!(answer(post(&format!("/webhooks/belvo-status?secret={SECRET}"))).await.status, 200);
    assert_eq!(answer(post("/webhooks/belvo-status").header("authorization", SECRET)).await.status, 200);
    let stored = bench.inputs().await;
    assert_eq!(stored.len(), 2);
    for (subject, headers, payload) in stored {
        assert_eq!((subject.as_str(), &payload[..]), ("belvo.institution_status.status-page", body.as_bytes()));
        assert!(!format!("{headers:?}").contains(SECRET));
    }
}

#[tokio::test]
async fn without_a_configured_secret_the_endpoint_is_off() {
    let bench = Bench::new().await;
    let body = InputKind::InstitutionStatus.example().to_string();
    for path in ["/webhooks/belvo-status", "/webhooks/belvo-status?secret=", "/webhooks/belvo-status?secret=x"] {
        answer(bench.request(Method::POST, path).body(body.clone())).await.problem(401, "unauthorized");
    }
    assert_eq!((bench.inputs().await.len(), bench.dead_letters().await.len()), (0, 0));
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_dead_lettered() {
    let bench = Bench::with(&[("RELINK_STATUS_WEBHOOK_SECRETS", SECRET)]).await;
    let bodies = ["".to_owned(), "{".to_owned(), json!({"incident": 7}).to_string()];
    for body in &bodies {
        let path = format!("/webhooks/belvo-status?secret={SECRET}");
        let refused = answer(bench.request(Method::POST, &path).body(body.clone())).await;
        assert!((400..500).contains(&refused.status), "{}", refused.text);
    }
    let letters = bench.dead_letters().await;
    assert_eq!((bench.inputs().await.len(), letters.len()), (0, bodies.len()));
    for letter in letters {
        assert_eq!(letter.subject, "belvo.institution_status.status-page");
        assert_eq!(letter.reason, DeadReason::Malformed.as_str());
    }
}

//! The limits of Belvo: calls of its API, and requests for the data of a consent.

use std::time::Duration;

use belvo_sandbox::{AccessMode, NewFleetLink, RefreshRate, SandboxTime, WebhookDelivery};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{Fixture, RECURRENT};

/// 2026-01-10T00:00:00Z.
const START_MS: i64 = 1_768_003_200_000;
const HOUR: Duration = Duration::from_secs(3_600);

async fn with_manual_clock() -> Fixture {
    Fixture::with(|config| {
        config.time = SandboxTime::Driven { from_ms: START_MS };
        config.delivery = WebhookDelivery::ByHand;
    })
    .await
}

async fn used(fixture: &Fixture, link: Uuid, resource: &str) -> Value {
    let (status, rows) = fixture.get(&format!("/sandbox/links/{link}/quotas")).await;
    assert_eq!(status, 200);
    let row = rows.as_array().unwrap().iter().find(|row| row["resource"] == resource).unwrap();
    row["used"].clone()
}

#[tokio::test]
async fn too_many_calls_get_the_page_of_the_proxy() {
    let fixture = Fixture::with(|config| {
        config.requests_per_30s = Some(3);
        config.time = SandboxTime::Driven { from_ms: START_MS };
    })
    .await;
    assert_eq!(fixture.get("/api/links/").await.0, 200);
    fixture.control.advance(Duration::from_secs(20));
    assert_eq!(fixture.post("/api/token/", json!({})).await.0, 400, "the token call counts too");
    assert_eq!(fixture.refused(Method::GET, "/api/links/?status=sad", Value::Null).await.0, 400);
    let url = format!("{}/api/links/", fixture.sandbox.url());
    let response = fixture.client.post(url).body("x".repeat(10_000)).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"].to_str().unwrap()[..9]),
        (403, "text/html")
    );
    assert!(response.text().await.unwrap().contains("403 Forbidden"));
    assert_eq!(fixture.get("/sandbox/links").await.0, 200, "the control API has no rate limit");
    fixture.control.advance(Duration::from_secs(10));
    assert_eq!(fixture.get("/api/links/").await.0, 200);
    assert_eq!(fixture.get("/api/links/").await.0, 403, "the two calls of 10 s ago still count");
}

#[tokio::test]
async fn a_consent_has_a_monthly_quota() {
    let fixture = with_manual_clock().await;
    let link = fixture.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    let refresh = format!("/api/links/{link}/refresh/");
    let only = |resource: &str| json!({"fetch_resources": [resource]});
    for call in 0..8 {
        if call % 2 == 0 {
            assert_eq!(fixture.post(&refresh, only("ACCOUNTS")).await.0, 202);
        } else {
            assert_eq!(fixture.log_in(link).await.0, 201);
        }
        fixture.control.advance(HOUR);
    }
    assert_eq!(used(&fixture, link, "ACCOUNTS").await, 8);
    let accessed = fixture.control.link(link).unwrap()["last_accessed_at"].clone();
    for (path, body) in [(refresh.as_str(), Value::Null), ("/api/accounts/", json!({"link": link}))] {
        let (status, error) = fixture.refused(Method::POST, path, body).await;
        assert_eq!((status, &error["code"]), (400, &json!("operational_limits_reached")));
    }
    assert_eq!(fixture.control.link(link).unwrap()["last_accessed_at"], accessed, "no login was attempted");
    assert_eq!(fixture.post(&refresh, only("OWNERS")).await.0, 202, "each resource has its own limit");
    assert_eq!((used(&fixture, link, "ACCOUNTS").await, used(&fixture, link, "OWNERS").await), (json!(8), json!(1)));
    assert_eq!(fixture.status(link).await, "valid", "a quota error does not change the link");

    // 2026-02-01T00:00:00Z
    fixture.control.advance_to(START_MS + 22 * 24 * 3_600 * 1_000 - 1);
    assert_eq!(fixture.log_in(link).await.0, 400);
    fixture.control.advance_to(START_MS + 22 * 24 * 3_600 * 1_000);
    assert_eq!(fixture.log_in(link).await.0, 201);
    assert_eq!(used(&fixture, link, "ACCOUNTS").await, 1);
}

#[tokio::test]
async fn only_consents_have_quotas_and_scheduled_refreshes_are_free() {
    let fixture = Fixture::with(|config| {
        config.time = SandboxTime::Driven { from_ms: START_MS };
        config.delivery = WebhookDelivery::ByHand;
        config.schedule = true;
    })
    .await;
    let password = fixture.control.add_link("erebor_mx_retail", AccessMode::Single, None).unwrap();
    for _ in 0..20 {
        assert_eq!(fixture.log_in(password).await.0, 201);
    }
    assert_eq!(fixture.get(&format!("/sandbox/links/{password}/quotas")).await.1, json!([]));
    let consent = fixture.control.add_fleet_link(NewFleetLink {
        institution: "ofmockbank_br_retail".into(),
        refresh_rate: Some(RefreshRate::SixHours),
        ..NewFleetLink::default()
    });
    fixture.control.advance(20 * 24 * HOUR);
    assert!(fixture.control.take_webhooks().len() > 4 * 8 * 4, "four refreshes a day for twenty days");
    assert_eq!(used(&fixture, consent.unwrap(), "ACCOUNTS").await, 0);
    assert_eq!(fixture.get(&format!("/sandbox/links/{}/quotas", Uuid::nil())).await.0, 404);
}

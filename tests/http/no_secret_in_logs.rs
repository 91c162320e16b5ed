//! No secret and no part of a body is ever logged, at any endpoint and level.

use belvo_sandbox::{AccessMode, ApiFault, Sandbox, SandboxConfig};
use relink::link::{Consent, State};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;

use crate::bench::{Bench, LINK, answer};
use crate::capture;

/// Each secret is a different text, so a leak shows its source.
const WEBHOOK: &str = "Bearer planted-webhook-secret";
const TOKEN: &str = "planted-api-token";
const PASSWORD: &str = "planted-belvo-password";

#[tokio::test]
async fn a_planted_secret_never_appears_in_the_log() {
    let config = SandboxConfig { secret_password: SecretString::from(PASSWORD), ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    let url = sandbox.url();
    let bench = Bench::with(&[
        ("RELINK_WEBHOOK_SECRETS", WEBHOOK),
        ("RELINK_API_TOKENS", TOKEN),
        ("RELINK_BELVO_URL", &url),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", PASSWORD),
    ])
    .await;
    let webhook = |authorization: &str, body: String| {
        answer(bench.request(Method::POST, "/webhooks/belvo").header("authorization", authorization).body(body))
    };
    let v1 = |token: &str, path: String, body: String| {
        answer(bench.request(Method::POST, &path).bearer_auth(token).body(body))
    };
    let good = json!({"webhook_type": "PLANTED", "webhook_code": "unknown_code", "link_id": LINK,
        "external_id": "planted-external-id", "data": {"secret": "planted-webhook-body"}});
    let mut statuses = vec![
        webhook(WEBHOOK, good.to_string()).await.status,
        webhook("Bearer planted-wrong-secret", good.to_string()).await.status,
        webhook(WEBHOOK, "planted-not-json".into()).await.status,
        webhook(WEBHOOK, json!({"link_id": "planted link id"}).to_string()).await.status,
    ];
    let error = json!({"http_status": 428, "method": "POST", "path": "/api/accounts/", "link_id": LINK,
        "body": [{"code": "token_required", "session": "planted-session", "link": LINK}]});
    let wrong_shape = json!({"http_status": "planted-status", "method": "GET", "path": "/"});
    let commands = format!("/v1/links/{LINK}/commands");
    statuses.extend([
        v1(TOKEN, "/v1/api-errors".into(), error.to_string()).await.status,
        v1(TOKEN, "/v1/api-errors".into(), wrong_shape.to_string()).await.status,
        v1("planted-wrong-token", "/v1/api-errors".into(), error.to_string()).await.status,
        v1(TOKEN, commands.clone(), json!({"command": "planted-command"}).to_string()).await.status,
        v1(TOKEN, commands, json!({"command": "mute", "reason": "planted-reason"}).to_string()).await.status,
        v1(TOKEN, "/v1/dead-letters/1/replay".into(), String::new()).await.status,
        answer(bench.request(Method::GET, "/v1/dead-letters/1").bearer_auth(TOKEN)).await.status,
        answer(bench.request(Method::GET, "/v1/links?state=planted-state").bearer_auth(TOKEN)).await.status,
    ]);
    assert_eq!(statuses, [200, 401, 400, 422, 202, 422, 401, 422, 202, 409, 200, 400]);

    let minted = v1(TOKEN, format!("/v1/links/{link}/update"), String::new()).await;
    assert_eq!(minted.status, 200, "{}", minted.text);
    // The request of a renewal contains personal data.
    let consent = Some(Consent { id: Some("c1".into()), ..Consent::default() });
    bench.put_with_consent(&link.to_string(), "ofmockbank_br_retail", State::Valid { suspicion: None }, consent);
    let person = json!({"number": "planted-document", "name": "planted-name"});
    let renewal = json!({"widget": {"consent": {"identification_info": [person]}}}).to_string();
    assert_eq!(v1(TOKEN, format!("/v1/links/{link}/update"), renewal.clone()).await.status, 200);
    sandbox.control().fail_api(ApiFault::server_error(), 1, "/api/token/").unwrap();
    assert_eq!(v1(TOKEN, format!("/v1/links/{link}/update"), renewal).await.status, 502);
    let access = minted.body["access"].as_str().unwrap();
    let unknown = v1(TOKEN, format!("/v1/links/{LINK}/update"), String::new()).await;
    assert_eq!(unknown.status, 502);

    let log = capture::log();
    assert!(log.contains("a request was refused"), "the log was captured");
    let leak = log.lines().find(|line| line.contains("planted") || line.contains("PLANTED-") || line.contains(access));
    assert_eq!(leak, None);
    // async-nats logs the answers of JetStream, which have messages in base64.
    let answer_of_jetstream = log.lines().find(|line| line.contains("async_nats") && line.contains("request response"));
    assert_eq!(answer_of_jetstream, None);
    let metrics = answer(bench.request(Method::GET, "/metrics")).await.text;
    assert!(!metrics.contains("planted"), "{metrics}");
}

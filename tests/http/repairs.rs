//! `POST /v1/links/{id}/update`, with the simulated Belvo.

use belvo_sandbox::{AccessMode, ApiFault, Sandbox, SandboxConfig};
use relink::link::{Consent, State};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bench::{API_TOKEN, Bench, LINK, answer};

/// An HTTP server with keys, the simulated Belvo for it, and a link at that Belvo.
async fn bench(password: &str) -> (Bench, Sandbox, Uuid) {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    let (url, widget) = (sandbox.url(), format!("{}/widget/", sandbox.url()));
    let bench = Bench::with(&[
        ("RELINK_NAMED_API_TOKENS", "app:read+repair:t-app"),
        ("RELINK_API_TOKENS", API_TOKEN),
        ("RELINK_BELVO_URL", &url),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", password),
        ("RELINK_BELVO_WIDGET_URL", &widget),
    ])
    .await;
    (bench, sandbox, link)
}

#[tokio::test]
async fn a_minted_token_is_only_in_the_answer() {
    let (bench, sandbox, link) = bench("sandbox").await;
    let answer = bench.post(&format!("/v1/links/{link}/update"), json!({"locale": "pt"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let access = answer.body["access"].as_str().unwrap();
    let widget_url = answer.body["widget_url"].as_str().unwrap();
    assert_eq!(widget_url, format!("{}/widget/?access_token={access}&locale=pt", sandbox.url()));
    assert_eq!((&answer.body["expires_in"], &answer.body["link_id"]), (&json!(600), &json!(link)));
    assert!(answer.body["refresh"].is_string());

    let stored = bench.inputs().await;
    assert_eq!((stored.len(), stored[0].0.as_str()), (1, format!("belvo.widget.{link}").as_str()));
    let body: Value = serde_json::from_slice(&stored[0].2).unwrap();
    assert_eq!(body, json!({"event": "started", "expires_in_seconds": 600}), "the message must not contain the token");
    let page = reqwest::get(widget_url).await.unwrap();
    assert!(page.status().is_success(), "the address must open the widget");
}

/// So that `relink why` can say who let the user in.
#[tokio::test]
async fn the_attempt_names_the_token_of_the_caller() {
    let (bench, _sandbox, link) = bench("sandbox").await;
    let path = format!("/v1/links/{link}/update");
    let answer = answer(bench.request(Method::POST, &path).bearer_auth("t-app")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let (_, headers, _) = &bench.inputs().await[0];
    assert_eq!(headers.get("Relink-Token").map(|name| name.as_str()), Some("app"));
}

#[tokio::test]
async fn an_empty_body_is_accepted_and_an_unknown_locale_is_refused() {
    let (bench, _sandbox, link) = bench("sandbox").await;
    let path = format!("/v1/links/{link}/update");
    let answer = bench.post(&path, "").await;
    assert!(answer.status == 200 && !answer.body["widget_url"].as_str().unwrap().contains("locale"));
    assert_eq!(bench.post(&path, json!({"locale": "de"})).await.problem(422, "wrong-shape")["at"], "/locale");
    bench.post(&path, json!(["es", {}])).await.problem(422, "wrong-shape");
    bench.post(&path, json!({"colour": "red"})).await.problem(422, "wrong-shape");
    bench.post(&path, "{").await.problem(400, "not-json");
    assert_eq!(bench.inputs().await.len(), 1);
}

#[tokio::test]
async fn a_link_with_a_consent_is_renewed_in_the_portal() {
    let (bench, sandbox, link) = bench("sandbox").await;
    let consent = Consent {
        id: Some("b2c17cb6".into()),
        institution_display_name: Some("Mock Bank & Sons".into()),
        ..Consent::default()
    };
    bench.put_with_consent(&link.to_string(), "ofmockbank_br_retail", State::Valid { suspicion: None }, Some(consent));
    let path = format!("/v1/links/{link}/update");
    let detail = bench.post(&path, "").await;
    assert_eq!(detail.problem(422, "wrong-shape")["at"], "/widget");

    let person = json!({"type": "CPF", "number": "76109277673", "name": "Ralph Bragg"});
    let widget = json!({"branding": {}, "consent": {"identification_info": [person]}});
    let answer = bench.post(&path, json!({"widget": widget})).await;
    assert_eq!((answer.status, answer.headers["cache-control"].as_bytes()), (200, &b"no-store"[..]), "{}", answer.text);
    let access = answer.body["access"].as_str().unwrap();
    let expected = format!(
        "https://meuportal.belvo.com/?access_token={access}&link_id={link}&consent_id=b2c17cb6\
         &institution=ofmockbank_br_retail&institution_display_name=Mock+Bank+%26+Sons&action=renew"
    );
    assert_eq!(answer.body["widget_url"], expected);
    let stored = bench.inputs().await;
    let body: Value = serde_json::from_slice(&stored[0].2).unwrap();
    assert_eq!(
        (stored.len(), body),
        (1, json!({"event": "started", "expires_in_seconds": 600})),
        "the message must not contain personal data"
    );

    // Belvo's error may contain personal data, so it is answered and not published.
    sandbox.control().fail_api(ApiFault::Error("invalid_link".into()), 1, "/api/token/").unwrap();
    let refused = bench.post(&path, json!({"widget": widget})).await;
    assert_eq!(refused.problem(502, "belvo-refused")["belvo_code"], "invalid_link");
    assert_eq!(bench.inputs().await.len(), 1);
}

#[tokio::test]
async fn without_keys_the_answer_names_the_settings() {
    let bench = Bench::new().await;
    let answer = bench.post(&format!("/v1/links/{LINK}/update"), "").await;
    let detail = answer.problem(503, "no-belvo-keys")["detail"].as_str().unwrap();
    assert!(detail.contains("RELINK_BELVO_SECRET_PASSWORD"), "{detail}");
}

#[tokio::test]
async fn wrong_keys_are_answered_502_and_publish_nothing() {
    let (bench, _sandbox, link) = bench("wrong-password").await;
    let answer = bench.post(&format!("/v1/links/{link}/update"), "").await;
    let problem = answer.problem(502, "belvo-refused");
    assert_eq!(problem["class"], "keys", "{}", answer.text);
    assert!(!answer.text.contains("wrong-password"));
    assert!(bench.inputs().await.is_empty());
}

#[tokio::test]
async fn an_outage_of_belvo_is_answered_with_retry_after() {
    let (bench, sandbox, link) = bench("sandbox").await;
    sandbox.control().fail_api(ApiFault::server_error(), 1, "/api/token/").unwrap();
    let answer = bench.post(&format!("/v1/links/{link}/update"), "").await;
    answer.problem(502, "belvo-refused");
    assert!(answer.headers.contains_key("retry-after"));
    assert!(bench.inputs().await.is_empty());
}

#[tokio::test]
async fn an_error_of_belvo_about_the_link_is_published() {
    let (bench, sandbox, link) = bench("sandbox").await;
    sandbox.control().fail_api(ApiFault::Error("invalid_link".into()), 1, "/api/token/").unwrap();
    let answer = bench.post(&format!("/v1/links/{link}/update"), "").await;
    let problem = answer.problem(502, "belvo-refused");
    assert_eq!((&problem["belvo_status"], &problem["belvo_code"]), (&json!(400), &json!("invalid_link")));
    let stored = bench.inputs().await;
    assert_eq!((stored.len(), stored[0].0.as_str()), (1, format!("belvo.api_error.{link}").as_str()));
    assert_eq!(problem["sequence"], 1);
}

#[tokio::test]
async fn belvos_widget_object_is_passed_on_and_what_is_not_used_is_refused() {
    let (bench, sandbox, link) = bench("sandbox").await;
    for wrong in [json!("https://app.example.com"), json!({"success": "done"}), json!({"exit": 7})] {
        let answer = bench.post(&format!("/v1/links/{link}/update"), json!({"widget": {"callback_urls": wrong}})).await;
        assert_eq!(answer.problem(422, "wrong-shape")["at"], "/widget/callback_urls");
    }
    let path = format!("/v1/links/{link}/update");
    let widget =
        json!({"callback_urls": {"success": "https://app.example.com/done"}, "branding": {"company_name": "Acme"}});
    let answer = bench.post(&path, json!({"widget": widget, "locale": "es"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let complete = json!({"access_token": answer.body["access"], "outcome": "success"});
    let done = bench.client.post(format!("{}/widget/complete", sandbox.url())).json(&complete).send().await.unwrap();
    let url = format!("https://app.example.com/done?link={link}&institution=erebor_mx_retail");
    assert_eq!(done.headers()["x-sandbox-callback-url"], url, "the user returns to the caller");

    for unused in ["consent", "openfinance_feature"] {
        let refused = bench.post(&path, json!({"widget": {unused: {}}})).await;
        assert_eq!(refused.problem(422, "wrong-shape")["at"], format!("/widget/{unused}"));
    }
    let consent = Consent { id: Some("b2c17cb6".into()), ..Consent::default() };
    bench.put_with_consent(&link.to_string(), "ofmockbank_br_retail", State::Valid { suspicion: None }, Some(consent));
    let refused = bench.post(&path, json!({"widget": {"consent": {}}, "locale": "pt"})).await;
    assert_eq!(refused.problem(422, "wrong-shape")["at"], "/locale");
    assert_eq!(bench.inputs().await.len(), 1);
}

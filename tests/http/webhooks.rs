//! `POST /webhooks/belvo`: documented payloads, credentials, and every kind of error.

use std::time::Duration;

use relink::contract::DeadReason;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::{Bench, LINK, WEBHOOK_SECRET, answer};
use crate::support::within;

/// Belvo's documented payloads, of several generations, and some unknown ones.
fn payloads() -> Vec<Value> {
    vec![
        json!({"webhook_id": "aadf41a1fc8e4f79a49f7f04027ac999", "webhook_type": "LINK",
            "process_type": "recurrent_update", "webhook_code": "invalid_credentials", "link_id": LINK,
            "request_id": "4363b08b-51eb-4350-9c74-5df5ac92a7f6", "external_id": "your_external_id",
            "data": {"error_code": "login_error", "status": 400,
                "error_message": "Invalid credentials provided to login to the institution"}}),
        // The oldest form: no request id, no external id, no process type.
        json!({"webhook_id": "aadf41a1fc8e4f79a49f7f04027ac999", "webhook_type": "LINK",
            "webhook_code": "token_required", "link_id": LINK, "data": {}}),
        json!({"webhook_id": "c9d0", "webhook_type": "CONSENT", "webhook_code": "openfinance_consent_about_to_expire",
            "link_id": LINK, "external_id": null, "data": {"consent_id": "x", "action": "renew",
                "consent_due_date": "2026-12-01T00:00:00.123456+00:00"}}),
        json!({"webhook_id": "c9d1", "webhook_type": "TRANSACTIONS", "webhook_code": "new_transactions_available",
            "process_type": "recurrent_update", "link_id": LINK, "request_id": "r", "data": {"new_transactions": 3}}),
        json!({"webhook_id": "c9d2", "webhook_type": "TAX_RETURNS", "webhook_code": "historical_update",
            "link_id": LINK, "data": {"type": "yearly", "total_tax_returns": 5}}),
        json!({"webhook_type": "LINKS", "webhook_code": "link_healed", "link_id": LINK, "new_field": [1, 2]}),
        json!({"webhook_type": "HOROSCOPES", "webhook_code": "new_horoscopes_available", "link_id": LINK}),
    ]
}

#[tokio::test]
async fn documented_payloads_are_stored_byte_for_byte() {
    let bench = Bench::new().await;
    // Unusual spaces, which a parsed and serialised copy would not have.
    let bodies: Vec<String> = payloads().iter().map(|payload| format!(" {payload:#}\n")).collect();
    for (at, body) in bodies.iter().enumerate() {
        let answer = answer(bench.webhook(body.clone()).header("content-type", "application/json")).await;
        assert_eq!((answer.status, &answer.body["sequence"]), (200, &json!(at + 1)), "{}", answer.text);
    }
    let stored = bench.inputs().await;
    assert_eq!(stored.len(), bodies.len());
    for ((subject, headers, stored), sent) in stored.iter().zip(&bodies) {
        assert_eq!(subject, &format!("belvo.webhook.{LINK}"));
        assert_eq!(&stored[..], sent.as_bytes());
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        assert_eq!((header("ce-specversion"), header("ce-type")), ("1.0".into(), "belvo.webhook".into()));
        assert_eq!((header("ce-subject"), header("content-type")), (LINK.into(), "application/json".into()));
        assert!(header("ce-id").len() == 36 && header("ce-time").ends_with('Z'), "{headers:?}");
        assert!(headers.get("Nats-Msg-Id").is_none());
    }
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_missing_content_type_is_accepted_and_a_link_id_is_lower_cased() {
    let bench = Bench::new().await;
    let body = json!({"webhook_type": "LINK", "webhook_code": "token_required", "link_id": LINK.to_uppercase()});
    let answer = answer(bench.webhook(body.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(bench.inputs().await[0].0, format!("belvo.webhook.{LINK}"));
}

#[tokio::test]
async fn only_configured_authorization_values_are_accepted() {
    let bench = Bench::with(&[("RELINK_WEBHOOK_SECRETS", "Basic dXNlcjpwYXNz, Bearer next-one")]).await;
    let body = payloads()[0].to_string();
    let post = |value: Option<&str>| {
        let request = bench.request(Method::POST, "/webhooks/belvo").body(body.clone());
        answer(value.into_iter().fold(request, |request, value| request.header("authorization", value)))
    };
    for good in ["Basic dXNlcjpwYXNz", "Bearer next-one"] {
        assert_eq!(post(Some(good)).await.status, 200, "{good}");
    }
    for bad in ["Basic dXNlcjpwYXN6", "Bearer", "next-one", "Bearer next-one2", "basic dXNlcjpwYXNz", ""] {
        let refused = post(Some(bad)).await;
        refused.problem(401, "unauthorized");
        assert!(refused.headers.contains_key("www-authenticate"));
    }
    let refused = post(None).await;
    assert!(refused.problem(401, "unauthorized")["detail"].as_str().unwrap().contains("no Authorization header"));
    assert_eq!(bench.inputs().await.len(), 2);
    assert!(bench.dead_letters().await.is_empty(), "an unauthorized webhook must not be stored");
}

#[tokio::test]
async fn webhooks_without_credentials_are_accepted_only_if_configured() {
    let body = payloads()[0].to_string();
    let closed = Bench::with(&[]).await;
    answer(closed.request(Method::POST, "/webhooks/belvo").body(body.clone())).await.problem(401, "unauthorized");
    let open = Bench::with(&[("RELINK_ALLOW_OPEN_WEBHOOKS", "true")]).await;
    assert_eq!(answer(open.request(Method::POST, "/webhooks/belvo").body(body)).await.status, 200);
}

/// Body, status, slug, `at`, reason and subject of the dead letter.
type Case<'a> = (&'a str, u16, &'a str, Option<&'a str>, DeadReason, &'a str);

#[tokio::test]
async fn an_unreadable_webhook_is_dead_lettered_and_refused_with_the_place_of_the_error() {
    let bench = Bench::new().await;
    let subject = format!("belvo.webhook.{LINK}");
    let no_code = json!({"webhook_type": "LINK", "link_id": LINK}).to_string();
    let code_of_wrong_type = json!({"webhook_type": "LINK", "webhook_code": ["x"], "link_id": LINK}).to_string();
    let payments =
        r#"{"webhook_id": "1", "webhook_type": "PAYMENT_INTENTS", "webhook_code": "STATUS_UPDATE", "object_id": "x"}"#;
    let deep = "[".repeat(100_000);
    let cases: [Case<'_>; 11] = [
        ("", 400, "not-json", None, DeadReason::Malformed, "/webhooks/belvo"),
        ("hello", 400, "not-json", None, DeadReason::Malformed, "/webhooks/belvo"),
        ("{\"link_id\": \"a\"", 400, "not-json", None, DeadReason::Malformed, "/webhooks/belvo"),
        (deep.as_str(), 400, "not-json", None, DeadReason::Malformed, "/webhooks/belvo"),
        ("[]", 422, "wrong-shape", Some(""), DeadReason::NoLink, "/webhooks/belvo"),
        ("null", 422, "wrong-shape", Some(""), DeadReason::NoLink, "/webhooks/belvo"),
        ("{\"webhook_code\": \"x\"}", 422, "wrong-shape", Some("/link_id"), DeadReason::NoLink, "/webhooks/belvo"),
        ("{\"link_id\": \"a.b.*\"}", 422, "wrong-shape", Some("/link_id"), DeadReason::NoLink, "/webhooks/belvo"),
        (payments, 422, "wrong-shape", None, DeadReason::NoLink, "/webhooks/belvo"),
        (&no_code, 422, "wrong-shape", Some("/webhook_code"), DeadReason::Malformed, &subject),
        (&code_of_wrong_type, 422, "wrong-shape", Some("/webhook_code"), DeadReason::Malformed, &subject),
    ];
    for (at, (body, status, slug, place, reason, subject)) in cases.into_iter().enumerate() {
        let refused = answer(bench.webhook(body.to_owned())).await;
        let problem = refused.problem(status, slug);
        assert_eq!(problem.get("at").and_then(Value::as_str), place, "{}", refused.text);
        assert_eq!(problem["dead_letter"], at + 1, "{}", refused.text);
        let letters = bench.dead_letters().await;
        let letter = &letters[at];
        assert_eq!((letter.reason.as_str(), letter.subject.as_str()), (reason.as_str(), subject), "{body:.60}");
        assert_eq!(letter.payload, body.as_bytes());
        assert!(!letter.detail.is_empty());
        assert!(letter.headers.get("authorization").is_none());
    }
    assert!(bench.inputs().await.is_empty());
}

#[tokio::test]
async fn a_repeated_unreadable_webhook_is_one_dead_letter() {
    let bench = Bench::new().await;
    for _ in 0..6 {
        assert_eq!(answer(bench.webhook("hello")).await.problem(400, "not-json")["dead_letter"], 1);
    }
    assert_eq!(bench.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn the_body_decides_and_not_the_content_type() {
    let bench = Bench::new().await;
    let body = payloads()[0].to_string();
    let labels =
        ["text/plain", "application/json; charset=latin-1", "application/x-www-form-urlencoded", "🦀", "", "x"];
    for content in labels {
        let stored = answer(bench.webhook(body.clone()).header("content-type", content)).await;
        assert_eq!(stored.status, 200, "{content}: {}", stored.text);
    }
    assert_eq!(bench.inputs().await.len(), labels.len());
    for (content, status, slug) in [
        ("text/html", 415, "not-json-content"),
        ("application/x-www-form-urlencoded", 415, "not-json-content"),
        ("text/plain", 400, "not-json"),
    ] {
        let refused = answer(bench.webhook("payload=x").header("content-type", content)).await;
        assert!(refused.problem(status, slug)["dead_letter"].is_u64(), "{}", refused.text);
    }
    assert_eq!(bench.dead_letters().await.len(), 3, "each has its own content type");
}

#[tokio::test]
async fn a_body_beyond_a_mebibyte_is_refused_announced_or_not() {
    let bench = Bench::new().await;
    let padded = |length: usize| {
        let body = payloads()[0].to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    assert_eq!(answer(bench.webhook(padded(1 << 20))).await.status, 200);
    let refused = answer(bench.webhook(padded((1 << 20) + 1))).await;
    assert_eq!(refused.problem(413, "too-large")["dead_letter"], 1, "a body that is too large must be dead-lettered");

    // The same in chunks, without a length that could be checked first.
    let address = bench.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /webhooks/belvo HTTP/1.1\r\nhost: x\r\nauthorization: {WEBHOOK_SECRET}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..17 {
        // The server may close the connection before the end.
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut start = [0; 12];
    within("the answer", stream.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    assert_eq!(bench.inputs().await.len(), 1);
}

#[tokio::test]
async fn without_nats_the_answer_is_503_within_belvos_timeout() {
    let bench = Bench::new().await;
    let Bench { nats, client, url, served, .. } = bench;
    nats.server.kill().await.unwrap();
    let post = |body: String| {
        let request = client.post(format!("{url}/webhooks/belvo")).header("authorization", WEBHOOK_SECRET).body(body);
        tokio::time::timeout(Duration::from_secs(5), answer(request))
    };
    for body in [payloads()[0].to_string(), "hello".to_owned()] {
        let refused = post(body).await.expect("an answer within Belvo's timeout");
        refused.problem(503, "unavailable");
        assert!(refused.headers.contains_key("retry-after"));
    }
    served.abort();
}

/// The reasons of the other parts are collected once in a second; those of the journal are looked up for each answer.
#[tokio::test]
async fn a_journal_that_has_just_become_full_is_not_ready() {
    let settings = [
        ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET),
        ("RELINK_HTTP_ACKNOWLEDGE", "journal"),
        ("RELINK_JOURNAL_MAX_BYTES", "64MiB"),
    ];
    let mut bench = Bench::with(&settings).await;
    bench.nats.kill().await;
    let large = payloads()[0].to_string() + &" ".repeat(1_000_000);
    let mut statuses = Vec::new();
    while statuses.last().is_none_or(|status| *status == 200) && statuses.len() < 100 {
        statuses.push(answer(bench.webhook(large.clone())).await.status);
    }
    assert_eq!(statuses.last(), Some(&503));
    for path in ["/readyz", "/readyz/inputs"] {
        let refused = answer(bench.request(Method::GET, path)).await;
        refused.problem(503, "not-ready");
        assert!(refused.body["detail"].to_string().contains("has reached its size"), "{path}: {}", refused.text);
    }
}

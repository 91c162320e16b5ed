//! `POST /webhooks/belvo` through gateways that compress, re-encode, relabel or rewrite the webhook.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use relink::belvo::{Meaning, link_of_webhook, translate};
use relink::contract::{DeadReason, InputKind};
use relink::link::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET, answer};

fn webhook() -> String {
    json!({"webhook_id": "a", "webhook_type": "LINK", "webhook_code": "token_required", "link_id": LINK,
        "external_id": "José", "data": {}})
    .to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The `external_id` that the engine reads in a stored webhook.
fn external_id(stored: &[u8]) -> Option<String> {
    assert_eq!(link_of_webhook(stored).unwrap().as_str(), LINK);
    match translate(InputKind::Webhook, &LINK.parse().unwrap(), stored, Timestamp::default()).unwrap() {
        Meaning::Event(input) => input.profile.external_id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unusual_encodings_are_stored_unchanged_and_are_readable() {
    let bench = Bench::new().await;
    let text = webhook();
    let named = |id: &str| text.replace("\"José\"", id).into_bytes();
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("a byte order mark", [b"\xef\xbb\xbf", text.as_bytes()].concat(), Some("José")),
        ("UTF-16", [&b"\xff\xfe"[..], &utf16].concat(), Some("José")),
        ("half a surrogate pair", named("\"x\\ud83d\""), Some("x\u{fffd}")),
        ("Latin-1", text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect(), Some("José")),
        ("a line break", named("\"one\ntwo\""), Some("one\ntwo")),
        ("twenty digits", named("12345678901234567890123"), Some("12345678901234567890123")),
        ("blanks", named("\"  7 \""), Some("  7 ")),
        ("a list of one", format!("[{text}]").into_bytes(), Some("José")),
        ("a text", Value::from(text.clone()).to_string().into_bytes(), Some("José")),
    ];
    for (name, body, id) in &cases {
        let stored = answer(bench.webhook(body.clone())).await;
        assert_eq!(stored.status, 200, "{name}: {}", stored.text);
        let inputs = bench.inputs().await;
        let (subject, _, kept) = inputs.last().unwrap();
        assert_eq!((subject.as_str(), &kept[..]), (format!("belvo.webhook.{LINK}").as_str(), &body[..]), "{name}");
        assert_eq!(external_id(kept).as_deref(), *id, "{name}");
    }
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_compressed_body_is_stored_decompressed() {
    let bench = Bench::new().await;
    let text = webhook();
    let bytes = text.as_bytes();
    for (coding, body) in [
        (Some("gzip"), gzip(bytes)),
        (Some("X-GZIP"), gzip(bytes)),
        (Some("deflate"), zlib(bytes)),
        (Some("deflate"), deflate(bytes)),
        (Some("identity, gzip"), gzip(bytes)),
        (Some("deflate, gzip"), gzip(&zlib(bytes))),
        // A gateway that dropped the header, and others that kept it after they had decompressed the body.
        (None, gzip(bytes)),
        (Some("gzip"), bytes.to_vec()),
        (Some("br"), bytes.to_vec()),
        (Some("utf-8"), bytes.to_vec()),
    ] {
        let request = bench.webhook(body);
        let request = coding.into_iter().fold(request, |request, coding| request.header("content-encoding", coding));
        let stored = answer(request).await;
        assert_eq!(stored.status, 200, "{coding:?}: {}", stored.text);
        assert_eq!(&bench.inputs().await.last().unwrap().2[..], bytes, "{coding:?}");
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_decompressed_is_dead_lettered_and_refused() {
    let bench = Bench::new().await;
    let whole = gzip(webhook().as_bytes());
    let bomb = gzip(&vec![b' '; 64 << 20]);
    for (at, (coding, body, status, slug)) in [
        ("br", b"\x0b\x02\x80hello\x03".to_vec(), 415, "unknown-coding"),
        ("zstd", b"\x28\xb5\x2f\xfd".to_vec(), 415, "unknown-coding"),
        ("gzip", whole[..whole.len() - 9].to_vec(), 400, "not-json"),
        ("gzip", bomb, 413, "too-large"),
        ("deflate", b"\xff\xff\xff".to_vec(), 400, "not-json"),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = answer(bench.webhook(body.clone()).header("content-encoding", coding)).await;
        assert_eq!(refused.problem(status, slug)["dead_letter"], at + 1, "{}", refused.text);
        assert_eq!(refused.headers.contains_key("accept-encoding"), status == 415);
        let letters = bench.dead_letters().await;
        assert_eq!(
            (&letters[at].payload[..], letters[at].reason.as_str()),
            (&body[..], DeadReason::Malformed.as_str())
        );
        assert_eq!(letters[at].headers.get("content-encoding").map(|value| value.as_str()), Some(coding));
    }
    assert!(bench.inputs().await.is_empty());
}

#[tokio::test]
async fn every_spelling_of_the_webhook_path_is_accepted() {
    let bench = Bench::new().await;
    let post =
        |path: &str| answer(bench.request(Method::POST, path).header("authorization", WEBHOOK_SECRET).body(webhook()));
    let spellings = [
        "/webhooks/belvo/",
        "//webhooks/belvo",
        "/webhooks//belvo//",
        "/Webhooks/BELVO",
        "/webhooks/belvo?env=prod",
        "/webhooks/belvo/?",
    ];
    for path in spellings {
        assert_eq!(post(path).await.status, 200, "{path}");
    }
    assert_eq!(bench.inputs().await.len(), spellings.len());
    let metrics = answer(bench.request(Method::GET, "/metrics")).await.text;
    assert!(metrics.contains("route=\"/webhooks/belvo\",method=\"POST\",status=\"200\""), "{metrics}");
    let refused = answer(bench.request(Method::POST, "/webhooks/belvo/").body(webhook())).await;
    refused.problem(401, "unauthorized");
    let command = format!("/v1/links/{LINK}/commands/");
    assert_eq!(bench.post(&command, json!({"command": "verify"})).await.status, 202);
}

#[tokio::test]
async fn a_webhook_at_an_unknown_path_is_dead_lettered_and_can_be_replayed() {
    let bench = Bench::new().await;
    let post = |path: &str, secret: &str, body: String| {
        answer(bench.request(Method::POST, path).header("authorization", secret).body(body))
    };
    for (at, path) in ["/webhooks", "/webhook/belvo", "/webhooks/belvo/x", "/"].into_iter().enumerate() {
        let body = webhook().replace("\"a\"", &format!("\"{at}\""));
        assert_eq!(post(path, WEBHOOK_SECRET, body).await.problem(404, "not-found")["dead_letter"], at + 1, "{path}");
    }
    post("/webhooks", WEBHOOK_SECRET, "hello".to_owned()).await.problem(404, "not-found");
    for (path, secret) in [("/webhooks", "Basic x"), ("/v1/webhooks", WEBHOOK_SECRET)] {
        let refused = post(path, secret, webhook()).await;
        assert!(
            refused.body.get("dead_letter").is_none(),
            "a request without the webhook secret must not be stored: {}",
            refused.text
        );
    }
    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 5);
    assert_eq!(
        (letters[0].subject.as_str(), letters[0].reason.as_str()),
        (format!("belvo.webhook.{LINK}").as_str(), "unknown_subject")
    );
    assert!(letters[0].detail.contains("/webhooks"), "{}", letters[0].detail);
    let replayed = answer(bench.request(Method::POST, "/v1/dead-letters/1/replay").bearer_auth(API_TOKEN)).await;
    assert_eq!(replayed.status, 200, "{}", replayed.text);
    assert_eq!(bench.inputs().await.len(), 1);
}

#[tokio::test]
async fn a_probe_of_the_address_needs_no_credentials() {
    let bench = Bench::new().await;
    let ask = |method: Method, path: &str| answer(bench.request(method, path));
    for path in ["/webhooks/belvo", "/webhooks/belvo/", "/webhooks/belvo?challenge=x"] {
        let got = ask(Method::GET, path).await;
        assert_eq!((got.status, got.body), (200, json!({"status": "send webhooks to this address with POST"})));
        let head = ask(Method::HEAD, path).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
        let options = ask(Method::OPTIONS, path).await;
        assert_eq!((options.status, options.headers["allow"].to_str().unwrap()), (204, "GET, HEAD, OPTIONS, POST"));
    }
    let refused = ask(Method::PUT, "/webhooks/belvo").await;
    refused.problem(405, "method-not-allowed");
    assert!(bench.inputs().await.is_empty() && bench.dead_letters().await.is_empty());
}

#[tokio::test]
async fn reports_are_read_in_the_same_encodings() {
    let bench = Bench::new().await;
    let report = json!({"http_status": 428, "method": "POST", "path": "/api/accounts/", "link_id": LINK,
        "body": [{"code": "token_required", "message": "é", "session": "2675b703b9d4451f8d4861a3eee54449"}]});
    let text = report.to_string();
    for (name, body, header) in [
        ("a byte order mark", [b"\xef\xbb\xbf", text.as_bytes()].concat(), ("content-type", "text/plain")),
        ("gzip", gzip(text.as_bytes()), ("content-encoding", "gzip")),
        ("Latin-1", text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect(), ("x", "y")),
        (
            "half a surrogate pair",
            text.replace('é', "\\udc00").into_bytes(),
            ("content-type", "application/x-www-form-urlencoded"),
        ),
    ] {
        let request = bench.request(Method::POST, "/v1/api-errors").bearer_auth(API_TOKEN).header(header.0, header.1);
        let stored = answer(request.body(body)).await;
        assert_eq!(stored.status, 202, "{name}: {}", stored.text);
        let kept = bench.inputs().await.last().unwrap().2.clone();
        assert!(!String::from_utf8_lossy(&kept).contains("2675b703"), "{name}");
    }
}

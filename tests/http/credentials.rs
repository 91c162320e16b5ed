//! Credentials, health endpoints, failures of a handler, and the stop of the server.

use relink::link::LinkId;
use relink::store::{MemoryStore, Page, Query, StoreError, StoredLink};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET, answer};
use crate::support::store::{ChangedStore, Operations};
use crate::support::within;

#[tokio::test]
async fn v1_requires_a_token() {
    let bench = Bench::with(&[("RELINK_API_TOKENS", "one,two")]).await;
    let get = |value: Option<&str>, path: &str| {
        let request = bench.request(Method::GET, path);
        answer(value.into_iter().fold(request, |request, value| request.header("authorization", value)))
    };
    for good in ["Bearer one", "bearer two", "Bearer  one"] {
        assert_eq!(get(Some(good), "/v1/summary").await.status, 200, "{good}");
    }
    for bad in ["Bearer three", "Bearer on", "Bearer ", "Basic one", "one", "Bearer one,two"] {
        let refused = get(Some(bad), "/v1/summary").await;
        refused.problem(401, "unauthorized");
        assert!(refused.headers.contains_key("www-authenticate"));
    }
    get(None, "/v1/summary").await.problem(401, "unauthorized");
    get(None, "/v1/no-such-path").await.problem(401, "unauthorized");
    get(Some("Bearer one"), "/v1/no-such-path").await.problem(404, "not-found");
}

#[tokio::test]
async fn without_configured_tokens_v1_refuses_every_request() {
    let bench = Bench::with(&[]).await;
    for (method, path) in [
        (Method::POST, "/v1/api-errors".to_owned()),
        (Method::GET, "/v1/links".into()),
        (Method::GET, format!("/v1/links/{LINK}")),
        (Method::GET, format!("/v1/links/{LINK}/history")),
        (Method::POST, format!("/v1/links/{LINK}/update")),
        (Method::POST, format!("/v1/links/{LINK}/widget")),
        (Method::POST, format!("/v1/links/{LINK}/commands")),
        (Method::GET, "/v1/summary".into()),
        (Method::GET, "/v1/dead-letters".into()),
        (Method::GET, "/v1/dead-letters/1".into()),
        (Method::POST, "/v1/dead-letters/1/replay".into()),
    ] {
        let refused = answer(bench.request(method, &path).bearer_auth("")).await;
        let detail = refused.problem(401, "unauthorized")["detail"].as_str().unwrap();
        assert!(detail.contains("RELINK_API_TOKENS"), "{path}: {detail}");
    }
}

#[tokio::test]
async fn health_endpoints_need_no_credentials() {
    let bench = Bench::new().await;
    let get = |path: &str| answer(bench.request(Method::GET, path));
    assert_eq!(get("/healthz").await.body["status"], "alive");
    let waiting = json!({"waiting": 0, "bytes": 0, "oldest_at": null});
    assert_eq!(get("/readyz").await.body, json!({"status": "ready", "journal": waiting}));
    bench.not_ready.send_replace(vec!["NATS does not answer".to_owned()]);
    let answer = get("/readyz").await;
    answer.problem(503, "not-ready");
    assert_eq!(answer.body["reasons"], json!(["NATS does not answer"]));
    get("/nothing-here").await.problem(404, "not-found");
    let metrics = get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let expected = "relink_http_requests_total{route=\"/readyz\",method=\"GET\",status=\"503\"}";
    assert!(metrics.text.contains(expected), "{}", metrics.text);
    assert!(!metrics.text.contains("nothing-here"), "a path that a caller chose must not be a label");
}

#[tokio::test]
async fn a_wrong_method_is_answered_with_the_allowed_ones() {
    let bench = Bench::new().await;
    for (method, path, allowed) in [
        (Method::PUT, "/webhooks/belvo", "POST,GET,HEAD,OPTIONS"),
        (Method::PUT, "/v1/api-errors", "POST"),
        (Method::DELETE, "/v1/links", "GET,HEAD"),
        (Method::POST, "/healthz", "GET,HEAD"),
    ] {
        let refused = answer(bench.request(method, path).bearer_auth(API_TOKEN)).await;
        refused.problem(405, "method-not-allowed");
        assert_eq!(refused.headers["allow"], allowed, "{path}");
    }
}

/// A store that panics or fails.
#[derive(Default)]
struct Panicking;

impl Operations for Panicking {
    fn get(&self, _links: &MemoryStore, _id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        panic!("a bug that names hunter2")
    }

    fn page(&self, _links: &MemoryStore, _query: &Query) -> Result<Page, StoreError> {
        Err(StoreError::Disk("an error that names hunter2".into()))
    }
}

#[tokio::test]
async fn a_panic_or_a_failure_of_the_store_fails_only_its_request() {
    let store = ChangedStore::<Panicking>::default();
    let bench = Bench::over(&[("RELINK_API_TOKENS", API_TOKEN)], store, MemoryStore::default()).await;
    for path in [format!("/v1/links/{LINK}"), "/v1/links".to_owned()] {
        let failed = bench.get(&path).await;
        failed.problem(500, "internal");
        assert!(!failed.text.contains("hunter2"), "the answer must not contain internal errors");
    }
    assert_eq!(bench.get("/v1/summary").await.status, 200);
}

#[tokio::test]
async fn a_stopping_server_answers_open_requests_and_ends() {
    let bench = Bench::new().await;
    let body = json!({"webhook_type": "LINK", "webhook_code": "token_required", "link_id": LINK}).to_string();
    let mut stream = TcpStream::connect(bench.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /webhooks/belvo HTTP/1.1\r\nhost: x\r\nauthorization: {WEBHOOK_SECRET}\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 25];
    within("the response 100 Continue", stream.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 100 Continue\r\n\r\n");

    bench.shutdown.cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut rest = String::new();
    within("the answer", stream.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.contains("\"sequence\":1"), "{rest}");
    let Bench { served, .. } = bench;
    within("the end", served).await.unwrap();
}

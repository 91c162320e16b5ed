//! The trace of a request goes on to the input that it leads to, without a collector.

use async_nats::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET, answer};
use crate::receiver::Receiver;
use crate::support::message;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The name and the value of a header.
type Header<'a> = (&'a str, &'a str);

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.as_str())
}

#[tokio::test]
async fn the_trace_of_a_request_is_in_its_input_and_a_bad_one_is_no_error() {
    let bench = Bench::new().await;
    let body =
        json!({"webhook_type": "LINK", "webhook_code": "token_required", "link_id": LINK, "data": {}}).to_string();
    let with = |headers: &[Header<'_>]| {
        let add = |request: RequestBuilder, (name, value): &Header<'_>| request.header(*name, *value);
        headers.iter().fold(bench.webhook(body.clone()), add)
    };
    let long = format!("a={}", "x".repeat(511));
    let cases: [(&[Header<'_>], Option<&str>, Option<&str>); 7] = [
        (&[("traceparent", PARENT)], Some(PARENT), None),
        (&[("Traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")], Some(PARENT), Some("a=1,b=2")),
        (&[("traceparent", PARENT), ("tracestate", &long)], Some(PARENT), None),
        (&[("traceparent", PARENT), ("traceparent", PARENT)], None, None),
        (&[("traceparent", "00-planted-01"), ("tracestate", "a=1")], None, None),
        (&[("tracestate", "a=1")], None, None),
        (&[], None, None),
    ];
    for (headers, _, _) in &cases {
        assert_eq!(answer(with(headers)).await.status, 200, "{headers:?}");
    }
    let stored = bench.inputs().await;
    assert_eq!(stored.len(), cases.len());
    for ((_, headers, _), (sent, parent, state)) in stored.iter().zip(cases) {
        assert_eq!((header(headers, "traceparent"), header(headers, "tracestate")), (parent, state), "{sent:?}");
    }

    // A report of an application, and a webhook that becomes a dead letter.
    let error = json!({"http_status": 428, "method": "POST", "path": "/api/accounts/", "link_id": LINK,
        "body": [{"code": "token_required", "message": "A MFA token is required"}]});
    let reported = bench.request(Method::POST, "/v1/api-errors").bearer_auth(API_TOKEN).header("traceparent", PARENT);
    assert_eq!(answer(reported.json(&error)).await.status, 202);
    let stored = bench.inputs().await;
    assert_eq!(header(&stored.last().unwrap().1, "traceparent"), Some(PARENT));
    answer(bench.webhook("no JSON").header("traceparent", PARENT)).await;
    let letters = bench.dead_letters().await;
    assert_eq!(header(&letters[0].headers, "traceparent"), Some(PARENT));
}

#[tokio::test]
async fn a_notice_over_http_has_the_trace_of_its_message() {
    let mut receiver = Receiver::start(|_| Some(204)).await;
    let environment = [
        ("RELINK_NOTICES_URL", receiver.url()),
        ("RELINK_NOTICES_SECRETS", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned()),
        ("RELINK_API_TOKENS", API_TOKEN.to_owned()),
        ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
    ];
    let bench = Bench::with(&environment.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    let stop = CancellationToken::new();
    let worker = bench.start_worker(bench.targets.notices.as_ref().unwrap(), stop.clone());
    for (n, parent) in [(1, Some(PARENT)), (2, Some("00-planted-01")), (3, None)] {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", format!("{LINK}.{n}.1"));
        headers.insert("ce-source", "/relink");
        parent.into_iter().for_each(|parent| headers.insert("traceparent", parent));
        let notice = message(format!("link.notice.recovered.{LINK}"), json!({"n": n}).to_string());
        bench.nats.batches().publish_atomic(vec![notice.with_headers(headers)]).await.unwrap();
        let received = receiver.next().await;
        let expected = if parent == Some(PARENT) { PARENT } else { "" };
        assert_eq!(received.header("traceparent"), expected, "{parent:?}");
    }
    stop.cancel();
    worker.await.unwrap();
}

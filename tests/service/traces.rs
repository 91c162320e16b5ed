//! Traces, with the binary, a real nats-server, the simulated Belvo, and an OTLP collector that only collects.

#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_nats::HeaderMap;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use bytes::Bytes;
use futures::StreamExt;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::binary::{Relink, WEBHOOK_SECRET, client};
use crate::support::{TestNats, webhook, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// What relink has sent to a server of this test.
#[derive(Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    /// The names of the services that have sent spans.
    services: Arc<Mutex<BTreeSet<String>>>,
    notices: Arc<Mutex<Vec<axum::http::HeaderMap>>>,
    /// The calls of Belvo's API: method and path, and `traceparent`.
    calls: Arc<Mutex<Vec<(String, String)>>>,
}

async fn take_spans(State(received): State<Received>, headers: axum::http::HeaderMap, body: Bytes) {
    assert_eq!(headers["x-key"], "planted");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let resources = request.resource_spans.into_iter();
    let mut spans = received.spans.lock().unwrap();
    for resource in resources {
        let names = resource.resource.unwrap().attributes;
        let name = names.into_iter().find(|attribute| attribute.key == "service.name").unwrap().value.unwrap();
        let Some(AnyValue::StringValue(name)) = name.value else { panic!("{name:?} is no name") };
        received.services.lock().unwrap().insert(name);
        spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
}

async fn take_notice(State(received): State<Received>, headers: axum::http::HeaderMap) {
    received.notices.lock().unwrap().push(headers);
}

/// A Belvo that reports each link as valid, and refuses every other call.
async fn take_call(State(received): State<Received>, request: Request) -> (StatusCode, Json<Value>) {
    let call = format!("{} {}", request.method(), request.uri().path());
    let parent = request.headers().get("traceparent").map(|parent| parent.to_str().unwrap().to_owned());
    received.calls.lock().unwrap().push((call.clone(), parent.unwrap_or_default()));
    if call == format!("GET /api/links/{LINK}/") {
        return (StatusCode::OK, Json(json!({"id": LINK, "institution": "erebor_mx_retail", "status": "valid"})));
    }
    let error =
        json!([{"request_id": "r-1", "code": "token_required", "message": "A token is required", "link": LINK}]);
    (StatusCode::PRECONDITION_REQUIRED, Json(error))
}

impl Received {
    async fn start(&self) -> SocketAddr {
        let routes = Router::new().route("/v1/traces", post(take_spans)).route("/notices", post(take_notice));
        let routes = routes.fallback(take_call);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = routes.with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    /// The span with this name that `is_it` accepts.
    fn span(&self, name: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        let spans = self.spans.lock().unwrap();
        let found = spans.iter().find(|span| span.name == name && is_it(span));
        found.cloned().unwrap_or_else(|| panic!("no span {name}: {:#?}", spans.iter().map(shown).collect::<Vec<_>>()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        AnyValue::StringValue(text) => text,
        AnyValue::IntValue(number) => number.to_string(),
        other => panic!("{key} is {other:?}"),
    })
}

fn shown(span: &Span) -> String {
    let links: Vec<_> = span.links.iter().map(|link| hex(&link.span_id)).collect();
    let outcome = attribute(span, "relink.outcome").unwrap_or_default();
    let states = (attribute(span, "relink.state.from"), attribute(span, "relink.state.to"));
    let (trace, id, parent) = (hex(&span.trace_id), hex(&span.span_id), hex(&span.parent_span_id));
    format!("{} {} {trace} {id} <- {parent} {outcome} {states:?} {links:?}", span.kind, span.name)
}

fn is_child(span: &Span, parent: &Span) -> bool {
    span.trace_id == parent.trace_id && span.parent_span_id == parent.span_id
}

/// Whether the span begins a trace, with a link to `cause`.
fn begins_after(span: &Span, cause: &Span) -> bool {
    let is_linked = span.links.iter().any(|link| link.trace_id == cause.trace_id && link.span_id == cause.span_id);
    span.parent_span_id.is_empty() && span.trace_id != cause.trace_id && is_linked
}

/// The trace id and the span id in the headers of a message.
fn parent_in(headers: &HeaderMap) -> (String, String) {
    let parent = headers.get("traceparent").expect("a trace").as_str();
    let parts: Vec<_> = parent.split('-').collect();
    assert_eq!((parts[0], parts[3]), ("00", "01"), "{parent}");
    (parts[1].to_owned(), parts[2].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_leads_from_the_webhook_to_the_notice_and_links_lead_from_the_repair_back_to_it() {
    let (nats, received) = (TestNats::start().await, Received::default());
    let collector = received.start().await;
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    sandbox.control().set_status(link, LinkStatus::Invalid).unwrap();
    let (belvo, widget) = (sandbox.url(), format!("{}/widget/", sandbox.url()));
    let (endpoint, notices) = (format!("http://{collector}"), format!("http://{collector}/notices"));
    let settings = [
        ("RELINK_TRACES_ENDPOINT", endpoint.as_str()),
        ("RELINK_TRACES_HEADERS", "x-key=planted"),
        ("RELINK_BELVO_URL", &belvo),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
        ("RELINK_BELVO_WIDGET_URL", &widget),
        ("RELINK_REPAIR_BASE_URL", "https://relink.example.com"),
        ("RELINK_REPAIR_KEYS", "the-key-of-this-test-is-long-enough-for-it"),
        ("RELINK_NOTICES_URL", &notices),
        ("RELINK_NOTICES_SECRETS", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    ];
    let mut relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &settings).await;
    let mut messages = nats.connect().await.subscribe("link.notice.*.*").await.unwrap();
    nats.client.flush().await.unwrap();
    let mut next_notice = async |wanted: &str| {
        let wanted = format!("link.notice.{wanted}.{link}");
        within(&wanted, async {
            loop {
                let message = messages.next().await.expect("a subscription");
                if message.subject.as_str() == wanted {
                    return (message.headers.unwrap(), serde_json::from_slice::<Value>(&message.payload).unwrap());
                }
            }
        })
        .await
    };

    let request = client().post(format!("{}/webhooks/belvo", relink.url)).header("authorization", WEBHOOK_SECRET);
    let request = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01")).header("tracestate", "vendor=7");
    let body = webhook(&link.to_string(), "invalid_credentials", 1);
    let answer = within("an answer", request.header("content-type", "application/json").body(body).send()).await;
    assert_eq!(answer.unwrap().status(), 200);
    let (headers, notice) = next_notice("update_required").await;
    let (trace, asked_by) = parent_in(&headers);
    assert_eq!((trace.as_str(), headers.get("tracestate").unwrap().as_str()), (TRACE, "vendor=7"));

    // The user opens the page, starts the repair, and the widget comes back.
    let browser = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let page = notice["repair_url"].as_str().unwrap().strip_prefix("https://relink.example.com").unwrap();
    let page = format!("{}{page}", relink.url);
    assert_eq!(within("the page", browser.get(&page).send()).await.unwrap().status(), 200);
    let opened = within("the button", browser.post(&page).send()).await.unwrap();
    assert_eq!(opened.status(), 303);
    let widget = reqwest::Url::parse(opened.headers()["location"].to_str().unwrap()).unwrap();
    let token = widget.query_pairs().find(|(name, _)| name == "access_token").unwrap().1.into_owned();
    let repaired = json!({"access_token": token, "outcome": "success"});
    let repaired = browser.post(format!("{belvo}/widget/complete")).json(&repaired).send();
    let repaired = within("the repair", repaired).await.unwrap();
    let callback = repaired.headers()["x-sandbox-callback-url"].to_str().unwrap();
    let callback = callback.replace("https://relink.example.com", &relink.url);
    assert_eq!(within("the callback", browser.get(callback).send()).await.unwrap().status(), 303);
    let (headers, _notice) = next_notice("recovered").await;
    let (_, recovered_by) = parent_in(&headers);
    let both = async {
        while received.notices.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    within("both notices over HTTP", both).await;
    relink.signal("TERM").await;
    assert!(relink.ended().await.success());

    assert_eq!(*received.services.lock().unwrap(), ["relink".to_owned()].into());
    let webhook = received.span("POST /webhooks/belvo", |_| true);
    assert_eq!((hex(&webhook.trace_id), hex(&webhook.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!(attribute(&webhook, "relink.link.id"), Some(link.to_string()));
    let broke = received.span("step webhook", |span| is_child(span, &webhook));
    assert_eq!(attribute(&broke, "relink.event").as_deref(), Some("credentials_rejected"));
    let verify = received.span("job verify", |span| is_child(span, &broke));
    let read = received.span("Belvo GET /api/links/{id}/", |span| is_child(span, &verify));
    assert_eq!(attribute(&read, "http.response.status_code").as_deref(), Some("200"));
    let asked = received.span("step observation", |span| is_child(span, &verify));
    assert_eq!(hex(&asked.span_id), asked_by, "the notice follows from the step");
    let sent = received.span("send notices", |span| is_child(span, &asked));
    let expected = format!("00-{TRACE}-{}-01", hex(&sent.span_id));
    assert_eq!(received.notices.lock().unwrap()[0]["traceparent"], expected);

    // The episode began with the step that has made the link invalid.
    let began = if attribute(&broke, "relink.state.to").as_deref() == Some("invalid") { &broke } else { &asked };
    received.span("GET /repair/{token}", |span| begins_after(span, began));
    let button = received.span("POST /repair/{token}", |span| begins_after(span, began));
    received.span("Belvo POST /api/token/", |span| is_child(span, &button));
    let is_linked = |span: &Span| span.links.iter().any(|link| link.span_id == began.span_id);
    received.span("step widget", |span| is_child(span, &button) && is_linked(span));
    let returned = received.span("GET /repair/callback/{locale}/{event}/{token}", |span| begins_after(span, began));
    let claimed = received.span("step widget", |span| is_child(span, &returned) && is_linked(span));
    let verify = received.span("job verify", |span| is_child(span, &claimed));
    let proof = received.span("step observation", |span| is_child(span, &verify) && is_linked(span));
    assert_eq!((hex(&proof.span_id), attribute(&proof, "relink.state.to").as_deref()), (recovered_by, Some("valid")));

    // Every other span has a parent that was exported, and no span names more of the page than its route.
    let spans = received.spans.lock().unwrap();
    let by_id: HashMap<_, _> = spans.iter().map(|span| (&span.span_id, span)).collect();
    assert_eq!(by_id.len(), spans.len(), "each span is exported once");
    for span in spans.iter() {
        let has_parent = by_id.get(&span.parent_span_id).is_some_and(|parent| parent.trace_id == span.trace_id);
        let is_first = span.parent_span_id.is_empty() || hex(&span.parent_span_id) == CALLER;
        assert!(has_parent || is_first, "{}", shown(span));
        let keys: HashSet<_> = span.attributes.iter().map(|attribute| &attribute.key).collect();
        assert_eq!(keys.len(), span.attributes.len(), "each attribute is there once: {span:?}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && !format!("{span:?}").contains(&token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn belvo_gets_the_trace_of_a_job_and_of_a_call_through_the_proxy() {
    let (nats, received) = (TestNats::start().await, Received::default());
    let server = format!("http://{}", received.start().await);
    let settings = [
        ("RELINK_TRACES_ENDPOINT", server.as_str()),
        ("RELINK_TRACES_HEADERS", "x-key=planted"),
        ("RELINK_TRACES_SAMPLE_RATIO", "0"),
        ("OTEL_SERVICE_NAME", "relink-of-the-test"),
        ("RELINK_BELVO_URL", &server),
        ("RELINK_BELVO_SECRET_ID", "id"),
        ("RELINK_BELVO_SECRET_PASSWORD", "password"),
        ("RELINK_PROXY_LISTEN", "127.0.0.1:0"),
    ];
    let mut relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &settings).await;
    let is_proxy = |line: &Value| line["proxy.address"].as_str().map(str::to_owned);
    let lines = relink.seen.iter().filter_map(|line| serde_json::from_str(line).ok());
    let proxy = lines.filter_map(|line: Value| is_proxy(&line)).next().expect("the proxy listens");
    let call =
        client().post(format!("http://{proxy}/api/accounts/")).header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    let refused = within("the call", call.json(&json!({"link": LINK})).send()).await.unwrap();
    assert_eq!(refused.status(), 428);
    // The report leads to a job, whose call of Belvo continues the trace.
    let read = format!("GET /api/links/{LINK}/");
    let job = async {
        loop {
            let found = received.calls.lock().unwrap().iter().find(|(call, _)| *call == read).cloned();
            if let Some((_, parent)) = found {
                return parent;
            }
            tokio::task::yield_now().await;
        }
    };
    let read_by = within("the call of the job", job).await;
    // With the ratio 0, no trace begins in relink: not even the one of this webhook.
    relink.store_webhook(&client(), webhook("another-link", "token_required", 2)).await;
    relink.wait_for_link(&client(), "another-link").await;
    relink.signal("TERM").await;
    assert!(relink.ended().await.success());

    assert_eq!(*received.services.lock().unwrap(), ["relink-of-the-test".to_owned()].into());
    let proxied = received.span("POST proxy", |span| hex(&span.parent_span_id) == CALLER);
    let sent_by = |span: &Span| format!("00-{TRACE}-{}-01", hex(&span.span_id));
    let passed_on = ("POST /api/accounts/".to_owned(), sent_by(&proxied));
    assert!(received.calls.lock().unwrap().contains(&passed_on));
    let reported = received.span("step api_error", |span| is_child(span, &proxied));
    let verify = received.span("job verify", |span| is_child(span, &reported));
    let call = received.span("Belvo GET /api/links/{id}/", |span| is_child(span, &verify));
    assert_eq!(read_by, sent_by(&call));
    let spans = received.spans.lock().unwrap();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{:?}", spans.iter().map(shown).collect::<Vec<_>>());
}

/// Whether `/metrics` counts spans with this outcome.
async fn has_counted(relink: &Relink, outcome: &str) -> bool {
    let metrics = client().get(format!("{}/metrics", relink.url)).send().await.unwrap().text().await.unwrap();
    metrics.contains(&format!("relink_spans_total{{outcome=\"{outcome}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_collector_relink_works_on_and_stops_soon() {
    let nats = TestNats::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let endpoint = format!("http://{address}/v1/traces");
    let settings = [("RELINK_TRACES_ENDPOINT", endpoint.as_str())];
    let mut relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &settings).await;
    relink.store_webhook(&client(), webhook(LINK, "token_required", 1)).await;
    assert_eq!(relink.wait_for_link(&client(), LINK).await["state"], "token_required");
    relink.wait_for_log("the endpoint for traces does not take spans").await;
    assert!(has_counted(&relink, "failed").await && !has_counted(&relink, "exported").await);

    // A collector that takes the connection and never answers does not delay the stop.
    let silent = TcpListener::bind(address).await.unwrap();
    relink.store_webhook(&client(), webhook(LINK, "token_required", 2)).await;
    let _connection = within("the next export", silent.accept()).await.unwrap();
    relink.signal("TERM").await;
    assert!(relink.ended().await.success());
    assert!(relink.seen.iter().any(|line| line.contains("has not taken the last spans in time")), "{:?}", relink.seen);
    let warnings = relink.seen.iter().filter(|line| line.contains("does not take spans")).count();
    assert_eq!(warnings, 1, "one warning for many failures");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_trace_of_an_input_is_passed_on_and_none_is_made() {
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", parent.as_str());
    let subject = format!("belvo.webhook.{LINK}");
    let stored = nats.context.publish_with_headers(subject, headers, webhook(LINK, "token_required", 1).into()).await;
    stored.unwrap().await.unwrap();
    relink.wait_for_link(&client(), LINK).await;
    relink.store_webhook(&client(), webhook("another-link", "token_required", 2)).await;
    relink.wait_for_link(&client(), "another-link").await;
    for (_, subject, headers, _) in nats.read("KV_links").await {
        let found = headers.get("traceparent").map(|value| value.as_str().to_owned());
        let expected = subject.ends_with(LINK).then(|| parent.clone());
        assert_eq!(found, expected, "{subject}");
    }
}

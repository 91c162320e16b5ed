//! The proxy: a listener that passes the calls of an application on to Belvo, and reports what the answers say about a
//! link.
//!
//! ```text
//!   application ─▶ target ─▶ headers ─▶ Belvo          every byte passes on as it arrives
//!   application ◀──────────  headers ◀─ Belvo
//!                               └─ tap ─▶ queue ─▶ reports ─▶ journal
//! ```
//!
//! - `target`: which requests are Belvo's; `headers`: the fields that end at relink
//! - `tap`: a body that passes on, and of which a copy of the first bytes is kept
//! - `reports`: reads the copies, and gives the journal what an application would have reported itself
//!
//! A call never waits for a report: if the queue is full, the report is counted and lost, and the call passes. The proxy
//! adds no credentials, no retry and no time limit, and follows no redirect. It stores and logs no header and no body;
//! `belvo::Exchange` decides what a report contains.

mod headers;
mod reports;
mod tap;
mod target;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::mpsc;

pub use self::reports::Reports;
use self::reports::Seen;
use self::tap::{SharedCopy, Tapped};
use super::log_sample::LogSample;
use super::problem::Severity;
use super::problem::{Kind, Problem};
use super::{observe, traces};
use crate::belvo::Concern;
use crate::clock;
use crate::config::Config;
use crate::contract::{TRACESTATE, TraceContext};
use crate::journal::{Acknowledge, Journal};
use crate::metric;
use crate::trace::{Span, SpanKind, is_on};

/// The most reports that wait. Each has at most 128 KiB of copies, most of them one or two.
const QUEUE_MAX: usize = 512;

/// How long a connection to Belvo may be idle. Common servers close one after 60 s, and a call that is sent just then
/// would fail.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The proxy: its address at Belvo, and its queue.
pub struct Proxy {
    /// The address of Belvo's API, without a slash at the end.
    base: String,
    upstream: Url,
    client: reqwest::Client,
    queue: mpsc::Sender<Seen>,
    sample: LogSample,
}

impl Proxy {
    /// The proxy, and the task that gives the journal its reports.
    ///
    /// # Errors
    /// The HTTP client cannot be built, or there is no address of Belvo's API.
    pub fn new(config: &Config, journal: &Journal) -> Result<(Self, Reports), Box<dyn Error + Send + Sync>> {
        let base = config.belvo.keys.as_ref().map(|keys| keys.url.clone()).ok_or("the proxy needs belvo.url")?;
        let upstream = Url::parse(&base)?;
        // An answer may take minutes, and its body longer: the time limits are those of the application.
        let client =
            crate::belvo::http_client(&upstream).redirect(Policy::none()).pool_idle_timeout(IDLE_MAX).build()?;
        let (queue, seen) = mpsc::channel(QUEUE_MAX);
        // The reports must not wait for NATS: then they would fill the queue while it is away.
        let journal = journal.clone().acknowledging(Acknowledge::Journal);
        let reports = Reports::new(seen, journal, config.nats.subjects.clone());
        Ok((Self { base, upstream, client, queue, sample: LogSample::default() }, reports))
    }
}

/// The router of the listener.
pub fn router(proxy: Proxy) -> Router {
    Router::new().fallback(pass).layer(observe::catch_panics()).with_state(Arc::new(proxy))
}

/// Passes a call on.
async fn pass(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let method = observe::method_label(request.method());
    // If the client hangs up, hyper drops this future, and the call is counted then.
    let mut counted = Counted { method, status: CLIENT_GONE.to_owned() };
    match proxy.pass(request).await {
        Ok(answer) => {
            answer.status().as_str().clone_into(&mut counted.status);
            answer
        }
        Err((outcome, problem)) => {
            let answer = problem.into_response();
            observe::log_problem(&proxy.sample, &answer, ROUTE, method);
            outcome.clone_into(&mut counted.status);
            answer
        }
    }
}

/// Counts a call when it is dropped.
struct Counted {
    method: &'static str,
    status: String,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let status = std::mem::take(&mut self.status);
        metrics::counter!(metric::PROXY_CALLS.name, "method" => self.method, "status" => status).increment(1);
    }
}

impl Proxy {
    /// The answer of Belvo, or the outcome for the metric and a problem.
    async fn pass(self: &Arc<Self>, request: Request) -> Result<Response, (&'static str, Problem)> {
        let (parts, body) = request.into_parts();
        let url = target::check(&self.base, &self.upstream, &parts).map_err(|problem| ("refused", problem))?;
        let span = begin_span(&parts);
        let (mut call, copy) = self.call(&parts, url, body);
        if is_on() {
            // It belongs to the traceparent, which may have been refused.
            call.headers_mut().remove(TRACESTATE);
            for (name, value) in span.headers() {
                call.headers_mut().insert(name, HeaderValue::from_str(&value).map_err(|error| internal(&error))?);
            }
        }
        let answered = self.client.execute(call).await;
        let status = answered.as_ref().map_or(StatusCode::BAD_GATEWAY, |answer| answer.status());
        let context = span.context().cloned();
        traces::end(span, ROUTE, status);
        match answered {
            Ok(answer) => Ok(self.answer(parts, copy, answer.into(), context)),
            // The client of the call reports a broken body as an error of its own.
            Err(_error) if copy.is_broken() => Err((CLIENT_GONE, client_gone())),
            Err(error) => Err(("unreachable", unreachable(error))),
        }
    }

    fn call(&self, parts: &Parts, url: Url, body: Body) -> (reqwest::Request, SharedCopy) {
        let copy = SharedCopy::default();
        let mut call = reqwest::Request::new(parts.method.clone(), url);
        *call.headers_mut() = headers::of_request(&parts.headers);
        if !body.is_end_stream() {
            if body.size_hint().exact().is_none() {
                // Else hyper leaves out the body of a GET.
                call.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            *call.body_mut() = Some(reqwest::Body::wrap(Tapped::new(body, copy.clone(), None)));
        } else if parts.headers.contains_key(CONTENT_LENGTH) {
            call.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        (call, copy)
    }

    /// The answer for the application. If it concerns a link, it is reported when its body has ended.
    fn answer(
        self: &Arc<Self>,
        parts: Parts,
        request: SharedCopy,
        answer: axum::http::Response<reqwest::Body>,
        trace: Option<TraceContext>,
    ) -> Response {
        let (head, body) = answer.into_parts();
        let concern = Concern::of(parts.method.as_str(), parts.uri.path(), head.status.as_u16());
        let body = match concern {
            None => Body::new(body),
            Some(concern) => {
                let answer = concern.reads_answer().then(SharedCopy::default);
                let seen = Seen {
                    concern,
                    method: parts.method,
                    uri: parts.uri,
                    request,
                    status: head.status.as_u16(),
                    coding: headers::coding(&head.headers),
                    answer: answer.clone(),
                    answered_at: clock::now(),
                    trace,
                };
                match answer {
                    Some(copy) => {
                        let proxy = Arc::clone(self);
                        let at_end = move || proxy.enqueue(seen);
                        Body::new(Tapped::new(Body::new(body), copy, Some(Box::new(at_end))))
                    }
                    None => {
                        self.enqueue(seen);
                        Body::new(body)
                    }
                }
            }
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        *answer.version_mut() = Version::HTTP_11;
        *answer.headers_mut() = headers::of_answer(&head.headers);
        answer
    }

    fn enqueue(&self, seen: Seen) {
        if self.queue.try_send(seen).is_err() {
            metrics::counter!(metric::PROXY_REPORTS.name, "kind" => "unread", "outcome" => "dropped").increment(1);
            let summary = |count: u64, _line: &str| tracing::error!(reports.count = count, "{DROPPED}");
            if self.sample.takes(("dropped", Severity::Failed), DROPPED, summary) {
                tracing::error!(reports.count = 1, "{DROPPED}");
            }
        }
    }
}

/// The span of a call. It has no path, which may have the id of a person.
fn begin_span(parts: &Parts) -> Span {
    let parent = traces::context_of(&parts.headers);
    let method = observe::method_label(&parts.method);
    let span = Span::begin(SpanKind::Server, parent, || format!("{method} {ROUTE}"));
    span.set("http.request.method", || method);
    span
}

fn internal(error: &dyn Error) -> (&'static str, Problem) {
    ("refused", Problem::internal(error))
}

/// The name of the proxy in the log of failed requests.
const ROUTE: &str = "proxy";

/// The outcome of a call whose client is gone before Belvo has answered.
const CLIENT_GONE: &str = "client_gone";

const DROPPED: &str = "answers of Belvo were passed on and not reported, because too many reports were waiting";

/// The body of the call ended too early, so nobody reads this answer. It is for the log, and no failure of relink or of Belvo.
fn client_gone() -> Problem {
    Problem::new(Kind::Incomplete, "The body of the call ended too early, so Belvo got only a part of it.")
}

/// Belvo gave no answer. The error may name the address, and no header or body.
fn unreachable(error: reqwest::Error) -> Problem {
    let error = error.without_url();
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        why.push_str(": ");
        why.push_str(&cause.to_string());
        source = cause.source();
    }
    let detail = "Belvo's API gave no answer to relink: it cannot be reached, or it closed the connection. This says \
                  nothing about a link. relink did not try again.";
    Problem::new(Kind::BelvoUnreachable, detail).log_detail(why)
}

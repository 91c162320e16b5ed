//! The layer around every request: counts and times it, records its span, logs a failure once, catches a panic.

use std::any::Any;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use super::log_sample::LogSample;
use super::problem::{LoggedProblem, Problem, Severity};
use super::traces;
use crate::clock;
use crate::metric;

type Catch = fn(Box<dyn Any + Send + 'static>) -> Response;

/// Turns a panic of a handler into a problem with status 500; other requests go on.
pub(super) fn catch_panics() -> CatchPanicLayer<Catch> {
    CatchPanicLayer::custom(panic_response as Catch)
}

fn panic_response(_panic: Box<dyn Any + Send + 'static>) -> Response {
    metrics::counter!(metric::HTTP_PANICS.name).increment(1);
    // The panic message may quote the request, so it is not logged; relink's panic hook logs the place.
    Problem::internal("the handler panicked").into_response()
}

/// Counts and times a request, and logs it if it failed.
pub(super) async fn observe(State(sample): State<LogSample>, request: Request, next: Next) -> Response {
    // The pattern of the route, never the path: a caller must not be able to create label values.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = method_label(request.method());
    let started = clock::instant();
    let span = traces::begin(&route, method, request.headers());
    let response = span.run(next.run(request)).await;
    let status = response.status();
    traces::end(span, &route, status);
    let seconds = started.elapsed().as_secs_f64();
    let code = status.as_str().to_owned();
    metrics::counter!(metric::HTTP_REQUESTS.name, "route" => route.clone(), "method" => method, "status" => code)
        .increment(1);
    metrics::histogram!(metric::HTTP_REQUEST_SECONDS.name, "route" => route.clone()).record(seconds);
    log_problem(&sample, &response, &route, method);
    response
}

/// Logs the problem of an answer, if it is one.
pub(super) fn log_problem(sample: &LogSample, answer: &Response, route: &str, method: &'static str) {
    if let Some(problem) = answer.extensions().get::<LoggedProblem>() {
        log(sample, problem, answer.status().as_u16(), route, method);
    }
}

/// Logs a failed request, or counts it, if many failed in the same way.
fn log(sample: &LogSample, problem: &LoggedProblem, status: u16, route: &str, method: &'static str) {
    let LoggedProblem { id, slug, severity, log_detail } = problem;
    let (slug, severity) = (*slug, *severity);
    // The level of an event is a constant.
    macro_rules! at_its_level {
        ($($event:tt)*) => {
            match severity {
                Severity::Failed => tracing::error!($($event)*),
                Severity::Limit => tracing::warn!($($event)*),
                Severity::Refused => tracing::info!($($event)*),
            }
        };
    }
    let verb = if severity == Severity::Failed { "failed" } else { "was refused" };
    let summary = move |count: u64, example: &str| {
        let verb = if severity == Severity::Failed { "failed" } else { "were refused" };
        at_its_level!(problem.kind = slug, requests.count = count, "more requests {verb}; the last one: {example}");
    };
    if sample.takes((slug, severity), log_detail, summary) {
        at_its_level!(request.id = %id, http.route = route, http.method = method, http.status = status,
            problem.kind = slug, "a request {verb}: {log_detail}");
    }
}

/// The method as a label: a caller must not be able to create label values.
pub(super) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

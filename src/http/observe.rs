//! Around every request: counted, timed, its failure logged once, its panic caught.

use std::any::Any;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use super::problem::{Incident, Problem};
use crate::clock;
use crate::metric;

type Catch = fn(Box<dyn Any + Send + 'static>) -> Response;

/// Turns a panic into a problem, so that one request's bug is one request's failure.
pub(super) fn catch_panics() -> CatchPanicLayer<Catch> {
    CatchPanicLayer::custom(caught as Catch)
}

fn caught(_panic: Box<dyn Any + Send + 'static>) -> Response {
    metrics::counter!(metric::HTTP_PANICS.name).increment(1);
    // What it says may quote the request, so only that it happened goes into the log; the panic hook has its place.
    Problem::internal("the handler panicked").into_response()
}

/// Counts and times a request, and logs it if it failed.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    // The pattern, never the path: a stranger must not be able to make up label values.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = word_of(request.method());
    let started = clock::instant();
    let response = next.run(request).await;
    let status = response.status();
    let seconds = started.elapsed().as_secs_f64();
    let code = status.as_str().to_owned();
    metrics::counter!(metric::HTTP_REQUESTS.name, "route" => route.clone(), "method" => method, "status" => code)
        .increment(1);
    metrics::histogram!(metric::HTTP_REQUEST_SECONDS.name, "route" => route.clone()).record(seconds);
    if let Some(incident) = response.extensions().get::<Incident>() {
        let Incident { id, slug, inside } = incident;
        let status = status.as_u16();
        if status >= 500 {
            tracing::error!(request.id = %id, http.route = route, http.method = method, http.status = status,
                problem.kind = slug, "a request failed: {inside}");
        } else {
            tracing::info!(request.id = %id, http.route = route, http.method = method, http.status = status,
                problem.kind = slug, "a request was refused: {inside}");
        }
    }
    response
}

fn word_of(method: &Method) -> &'static str {
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

//! The span of a request. The trace in its headers is the parent; without one it begins a trace.
//!
//! The spans have the pattern of the route and never the path, because the address of a repair page is as good as a password.

use axum::http::{HeaderMap, StatusCode};

use crate::contract::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::trace::{Span, SpanKind, is_on};

/// Routes that monitoring and browsers read all the time.
const QUIET: [&str; 6] = ["/healthz", "/readyz", "/metrics", "/console", "/openapi", "/repair/logo"];

/// The trace in the headers of a request. Several `tracestate` fields are one list (RFC 9110, section 5.3).
pub(super) fn context_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    // Two parents are no parent.
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let context = TraceContext::parse(parent.to_str().ok()?)?;
    let states: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|state| state.to_str().ok()).collect();
    Some(context.with_state(states.map(|states| states.join(",")).as_deref()))
}

/// Begins the span of a request.
pub(super) fn begin(route: &str, method: &'static str, headers: &HeaderMap) -> Span {
    let parent = context_of(headers);
    // The console and the command line ask for the same again and again.
    let is_poll = method == "GET" && (route.starts_with("/v1") || route.ends_with("/state")) && parent.is_none();
    if !is_on() || is_poll || QUIET.iter().any(|quiet| route.starts_with(quiet)) {
        return Span::passing(parent);
    }
    let span = Span::begin(SpanKind::Server, parent, || format!("{method} {route}"));
    span.set("http.request.method", || method);
    span.set("http.route", || route.to_owned());
    span
}

/// Ends the span of a request. Strangers without credentials can send as many requests as they like, so those are not recorded.
pub(super) fn end(span: Span, route: &str, status: StatusCode) {
    let is_unknown_page = status == StatusCode::NOT_FOUND && (route == "none" || route.starts_with("/repair"));
    if status == StatusCode::UNAUTHORIZED || is_unknown_page {
        span.discard();
        return;
    }
    span.set("http.response.status_code", || i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(|| status.as_u16().to_string());
    }
}

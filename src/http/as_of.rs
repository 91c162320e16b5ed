//! Marks the answers from the store with the time up to which the store is known to have followed `KV_links`. So a client can distinguish
//! an answer from before an outage of NATS from a current one.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::SharedServer;

/// The header with the time, in RFC 3339. It is missing while relink has not caught up with `KV_links` since its start.
const AS_OF: HeaderName = HeaderName::from_static("relink-as-of");

/// Adds the header to the answers that were read from the store, also to the one that a link is unknown.
pub(super) async fn mark(State(server): State<SharedServer>, request: Request, next: Next) -> Response {
    // The time is read before the store, so the content is never older than its mark.
    let as_of = *server.as_of.borrow();
    let mut response = next.run(request).await;
    let is_from_store = response.status().is_success() || response.status() == StatusCode::NOT_FOUND;
    if let Some(at) = as_of.filter(|_| is_from_store)
        && let Ok(value) = HeaderValue::try_from(at.to_string())
    {
        response.headers_mut().insert(AS_OF, value);
    }
    response
}

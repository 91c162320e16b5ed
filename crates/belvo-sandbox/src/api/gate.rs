//! The checks before every call: the rate limit, the injected faults, and Basic auth.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::Value;
use uuid::Uuid;

use super::request::{Context, secrets_match};
use crate::fault::ApiAnswer;
use crate::problem::Problem;
use crate::shared::Shared;

/// The maximum size of an unused body that is still read.
const UNREAD_BODY_BYTES_MAX: usize = 1 << 20;

/// Basic auth, as everywhere but `/api/token/`.
pub(super) async fn authenticate(State(shared): Context, request: Request, next: Next) -> Response {
    if basic(request.headers()).is_some_and(|(id, password)| secrets_match(&shared.config, &id, &password)) {
        next.run(request).await
    } else {
        read_off(request).await;
        Problem::of("authentication_failed").into_response()
    }
}

/// Reads a body that is not used. A server that answers before the end of the body closes the connection, which the
/// client may want to reuse for its next call.
async fn read_off(request: Request) {
    let _too_large_or_broken = axum::body::to_bytes(request.into_body(), UNREAD_BODY_BYTES_MAX).await;
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let pair = String::from_utf8(decoded).ok()?;
    pair.split_once(':').map(|(id, password)| (id.to_owned(), password.to_owned()))
}

/// The rate limit of the proxy in front of the API.
pub(super) async fn limit_rate(State(shared): Context, request: Request, next: Next) -> Response {
    let is_admitted = {
        let mut world = shared.world();
        world.rate_limit.admits(shared.clock.now_ms())
    };
    if is_admitted {
        return next.run(request).await;
    }
    read_off(request).await;
    Problem::of("forbidden_html").into_response()
}

/// Responds with the fault for this call, if any.
pub(super) async fn inject_faults(State(shared): Context, mut request: Request, next: Next) -> Response {
    let call = format!("{} {}", request.method(), request.uri().path());
    let asks_for_link = shared.world().faults.asks_for_link(&call);
    let mut named = None;
    if asks_for_link {
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, UNREAD_BODY_BYTES_MAX).await else {
            return Problem::new(413, "request_too_large", "The body is too large.").into_response();
        };
        named = named_link(parts.uri.path(), &body).filter(|id| shared.world().links.contains_key(id));
        request = Request::from_parts(parts, Body::from(body));
    }
    let answer = shared.world().faults.next_api(&call, named.is_some());
    let Some(answer) = answer else { return next.run(request).await };
    read_off(request).await;
    match answer {
        ApiAnswer::Error(problem) => problem.into_response(),
        ApiAnswer::TokenRequired => match named {
            Some(id) => shared.change(|world, now| world.ask_for_token(now, id)).into_response(),
            None => Problem::of("not_found").into_response(),
        },
        ApiAnswer::RateLimited(after) => Problem::throttled(after.as_secs()).into_response(),
        ApiAnswer::Timeout(span) => {
            hang(&shared, span).await;
            Problem::of("request_timeout").into_response()
        }
    }
}

/// The link a call is about: in its path, or as `link` in its body.
fn named_link(path: &str, body: &[u8]) -> Option<Uuid> {
    let in_path = path.split('/').find_map(|part| part.parse().ok());
    in_path.or_else(|| serde_json::from_slice::<Value>(body).ok()?.get("link")?.as_str()?.parse().ok())
}

async fn hang(shared: &Shared, span: Duration) {
    tokio::select! {
        () = tokio::time::sleep(span) => {}
        () = shared.stop.cancelled() => {}
    }
}

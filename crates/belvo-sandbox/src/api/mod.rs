//! Belvo's HTTP API, as far as links go: the routes, the rate limit, the door (Basic auth), and the faults.
//!
//! Trailing slashes are required and there is no version in the path, as with Belvo. Handlers translate; what happens
//! to a link is in [`super::bank`].

mod data;
mod items;
mod links;
mod list;
mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::problem::Problem;
use super::verdict::ApiAnswer;
use super::{SandboxConfig, Shared, control_http, portal, widget};

/// What every handler is given.
pub(crate) type Context = State<Arc<Shared>>;

/// The whole server: Belvo's API behind its door; the widget, the portal and the control API beside it.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut api = Router::new()
        .route("/api/", get(root))
        .route("/api/institutions/", get(data::institutions))
        .route("/api/links/", get(links::list).post(links::create).patch(links::resume))
        .route("/api/links/{id}/", get(links::detail).patch(links::patch).put(links::put).delete(links::delete))
        .route("/api/links/{id}/refresh/", post(links::refresh))
        .route("/api/consents/", get(data::consents))
        .route("/api/consents/{id}/", get(data::consent));
    for resource in data::READABLE {
        let path = format!("/api/{resource}/");
        let routes = get(move |context, uri, headers, query| data::list(resource, context, uri, headers, query))
            .post(move |context, headers, body| data::retrieve(resource, context, headers, body))
            .patch(move |context, body| data::resume(resource, context, body));
        api = api.route(&path, routes);
    }
    let api = api
        .route_layer(from_fn_with_state(Arc::clone(&shared), authenticate))
        // The token call carries its secrets in the body.
        .route("/api/token/", post(token::create))
        .route_layer(from_fn_with_state(Arc::clone(&shared), inject_faults))
        .route_layer(from_fn_with_state(Arc::clone(&shared), limit_rate));
    api.merge(widget::routes())
        .merge(portal::routes())
        .merge(control_http::routes())
        .method_not_allowed_fallback(|method: Method| async move {
            Problem::new(405, "method_not_allowed", &format!("Method \"{method}\" not allowed."))
        })
        .fallback(|| async { Problem::of("not_found") })
        .with_state(shared)
}

/// How much of a body is read although it will not be looked at.
const UNREAD_BODY_BYTES_MAX: usize = 1 << 20;

/// `GET /api/`: what the SDKs ask to see whether the secrets are right.
async fn root() -> axum::Json<Value> {
    axum::Json(json!({"name": "Belvo API", "environment": "sandbox"}))
}

/// Basic auth, as everywhere but `/api/token/`.
async fn authenticate(State(shared): Context, request: Request, next: Next) -> Response {
    if basic(request.headers()).is_some_and(|(id, password)| secrets_match(&shared.config, &id, &password)) {
        next.run(request).await
    } else {
        read_off(request).await;
        Problem::of("authentication_failed").into_response()
    }
}

/// Reads a request's body that nobody will look at. An answer before its end would make the server close the connection, and a client
/// that keeps it for its next call would find it gone.
async fn read_off(request: Request) {
    let _too_large_or_broken = axum::body::to_bytes(request.into_body(), UNREAD_BODY_BYTES_MAX).await;
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let pair = String::from_utf8(decoded).ok()?;
    pair.split_once(':').map(|(id, password)| (id.to_owned(), password.to_owned()))
}

/// Whether these are the secrets of this sandbox.
pub(crate) fn secrets_match(config: &SandboxConfig, id: &str, password: &str) -> bool {
    id == config.secret_id && password == config.secret_password.expose_secret()
}

/// What the proxy before the API lets through.
async fn limit_rate(State(shared): Context, request: Request, next: Next) -> Response {
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

/// Answers with the fault that was armed for this call, if there is one.
async fn inject_faults(State(shared): Context, mut request: Request, next: Next) -> Response {
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

/// The body as a JSON object; anything else is Belvo's `parse_error`. No body at all is an empty object.
fn object(body: &Bytes) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new(400, "invalid", "Invalid data. Expected a dictionary.")),
        Err(error) => Err(Problem::new(400, "parse_error", &format!("JSON parse error - {error}"))),
    }
}

/// A text field of a body; absent, null and empty are the same.
fn text<'a>(body: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    body.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A text field that has to be there.
fn required<'a>(body: &'a Map<String, Value>, field: &str) -> Result<&'a str, Problem> {
    match body.get(field) {
        None => Err(Problem::field(field, "required", "This field is required.")),
        Some(Value::Null) => Err(Problem::field(field, "null", "This field may not be null.")),
        Some(Value::String(text)) if text.is_empty() => {
            Err(Problem::field(field, "blank", "This field may not be blank."))
        }
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Problem::field(field, "invalid", "Not a valid string.")),
    }
}

/// A link id in a body.
fn required_id(body: &Map<String, Value>, field: &str) -> Result<Uuid, Problem> {
    let text = required(body, field)?;
    text.parse().map_err(|_| Problem::field(field, "invalid", &format!("“{text}” is not a valid UUID.")))
}

/// A link id in a path: one that is no UUID is simply not found.
fn path_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::of("not_found"))
}

/// A list of resource names in a body.
fn resources(body: &Map<String, Value>) -> Result<Option<Vec<String>>, Problem> {
    match body.get("fetch_resources") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let names: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            names.map(Some).ok_or_else(|| Problem::field("fetch_resources", "invalid", "Not a valid string."))
        }
        Some(_) => Err(Problem::field("fetch_resources", "not_a_list", "Expected a list but got type \"str\".")),
    }
}

/// Whether the caller wants only a receipt, and the result by webhook.
fn wants_async(headers: &HeaderMap) -> bool {
    headers.get("X-Belvo-Request-Mode").is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"async"))
}

/// The receipt of an asynchronous call. Here ids have no dashes; in webhooks the same id has.
fn receipt(request_id: Uuid) -> Response {
    (axum::http::StatusCode::ACCEPTED, axum::Json(json!({"request_id": request_id.simple().to_string()})))
        .into_response()
}

//! A stand-in for Belvo's widget in update mode: a page that says what it is, in the user's language, with the name of the
//! bank and one button for each outcome. `GET /widget/script.js` is the stand-in for Belvo's JavaScript widget: it shows the
//! same page in a frame. `POST /widget/session` answers with the bank of a token.
//!
//! The response is the callback of the documented widget (widget callbacks guide). A callback comes from the
//! user's device and proves nothing; only the link's status is a proof. Outcomes of `POST /widget/complete`:
//!
//! | outcome | what happens | answer |
//! |---|---|---|
//! | `success` | the link is valid, the token is used, a recurrent link is refreshed | `{link, institution}` |
//! | `wrong_password` | nothing; the widget stays open and remembers it | the widget's `ERROR` event |
//! | `exit` | the user closes the widget; no change | `{last_encountered_error?, meta_data}` |
//! | `error` | the widget rejects its token | `{error, error_message}` |
//!
//! If the token request had `widget.callback_urls`, the header `X-Sandbox-Callback-Url` of the answer has the address to
//! which the hosted widget would lead the browser: `success`, `exit`, or `event` for an error.
//!
//! A token that is unknown, used, expired, or lacks a scope of update mode gets the `error` response, with HTTP 401.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::clock::belvo_time;
use crate::link::Link;
use crate::login::LoginFailure;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::world::World;

/// The scopes that update mode needs; creating a link needs only `write_links` (update mode guide).
const SCOPES: [&str; 2] = ["write_links", "read_links"];

/// An action of the user in the widget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Success,
    WrongPassword,
    Exit,
    Error,
}

#[derive(Deserialize)]
struct Complete {
    access_token: String,
    outcome: Outcome,
}

/// The routes of the page and of its buttons.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/widget/", get(page))
        .route("/widget/script.js", get(script))
        .route("/widget/session", post(session))
        .route("/widget/complete", post(complete))
}

/// The stand-in for Belvo's JavaScript widget.
async fn script() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("widget.js"))
}

#[derive(Deserialize)]
struct Session {
    access_token: String,
}

/// The bank of a token, for the page.
async fn session(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Ok(Session { access_token }) = serde_json::from_slice(&body) else { return refused() };
    shared.change(|world, now| {
        let token = world.live_token(now, &access_token, &SCOPES);
        let Some(link) = token.and_then(|token| world.links.get(&token.link?)) else { return refused() };
        Json(json!({"institution": link.institution.name, "display_name": link.institution.display_name}))
            .into_response()
    })
}

async fn page() -> Html<&'static str> {
    Html(include_str!("widget.html"))
}

async fn complete(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Complete>(&body) {
        Ok(Complete { access_token, outcome }) => {
            shared.change(|world, now| callback(world, now, &access_token, outcome))
        }
        Err(error) => Problem::new(400, "parse_error", &error.to_string()).into_response(),
    }
}

fn callback(world: &mut World, now: i64, access_token: &str, outcome: Outcome) -> Response {
    let token = world.live_token(now, access_token, &SCOPES).cloned();
    let Some((token, id)) = token.and_then(|token| token.link.map(|id| (token, id))) else { return refused() };
    let Some(link) = world.links.get(&id).cloned() else { return refused() };
    match outcome {
        Outcome::Success => {
            world.spend_token(access_token);
            world.repair(now, id);
            let parameters = [("link", id.to_string()), ("institution", link.institution.name.to_owned())];
            let callback = json!({"link": id, "institution": link.institution.name});
            (callback_url(&token.callback_urls, "success", &parameters), Json(callback)).into_response()
        }
        Outcome::WrongPassword => {
            let failure = LoginFailure::InvalidCredentials;
            if let Some(token) = world.tokens.get_mut(access_token) {
                token.last_error = Some(("login_error".into(), failure.message().into()));
            }
            Json(error_event(&link, now, failure, world.uuid())).into_response()
        }
        Outcome::Exit => {
            let (callback, parameters) = exit(&link, token.last_error);
            (callback_url(&token.callback_urls, "exit", &parameters), Json(callback)).into_response()
        }
        Outcome::Error => {
            let callback = not_valid();
            let text = |name: &str| callback[name].as_str().unwrap_or_default().to_owned();
            let parameters = [("error", text("error")), ("error_message", text("error_message"))];
            (callback_url(&token.callback_urls, "event", &parameters), Json(callback)).into_response()
        }
    }
}

/// The widget's name for the step at which a user leaves.
const ABANDONED: &str = "abandon-survey";

/// The exit callback: an error only if there was one, the institution because one was chosen.
fn exit(link: &Link, last_error: Option<(String, String)>) -> (Value, Vec<(&'static str, String)>) {
    let mut callback = Map::new();
    let mut parameters = Vec::new();
    if let Some((code, message)) = last_error {
        parameters.push(("last_encountered_error_code", code.clone()));
        parameters.push(("last_encountered_error_message", message.clone()));
        callback.insert("last_encountered_error".into(), json!({"code": code, "message": message}));
    }
    parameters.push(("meta_data_institution_name", link.institution.name.to_owned()));
    parameters.push(("meta_data_step", ABANDONED.to_owned()));
    let meta_data = json!({"institution_name": link.institution.name, "step": ABANDONED});
    callback.insert("meta_data".into(), meta_data);
    (Value::Object(callback), parameters)
}

/// The event that the widget sends the app while it stays open.
fn error_event(link: &Link, now: i64, failure: LoginFailure, request_id: Uuid) -> Value {
    json!({
        "eventName": "ERROR",
        "request_id": request_id.simple().to_string(),
        "meta_data": {
            "error_code": "login_error",
            "error_message": failure.message(),
            "institution_name": link.institution.name,
            "timestamp": belvo_time(now),
        },
    })
}

fn not_valid() -> Value {
    json!({"error": "ACCESS_TOKEN_NOT_VALID", "error_message": "The access token is not valid or has expired."})
}

/// The widget's response if it does not open.
pub(crate) fn refused() -> Response {
    (StatusCode::UNAUTHORIZED, Json(not_valid())).into_response()
}

/// The deep link to which the hosted widget would redirect.
pub(crate) fn callback_url(urls: &Value, name: &str, parameters: &[(&str, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let url = urls.get(name).and_then(Value::as_str).and_then(|url| Url::parse(url).ok());
    if let Some(mut url) = url {
        url.query_pairs_mut().extend_pairs(parameters);
        if let Ok(value) = HeaderValue::from_str(url.as_str()) {
            headers.insert("X-Sandbox-Callback-Url", value);
        }
    }
    headers
}

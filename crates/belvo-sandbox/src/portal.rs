//! A stand-in for "My Belvo Portal", where the user of a Brazilian open-finance link renews its consent.
//!
//! A consent has no update mode: the address of the portal contains a token that is bound to no link, and every parameter
//! of the CONSENT webhook (guide "My Belvo Portal"). The page sends them to `POST /portal/renew`:
//!
//! | mistake | answer |
//! |---|---|
//! | the token is unknown, used, expired, lacks a scope, or is not for `consent_management` | 401, the widget's `error` |
//! | `action` is not `renew` | 400, `invalid` |
//! | there is no such link, or the consent is not its own | 404, `not_found` |
//!
//! A user who leaves the portal calls `POST /portal/leave` with the token: nothing changes, and the answer names the exit
//! callback. Next: [`super::consent`] for what a renewal does.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::problem::Problem;
use crate::shared::Shared;
use crate::widget::{callback_url, refused};
use crate::world::World;

/// `widget.openfinance_feature` of a token for the portal.
const FEATURE: &str = "consent_management";

/// The scopes of a token for the portal.
const SCOPES: [&str; 3] = ["read_consents", "write_consents", "write_consent_callback"];

/// The parameters of the page's address that are checked; the others are only displayed.
#[derive(Deserialize)]
struct Renewal {
    access_token: String,
    link_id: Uuid,
    consent_id: Uuid,
    action: String,
}

/// The routes of the page and of its button.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/portal/", get(page)).route("/portal/renew", post(renew)).route("/portal/leave", post(leave))
}

async fn page() -> Html<&'static str> {
    Html(include_str!("portal.html"))
}

async fn renew(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Renewal>(&body) {
        Ok(renewal) => shared.change(|world, now| renewed(world, now, &renewal)),
        Err(error) => Problem::new(400, "parse_error", &error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct Leaving {
    access_token: String,
}

async fn leave(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Ok(Leaving { access_token }) = serde_json::from_slice(&body) else { return refused() };
    shared.change(|world, now| match world.live_token(now, &access_token, &SCOPES) {
        Some(token) => (callback_url(&token.callback_urls, "exit", &[]), Json(json!({}))).into_response(),
        None => refused(),
    })
}

fn renewed(world: &mut World, now: i64, renewal: &Renewal) -> Response {
    let token = world.live_token(now, &renewal.access_token, &SCOPES);
    let Some(token) = token.filter(|token| token.feature.as_deref() == Some(FEATURE)).cloned() else {
        return refused();
    };
    if renewal.action != "renew" {
        return Problem::field("action", "invalid", "The portal stand-in only knows `renew`.").into_response();
    }
    let is_its_own = world.consents.get(&renewal.link_id).is_some_and(|consent| consent.id == renewal.consent_id);
    if !is_its_own || world.renew_consent(now, renewal.link_id).is_err() {
        return Problem::of("not_found").into_response();
    }
    world.spend_token(&renewal.access_token);
    let parameters = [("link", renewal.link_id.to_string()), ("consent", renewal.consent_id.to_string())];
    let answer = json!({"link": renewal.link_id, "consent": renewal.consent_id});
    (callback_url(&token.callback_urls, "success", &parameters), Json(answer)).into_response()
}

//! `/healthz`, `/readyz` and `/metrics`: without credentials, so they contain no data of a link.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::SharedServer;
use super::problem::{Kind, Problem};

pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "alive", "version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn ready(State(server): State<SharedServer>) -> Result<Json<Value>, Problem> {
    let reasons = server.not_ready.borrow().clone();
    if reasons.is_empty() {
        return Ok(Json(json!({"status": "ready"})));
    }
    let detail = format!("relink cannot store inputs or decide about links now: {}.", reasons.join("; "));
    Err(Problem::new(Kind::NotReady, detail).with("reasons", reasons).retry_after_secs(1))
}

pub(super) async fn metrics(State(server): State<SharedServer>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], server.metrics.render())
}

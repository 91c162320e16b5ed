//! For machines, without credentials: alive, ready, metrics. Nothing here tells a stranger about a link.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::SharedDoor;
use super::problem::{Kind, Problem};

pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "alive", "version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn ready(State(door): State<SharedDoor>) -> Result<Json<Value>, Problem> {
    if *door.ready.borrow() {
        return Ok(Json(json!({"status": "ready"})));
    }
    Err(Problem::new(Kind::NotReady, "Not every partition is running yet; what comes in is stored and handled later.")
        .retry_after_secs(1))
}

pub(super) async fn metrics(State(door): State<SharedDoor>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], door.metrics.render())
}

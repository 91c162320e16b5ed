//! `/healthz`, `/readyz`, `/readyz/inputs` and `/metrics`: without credentials, so they contain no data of a link.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::problem::{Kind, Problem};
use super::{Server, SharedServer};
use crate::belvo;
use crate::journal::{Acknowledge, Waiting};

pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "alive", "version": env!("CARGO_PKG_VERSION")}))
}

/// Whether relink stores inputs and decides about links.
pub(super) async fn ready(State(server): State<SharedServer>) -> Result<Json<Value>, Problem> {
    let reasons = server.not_ready.borrow().clone();
    let journal = waiting(&server);
    if reasons.is_empty() {
        let mut body = json!({"status": "ready", "journal": journal});
        // relink still stores and decides, so this is no reason to send inputs elsewhere.
        if server.belvo.as_ref().is_some_and(belvo::Client::are_keys_refused) {
            body["warnings"] =
                json!(["Belvo refuses the API keys: check belvo.secret_id, belvo.secret_password and belvo.url"]);
        }
        return Ok(Json(body));
    }
    let detail = format!("relink cannot store inputs or decide about links now: {}.", reasons.join("; "));
    Err(Problem::new(Kind::NotReady, detail).with("reasons", reasons).with("journal", journal).retry_after_secs(1))
}

/// Whether relink stores inputs. A load balancer that sends webhooks to relink needs only this: while NATS is away, they are stored in
/// the journal.
pub(super) async fn ready_for_inputs(State(server): State<SharedServer>) -> Result<Json<Value>, Problem> {
    let journal = waiting(&server);
    // With this setting, an answer waits for NATS.
    let needs_nats = server.acknowledge == Acknowledge::Stream;
    let reasons = if needs_nats { server.not_ready.borrow().clone() } else { Vec::from_iter(server.journal.problem()) };
    if reasons.is_empty() {
        return Ok(Json(json!({"status": "ready", "journal": journal})));
    }
    let detail = format!("relink cannot store inputs now: {}.", reasons.join("; "));
    Err(Problem::new(Kind::NotReady, detail).with("reasons", reasons).with("journal", journal).retry_after_secs(1))
}

/// What waits for NATS.
fn waiting(server: &Server) -> Value {
    let Waiting { records, bytes, since } = server.journal.waiting();
    json!({"waiting": records, "bytes": bytes, "oldest_at": since.map(|since| since.to_string())})
}

pub(super) async fn metrics(State(server): State<SharedServer>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], server.metrics.render())
}

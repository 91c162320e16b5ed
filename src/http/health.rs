//! `/healthz`, `/readyz`, `/readyz/inputs` and `/metrics`: without credentials, so they contain no data of a link.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::json;

use super::problem::{Kind, Problem};
use super::{Server, SharedServer};
use crate::belvo::{self, BudgetLeft};
use crate::clock;
use crate::contract::{Alive, At, JournalWaiting, Ready};
use crate::journal::{Acknowledge, Waiting};
use crate::link::Timestamp;
use crate::metric;

/// The warning while Belvo refuses the keys. The service logs it at its start too.
pub const KEYS_REFUSED: &str = "Belvo refuses the API keys: check belvo.secret_id, belvo.secret_password and belvo.url";

pub(super) async fn alive() -> Json<Alive> {
    Json(Alive { status: "alive", version: env!("CARGO_PKG_VERSION") })
}

/// The warning while relink only observes. The service logs it at its start too.
pub const OBSERVES: &str = "relink only observes (service.observe): it sends no notices and changes nothing at Belvo";

/// Whether relink stores inputs and decides about links.
pub(super) async fn ready(State(server): State<SharedServer>) -> Result<Json<Ready>, Problem> {
    let mut reasons = server.not_ready.borrow().clone();
    let journal = waiting(&server);
    // The reasons are collected once in a second, and the journal may have become full since then.
    let problem = server.journal.problem().filter(|problem| !reasons.contains(problem));
    reasons.extend(problem);
    let last_failure = server.journal.last_failure();
    let nearly_full = server.journal.nearly_full();
    if reasons.is_empty() {
        // relink still stores and decides, so this is no reason to send inputs elsewhere.
        let are_keys_refused = server.belvo.as_ref().is_some_and(belvo::Client::are_keys_refused);
        let warnings = [(are_keys_refused, KEYS_REFUSED), (server.observe, OBSERVES)];
        let warnings = warnings.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text.to_owned());
        let warnings = warnings.chain(last_failure).chain(nearly_full).collect();
        return Ok(Json(Ready { status: "ready", journal, warnings }));
    }
    // An older failure is no reason by itself, but the reader of the reasons has to know it.
    if let Some(failure) = last_failure
        && !reasons.contains(&failure)
    {
        reasons.push(failure);
    }
    reasons.extend(nearly_full);
    let detail = format!("relink cannot store inputs or decide about links now: {}.", reasons.join("; "));
    Err(not_ready(detail, reasons, &journal))
}

/// Whether relink stores inputs. A load balancer that sends webhooks to relink needs only this: while NATS is away, they are stored in
/// the journal.
pub(super) async fn ready_for_inputs(State(server): State<SharedServer>) -> Result<Json<Ready>, Problem> {
    let journal = waiting(&server);
    // With this setting, an answer waits for NATS.
    let needs_nats = server.acknowledge == Acknowledge::Stream;
    let reasons = if needs_nats { server.not_ready.borrow().clone() } else { Vec::from_iter(server.journal.problem()) };
    if reasons.is_empty() {
        let warnings = server.journal.last_failure().into_iter().chain(server.journal.nearly_full()).collect();
        return Ok(Json(Ready { status: "ready", journal, warnings }));
    }
    let detail = format!("relink cannot store inputs now: {}.", reasons.join("; "));
    Err(not_ready(detail, reasons, &journal))
}

fn not_ready(detail: String, reasons: Vec<String>, journal: &JournalWaiting) -> Problem {
    let journal = json!(journal);
    Problem::new(Kind::NotReady, detail).with("reasons", reasons).with("journal", journal).retry_after_secs(1)
}

/// What waits for NATS.
pub(super) fn waiting(server: &Server) -> JournalWaiting {
    let Waiting { records, bytes, since } = server.journal.waiting();
    JournalWaiting { waiting: records, bytes, oldest_at: since.map(At) }
}

pub(super) async fn metrics(State(server): State<SharedServer>) -> impl IntoResponse {
    record_journal(&server.journal.waiting(), clock::now());
    if let Some(belvo) = &server.belvo {
        record_budget(belvo.budget_left());
        metrics::gauge!(metric::BELVO_KEYS_REFUSED.name).set(if belvo.are_keys_refused() { 1.0 } else { 0.0 });
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], server.metrics.render())
}

/// The journal changes with each message, and its age with the time, so it is read when somebody asks.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
fn record_journal(waiting: &Waiting, now: Timestamp) {
    metrics::gauge!(metric::JOURNAL_RECORDS.name).set(waiting.records as f64);
    metrics::gauge!(metric::JOURNAL_BYTES.name).set(waiting.bytes as f64);
    let waited = waiting.since.map(|since| now.since(since)).unwrap_or_default();
    metrics::gauge!(metric::JOURNAL_OLDEST_SECONDS.name).set(waited.as_secs_f64());
}

/// The budget also changes without a call, so it is read when somebody asks.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
fn record_budget(left: BudgetLeft) {
    metrics::gauge!(metric::BELVO_REQUESTS_LEFT.name).set(left.requests_left as f64);
    metrics::gauge!(metric::BELVO_REQUESTS_MAX.name).set(left.requests_max as f64);
}

//! `POST /webhooks/belvo`: where Belvo reports.
//!
//! Belvo waits five seconds, repeats five times and then forgets for ever, so: an answer well within that, 2xx only
//! for what is on the disk, and what cannot be read is set aside durably before it is refused. A code that is in no
//! table of ours is stored like any other; what it means is the engine's business.

use std::time::Duration;

use async_nats::HeaderMap as NatsHeaders;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;

use super::auth;
use super::body;
use super::problem::{Kind, Problem};
use super::{Door, SharedDoor};
use crate::belvo::{Undecodable, link_of_webhook};
use crate::contract::{DeadReason, InputKind};
use crate::nats::dead_letter::DeadLetter;
use crate::telemetry::INPUTS;

/// How long a webhook may take from its last byte to its answer. Belvo gives up after five seconds, of which some are
/// the network's.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// The address, and the subject of dead letters that name no link.
pub(super) const PATH: &str = "/webhooks/belvo";

/// What a stored webhook is answered with.
#[derive(Serialize)]
pub(super) struct Stored {
    sequence: u64,
}

pub(super) async fn webhook(State(door): State<SharedDoor>, request: Request) -> Result<Json<Stored>, Problem> {
    auth::check_webhook(&door.webhook_keys, door.open_webhooks, request.headers())?;
    let (parts, body) = request.into_parts();
    let late = Problem::new(Kind::Unavailable, "The webhook is not known to be stored; send it again.")
        .retry_after_secs(5)
        .inside(format!("not stored within {} s", ANSWER_WITHIN.as_secs()));
    let answered = timeout(ANSWER_WITHIN, async {
        let body = body::read(&parts.headers, body).await?;
        take_in(&door, &parts.headers, body).await
    });
    answered.await.unwrap_or(Err(late)).map(|sequence| Json(Stored { sequence }))
}

async fn take_in(door: &Door, headers: &HeaderMap, body: Bytes) -> Result<u64, Problem> {
    let link = match link_of_webhook(&body) {
        Ok(link) => link,
        Err(error) => {
            let reason = match &error {
                Undecodable::Empty
                | Undecodable::Compressed
                | Undecodable::TooLarge { .. }
                | Undecodable::NotJson { .. }
                | Undecodable::LinkMismatch { .. } => DeadReason::Malformed,
                Undecodable::WrongShape { .. } | Undecodable::Payments => DeadReason::NoLink,
                Undecodable::FutureVersion { .. } => DeadReason::FutureVersion,
            };
            let problem = body::check_content(headers).err().unwrap_or_else(|| error.into());
            return Err(set_aside(door, headers, body, PATH.to_owned(), reason, problem).await);
        }
    };
    // What names a link is set aside under its subject, and can be replayed from there.
    let subject = door.subject_of(InputKind::Webhook, &link);
    if let Err(problem) = body::check_content(headers) {
        return Err(set_aside(door, headers, body, subject, DeadReason::Malformed, problem).await);
    }
    match door.understand(InputKind::Webhook, &link, &body) {
        Ok(_meaning) => door.store_input(InputKind::Webhook, &link, body).await,
        Err(error) => Err(set_aside(door, headers, body, subject, DeadReason::Malformed, error.into()).await),
    }
}

/// Keeps what cannot be read, and gives the problem to answer with: the one at hand, or that not even this worked.
async fn set_aside(
    door: &Door,
    headers: &HeaderMap,
    payload: Bytes,
    subject: String,
    reason: DeadReason,
    problem: Problem,
) -> Problem {
    let mut kept = NatsHeaders::new();
    if let Some(content) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        kept.insert("content-type", content);
    }
    let detail = problem.detail().to_owned();
    let letter = DeadLetter { subject, headers: kept, payload, reason, detail, input: None };
    match door.dead_letters.publish(&letter).await {
        Ok(sequence) => {
            metrics::counter!(INPUTS, "kind" => "webhook", "outcome" => "unreadable").increment(1);
            problem.with("dead_letter", sequence)
        }
        Err(error) => {
            metrics::counter!(INPUTS, "kind" => "webhook", "outcome" => "unavailable").increment(1);
            Problem::new(Kind::Unavailable, "The webhook cannot be read, and could not be set aside; send it again.")
                .retry_after_secs(5)
                .inside(error)
        }
    }
}

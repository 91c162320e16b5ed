//! `POST /webhooks/belvo`: where Belvo reports.
//!
//! Belvo waits five seconds, repeats five times and then forgets for ever, so: an answer well within that, 2xx only
//! for what is on the disk, and what cannot be read is set aside durably before it is refused. A code that is in no
//! table of ours is stored like any other; what it means is the engine's business.
//!
//! A webhook is understood by what it says, however it is labelled and spelt: any content type, gzip or deflate, the path
//! in any case and with any slashes. What is stored is what the sender wrote, byte for byte, without the compression.
//! One that comes to another path is set aside too: somebody mistyped the address in Belvo's dashboard.

use std::time::Duration;

use async_nats::HeaderMap as NatsHeaders;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::auth;
use super::body::{self, Unread};
use super::problem::{Kind, Problem};
use super::{Door, SharedDoor};
use crate::belvo::{Undecodable, link_of_webhook};
use crate::contract::{DeadReason, InputKind};
use crate::metric;
use crate::nats::dead_letter::DeadLetter;

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
        let body = read(&door, &parts.headers, body).await?;
        take_in(&door, &parts.headers, body).await
    });
    answered.await.unwrap_or(Err(late)).map(|sequence| Json(Stored { sequence }))
}

/// Belvo looks at the address when it is registered, and people do with a browser: something is here. It is said without
/// credentials, and says nothing else.
pub(super) async fn probe() -> Json<Value> {
    Json(json!({"status": "webhooks are taken here, with POST"}))
}

/// `OPTIONS`, likewise.
pub(super) async fn options() -> (StatusCode, [(axum::http::HeaderName, &'static str); 1]) {
    (StatusCode::NO_CONTENT, [(ALLOW, "GET, HEAD, OPTIONS, POST")])
}

/// A request to a path where nothing is. A webhook, which shows by its credentials, is set aside with its link, so that it
/// can be replayed once the address is right.
pub(super) async fn astray(door: &Door, request: Request, nothing_here: Problem) -> Problem {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || !auth::is_webhook(&door.webhook_keys, &parts.headers) {
        return nothing_here;
    }
    let body = match read(door, &parts.headers, body).await {
        Ok(body) => body,
        Err(problem) => return problem,
    };
    let subject = link_of_webhook(&body).map(|link| door.subject_of(InputKind::Webhook, &link));
    let subject = subject.unwrap_or_else(|_nobody| PATH.to_owned());
    set_aside(door, &parts.headers, body, subject, DeadReason::UnknownSubject, nothing_here).await
}

/// The body, decompressed. One that is too large, or cannot be decompressed, is set aside as far as it is known.
async fn read(door: &Door, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let aside = |bytes, problem| set_aside(door, headers, bytes, PATH.to_owned(), DeadReason::Malformed, problem);
    let body = match body::read(headers, body).await {
        Ok(body) => body,
        Err(Unread { problem, start: Some(start) }) => return Err(aside(start, *problem).await),
        Err(Unread { problem, start: None }) => return Err(*problem),
    };
    match body::unpack(headers, body.clone()) {
        Ok(body) => Ok(body),
        Err(problem) => Err(aside(body, problem).await),
    }
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
            let is_no_json = matches!(error, Undecodable::NotJson { .. });
            let mislabelled = is_no_json.then(|| body::check_content(headers).err()).flatten();
            let problem = mislabelled.unwrap_or_else(|| error.into());
            return Err(set_aside(door, headers, body, PATH.to_owned(), reason, problem).await);
        }
    };
    // What names a link is set aside under its subject, and can be replayed from there.
    let subject = door.subject_of(InputKind::Webhook, &link);
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
    for name in [CONTENT_TYPE, CONTENT_ENCODING] {
        if let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) {
            kept.insert(name.as_str(), value);
        }
    }
    let detail = problem.detail().to_owned();
    let letter = DeadLetter { subject, headers: kept, payload, reason, detail, input: None };
    match door.dead_letters.publish(&letter).await {
        Ok(sequence) => {
            metrics::counter!(metric::HTTP_INPUTS.name, "kind" => "webhook", "outcome" => "unreadable").increment(1);
            problem.with("dead_letter", sequence)
        }
        Err(error) => {
            metrics::counter!(metric::HTTP_INPUTS.name, "kind" => "webhook", "outcome" => "unavailable").increment(1);
            Problem::new(Kind::Unavailable, "The webhook cannot be read, and could not be set aside; send it again.")
                .retry_after_secs(5)
                .inside(error)
        }
    }
}

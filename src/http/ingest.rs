//! `POST /webhooks/belvo`: the endpoint for Belvo's webhooks.
//!
//! Belvo waits five seconds for an answer, repeats a failed webhook five times and then drops it. So the answer takes
//! less than five seconds, 2xx is sent only for a webhook that is stored on the disk, and an unreadable webhook is
//! dead-lettered before it is refused. A webhook with an unknown code is stored like any other; the engine decides
//! about it.
//!
//! A webhook is recognised by its body, not by its labels: any content type, gzip or deflate, the path in any case
//! and with extra slashes. The stored bytes are those of the sender, decompressed. A webhook at an unknown path is
//! dead-lettered too: the address in Belvo's dashboard has a typing error.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use tokio::time::timeout;

use super::auth;
use super::body::{self, BodyError};
use super::problem::{Kind, Problem};
use super::{Server, SharedServer, members, receipt};
use crate::belvo::{Undecodable, link_of_webhook};
use crate::clock;
use crate::contract::{AddressCheck, DeadReason, InputKind, Receipt};
use crate::journal::{Dead, Entry};
use crate::metric;
use crate::trace;

/// How long relink may take from the last byte of a webhook to its answer. Belvo's limit is five seconds, including
/// the time on the network.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// The path; also the subject of dead letters without a link.
pub(super) const PATH: &str = "/webhooks/belvo";

pub(super) async fn webhook(State(server): State<SharedServer>, request: Request) -> Result<Json<Receipt>, Problem> {
    auth::check_webhook(&server.webhook_keys, server.open_webhooks, request.headers())?;
    let (parts, body) = request.into_parts();
    let late = Problem::new(Kind::Unavailable, "The webhook could not be stored in time; send it again.")
        .retry_after_secs(5)
        .log_detail(format!("not stored within {} s", ANSWER_WITHIN.as_secs()));
    let answered = timeout(ANSWER_WITHIN, async {
        let body = read(&server, &parts.headers, PATH, body).await?;
        store_webhook(&server, &parts.headers, body).await
    });
    answered.await.unwrap_or(Err(late)).map(Json)
}

/// `GET` and `HEAD`: Belvo checks the address when it is registered, and operators open it in a browser. The answer
/// needs no credentials and contains no data.
pub(super) async fn probe() -> Json<AddressCheck> {
    Json(AddressCheck { status: "send webhooks to this address with POST" })
}

/// `OPTIONS`: the allowed methods.
pub(super) async fn options() -> (StatusCode, [(axum::http::HeaderName, &'static str); 1]) {
    (StatusCode::NO_CONTENT, [(ALLOW, "GET, HEAD, OPTIONS, POST")])
}

/// Handles a request to an unknown path. A webhook, recognised by its credentials, is dead-lettered under the subject
/// of its link, so that it can be replayed.
pub(super) async fn misdirected(server: &Server, request: Request, unknown_path: Problem) -> Problem {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || !auth::is_webhook(&server.webhook_keys, &parts.headers) {
        return unknown_path;
    }
    let body = match read(server, &parts.headers, PATH, body).await {
        Ok(body) => body,
        Err(problem) => return problem,
    };
    let subject = link_of_webhook(&body).map(|link| server.subject_of(InputKind::Webhook, &link));
    let subject = subject.unwrap_or_else(|_no_link| PATH.to_owned());
    dead_letter(server, &parts.headers, body, subject, DeadReason::UnknownSubject, unknown_path).await
}

/// Reads and decompresses the body. If a body is too large or cannot be decompressed, its received part is dead-lettered under the path.
pub(super) async fn read(server: &Server, headers: &HeaderMap, path: &str, body: Body) -> Result<Bytes, Problem> {
    let dead = |bytes, problem| dead_letter(server, headers, bytes, path.to_owned(), DeadReason::Malformed, problem);
    let body = match body::read(headers, body).await {
        Ok(body) => body,
        Err(BodyError { problem, start: Some(start) }) => return Err(dead(start, *problem).await),
        Err(BodyError { problem, start: None }) => return Err(*problem),
    };
    match body::unpack(headers, body.clone()) {
        Ok(body) => Ok(body),
        Err(problem) => Err(dead(body, problem).await),
    }
}

async fn store_webhook(server: &Server, headers: &HeaderMap, body: Bytes) -> Result<Receipt, Problem> {
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
            return Err(dead_letter(server, headers, body, PATH.to_owned(), reason, problem).await);
        }
    };
    // A dead letter with the subject of its link can be replayed.
    let subject = server.subject_of(InputKind::Webhook, &link);
    match server.translate(InputKind::Webhook, &link, &body) {
        Ok(_meaning) => server.store_input(InputKind::Webhook, &link, body).await,
        Err(error) => Err(dead_letter(server, headers, body, subject, DeadReason::Malformed, error.into()).await),
    }
}

/// Stores a dead letter. Returns the problem to answer with: `problem`, or 503 if the dead letter could not be
/// stored.
pub(super) async fn dead_letter(
    server: &Server,
    headers: &HeaderMap,
    payload: Bytes,
    subject: String,
    reason: DeadReason,
    problem: Problem,
) -> Problem {
    let kept = [CONTENT_TYPE, CONTENT_ENCODING].into_iter().filter_map(|name| {
        let value = headers.get(&name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    let dead = Dead { reason, detail: problem.detail().to_owned() };
    let trace = trace::current_headers().map(|(name, value)| (name.to_owned(), value));
    let headers = kept.chain(trace).collect();
    let entry = Entry { at: clock::now(), subject, headers, payload, dead: Some(dead) };
    match server.journal.append(entry).await {
        Ok(stored) => {
            metrics::counter!(metric::HTTP_INPUTS.name, "kind" => "webhook", "outcome" => "unreadable").increment(1);
            members(&receipt(stored, None))
                .into_iter()
                .fold(problem, |problem, (name, value)| problem.with(&name, value))
        }
        Err(error) => {
            metrics::counter!(metric::HTTP_INPUTS.name, "kind" => "webhook", "outcome" => "unavailable").increment(1);
            Problem::new(
                Kind::Unavailable,
                "The webhook cannot be read, and storing it as a dead letter failed; send it again.",
            )
            .retry_after_secs(5)
            .log_detail(error)
        }
    }
}

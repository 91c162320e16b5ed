//! Reports of your application: errors of Belvo's API, events of the widget, commands of operators.
//!
//! Each report is checked by the translation that the engine uses, so the engine can read every report that was answered 202. An
//! unreadable report is refused and not stored: the sender receives the error in the answer. The same bodies may be
//! published on NATS instead.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::auth::Caller;
use super::body;
use super::parameters::LinkInPath;
use super::problem::{Kind, Problem};
use super::{Server, SharedServer};
use crate::belvo::{Meaning, Undecodable, link_of_api_error, read_json};
use crate::contract::limits::{OPERATOR_BYTES_MAX, REASON_BYTES_MAX};
use crate::contract::{Command, ErrorMeaning, InputKind, NotStored, Stored, without_secrets};
use crate::link::LinkId;
use crate::metric;

/// A placeholder link id, to translate an error that names no link.
const NO_LINK: &str = "no-link";

pub(super) async fn api_error(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let body = redacted(body::read_json(request).await?);
    let link = link_of_api_error(&body);
    let meaning = translate(&server, InputKind::ApiError, link.as_ref().unwrap_or(&stand_in()), &body)?;
    let Some(link) = link else {
        return match meaning {
            Meaning::NotAboutTheLink { class, code } => {
                let meaning = ErrorMeaning { class: class.as_str(), code };
                Ok(Json(NotStored { link_id: None, meaning }).into_response())
            }
            Meaning::Event(_) | Meaning::StatusPage(_) | Meaning::Unknown { .. } => Err(no_link()),
        };
    };
    store(&server, InputKind::ApiError, &link, body, &caller).await
}

/// A link id for the translation of an error that names no link.
pub(super) fn stand_in() -> LinkId {
    NO_LINK.parse().expect("a word is a link id")
}

/// The bytes to store. Senders report Belvo's error unchanged, including an open MFA session, which is removed. A
/// body in an unusual encoding is stored as plain JSON, so that secrets are found at any depth.
pub(super) fn redacted(body: Bytes) -> Bytes {
    let is_plain = serde_json::from_slice::<IgnoredAny>(&body).is_ok();
    let read = if is_plain { None } else { read_json(&body).ok() };
    let body = read.map_or(body, |value| value.to_string().into());
    without_secrets(&body).map_or(body, Bytes::from)
}

fn no_link() -> Problem {
    count(InputKind::ApiError, "refused");
    Problem::new(
        Kind::LinkNotFound,
        "The error is about a link and does not name it, or not with an id that a link can have. relink looked in `link_id` (or \
         `link`), in `body` (`link`, \
         which Belvo sends with status 428 only), in `path` (`…/links/{id}/…`) and in its query (`link=…`). Set `link_id`.",
    )
    .at("/link_id")
}

pub(super) async fn widget(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    LinkInPath(link): LinkInPath,
    request: Request,
) -> Result<Response, Problem> {
    let body = redacted(body::read_json(request).await?);
    translate(&server, InputKind::Widget, &link, &body)?;
    store(&server, InputKind::Widget, &link, body, &caller).await
}

pub(super) async fn command(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    LinkInPath(link): LinkInPath,
    request: Request,
) -> Result<Response, Problem> {
    let body = redacted(body::read_json(request).await?);
    translate(&server, InputKind::Command, &link, &body)?;
    check_length(&body)?;
    store(&server, InputKind::Command, &link, body, &caller).await
}

/// Refuses a name or a reason that would not be kept: the operator is still here to shorten it.
fn check_length(body: &[u8]) -> Result<(), Problem> {
    let Ok(command) = serde_json::from_slice::<Command>(body) else { return Ok(()) };
    let texts = [("by", command.by, OPERATOR_BYTES_MAX), ("reason", command.reason, REASON_BYTES_MAX)];
    for (field, text, max) in texts {
        if text.is_some_and(|text| text.len() > max) {
            count(InputKind::Command, "refused");
            let detail = format!("`{field}` must have at most {max} bytes.");
            return Err(Problem::new(Kind::WrongShape, detail).at(format!("/{field}")));
        }
    }
    Ok(())
}

fn translate(server: &Server, kind: InputKind, link: &LinkId, body: &[u8]) -> Result<Meaning, Undecodable> {
    server.translate(kind, link, body).inspect_err(|_| count(kind, "refused"))
}

async fn store(
    server: &Server,
    kind: InputKind,
    link: &LinkId,
    body: Bytes,
    caller: &Caller,
) -> Result<Response, Problem> {
    let receipt = server.store_input_of(kind, link, body, caller).await?;
    let answer = Stored { link_id: Some(link.to_string()), receipt };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

fn count(kind: InputKind, outcome: &'static str) {
    metrics::counter!(metric::HTTP_INPUTS.name, "kind" => kind.as_str(), "outcome" => outcome).increment(1);
}

//! What your application reports: errors of Belvo's API, what the widget said, what an operator decided.
//!
//! Each is checked by the same reader that the engine uses, so what is answered 202 is understood later. A body that
//! cannot be read is only refused: its sender is here to hear it. The same bodies may be published on NATS instead.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::json;

use super::body;
use super::parameters::LinkInPath;
use super::problem::{Kind, Problem};
use super::{Door, SharedDoor};
use crate::belvo::{Meaning, Undecodable, link_of_api_error, read_json};
use crate::contract::{InputKind, without_secrets};
use crate::link::LinkId;
use crate::metric;

/// Stands in where an error names no link, to ask the table what it would mean.
const NO_LINK: &str = "no-link";

pub(super) async fn api_error(State(door): State<SharedDoor>, request: Request) -> Result<Response, Problem> {
    let body = at_rest(body::read_json(request).await?);
    let stand_in: LinkId = NO_LINK.parse().map_err(Problem::internal)?;
    let link = link_of_api_error(&body);
    let meaning = understand(&door, InputKind::ApiError, link.as_ref().unwrap_or(&stand_in), &body)?;
    let Some(link) = link else {
        return match meaning {
            Meaning::NotAboutTheLink { class, code } => {
                let meaning = json!({"class": class.as_str(), "code": code});
                Ok((StatusCode::OK, Json(json!({"link_id": null, "meaning": meaning}))).into_response())
            }
            Meaning::Event(_) | Meaning::Unknown { .. } => Err(no_link()),
        };
    };
    store(&door, InputKind::ApiError, &link, body).await
}

/// A report as it is kept: a sender reports what Belvo answered as it came, an open MFA session included.
/// A body in an odd encoding is kept as plain JSON, in which a session is found at any depth.
fn at_rest(body: Bytes) -> Bytes {
    let is_plain = serde_json::from_slice::<IgnoredAny>(&body).is_ok();
    let read = if is_plain { None } else { read_json(&body).ok() };
    let body = read.map_or(body, |value| value.to_string().into());
    without_secrets(&body).map_or(body, Bytes::from)
}

fn no_link() -> Problem {
    count(InputKind::ApiError, "refused");
    Problem::new(
        Kind::LinkNotFound,
        "The error is about a link and does not say which. It was looked for in `link_id` (or `link`), in `body` (`link`, \
         which Belvo sends with status 428 only), in `path` (`…/links/{id}/…`) and in its query (`link=…`); set `link_id`.",
    )
    .at("/link_id")
}

pub(super) async fn widget(
    State(door): State<SharedDoor>,
    LinkInPath(link): LinkInPath,
    request: Request,
) -> Result<Response, Problem> {
    let body = at_rest(body::read_json(request).await?);
    understand(&door, InputKind::Widget, &link, &body)?;
    store(&door, InputKind::Widget, &link, body).await
}

pub(super) async fn command(
    State(door): State<SharedDoor>,
    LinkInPath(link): LinkInPath,
    request: Request,
) -> Result<Response, Problem> {
    let body = at_rest(body::read_json(request).await?);
    understand(&door, InputKind::Command, &link, &body)?;
    store(&door, InputKind::Command, &link, body).await
}

fn understand(door: &Door, kind: InputKind, link: &LinkId, body: &[u8]) -> Result<Meaning, Undecodable> {
    door.understand(kind, link, body).inspect_err(|_| count(kind, "refused"))
}

async fn store(door: &Door, kind: InputKind, link: &LinkId, body: Bytes) -> Result<Response, Problem> {
    let sequence = door.store_input(kind, link, body).await?;
    let answer = json!({"link_id": link.as_str(), "sequence": sequence});
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

fn count(kind: InputKind, outcome: &'static str) {
    metrics::counter!(metric::HTTP_INPUTS.name, "kind" => kind.as_str(), "outcome" => outcome).increment(1);
}

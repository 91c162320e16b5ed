//! Reads a request's body: bounded in bytes and time, and JSON if it says what it is.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::timeout;

use super::problem::{Kind, Problem};

/// The largest body. Belvo's webhooks carry counts and dates, some kilobytes at most.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long a body may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads the body of a request that is to be JSON.
pub(super) async fn read_json(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    check_content(&parts.headers)?;
    read(&parts.headers, body).await
}

/// Reads a body of any kind.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let late = || Problem::new(Kind::Timeout, format!("The body did not arrive within {} s.", READ_TIMEOUT.as_secs()));
    timeout(READ_TIMEOUT, read_bounded(body)).await.unwrap_or_else(|_| Err(late()))
}

async fn read_bounded(body: Body) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let broken = |error| Problem::new(Kind::NotJson, "The body ended before it was complete.").inside(error);
        let chunk: Bytes = chunk.map_err(broken)?;
        if whole.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn too_large() -> Problem {
    Problem::new(Kind::TooLarge, format!("The body may have {BODY_BYTES_MAX} bytes."))
}

/// Fails if the request says that its body is not JSON. Saying nothing is fine.
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    if essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json")) {
        return Ok(());
    }
    let hint = match essence.as_slice() {
        b"application/x-www-form-urlencoded" => " It is a form's; with curl, add -H 'Content-Type: application/json'.",
        _ => "",
    };
    Err(Problem::new(Kind::NotJsonContent, format!("The Content-Type must be application/json, or absent.{hint}")))
}

//! Reads a request's body: bounded in bytes and time, decompressed, and JSON where it has to be.
//!
//! What is in a body decides, not what the headers say of it: gateways and clients label JSON as `text/plain` or as a
//! form's, and leave a `Content-Encoding` on what they have decompressed. A header only helps to say what is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::timeout;

use super::problem::{Kind, Problem};
use crate::belvo::{TEXT_BYTES_MAX, decompress, decompress_bare, read_json as parse_json};

/// The largest body, compressed or not. Belvo's webhooks carry counts and dates, some kilobytes at most.
pub(super) const BODY_BYTES_MAX: usize = TEXT_BYTES_MAX;

/// How long a body may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// A body that was not read to its end.
pub(super) struct Unread {
    /// Why.
    pub(super) problem: Box<Problem>,
    /// What of it had arrived, if it is too large: a repeat would be no smaller.
    pub(super) start: Option<Bytes>,
}

/// Reads the body of a request that is to be JSON; an empty one is for the caller to judge.
pub(super) async fn read_json(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let body = read(&parts.headers, body).await.map_err(|unread| *unread.problem)?;
    let body = unpack(&parts.headers, body)?;
    if !body.trim_ascii().is_empty() && parse_json(&body).is_err() {
        check_content(&parts.headers)?;
    }
    Ok(body)
}

/// Reads a body of any kind, as it comes.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Unread> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
        return Err(too_large(Bytes::new()));
    }
    let late = || Problem::new(Kind::Timeout, format!("The body did not arrive within {} s.", READ_TIMEOUT.as_secs()));
    let read = timeout(READ_TIMEOUT, read_bounded(body)).await;
    read.unwrap_or_else(|_| Err(Unread { problem: Box::new(late()), start: None }))
}

async fn read_bounded(body: Body) -> Result<Bytes, Unread> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|error| {
            let problem = Problem::new(Kind::NotJson, "The body ended before it was complete.").inside(error);
            Unread { problem: Box::new(problem), start: None }
        })?;
        if whole.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large(whole.freeze()));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn too_large(start: Bytes) -> Unread {
    let problem = Problem::new(Kind::TooLarge, format!("The body may have {BODY_BYTES_MAX} bytes."));
    Unread { problem: Box::new(problem), start: Some(start) }
}

/// Takes off what `Content-Encoding` names, and what shows itself as gzip or zlib without being named.
pub(super) fn unpack(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Problem> {
    let mut body = body;
    // The last coding was applied last (RFC 9110, section 8.4).
    let mut codings: Vec<String> = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        codings.extend(value.split(',').map(|coding| coding.trim().to_ascii_lowercase()));
    }
    for coding in codings.iter().rev() {
        body = match coding.as_str() {
            "" | "identity" => body,
            "gzip" | "x-gzip" => inflate(body)?,
            "deflate" => match inflate(body.clone())? {
                same if same == body && parse_json(&same).is_err() => Bytes::from(decompress_bare(&same)?),
                plain => plain,
            },
            _unknown if parse_json(&body).is_ok() => body,
            _unknown => {
                let detail =
                    "The body is compressed in a way that relink does not know; it takes gzip and deflate, or none.";
                return Err(Problem::new(Kind::UnknownCoding, detail));
            }
        };
    }
    inflate(body)
}

fn inflate(body: Bytes) -> Result<Bytes, Problem> {
    let plain = decompress(&body)?;
    Ok(match plain {
        std::borrow::Cow::Borrowed(_) => body,
        std::borrow::Cow::Owned(plain) => Bytes::from(plain),
    })
}

/// Of a body that is no JSON: fails if the request says so itself. Plain text, bytes, or nothing said may be anything.
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    let hint = match essence.as_slice() {
        b"" | b"application/json" | b"text/json" | b"text/plain" | b"application/octet-stream" => return Ok(()),
        json if json.starts_with(b"application/") && json.ends_with(b"+json") => return Ok(()),
        b"application/x-www-form-urlencoded" => " It is a form's; with curl, add -H 'Content-Type: application/json'.",
        _other => "",
    };
    Err(Problem::new(
        Kind::NotJsonContent,
        format!("The body is not JSON, and its Content-Type does not say so.{hint}"),
    ))
}

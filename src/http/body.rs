//! Reads the body of a request: limited in size and time, decompressed, and checked to be JSON where JSON is
//! required.
//!
//! The bytes decide the format, not the headers: gateways and clients label JSON as `text/plain` or as a form, and
//! keep a `Content-Encoding` header after they have decompressed the body. The headers only improve error messages.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::{Kind, Problem};
use crate::belvo::{TEXT_BYTES_MAX, decompress, decompress_bare, read_json as parse_json};

/// The largest body in bytes, compressed or not. Belvo's webhooks have counts and dates, a few kilobytes.
pub(super) const BODY_BYTES_MAX: usize = TEXT_BYTES_MAX;

/// How long the whole body may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// The body could not be read to its end.
pub(super) struct BodyError {
    /// The answer to the sender.
    pub(super) problem: Box<Problem>,
    /// The received part of a body that is too large. It is dead-lettered, because the sender would send the same body again.
    pub(super) start: Option<Bytes>,
}

/// Reads the body of a request that must be JSON. An empty body is returned as it is.
pub(super) async fn read_json(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let body = read(&parts.headers, body).await.map_err(|error| *error.problem)?;
    let body = unpack(&parts.headers, body)?;
    if !body.trim_ascii().is_empty() && parse_json(&body).is_err() {
        check_content(&parts.headers)?;
    }
    Ok(body)
}

/// The fields of a body that may be empty, or must be an object. `wrong` says which form it must have.
pub(super) fn optional_object<T: DeserializeOwned + Default>(body: &[u8], wrong: &'static str) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let value = parse_json(body)?;
    // serde reads a list as the fields of an object in their order.
    let fields = if value.is_object() { serde_json::from_value(value).ok() } else { None };
    fields.ok_or_else(|| Problem::new(Kind::WrongShape, wrong))
}

/// Reads the bytes of a body.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, BodyError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
        return Err(too_large(Bytes::new()));
    }
    let late = || Problem::new(Kind::Timeout, format!("The body did not arrive within {} s.", READ_TIMEOUT.as_secs()));
    let read = timeout(READ_TIMEOUT, read_bounded(body)).await;
    read.unwrap_or_else(|_| Err(BodyError { problem: Box::new(late()), start: None }))
}

async fn read_bounded(body: Body) -> Result<Bytes, BodyError> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|error| {
            let problem = Problem::new(Kind::NotJson, "The body ended before it was complete.").log_detail(error);
            BodyError { problem: Box::new(problem), start: None }
        })?;
        if whole.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large(whole.freeze()));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn too_large(start: Bytes) -> BodyError {
    let problem =
        Problem::new(Kind::TooLarge, format!("The body has more than {BODY_BYTES_MAX} bytes, which is the maximum."));
    BodyError { problem: Box::new(problem), start: Some(start) }
}

/// Decompresses the codings of `Content-Encoding`, and gzip or zlib data that no header announces.
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
                    "The Content-Encoding is not supported; relink reads gzip, deflate and uncompressed bodies.";
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

/// For a body that is not JSON: fails if the `Content-Type` excludes JSON. A missing type, plain text and bytes may
/// be JSON.
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    let hint = match essence.as_slice() {
        b"" | b"application/json" | b"text/json" | b"text/plain" | b"application/octet-stream" => return Ok(()),
        json if json.starts_with(b"application/") && json.ends_with(b"+json") => return Ok(()),
        b"application/x-www-form-urlencoded" => {
            " It is the type of a form; with curl, add -H 'Content-Type: application/json'."
        }
        _other => "",
    };
    Err(Problem::new(
        Kind::NotJsonContent,
        format!("The body is not JSON, and its Content-Type is not that of JSON.{hint}"),
    ))
}

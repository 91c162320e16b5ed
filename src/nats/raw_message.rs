//! Reads messages of a stream by a request whose answer has the headers as base64 in JSON, so that the NATS client parses none.
//!
//! The server stores a message with any headers. async-nats closes its connection when a message arrives whose headers it cannot parse
//! (bytes that are not UTF-8, a line without a colon, a name with a blank), and takes a status in the first line, such as
//! `NATS/1.0 503`, for a status of the server. The server would deliver such a message again after each reconnect, for ever. So a reader
//! asks for the next message here before it pulls (`partition.rs`), or after the connection was closed (`foreign.rs`).
//!
//! The request is JetStream's `STREAM.MSG.GET`; `next_by_subj` finds the next message of a partition.

use std::str::FromStr;

use async_nats::HeaderName;
use async_nats::jetstream::{self, response::Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The name of the header that has the lines that are not headers. Bytes other than printable ASCII are escaped.
const UNREADABLE_LINE: &str = "Relink-Unreadable-Header";

/// JetStream's error code for a message that the stream does not have.
const NO_MESSAGE_FOUND: u64 = 10_037;

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawMessage {
    pub(super) subject: String,
    pub(super) sequence: u64,
    /// When it was stored, in nanoseconds since the Unix epoch.
    pub(super) stored_at_ns: i64,
    /// The block of headers, from `NATS/1.0` on; empty without headers.
    headers: Vec<u8>,
    pub(super) payload: Bytes,
}

/// Which message to read.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Wanted {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<String>,
}

impl Wanted {
    /// The message with this sequence.
    pub(super) const fn at(sequence: u64) -> Self {
        Self { seq: Some(sequence), next_by_subj: None, last_by_subj: None }
    }

    /// The first message with a subject like `filter` at `from` or behind it.
    pub(super) const fn next(filter: String, from: u64) -> Self {
        Self { seq: Some(from), next_by_subj: Some(filter), last_by_subj: None }
    }

    /// The last message with a subject like `filter`.
    pub(super) const fn last(filter: String) -> Self {
        Self { seq: None, next_by_subj: None, last_by_subj: Some(filter) }
    }
}

#[derive(Deserialize)]
struct Answer {
    message: Stored,
}

#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
}

/// Reads a message; `None` if the stream does not have it.
///
/// # Errors
/// The error text of the request.
pub(super) async fn read(
    context: &jetstream::Context,
    stream: &str,
    wanted: &Wanted,
) -> Result<Option<RawMessage>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read a message of the stream {stream}: {error}");
    let answer = context.request(format!("STREAM.MSG.GET.{stream}"), wanted).await.map_err(|error| failed(&error))?;
    let Stored { subject, seq, hdrs, data, time } = match answer {
        Response::Ok(Answer { message }) => message,
        Response::Err { error } if error.error_code().0 == NO_MESSAGE_FOUND => return Ok(None),
        Response::Err { error } => return Err(failed(&error)),
    };
    let decode = |text: Option<String>| {
        STANDARD.decode(text.unwrap_or_default()).map_err(|_| failed(&"the answer is not base64"))
    };
    let stored_at_ns = i64::try_from(time.unix_timestamp_nanos()).map_err(|_| failed(&"its time is out of range"))?;
    let (headers, payload) = (decode(hdrs)?, decode(data)?.into());
    Ok(Some(RawMessage { subject, sequence: seq, stored_at_ns, headers, payload }))
}

impl RawMessage {
    /// Whether async-nats can parse the headers and takes the message for one of a publisher.
    pub(super) fn is_parsable(&self) -> bool {
        let mut lines = self.headers.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next().unwrap_or_default();
        let mut may_continue = false;
        (self.headers.is_empty() || first == b"NATS/1.0")
            && lines.filter(|line| !line.is_empty()).all(|line| {
                let is_continued = may_continue && line[0].is_ascii_whitespace();
                may_continue = true;
                std::str::from_utf8(line).is_ok() && (is_continued || header_of(line).is_some())
            })
    }

    /// The headers that can be read, in order, and each other line under [`UNREADABLE_LINE`].
    pub(super) fn headers(&self) -> Vec<(String, String)> {
        let lines = self.headers.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let lines = lines.filter(|line| !line.is_empty() && *line != b"NATS/1.0");
        let header = |line: &[u8]| {
            header_of(line).unwrap_or_else(|| (UNREADABLE_LINE.to_owned(), line.escape_ascii().to_string()))
        };
        lines.map(header).collect()
    }
}

/// The name and the value of a line, if async-nats accepts both.
fn header_of(line: &[u8]) -> Option<(String, String)> {
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    HeaderName::from_str(name).ok()?;
    Some((name.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[u8]) -> RawMessage {
        let (subject, payload) = (String::new(), Bytes::new());
        RawMessage { subject, sequence: 1, stored_at_ns: 1, headers: headers.to_vec(), payload }
    }

    #[test]
    fn only_headers_that_async_nats_accepts_are_parsable() {
        for parsable in [&b""[..], b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nA: \xc3\xa9\r\n b\r\nce-id:x\r\n\r\n"] {
            assert!(with(parsable).is_parsable(), "{}", parsable.escape_ascii());
        }
        for other in [
            &b"NATS/1.0\r\nA: \xe9\r\n\r\n"[..],
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\na blank: x\r\n\r\n",
            b"NATS/1.0\r\n continued\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"HTTP/1.0\r\n\r\n",
            b"\xff",
        ] {
            assert!(!with(other).is_parsable(), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_line_that_is_no_header_is_kept_escaped() {
        let headers = with(b"NATS/1.0 503\r\nce-id: 7\r\nName: Jos\xe9\r\nplain\r\n\r\n").headers();
        let unreadable = |text: &str| (UNREADABLE_LINE.to_owned(), text.to_owned());
        let readable = ("ce-id".to_owned(), "7".to_owned());
        assert_eq!(headers, [unreadable("NATS/1.0 503"), readable, unreadable("Name: Jos\\xe9"), unreadable("plain")]);
    }
}

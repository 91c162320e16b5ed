//! Dead letters: messages relink could not read, set aside with their bytes, their headers and the reason. Only an open MFA session is
//! taken out of the bytes.
//!
//! One lies on `relink.dead.<reason>` with the original body as its body, so that any NATS tool can look at it. Its
//! headers are the original ones, beside ours in `Relink-Dead-*`; those that JetStream itself obeys (`Nats-*`) are kept
//! under `Relink-Original-Nats-*`, else a message that came in a batch would open a batch here.
//!
//! What never lay in a stream is one letter if all of it is the same: bytes, headers, subject and reason.
//!
//! A lane that stops between setting aside and acknowledging sets aside again: the message id (stream identity, sequence, and when it was
//! stored) makes that one letter, within the stream's duplicate window of an hour.
//!
//! Never: lose a message because it does not fit (the letter shrinks instead, and says so), or delete one by itself.
//! Next: `stream.rs` declares the stream; `lane.rs` and `http/ingest.rs` write here, the command line lists and replays.

use std::future::IntoFuture;

use async_nats::HeaderMap;
use async_nats::header::{HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::contract::{DeadReason, without_secrets};
use crate::link::LinkId;
use crate::nats::stream::StreamIdentity;
use crate::nats::subject::Subjects;

const REASON: &str = "Relink-Dead-Reason";
const DETAIL: &str = "Relink-Dead-Detail";
const SUBJECT: &str = "Relink-Dead-Subject";
const STREAM: &str = "Relink-Dead-Stream";
const SEQUENCE: &str = "Relink-Dead-Sequence";
const TRUNCATED: &str = "Relink-Dead-Truncated";
const OURS: &str = "Relink-Dead-";
const ORIGINAL: &str = "Relink-Original-";
const OBEYED: &str = "Nats-";

/// The longest detail, in characters; it is a header, not a report.
const DETAIL_LENGTH_MAX: usize = 512;
/// What the headers of a letter take at most once the original ones are left out.
const OWN_HEADERS_BYTES: usize = 4 * 1024;

/// Where in a stream a message lay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPosition {
    /// Which stream.
    pub stream: StreamIdentity,
    /// Its sequence there.
    pub sequence: u64,
    /// When it was stored there, in nanoseconds since the Unix epoch: a server that lost its tail gives a sequence out twice.
    pub stored_at_ns: i64,
}

impl InputPosition {
    /// The id of the letter that a message of this place becomes: the same each time it is set aside, and that of no other message.
    pub fn letter_id(&self) -> String {
        format!("{}:{}:{}", self.stream, self.sequence, self.stored_at_ns)
    }
}

/// A message to be set aside.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its subject, published or stored; for an HTTP request the subject it would have had, or its path.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes, as they came; what is kept of them has no MFA session.
    pub payload: Bytes,
    /// Why, in a word.
    pub reason: DeadReason,
    /// Why, for a person. Must not quote the body: it may hold a secret.
    pub detail: String,
    /// Where it lay; `None` when it never reached a stream.
    pub input: Option<InputPosition>,
}

/// A dead letter read back.
#[derive(Debug, Clone)]
pub struct StoredLetter {
    /// Its sequence in the stream of dead letters.
    pub sequence: u64,
    /// When it was set aside, in nanoseconds since the Unix epoch.
    pub at_ns: i128,
    /// The original subject.
    pub subject: String,
    /// The original headers.
    pub headers: HeaderMap,
    /// The original body, or its beginning.
    pub payload: Bytes,
    /// How long the original body was, when only its beginning was kept; in bytes.
    pub truncated_from: Option<u64>,
    /// The reason's token.
    pub reason: String,
    /// The reason for a person.
    pub detail: String,
    /// The stream it lay in, as [`StreamIdentity`] prints it.
    pub input_stream: Option<String>,
    /// Its sequence there.
    pub input_sequence: Option<u64>,
}

/// Why a dead letter was not written, read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Not stored: the message must not be acknowledged.
    #[error("the dead letter could not be stored: {0}")]
    Publish(#[source] PublishError),
    /// The stream of dead letters does not answer, or does not exist.
    #[error("the dead letters cannot be read: {detail}")]
    Read {
        /// The answer.
        detail: String,
    },
    /// There is none with that number.
    #[error("there is no dead letter {sequence}")]
    NotFound {
        /// The number asked for.
        sequence: u64,
    },
    /// It was never an input, or not all of it is there.
    #[error("the dead letter {sequence} cannot be replayed: {why}")]
    NotReplayable {
        /// Its number.
        sequence: u64,
        /// Why not.
        why: String,
    },
}

/// The stream of dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    context: Context,
    subjects: Subjects,
}

impl DeadLetters {
    /// The dead letters of this environment.
    pub fn new(context: Context, subjects: Subjects) -> Self {
        Self { context, subjects }
    }

    /// Sets a message aside, without its secrets, and gives the letter's sequence once it is stored. Repeating it gives the same letter.
    ///
    /// # Errors
    /// [`DeadLetterError::Publish`]; then the message must come again.
    pub async fn publish(&self, letter: &DeadLetter) -> Result<u64, DeadLetterError> {
        // Set aside means kept for ever: an open MFA session is not.
        let clean = without_secrets(&letter.payload);
        let letter =
            &DeadLetter { payload: clean.map_or_else(|| letter.payload.clone(), Bytes::from), ..letter.clone() };
        let sizes = [(true, letter.payload.len()), (false, letter.payload.len()), (false, self.body_max())];
        let mut refusal = None;
        for (with_headers, body_max) in sizes {
            let body = letter.payload.slice(..letter.payload.len().min(body_max));
            let mut headers = own_headers(letter);
            if with_headers {
                keep_original(&letter.headers, &mut headers);
            }
            if body.len() < letter.payload.len() {
                headers.insert(TRUNCATED, letter.payload.len().to_string());
            }
            match self.send(self.subjects.dead(letter.reason.as_str()), headers, body).await {
                Ok(sequence) => {
                    tracing::warn!(
                        dead_letter.sequence = sequence,
                        dead_letter.reason = letter.reason.as_str(),
                        input.sequence = letter.input.as_ref().map(|input| input.sequence),
                        "a message was set aside as a dead letter"
                    );
                    return Ok(sequence);
                }
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => refusal = Some(error),
                Err(error) => return Err(DeadLetterError::Publish(error)),
            }
        }
        Err(DeadLetterError::Publish(refusal.unwrap_or_else(|| PublishError::new(PublishErrorKind::Other))))
    }

    /// The letters behind `after` (0 for all), oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`DeadLetterError::Read`].
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<StoredLetter>, DeadLetterError> {
        let mut letters: Vec<StoredLetter> = Vec::new();
        let mut next = after + 1;
        while letters.len() < limit {
            let Some(message) = self.read(next, true).await? else { break };
            next = message.sequence + 1;
            letters.push(read_letter(message));
        }
        Ok(letters)
    }

    /// One letter.
    ///
    /// # Errors
    /// [`DeadLetterError::NotFound`], [`DeadLetterError::Read`].
    pub async fn get(&self, sequence: u64) -> Result<StoredLetter, DeadLetterError> {
        let message = self.read(sequence, false).await?;
        message.map(read_letter).ok_or(DeadLetterError::NotFound { sequence })
    }

    /// Publishes the original message again, as new input, and gives its new sequence there. The letter stays.
    ///
    /// # Errors
    /// [`DeadLetterError::NotReplayable`] unless the original subject is an input's and all of the body is there.
    pub async fn replay(&self, sequence: u64) -> Result<u64, DeadLetterError> {
        let letter = self.get(sequence).await?;
        let refuse = |why: String| Err(DeadLetterError::NotReplayable { sequence, why });
        if let Some(length) = letter.truncated_from {
            return refuse(format!("only {} of its {length} bytes were kept", letter.payload.len()));
        }
        let stored = self.subjects.parse_input(&letter.subject).map(|input| (input.kind, input.link_id));
        let Some((kind, link_id)) = stored.or_else(|| self.subjects.parse_published(&letter.subject)) else {
            return refuse(format!("`{}` is not an input subject", letter.subject.escape_debug()));
        };
        // Under the link's own spelling, so that it comes to the link's own lane.
        let link_id: LinkId = link_id.parse().expect("a link id has just been read there");
        let mut headers = HeaderMap::new();
        for (name, values) in letter.headers.iter().filter(|(name, _)| !has_prefix(name.as_ref(), OBEYED)) {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
        let published = self.send(self.subjects.input(kind, link_id.as_str()), headers, letter.payload).await;
        published.map_err(DeadLetterError::Publish)
    }

    async fn send(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<u64, PublishError> {
        let accepted = self.context.publish_with_headers(subject, headers, body).await?;
        Ok(accepted.into_future().await?.sequence)
    }

    async fn read(&self, sequence: u64, or_next: bool) -> Result<Option<StreamMessage>, DeadLetterError> {
        let read = |error: &dyn std::fmt::Display| DeadLetterError::Read { detail: error.to_string() };
        let stream =
            self.context.get_stream_no_info(self.subjects.dead_stream()).await.map_err(|error| read(&error))?;
        let mut request = stream.direct_get_builder().sequence(sequence);
        if or_next {
            request = request.next_by_subject(self.subjects.dead_wildcard());
        }
        match request.send().await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(read(&error)),
        }
    }

    fn body_max(&self) -> usize {
        self.context.client().max_payload().saturating_sub(OWN_HEADERS_BYTES)
    }
}

fn own_headers(letter: &DeadLetter) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(REASON, letter.reason.as_str());
    headers.insert(DETAIL, header_value(&letter.detail));
    headers.insert(SUBJECT, header_value(&letter.subject));
    if let Some(input) = &letter.input {
        headers.insert(STREAM, header_value(&input.stream.to_string()));
        headers.insert(SEQUENCE, input.sequence.to_string());
    }
    let id = match &letter.input {
        Some(input) => input.letter_id(),
        None => {
            let words = [letter.subject.as_str(), letter.reason.as_str(), letter.detail.as_str()];
            let mut parts: Vec<&[u8]> = words.map(str::as_bytes).to_vec();
            let mut kept: Vec<(&str, &str)> = Vec::new();
            for (name, values) in letter.headers.iter() {
                kept.extend(values.iter().map(|value| (name.as_ref(), value.as_str())));
            }
            kept.sort_unstable();
            parts.extend(kept.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
            parts.push(&letter.payload);
            let mut hash = Sha256::new();
            for part in parts {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        }
    };
    headers.insert(NATS_MESSAGE_ID, header_value(&id));
    headers
}

/// Adds the original headers; those that would make this server do something are renamed.
fn keep_original(original: &HeaderMap, headers: &mut HeaderMap) {
    for (name, values) in original.iter() {
        let name: &str = name.as_ref();
        let kept = if has_prefix(name, OBEYED) || has_prefix(name, OURS) || has_prefix(name, ORIGINAL) {
            format!("{ORIGINAL}{name}")
        } else {
            name.to_owned()
        };
        values.iter().for_each(|value| headers.append(kept.as_str(), value.clone()));
    }
}

fn read_letter(message: StreamMessage) -> StoredLetter {
    let ours = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
    let number = |name: &str| ours(name).and_then(|value| value.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let name: &str = name.as_ref();
        // What is neither ours nor the server's is original, under its own name or the one it was given.
        if let Some(original) = name.strip_prefix(ORIGINAL) {
            values.iter().for_each(|value| headers.append(original, value.clone()));
        } else if !has_prefix(name, OURS) && !has_prefix(name, OBEYED) {
            values.iter().for_each(|value| headers.append(name, value.clone()));
        }
    }
    StoredLetter {
        sequence: message.sequence,
        at_ns: message.time.unix_timestamp_nanos(),
        subject: ours(SUBJECT).unwrap_or_default(),
        truncated_from: number(TRUNCATED),
        reason: ours(REASON).unwrap_or_default(),
        detail: ours(DETAIL).unwrap_or_default(),
        input_stream: ours(STREAM),
        input_sequence: number(SEQUENCE),
        headers,
        payload: message.payload,
    }
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// A header cannot hold a line break, and should not hold a page.
fn header_value(text: &str) -> HeaderValue {
    let line: String = text.chars().take(DETAIL_LENGTH_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    HeaderValue::from(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_messages_that_were_given_one_sequence_are_two_letters() {
        let stream = StreamIdentity { stream: "BELVO".to_owned(), created_ns: 1 };
        let letter_id = |stored_at_ns| InputPosition { stream: stream.clone(), sequence: 7, stored_at_ns }.letter_id();
        assert_ne!(letter_id(1_000), letter_id(2_000));
        assert_eq!(letter_id(1_000), letter_id(1_000));
    }
}

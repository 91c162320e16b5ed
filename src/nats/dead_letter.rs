//! Dead letters: messages that relink could not handle, stored with their bytes, their headers and the reason. Only open MFA sessions are
//! removed from the bytes.
//!
//! A letter is published on `relink.dead.<reason>`. Its body is the original body, so any NATS tool can show it. Its headers are the
//! original ones, and relink's own in `Relink-Dead-*`. JetStream acts on `Nats-*` headers, so an original `Nats-*` header is renamed to
//! `Relink-Original-Nats-*`; otherwise a message of a batch would open a batch here.
//!
//! Each letter has a message id, so that a repeat within the stream's duplicate window (an hour) is not stored twice. For an input the id
//! has the stream's identity, the sequence and the time of storage: after a crash before the commit, the same input gives the same
//! letter. For a message that was never in a stream the id is a hash of bytes, headers, subject and reason.
//!
//! Several letters are stored as one atomic batch, because each disk sync takes time. If the server refuses the batch, they are published
//! one by one.
//!
//! `headers` has the format of a letter. This file must never lose a message because of its size (it shortens the letter and notes that in a header). Only `removal.rs` deletes a
//! letter, on the command of an operator. Next: `stream.rs` declares the stream; `partition.rs` and `http/ingest.rs` write here, the command line lists and replays.

use std::future::IntoFuture;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use crate::contract::{DeadReason, JOURNAL_HEADER, TOKEN_HEADER, without_secrets};
use crate::link::LinkId;
use crate::nats::batch::{BatchAck, BatchError, BatchMessage, Batches};
use crate::nats::dead_letter_log::DeadLetterLog;
use crate::nats::limit::{READ_TIMEOUT, connected};
use crate::nats::stream::StreamIdentity;
use crate::nats::subject::Subjects;

mod headers;
mod removal;

use self::headers::{SERVER_PREFIX, TRUNCATED, has_prefix, keep_original, own_headers, read_letter};

/// The time limit of each publish. It includes the wait for a place in the client's queue, which may be full while NATS is gone.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of a batch of letters. Its bytes are those of the bodies.
const BATCH_LETTERS_MAX: usize = 500;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many letters that are published one by one are in flight together.
const IN_FLIGHT_MAX: usize = 32;

/// The largest size of a letter's own headers, in bytes, without the original ones.
const OWN_HEADERS_BYTES: usize = 4 * 1024;

/// The position of a message in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPosition {
    /// The stream.
    pub stream: StreamIdentity,
    /// The sequence in the stream.
    pub sequence: u64,
    /// When it was stored, in nanoseconds since the Unix epoch. It is needed because a stream that lost its last messages assigns their
    /// sequences again.
    pub stored_at_ns: i64,
}

impl InputPosition {
    /// The message id of the dead letter for the message at this position. It is the same for each repeat, and unique to the message.
    pub fn dead_letter_id(&self) -> String {
        format!("{}:{}:{}", self.stream, self.sequence, self.stored_at_ns)
    }
}

/// A message to store as a dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The message's subject, published or stored; for an HTTP request, the subject of its input or its path.
    pub subject: String,
    /// The message's headers.
    pub headers: HeaderMap,
    /// The original bytes. MFA sessions are removed when the letter is stored.
    pub payload: Bytes,
    /// The reason.
    pub reason: DeadReason,
    /// The reason in detail, for people. It must not quote the body, which may contain a secret.
    pub detail: String,
    /// The position of the input; `None` if the message was never in a stream.
    pub input: Option<InputPosition>,
}

/// A dead letter that was read from its stream.
#[derive(Debug, Clone)]
pub struct StoredLetter {
    /// The sequence in the stream of dead letters.
    pub sequence: u64,
    /// When it was stored, in nanoseconds since the Unix epoch.
    pub at_ns: i128,
    /// The original subject.
    pub subject: String,
    /// The original headers.
    pub headers: HeaderMap,
    /// The original body, or its beginning.
    pub payload: Bytes,
    /// The length of the original body in bytes, if only its beginning was stored.
    pub truncated_from: Option<u64>,
    /// The token of the reason.
    pub reason: String,
    /// The reason in detail, for people.
    pub detail: String,
    /// The stream of the input, as [`StreamIdentity`] prints it.
    pub input_stream: Option<String>,
    /// The sequence of the input in that stream.
    pub input_sequence: Option<u64>,
}

/// The reason why a dead letter was not stored, read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The letter is not stored, so the message must not be acknowledged.
    #[error("the dead letter could not be stored: {0}")]
    Publish(#[source] PublishError),
    /// The stream of dead letters does not exist, or the server does not answer.
    #[error("the dead letters cannot be read: {detail}")]
    Read {
        /// The error text.
        detail: String,
    },
    /// The letter could not be removed, or NATS did not confirm it.
    #[error("the dead letter could not be removed from {stream}: {detail}")]
    NotRemoved {
        /// The stream of dead letters.
        stream: String,
        /// The error text.
        detail: String,
    },
    /// No dead letter has this sequence.
    #[error("there is no dead letter {sequence}")]
    NotFound {
        /// The sequence.
        sequence: u64,
    },
    /// The letter is not an input, or its body is not complete.
    #[error("the dead letter {sequence} cannot be replayed: {why}")]
    NotReplayable {
        /// The sequence of the letter.
        sequence: u64,
        /// The reason.
        why: String,
    },
}

/// The stream of dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    context: Context,
    subjects: Subjects,
    batches: Batches,
    log: DeadLetterLog,
}

impl DeadLetters {
    /// The dead letters of this environment. Must be called inside a tokio runtime.
    pub fn new(context: Context, subjects: Subjects) -> Self {
        let batches = Batches::new(context.client(), PUBLISH_TIMEOUT);
        Self { context, subjects, batches, log: DeadLetterLog::default() }
    }

    /// Stores a message as a dead letter, without its MFA sessions, and returns its sequence. A repeat does not store a second letter.
    ///
    /// # Errors
    /// [`DeadLetterError::Publish`]; then the sender must repeat the message.
    pub async fn publish(&self, letter: &DeadLetter) -> Result<u64, DeadLetterError> {
        let sequence = self.store(&clean(letter)).await?;
        self.log.stored([(letter, sequence)]);
        Ok(sequence)
    }

    /// Stores messages as dead letters, in order, with few waits for the disk of the server. Returns their sequences. Otherwise as [`DeadLetters::publish`].
    ///
    /// # Errors
    /// [`DeadLetterError::Publish`]; then some may be stored, and the sender must repeat all of them.
    pub async fn publish_all(&self, letters: &[DeadLetter]) -> Result<Vec<u64>, DeadLetterError> {
        let (mut rest, mut all) = (letters, Vec::with_capacity(letters.len()));
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(batch_length(rest));
            let cleaned: Vec<_> = chunk.iter().map(clean).collect();
            let sequences: Vec<u64> = match self.store_batch(&cleaned).await {
                Ok(ack) => (0..chunk.len()).map(|index| ack.sequence_of(index)).collect(),
                // The server refuses the whole batch if it knows one of the ids, or if the stream was created by an older relink and
                // takes no batches. A repeat is never stored twice, so any other failure may be repeated too.
                Err(error) => {
                    tracing::debug!(%error, "dead letters could not be stored as one batch and are published one by one");
                    self.store_singly(cleaned).await?
                }
            };
            self.log.stored(chunk.iter().zip(sequences.iter().copied()));
            all.extend(sequences);
            rest = after;
        }
        Ok(all)
    }

    async fn store_batch(&self, letters: &[DeadLetter]) -> Result<BatchAck, BatchError> {
        let message = |letter: &DeadLetter| {
            let mut headers = own_headers(letter);
            keep_original(&letter.headers, &mut headers);
            let subject = self.subjects.dead(letter.reason.as_str());
            BatchMessage::new(subject, letter.payload.clone()).with_headers(headers)
        };
        self.batches.publish_atomic(letters.iter().map(message).collect()).await
    }

    /// Publishes each letter alone. They are sent in order, and several are in flight together.
    async fn store_singly(&self, letters: Vec<DeadLetter>) -> Result<Vec<u64>, DeadLetterError> {
        let stored = futures::stream::iter(letters).map(async |letter| self.store(&letter).await);
        stored.buffered(IN_FLIGHT_MAX).try_collect().await
    }

    async fn store(&self, letter: &DeadLetter) -> Result<u64, DeadLetterError> {
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
                Ok(sequence) => return Ok(sequence),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => refusal = Some(error),
                Err(error) => return Err(DeadLetterError::Publish(error)),
            }
        }
        Err(DeadLetterError::Publish(refusal.unwrap_or_else(|| PublishError::new(PublishErrorKind::Other))))
    }

    /// The letters after the sequence `after` (0 for all), oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`DeadLetterError::Read`].
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<StoredLetter>, DeadLetterError> {
        let mut letters: Vec<StoredLetter> = Vec::new();
        // `after` comes from outside. Nothing is behind the last number.
        let mut next = after.checked_add(1);
        while let Some(from) = next.filter(|_| letters.len() < limit) {
            let Some(message) = self.read(from, true).await? else { break };
            next = message.sequence.checked_add(1);
            letters.push(read_letter(message));
        }
        Ok(letters)
    }

    /// How many letters there are.
    ///
    /// # Errors
    /// [`DeadLetterError::Read`].
    pub async fn count(&self) -> Result<u64, DeadLetterError> {
        let read = |error: &dyn std::fmt::Display| DeadLetterError::Read { detail: error.to_string() };
        connected(&self.context.client()).await.map_err(|problem| read(&problem))?;
        let asked = timeout(READ_TIMEOUT, self.context.get_stream(self.subjects.dead_stream())).await;
        let stream = asked.map_err(|_| read(&"NATS did not answer"))?.map_err(|error| read(&error))?;
        Ok(stream.cached_info().state.messages)
    }

    /// One letter.
    ///
    /// # Errors
    /// [`DeadLetterError::NotFound`], [`DeadLetterError::Read`].
    pub async fn get(&self, sequence: u64) -> Result<StoredLetter, DeadLetterError> {
        // NATS counts from 1, and refuses a request for 0 as a wrong request.
        let message = if sequence == 0 { None } else { self.read(sequence, false).await? };
        message.map(read_letter).ok_or(DeadLetterError::NotFound { sequence })
    }

    /// Publishes the original message again as a new input, and returns its sequence in the input stream. The letter stays. The input names the
    /// API token of the operator, if it has a name.
    ///
    /// # Errors
    /// [`DeadLetterError::NotReplayable`] unless the original subject is one of an input and the body is complete.
    pub async fn replay(&self, sequence: u64, token: Option<&str>) -> Result<u64, DeadLetterError> {
        let letter = self.get(sequence).await?;
        let refuse = |why: String| Err(DeadLetterError::NotReplayable { sequence, why });
        if let Some(length) = letter.truncated_from {
            return refuse(format!("only {} of its {length} bytes were kept", letter.payload.len()));
        }
        let stored = self.subjects.parse_input(&letter.subject).map(|input| (input.kind, input.link_id));
        if [DeadReason::NoticeNotDelivered, DeadReason::WebhookNotForwarded]
            .map(DeadReason::as_str)
            .contains(&&*letter.reason)
        {
            return refuse("it is sent over HTTP again, and is no input".to_owned());
        }
        let Some((kind, link_id)) = stored.or_else(|| self.subjects.parse_published(&letter.subject)) else {
            let why = if letter.subject.starts_with('/') {
                "relink found no link id in the request, so there is no subject to publish it on".to_owned()
            } else {
                format!("`{}` is not an input subject", letter.subject.escape_debug())
            };
            return refuse(why);
        };
        // The subject has relink's spelling of the link id, so that the input goes to the link's partition.
        let link_id: LinkId = link_id.parse().expect("the subject was parsed, so its link id is valid");
        let mut headers = HeaderMap::new();
        // A replay is a new message, and no repeat of the record of a journal.
        let is_kept = |name: &str| !has_prefix(name, SERVER_PREFIX) && !name.eq_ignore_ascii_case(JOURNAL_HEADER);
        for (name, values) in letter.headers.iter().filter(|(name, _)| is_kept(name.as_ref())) {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
        if let Some(token) = token {
            headers.insert(TOKEN_HEADER, token);
        }
        let published = self.send(self.subjects.input(kind, link_id.as_str()), headers, letter.payload).await;
        published.map_err(DeadLetterError::Publish)
    }

    async fn send(&self, subject: String, headers: HeaderMap, body: Bytes) -> Result<u64, PublishError> {
        let sent = async {
            let accepted = self.context.publish_with_headers(subject, headers, body).await?;
            Ok(accepted.into_future().await?.sequence)
        };
        timeout(PUBLISH_TIMEOUT, sent).await.unwrap_or_else(|_| Err(PublishError::new(PublishErrorKind::TimedOut)))
    }

    async fn read(&self, sequence: u64, or_next: bool) -> Result<Option<StreamMessage>, DeadLetterError> {
        let read = |error: &dyn std::fmt::Display| DeadLetterError::Read { detail: error.to_string() };
        let stream =
            self.context.get_stream_no_info(self.subjects.dead_stream()).await.map_err(|error| read(&error))?;
        let mut request = stream.direct_get_builder().sequence(sequence);
        if or_next {
            request = request.next_by_subject(self.subjects.dead_wildcard());
        }
        connected(&self.context.client()).await.map_err(|problem| read(&problem))?;
        let answered = timeout(READ_TIMEOUT, request.send()).await.map_err(|_| read(&"NATS did not answer"))?;
        match answered {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(read(&error)),
        }
    }

    fn body_max(&self) -> usize {
        self.context.client().max_payload().saturating_sub(OWN_HEADERS_BYTES)
    }
}

/// The letter without open MFA sessions: dead letters are kept without a time limit.
fn clean(letter: &DeadLetter) -> DeadLetter {
    let payload = without_secrets(&letter.payload).map_or_else(|| letter.payload.clone(), Bytes::from);
    DeadLetter { payload, ..letter.clone() }
}

/// How many of these letters go into the next batch; at least one.
fn batch_length(letters: &[DeadLetter]) -> usize {
    let mut bytes = 0;
    let fits = letters.iter().take(BATCH_LETTERS_MAX).take_while(|letter| {
        bytes += letter.payload.len();
        bytes <= BATCH_BYTES_MAX
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_messages_with_the_same_sequence_are_two_letters() {
        let stream = StreamIdentity { stream: "BELVO".to_owned(), created_ns: 1 };
        let dead_letter_id =
            |stored_at_ns| InputPosition { stream: stream.clone(), sequence: 7, stored_at_ns }.dead_letter_id();
        assert_ne!(dead_letter_id(1_000), dead_letter_id(2_000));
        assert_eq!(dead_letter_id(1_000), dead_letter_id(1_000));
    }
}

//! Atomic batch publish (ADR-50): up to a thousand messages that one stream stores together or not at all.
//!
//! ```text
//!   stage(m1 … mn)          commit()
//!   m1  Sequence 1 ──reply─▶  "" or an early refusal
//!   m2  Sequence 2 ──▶
//!   …                       mn  Sequence n, Commit 1 ──reply─▶ ack {last sequence, count} or the refusal of all of them
//! ```
//!
//! A batch costs the server a temporary store, some 3 ms whatever its size (2.15.1, file storage), where a plain publish
//! is synced in 0.6 ms. So a batch of one message is sent as what it is: a plain publish with the same guarantees.
//!
//! Until the commit the server holds the batch in memory, so batch *k+1* may be staged while *k* commits. Expectations
//! (the fence) are checked at the commit: a batch that was staged before its owner was replaced is refused after.
//!
//! Never: retry here (only the caller knows whether a repeat is harmless), or report an unknown outcome as a failure.
//! Next: `publisher.rs` (many callers, one batch), `stream.rs` (which streams allow batches).

use std::future::IntoFuture;
use std::time::Duration;

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
};
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use tokio::time::timeout;

/// The most messages one batch may hold: `jetstream.limits.batch.max_msgs` of nats-server, whose default this is.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// How long to wait for an answer unless told otherwise. The server drops an idle open batch after ten seconds
/// (`jetstream.limits.batch.timeout`), so waiting longer for one learns nothing.
pub const BATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// What the headers of a batch and of an expectation take at most, in bytes, beside the expected subject.
const BATCH_HEADERS_BYTES_MAX: usize = 128;
const EXPECT_BYTES_MAX: usize = 128;

/// How long a refused commit waits for the answer to the first message, which tells the reason.
const OPENING_PATIENCE: Duration = Duration::from_millis(100);

/// Names the subject that [`NATS_EXPECTED_LAST_SUBJECT_SEQUENCE`] speaks of; async-nats 0.51 has no constant for it.
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// What must still be true of the stream when the batch commits, else all of it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The subject looked at: a fence, which the batch itself need not write.
    pub subject: String,
    /// The stream sequence of the last message on that subject; 0 means that there is none.
    pub last_sequence: u64,
}

/// One message of a batch.
#[derive(Debug, Clone, Default)]
pub struct BatchMessage {
    /// Where it is published; every subject of a batch must belong to the same stream.
    pub subject: String,
    /// Headers of its own. The batch headers are added to them.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Bytes,
    /// At most one expectation a message; several messages may carry one, each on another subject.
    pub expect: Option<Expect>,
}

impl BatchMessage {
    /// A message without headers or expectation.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), payload: payload.into(), ..Self::default() }
    }

    /// The same message, with these headers.
    #[must_use]
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = headers;
        self
    }

    /// The same message, carrying an expectation for the whole batch.
    #[must_use]
    pub fn expecting(mut self, subject: impl Into<String>, last_sequence: u64) -> Self {
        self.expect = Some(Expect { subject: subject.into(), last_sequence });
        self
    }

    fn into_parts(self) -> Parts {
        let mut headers = self.headers;
        if let Some(expect) = self.expect {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expect.last_sequence.to_string());
            headers.insert(EXPECTED_SUBJECT, expect.subject);
        }
        (self.subject, headers, self.payload)
    }
}

/// The batch is stored, whole and (with `sync_interval: always`) on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAck {
    /// The stream that took it.
    pub stream: String,
    /// The stream sequence of the batch's last message. The messages of a batch are consecutive.
    pub last_sequence: u64,
    /// How many messages were stored.
    pub count: u64,
}

impl BatchAck {
    /// The stream sequence of the message at `index` (from 0) of the batch.
    pub fn sequence_of(&self, index: usize) -> u64 {
        self.last_sequence + 1 + index as u64 - self.count
    }
}

/// Why a batch was not acknowledged. Every variant but [`BatchError::Unknown`] means that nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A batch needs a message to carry the commit.
    #[error("a batch needs at least one message")]
    Empty,
    /// More than [`BATCH_MESSAGES_MAX`] messages, or more than the server's own limit (10199).
    #[error("a batch of {count} messages is too large: the server takes {BATCH_MESSAGES_MAX}")]
    TooLarge {
        /// Messages in the batch.
        count: usize,
    },
    /// One message exceeds the server's `max_payload`, or the stream's `max_msg_size`.
    #[error("message {index} of the batch is larger than the server's max_payload or the stream's max_msg_size")]
    MessageTooLarge {
        /// Its place in the batch, from 0.
        index: usize,
    },
    /// An expectation no longer holds (10071): another writer moved the fence.
    #[error("the batch was refused, another writer holds the fence: {description}")]
    Refused {
        /// The server's words.
        description: String,
    },
    /// A `Nats-Msg-Id` in the batch is already known (10201): look what is there.
    #[error("the batch holds a message id that the stream already knows")]
    Duplicate,
    /// The server lost part of the batch before its commit (10176): a reconnect, a restart or ten idle seconds.
    #[error("the server does not have the whole batch and abandoned it")]
    Incomplete,
    /// Too many open batches on this stream or server (10210; 50 and 1000): try again when some have ended.
    #[error("the server has too many open batches")]
    TooManyOpen,
    /// No stream listens on the subject.
    #[error("no stream takes the subject `{subject}`")]
    NoStream {
        /// The subject of the commit message.
        subject: String,
    },
    /// Nobody knows whether the batch was stored. It may even land later, out of the client's buffer after a reconnect,
    /// until the fence has moved: move it first, then look what is there.
    #[error("the outcome of the batch is unknown: {cause}")]
    Unknown {
        /// What went wrong while waiting.
        cause: String,
    },
    /// Any other refusal.
    #[error("the server refused the batch: {description}")]
    Server {
        /// The JetStream error code.
        code: u64,
        /// The server's words.
        description: String,
    },
}

impl BatchError {
    /// Whether it is certain that nothing of the batch was stored, or ever will be.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    fn from_server(error: &jetstream::Error, count: usize) -> Self {
        match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
                Self::Refused { description: error.to_string() }
            }
            ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Self::Duplicate,
            ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH => Self::Incomplete,
            ErrorCode::ATOMIC_PUBLISH_TOO_LARGE_BATCH => Self::TooLarge { count },
            ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT => Self::TooManyOpen,
            ErrorCode(code) => Self::Server { code, description: error.to_string() },
        }
    }
}

/// The handle to publish batches with: a connection and a time limit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Batches {
    client: Client,
    context: jetstream::Context,
    timeout: Duration,
    /// The stream's `max_msg_size`, in bytes, headers included.
    message_bytes_max: usize,
}

impl Batches {
    /// Batches over this connection; every wait is bounded by `timeout` ([`BATCH_TIMEOUT`] fits).
    ///
    /// Must be called inside a tokio runtime (async-nats starts a task for each context).
    pub fn new(client: Client, timeout: Duration) -> Self {
        let context = ContextBuilder::new().timeout(timeout).ack_timeout(timeout).build(client.clone());
        Self { client, context, timeout, message_bytes_max: usize::MAX }
    }

    /// Batches for a stream with this `max_msg_size`. The server drops a batch with a larger message, and says so only to that message,
    /// which asks for no answer: the commit would find no batch, and the reason would be lost.
    #[must_use]
    pub fn with_message_bytes_max(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// The connection underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Stages and commits at once.
    ///
    /// # Errors
    /// [`BatchError`]; only [`BatchError::Unknown`] leaves open whether the batch was stored.
    pub async fn publish_atomic(&self, messages: Vec<BatchMessage>) -> Result<BatchAck, BatchError> {
        self.stage(messages).await?.commit().await
    }

    /// Sends all messages but the last, without waiting for an answer.
    ///
    /// A staged batch that is dropped is never stored, but the server keeps it open for ten seconds;
    /// [`StagedBatch::abandon`] is kinder.
    ///
    /// # Errors
    /// Before anything is sent: [`BatchError::Empty`], [`BatchError::TooLarge`], [`BatchError::MessageTooLarge`]. While
    /// sending: [`BatchError::Incomplete`] when the connection is gone for good.
    pub async fn stage(&self, mut messages: Vec<BatchMessage>) -> Result<StagedBatch, BatchError> {
        let Some(last) = messages.pop() else { return Err(BatchError::Empty) };
        let index = messages.len();
        if self.is_too_large(&last) {
            return Err(BatchError::MessageTooLarge { index });
        }
        Ok(StagedBatch { open: self.open(messages).await?, last })
    }

    /// Sends these messages, without waiting for an answer. The last one of the batch is still to come.
    ///
    /// # Errors
    /// As [`Batches::stage`]; a batch may be opened without a message.
    pub async fn open(&self, messages: Vec<BatchMessage>) -> Result<OpenBatch, BatchError> {
        let count = messages.len() + 1;
        if count > BATCH_MESSAGES_MAX {
            return Err(BatchError::TooLarge { count });
        }
        // Looked at before anything is sent, since half a batch would stay open at the server.
        if let Some(index) = messages.iter().position(|message| self.is_too_large(message)) {
            return Err(BatchError::MessageTooLarge { index });
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut opening = None;
        for (message, number) in messages.into_iter().zip(1..) {
            let (subject, mut headers, payload) = message.into_parts();
            number_in(&mut headers, &id, number);
            if opening.is_none() {
                let sent = self.context.publish_with_headers(subject, headers, payload).await;
                opening = Some(sent.map_err(|_| BatchError::Incomplete)?);
            } else {
                let sent = self.client.publish_with_headers(subject, headers, payload).await;
                sent.map_err(|_| BatchError::Incomplete)?;
            }
        }
        Ok(OpenBatch { batches: self.clone(), id, count, opening })
    }

    /// Whether a message, with the headers of a batch, is larger than the server or the stream takes.
    fn is_too_large(&self, message: &BatchMessage) -> bool {
        let max = self.client.max_payload().min(self.message_bytes_max);
        let expect = message.expect.as_ref().map_or(0, |expect| expect.subject.len() + EXPECT_BYTES_MAX);
        wire_size(&message.headers) + expect + BATCH_HEADERS_BYTES_MAX + message.payload.len() > max
    }
}

/// A message ready to be sent: subject, headers, body.
type Parts = (String, HeaderMap, Bytes);

/// A batch whose messages are with the server, all but the last; [`StagedBatch::commit`] makes it real.
#[must_use = "a batch that is not committed is never stored"]
#[derive(Debug)]
pub struct StagedBatch {
    open: OpenBatch,
    last: BatchMessage,
}

impl StagedBatch {
    /// How many messages the batch has.
    pub fn count(&self) -> usize {
        self.open.count
    }

    /// As [`OpenBatch::commit`].
    ///
    /// # Errors
    /// [`BatchError`]; only [`BatchError::Unknown`] leaves open whether the batch was stored.
    pub async fn commit(self) -> Result<BatchAck, BatchError> {
        self.open.commit(self.last).await
    }

    /// As [`OpenBatch::abandon`].
    pub async fn abandon(self) {
        self.open.abandon(&self.last.subject).await;
    }
}

/// A batch whose last message is still to come.
#[must_use = "a batch that is not committed is never stored"]
#[derive(Debug)]
pub struct OpenBatch {
    batches: Batches,
    id: String,
    /// How many messages the batch has, with the last one.
    count: usize,
    /// The answer to the first message, awaited beside the commit: empty, or why the batch was refused at once.
    opening: Option<PublishAckFuture>,
}

impl OpenBatch {
    /// Sends the last message with the commit mark and waits for the answer to the whole.
    ///
    /// # Errors
    /// [`BatchError`]; only [`BatchError::Unknown`] leaves open whether the batch was stored.
    pub async fn commit(self, last: BatchMessage) -> Result<BatchAck, BatchError> {
        let Self { batches, id, count, opening } = self;
        let (subject, mut headers, payload) = last.into_parts();
        // One message is whole by itself, and a plain publish is checked against the same expectation.
        if count > 1 {
            number_in(&mut headers, &id, count);
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        }
        let request = Request::new().headers(headers).payload(payload).timeout(Some(batches.timeout));
        let answer = match batches.client.send_request(subject.clone(), request).await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => BatchError::NoStream { subject },
                    RequestErrorKind::MaxPayloadExceeded => BatchError::MessageTooLarge { index: count - 1 },
                    RequestErrorKind::InvalidSubject => {
                        BatchError::Server { code: 0, description: format!("`{subject}` is not a subject") }
                    }
                    RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                        BatchError::Unknown { cause: error.to_string() }
                    }
                });
            }
        };
        match serde_json::from_slice::<Response<PublishAck>>(&answer.payload) {
            // A batch is refused for a known id (10201); a plain publish is acknowledged, and not stored.
            Ok(Response::Ok(ack)) if ack.duplicate => Err(BatchError::Duplicate),
            Ok(Response::Ok(ack)) => Ok(BatchAck {
                stream: ack.stream,
                last_sequence: ack.sequence,
                count: ack.batch_size.unwrap_or(count as u64),
            }),
            Ok(Response::Err { error }) => match BatchError::from_server(&error, count) {
                // Whatever refused the first message is the reason why the commit found no batch.
                BatchError::Incomplete => {
                    Err(refusal_of_opening(opening, count).await.unwrap_or(BatchError::Incomplete))
                }
                other => Err(other),
            },
            Err(error) => Err(BatchError::Unknown { cause: format!("unreadable answer: {error}") }),
        }
    }

    /// Gives the batch up, and its place among the fifty that a stream may have open. Without this the server waits ten
    /// seconds for the rest of it. `subject` is any subject of the stream.
    pub async fn abandon(self, subject: &str) {
        if self.count == 1 {
            return; // Nothing has been sent.
        }
        // A gap in the sequence ends a batch (ADR-50). It is a courtesy: if it does not arrive, time ends the batch.
        let mut headers = HeaderMap::new();
        number_in(&mut headers, &self.id, self.count + 1);
        let _ = self.batches.client.publish_with_headers(subject.to_owned(), headers, Bytes::new()).await;
    }
}

fn number_in(headers: &mut HeaderMap, batch_id: &str, number: usize) {
    headers.insert(NATS_BATCH_ID, batch_id);
    headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
}

/// What headers take on the wire, in bytes: a status line, `name: value` lines, an empty line.
pub(crate) fn wire_size(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &[u8] = name.as_ref();
        values.iter().map(move |value| name.len() + value.as_str().len() + 4)
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// The early answer comes over the same connection before the commit's, so a moment's patience is plenty.
async fn refusal_of_opening(opening: Option<PublishAckFuture>, count: usize) -> Option<BatchError> {
    let answer = timeout(OPENING_PATIENCE, opening?.into_future()).await.ok()?;
    let error = answer.err()?;
    // An accepted opening is answered with nothing at all, which is an error too, but not one of the server's.
    let refusal = std::error::Error::source(&error)?.downcast_ref::<jetstream::Error>()?;
    Some(BatchError::from_server(refusal, count))
}

//! Atomic batch publish (NATS ADR-50): up to 1000 messages that one stream stores together or not at all.
//!
//! ```text
//!   stage(m1 … mn)          commit()
//!   m1  Sequence 1 ──reply─▶  "" or an early refusal
//!   m2  Sequence 2 ──▶
//!   …                       mn  Sequence n, Commit 1 ──reply─▶ ack {last sequence, count} or the refusal of all of them
//! ```
//!
//! For a batch the server creates a temporary store, which takes about 3 ms whatever the size (2.15.1, file storage); a plain
//! publish is synced in 0.6 ms. So a batch of one message is sent as a plain publish, which has the same guarantees.
//!
//! Until the commit the server keeps the batch in memory, so batch *k+1* may be staged while *k* commits. The server checks
//! expectations (the fences) at the commit, so it also refuses a batch that was staged before its owner was replaced.
//!
//! This file must never retry (only the caller knows whether a repeat is harmless), or report an unknown outcome as a failure.
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
use tokio::time::{sleep, timeout};

use super::limit::reconnected;

/// The most messages of one batch: the default of nats-server's `jetstream.limits.batch.max_msgs`.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// The usual time limit for an answer. The server drops an idle open batch after 10 seconds (`jetstream.limits.batch.timeout`),
/// so a longer wait has no use.
pub const BATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest size of the headers of a batch and of an expectation, in bytes, without the expected subject.
const BATCH_HEADERS_BYTES_MAX: usize = 128;
const EXPECT_BYTES_MAX: usize = 128;

/// After a refused commit, how long to wait for the answer to the first message, which has the reason.
const OPENING_ANSWER_WAIT: Duration = Duration::from_millis(100);

/// How long a request waits for an answer over a new connection.
const ANSWER_AFTER_RECONNECT: Duration = Duration::from_secs(2);

/// The header with the subject of [`NATS_EXPECTED_LAST_SUBJECT_SEQUENCE`]; async-nats 0.51 has no constant for it.
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// A condition on the stream. If it is false at the commit, the server refuses the whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The subject that the server checks, for example a fence. The batch need not write to it.
    pub subject: String,
    /// The stream sequence that the last message on the subject must have; 0 if there must be none.
    pub last_sequence: u64,
}

/// One message of a batch.
#[derive(Debug, Clone, Default)]
pub struct BatchMessage {
    /// The subject to publish on. All subjects of a batch must belong to the same stream.
    pub subject: String,
    /// The headers of the message. The batch headers are added to them.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Bytes,
    /// The expectation, if any. Several messages of a batch may have one, each on another subject.
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

    /// The same message, with an expectation for the whole batch.
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

/// The whole batch is stored and, with `sync_interval: always`, on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAck {
    /// The stream that stored it.
    pub stream: String,
    /// The stream sequence of the batch's last message. The messages of a batch are consecutive.
    pub last_sequence: u64,
    /// The number of messages that were stored.
    pub count: u64,
}

impl BatchAck {
    /// The stream sequence of the message at `index` (from 0) of the batch.
    pub fn sequence_of(&self, index: usize) -> u64 {
        self.last_sequence + 1 + index as u64 - self.count
    }
}

/// The reason why a batch was not acknowledged. Every variant except [`BatchError::Unknown`] means that nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The batch has no message that could carry the commit.
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
        /// Its index in the batch, from 0.
        index: usize,
    },
    /// An expectation is no longer true (10071): another writer has published on that subject.
    #[error("the batch was refused, another writer holds the fence: {description}")]
    Refused {
        /// The server's words.
        description: String,
    },
    /// The stream already has a `Nats-Msg-Id` of the batch (10201).
    #[error("the batch holds a message id that the stream already knows")]
    Duplicate,
    /// The server lost part of the batch before its commit (10176), by a reconnect, a restart or 10 idle seconds.
    #[error("the server does not have the whole batch and abandoned it")]
    Incomplete,
    /// This stream or server has too many open batches (10210; the limits are 50 and 1000). A later retry may succeed.
    #[error("the server has too many open batches")]
    TooManyOpen,
    /// No stream has the subject.
    #[error("no stream takes the subject `{subject}`")]
    NoStream {
        /// The subject of the commit message.
        subject: String,
    },
    /// It is unknown whether the batch was stored. After a reconnect, the client's buffer may even send it later. So the caller must
    /// write a new fence first, and then read what the stream has stored.
    #[error("the outcome of the batch is unknown: {cause}")]
    Unknown {
        /// The error of the wait.
        cause: String,
    },
    /// The server refused the batch for another reason.
    #[error("the server refused the batch: {description}")]
    Server {
        /// The JetStream error code.
        code: u64,
        /// The server's words.
        description: String,
    },
}

impl BatchError {
    /// Whether it is certain that nothing of the batch is stored, now or later.
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

/// Publishes batches over a connection, with a time limit. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Batches {
    client: Client,
    context: jetstream::Context,
    timeout: Duration,
    /// The stream's `max_msg_size`, in bytes, headers included.
    message_bytes_max: usize,
}

impl Batches {
    /// Publishes over this connection; `timeout` limits every wait, usually to [`BATCH_TIMEOUT`].
    ///
    /// Must be called inside a tokio runtime (async-nats starts a task for each context).
    pub fn new(client: Client, timeout: Duration) -> Self {
        let context = ContextBuilder::new().timeout(timeout).ack_timeout(timeout).build(client.clone());
        Self { client, context, timeout, message_bytes_max: usize::MAX }
    }

    /// Publishes to a stream with this `max_msg_size`. The server drops a batch with a larger message, and reports the reason only as the
    /// answer to that message. Staged messages ask for no answer, so the size must be checked before.
    #[must_use]
    pub fn with_message_bytes_max(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// The connection underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Stages and commits a batch.
    ///
    /// # Errors
    /// [`BatchError`]; only [`BatchError::Unknown`] leaves open whether the batch was stored.
    pub async fn publish_atomic(&self, messages: Vec<BatchMessage>) -> Result<BatchAck, BatchError> {
        self.stage(messages).await?.commit().await
    }

    /// Sends all messages except the last one, without waiting for an answer.
    ///
    /// A staged batch that is dropped is never stored, but the server keeps it open for 10 seconds. [`StagedBatch::abandon`] closes it
    /// at once.
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

    /// Sends these messages, without waiting for an answer. The batch's last message follows with the commit.
    ///
    /// # Errors
    /// As [`Batches::stage`]; a batch may be opened without a message.
    pub async fn open(&self, messages: Vec<BatchMessage>) -> Result<OpenBatch, BatchError> {
        let count = messages.len() + 1;
        if count > BATCH_MESSAGES_MAX {
            return Err(BatchError::TooLarge { count });
        }
        // The check comes before the first message is sent, because an incomplete batch would stay open at the server.
        if let Some(index) = messages.iter().position(|message| self.is_too_large(message)) {
            return Err(BatchError::MessageTooLarge { index });
        }
        // While there is no connection, the client takes messages until its queue is full, and then waits.
        let opened = timeout(self.timeout, self.send_all(messages)).await;
        let (id, opening) = opened.unwrap_or(Err(BatchError::Incomplete))?;
        Ok(OpenBatch { batches: self.clone(), id, count, opening })
    }

    /// Returns the id of the batch, and the answer to its first message.
    async fn send_all(&self, messages: Vec<BatchMessage>) -> Result<(String, Option<PublishAckFuture>), BatchError> {
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
        Ok((id, opening))
    }

    /// Whether a message, with the headers of a batch, is larger than the limit of the server or the stream.
    fn is_too_large(&self, message: &BatchMessage) -> bool {
        let max = self.client.max_payload().min(self.message_bytes_max);
        let expect = message.expect.as_ref().map_or(0, |expect| expect.subject.len() + EXPECT_BYTES_MAX);
        wire_size(&message.headers) + expect + BATCH_HEADERS_BYTES_MAX + message.payload.len() > max
    }
}

/// The subject, the headers and the body of a message to send.
type Parts = (String, HeaderMap, Bytes);

/// A batch whose messages have been sent, except the last one; [`StagedBatch::commit`] sends that one.
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

/// A batch whose last message is not known yet.
#[must_use = "a batch that is not committed is never stored"]
#[derive(Debug)]
pub struct OpenBatch {
    batches: Batches,
    id: String,
    /// The number of messages of the batch, including the last one.
    count: usize,
    /// The answer to the first message: empty, or the reason why the server refused the batch at once.
    opening: Option<PublishAckFuture>,
}

impl OpenBatch {
    /// Sends the last message with the commit header, and waits for the answer to the whole batch.
    ///
    /// # Errors
    /// [`BatchError`]; only [`BatchError::Unknown`] leaves open whether the batch was stored.
    pub async fn commit(self, last: BatchMessage) -> Result<BatchAck, BatchError> {
        let Self { batches, id, count, opening } = self;
        let (subject, mut headers, payload) = last.into_parts();
        // A single message needs no batch: the server checks the expectation of a plain publish too.
        if count > 1 {
            number_in(&mut headers, &id, count);
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        }
        let request = Request::new().headers(headers).payload(payload).timeout(Some(batches.timeout));
        let unknown = |cause: &str| Err(BatchError::Unknown { cause: cause.to_owned() });
        // The client's own time limit begins when the request is in its queue.
        let request = timeout(batches.timeout, batches.client.send_request(subject.clone(), request));
        let answered = tokio::select! {
            answered = request => answered,
            () = connection_replaced(&batches.client) => return unknown("the connection was lost before the answer"),
        };
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Err(_) => return unknown("there was no answer in time"),
            Ok(Err(error)) => {
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
            // For a known id, the server refuses a batch (10201), but acknowledges a plain publish without storing it.
            Ok(Response::Ok(ack)) if ack.duplicate => Err(BatchError::Duplicate),
            Ok(Response::Ok(ack)) => Ok(BatchAck {
                stream: ack.stream,
                last_sequence: ack.sequence,
                count: ack.batch_size.unwrap_or(count as u64),
            }),
            Ok(Response::Err { error }) => match BatchError::from_server(&error, count) {
                // If the server refused the first message, that is the reason why it has no batch at the commit.
                BatchError::Incomplete => {
                    Err(refusal_of_opening(opening, count).await.unwrap_or(BatchError::Incomplete))
                }
                other => Err(other),
            },
            Err(error) => Err(BatchError::Unknown { cause: format!("unreadable answer: {error}") }),
        }
    }

    /// Closes the batch without a commit. Otherwise the server keeps it open for 10 seconds, as one of the 50 open batches of the
    /// stream. `subject` is any subject of the stream.
    pub async fn abandon(self, subject: &str) {
        if self.count == 1 {
            return; // Nothing has been sent.
        }
        // A gap in the batch sequence ends a batch (ADR-50). If this message is lost, the batch ends by its timeout.
        let mut headers = HeaderMap::new();
        number_in(&mut headers, &self.id, self.count + 1);
        let sent = self.batches.client.publish_with_headers(subject.to_owned(), headers, Bytes::new());
        let _ = timeout(self.batches.timeout, sent).await;
    }
}

/// Waits until the client has connected again and could have got the answer to a request that it sent over the new connection. An answer
/// over the old connection is lost, so a longer wait has no use.
async fn connection_replaced(client: &Client) {
    reconnected(client).await;
    sleep(ANSWER_AFTER_RECONNECT).await;
}

fn number_in(headers: &mut HeaderMap, batch_id: &str, number: usize) {
    headers.insert(NATS_BATCH_ID, batch_id);
    headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
}

/// The size of headers on the wire, in bytes: a status line, `name: value` lines, an empty line.
pub(crate) fn wire_size(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &[u8] = name.as_ref();
        values.iter().map(move |value| name.len() + value.as_str().len() + 4)
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// The error in the answer to the first message. It arrives over the same connection before the answer to the commit.
async fn refusal_of_opening(opening: Option<PublishAckFuture>, count: usize) -> Option<BatchError> {
    let answer = timeout(OPENING_ANSWER_WAIT, opening?.into_future()).await.ok()?;
    let error = answer.err()?;
    // The answer to an accepted first message is empty. The client reports an empty answer as an error, but it is not an error of the server.
    let refusal = std::error::Error::source(&error)?.downcast_ref::<jetstream::Error>()?;
    Some(BatchError::from_server(refusal, count))
}

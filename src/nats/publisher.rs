//! Publishes inputs: it groups the messages of many callers into few atomic batches, and answers each caller.
//!
//! With `sync_interval: always`, a plain publish needs a disk sync, and an atomic batch needs one sync for all its messages (about
//! 2 000 against more than 20 000 messages a second). So the publisher gathers messages for a millisecond, publishes one batch, and
//! returns to every caller the sequence of its message. A few batches are in flight at once; later messages go into the next batch.
//!
//! ```text
//!   publish() ─▶ queue (bounded in messages and bytes: Busy) ─▶ gather ─▶ batch ─┬─▶ answered: the stream sequence
//!                                                                    ≤ 4 at once └─▶ refused: one by one, so that a
//!                                                                                    bad message fails alone
//! ```
//!
//! The messages of one caller stay in order if it waits for each answer; messages of different callers have no order. If the outcome of
//! a batch is unknown, the caller gets `Unavailable`, although the batch may be stored. The sender repeats the message, and the machine
//! refuses it if the link's record shows a repeat.
//!
//! The publisher must never set `Nats-Msg-Id` (one known id refuses a whole batch), or report success for a message that is not stored.
//! Next: `batch.rs`; `http/ingest.rs` and `jobs.rs` call this.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats::batch::{BATCH_MESSAGES_MAX, BatchMessage, Batches, wire_size};
use crate::nats::publish::{self, LastFailure, Order};
use crate::nats::subject::Subjects;

/// The size of the headers that a batch adds to a message, in bytes: id, sequence and commit, with their names.
const BATCH_HEADERS_BYTES: usize = 256;

/// The limits of the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherOptions {
    /// How long the first message of a batch waits for more messages.
    pub gather: Duration,
    /// The most messages in a batch, 1 to [`BATCH_MESSAGES_MAX`].
    pub batch_messages_max: usize,
    /// A batch that reaches this many bytes is closed.
    pub batch_bytes_max: usize,
    /// The most batches in flight. A stream allows 50 open batches of all its publishers together.
    pub batches_in_flight_max: usize,
    /// The most messages that wait for a batch; more callers get [`PublishError::Busy`].
    pub queue_messages_max: usize,
    /// The most bytes of messages without an answer; more callers get [`PublishError::Busy`].
    pub queue_bytes_max: usize,
    /// The time after which the outcome of a batch counts as unknown.
    pub timeout: Duration,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(1),
            batch_messages_max: 500,
            batch_bytes_max: 4 * 1024 * 1024,
            batches_in_flight_max: 4,
            queue_messages_max: 8_192,
            queue_bytes_max: 128 * 1024 * 1024,
            timeout: Duration::from_secs(10),
        }
    }
}

/// The reason why a message was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The message is larger than the server's `max_payload`; a repeat would fail too (HTTP 413).
    #[error("the message has {size} bytes with its headers, the NATS server takes {max}")]
    TooLarge {
        /// Headers and body, in bytes.
        size: usize,
        /// The limit of the server, in bytes.
        max: usize,
    },
    /// The subject is not `belvo.<kind>.<link>`. A message for another stream would make the whole batch fail.
    #[error("`{}` is not an input subject", subject.escape_debug())]
    Subject {
        /// The subject.
        subject: String,
    },
    /// The queue is full (HTTP 503). The message is not stored; the caller may repeat it later.
    #[error("too many messages are waiting to be stored")]
    Busy,
    /// The message is not stored, or the outcome is unknown (HTTP 503). The caller may repeat it.
    #[error("the message could not be stored: {cause}")]
    Unavailable {
        /// The error of its batch.
        cause: String,
    },
    /// The server refused this message itself; a repeat would fail too.
    #[error("the NATS server refused the message: {description} ({code})")]
    Refused {
        /// The JetStream error code.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// The server has no room for messages (HTTP 503): its disk or a limit of its account is full, or its stream cannot be written. The
    /// message is not stored; the caller may repeat it later.
    #[error("NATS has no room for the message: {description} ({code})")]
    NoRoom {
        /// The JetStream error code.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// [`Publisher::shutdown`] has begun (HTTP 503).
    #[error("the publisher is shutting down")]
    Closed,
}

/// A failed publish that the message did not cause.
#[derive(Debug, Clone)]
pub struct NotStored {
    /// The time of the failure.
    pub at: Instant,
    /// The reason, as one clause.
    pub why: String,
}

/// The handle with which callers publish. A clone is cheap; all clones share one queue.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: Client,
    subjects: Subjects,
    queue: mpsc::Sender<Entry>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    closing: CancellationToken,
    tasks: TaskTracker,
    batches: Batches,
    last_failure: LastFailure,
}

#[derive(Debug)]
struct Entry {
    message: BatchMessage,
    size: usize,
    answer: oneshot::Sender<Result<u64, PublishError>>,
    /// Its share of the queue's bytes; released with the answer.
    held: OwnedSemaphorePermit,
}

impl Entry {
    /// Whether the caller no longer waits. After an outage the queue has many such messages, which their senders have repeated.
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}

impl Publisher {
    /// Starts the task that gathers and publishes. Must be called inside a tokio runtime.
    pub fn start(client: Client, subjects: Subjects, options: PublisherOptions) -> Self {
        let bytes_max = options.queue_bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (queue, entries) = mpsc::channel(options.queue_messages_max.max(1));
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let last_failure = LastFailure::new(None);
        let batches = Batches::new(client.clone(), options.timeout);
        let gatherer = Gatherer {
            last_failure: last_failure.clone(),
            batches: batches.clone(),
            in_flight: Arc::new(Semaphore::new(options.batches_in_flight_max.max(1))),
            messages_max: options.batch_messages_max.clamp(1, BATCH_MESSAGES_MAX),
            options,
            entries,
            tasks: tasks.clone(),
        };
        tasks.spawn(gatherer.run(closing.clone()));
        Self {
            client,
            subjects,
            queue,
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            closing,
            tasks,
            batches,
            last_failure,
        }
    }

    /// The last publish, if it failed and its message was not the reason.
    pub fn not_stored(&self) -> watch::Receiver<Option<NotStored>> {
        self.last_failure.subscribe()
    }

    /// The subjects of its input stream.
    pub(super) const fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Stores one message, and returns its sequence in the stream after the server has acknowledged it.
    ///
    /// If the future is dropped, the message may be stored or not.
    ///
    /// # Errors
    /// [`PublishError`]; only [`PublishError::Unavailable`] leaves open whether the message was stored.
    pub async fn publish(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, PublishError> {
        let message = BatchMessage { subject, headers, payload, expect: None };
        let size = self.check(&message)?;
        if self.closing.is_cancelled() {
            return Err(PublishError::Closed);
        }
        // An empty message counts as one byte, so that the number of empty messages is limited too.
        let share = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.bytes).try_acquire_many_owned(share).map_err(|_| PublishError::Busy)?;
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Entry { message, size, answer, held }).map_err(|error| match error {
            TrySendError::Full(_) => PublishError::Busy,
            TrySendError::Closed(_) => PublishError::Closed,
        })?;
        answered.await.unwrap_or_else(|_| Err(PublishError::Unavailable { cause: "the publisher ended".to_owned() }))
    }

    /// Stores messages, in order, with few disk syncs. Returns the sequence of each, or its error.
    ///
    /// It does not wait for the messages of other callers. If a message is not stored, the later ones are not stored either, unless it
    /// was refused for ever.
    pub async fn publish_all(&self, messages: Vec<BatchMessage>) -> Vec<Result<u64, PublishError>> {
        if self.client.connection_state() != State::Connected {
            let why = "relink is not connected to NATS".to_owned();
            self.last_failure.send_replace(Some(NotStored { at: Instant::now(), why: why.clone() }));
            return messages.iter().map(|_| Err(PublishError::Unavailable { cause: why.clone() })).collect();
        }
        let mut good = Vec::with_capacity(messages.len());
        let check = |message| self.check(&message).map(|_size| good.push(message));
        let checked: Vec<Result<(), PublishError>> = messages.into_iter().map(check).collect();
        let mut outcomes = publish::publish(&self.batches, &self.last_failure, good, Order::Kept).await.into_iter();
        let ended = || Err(PublishError::Unavailable { cause: "the publisher has no outcome".to_owned() });
        checked.into_iter().map(|checked| checked.and_then(|()| outcomes.next().unwrap_or_else(ended))).collect()
    }

    /// The size of a message in bytes, if NATS can take it.
    fn check(&self, message: &BatchMessage) -> Result<usize, PublishError> {
        let size = wire_size(&message.headers) + message.payload.len();
        let max = self.client.max_payload().min(self.bytes_max);
        if size + BATCH_HEADERS_BYTES > max {
            return Err(PublishError::TooLarge { size, max: max.saturating_sub(BATCH_HEADERS_BYTES) });
        }
        if self.subjects.parse_published(&message.subject).is_none() {
            return Err(PublishError::Subject { subject: message.subject.clone() });
        }
        Ok(size)
    }

    /// Refuses new messages, publishes the queued ones, and returns when every caller has its answer.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The task that all handles share.
struct Gatherer {
    last_failure: LastFailure,
    batches: Batches,
    in_flight: Arc<Semaphore>,
    messages_max: usize,
    options: PublisherOptions,
    entries: mpsc::Receiver<Entry>,
    tasks: TaskTracker,
}

impl Gatherer {
    async fn run(mut self, closing: CancellationToken) {
        loop {
            let first = tokio::select! {
                entry = self.entries.recv() => entry,
                () = closing.cancelled() => {
                    self.entries.close(); // Queued messages are still received.
                    self.entries.recv().await
                }
            };
            let Some(first) = first else { return };
            if first.is_abandoned() {
                continue;
            }
            let (batch, permit) = self.gather(first).await;
            let (batches, last_failure) = (self.batches.clone(), self.last_failure.clone());
            self.tasks.spawn(async move {
                publish_batch(&batches, &last_failure, batch).await;
                drop(permit);
            });
        }
    }

    /// Fills a batch until its time is over and a place among the batches in flight is free.
    async fn gather(&mut self, first: Entry) -> (Vec<Entry>, Option<OwnedSemaphorePermit>) {
        let until = Instant::now() + self.options.gather;
        let (mut due, mut open) = (false, true);
        let mut bytes = first.size;
        let mut batch = vec![first];
        loop {
            let full = batch.len() >= self.messages_max || bytes >= self.options.batch_bytes_max;
            tokio::select! {
                entry = self.entries.recv(), if open && !full => match entry {
                    Some(entry) if entry.is_abandoned() => {}
                    Some(entry) => {
                        bytes += entry.size;
                        batch.push(entry);
                    }
                    None => open = false,
                },
                () = sleep_until(until), if !due => due = true,
                permit = Arc::clone(&self.in_flight).acquire_owned(), if due || full || !open => {
                    return (batch, permit.ok()); // The semaphore is never closed, so this is no error.
                }
            }
        }
    }
}

async fn publish_batch(batches: &Batches, last_failure: &LastFailure, entries: Vec<Entry>) {
    let (messages, answers): (Vec<_>, Vec<_>) =
        entries.into_iter().map(|entry| (entry.message, (entry.answer, entry.held))).unzip();
    let outcomes = publish::publish(batches, last_failure, messages, Order::Any).await;
    for ((answer, _held), outcome) in answers.into_iter().zip(outcomes) {
        let _ = answer.send(outcome); // An error means that the caller no longer waits.
    }
}

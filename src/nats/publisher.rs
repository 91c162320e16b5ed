//! The way in: many callers, few small atomic batches, an answer to each caller.
//!
//! With `sync_interval: always` a plain publish costs a disk sync, an atomic batch costs one for all its messages (some
//! 2 000 against 20 000 messages a second and more). So this gathers for a millisecond, publishes one batch and tells every caller
//! the sequence of its own message. A few batches are in flight at once; what arrives meanwhile becomes the next one.
//!
//! ```text
//!   publish() ─▶ queue (bounded in messages and bytes: Busy) ─▶ gather ─▶ batch ─┬─▶ answered: the stream sequence
//!                                                                    ≤ 4 at once └─▶ refused: one by one, so that a
//!                                                                                    bad message fails alone
//! ```
//!
//! A caller that waits for its answer before it publishes again keeps its order; between callers there is none. A batch
//! of unknown outcome is `Unavailable` and may still be stored: the sender repeats, and the link's record refuses repeats.
//!
//! Never: set `Nats-Msg-Id` (one known id refuses a whole batch), or acknowledge what is not stored.
//! Next: `batch.rs`; `http/ingest.rs` and `jobs.rs` call this.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats::batch::{BATCH_MESSAGES_MAX, BatchAck, BatchError, BatchMessage, Batches, wire_size};
use crate::nats::subject::Subjects;

/// Room for what a batch adds to a message's headers: id, sequence, commit mark, and their names.
const BATCH_HEADERS_BYTES: usize = 256;

/// Up to so many messages are published singly: a sync for each is cheaper than the 3 ms or so that any batch costs the
/// server. Measured on a disk that syncs in 0.2 ms, where the two are even at about a dozen; a slower one moves it down.
const SINGLE_MESSAGES_MAX: usize = 4;

/// Where a caller waits, and its share of what is held.
type Answer = (oneshot::Sender<Result<u64, PublishError>>, OwnedSemaphorePermit);

/// How much to gather, and how much to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherOptions {
    /// How long the first message of a batch waits for others.
    pub gather: Duration,
    /// The most messages in a batch, 1 to [`BATCH_MESSAGES_MAX`].
    pub batch_messages_max: usize,
    /// A batch that reaches this many bytes is closed.
    pub batch_bytes_max: usize,
    /// The most batches in flight. A stream takes fifty open ones, from all its publishers together.
    pub batches_in_flight_max: usize,
    /// The most messages that wait for a batch; beyond it callers are [`PublishError::Busy`].
    pub queue_messages_max: usize,
    /// The most bytes held, from admission to answer; beyond it likewise.
    pub queue_bytes_max: usize,
    /// How long a batch may take until its outcome counts as unknown.
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

/// Why a message was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Larger than the server's `max_payload`; no repeat will help (HTTP 413).
    #[error("the message has {size} bytes with its headers, the NATS server takes {max}")]
    TooLarge {
        /// Headers and body, in bytes.
        size: usize,
        /// What the server takes, in bytes.
        max: usize,
    },
    /// Not `belvo.<kind>.<link>`: a message for another stream would spoil the batch of its neighbours.
    #[error("`{}` is not an input subject", subject.escape_debug())]
    Subject {
        /// The subject.
        subject: String,
    },
    /// Too much is waiting already (HTTP 503): nothing was stored, repeat later.
    #[error("too many messages are waiting to be stored")]
    Busy,
    /// Not stored, or not known to be (HTTP 503): repeat.
    #[error("the message could not be stored: {cause}")]
    Unavailable {
        /// What happened to its batch.
        cause: String,
    },
    /// The server refused this very message; no repeat will help.
    #[error("the NATS server refused the message: {description} ({code})")]
    Refused {
        /// The JetStream error code.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// [`Publisher::shutdown`] has begun (HTTP 503).
    #[error("the publisher is shutting down")]
    Closed,
}

/// The handle callers publish with. Cheap to clone; all clones share one queue.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: Client,
    subjects: Subjects,
    queue: mpsc::Sender<Entry>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Entry {
    message: BatchMessage,
    size: usize,
    answer: oneshot::Sender<Result<u64, PublishError>>,
    /// Its share of the bytes held; given back with the answer.
    held: OwnedSemaphorePermit,
}

impl Publisher {
    /// Starts the task that gathers and publishes. Must be called inside a tokio runtime.
    pub fn start(client: Client, subjects: Subjects, options: PublisherOptions) -> Self {
        let bytes_max = options.queue_bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (queue, entries) = mpsc::channel(options.queue_messages_max.max(1));
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let gatherer = Gatherer {
            batches: Batches::new(client.clone(), options.timeout),
            in_flight: Arc::new(Semaphore::new(options.batches_in_flight_max.max(1))),
            messages_max: options.batch_messages_max.clamp(1, BATCH_MESSAGES_MAX),
            options,
            entries,
            tasks: tasks.clone(),
        };
        tasks.spawn(gatherer.run(closing.clone()));
        Self { client, subjects, queue, bytes: Arc::new(Semaphore::new(bytes_max)), bytes_max, closing, tasks }
    }

    /// The subjects it publishes on.
    pub(super) const fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Stores one message and gives its sequence in the stream, once it is on the disk.
    ///
    /// Dropping the future does not take the message back.
    ///
    /// # Errors
    /// [`PublishError`]; only [`PublishError::Unavailable`] leaves open whether the message was stored.
    pub async fn publish(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, PublishError> {
        let size = wire_size(&headers) + payload.len();
        let max = self.client.max_payload().min(self.bytes_max);
        if size + BATCH_HEADERS_BYTES > max {
            return Err(PublishError::TooLarge { size, max: max.saturating_sub(BATCH_HEADERS_BYTES) });
        }
        if self.subjects.parse_published(&subject).is_none() {
            return Err(PublishError::Subject { subject });
        }
        if self.closing.is_cancelled() {
            return Err(PublishError::Closed);
        }
        // An empty message holds something, too: its headers and the subject are not free.
        let share = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.bytes).try_acquire_many_owned(share).map_err(|_| PublishError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let message = BatchMessage { subject, headers, payload, expect: None };
        self.queue.try_send(Entry { message, size, answer, held }).map_err(|error| match error {
            TrySendError::Full(_) => PublishError::Busy,
            TrySendError::Closed(_) => PublishError::Closed,
        })?;
        answered.await.unwrap_or_else(|_| Err(PublishError::Unavailable { cause: "the publisher ended".to_owned() }))
    }

    /// Takes no more, publishes what is queued and returns when every caller has its answer.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The one task behind all handles.
struct Gatherer {
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
                    self.entries.close(); // What is queued is still received.
                    self.entries.recv().await
                }
            };
            let Some(first) = first else { return };
            let (batch, permit) = self.gather(first).await;
            let batches = self.batches.clone();
            self.tasks.spawn(async move {
                publish_batch(&batches, batch).await;
                drop(permit);
            });
        }
    }

    /// Fills a batch until its time is over and it may fly.
    async fn gather(&mut self, first: Entry) -> (Vec<Entry>, Option<OwnedSemaphorePermit>) {
        let until = Instant::now() + self.options.gather;
        let (mut due, mut open) = (false, true);
        let mut bytes = first.size;
        let mut batch = vec![first];
        loop {
            let full = batch.len() >= self.messages_max || bytes >= self.options.batch_bytes_max;
            tokio::select! {
                entry = self.entries.recv(), if open && !full => match entry {
                    Some(entry) => {
                        bytes += entry.size;
                        batch.push(entry);
                    }
                    None => open = false,
                },
                () = sleep_until(until), if !due => due = true,
                permit = Arc::clone(&self.in_flight).acquire_owned(), if due || full || !open => {
                    return (batch, permit.ok()); // Never closed, so never an error.
                }
            }
        }
    }
}

async fn publish_batch(batches: &Batches, entries: Vec<Entry>) {
    let (messages, answers): (Vec<_>, Vec<_>) =
        entries.into_iter().map(|entry| (entry.message, (entry.answer, entry.held))).unzip();
    if messages.len() <= SINGLE_MESSAGES_MAX {
        return publish_singly(batches, messages, answers).await;
    }
    // Cheap: subject and headers are copied, bodies are shared.
    let outcome = batches.publish_atomic(messages.clone()).await;
    if let (Err(error), true) = (&outcome, messages.len() > 1)
        && may_be_one_messages_fault(error)
    {
        tracing::warn!(batch.count = messages.len(), %error, "a batch was refused and is published message by message");
        return publish_singly(batches, messages, answers).await;
    }
    if let Err(error) = &outcome {
        tracing::warn!(batch.count = messages.len(), %error, "a batch was not stored");
    }
    for (index, (answer, _held)) in answers.into_iter().enumerate() {
        let _ = answer.send(answer_at(&outcome, index));
    }
}

/// Publishes each message by itself, all in flight together and sent in order.
async fn publish_singly(batches: &Batches, messages: Vec<BatchMessage>, answers: Vec<Answer>) {
    let all = messages.into_iter().zip(answers).map(|(message, (answer, _held))| async move {
        let outcome = batches.publish_atomic(vec![message]).await;
        let _ = answer.send(answer_at(&outcome, 0)); // A caller that has gone is no fault.
    });
    join_all(all).await;
}

fn may_be_one_messages_fault(error: &BatchError) -> bool {
    match error {
        BatchError::Server { .. }
        | BatchError::Duplicate
        | BatchError::Refused { .. }
        | BatchError::NoStream { .. }
        | BatchError::TooLarge { .. }
        | BatchError::MessageTooLarge { .. } => true,
        BatchError::Empty | BatchError::Incomplete | BatchError::TooManyOpen | BatchError::Unknown { .. } => false,
    }
}

fn answer_at(outcome: &Result<BatchAck, BatchError>, index: usize) -> Result<u64, PublishError> {
    match outcome {
        Ok(ack) => Ok(ack.sequence_of(index)),
        Err(BatchError::Server { code, description }) => {
            Err(PublishError::Refused { code: *code, description: description.clone() })
        }
        Err(error @ BatchError::MessageTooLarge { .. }) => {
            Err(PublishError::Refused { code: 10054, description: error.to_string() })
        }
        Err(error @ BatchError::Duplicate) => {
            Err(PublishError::Refused { code: 10201, description: error.to_string() })
        }
        Err(error) => Err(PublishError::Unavailable { cause: error.to_string() }),
    }
}

//! The journal: what the HTTP server accepts is first on this node's disk, and then in NATS.
//!
//! ```text
//!   append() ─▶ queue ─▶ one thread: write, fdatasync ─▶ 2xx              forwarder ─▶ one batch at a time ─▶ BELVO
//!   append() ─▶          (all that wait share one sync)                    ▲    (and RELINK_DEAD)
//!                                    └──────▶ segment files ───────────────┘    ack ─▶ the segment is removed
//! ```
//!
//! So a sender waits for one sync of a local file and not for NATS: Belvo's five retries are not used up while NATS is away, slow or
//! upgraded. Nothing waits for a timer: what arrives while a sync runs is written with the next one, and what is synced while a batch
//! is published goes into the next batch.
//!
//! The order of the file is the order of publishing. A batch whose outcome is unknown is published again, and so are records whose
//! acknowledgement a crash has forgotten. Each message has the header `Relink-Journal`, the same for each repeat, and the link refuses
//! the repeat.
//!
//! - `format`: the bytes of a record; `disk`: the files, as a trait; `memory`: files in memory, for tests and the simulation
//! - `segment`, `log`, `writer`: the segments, read and appended; `forwarder`: publishes; `target`: to NATS
//! - `manual`: a journal without its thread, for the simulation
//!
//! Next: `http/mod.rs` appends, `service.rs` starts the forwarder.

mod disk;
mod format;
mod forwarder;
mod log;
mod manual;
mod memory;
mod segment;
mod target;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use strum::EnumString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::disk::{Disk, FileDisk};
pub use self::format::{Dead, Entry};
pub use self::forwarder::{Forwarder, Step};
use self::log::Log;
pub use self::manual::{ManualWriter, open_manual};
pub use self::memory::MemoryDisk;
pub use self::target::{NatsTarget, Target};
use self::writer::{Body, Writer};
use crate::clock;
use crate::link::Timestamp;
use crate::nats::publisher::PublishError;

/// The header with the identity of a record: the same for each repeat of a message.
pub use crate::contract::JOURNAL_HEADER;

/// The size of a segment, in bytes. A crash publishes at most one segment again.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// The most records, and about the most bytes, that are written with one sync.
const SYNC_RECORDS_MAX: usize = 4_096;
const SYNC_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most records and bytes that wait for the thread.
const QUEUE_RECORDS_MAX: usize = 8_192;
const QUEUE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How long a failed write counts as a problem.
const FAILURE_COUNTS: Duration = Duration::from_secs(30);

/// If more callers than this wait for NATS, those that have gone away are forgotten.
const WAITERS_MAX: usize = 10_000;

/// What an answer with 2xx promises: `RELINK_HTTP_ACKNOWLEDGE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum Acknowledge {
    /// The message is on the disk of this node.
    #[default]
    Journal,
    /// NATS has stored the message too.
    Stream,
}

/// The settings of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `RELINK_JOURNAL_MAX_BYTES`: the most bytes of all segments. More messages are refused with [`JournalError::Full`].
    pub bytes_max: u64,
    /// `RELINK_JOURNAL_MAX_AGE`: if the oldest message has waited for longer, more messages are refused with [`JournalError::Stalled`].
    pub age_max: Duration,
    /// What an answer promises.
    pub acknowledge: Acknowledge,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bytes_max: 1024 * 1024 * 1024,
            age_max: Duration::from_secs(24 * 3600),
            acknowledge: Acknowledge::default(),
        }
    }
}

/// The reason why a message is not stored, or may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The message is larger than a record may be. A repeat would fail too.
    #[error("the message has {size} bytes with its headers, the journal takes {}", format::BODY_BYTES_MAX)]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// The journal has reached its size, because NATS does not take the messages.
    #[error("the journal has reached its size of {max} bytes")]
    Full {
        /// The limit in bytes.
        max: u64,
    },
    /// The oldest message has waited too long for NATS.
    #[error("the oldest message of the journal has waited for NATS for more than {} s", max.as_secs())]
    Stalled {
        /// The limit.
        max: Duration,
    },
    /// Too many messages wait for the disk.
    #[error("too many messages are waiting for the disk")]
    Busy,
    /// The disk failed. The message is not stored; it may be published anyway.
    #[error("the journal cannot be written: {problem}")]
    Disk {
        /// The error of the disk.
        problem: String,
    },
    /// The journal is closed, because relink stops.
    #[error("the journal is closed")]
    Closed,
    /// The message is in the journal, but NATS refuses it (only with [`Acknowledge::Stream`]).
    #[error(transparent)]
    Refused(PublishError),
}

/// The proof that a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Its number in the journal.
    Journal(u64),
    /// Its sequence in the input stream.
    Stream(u64),
    /// Its sequence in the stream of dead letters.
    DeadLetter(u64),
}

/// What waits for NATS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// About how many messages.
    pub records: u64,
    /// The bytes of all segments on the disk.
    pub bytes: u64,
    /// When the oldest one was received.
    pub since: Option<Timestamp>,
}

/// The handle with which messages are appended. A clone is cheap.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Append>,
    bytes: Arc<Semaphore>,
    options: Options,
    shared: Arc<dyn Shows>,
}

/// One message on its way to the disk.
struct Append {
    body: Body,
    answer: oneshot::Sender<Result<u64, JournalError>>,
    published: Option<Waiter>,
    /// Its share of the queue.
    _held: OwnedSemaphorePermit,
}

/// A caller that waits until NATS has stored its message.
type Waiter = oneshot::Sender<Result<Stored, PublishError>>;

/// The writes that failed since the last one that was successful.
#[derive(Clone, Debug)]
struct Failure {
    /// When the first of them failed.
    since: Timestamp,
    /// When the last of them failed.
    at: Instant,
    /// The error of the last of them.
    problem: String,
}

/// What the handle, the thread and the forwarder share.
struct Shared<D: Disk> {
    log: Log<D>,
    since: Mutex<Option<Timestamp>>,
    failed: Mutex<Option<Failure>>,
    waiters: Mutex<BTreeMap<u64, Waiter>>,
}

/// The part of [`Shared`] that does not depend on the disk.
trait Shows: Send + Sync {
    fn waiting(&self) -> Waiting;
    fn failed(&self) -> Option<Failure>;
    fn check(&self, body: &[u8]) -> u32;
}

/// The journal of a directory: the handle, and the forwarder to run.
///
/// # Errors
/// The directory cannot be used, or the thread cannot be started.
pub fn open(directory: &Path, options: Options, target: Arc<dyn Target>) -> io::Result<(Journal, Forwarder<FileDisk>)> {
    open_on(FileDisk::new(directory)?, options, target)
}

/// As [`open`], on another disk.
///
/// # Errors
/// The disk fails, or the thread cannot be started.
pub fn open_on<D: Disk>(disk: D, options: Options, target: Arc<dyn Target>) -> io::Result<(Journal, Forwarder<D>)> {
    let (shared, writer, _cut_bytes) = open_log(disk, fastrand::u32(..), SEGMENT_BYTES)?;
    let (queue, appends) = mpsc::channel(QUEUE_RECORDS_MAX);
    let (synced, forwarder_synced) = watch::channel(());
    let for_thread = Arc::clone(&shared);
    thread::Builder::new().name("journal".to_owned()).spawn(move || run(writer, appends, &for_thread, &synced))?;
    let bytes = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
    let journal = Journal { queue, bytes, options, shared: Arc::clone(&shared) as Arc<dyn Shows> };
    Ok((journal, Forwarder::new(shared, target, forwarder_synced)))
}

/// The parts of a journal, and how many bytes were cut from its end.
fn open_log<D: Disk>(disk: D, salt: u32, segment_bytes: u64) -> io::Result<(Arc<Shared<D>>, Writer<D>, u64)> {
    let (log, writer, cut_bytes) = Log::open(disk, salt, segment_bytes)?;
    let waiting = log.waiting();
    if cut_bytes > 0 {
        tracing::warn!(
            journal.cut_bytes = cut_bytes,
            "the end of the journal was being written when relink or its host crashed; it is cut, and its senders got no answer"
        );
    }
    if waiting.records > 0 {
        tracing::info!(
            journal.records = waiting.records,
            journal.bytes = waiting.bytes,
            "the journal has messages of an earlier run; they are published first"
        );
    }
    let shared = Shared { log, since: Mutex::default(), failed: Mutex::default(), waiters: Mutex::default() };
    Ok((Arc::new(shared), writer, cut_bytes))
}

impl Journal {
    /// The same journal, for a caller that needs another promise.
    #[must_use]
    pub fn acknowledging(mut self, acknowledge: Acknowledge) -> Self {
        self.options.acknowledge = acknowledge;
        self
    }

    /// Stores a message, and returns when it is on the disk; with [`Acknowledge::Stream`], when NATS has stored it too.
    ///
    /// If the future is dropped, the message may be stored or not.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn append(&self, entry: Entry) -> Result<Stored, JournalError> {
        let bytes = entry.encode();
        let size = bytes.len();
        if size > format::BODY_BYTES_MAX {
            return Err(JournalError::TooLarge { size });
        }
        self.check_limits()?;
        let share = u32::try_from(size).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.bytes).try_acquire_many_owned(share).map_err(|_| JournalError::Busy)?;
        let check = self.shared.check(&bytes);
        let (answer, answered) = oneshot::channel();
        let (published, is_published) = match self.options.acknowledge {
            Acknowledge::Journal => (None, None),
            Acknowledge::Stream => {
                let (published, is_published) = oneshot::channel();
                (Some(published), Some(is_published))
            }
        };
        let append = Append { body: Body { bytes, check }, answer, published, _held: held };
        self.queue.try_send(append).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => JournalError::Busy,
            mpsc::error::TrySendError::Closed(_) => JournalError::Closed,
        })?;
        let number = answered.await.unwrap_or(Err(JournalError::Closed))?;
        let Some(is_published) = is_published else { return Ok(Stored::Journal(number)) };
        match is_published.await {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(error)) => Err(JournalError::Refused(error)),
            Err(_closed) => Err(JournalError::Closed),
        }
    }

    /// Up to when NATS has everything that was stored here: `now`, or when the oldest message that waits was received. `None`: it is not known
    /// at this moment, because the forwarder has not read that message yet.
    pub fn published_until(&self, now: Timestamp) -> Option<Timestamp> {
        published_until(self.shared.as_ref(), now)
    }

    /// What waits for NATS.
    pub fn waiting(&self) -> Waiting {
        self.shared.waiting()
    }

    /// Why messages are refused, as one clause; `None` if they are stored.
    pub fn problem(&self) -> Option<String> {
        if let Err(error) = self.check_limits() {
            return Some(error.to_string());
        }
        let is_recent = self.shared.failed()?.at.elapsed() < FAILURE_COUNTS;
        is_recent.then(|| self.last_failure()).flatten()
    }

    /// What an operator has to know before the journal is full or too old: it has reached two thirds of a limit.
    pub fn nearly_full(&self) -> Option<String> {
        let Waiting { bytes, since, .. } = self.shared.waiting();
        let Options { bytes_max, age_max, .. } = self.options;
        let waited = since.map(|since| clock::now().since(since)).unwrap_or_default();
        let what = if bytes.saturating_mul(3) >= bytes_max.saturating_mul(2) {
            format!("{} MiB of at most {} MiB", bytes >> 20, bytes_max >> 20)
        } else if waited.saturating_mul(3) >= age_max.saturating_mul(2) {
            let shown = |span: Duration| humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
            format!("the oldest since {}, of at most {}", shown(waited), shown(age_max))
        } else {
            return None;
        };
        Some(format!("the journal has messages that wait for NATS: {what}; then the senders get 503: bring NATS back"))
    }

    /// The error of the last write, since when writes fail, and what to do; `None` if that write was successful, or if there was none.
    pub fn last_failure(&self) -> Option<String> {
        let Failure { since, problem, .. } = self.shared.failed()?;
        Some(format!(
            "the journal cannot be written since {since}, and the senders get 503: {problem}; check the disk of the data directory \
             (free space, permissions); this ends with the next webhook or report that is stored"
        ))
    }

    fn check_limits(&self) -> Result<(), JournalError> {
        let Waiting { bytes, since, records: _ } = self.shared.waiting();
        let Options { bytes_max, age_max, .. } = self.options;
        if bytes >= bytes_max {
            return Err(JournalError::Full { max: bytes_max });
        }
        let waited_ms = since.map_or(0, |since| clock::now().as_millis() - since.as_millis());
        if u128::try_from(waited_ms).is_ok_and(|waited_ms| waited_ms > age_max.as_millis()) {
            return Err(JournalError::Stalled { max: age_max });
        }
        Ok(())
    }
}

impl<D: Disk> Shared<D> {
    /// Sets when the oldest waiting message was received.
    fn set_since(&self, since: Option<Timestamp>) {
        *lock(&self.since) = since;
    }

    fn add_waiters(&self, first: u64, appends: &mut [Append]) {
        let mut waiters = lock(&self.waiters);
        if waiters.len() > WAITERS_MAX {
            waiters.retain(|_, waiter| !waiter.is_closed());
        }
        for (append, number) in appends.iter_mut().zip(first..) {
            waiters.extend(append.published.take().map(|waiter| (number, waiter)));
        }
    }

    /// Answers the caller of a message, if it waits for NATS.
    fn answer(&self, number: u64, outcome: Result<Stored, PublishError>) {
        if let Some(waiter) = lock(&self.waiters).remove(&number) {
            let _gone = waiter.send(outcome);
        }
    }
}

impl<D: Disk> Shows for Shared<D> {
    fn waiting(&self) -> Waiting {
        let log::Waiting { records, bytes } = self.log.waiting();
        Waiting { records, bytes, since: *lock(&self.since) }
    }

    fn failed(&self) -> Option<Failure> {
        lock(&self.failed).clone()
    }

    fn check(&self, body: &[u8]) -> u32 {
        format::check_of(self.log.salt(), body)
    }
}

/// The thread: writes what waits, with one sync, and answers.
fn run<D: Disk>(
    mut writer: Writer<D>,
    mut queue: mpsc::Receiver<Append>,
    shared: &Shared<D>,
    synced: &watch::Sender<()>,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut bytes = first.body.bytes.len();
        let mut appends = vec![first];
        while appends.len() < SYNC_RECORDS_MAX
            && bytes < SYNC_BYTES_MAX
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.body.bytes.len();
            appends.push(next);
        }
        // Their callers have gone away, and their senders will repeat them.
        appends.retain(|append| !append.answer.is_closed());
        if appends.is_empty() {
            continue;
        }
        // The forwarder may publish a record as soon as it is synced.
        let first = writer.next;
        shared.add_waiters(first, &mut appends);
        let appended = writer.append(appends.iter().map(|append| &append.body));
        synced.send_replace(());
        let mut failed = lock(&shared.failed);
        *failed = appended.as_ref().err().map(|error| Failure {
            since: failed.as_ref().map_or_else(clock::now, |earlier| earlier.since),
            at: Instant::now(),
            problem: error.to_string(),
        });
        drop(failed);
        if let Err(error) = &appended {
            lock(&shared.waiters).split_off(&first); // Their callers get the error.
            tracing::error!(%error, messages.count = appends.len(), "the journal cannot be written; the senders get 503");
        }
        for (append, index) in appends.into_iter().zip(0..) {
            let answer = match &appended {
                Ok(first) => Ok(first + index),
                Err(error) => Err(JournalError::Disk { problem: error.to_string() }),
            };
            let _gone = append.answer.send(answer);
        }
    }
}

/// See [`Journal::published_until`].
fn published_until(shared: &(impl Shows + ?Sized), now: Timestamp) -> Option<Timestamp> {
    // The sender of a message that is stored after this look gets its answer after it.
    let Waiting { records, since, .. } = shared.waiting();
    if records == 0 { Some(now) } else { since.map(|since| since.min(now)) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

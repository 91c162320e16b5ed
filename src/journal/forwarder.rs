//! The forwarder: publishes the records of the journal, in their order, one batch at a time.
//!
//! A batch is as large as what has come together while the one before was published, so the batches grow with the load.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::format::{Dead, Entry};
use super::log::{Cursor, Item};
use super::target::Target;
use super::{JOURNAL_HEADER, Shared, Shows as _, Stored};
use crate::clock;
use crate::contract::DeadReason;
use crate::link::Timestamp;
use crate::metric;
use crate::nats::batch::BATCH_MESSAGES_MAX;
use crate::nats::publisher::PublishError;

/// The most bytes of a batch, except that one message may have more.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The pauses after a failed step: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How many steps in a row may fail at a stop. A connection that breaks just then is made anew after the first pause.
const STOP_FAILURES_MAX: u32 = 4;

/// Publishes the records of a journal.
pub struct Forwarder<D: Disk> {
    shared: Arc<Shared<D>>,
    target: Arc<dyn Target>,
    synced: watch::Receiver<()>,
    /// The end of the batch.
    cursor: Cursor,
    batch: Batch,
}

/// The part of a batch that is not published yet.
#[derive(Default)]
struct Batch {
    /// In order, with their numbers.
    inputs: Vec<(u64, Entry)>,
    /// Dead letters; the number is for the caller that waits.
    letters: Vec<(Option<u64>, Entry, Dead)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.letters.is_empty()
    }

    /// When its oldest message was received.
    fn since(&self) -> Option<Timestamp> {
        let letters = self.letters.iter().map(|(_, entry, _)| entry.at);
        self.inputs.iter().map(|(_, entry)| entry.at).chain(letters).min()
    }

    fn add(&mut self, item: Item) {
        match item {
            Item::Entry { number, salt, mut entry } => match entry.dead.take() {
                Some(dead) => self.letters.push((Some(number), entry, dead)),
                None => {
                    entry.headers.push((JOURNAL_HEADER.to_owned(), format!("{:08x}-{number}", salt.0)));
                    self.inputs.push((number, entry));
                }
            },
            Item::Damaged { file, offset, bytes } => {
                let (entry, dead) = damaged(&file, offset, bytes);
                self.letters.push((None, entry, dead));
            }
        }
    }
}

/// The result of [`Forwarder::step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing waits.
    Idle,
    /// Something was published.
    Published,
    /// It should be tried again after a pause. The reason is for the log.
    Failed(String),
}

impl<D: Disk> Forwarder<D> {
    pub(super) fn new(shared: Arc<Shared<D>>, target: Arc<dyn Target>, synced: watch::Receiver<()>) -> Self {
        Self { shared, target, synced, cursor: Cursor::default(), batch: Batch::default() }
    }

    /// Publishes until `closing`, and then until the journal is empty or some steps in a row have failed.
    pub async fn run(mut self, closing: CancellationToken) {
        let mut pause = PAUSE_MIN;
        let mut stop_failures = 0;
        loop {
            self.synced.mark_unchanged();
            let step = self.step().await;
            match step {
                Step::Published => {
                    if pause > PAUSE_MIN {
                        tracing::info!("the journal is published again");
                    }
                    (pause, stop_failures) = (PAUSE_MIN, 0);
                }
                Step::Idle if closing.is_cancelled() => return,
                Step::Idle => tokio::select! {
                    changed = self.synced.changed() => if changed.is_err() { return },
                    () = closing.cancelled() => {}
                },
                Step::Failed(_) if closing.is_cancelled() && stop_failures + 1 < STOP_FAILURES_MAX => {
                    sleep(PAUSE_MIN * 2_u32.pow(stop_failures)).await;
                    stop_failures += 1;
                }
                Step::Failed(problem) if closing.is_cancelled() => {
                    let waiting = self.shared.waiting().records;
                    tracing::warn!(
                        problem,
                        journal.records = waiting,
                        "relink stops before the journal is published; the next start publishes it"
                    );
                    return;
                }
                Step::Failed(problem) => {
                    if pause == PAUSE_MIN {
                        tracing::warn!(
                            problem,
                            "the journal cannot be published now; it is tried again, and inputs are taken meanwhile"
                        );
                    }
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = closing.cancelled() => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Publishes one batch, or the rest of one.
    pub async fn step(&mut self) -> Step {
        if self.batch.is_empty() {
            match self.read().await {
                Ok(items) => items.into_iter().for_each(|item| self.batch.add(item)),
                Err(problem) => return Step::Failed(problem),
            }
            self.shared.set_since(self.batch.since());
            if self.batch.is_empty() {
                return Step::Idle;
            }
        }
        if let Err(problem) = self.publish().await {
            return Step::Failed(problem);
        }
        self.shared.log.published_up_to(&self.cursor);
        Step::Published
    }

    /// Publishes the batch, and removes from it what is published.
    async fn publish(&mut self) -> Result<(), String> {
        let mut first_problem = None;
        let Batch { inputs, mut letters } = std::mem::take(&mut self.batch);
        let outcomes = if inputs.is_empty() {
            Vec::new()
        } else {
            self.target.publish(inputs.iter().map(|(_, entry)| entry.clone()).collect()).await
        };
        for ((number, entry), outcome) in inputs.into_iter().zip(outcomes) {
            match outcome {
                Ok(sequence) => self.shared.answer(number, Ok(Stored::Stream(sequence))),
                Err(error) if is_final(&error) => {
                    let detail = format!("NATS did not take the message: {error}");
                    let dead = Dead { reason: reason_of(&error), detail };
                    self.shared.answer(number, Err(error));
                    letters.push((None, entry, dead));
                }
                Err(error) => {
                    first_problem.get_or_insert(error.to_string());
                    self.batch.inputs.push((number, entry));
                }
            }
        }
        if !letters.is_empty() {
            let dead = letters.iter().map(|(_, entry, dead)| (entry.clone(), dead.clone()));
            match self.target.set_aside(dead.collect()).await {
                Ok(sequences) => {
                    for ((number, ..), sequence) in letters.into_iter().zip(sequences) {
                        number.inspect(|number| self.shared.answer(*number, Ok(Stored::DeadLetter(sequence))));
                    }
                }
                Err(problem) => {
                    first_problem.get_or_insert(problem);
                    self.batch.letters = letters;
                }
            }
        }
        first_problem.map_or(Ok(()), Err)
    }

    async fn read(&mut self) -> Result<Vec<Item>, String> {
        let log = self.shared.log.clone();
        let mut cursor = self.cursor.clone();
        let read = move || {
            let items = log.read(&mut cursor, BATCH_MESSAGES_MAX, BATCH_BYTES_MAX);
            items.map(|items| (items, cursor)).map_err(|error| format!("the journal cannot be read: {error}"))
        };
        // A simulation has no runtime, and no other task that a read could block.
        let (items, cursor) = if Handle::try_current().is_err() {
            read()?
        } else {
            tokio::task::spawn_blocking(read).await.map_err(|_panic| "reading the journal panicked".to_owned())??
        };
        self.cursor = cursor;
        Ok(items)
    }
}

/// The dead letter for bytes of a file that are no record.
fn damaged(file: &str, offset: u64, bytes: Bytes) -> (Entry, Dead) {
    tracing::error!(
        journal.file = file,
        journal.offset = offset,
        damaged.bytes = bytes.len(),
        "a part of the journal is damaged; its bytes become a dead letter"
    );
    metrics::counter!(metric::JOURNAL_DAMAGED.name).increment(1);
    let subject = format!("/journal/{file}/{offset}");
    let entry = Entry { at: clock::now(), subject, headers: Vec::new(), payload: bytes, dead: None };
    let detail = "the disk has changed these bytes of the journal after they were written".to_owned();
    (entry, Dead { reason: DeadReason::DamagedJournal, detail })
}

/// Whether a repeat of the message would fail too.
const fn is_final(error: &PublishError) -> bool {
    match error {
        PublishError::TooLarge { .. } | PublishError::Subject { .. } | PublishError::Refused { .. } => true,
        PublishError::Busy | PublishError::Unavailable { .. } | PublishError::NoRoom { .. } | PublishError::Closed => {
            false
        }
    }
}

const fn reason_of(error: &PublishError) -> DeadReason {
    match error {
        PublishError::Subject { .. } => DeadReason::UnknownSubject,
        _ => DeadReason::TooLarge,
    }
}

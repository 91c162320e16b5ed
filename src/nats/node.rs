//! The driver of the node (`crate::node`): it performs the node's outputs over NATS and on the store, and hands the answers to the node.
//!
//! ```text
//!   tasks ──── answers ────┐            ┌──▶ writes to the store: a thread, in order
//!   readers ── deliveries ─┼──▶ node ───┼──▶ requests and batches: a task each
//!   timer, shutdown ───────┘            └──▶ readers: a task for each partition
//! ```
//!
//! The driver decides nothing. A stop at any point has the same effect as a crash of the process.

mod calls;
mod commits;
mod driver;
mod input_ends;
mod writer;

use std::sync::Arc;

use async_nats::{Client, jetstream};
use tokio::sync::{Notify, watch};
use tokio::task::block_in_place;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::calls::{LOOKS_MAX, OpenCall, OpenCalls};
pub use self::commits::Commits;
use self::driver::{Arriving, Driver, far_off};
pub use self::input_ends::PublishedJournal;
use super::batch::{BATCH_TIMEOUT, Batches};
use super::dead_letter::DeadLetters;
use super::streams_read::Streams;
use super::subject::Subjects;
use crate::activity::ActivityLog;
use crate::clock::Clock;
use crate::contract::SampleRatio;
use crate::engine::Publishing;
use crate::institution::Components;
use crate::link::{Policy, Timestamp};
use crate::metric;
use crate::node::{self, End, Input, Phase};
use crate::repair::RepairLinks;
use crate::store::Store;

/// The most deliveries between the readers and the node.
const READERS_QUEUE_MAX: usize = 1_024;

/// What the driver does while it handles an input, for the report of a stuck call.
const STORE_ACCESS: &str = "a read";

/// The settings of a node and its driver.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The subjects of this environment.
    pub subjects: Subjects,
    /// The number of partitions of the input stream.
    pub partitions: u16,
    /// A name of this process, for people who read a fence.
    pub owner: String,
    /// The policy of the machine.
    pub policy: Policy,
}

/// A commit that was sent and has no answer yet.
#[derive(Clone, Copy, Debug)]
pub struct OpenCommit {
    /// When it was sent, by the own clock of the driver; this distinguishes it from others.
    sent_at: Timestamp,
    /// Since when it waits.
    pub since: Instant,
}

impl OpenCommit {
    /// A commit that was sent now, at `sent_at` of the driver's own clock.
    pub fn sent_now(sent_at: Timestamp) -> Self {
        Self { sent_at, since: Instant::now() }
    }
}

/// The reason why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another node has taken the partitions.
    #[error(
        "another relink process has taken over these partitions, and only one may run for a set of streams. \
         Stop the other process, or give this one its own subject prefix"
    )]
    Fenced,
    /// The store failed.
    #[error("{0}")]
    Store(String),
    /// A newer version of relink wrote a record, and this version cannot read it.
    #[error("{0}")]
    Record(String),
}

/// The node of this process, with its driver.
pub struct Node<S> {
    client: Client,
    streams: Streams,
    batches: Batches,
    dead_letters: DeadLetters,
    options: NodeOptions,
    publishing: Publishing,
    components: Components,
    store: S,
    phase: watch::Sender<Phase>,
    as_of: watch::Sender<Option<Timestamp>>,
    open_commit: watch::Sender<Option<OpenCommit>>,
    commits: Commits,
    calls: OpenCalls,
    recreated: Arc<Notify>,
    activity: ActivityLog,
    clock: Clock,
    journal: PublishedJournal,
}

impl<S: Store + Clone + 'static> Node<S> {
    /// Creates a node over this connection and store. It starts in [`Node::run`].
    pub fn new(client: Client, options: NodeOptions, store: S) -> Self {
        let context = jetstream::new(client.clone());
        let dead_letters = DeadLetters::new(context.clone(), options.subjects.clone());
        let batches = Batches::new(client.clone(), BATCH_TIMEOUT);
        let (phase, as_of) = (watch::Sender::new(Phase::Starting), watch::Sender::new(None));
        let streams = Streams::new(context, options.subjects.clone());
        let (clock, recreated) = (Clock::wall(), Arc::new(Notify::new()));
        let (open_commit, calls) = (watch::Sender::new(None), OpenCalls::default());
        Self {
            client,
            streams,
            batches,
            dead_letters,
            options,
            publishing: Publishing::default(),
            components: Components::default(),
            store,
            phase,
            as_of,
            open_commit,
            commits: Commits::default(),
            calls,
            recreated,
            activity: ActivityLog::default(),
            clock,
            journal: PublishedJournal::default(),
        }
    }

    /// Uses this clock, and corrects it by the time of the NATS server.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Notices that ask a user for a repair get an address that these links sign.
    #[must_use]
    pub fn with_repair_links(mut self, links: Option<RepairLinks>) -> Self {
        self.publishing.repair_links = links;
        self
    }

    /// With `true`, notices are recorded and not published, and no refresh is requested.
    #[must_use]
    pub const fn with_observe(mut self, observe: bool) -> Self {
        self.publishing.observe = observe;
        self
    }

    /// Records each step as a span: of the traces that begin with it, this share. `None`: no spans.
    #[must_use]
    pub const fn with_spans(mut self, ratio: Option<SampleRatio>) -> Self {
        self.publishing.spans = ratio;
        self
    }

    /// Sets the institutions that the components of Belvo's status page stand for.
    #[must_use]
    pub fn with_components(mut self, components: Components) -> Self {
        self.components = components;
        self
    }

    /// Deadlines wait for what this journal has not published.
    #[must_use]
    pub fn with_journal(mut self, journal: PublishedJournal) -> Self {
        self.journal = journal;
        self
    }

    /// A receiver of the node's progress.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// A receiver of the time up to which the store is known to have followed the output stream ([`node::Node::followed_at`]), by the clock
    /// of the server. `None` until the store has caught up.
    pub fn as_of(&self) -> watch::Receiver<Option<Timestamp>> {
        self.as_of.subscribe()
    }

    /// A receiver of the commit that waits for its answer.
    pub fn open_commit(&self) -> watch::Receiver<Option<OpenCommit>> {
        self.open_commit.subscribe()
    }

    /// The commits that the store does not show yet.
    pub fn commits(&self) -> Commits {
        self.commits.clone()
    }

    /// What the node has done in the last day.
    pub fn activity(&self) -> ActivityLog {
        self.activity.clone()
    }

    /// The blocking calls of the driver, for a supervisor.
    pub fn open_calls(&self) -> OpenCalls {
        self.calls.clone()
    }

    /// Notify it after the input or the output stream was created again, so that the node finds out at once, and not with its next commit.
    pub fn recreated(&self) -> Arc<Notify> {
        Arc::clone(&self.recreated)
    }

    /// Runs until `shutdown`, and retries temporary failures. On a clean return the store is checkpointed.
    ///
    /// If the store is found damaged, it is replaced by an empty one, and a new node rebuilds it from the output stream. For the streams that
    /// is the same as a crash of the process with a loss of the store.
    ///
    /// # Errors
    /// [`NodeError`]: a failure that a retry cannot repair.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), NodeError> {
        loop {
            let end = self.run_until_end(&shutdown).await;
            // Only a failed store is replaced: the partitions of a fenced node belong to another process.
            let damage = if matches!(end, End::Store { .. }) { self.store.damage() } else { None };
            let Some(why) = damage else { return result(end) };
            let replaced = self.blocking("the replacement of a damaged store", || self.store.replace_damaged());
            let kept_at = replaced.map_err(|error| {
                self.phase.send_replace(Phase::Stopped);
                NodeError::Store(error.to_string())
            })?;
            metrics::counter!(metric::STORE_DAMAGES.name).increment(1);
            tracing::error!(
                store.kept_at = %kept_at.display(),
                why,
                "the store is damaged and was moved to quarantine; relink rebuilds it from the stream"
            );
        }
    }

    async fn run_until_end(&self, shutdown: &CancellationToken) -> End {
        let partitions = (0..self.options.partitions).collect();
        let recreated = Arc::clone(&self.recreated);
        let (mut driver, Arriving { mut deliveries, mut read, mut written }) = Driver::new(self);
        let mut arrived = Vec::new();
        let mut stopping = false;
        let mut input = Some(Input::Gained { partitions });
        loop {
            if let Some(input) = input.take() {
                if let Some(end) = self.blocking(STORE_ACCESS, || driver.drive(input)) {
                    return end;
                }
                driver.publish_phase();
            }
            let room = driver.node.room().min(READERS_QUEUE_MAX);
            tokio::select! {
                Some(done) = driver.tasks.join_next() => input = driver.done(done),
                done = written.recv() => {
                    let done = done.unwrap_or_else(|| driver.writer.panicked());
                    input = driver.written(done);
                }
                Some(piece) = read.recv(), if driver.node.is_ready_to_read() => input = Some(piece),
                _ = deliveries.recv_many(&mut arrived, room), if room > 0 => {}
                () = tokio::time::sleep_until(driver.wake_at) => {
                    driver.wake_at = far_off();
                    input = Some(Input::Tick);
                }
                () = recreated.notified(), if !stopping => {
                    input = Some(Input::StartOver { problem: "a stream was created again".to_owned() });
                }
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    input = Some(Input::Shutdown);
                }
            }
            if !arrived.is_empty()
                && let Some(end) = self.blocking(STORE_ACCESS, || driver.arrive(&mut arrived))
            {
                return end;
            }
        }
    }

    /// Makes a call that may block the thread.
    fn blocking<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        let _call = self.calls.open(what, LOOKS_MAX);
        block_in_place(call)
    }

    /// A node that no stream has seen yet.
    fn new_node(&self) -> node::Node<S> {
        let writer = uuid::Uuid::new_v4().to_string();
        let owner = format!("{} {writer}", self.options.owner);
        let (policy, partitions_count) = (self.options.policy.clone(), self.options.partitions);
        let plan_ahead_min = node::PLAN_AHEAD_MIN;
        let options = node::NodeOptions { owner, writer, partitions_count, policy, plan_ahead_min };
        node::Node::new(options, self.store.clone())
            .with_publishing(self.publishing.clone())
            .with_components(self.components.clone())
    }
}

fn result(end: End) -> Result<(), NodeError> {
    match end {
        End::Stopped => Ok(()),
        End::Fenced => Err(NodeError::Fenced),
        End::Store { problem } => Err(NodeError::Store(problem)),
        End::Record { problem } => Err(NodeError::Record(problem)),
    }
}

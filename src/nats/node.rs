//! The node: all lanes of this process, from the input stream through the engine to the commit.
//!
//! ```text
//!   acquire: take every fence ─▶ catch the store up to them ─▶ rewind every lane to its mark
//!      ▲                                                                  │
//!      │ anything failed: nothing half-done is kept                       ▼
//!      └────────────────── run: queue ─▶ plan ─▶ dead letters ─▶ stage ─▶ commit ─▶ store ─▶ acknowledge
//! ```
//!
//! While one commit is under way the next plan is computed over the engine's overlay, and its messages are staged with the server once a
//! full batch has gathered; it is committed only after the one before it is known to be stored. So a refused commit takes
//! nothing with it that was built on top.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self};
use async_nats::{Client, HeaderMap};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, block_in_place};
use tokio_util::sync::CancellationToken;

use super::batch::{BATCH_TIMEOUT, BatchAck, BatchError, Batches, StagedBatch};
use super::commit::{Fences, are_held_by_another};
use super::dead_letter::{DeadLetter, DeadLetterError, DeadLetters, InputPosition};
use super::declaration::StreamError;
use super::lane::{self, LaneError};
use super::replica::{self, ReplicaError};
use super::resume;
use super::stream::{StreamExtent, extent};
use super::subject::Subjects;
use crate::clock;
use crate::contract::{IncidentBody, IncidentNews};
use crate::engine::{Dead, Delivery, Engine, MESSAGES_MAX, Plan};
use crate::link::Policy;
use crate::store::{Position, Store, StoreError};

/// Deliveries waiting between the lanes and the engine: a few commits' worth.
const QUEUE_DELIVERIES_MAX: usize = 2_048;

/// How many deliveries make it worth staging the next batch while one is under way: about what fills it.
const STAGE_DELIVERIES_MIN: usize = MESSAGES_MAX / 3;

/// The longest time between two checkpoints of a store that changed. It bounds only how much is read again after a crash of the host.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The longest sleep before timers are looked at again.
const TIMERS_EVERY: Duration = Duration::from_secs(1);

/// The first pause after a failure; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a node needs.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The subjects of this environment.
    pub subjects: Subjects,
    /// How many lanes the input stream has.
    pub partitions: u16,
    /// This process, for people who look at a fence.
    pub owner: String,
    /// The policy of the machine.
    pub policy: Policy,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking fences and catching up.
    Starting,
    /// Every lane is running.
    Running,
    /// It ended.
    Stopped,
}

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Somebody else took a lane.
    #[error(
        "another relink has taken over these lanes; only one may run against a set of streams. Stop the other, or give this one its own subject prefix"
    )]
    Fenced,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is from a newer relink.
    #[error(transparent)]
    Replica(ReplicaError),
}

/// Something that passes: the node starts again from its fences.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another process has taken these lanes")]
    Replaced,
    #[error("the commit's task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("{0}")]
    Other(String),
}

/// All lanes of this process.
pub struct Node<S> {
    client: Client,
    context: jetstream::Context,
    batches: Batches,
    dead_letters: DeadLetters,
    options: NodeOptions,
    /// Who holds the fences: this node and no other, also of the same process.
    owner: String,
    store: S,
    phase: watch::Sender<Phase>,
}

/// A commit on its way to the server.
struct InFlight {
    plan: Plan,
    answer: JoinHandle<Result<BatchAck, BatchError>>,
}

impl<S: Store + Clone + 'static> Node<S> {
    /// A node over this connection and store. Nothing happens before [`Node::run`].
    pub fn new(client: Client, options: NodeOptions, store: S) -> Self {
        let context = jetstream::new(client.clone());
        let dead_letters = DeadLetters::new(context.clone(), options.subjects.clone());
        let batches = Batches::new(client.clone(), BATCH_TIMEOUT);
        let owner = format!("{} {}", options.owner, uuid::Uuid::new_v4());
        let (phase, _) = watch::channel(Phase::Starting);
        Self { client, context, batches, dead_letters, options, owner, store, phase }
    }

    /// Where the node stands, from now on.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Runs until `shutdown`, through every failure that passes. On return the store is checkpointed.
    ///
    /// # Errors
    /// [`NodeError`]: what does not pass by waiting.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), NodeError> {
        let mut pause = PAUSE_MIN;
        let mut held = false;
        let ended = loop {
            let started = self.acquire(&mut held).await;
            let fault = match started {
                Ok(mut run) => {
                    pause = PAUSE_MIN;
                    self.phase.send_replace(Phase::Running);
                    match run.until(&shutdown).await {
                        Ok(()) => break Ok(()),
                        Err(fault) => fault,
                    }
                }
                Err(fault) => fault,
            };
            self.phase.send_replace(Phase::Starting);
            match fault {
                Fault::Batch(BatchError::Refused { .. }) | Fault::Replaced => break Err(NodeError::Fenced),
                Fault::Store(error) | Fault::Replica(ReplicaError::Store(error)) => break Err(error.into()),
                Fault::Replica(error @ ReplicaError::Record(_)) => break Err(NodeError::Replica(error)),
                passing => {
                    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(error = %passing, pause_ms, "the lanes stopped and will start again behind the last commit");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        };
        self.phase.send_replace(Phase::Stopped);
        block_in_place(|| self.store.checkpoint())?;
        ended
    }

    /// Takes every lane: fences, catch-up, marks, consumers. Lanes that it `held` before it takes again, but never back from another.
    async fn acquire(&self, held: &mut bool) -> Result<Run<'_, S>, Fault> {
        let NodeOptions { subjects, partitions, policy, .. } = &self.options;
        let output = extent(&self.context, &subjects.output_stream()).await?;
        let stream = self.stream(&subjects.output_stream()).await?;
        let lost =
            *held && are_held_by_another(&stream, subjects, *partitions, &self.owner).await.map_err(Fault::Other)?;
        if lost {
            return Err(Fault::Replaced);
        }
        let output_created_ns = created_ns(&output)?;
        self.restart_store_if_ahead(&output, output_created_ns)?;
        let fences = Fences::take(&self.batches, subjects, *partitions, &self.owner, clock::now()).await?;
        *held = true;
        let target = fences.last_sequence();
        let began = clock::instant();
        let caught_up = replica::catch_up(&stream, output_created_ns, target, subjects, policy, &self.store).await?;
        block_in_place(|| self.store.checkpoint())?;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            states_count = caught_up.states_count,
            rebuilt = caught_up.rebuilt,
            took_ms,
            "caught up with the stream of states"
        );

        let input = self.stream(&subjects.input_stream()).await?;
        let input_extent = extent(&self.context, &subjects.input_stream()).await?;
        let input_created_ns = created_ns(&input_extent)?;
        let mut handled = BTreeMap::new();
        let marks = self.store.marks()?;
        for lane in 0..*partitions {
            let behind = resume::after_mark(&input, &input_extent, lane, marks.get(&lane)).await;
            let behind = behind.map_err(Fault::Other)?;
            lane::rewind(&input, lane, behind).await?;
            handled.insert(lane, behind);
        }
        let engine = block_in_place(|| Engine::new(self.store.clone(), policy.clone(), input_created_ns, &handled))?;
        metrics::gauge!("relink_incidents").set(engine.incidents_count() as f64);
        let (queue, deliveries) = mpsc::channel(QUEUE_DELIVERIES_MAX);
        let mut lanes = JoinSet::new();
        for (&lane, &handled) in &handled {
            lanes.spawn(lane::read(input.clone(), lane, handled, subjects.clone(), queue.clone()));
        }
        Ok(Run {
            node: self,
            engine,
            fences,
            input: input_extent,
            output_created_ns,
            deliveries,
            queue: VecDeque::new(),
            in_flight: None,
            staged: None,
            _lanes: lanes,
        })
    }

    async fn stream(&self, name: &str) -> Result<Stream, Fault> {
        self.context.get_stream(name).await.map_err(|error| Fault::Other(format!("stream {name}: {error}")))
    }

    /// A store that knows more than the stream, or belongs to another: the server lost its tail, or somebody made the stream anew.
    fn restart_store_if_ahead(&self, output: &StreamExtent, output_created_ns: i64) -> Result<(), StoreError> {
        let Some(position) = self.store.position()? else { return Ok(()) };
        let other = position.stream_created_ns != output_created_ns;
        if !other && position.sequence <= output.last_sequence {
            return Ok(());
        }
        let kept = block_in_place(|| self.store.restart_empty())?;
        let kept = kept.map_or_else(|| "nowhere".to_owned(), |path| path.display().to_string());
        tracing::error!(
            store.sequence = position.sequence,
            stream.last_sequence = output.last_sequence,
            stream.is_another = other,
            store.kept_at = kept,
            "the store knew more than the stream of states, which lost its tail or was created anew; the store is rebuilt from the stream"
        );
        Ok(())
    }
}

/// The lanes, running.
struct Run<'a, S> {
    node: &'a Node<S>,
    engine: Engine<S>,
    fences: Fences,
    input: StreamExtent,
    output_created_ns: i64,
    deliveries: mpsc::Receiver<Result<Delivery, LaneError>>,
    queue: VecDeque<Delivery>,
    in_flight: Option<InFlight>,
    staged: Option<(Plan, StagedBatch)>,
    /// The readers; they end when this is dropped.
    _lanes: JoinSet<()>,
}

/// What can wake a run.
enum Wake {
    Deliveries(usize),
    Committed(Result<Result<BatchAck, BatchError>, tokio::task::JoinError>),
    Timers,
    Checkpoint,
    Shutdown,
}

impl<S: Store + Clone + 'static> Run<'_, S> {
    async fn until(&mut self, shutdown: &CancellationToken) -> Result<(), Fault> {
        let mut checkpoint = tokio::time::interval(CHECKPOINT_EVERY);
        checkpoint.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut checkpointing: Option<JoinHandle<Result<(), StoreError>>> = None;
        let mut arrived = Vec::new();
        let mut timers_at = tokio::time::Instant::now();
        let mut stopping = false;
        loop {
            let room = QUEUE_DELIVERIES_MAX.saturating_sub(self.queue.len());
            let wake = tokio::select! {
                answer = answer(&mut self.in_flight), if self.in_flight.is_some() => Wake::Committed(answer),
                count = self.deliveries.recv_many(&mut arrived, room), if room > 0 && !stopping => Wake::Deliveries(count),
                () = tokio::time::sleep_until(timers_at), if self.in_flight.is_none() && !stopping => Wake::Timers,
                _ = checkpoint.tick() => Wake::Checkpoint,
                () = shutdown.cancelled(), if !stopping => Wake::Shutdown,
            };
            match wake {
                Wake::Deliveries(0) => return Err(Fault::Other("every lane ended".to_owned())),
                Wake::Deliveries(_) => {
                    for delivery in arrived.drain(..) {
                        self.queue.push_back(delivery?);
                    }
                }
                Wake::Committed(answer) => {
                    let Some(InFlight { plan, .. }) = self.in_flight.take() else { continue };
                    let ack = answer??;
                    // The next commit goes out before this one's bookkeeping, which is no longer in anybody's way.
                    self.commit_staged();
                    self.finish(&plan, Some(&ack)).await?;
                }
                Wake::Timers => {}
                Wake::Checkpoint => {
                    if let Some(done) = checkpointing.take_if(|running| running.is_finished()) {
                        done.await??;
                    }
                    if checkpointing.is_none() {
                        let store = self.node.store.clone();
                        checkpointing = Some(tokio::task::spawn_blocking(move || store.checkpoint()));
                    }
                    continue;
                }
                Wake::Shutdown => stopping = true,
            }
            if stopping {
                // What is on its way is finished; what has only been pulled comes again at the next start.
                self.commit_staged();
                if self.in_flight.is_none() {
                    if let Some(running) = checkpointing.take() {
                        running.await??;
                    }
                    return Ok(());
                }
                continue;
            }
            self.advance().await?;
            timers_at = tokio::time::Instant::now() + self.until_next_timer()?;
        }
    }

    /// Plans and stages what is there, if it is time to.
    async fn advance(&mut self) -> Result<(), Fault> {
        let worth_it = self.in_flight.is_none() || self.queue.len() >= STAGE_DELIVERIES_MIN;
        if self.staged.is_some() || !worth_it {
            return Ok(());
        }
        let now = clock::now();
        let mut plan = block_in_place(|| self.engine.plan(&mut self.queue, now))?;
        for ((kind, outcome), count) in plan.tally.counts() {
            metrics::counter!("relink_inputs_total", "kind" => kind, "outcome" => outcome).increment(count);
        }
        for dead in plan.dead.drain(..) {
            self.node.dead_letters.publish(&self.letter(dead)).await?;
        }
        if plan.messages.is_empty() {
            // Nothing for the stream: redeliveries to acknowledge again, timers to move, or nothing at all.
            return if plan.is_idle() { Ok(()) } else { self.finish(&plan, None).await };
        }
        let staged = self.fences.stage(&self.node.batches, &self.node.options.subjects, &mut plan).await?;
        self.staged = Some((plan, staged));
        if self.in_flight.is_none() {
            self.commit_staged();
        }
        Ok(())
    }

    fn commit_staged(&mut self) {
        if let Some((plan, staged)) = self.staged.take() {
            metrics::histogram!("relink_commit_messages").record(staged.count() as f64);
            let answer = tokio::spawn(staged.commit());
            self.in_flight = Some(InFlight { plan, answer });
        }
    }

    /// The plan is on the stream: now the store, then the acknowledgements.
    async fn finish(&mut self, plan: &Plan, ack: Option<&BatchAck>) -> Result<(), Fault> {
        let stream_created_ns = self.output_created_ns;
        let position = ack.map(|ack| Position { stream_created_ns, sequence: ack.last_sequence });
        block_in_place(|| self.node.store.apply(&plan.changes(position)))?;
        self.engine.settle(plan);
        tell_incidents(plan, self.engine.incidents_count());
        for receipt in plan.receipts.values() {
            // The mark is the truth; an acknowledgement that is lost costs a redelivery, which the mark refuses.
            let acknowledged = self.node.client.publish(receipt.receipt.clone(), "+ACK".into()).await;
            acknowledged.map_err(|error| Fault::Other(error.to_string()))?;
        }
        Ok(())
    }

    fn letter(&self, dead: Dead) -> DeadLetter {
        let Dead { delivery, reason, detail } = dead;
        let mut headers = HeaderMap::new();
        for (name, value) in &delivery.headers {
            headers.append(name.as_str(), value.as_str());
        }
        let input = InputPosition { stream: self.input.identity.clone(), sequence: delivery.sequence };
        DeadLetter { subject: delivery.subject, headers, payload: delivery.payload, reason, detail, input: Some(input) }
    }

    fn until_next_timer(&self) -> Result<Duration, StoreError> {
        let next = self.node.store.next_deadline()?.into_iter().chain(self.engine.next_deadline()).min();
        let wait = next.map_or(TIMERS_EVERY, |at| at.since(clock::now()));
        // A deadline that is already past belongs to a commit that is under way; its end wakes us.
        Ok(wait.clamp(Duration::from_millis(1), TIMERS_EVERY))
    }
}

/// Says of incidents what operations should see without subscribing.
fn tell_incidents(plan: &Plan, count: usize) {
    metrics::gauge!("relink_incidents").set(count as f64);
    metrics::counter!("relink_prompts_held_total").increment(plan.prompts_held_count);
    for incident in &plan.incidents {
        let IncidentBody { institution, links_count, held_count, .. } = incident;
        match incident.news {
            IncidentNews::Began => tracing::warn!(
                institution,
                links_count,
                "many links of one institution failed together: its links' prompts wait until that is over"
            ),
            IncidentNews::Ended => tracing::info!(
                institution,
                links_count,
                held_count,
                "the institution's links fail no more than usual; Belvo is asked about those whose prompts waited"
            ),
        }
    }
}

async fn answer(in_flight: &mut Option<InFlight>) -> Result<Result<BatchAck, BatchError>, tokio::task::JoinError> {
    match in_flight {
        Some(in_flight) => (&mut in_flight.answer).await,
        None => std::future::pending().await,
    }
}

fn created_ns(extent: &StreamExtent) -> Result<i64, Fault> {
    i64::try_from(extent.identity.created_ns).map_err(|_| Fault::Other("a stream from outside this age".to_owned()))
}

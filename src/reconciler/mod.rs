//! THE RECONCILER: what the webhooks missed.
//!
//! ```text
//!   survey   every link there is, once after the start: what relink never heard of       ─┐
//!   broken   Belvo's lists of broken links, each hour: what should have been told        ─┼─▶ belvo.observation.<link>
//!   held     those relink holds to be broken, each hour: what was repaired unseen        ─┤    (and mute, for what is
//!   rotate   fifty of all links at a time, the whole fleet once a day                    ─┤    adopted: adoption.rs)
//!   consents all consents, once a day: due dates, and what ended without a word          ─┘
//! ```
//!
//! It decides nothing about a link. It asks the machine, which is pure, whether a read would move the link, and
//! publishes only what would: agreement is silent, and the input stream gets no message that would be refused. What it
//! publishes is an observation like anybody else's, and counts for one transition learnt only by sweeping: the drift
//! meter.
//!
//! - [`Reconciler`]: the steps, each to be awaited by itself; `pace` only times them
//! - `by_id`: links that are asked for by their ids
//! - `compare`: what a read of a link would change; `vanished`: links that Belvo does not know
//! - `adoption`: links that were broken before relink came
//!
//! | metric | labels | what it counts |
//! |---|---|---|
//! | `relink_drift_total` | `institution`, `from`, `to` | transitions learnt only by sweeping |
//! | `relink_adopted_total` | `institution`, `state` | links first heard of by sweeping |
//! | `relink_sweep_seconds` | `step` | how long the last one took |
//! | `relink_sweep_ended_at_seconds` | `step` | when it ended well, since the Unix epoch |
//! | `relink_sweep_failures_total` | `step` | how often one broke off |
//! | `relink_missing_held` | | links that Belvo does not know, in the pass that was taken for an incident; 0: none |
//! | `relink_adopted_waiting` | | adopted links still muted |

mod adoption;
mod by_id;
mod compare;
mod consents;
mod pace;
mod vanished;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::belvo::{CallError, Client, IDS_MAX, LinkFilter, MissingGuard};
use crate::clock::{self, Clock};
use crate::contract::{InputKind, Outcome};
use crate::link::{LinkId, Policy, StateName};
use crate::nats::history::{HistoryError, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::store::{Page, Query, Store, StoreError};

use self::adoption::Adopted;
use self::compare::{Known, Move, Read};

/// How many messages may wait for their acknowledgement at once.
const PUBLISHES_MAX: usize = 64;

/// How many links are read from the store at once.
const STORE_PAGE: usize = 1000;

/// How often, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one sweep of the broken links to the next, about.
    pub sweep_every: Duration,
    /// How long the rotation takes to look at every link.
    pub rotation: Duration,
    /// How many adopted links are released in an hour. 0: a person does it.
    pub adoption_per_hour: u32,
}

/// What the reconciler works with.
#[derive(Clone)]
pub struct Parts {
    /// Belvo.
    pub belvo: Client,
    /// When a 404 is believed; shared with whoever else gets them.
    pub guard: MissingGuard,
    /// What is known of each link.
    pub store: Arc<dyn Store>,
    /// The way into the input stream.
    pub inputs: Arc<dyn Inputs>,
    /// What has been decided about each link.
    pub histories: Arc<dyn ReadHistory>,
    /// The policy of the machine that is asked.
    pub policy: Policy,
    /// What reads are dated by.
    pub clock: Clock,
}

/// Finds what the webhooks missed. Clones are the same reconciler: one step runs at a time.
#[derive(Clone)]
pub struct Reconciler {
    settings: Settings,
    parts: Parts,
    progress: Arc<Mutex<Progress>>,
    drift: watch::Sender<BTreeMap<String, u64>>,
}

/// What is remembered from one step to the next. Nothing is lost with it but time.
#[derive(Default)]
struct Progress {
    /// The rotation goes on behind this link.
    rotated_to: Option<LinkId>,
    adopted: Adopted,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many links were read from Belvo.
    pub read_count: usize,
    /// How many observations were published about links that had moved.
    pub drifted_count: usize,
    /// How many links relink had never heard of.
    pub adopted_count: usize,
    /// How many links were missing, and it was not believed.
    pub held_count: usize,
    /// Of a rotation: whether every link has been looked at.
    pub round_ended: bool,
}

/// A step broke off. What it published before stands; the next one does the rest.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Belvo did not answer as it should.
    #[error(transparent)]
    Belvo(#[from] CallError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was found could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What was decided about a link could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A bug.
    #[error("reading the store panicked")]
    Panicked,
}

impl Reconciler {
    /// A reconciler. Nothing happens before one of its steps is awaited.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        // A restart every day must not leave the links at the end of the order out for ever.
        let anywhere = Uuid::new_v4().to_string().parse().ok();
        Self::rotating_from(anywhere, settings, parts)
    }

    /// A reconciler whose rotation goes on behind `link`, or begins at the beginning.
    pub fn rotating_from(link: Option<LinkId>, settings: Settings, parts: Parts) -> Self {
        let progress = Progress { rotated_to: link, adopted: Adopted::default() };
        Self { settings, parts, progress: Arc::new(Mutex::new(progress)), drift: watch::Sender::default() }
    }

    /// The drift meter: how many transitions the sweeps alone have found since the start, by institution.
    pub fn drift(&self) -> watch::Receiver<BTreeMap<String, u64>> {
        self.drift.subscribe()
    }

    /// Lists every link of Belvo's, to hear of those that relink has never heard of.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn survey(&self) -> Result<Swept, SweepError> {
        let mut progress = self.progress.lock().await;
        self.timed("survey", self.list(&LinkFilter::All, &mut progress)).await
    }

    /// Lists the links that Belvo calls broken.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep_broken(&self) -> Result<Swept, SweepError> {
        let mut progress = self.progress.lock().await;
        self.timed("broken", self.list(&LinkFilter::Broken, &mut progress)).await
    }

    /// Asks for the links that relink holds to be broken.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep_held(&self) -> Result<Swept, SweepError> {
        let _progress = self.progress.lock().await;
        let step = async {
            let mut ids = Vec::new();
            for state in [StateName::Invalid, StateName::TokenRequired, StateName::Updating] {
                let mut query = Query { state: Some(state), limit: STORE_PAGE, ..Query::default() };
                loop {
                    let page = self.stored_page(query.clone()).await?;
                    ids.extend(page.links.iter().filter_map(|link| link.parse().ok()?.link_id.parse().ok()));
                    query.after = page.next;
                    if query.after.is_none() {
                        break;
                    }
                }
            }
            self.examine(ids).await
        };
        self.timed("held", step).await
    }

    /// Asks for the next fifty of all links.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn rotate(&self) -> Result<Swept, SweepError> {
        let mut progress = self.progress.lock().await;
        let step = async {
            let query = Query { after: progress.rotated_to.clone(), limit: IDS_MAX, ..Query::default() };
            let page = self.stored_page(query).await?;
            let living = page.links.iter().filter(|link| link.head.state != StateName::Removed);
            let ids = living.filter_map(|link| link.parse().ok()?.link_id.parse().ok()).collect();
            let mut swept = self.examine(ids).await?;
            swept.round_ended = page.next.is_none();
            progress.rotated_to = page.next;
            Ok(swept)
        };
        self.timed("rotate", step).await
    }

    /// What a list of Belvo's says of links that relink does not know, or holds for something else.
    async fn list(&self, filter: &LinkFilter, progress: &mut Progress) -> Result<Swept, SweepError> {
        let (mut swept, mut suspects) = (Swept::default(), Vec::new());
        let mut pages = self.parts.belvo.links(filter);
        while let Some(page) = pages.next().await? {
            let read_at = self.parts.clock.now().before(page.took);
            swept.read_count += page.items.len();
            let links: Vec<_> = page.items.into_iter().filter_map(with_id).collect();
            let known = self.known(links.iter().map(|(id, _)| id.clone()).collect()).await?;
            let mut unheard_of = Vec::new();
            for ((id, resource), known) in links.into_iter().zip(known) {
                let is_known = known.is_known();
                let read = Read { outcome: Outcome::Found { link: resource }, read_at };
                match self.compare(&known, read) {
                    Some(_) if is_known => suspects.push(id),
                    Some(found) => unheard_of.push(found),
                    None => {}
                }
            }
            swept.adopted_count += unheard_of.len();
            self.adopt(unheard_of, &mut progress.adopted).await?;
        }
        // A list takes long, and its webhook may have come meanwhile: those that disagree are asked for once more, by
        // id.
        let examined = self.examine(suspects).await?;
        Ok(Swept { read_count: swept.read_count + examined.read_count, adopted_count: swept.adopted_count, ..examined })
    }

    /// Publishes what moved and has not moved meanwhile; gives how many.
    async fn report(&self, moves: Vec<Move>) -> Result<usize, SweepError> {
        let known_now = self.known(moves.iter().map(|found| found.link.clone()).collect()).await?;
        let unmoved = moves.into_iter().zip(known_now);
        let unmoved = unmoved.filter(|(found, now)| found.version == now.version()).map(|(found, _)| found);
        let published = stream::iter(unmoved)
            .map(|found| async move {
                self.publish(InputKind::Observation, &found.link, found.body, None).await?;
                let (from, to) = (found.from.as_str(), found.to.as_str());
                if from == to {
                    // Only introduced: nothing was missed.
                    return Ok::<_, SweepError>(0);
                }
                tracing::info!(link.id = %found.link, from, to, "a sweep found what no webhook told");
                self.drift.send_modify(|drift| *drift.entry(found.institution.clone()).or_default() += 1);
                metrics::counter!("relink_drift_total", "institution" => found.institution, "from" => from, "to" => to)
                    .increment(1);
                Ok(1)
            })
            .buffer_unordered(PUBLISHES_MAX);
        published.try_fold(0, async |count, drifted| Ok(count + drifted)).await
    }

    /// Publishes one input. The id marks it for whoever has to recognise it in the link's history.
    async fn publish(
        &self,
        kind: InputKind,
        link: &LinkId,
        body: Vec<u8>,
        id: Option<String>,
    ) -> Result<(), PublishError> {
        let (link, at) = (link.clone(), self.parts.clock.now());
        self.parts.inputs.put(NewInput { kind, link, source: "/relink/reconciler", at, id, body }).await
    }

    fn compare(&self, known: &Known, read: Read) -> Option<Move> {
        compare::moves(known, read, &self.parts.policy, self.settings.rotation)
    }

    /// What relink knows of these links, in their order.
    async fn known(&self, ids: Vec<LinkId>) -> Result<Vec<Known>, SweepError> {
        let now = self.parts.clock.now();
        self.ask_store(move |store| ids.into_iter().map(|id| Known::read(store, id, now)).collect()).await
    }

    async fn stored_page(&self, query: Query) -> Result<Page, SweepError> {
        self.ask_store(move |store| store.page(&query)).await
    }

    /// Asks the store, off the runtime's threads: it may have to read from the disk.
    async fn ask_store<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SweepError> {
        let store = Arc::clone(&self.parts.store);
        let asked = tokio::task::spawn_blocking(move || ask(store.as_ref())).await;
        Ok(asked.map_err(|_panic| SweepError::Panicked)??)
    }

    async fn timed<T>(
        &self,
        name: &'static str,
        step: impl Future<Output = Result<T, SweepError>>,
    ) -> Result<T, SweepError> {
        let started = clock::instant();
        let result = step.await;
        if result.is_ok() {
            metrics::gauge!("relink_sweep_seconds", "step" => name).set(started.elapsed().as_secs_f64());
            let ended_at = Duration::from_millis(u64::try_from(self.parts.clock.now().as_millis()).unwrap_or_default());
            metrics::gauge!("relink_sweep_ended_at_seconds", "step" => name).set(ended_at.as_secs_f64());
        } else {
            metrics::counter!("relink_sweep_failures_total", "step" => name).increment(1);
        }
        result
    }
}

/// A link resource that names its link.
fn with_id(resource: Map<String, Value>) -> Option<(LinkId, Map<String, Value>)> {
    let id = resource.get("id")?.as_str()?.parse().ok()?;
    Some((id, resource))
}

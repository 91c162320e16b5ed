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
//! One element that cannot be read stops no step: it is skipped, counted, and asked for again later (`put_off`).
//!
//! - [`Reconciler`]: the steps, each to be awaited by itself; `pace` only times them, by a [`Schedule`]
//! - `by_id`: links that are asked for by their ids
//! - `compare`: what a read of a link would change; `vanished`: links that Belvo does not know
//! - `adoption`: links that were broken before relink came
//! - `put_off`: what could not be looked at
//!
//! Its metrics are in [`crate::metric`], from `relink_drift_total` on.

mod adoption;
mod by_id;
mod compare;
mod consents;
mod pace;
mod put_off;
mod vanished;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::belvo::{CallError, Client, IDS_MAX, LinkFilter, ListPage, ListPages, MissingGuard, Unrelated};
use crate::clock::{self, Clock};
use crate::contract::{InputKind, ReadOutcome};
use crate::link::{LinkId, Policy, StateName};
use crate::metric;
use crate::nats::history::{HistoryError, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::store::{Page, Query, Store, StoreError};

use self::adoption::Adopted;
use self::by_id::is_about_keys;
use self::compare::{Known, Move, Read};
pub use self::pace::{Schedule, Step};
use self::put_off::{Element, PutOff, skipped};

/// How many messages may wait for their acknowledgement at once.
const PUBLISHES_MAX: usize = 64;

/// How many links are read from the store at once.
const STORE_PAGE: usize = 1000;

/// So often is one place of the rotation tried while Belvo shows nothing of it at all; then the rotation goes on.
const STALLS_MAX: u32 = 3;

/// So many pages of a list in a row may fail before it is Belvo that fails, and not a page.
const PAGE_FAILURES_MAX: u32 = 2;

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
    put_off: Arc<StdMutex<PutOff>>,
    drift: watch::Sender<BTreeMap<String, u64>>,
}

/// What is remembered from one step to the next. Nothing is lost with it but time.
#[derive(Default)]
struct Progress {
    /// The rotation goes on behind this link.
    rotated_to: Option<LinkId>,
    /// How often it has tried there in vain.
    stalls_count: u32,
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
    /// How many links, consents, or pages of them could not be looked at and were skipped.
    pub skipped_count: usize,
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
    #[error("it panicked, which is a bug")]
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
        let progress = Progress { rotated_to: link, stalls_count: 0, adopted: Adopted::default() };
        let (progress, put_off) = (Arc::new(Mutex::new(progress)), Arc::default());
        Self { settings, parts, progress, put_off, drift: watch::Sender::default() }
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
                let query = Query { state: Some(state), limit: STORE_PAGE, ..Query::default() };
                self.each_stored_page(query, |page| ids.extend(page.ids)).await?;
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
            let living =
                page.ids.into_iter().zip(&page.links).filter(|(_, link)| link.head.state != StateName::Removed);
            let ids: Vec<LinkId> = living.map(|(id, _)| id).collect();
            let examined = self.examine(ids.clone()).await;
            if let Err(error) = &examined {
                progress.stalls_count += 1;
                if progress.stalls_count < STALLS_MAX {
                    return examined;
                }
                // These links are tried again by themselves; the others are not kept waiting for them.
                ids.into_iter().for_each(|id| self.skip("belvo", Element::link(id), error));
            }
            progress.stalls_count = 0;
            progress.rotated_to = page.next.clone();
            Ok(Swept { round_ended: page.next.is_none(), ..examined? })
        };
        self.timed("rotate", step).await
    }

    /// What a list of Belvo's says of links that relink does not know, or holds for something else.
    async fn list(&self, filter: &LinkFilter, progress: &mut Progress) -> Result<Swept, SweepError> {
        let (mut swept, mut suspects) = (Swept::default(), Vec::new());
        let mut pages = self.parts.belvo.links(filter);
        let broke_off = loop {
            let page = match self.next_page(&mut pages, &mut swept).await {
                Ok(Some(page)) => page,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
            let read_at = self.parts.clock.now().before(page.took);
            swept.read_count += page.items.len();
            let links = self.with_ids(page, with_id);
            let known = self.known(links.iter().map(|(id, _)| id.clone()).collect()).await?;
            let mut unheard_of = Vec::new();
            for ((id, resource), known) in links.into_iter().zip(known) {
                let Some(known) = known else { continue };
                let is_known = known.is_known();
                let read = Read { outcome: ReadOutcome::Found { link: resource }, read_at };
                match self.compare(&known, read) {
                    Some(_) if is_known => suspects.push(id),
                    Some(found) => unheard_of.push(found),
                    None => {}
                }
            }
            let found_count = unheard_of.len();
            let skipped_count = self.adopt(unheard_of, &mut progress.adopted).await?;
            swept.adopted_count += found_count - skipped_count;
            swept.skipped_count += skipped_count;
        };
        // A list takes long, and its webhook may have come meanwhile: those that disagree are asked for once more, by
        // id. So are those of a list that broke off.
        let examined = self.examine(suspects).await;
        if let Some(error) = broke_off {
            return Err(error.into());
        }
        let examined = examined?;
        Ok(Swept {
            read_count: swept.read_count + examined.read_count,
            adopted_count: swept.adopted_count,
            skipped_count: swept.skipped_count + examined.skipped_count,
            ..examined
        })
    }

    /// The next page of a list that can be read. One that cannot is passed over, unless that is Belvo's and not its own
    /// fault.
    async fn next_page(&self, pages: &mut ListPages<'_>, swept: &mut Swept) -> Result<Option<ListPage>, CallError> {
        let mut failures = 0;
        loop {
            match pages.next().await {
                Ok(page) => return Ok(page),
                Err(error) => {
                    failures += 1;
                    let is_forbidden = matches!(error, CallError::Permanent { class: Some(Unrelated::Permission), .. });
                    let is_final = is_about_keys(&error) || is_forbidden;
                    if failures > PAGE_FAILURES_MAX || is_final || !pages.pass_over() {
                        return Err(error);
                    }
                    tracing::warn!(%error, "a page of a list cannot be read and is passed over");
                    skipped("belvo", 1);
                    swept.skipped_count += 1;
                }
            }
        }
    }

    /// The elements of a page that name their link; the others are counted.
    fn with_ids(
        &self,
        page: ListPage,
        link_of: impl Fn(Map<String, Value>) -> Option<(LinkId, Map<String, Value>)>,
    ) -> Vec<(LinkId, Map<String, Value>)> {
        let count = page.odd_count + page.items.len();
        let named: Vec<_> = page.items.into_iter().filter_map(link_of).collect();
        let odd_count = count - named.len();
        if odd_count > 0 {
            tracing::warn!(elements.count = odd_count, "elements of a list of Belvo's name no link and are skipped");
            skipped("shape", odd_count);
        }
        named
    }

    /// Publishes what moved and has not moved meanwhile; gives how many.
    async fn report(&self, moves: Vec<Move>, skipped_count: &mut usize) -> Result<usize, SweepError> {
        let known_now = self.known(moves.iter().map(|found| found.link.clone()).collect()).await?;
        let unmoved = moves.into_iter().zip(known_now);
        let unmoved = unmoved.filter(|(found, now)| now.as_ref().is_some_and(|now| found.version == now.version()));
        let mut published = stream::iter(unmoved.map(|(found, _)| found))
            .map(|found| async move {
                let (link, body) = (&found.link, found.body);
                let result = self.publish(InputKind::Observation, link, body, None).await;
                if !self.is_published(link, result)? {
                    return Ok(None);
                }
                let (from, to) = (found.from.as_str(), found.to.as_str());
                if from == to {
                    // Only introduced: nothing was missed.
                    return Ok::<_, SweepError>(Some(0));
                }
                tracing::info!(link.id = %found.link, from, to, "a sweep found what no webhook told");
                self.drift.send_modify(|drift| *drift.entry(found.institution.clone()).or_default() += 1);
                metrics::counter!(metric::DRIFT.name, "institution" => found.institution, "from" => from, "to" => to)
                    .increment(1);
                Ok(Some(1))
            })
            .buffer_unordered(PUBLISHES_MAX);
        let mut drifted_count = 0;
        while let Some(published) = published.next().await {
            match published? {
                Some(drifted) => drifted_count += drifted,
                None => *skipped_count += 1,
            }
        }
        Ok(drifted_count)
    }

    /// Whether a message was published. One that NATS will never take is skipped; anything else may pass, and stops the
    /// step.
    fn is_published(&self, link: &LinkId, result: Result<(), PublishError>) -> Result<bool, PublishError> {
        match result {
            Ok(()) => Ok(true),
            Err(
                error @ (PublishError::TooLarge { .. } | PublishError::Subject { .. } | PublishError::Refused { .. }),
            ) => {
                self.skip("message", Element::link(link.clone()), &error);
                Ok(false)
            }
            Err(error @ (PublishError::Busy | PublishError::Unavailable { .. } | PublishError::Closed)) => Err(error),
        }
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

    /// What `read` would do to the link. A bug that panics on one link must not hide those behind it.
    fn compare(&self, known: &Known, read: Read) -> Option<Move> {
        let compare = AssertUnwindSafe(|| compare::moves(known, read, &self.parts.policy, self.settings.rotation));
        catch_unwind(compare).unwrap_or_else(|_panic| {
            self.skip("bug", Element::link(known.id().clone()), &"comparing it panicked");
            None
        })
    }

    /// What relink knows of these links, in their order; `None` where the record cannot be read.
    async fn known(&self, ids: Vec<LinkId>) -> Result<Vec<Option<Known>>, SweepError> {
        let now = self.parts.clock.now();
        let read = self.ask_store(move |store| {
            let read = |id: LinkId| match Known::read(store, id.clone(), now) {
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Record(_))) => Ok((id, Err(error))),
                Err(error @ (StoreError::Disk(_) | StoreError::InUse { .. } | StoreError::FutureFormat { .. })) => {
                    Err(error)
                }
                Ok(known) => Ok((id, Ok(known))),
            };
            ids.into_iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        let readable = |(id, known): (LinkId, Result<Known, StoreError>)| {
            known.inspect_err(|error| self.skip_record(id.as_str(), error)).ok()
        };
        Ok(read.await?.into_iter().map(readable).collect())
    }

    /// All pages of a query. Other tasks have their turn between two of them.
    async fn each_stored_page(&self, mut query: Query, mut take: impl FnMut(Page)) -> Result<(), SweepError> {
        loop {
            let mut page = self.stored_page(query.clone()).await?;
            let next = page.next.take();
            take(page);
            match next {
                Some(_) => query.after = next,
                None => return Ok(()),
            }
        }
    }

    async fn stored_page(&self, query: Query) -> Result<Page, SweepError> {
        let page = self.ask_store(move |store| store.page(&query)).await?;
        page.unreadable.iter().for_each(|unreadable| self.skip_record(&unreadable.key, &unreadable.problem));
        Ok(page)
    }

    /// Asks the store, off the runtime's threads: it may have to read from the disk.
    async fn ask_store<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SweepError> {
        let store = Arc::clone(&self.parts.store);
        // Without a runtime, as in a simulation, there is nobody to hold up.
        if Handle::try_current().is_err() {
            return Ok(ask(store.as_ref())?);
        }
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
            metrics::gauge!(metric::SWEEP_SECONDS.name, "step" => name).set(started.elapsed().as_secs_f64());
            let ended_at = Duration::from_millis(u64::try_from(self.parts.clock.now().as_millis()).unwrap_or_default());
            metrics::gauge!(metric::SWEEP_ENDED_AT_SECONDS.name, "step" => name).set(ended_at.as_secs_f64());
        } else {
            metrics::counter!(metric::SWEEP_FAILURES.name, "step" => name).increment(1);
        }
        result
    }
}

/// A link resource that names its link.
fn with_id(resource: Map<String, Value>) -> Option<(LinkId, Map<String, Value>)> {
    let id = resource.get("id")?.as_str()?.parse().ok()?;
    Some((id, resource))
}

//! The reconciler: finds the changes that no webhook reported, by reading Belvo's API (a sweep).
//!
//! ```text
//!   survey        all links, once a day: finds links that relink does not know            ─┐
//!   broken        Belvo's lists of broken links, hourly: finds lost outages               ─┼─▶ belvo.observation.<link>
//!   known_broken  links that relink knows as broken, hourly: finds lost repairs           ─┤   (and a mute for broken
//!   same_users    links of users who get a message soon, hourly: finds newer links        ─┤
//!   rotate        fifty of all links at a time, all links once a day                      ─┤   links that are adopted)
//!   consents      all consents, once a day: finds due dates and ended consents            ─┘
//! ```
//!
//! The reconciler does not decide about a link. It tries each read on the machine, which is pure, and publishes an
//! observation only if the read would change the link. A read that agrees with relink costs no message. A published
//! observation is an input like any other. A transition that results from it counts as drift.
//!
//! An element that cannot be read does not stop a step: it is skipped, counted, and read again later (`deferred`).
//!
//! - [`Reconciler`]: the steps; a caller awaits each by itself. `pace` runs them at the times of a [`Schedule`]
//! - `by_id`: reads links by their ids
//! - `compare`: the change that a read would cause; `vanished`: links that Belvo does not know
//! - `adoption`: links that were broken before relink was installed; `same_users`: newer links of a user
//! - `deferred`: elements that could not be read; `timing`: when each step last ended
//!
//! The metrics are in [`crate::metric`], from `relink_drift_total` on.

mod adoption;
mod by_id;
mod compare;
mod consents;
mod deferred;
mod pace;
mod same_users;
mod timing;
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
use crate::clock::Clock;
use crate::contract::{InputKind, ReadOutcome};
use crate::link::{LinkId, Policy, StateName};
use crate::metric;
use crate::nats::history::{HistoryError, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::store::{Page, Query, Store, StoreError};

use self::adoption::Adopted;
use self::by_id::is_about_keys;
use self::compare::{Change, Known, Read};
use self::deferred::{Deferred, Element, skipped};
pub use self::pace::{Schedule, Step};
use self::timing::StepsEnded;

/// How many published messages may be unacknowledged at once.
const PUBLISHES_MAX: usize = 64;

/// How many links are read from the store in one page.
const STORE_PAGE: usize = 1000;

/// After this many failures at one place of the rotation, the rotation skips those links and goes on.
const STALLS_MAX: u32 = 3;

/// More failed pages of a list in a row than this mean that Belvo fails, and not a single page.
const PAGE_FAILURES_MAX: u32 = 2;

/// The times and rates of the steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepSettings {
    /// The interval between two sweeps of broken links; jittered by a tenth.
    pub sweep_every: Duration,
    /// The time in which the rotation reads every link once.
    pub rotation: Duration,
    /// How many adopted links are released per hour. 0: none; an operator unmutes them.
    pub adoption_per_hour: u32,
}

/// The parts of relink that the reconciler uses.
#[derive(Clone)]
pub struct Parts {
    /// The client of Belvo's API.
    pub belvo: Client,
    /// Decides whether a 404 is a deletion; shared with the jobs.
    pub guard: MissingGuard,
    /// The record of each link.
    pub store: Arc<dyn Store>,
    /// Publishes to the input stream.
    pub inputs: Arc<dyn Inputs>,
    /// Reads the history of a link.
    pub histories: Arc<dyn ReadHistory>,
    /// The policy of the machine on which reads are tried.
    pub policy: Policy,
    /// The clock that dates reads.
    pub clock: Clock,
}

/// Finds the changes that no webhook reported. Clones share their progress, and one step runs at a time.
#[derive(Clone)]
pub struct Reconciler {
    settings: SweepSettings,
    parts: Parts,
    progress: Arc<Mutex<Progress>>,
    deferred: Arc<StdMutex<Deferred>>,
    drift: watch::Sender<BTreeMap<String, u64>>,
    ended: watch::Sender<StepsEnded>,
}

/// The progress between steps. The progress is not stored: after a restart the steps repeat some reads.
#[derive(Default)]
struct Progress {
    /// The last link of the rotation; the next step begins after it.
    rotated_to: Option<LinkId>,
    /// How often in a row the next step has failed.
    stalls_count: u32,
    adopted: Adopted,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many links were read from Belvo.
    pub read_count: usize,
    /// How many published observations report drift.
    pub drifted_count: usize,
    /// How many links were unknown to relink before.
    pub adopted_count: usize,
    /// How many links are missing at Belvo but do not count as deleted, because many are missing at once.
    pub unconfirmed_count: usize,
    /// How many links, consents or pages could not be read and were skipped.
    pub skipped_count: usize,
    /// Of `rotate`: whether it has reached the last link.
    pub round_ended: bool,
}

/// A step failed. The messages that it has published remain; the next step of its kind continues.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A call to Belvo failed.
    #[error(transparent)]
    Belvo(#[from] CallError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// NATS did not store an observation.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The history of a link could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The step panicked, which is a bug.
    #[error("the step panicked, which is a bug in relink")]
    Panicked,
}

impl Reconciler {
    /// A reconciler that runs a step only when the step is awaited. The rotation begins at a random place.
    pub fn new(settings: SweepSettings, parts: Parts) -> Self {
        // With a fixed start, a process that is restarted every day would never reach the last links.
        let anywhere = Uuid::new_v4().to_string().parse().ok();
        Self::rotating_from(anywhere, settings, parts)
    }

    /// A reconciler whose rotation begins after `link`, or at the first link.
    pub fn rotating_from(link: Option<LinkId>, settings: SweepSettings, parts: Parts) -> Self {
        let progress = Progress { rotated_to: link, stalls_count: 0, adopted: Adopted::default() };
        let (progress, deferred) = (Arc::new(Mutex::new(progress)), Arc::default());
        Self { settings, parts, progress, deferred, drift: watch::Sender::default(), ended: watch::Sender::default() }
    }

    /// How many transitions only a sweep has found since the start, by institution.
    pub fn drift(&self) -> watch::Receiver<BTreeMap<String, u64>> {
        self.drift.subscribe()
    }

    /// Lists all links at Belvo, to find those that relink does not know.
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

    /// Reads the links that are broken according to relink.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep_known_broken(&self) -> Result<Swept, SweepError> {
        let _progress = self.progress.lock().await;
        let step = async {
            let mut ids = Vec::new();
            for state in [StateName::Invalid, StateName::TokenRequired, StateName::Updating] {
                let query = Query { state: Some(state), limit: STORE_PAGE, ..Query::default() };
                self.each_stored_page(query, |page| ids.extend(page.ids)).await?;
            }
            self.read_and_compare(ids).await
        };
        self.timed("known_broken", step).await
    }

    /// Reads the next fifty of all links.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn rotate(&self) -> Result<Swept, SweepError> {
        let mut progress = self.progress.lock().await;
        let step = async {
            let query = Query { after: progress.rotated_to.clone(), limit: IDS_MAX, ..Query::default() };
            let page = self.stored_page(query).await?;
            let existing =
                page.ids.into_iter().zip(&page.links).filter(|(_, link)| link.head.state != StateName::Removed);
            let ids: Vec<LinkId> = existing.map(|(id, _)| id).collect();
            let compared = self.read_and_compare(ids.clone()).await;
            if let Err(error) = &compared {
                progress.stalls_count += 1;
                if progress.stalls_count < STALLS_MAX {
                    return compared;
                }
                // These links are read again one by one later; the rotation goes on with the others.
                ids.into_iter().for_each(|id| self.skip("belvo", Element::link(id), error));
            }
            progress.stalls_count = 0;
            progress.rotated_to = page.next.clone();
            Ok(Swept { round_ended: page.next.is_none(), ..compared? })
        };
        self.timed("rotate", step).await
    }

    /// Lists links at Belvo and publishes each read that would change a link.
    async fn list(&self, filter: &LinkFilter, progress: &mut Progress) -> Result<Swept, SweepError> {
        let (mut swept, mut differing) = (Swept::default(), Vec::new());
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
            let mut unknown = Vec::new();
            for ((id, resource), known) in links.into_iter().zip(known) {
                let Some(known) = known else { continue };
                let is_known = known.is_known();
                let read = Read { outcome: ReadOutcome::Found { link: resource }, read_at };
                match self.compare(&known, read) {
                    Some(_) if is_known => differing.push(id),
                    Some(found) => unknown.push(found),
                    None => {}
                }
            }
            let found_count = unknown.len();
            let skipped_count = self.adopt(unknown, &mut progress.adopted).await?;
            swept.adopted_count += found_count - skipped_count;
            swept.skipped_count += skipped_count;
        };
        // A list takes long, and a webhook may have arrived meanwhile. So the differing links are read once more, by
        // id, also if the list broke off.
        let compared = self.read_and_compare(differing).await;
        if let Some(error) = broke_off {
            return Err(error.into());
        }
        let compared = compared?;
        Ok(Swept {
            read_count: swept.read_count + compared.read_count,
            adopted_count: swept.adopted_count,
            skipped_count: swept.skipped_count + compared.skipped_count,
            ..compared
        })
    }

    /// The next readable page of a list. An unreadable page is skipped, unless the error concerns the whole list.
    async fn next_page(&self, pages: &mut ListPages<'_>, swept: &mut Swept) -> Result<Option<ListPage>, CallError> {
        let mut failures = 0;
        loop {
            match pages.next().await {
                Ok(page) => return Ok(page),
                Err(error) => {
                    failures += 1;
                    let is_forbidden = matches!(error, CallError::Permanent { class: Some(Unrelated::Permission), .. });
                    let is_final = is_about_keys(&error) || is_forbidden;
                    if failures > PAGE_FAILURES_MAX || is_final || !pages.skip_page() {
                        return Err(error);
                    }
                    tracing::warn!(%error, "a page of a list of Belvo cannot be read and is skipped");
                    skipped("belvo", 1);
                    swept.skipped_count += 1;
                }
            }
        }
    }

    /// The elements of a page that name their link. The others are counted and logged.
    fn with_ids(
        &self,
        page: ListPage,
        link_of: impl Fn(Map<String, Value>) -> Option<(LinkId, Map<String, Value>)>,
    ) -> Vec<(LinkId, Map<String, Value>)> {
        let count = page.malformed_count + page.items.len();
        let named: Vec<_> = page.items.into_iter().filter_map(link_of).collect();
        let malformed_count = count - named.len();
        if malformed_count > 0 {
            tracing::warn!(
                elements.count = malformed_count,
                "elements of a list of Belvo do not name a link and are skipped"
            );
            skipped("shape", malformed_count);
        }
        named
    }

    /// Publishes the changes whose links have not changed meanwhile. Returns how many of them are drift.
    async fn publish_changes(&self, changes: Vec<Change>, skipped_count: &mut usize) -> Result<usize, SweepError> {
        let known_now = self.known(changes.iter().map(|found| found.link.clone()).collect()).await?;
        let unmoved = changes.into_iter().zip(known_now);
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
                    // The state is the same: only the profile is new, so this is not drift.
                    return Ok::<_, SweepError>(Some(0));
                }
                tracing::info!(link.id = %found.link, from, to, "a sweep found a change that no webhook reported");
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

    /// Whether a message was published. A message that NATS will never accept is skipped; other errors are temporary
    /// and end the step.
    fn is_published(&self, link: &LinkId, result: Result<(), PublishError>) -> Result<bool, PublishError> {
        match result {
            Ok(()) => Ok(true),
            Err(
                error @ (PublishError::TooLarge { .. } | PublishError::Subject { .. } | PublishError::Refused { .. }),
            ) => {
                self.skip("message", Element::link(link.clone()), &error);
                Ok(false)
            }
            Err(
                error @ (PublishError::Busy
                | PublishError::NoRoom { .. }
                | PublishError::Unavailable { .. }
                | PublishError::Closed),
            ) => Err(error),
        }
    }

    /// Publishes one input. `id` is its message id, by which `adoption` recognises it in the history of the link.
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

    /// The change that `read` would cause. A panic, which is a bug, skips only this link.
    fn compare(&self, known: &Known, read: Read) -> Option<Change> {
        let compare = AssertUnwindSafe(|| compare::change_of(known, read, &self.parts.policy, self.settings.rotation));
        catch_unwind(compare).unwrap_or_else(|_panic| {
            self.skip("bug", Element::link(known.id().clone()), &"the comparison panicked");
            None
        })
    }

    /// The records of these links, in the order of `ids`; `None` if a record cannot be read.
    async fn known(&self, ids: Vec<LinkId>) -> Result<Vec<Option<Known>>, SweepError> {
        let now = self.parts.clock.now();
        let read = self.read_store(move |store| {
            let read = |id: LinkId| match Known::read(store, id.clone(), now) {
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Record(_))) => Ok((id, Err(error))),
                Err(
                    error @ (StoreError::Disk(_)
                    | StoreError::Damaged(_)
                    | StoreError::DamagedAgain { .. }
                    | StoreError::Incomplete
                    | StoreError::Denied { .. }
                    | StoreError::Full { .. }
                    | StoreError::InUse { .. }
                    | StoreError::FutureFormat { .. }),
                ) => Err(error),
                Ok(known) => Ok((id, Ok(known))),
            };
            ids.into_iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        let readable = |(id, known): (LinkId, Result<Known, StoreError>)| {
            known.inspect_err(|error| self.skip_record(id.as_str(), error)).ok()
        };
        Ok(read.await?.into_iter().map(readable).collect())
    }

    /// Passes every page of a query to `take`.
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
        let page = self.read_store(move |store| store.page(&query)).await?;
        page.unreadable.iter().for_each(|unreadable| self.skip_record(&unreadable.key, &unreadable.problem));
        Ok(page)
    }

    /// Runs `query` on the store in a blocking thread, because the store may read from the disk.
    async fn read_store<T: Send + 'static>(
        &self,
        query: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SweepError> {
        let store = Arc::clone(&self.parts.store);
        // In a store that is being rebuilt, known links are missing.
        let query = |store: &dyn Store| store.check_complete().and_then(|()| query(store));
        // A simulation has no runtime, and no other task that a read could block.
        if Handle::try_current().is_err() {
            return Ok(query(store.as_ref())?);
        }
        let result = tokio::task::spawn_blocking(move || query(store.as_ref())).await;
        Ok(result.map_err(|_panic| SweepError::Panicked)??)
    }
}

/// A resource `link` with its id; `None` if the id is missing or invalid.
fn with_id(resource: Map<String, Value>) -> Option<(LinkId, Map<String, Value>)> {
    let id = resource.get("id")?.as_str()?.parse().ok()?;
    Some((id, resource))
}

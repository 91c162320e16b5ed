//! Reads many entries of the store for one request. Such a read may take seconds, so the number of concurrent ones is
//! bounded, and a read ends soon after its client is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Server;
use super::connection::ClientGone;
use super::problem::{Kind, Problem};
use crate::store::{self, Page, Query, Store, StoreError, Unreadable};

/// How many reads run at the same time. More would not be faster, and would take the processors from the commits.
const CONCURRENT_MAX: usize = 2;

/// How long a request waits for a slot.
const SLOT_WITHIN: Duration = Duration::from_secs(10);

/// How long a read goes on after the client has closed its sending side: such a client may still wait for its answer.
const GONE_GRACE: Duration = Duration::from_secs(2);

/// The links between two checks of [`Ended`].
const STEP: usize = 500;

/// The slots of the concurrent reads.
pub(super) struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_MAX)))
    }
}

/// Whether the request of a read in a blocking thread has ended.
#[derive(Clone, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sets [`Ended`] when the future of the request is dropped.
struct EndOnDrop(Ended);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Server {
    /// Runs `read` on the store when a slot is free. `None` of `read` means that it has ended early, because [`Ended`] was set.
    pub(super) async fn scan<T: Send + 'static>(
        &self,
        client: &ClientGone,
        read: impl FnOnce(&dyn Store, &Ended) -> Result<Option<T>, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let work = async {
            let slot = timeout(SLOT_WITHIN, Arc::clone(&self.read_slots.0).acquire_owned());
            let slot = slot.await.map_err(|_| busy("Too many lists are being read; try again."))?;
            let ended = EndOnDrop(Ended::default());
            let for_read = ended.0.clone();
            self.read_store(move |store| {
                // The slot is free when the read ends, which may be later than the end of the request.
                let _slot = slot;
                read(store, &for_read)
            })
            .await
        };
        let gone = async {
            client.0.cancelled().await;
            sleep(GONE_GRACE).await;
        };
        let gave_up = || busy("The connection was half closed, and then reading took too long; leave it open.");
        tokio::select! {
            result = work => result?.ok_or_else(gave_up),
            () = gone => Err(gave_up()),
        }
    }
}

fn busy(detail: &str) -> Problem {
    Problem::new(Kind::Busy, detail).retry_after_secs(1)
}

/// Reads one page of links. An institution has no index, so all links are read until the page is full.
pub(super) fn page(
    store: &dyn Store,
    query: &Query,
    institution: Option<&str>,
    ended: &Ended,
) -> Result<Option<Page>, StoreError> {
    let Some(institution) = institution else { return store.page(query).map(Some) };
    let mut found = Page::default();
    for page in store::pages(store, Query { limit: STEP, ..query.clone() }) {
        if ended.is_set() {
            return Ok(None);
        }
        let page = page?;
        found.unreadable.extend(page.unreadable);
        for (id, stored) in page.ids.into_iter().zip(page.links) {
            if found.links.len() == query.limit {
                // The later pages will list what is behind the last link.
                found.next = found.ids.last().cloned();
                found.unreadable.retain(|entry| found.next.as_ref().is_some_and(|last| *entry.key < *last.as_str()));
                return Ok(Some(found));
            }
            match stored.parse() {
                Ok(record) if record.institution.as_deref() == Some(institution) => {
                    found.ids.push(id);
                    found.links.push(stored);
                }
                Ok(_of_another) => {}
                Err(error) => {
                    found.unreadable.push(Unreadable { key: id.to_string(), problem: error.to_string() });
                }
            }
        }
    }
    Ok(Some(found))
}

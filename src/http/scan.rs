//! Reads a page of the store for one request. A page may have a thousand links on a slow disk, so the number of
//! concurrent reads is bounded, and a request whose client is gone does not wait for its turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Server;
use super::connection::ClientGone;
use super::problem::{Kind, Problem};
use crate::store::{Store, StoreError};

/// How many reads run at the same time. More would not be faster, and would take the processors from the commits.
const CONCURRENT_MAX: usize = 2;

/// How long a request waits for a slot.
const SLOT_WITHIN: Duration = Duration::from_secs(10);

/// How long a request goes on after the client has closed its sending side: such a client may still wait for its answer.
const GONE_GRACE: Duration = Duration::from_secs(2);

/// The slots of the concurrent reads.
pub(super) struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_MAX)))
    }
}

impl Server {
    /// Runs `read` on the store when a slot is free.
    pub(super) async fn scan<T: Send + 'static>(
        &self,
        client: &ClientGone,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let work = async {
            let slot = timeout(SLOT_WITHIN, Arc::clone(&self.read_slots.0).acquire_owned());
            let slot = slot.await.map_err(|_| busy("Too many lists are being read; try again."))?;
            self.read_store(move |store| {
                // The slot is free when the read ends, which may be later than the end of the request.
                let _slot = slot;
                read(store)
            })
            .await
        };
        let gone = async {
            client.0.cancelled().await;
            sleep(GONE_GRACE).await;
        };
        tokio::select! {
            result = work => result,
            () = gone => Err(busy("The connection was half closed, and then reading took too long; leave it open.")),
        }
    }
}

fn busy(detail: &str) -> Problem {
    Problem::new(Kind::Busy, detail).retry_after_secs(1)
}

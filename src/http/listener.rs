//! Accepts connections, at most a given number at a time, until the stop.
//!
//! An open connection needs a file descriptor, and relink needs descriptors for more important things: NATS, the
//! store, Belvo. So their number is bounded. If all are taken, the connection that has waited longest for a request
//! is closed in favour of the new one: unknown clients that open connections cannot keep out Belvo's webhooks.
//!
//! Next: `connection.rs` serves one connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Context};
use crate::metric;
use crate::{os, telemetry};

/// The interval at which the exporter drops old histogram samples, if no scraper reads `/metrics`.
const UPKEEP_EVERY: Duration = Duration::from_secs(30);

/// The pause after a failed accept. It fails if the process or the system has no free descriptors, and would fail
/// again at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The most connections by default. Each needs some kilobytes of memory.
const CONNECTIONS_DEFAULT: usize = 4096;

/// The most connections of the proxy by default.
const PROXY_CONNECTIONS_DEFAULT: usize = 1024;

/// The descriptors that connections never get: for NATS, the store, Belvo, relink's own nats-server and the runtime.
const DESCRIPTORS_RESERVED: u64 = 64;

/// The limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most open connections.
    pub connections_max: usize,
    /// How long the head of a request may take: from the connect, or from the first byte of a later request.
    pub head: Duration,
    /// How long a connection may be idle after an answer.
    pub idle: Duration,
    /// How long a request may take, from the end of its head to the last byte of its answer.
    pub request: Duration,
    /// How long open requests may take after the stop has begun.
    pub stop: Duration,
    /// Whether a client that has closed its sending side still gets its answer. If not, its request ends, as it does
    /// when the client is gone.
    pub half_close: bool,
}

impl Limits {
    /// The limits of production, with this most open connections; 0: derived from the limit of open files.
    pub fn new(connections_max: usize) -> Self {
        Self {
            connections_max: affordable(&SERVER, connections_max, os::descriptor_limit()),
            head: Duration::from_secs(10),
            // Longer than the 60 s of common proxies, so that the proxy closes an idle connection first.
            idle: Duration::from_secs(75),
            // Longer than a call to Belvo, and than the retries of a publish.
            request: Duration::from_secs(120),
            stop: Duration::from_secs(10),
            half_close: true,
        }
    }

    /// The limits of the proxy. Its calls may take as long as Belvo and the application want: Belvo gives up a call
    /// after five minutes. A call whose application is gone ends.
    pub fn of_proxy(connections_max: usize) -> Self {
        Self {
            connections_max: affordable(&PROXY, connections_max, os::descriptor_limit()),
            request: Duration::from_secs(600),
            half_close: false,
            ..Self::new(1)
        }
    }
}

/// The share of a listener of the descriptors.
struct Share {
    setting: &'static str,
    /// The descriptors that a connection needs: a call of the proxy has a second one, to Belvo.
    of_connection: u64,
    /// The part of all descriptors for the connections by default.
    part: u64,
    most: usize,
}

const SERVER: Share = Share { setting: "RELINK_CONNECTIONS_MAX", of_connection: 1, part: 2, most: CONNECTIONS_DEFAULT };
const PROXY: Share =
    Share { setting: "RELINK_PROXY_CONNECTIONS_MAX", of_connection: 2, part: 4, most: PROXY_CONNECTIONS_DEFAULT };

/// The number of connections that the descriptors allow.
fn affordable(share: &Share, wanted: usize, descriptors: Option<u64>) -> usize {
    let &Share { setting, of_connection, part, most } = share;
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let descriptors = descriptors.unwrap_or(u64::MAX);
    if wanted == 0 {
        return count(descriptors / part / of_connection).clamp(1, most);
    }
    let most = count(descriptors.saturating_sub(DESCRIPTORS_RESERVED) / of_connection).max(1);
    if wanted > most {
        tracing::warn!(
            wanted,
            descriptors,
            "{setting} is too large for the limit of open files; relink accepts {most} connections. \
             Raise the limit (`ulimit -n`, or LimitNOFILE of systemd), or lower the setting"
        );
    }
    wanted.min(most)
}

/// Serves until `shutdown`, then finishes open requests within a bounded time. Connections without a request are
/// closed at once.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let metrics = telemetry::metrics();
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let waiting = WaitingQueue::default();
    let mut connections = JoinSet::new();
    let mut accepting = Box::pin(accept(&listener, &slots, &waiting));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = upkeep.tick() => metrics.run_upkeep(),
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            (stream, slot) = &mut accepting => {
                accepting.set(accept(&listener, &slots, &waiting));
                let context = Context { limits, stop: shutdown.clone(), waiting: waiting.clone() };
                let router = router.clone();
                connections.spawn(async move {
                    metrics::gauge!(metric::HTTP_CONNECTIONS.name).increment(1.0);
                    connection::serve(stream, router, context).await;
                    metrics::gauge!(metric::HTTP_CONNECTIONS.name).decrement(1.0);
                    drop(slot);
                });
            }
        }
    }
    drop(accepting);
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.stop, finished).await.is_err() {
        let seconds = limits.stop.as_secs();
        tracing::warn!("{} requests were still open {seconds} s after the stop and were aborted", connections.len());
    }
}

/// The next connection, and its slot.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    waiting: &WaitingQueue,
) -> (TcpStream, OwnedSemaphorePermit) {
    let stream = loop {
        match listener.accept().await {
            Ok((stream, _peer)) => break stream,
            // The client has given up before its connection was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted; trying again after a pause");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    // Answers are small; Nagle's algorithm would only delay them.
    let _fails_on_a_closed_connection = stream.set_nodelay(true);
    let slot = match Arc::clone(slots).try_acquire_owned() {
        Ok(slot) => slot,
        Err(_all_taken) => {
            waiting.close_longest();
            let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
            waiting.slot_taken();
            slot
        }
    };
    (stream, slot)
}

/// The connections that wait for a request, in the order in which they began to wait.
#[derive(Clone, Default)]
pub(super) struct WaitingQueue(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
    /// Whether a slot is needed, and no connection was waiting.
    is_slot_wanted: bool,
}

/// The place of a waiting connection; dropping it leaves the queue.
pub(super) struct QueueEntry {
    queue: WaitingQueue,
    number: u64,
}

impl WaitingQueue {
    /// Puts a connection at the end of the queue. `close` is cancelled if its slot is needed.
    pub(super) fn push(&self, close: &CancellationToken) -> QueueEntry {
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        if std::mem::take(&mut queue.is_slot_wanted) {
            close.cancel();
        } else {
            queue.waiting.insert(number, close.clone());
        }
        QueueEntry { queue: self.clone(), number }
    }

    /// Closes the connection that has waited longest, or the next one that begins to wait.
    fn close_longest(&self) {
        let mut queue = self.queue();
        match queue.waiting.pop_first() {
            Some((_, close)) => close.cancel(),
            None => queue.is_slot_wanted = true,
        }
    }

    /// A slot has become free and was taken, so no further connection is closed.
    fn slot_taken(&self) {
        self.queue().is_slot_wanted = false;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.queue.queue().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::{PROXY, SERVER, affordable};

    #[test]
    fn connections_leave_descriptors_for_the_rest_of_relink() {
        for (wanted, descriptors, expected) in [
            (0, Some(1024), 512),
            (0, Some(1 << 20), 4096),
            (0, None, 4096),
            (0, Some(1), 1),
            (100, Some(1024), 100),
            (5000, Some(1024), 960),
            (5000, Some(10), 1),
            (5000, None, 5000),
        ] {
            assert_eq!(affordable(&SERVER, wanted, descriptors), expected, "{wanted} of {descriptors:?}");
        }
        for (wanted, descriptors, expected) in [
            (0, Some(1024), 128),
            (0, Some(1 << 20), 1024),
            (0, Some(1), 1),
            (100, Some(1024), 100),
            (5000, Some(1024), 480),
        ] {
            assert_eq!(affordable(&PROXY, wanted, descriptors), expected, "{wanted} of {descriptors:?}, for the proxy");
        }
    }
}

//! Time limits for requests to NATS.
//!
//! async-nats limits the wait for an answer. But while there is no connection, its queue of commands fills, and then each call waits for a
//! place in the queue without a limit. So every call of relink has a limit around it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use tokio::time::{sleep, timeout};

/// The time limit of a request, or of a few requests that belong together.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The time limit of a read for a client that waits for the answer.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a read waits for the connection, which async-nats makes anew after a loss, and how often it looks.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
const CONNECTED_EVERY: Duration = Duration::from_millis(50);

/// Waits for a short time until the client is connected. A request without a connection would wait in the queue of the client.
///
/// # Errors
/// The error text, if it is not connected in time.
pub(crate) async fn connected(client: &Client) -> Result<(), String> {
    let is_connected = async {
        while client.connection_state() != State::Connected {
            sleep(CONNECTED_EVERY).await;
        }
        Ok(())
    };
    within_or(CONNECTED_WITHIN, || "relink is not connected to NATS".to_owned(), is_connected).await
}

/// How often [`reconnected`] looks.
const RECONNECTED_EVERY: Duration = Duration::from_millis(250);

/// Returns when the client has connected again since this call.
pub(crate) fn reconnected(client: &Client) -> impl Future<Output = ()> + use<> {
    let statistics = client.statistics();
    let connects_before = statistics.connects.load(Ordering::Relaxed);
    async move {
        while statistics.connects.load(Ordering::Relaxed) == connects_before {
            sleep(RECONNECTED_EVERY).await;
        }
    }
}

/// Awaits a request with a time limit; `late` is the error of a missed limit.
///
/// # Errors
/// The error of the request, or `late`.
pub(crate) async fn within_or<T, E>(
    limit: Duration,
    late: impl FnOnce() -> E,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, request).await.unwrap_or_else(|_| Err(late()))
}

/// Awaits a request with a time limit.
///
/// # Errors
/// The error text of the request, or of the missed limit.
pub(crate) async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    within_or(limit, || format!("NATS did not answer within {} s", limit.as_secs()), request).await
}

//! Supervises relink's own nats-server: if it ends, it is started again, on the same port and with the same store.
//!
//! All connections of relink find the new server by themselves, because the port stays the same. A server that ends again and again
//! cannot be helped by a restart: then relink ends, so that its own supervisor and an operator notice it.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::stop::StopBudget;
use crate::metric;
use crate::nats::server::{NatsServer, ServerError, ServerOptions};

/// The most restarts within [`WINDOW`].
const RESTARTS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The pause before a second restart. Each further restart within [`WINDOW`] doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// relink's own nats-server, with the task that supervises it. The server is killed when this value is dropped.
pub(super) struct OwnServer {
    url: String,
    task: AbortOnDropHandle<anyhow::Result<Option<NatsServer>>>,
    stop: CancellationToken,
}

impl OwnServer {
    /// Supervises a running server.
    pub(super) fn supervise(server: NatsServer) -> Self {
        let (url, stop) = (server.url().to_owned(), CancellationToken::new());
        let task = AbortOnDropHandle::new(tokio::spawn(supervise(server, stop.clone())));
        Self { url, task, stop }
    }

    /// The URL for clients. It never changes.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until the server has ended too often.
    ///
    /// # Errors
    /// The reason, always.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.task).await?.map(drop)
    }

    /// Stops the server within the rest of the time of the stop.
    ///
    /// # Errors
    /// If the server cannot be killed.
    pub(super) async fn stop(self, budget: &StopBudget) -> anyhow::Result<()> {
        self.stop.cancel();
        if self.task.is_finished() {
            return Ok(());
        }
        // Dropping the task kills a server that is starting.
        if let Ok(server) = budget.wait("the supervisor of nats-server", 1, self.task).await
            && let Some(server) = server??
        {
            server.stop(budget.left(0)).await?;
        }
        Ok(())
    }
}

async fn supervise(mut server: NatsServer, stop: CancellationToken) -> anyhow::Result<Option<NatsServer>> {
    let mut restarts = Restarts::default();
    loop {
        let status = tokio::select! {
            ended = server.ended() => ended?,
            () = stop.cancelled() => return Ok(Some(server)),
        };
        tracing::error!(server.status = %status, "relink's own nats-server ended; relink starts it again");
        let options = ServerOptions { port: server.port(), ..server.options().clone() };
        // The lock on the store is released.
        drop(server);
        let mut why = status.to_string();
        server = loop {
            let pause = restarts.next(&why)?;
            let restarted = async {
                tokio::time::sleep(pause).await;
                NatsServer::start(options.clone()).await
            };
            let restarted: Result<NatsServer, ServerError> = tokio::select! {
                restarted = restarted => restarted,
                () = stop.cancelled() => return Ok(None),
            };
            match restarted {
                Ok(server) => break server,
                Err(error) => {
                    tracing::error!(%error, "relink's own nats-server could not be started again");
                    why = error.to_string();
                }
            }
        };
        metrics::counter!(metric::SERVER_RESTARTS.name).increment(1);
    }
}

/// The times of the last restarts.
#[derive(Default)]
struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// The pause before the next restart.
    ///
    /// # Errors
    /// If there were too many; `why` is the reason of this one.
    fn next(&mut self, why: &str) -> anyhow::Result<Duration> {
        let now = Instant::now();
        self.0.retain(|at| now.duration_since(*at) < WINDOW);
        if self.0.len() >= RESTARTS_MAX {
            return Err(anyhow!(
                "relink's own nats-server ended {} times within {} minutes, the last time with: {why}; \
                 its log is nats/nats-server.log in the data directory",
                RESTARTS_MAX + 1,
                WINDOW.as_secs() / 60
            ));
        }
        let earlier = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push_back(now);
        Ok(if earlier == 0 { Duration::ZERO } else { PAUSE_MIN * 2_u32.pow(earlier - 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pauses_grow_and_the_restarts_have_a_limit() {
        let mut restarts = Restarts::default();
        let pauses: Vec<u128> = (0..RESTARTS_MAX).map(|_| restarts.next("exit 1").unwrap().as_millis()).collect();
        assert_eq!(pauses, [0, 250, 500, 1000, 2000]);
        let ended = restarts.next("exit status: 1").unwrap_err().to_string();
        assert!(ended.contains("6 times") && ended.contains("exit status: 1"), "{ended}");
    }
}

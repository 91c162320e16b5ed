//! Supervises relink's own nats-server: if it ends, it is started again, on the same port and with the same store.
//!
//! All connections of relink find the new server by themselves, because the port stays the same. A server that ends again and again
//! cannot be helped by a restart: then relink ends, so that its own supervisor and an operator notice it.
//!
//! A server that failed to write refuses all later writes until it is restarted (`nats::server_health`). It is restarted as soon as its
//! disk has room.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::stop::StopBudget;
use crate::metric;
use crate::nats::declaration::StreamError;
use crate::nats::server::{NatsServer, ServerError, ServerOptions};
use crate::nats::server_health::{ServerHealth, ServerMonitor};
use crate::nats::stream::{self, StreamSettings};
use crate::nats::subject::Subjects;

/// The most restarts within [`WINDOW`].
const RESTARTS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The pause before a second restart. Each further restart within [`WINDOW`] doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// How often the server's health is read.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// After this many reads in sequence without an answer the server counts as hung, and is restarted: about a minute.
const UNANSWERED_MAX: u32 = 20;

/// How long a server that cannot write may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The disk has room if this many bytes can be written.
const ROOM_BYTES: usize = 4 * 1024 * 1024;

/// What the supervisor knows about the server.
#[derive(Clone, Debug)]
pub(super) struct ServerStatus {
    /// When it was started.
    pub(super) started_at: Instant,
    /// Why it does not work, as one clause.
    pub(super) problem: Option<String>,
}

/// relink's own nats-server, with the task that supervises it. The server is killed when this value is dropped.
pub(super) struct OwnServer {
    url: String,
    url_with_login: SecretString,
    task: AbortOnDropHandle<anyhow::Result<Option<NatsServer>>>,
    stop: CancellationToken,
    status: watch::Receiver<ServerStatus>,
}

impl OwnServer {
    /// Supervises a running server.
    pub(super) fn supervise(server: NatsServer) -> Self {
        let (url, url_with_login) = (server.url().to_owned(), server.url_with_login());
        let stop = CancellationToken::new();
        let (sender, status) = watch::channel(ServerStatus { started_at: Instant::now(), problem: None });
        let task = AbortOnDropHandle::new(tokio::spawn(supervise(server, stop.clone(), sender)));
        Self { url, url_with_login, task, stop, status }
    }

    /// What the supervisor knows about the server.
    pub(super) fn status(&self) -> watch::Receiver<ServerStatus> {
        self.status.clone()
    }

    /// The URL for clients. It never changes.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The URL for clients, with user and password. It never changes.
    pub(super) fn url_with_login(&self) -> SecretString {
        self.url_with_login.clone()
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
        if let Ok(server) = budget.wait("the supervisor of nats-server", 2, self.task).await
            && let Some(server) = server??
        {
            server.stop(budget.left(0)).await?;
        }
        Ok(())
    }
}

/// Declares the streams on relink's own server. A consumer whose state is damaged, for example by a crash of the host, gets an empty state:
/// relink knows where it must continue.
///
/// # Errors
/// The first stream or consumer that cannot be used.
pub(super) async fn ensure_streams(
    server: NatsServer,
    context: &jetstream::Context,
    subjects: &Subjects,
    settings: &StreamSettings,
) -> anyhow::Result<NatsServer> {
    match stream::ensure_all(context, subjects, settings).await {
        Ok(()) => return Ok(server),
        Err(StreamError::ConsumerState { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let damaged = stream::consumers_with_damaged_state(context, subjects, settings).await;
    let options = ServerOptions { port: server.port(), ..server.options().clone() };
    server.stop(STOP_LIMIT).await?;
    for (stream, consumer) in &damaged {
        let kept_at = options.set_aside_consumer_state(stream, consumer)?;
        tracing::error!(
            stream.name = stream,
            consumer.name = consumer,
            kept_at = %kept_at.display(),
            "the state of a consumer cannot be read and was set aside; nothing is lost, because relink knows where the consumer must continue"
        );
    }
    let server = NatsServer::start(options).await?;
    stream::ensure_all(context, subjects, settings).await?;
    Ok(server)
}

async fn supervise(
    mut server: NatsServer,
    stop: CancellationToken,
    status: watch::Sender<ServerStatus>,
) -> anyhow::Result<Option<NatsServer>> {
    let mut restarts = Restarts::default();
    loop {
        let options = ServerOptions { port: server.port(), ..server.options().clone() };
        let monitor = ServerMonitor::new(server.monitor_url().unwrap_or_default()).map_err(anyhow::Error::msg)?;
        let mut why = tokio::select! {
            ended = server.ended() => {
                let ended = ended?;
                tracing::error!(server.status = %ended, "relink's own nats-server ended; relink starts it again");
                // The lock on the store is released.
                drop(server);
                ended.to_string()
            }
            why = until_it_needs_a_restart(&monitor, &options.store_dir, &status) => {
                tracing::error!(why, "relink's own nats-server does not work; relink restarts it");
                server.stop(STOP_LIMIT).await?;
                why
            }
            () = stop.cancelled() => return Ok(Some(server)),
        };
        status.send_modify(|status| status.problem = Some("the nats-server of relink is being restarted".to_owned()));
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
        status.send_replace(ServerStatus { started_at: Instant::now(), problem: None });
    }
}

/// Reads the server's health until a restart can help. Returns the reason.
async fn until_it_needs_a_restart(
    monitor: &ServerMonitor,
    store_dir: &Path,
    status: &watch::Sender<ServerStatus>,
) -> String {
    let mut unanswered = 0;
    loop {
        tokio::time::sleep(HEALTH_EVERY).await;
        // The server goes on with files that were deleted, and its store would be gone with it.
        if !store_dir.is_dir() {
            return format!("its directory {} was removed, with all messages", store_dir.display());
        }
        let health = monitor.health().await;
        unanswered = if health.is_err() { unanswered + 1 } else { 0 };
        // `/readyz` shows no path and no text of the server.
        let problem = match &health {
            Ok(ServerHealth::Healthy) => None,
            Ok(ServerHealth::CannotWrite(_)) => Some("the nats-server of relink cannot write to its disk"),
            Ok(ServerHealth::Unhealthy(_)) => Some("the nats-server of relink is not healthy"),
            Err(_) if unanswered > 1 => Some("the nats-server of relink does not answer"),
            Err(_) => None,
        };
        let is_new = status.send_if_modified(|status| {
            let before = std::mem::replace(&mut status.problem, problem.map(str::to_owned));
            before != status.problem
        });
        match health {
            Ok(ServerHealth::CannotWrite(error)) => {
                if is_new {
                    tracing::error!(
                        error,
                        "relink's own nats-server cannot write; it is restarted when its disk has room"
                    );
                }
                if has_room(store_dir.to_owned()).await {
                    return error;
                }
            }
            Ok(ServerHealth::Unhealthy(error)) if is_new => {
                tracing::warn!(error, "relink's own nats-server reports a problem");
            }
            Err(error) if unanswered >= UNANSWERED_MAX => return format!("it does not answer: {error}"),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Whether the disk of this directory has room: a file can be written.
async fn has_room(directory: PathBuf) -> bool {
    let written = tokio::task::spawn_blocking(move || {
        let mut file = tempfile::tempfile_in(directory)?;
        file.write_all(&vec![0; ROOM_BYTES])?;
        file.sync_all()
    });
    written.await.is_ok_and(|written| written.is_ok())
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

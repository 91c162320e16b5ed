//! The service: creates and connects all parts, starts them in order, and stops them in reverse order.
//!
//! ```text
//!   start:  store ─▶ NATS (given, or relink's own) ─▶ streams ─▶ publisher ─▶ partitions ─▶ jobs, reconciler ─▶ HTTP
//!   stop:   HTTP (finishes open requests) ─▶ jobs, reconciler ─▶ publisher (drains) ─▶ partitions (finish the commit, fsync) ─▶ relink's own NATS
//! ```
//!
//! If a part ends by itself, the others are stopped in order and the process ends with the error of that part. A stop takes at most
//! `RELINK_STOP_TIMEOUT` (`stop`). If the store hangs, the process ends (`watchdog`). relink's own nats-server is started again if it ends
//! (`own_server`).

mod data_directory;
mod own_server;
mod readiness;
mod stop;
mod watchdog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::own_server::OwnServer;
use self::readiness::Sources;
use self::stop::StopBudget;
use self::watchdog::{CALL_MAX, Watchdog};
use crate::belvo::{self, Budget, MissingGuard, SecretId, SecretPassword, Timeouts};
use crate::clock::{self, Clock};
use crate::config::{Config, ReconcilerConfig};
use crate::http::{self, Limits, Parts, Server};
use crate::jobs::Worker;
use crate::nats::connection::Access;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::declaration::StreamError;
use crate::nats::history::Histories;
use crate::nats::node::{Node, NodeError, NodeOptions};
use crate::nats::publisher::{Publisher, PublisherOptions};
use crate::nats::server::{NatsServer, ServerOptions, min_version_check};
use crate::nats::server_binary::{ServerSource, locate};
use crate::nats::server_health::ServerMonitor;
use crate::nats::server_login::{self, ServerLogin};
use crate::nats::watch::Watch;
use crate::nats::{durability, stream};
use crate::node::Phase;
use crate::reconciler::{self, Reconciler};
use crate::store::SledStore;

/// A running service.
pub struct Service {
    http_address: SocketAddr,
    nats_url: String,
    stop: CancellationToken,
    http: Task<()>,
    node: Task<Result<(), NodeError>>,
    node_stop: CancellationToken,
    streams: Task<Result<(), StreamError>>,
    jobs: Option<Task<()>>,
    reconciler: Option<(Reconciler, Task<()>)>,
    publisher: Publisher,
    phase: watch::Receiver<Phase>,
    client: async_nats::Client,
    own_server: Option<OwnServer>,
    watchdog: Watchdog,
    stop_timeout: Duration,
}

/// A task that is aborted when its handle is dropped.
type Task<T> = AbortOnDropHandle<T>;

/// Runs the service until `shutdown`.
///
/// # Errors
/// The error that prevented the start, or that ended a part.
pub async fn run(config: Config, server_source: ServerSource, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.check_for_serving()?;
    let mut service = tokio::select! {
        started = Service::start(&config, server_source) => started?,
        () = shutdown.cancelled() => {
            tracing::info!("relink is stopped during its start");
            return Ok(());
        }
    };
    tracing::info!(http.address = %service.http_address, nats.url = %service.nats_url, "relink is listening");
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = service.ended() => ended,
    };
    tracing::info!("relink is stopping");
    let stopped = service.stop().await;
    ended.and(stopped)
}

impl Service {
    /// Starts all parts. On return the HTTP server is listening and the partitions are starting.
    ///
    /// # Errors
    /// The first part that cannot start, with the setting to change.
    pub async fn start(config: &Config, server_source: ServerSource) -> anyhow::Result<Self> {
        let store = open_store(config)?;
        let own_server = start_server(config, server_source).await?;
        let client = connect(config, own_server.as_ref()).await?;
        min_version_check(&client)?;
        let context = jetstream::new(client.clone());
        let subjects = config.nats.subjects.clone();
        let monitor_url = config.nats.monitor_url.as_ref().and_then(|url| url.expose().next());
        let (own_server, server_status) = match own_server {
            Some(server) => {
                let server = own_server::ensure_streams(server, &context, &subjects, &config.nats.streams).await?;
                let own_server = OwnServer::supervise(server);
                let status = own_server.status();
                (Some(own_server), Some(status))
            }
            None => {
                stream::ensure_all(&context, &subjects, &config.nats.streams).await?;
                durability::warn_where_promises_cannot_be_kept(monitor_url, config.nats.streams.replicas).await;
                let monitor = monitor_url.map(ServerMonitor::new).transpose().map_err(anyhow::Error::msg)?;
                (None, monitor.map(readiness::watch_server))
            }
        };

        if clock::test_offset_seconds() != 0 {
            tracing::warn!(
                seconds = clock::test_offset_seconds(),
                "the clock of this process is wrong on purpose: a test has set {}",
                clock::TEST_OFFSET_VARIABLE
            );
        }
        // The port is bound before the partitions run: if it is in use, relink ends before it takes the partitions
        // from another process.
        let listener = TcpListener::bind(config.http.listen).await.with_context(|| {
            format!("cannot listen on {}: choose another address with RELINK_LISTEN", config.http.listen)
        })?;
        let http_address = listener.local_addr()?;

        let publisher = Publisher::start(client.clone(), subjects.clone(), PublisherOptions::default());
        let belvo = belvo_client(config)?;
        let options = NodeOptions {
            subjects: subjects.clone(),
            partitions: config.nats.streams.partitions,
            owner: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
            policy: config.policy.clone(),
        };
        let (guard, clock) = (MissingGuard::default(), Clock::wall());
        let node = Node::new(client.clone(), options, store.clone()).with_clock(clock.clone());
        let (phase, as_of, recreated) = (node.phase(), node.as_of(), node.recreated());
        let open_commit = node.open_commit();
        let watchdog = Watchdog::start(node.open_calls(), CALL_MAX, config.service.stop_timeout)?;
        let (stop, node_stop) = (CancellationToken::new(), CancellationToken::new());
        let node = spawn(node.run(node_stop.clone()));
        let watch = Watch::new(context.clone(), subjects.clone(), &config.nats.streams, recreated);
        let not_ready = readiness::collect(Sources {
            phase: phase.clone(),
            open_commit,
            streams: watch.problems(),
            not_stored: publisher.not_stored(),
            server: server_status,
        });
        let streams = spawn(watch.run(stop.clone()));
        let jobs = belvo.clone().map(|belvo| {
            let worker = Worker::new(Arc::new(publisher.clone()), belvo, guard.clone(), clock.clone());
            let worker = worker.run(context.clone(), subjects.clone(), stop.clone());
            spawn(after_correction(clock.clone(), stop.clone(), worker))
        });
        let histories = Histories::new(context.clone(), subjects.clone());
        let reconciler = belvo.clone().map(|belvo| {
            let parts = reconciler::Parts {
                belvo,
                guard,
                store: Arc::new(store.clone()),
                inputs: Arc::new(publisher.clone()),
                histories: Arc::new(histories.clone()),
                policy: config.policy.clone(),
                clock: clock.clone(),
            };
            let reconciler = Reconciler::new(reconciler_settings(config), parts);
            let sweeps = reconciler.clone().run(ready(phase.clone()), stop.clone());
            let task = spawn(after_correction(clock, stop.clone(), sweeps));
            (reconciler, task)
        });
        if jobs.is_none() {
            tracing::warn!(
                "no Belvo keys are configured: relink cannot verify repairs or request missed history. \
                 Set RELINK_BELVO_URL, RELINK_BELVO_SECRET_ID and RELINK_BELVO_SECRET_PASSWORD"
            );
        }
        let parts = Parts {
            publisher: publisher.clone(),
            dead_letters: DeadLetters::new(context, subjects),
            histories,
            store: Arc::new(store),
            belvo,
            drift: reconciler.as_ref().map(|(reconciler, _)| reconciler.drift()),
            as_of,
            not_ready,
        };
        let router = http::router(Server::new(config, parts));
        let http = spawn(http::serve(listener, router, Limits::new(config.http.connections_max), stop.clone()));
        let nats_url = match (&own_server, &config.nats.url) {
            (Some(server), _) => server.url().to_owned(),
            (None, Some(url)) => url.to_string(),
            (None, None) => String::new(),
        };
        Ok(Self {
            http_address,
            nats_url,
            stop,
            http,
            node,
            node_stop,
            streams,
            jobs,
            reconciler,
            publisher,
            phase,
            client,
            own_server,
            watchdog,
            stop_timeout: config.service.stop_timeout,
        })
    }

    /// The address of the HTTP server.
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The address of NATS, without user and password.
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// The address of relink's own nats-server with user and password, which is a secret; `None` if it uses another NATS.
    pub fn own_nats_url_with_login(&self) -> Option<SecretString> {
        self.own_server.as_ref().map(OwnServer::url_with_login)
    }

    /// The reconciler, so that a caller can start a sweep; `None` without Belvo keys.
    pub fn reconciler(&self) -> Option<&Reconciler> {
        self.reconciler.as_ref().map(|(reconciler, _)| reconciler)
    }

    /// Waits until every partition is running, or a part has ended.
    ///
    /// # Errors
    /// The error of the partitions, if they ended before that.
    pub async fn running(&mut self) -> anyhow::Result<()> {
        let phase = *self.phase.wait_for(|phase| *phase != Phase::Starting).await?;
        if phase == Phase::Running { Ok(()) } else { self.ended().await }
    }

    /// Waits until a part ends by itself; in normal operation none does.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let own_server = async {
            match &mut self.own_server {
                Some(server) => server.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut self.http => ended.map_err(Into::into).and(Err(anyhow!("the HTTP server ended"))),
            ended = &mut self.node => ended?.context("the partitions ended"),
            ended = &mut self.streams => ended?.context("relink cannot go on without its streams"),
            stuck = self.watchdog.stuck() => Err(stuck),
            ended = own_server => ended.context("relink cannot go on without its nats-server"),
        }
    }

    /// Stops all parts in order: open requests are answered, the current commit is finished, the store is on the disk. A part that does
    /// not end in time is aborted, with a warning.
    ///
    /// # Errors
    /// The first error; the other parts are stopped anyway.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let budget = StopBudget::new(self.stop_timeout);
        let mut first_problem = None;
        let mut note = |problem: Option<anyhow::Error>| first_problem = first_problem.take().or(problem);
        if !self.http.is_finished()
            && let Ok(ended) = budget.wait("the HTTP server", 6, self.http).await
        {
            note(ended.err().map(Into::into));
        }
        // They have stopped at the same time as the HTTP server, so they have had as much time.
        if let Some(jobs) = self.jobs
            && let Ok(ended) = budget.wait("the jobs", 5, jobs).await
        {
            note(ended.err().map(Into::into));
        }
        if let Some((_, task)) = self.reconciler
            && let Ok(ended) = budget.wait("the reconciler", 5, task).await
        {
            note(ended.err().map(Into::into));
        }
        let _aborted = budget.wait("the publisher", 4, self.publisher.shutdown()).await;
        self.node_stop.cancel();
        if !self.node.is_finished()
            && let Ok(ended) = budget.wait("the partitions", 3, self.node).await
        {
            note(ended.map_or_else(|panic| Some(panic.into()), |ended| ended.err().map(Into::into)));
        }
        // The last acknowledgements may still be in the client's buffer. They are only hints, so they need no connection.
        if self.client.connection_state() == async_nats::connection::State::Connected {
            let _aborted = budget.wait("the NATS connection", 3, self.client.flush()).await;
        }
        if let Some(server) = self.own_server {
            note(server.stop(&budget).await.err());
        }
        first_problem.map_or(Ok(()), Err)
    }
}

fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Task<T> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

fn open_store(config: &Config) -> anyhow::Result<SledStore> {
    let directory = &config.store.data_dir;
    data_directory::prepare(directory)?;
    let opened = SledStore::open(&directory.join("store"), config.store.cache_bytes)?;
    if let Some((aside, why)) = opened.quarantined {
        tracing::error!(store.kept_at = %aside.display(), why, "the store is damaged and was moved to quarantine; relink rebuilds it from the stream");
    }
    Ok(opened.store)
}

async fn start_server(config: &Config, source: ServerSource) -> anyhow::Result<Option<NatsServer>> {
    if config.nats.url.is_some() {
        return Ok(None);
    }
    let binary = locate(source).await.context(
        "no NATS is configured and none could be started: set RELINK_NATS_URL to the address of yours, or RELINK_NATS_SERVER to the path of a nats-server",
    )?;
    let mut options = ServerOptions::new(binary, config.store.data_dir.join("nats"));
    // The supervisor reads the server's health from its monitor.
    options.monitor = true;
    options.login = Some(ServerLogin::in_directory(&options.store_dir));
    let server = NatsServer::start(options).await?;
    let url_file = server_login::url_file(&server.options().store_dir);
    tracing::info!(
        nats.url = server.url(),
        nats.url_file = %url_file.display(),
        "relink has started its own nats-server on a loopback address; the file has its address with the password"
    );
    Ok(Some(server))
}

async fn connect(config: &Config, own_server: Option<&NatsServer>) -> anyhow::Result<async_nats::Client> {
    let access = match (own_server, &config.nats.access) {
        (Some(server), _) => Access::of_urls([server.url_with_login().expose_secret()])?,
        (None, Some(access)) => access.clone(),
        (None, None) => Access::of_urls([])?,
    };
    access.connect("relink").await.with_context(|| {
        format!(
            "cannot connect to NATS at {access}: check that it is running, and that RELINK_NATS_URL and the settings of \
             the login and of TLS (RELINK_NATS_…) are right"
        )
    })
}

fn belvo_client(config: &Config) -> anyhow::Result<Option<belvo::Client>> {
    let Some(keys) = &config.belvo.keys else { return Ok(None) };
    let (id, password) = (SecretId(keys.secret_id.clone()), SecretPassword(keys.secret_password.clone()));
    Ok(Some(
        belvo::Client::new(&keys.url, id, password, Timeouts::default())?
            .with_budget(Budget::new(config.belvo.requests_per_30s)),
    ))
}

fn reconciler_settings(config: &Config) -> reconciler::SweepSettings {
    let ReconcilerConfig { sweep_every, rotation, adoption_per_hour } = config.reconciler;
    reconciler::SweepSettings { sweep_every, rotation, adoption_per_hour }
}

/// Runs a task that dates what Belvo shows. It begins when the time of the NATS server is known: with the wrong clock of a host, an
/// observation would lie in the future, and all later ones of its link would count as outdated.
async fn after_correction(clock: Clock, stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = clock.corrected() => task.await,
        () = stop.cancelled() => {}
    }
}

/// Whether every partition is running, as a channel.
fn ready(mut phase: watch::Receiver<Phase>) -> watch::Receiver<bool> {
    let (sender, ready) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            sender.send_replace(*phase.borrow_and_update() == Phase::Running);
            if phase.changed().await.is_err() {
                sender.send_replace(false);
                return;
            }
        }
    });
    ready
}

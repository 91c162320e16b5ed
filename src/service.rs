//! The service: creates and connects all parts, starts them in order, and stops them in reverse order.
//!
//! ```text
//!   start:  store ─▶ NATS (given, or relink's own) ─▶ streams ─▶ publisher ─▶ journal ─▶ partitions ─▶ jobs, reconciler, outbound ─▶ HTTP, proxy
//!   stop:   HTTP, proxy (finish open requests) ─▶ jobs, reconciler, outbound ─▶ journal, publisher (drain) ─▶ partitions (finish the commit, fsync)
//!           ─▶ relink's own NATS
//! ```
//!
//! If a part ends by itself, the others are stopped in order and the process ends with the error of that part. A stop takes at most
//! `RELINK_STOP_TIMEOUT` (`stop`). If the store hangs, the process ends (`watchdog`). relink's own nats-server is started again if it ends
//! (`own_server`). If another NATS cannot be reached at the start, only the journal and the HTTP server begin (`nats`).

mod background;
mod data_directory;
pub mod doctor;
pub mod maintenance;
mod nats;
mod outbound;
mod own_server;
mod probe;
mod proxy;
mod readiness;
mod stop;
mod traces;
mod watchdog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::background::Background;
use self::nats::Bus;
use self::own_server::OwnServer;
pub use self::probe::{connect, probe};
use self::proxy::{BoundProxy, RunningProxy};
use self::readiness::Sources;
use self::stop::StopBudget;
use self::watchdog::{CALL_MAX, Watchdog};
use crate::belvo::{self, Budget, MissingGuard, SecretId, SecretPassword, Timeouts};
use crate::clock::{self, Clock};
use crate::config::{Config, ReconcilerConfig};
use crate::http::{self, Limits, OBSERVES, Parts, Server};
use crate::jobs::{KnownLinks, Worker};
use crate::journal::{self, FileDisk, Forwarder, Journal, NatsTarget};
use crate::nats::dead_letter::DeadLetters;
use crate::nats::declaration::StreamError;
use crate::nats::events::Events;
use crate::nats::history::Histories;
use crate::nats::lag::LagReader;
use crate::nats::node::{Node, NodeError, NodeOptions, PublishedJournal};
use crate::nats::publisher::{Publisher, PublisherOptions};
use crate::nats::server_binary::ServerSource;
use crate::nats::watch::Watch;
use crate::node::Phase;
use crate::reconciler::{self, Reconciler};
use crate::store::SledStore;
use crate::trace::Exporting;

/// The reason of `/readyz` and of reads until relink is connected for the first time.
const NATS_NOT_REACHED: &str = "NATS cannot be reached since the start: check that it runs, nats.url (RELINK_NATS_URL) and the login; relink \
     goes on trying, and its log has the error";

/// A running service.
pub struct Service {
    http_address: SocketAddr,
    nats_url: String,
    stop: CancellationToken,
    http: Task<()>,
    proxy: Option<RunningProxy>,
    /// Waits for a NATS that could not be reached at the start.
    waiting: Option<Task<anyhow::Result<()>>>,
    forwarder: Task<()>,
    forwarder_stop: CancellationToken,
    node: Task<Result<(), NodeError>>,
    node_stop: CancellationToken,
    streams: Task<Result<(), StreamError>>,
    /// Tries Belvo's keys once.
    _keys_check: Option<Task<()>>,
    /// Reads what waits in the partitions.
    _lag_reader: Task<()>,
    jobs: Option<Task<()>>,
    reconciler: Option<(Reconciler, Task<()>)>,
    outbound: Vec<Task<()>>,
    publisher: Publisher,
    phase: watch::Receiver<Phase>,
    client: async_nats::Client,
    own_server: Option<OwnServer>,
    watchdog: Watchdog,
    traces: Option<Exporting>,
    stop_timeout: Duration,
    /// The last field: its threads end after everything else.
    _background: Background,
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
    if let Some(repair) = &config.repair {
        tracing::info!(repair.base_url = repair.links.base_url(), "users can repair their links on relink's page");
    }
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
        let background = Background::start(config.service.webhooks_first).context("starting threads")?;
        let store = open_store(config)?;
        let traces = traces::start(config)?;
        let Bus { client, own_server, status: server_status, is_ready, waiting } =
            nats::start(config, server_source, &background).await?;
        let context = jetstream::new(client.clone());
        let subjects = config.nats.subjects.clone();

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
        let proxy = BoundProxy::bind(config).await?;

        let publisher =
            background.call(|| Publisher::start(client.clone(), subjects.clone(), PublisherOptions::default()));
        let dead_letters = DeadLetters::new(context.clone(), subjects.clone());
        let target = NatsTarget { publisher: publisher.clone(), dead_letters: dead_letters.clone() };
        let (journal, forwarder) = open_journal(config, target)?;
        let belvo = belvo_client(config)?;
        if config.service.observe {
            tracing::warn!("{OBSERVES}");
        }
        let repair_links = config.repair.as_ref().map(|repair| repair.links.clone());
        let options = NodeOptions {
            subjects: subjects.clone(),
            partitions: config.nats.streams.partitions,
            owner: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
            policy: config.policy.clone(),
        };
        let (guard, clock) = (MissingGuard::default(), Clock::wall());
        let http_clock = clock.clone();
        let targets = outbound::targets(config, &clock)?;
        let node = Node::new(client.clone(), options, store.clone())
            .with_clock(clock.clone())
            .with_repair_links(repair_links)
            .with_observe(config.service.observe)
            .with_journal(published(journal.clone()))
            .with_spans(config.traces.as_ref().map(|traces| traces.ratio))
            .with_components(config.status_components.clone());
        let (phase, as_of, recreated) = (node.phase(), node.as_of(), node.recreated());
        let activity = node.activity();
        let (open_commit, commits) = (node.open_commit(), node.commits());
        let watchdog = Watchdog::start(node.open_calls(), CALL_MAX, config.service.stop_timeout)?;
        let (stop, node_stop) = (CancellationToken::new(), CancellationToken::new());
        let forwarder_stop = CancellationToken::new();
        let forwarder = background.spawn(forwarder.run(forwarder_stop.clone()));
        let node = background.spawn(after(is_ready.clone(), node_stop.clone(), node.run(node_stop.clone())));
        let watch = Watch::new(context.clone(), subjects.clone(), &config.nats.streams, recreated);
        let not_ready = readiness::collect(Sources {
            phase: phase.clone(),
            open_commit,
            streams: watch.problems(),
            not_stored: publisher.not_stored(),
            server: server_status,
            journal: {
                let (journal, is_ready) = (journal.clone(), is_ready.clone());
                let nats = move || (!*is_ready.borrow()).then(|| NATS_NOT_REACHED.to_owned());
                Box::new(move || journal.problem().or_else(&nats))
            },
        });
        let streams = spawn(after(is_ready.clone(), stop.clone(), watch.run(stop.clone())));
        let lag_reader = LagReader::new(context.clone(), subjects.clone(), config.nats.streams.partitions);
        let lag = lag_reader.lag();
        let lag_reader = spawn(after(is_ready.clone(), stop.clone(), lag_reader.run(stop.clone())));
        let keys_check = belvo.clone().map(|belvo| spawn(probe::check_keys(belvo)));
        let jobs = belvo.clone().map(|belvo| {
            let known = KnownLinks { store: Arc::new(store.clone()), policy: config.policy.clone() };
            let worker = Worker::new(Arc::new(publisher.clone()), belvo, known, guard.clone(), clock.clone());
            let worker = worker.run(context.clone(), subjects.clone(), stop.clone());
            background.spawn(after_correction(clock.clone(), stop.clone(), worker))
        });
        let histories = Histories::new(context.clone(), subjects.clone());
        let events = Events::new(context.clone(), subjects.clone());
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
            let task = background.spawn(after_correction(clock, stop.clone(), sweeps));
            (reconciler, task)
        });
        if jobs.is_none() {
            tracing::warn!(
                "no Belvo keys are configured: relink cannot verify repairs or request missed history. \
                 Set RELINK_BELVO_URL, RELINK_BELVO_SECRET_ID and RELINK_BELVO_SECRET_PASSWORD"
            );
        }
        let proxy = proxy.map(|proxy| proxy.start(config, &journal, stop.clone())).transpose()?;
        let outbound = background.call(|| outbound::start(config, &targets, &context, &dead_letters, &is_ready, &stop));
        let parts = Parts {
            journal,
            dead_letters,
            targets,
            histories,
            events,
            store: Arc::new(store),
            clock: http_clock,
            belvo,
            drift: reconciler.as_ref().map(|(reconciler, _)| reconciler.drift()),
            steps_ended: reconciler.as_ref().map(|(reconciler, _)| reconciler.steps_ended()),
            lag,
            activity,
            as_of,
            commits,
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
            proxy,
            waiting,
            forwarder,
            forwarder_stop,
            node,
            node_stop,
            streams,
            _keys_check: keys_check,
            _lag_reader: lag_reader,
            jobs,
            reconciler,
            outbound,
            publisher,
            phase,
            client,
            own_server,
            watchdog,
            traces,
            stop_timeout: config.service.stop_timeout,
            _background: background,
        })
    }

    /// The address of the HTTP server.
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The address of the proxy for Belvo's API; `None` without one.
    pub fn proxy_address(&self) -> Option<SocketAddr> {
        self.proxy.as_ref().map(RunningProxy::address)
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

    /// Waits until a part ends by itself; in normal operation none does. May be dropped and called again until it returns.
    ///
    /// # Errors
    /// The error that ended the part.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let own_server = async {
            match &mut self.own_server {
                Some(server) => server.ended().await,
                None => std::future::pending().await,
            }
        };
        let proxy = async {
            match &mut self.proxy {
                Some(proxy) => proxy.ended().await,
                None => std::future::pending().await,
            }
        };
        let waited = async {
            match &mut self.waiting {
                Some(waiting) => waiting.await?.context("relink cannot use NATS"),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut self.http => ended.map_err(Into::into).and(Err(anyhow!("the HTTP server ended"))),
            ended = &mut self.node => ended?.context("the partitions ended"),
            ended = waited => ended,
            ended = proxy => Err(ended),
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
        if let Some(proxy) = self.proxy {
            proxy.stop(&budget).await;
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
        for worker in self.outbound {
            if let Ok(ended) = budget.wait("the messages over HTTP", 5, worker).await {
                note(ended.err().map(Into::into));
            }
        }
        self.forwarder_stop.cancel();
        drop(self.waiting);
        let _aborted = budget.wait("the journal", 5, self.forwarder).await;
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
        if let Some(traces) = self.traces {
            traces.stop().await;
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

/// Runs a part as soon as the streams are ready, or to let it end.
async fn after<T>(mut is_ready: watch::Receiver<bool>, stop: CancellationToken, part: impl Future<Output = T>) -> T {
    tokio::select! {
        // An error means that NATS cannot be used; then relink ends.
        Ok(_) = is_ready.wait_for(|is_ready| *is_ready) => {}
        // A part that is stopped when it begins ends at once.
        () = stop.cancelled() => {}
    }
    part.await
}

fn open_journal(config: &Config, target: NatsTarget) -> anyhow::Result<(Journal, Forwarder<FileDisk>)> {
    let directory = config.store.data_dir.join("journal");
    journal::open(&directory, config.journal, Arc::new(target))
        .with_context(|| {
            format!(
                "cannot use the journal in {}: correct the owner and the permissions of its files. Do not delete it or choose another \
                 RELINK_DATA_DIR: it may have webhooks that NATS does not have",
                directory.display()
            )
        })
}

fn published(journal: Journal) -> PublishedJournal {
    PublishedJournal::new(move |now| journal.published_until(now))
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

fn belvo_client(config: &Config) -> anyhow::Result<Option<belvo::Client>> {
    let Some(keys) = &config.belvo.keys else { return Ok(None) };
    let (id, password) = (SecretId(keys.secret_id.clone()), SecretPassword(keys.secret_password.clone()));
    Ok(Some(
        belvo::Client::new(&keys.url, id, password, Timeouts::default())?
            .with_budget(Budget::new(config.belvo.requests_per_30s))
            .reading_only(config.service.observe),
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

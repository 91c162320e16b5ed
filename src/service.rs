//! The service: creates and connects all parts, starts them in order, and stops them in reverse order.
//!
//! ```text
//!   start:  store ─▶ NATS (given, or relink's own) ─▶ streams ─▶ publisher ─▶ partitions ─▶ jobs, reconciler ─▶ HTTP
//!   stop:   HTTP (finishes open requests) ─▶ jobs, reconciler ─▶ publisher (drains) ─▶ partitions (finish the commit, fsync) ─▶ relink's own NATS
//! ```
//!
//! If a part ends by itself, the others are stopped in order and the process ends with the error of that part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::belvo::{self, Budget, MissingGuard, SecretId, SecretPassword, Timeouts};
use crate::clock::Clock;
use crate::config::{Config, NatsConfig, ReconcilerConfig};
use crate::http::{self, Parts, Server};
use crate::jobs::Worker;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::history::Histories;
use crate::nats::node::{Node, NodeError, NodeOptions};
use crate::nats::publisher::{Publisher, PublisherOptions};
use crate::nats::server::{NatsServer, ServerOptions, min_version_check};
use crate::nats::server_binary::{ServerSource, locate};
use crate::nats::{durability, stream};
use crate::node::Phase;
use crate::reconciler::{self, Reconciler};
use crate::store::SledStore;

/// How long the service waits for a part to stop. Every part bounds its own stop, so this limit is reached only by a
/// bug.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A running service.
pub struct Service {
    http_address: SocketAddr,
    nats_url: String,
    stop: CancellationToken,
    http: Task<std::io::Result<()>>,
    node: Task<Result<(), NodeError>>,
    node_stop: CancellationToken,
    jobs: Option<Task<()>>,
    reconciler: Option<(Reconciler, Task<()>)>,
    publisher: Publisher,
    phase: watch::Receiver<Phase>,
    client: async_nats::Client,
    own_server: Option<NatsServer>,
}

type Task<T> = JoinHandle<T>;

/// Runs the service until `shutdown`.
///
/// # Errors
/// The error that prevented the start, or that ended a part.
pub async fn run(config: Config, server_source: ServerSource, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.check_for_serving()?;
    let mut service = Service::start(&config, server_source).await?;
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
        let own_server = own_server(config, server_source).await?;
        let client = connect(&config.nats, own_server.as_ref()).await?;
        min_version_check(&client)?;
        let context = jetstream::new(client.clone());
        let subjects = config.nats.subjects.clone();
        stream::ensure_all(&context, &subjects, &config.nats.streams).await?;
        if own_server.is_none() {
            let monitor = config.nats.monitor_url.as_ref().and_then(|url| url.expose().next());
            durability::warn_where_promises_cannot_be_kept(monitor, config.nats.streams.replicas).await;
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
        let phase = node.phase();
        let (stop, node_stop) = (CancellationToken::new(), CancellationToken::new());
        let node = tokio::spawn(node.run(node_stop.clone()));
        let jobs = belvo.clone().map(|belvo| {
            let worker = Worker::new(Arc::new(publisher.clone()), belvo, guard.clone(), clock.clone());
            tokio::spawn(worker.run(context.clone(), subjects.clone(), stop.clone()))
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
                clock,
            };
            let reconciler = Reconciler::new(reconciler_settings(config), parts);
            let task = tokio::spawn(reconciler.clone().run(ready(phase.clone()), stop.clone()));
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
            ready: ready(phase.clone()),
        };
        let router = http::router(Server::new(config, parts));
        let http = tokio::spawn(http::serve(listener, router, stop.clone()));
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
            jobs,
            reconciler,
            publisher,
            phase,
            client,
            own_server,
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
            ended = &mut self.http => ended?.context("the HTTP server ended"),
            ended = &mut self.node => ended?.context("the partitions ended"),
            ended = own_server => Err(anyhow!(
                "relink's own nats-server ended ({}); its log is nats/nats-server.log in the data directory", ended?
            )),
        }
    }

    /// Stops all parts in order: open requests are answered, the current commit is finished, the store is on the
    /// disk.
    ///
    /// # Errors
    /// The first error; the other parts are stopped anyway.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let mut first_problem = None;
        let mut note = |problem: Option<anyhow::Error>| first_problem = first_problem.take().or(problem);
        if !self.http.is_finished() {
            note(finish("the HTTP server", self.http).await.map_or_else(Some, |ended| ended.err().map(Into::into)));
        }
        if let Some(jobs) = self.jobs {
            note(finish("the jobs", jobs).await.err());
        }
        if let Some((_, task)) = self.reconciler {
            note(finish("the reconciler", task).await.err());
        }
        self.publisher.shutdown().await;
        self.node_stop.cancel();
        if !self.node.is_finished() {
            note(finish("the partitions", self.node).await.map_or_else(Some, |ended| ended.err().map(Into::into)));
        }
        // The last acknowledgements may still be in the client's buffer.
        if let Err(error) = self.client.flush().await {
            note(Some(error.into()));
        }
        if let Some(server) = self.own_server {
            note(server.stop().await.err().map(Into::into));
        }
        first_problem.map_or(Ok(()), Err)
    }
}

async fn finish<T>(part: &str, task: Task<T>) -> anyhow::Result<T> {
    let ended = tokio::time::timeout(STOP_PATIENCE, task).await;
    ended.map_err(|_| anyhow!("{part} did not stop within {} s", STOP_PATIENCE.as_secs()))?.map_err(Into::into)
}

fn open_store(config: &Config) -> anyhow::Result<SledStore> {
    let directory = &config.store.data_dir;
    std::fs::create_dir_all(directory).with_context(|| {
        format!("cannot create the data directory {}: choose another with RELINK_DATA_DIR", directory.display())
    })?;
    let opened = SledStore::open(&directory.join("store"), config.store.cache_bytes)?;
    if let Some((aside, why)) = opened.quarantined {
        tracing::error!(store.kept_at = %aside.display(), why, "the store could not be opened and was moved to quarantine; relink rebuilds it from the stream");
    }
    Ok(opened.store)
}

async fn own_server(config: &Config, source: ServerSource) -> anyhow::Result<Option<NatsServer>> {
    if config.nats.url.is_some() {
        return Ok(None);
    }
    let binary = locate(source).await.context(
        "no NATS is configured and none could be started: set RELINK_NATS_URL to the address of yours, or RELINK_NATS_SERVER to the path of a nats-server",
    )?;
    let options = ServerOptions::new(binary, config.store.data_dir.join("nats"));
    let server = NatsServer::start(options).await?;
    tracing::info!(nats.url = server.url(), "relink has started its own nats-server on a loopback address");
    Ok(Some(server))
}

async fn connect(config: &NatsConfig, own_server: Option<&NatsServer>) -> anyhow::Result<async_nats::Client> {
    let mut options = async_nats::ConnectOptions::new().name("relink");
    if let Some(path) = &config.credentials {
        options = options.credentials_file(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    }
    let addresses: Vec<async_nats::ServerAddr> = match (own_server, &config.url) {
        (Some(server), _) => vec![server.url().parse()?],
        (None, Some(url)) => url.expose().map(str::parse).collect::<Result<_, _>>()?,
        (None, None) => Vec::new(),
    };
    let url = config.url.as_ref().map(ToString::to_string).unwrap_or_default();
    options.connect(addresses).await.with_context(|| {
        format!("cannot connect to NATS at {url}: check that it is running and that RELINK_NATS_URL is right")
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

fn reconciler_settings(config: &Config) -> reconciler::Settings {
    let ReconcilerConfig { sweep_every, rotation, adoption_per_hour } = config.reconciler;
    reconciler::Settings { sweep_every, rotation, adoption_per_hour }
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

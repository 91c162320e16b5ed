//! Runs a nats-server as a child process: for `relink demo`, the tests, the benches, and `relink serve` on a single machine.
//!
//! The server listens on loopback only, has JetStream, and syncs each write before it acknowledges it (`sync_interval: always`). It
//! has its own process group, so that Ctrl-C stops relink alone; relink then stops the server last.
//!
//! The server is killed when [`NatsServer`] is dropped. If relink itself is killed with SIGKILL, the server keeps running (a
//! parent-death signal would need unsafe code). It still holds a file lock, so the next start on the same directory finds it and stops
//! it first. Two servers on one store would damage the store.
//!
//! This file must never install anything (`server_binary.rs` may), listen on other addresses, or sleep for a fixed time.
//! Next: `stream.rs` declares the streams.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_nats::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::nats::connection::Access;
use crate::nats::server_binary::{MINIMUM, ServerVersion};
use crate::nats::server_login::ServerLogin;
use crate::os;

/// How long a start waits for the lock of the store. A process that has just ended may leave it to a child for a moment: a new child has
/// all files of its parent, until it runs its own program.
const OWNER_TIMEOUT: Duration = Duration::from_secs(1);

/// The time limit for a server to become ready: it reads the whole index of its store first.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit for the server of a killed relink process to end.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of the checks for readiness, within [`READY_TIMEOUT`].
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The largest message, in bytes. Above 8 MiB nats-server logs a warning.
const MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// The settings of the server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The path of nats-server, from [`crate::nats::server_binary::locate`].
    pub binary: PathBuf,
    /// The directory of its store, configuration and log. It is created if it is missing; a later start uses the same store.
    pub store_dir: PathBuf,
    /// The port on 127.0.0.1; `None` chooses a free one.
    pub port: Option<u16>,
    /// Whether the server syncs each write before it acknowledges it. With `false`, a host crash loses minutes of messages.
    pub sync_always: bool,
    /// The server's name, in its log and in `INFO`.
    pub name: String,
    /// The login that the server requires; `None`: every program on this machine can connect.
    pub login: Option<ServerLogin>,
    /// Whether to start the HTTP monitor, on a free loopback port.
    pub monitor: bool,
}

impl ServerOptions {
    /// A durable server on a free port, without monitor and without a login.
    pub fn new(binary: impl Into<PathBuf>, store_dir: impl Into<PathBuf>) -> Self {
        let name = "relink".to_owned();
        let (binary, store_dir) = (binary.into(), store_dir.into());
        Self { binary, store_dir, port: None, sync_always: true, name, login: None, monitor: false }
    }

    fn config(&self) -> Result<String, ServerError> {
        let quoted = |path: &Path| match path.to_str() {
            Some(text) => Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))),
            None => Err(ServerError::Path { path: path.to_owned() }),
        };
        let port = self.port.map_or(-1, i32::from);
        let sync = if self.sync_always { "always" } else { "2m" };
        let monitor = if self.monitor { "http: \"127.0.0.1:-1\"\n" } else { "" };
        let login = self.login.as_ref().map(ServerLogin::config).unwrap_or_default();
        let name: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Ok(format!(
            "# Written by relink at every start; changes here do not last.\n\
             server_name: \"{name}\"\n\
             listen: \"127.0.0.1:{port}\"\n\
             {monitor}\
             {login}\
             max_payload: {MAX_PAYLOAD_BYTES}\n\
             ports_file_dir: {ports}\n\
             pid_file: {pid}\n\
             log_file: {log}\n\
             jetstream {{\n  store_dir: {store}\n  sync_interval: {sync}\n}}\n",
            ports = quoted(&self.ports_dir())?,
            pid = quoted(&self.pid_file())?,
            log = quoted(&self.log_file())?,
            store = quoted(&self.store_dir)?,
        ))
    }

    fn url_with_login(&self, url: &str) -> SecretString {
        self.login.as_ref().map_or_else(|| url.into(), |login| login.url(url))
    }

    fn ports_dir(&self) -> PathBuf {
        self.store_dir.join("ports")
    }

    fn pid_file(&self) -> PathBuf {
        self.store_dir.join("nats-server.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.store_dir.join("nats-server.log")
    }

    /// Moves the state of a consumer out of the store, so that the next start of the server begins with an empty one. Returns the new place.
    /// The server must not run.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the state is not where nats-server 2.15 keeps it, or cannot be moved.
    pub fn set_aside_consumer_state(&self, stream: &str, consumer: &str) -> Result<PathBuf, ServerError> {
        // relink's own server has no accounts, so everything is in the default one.
        let streams = self.store_dir.join("jetstream").join("$G").join("streams");
        let state = streams.join(stream).join("obs").join(consumer);
        let kept = self.store_dir.join("damaged-consumers");
        fs::create_dir_all(&kept).map_err(io_error("create", &kept))?;
        let numbered = (1..u32::MAX).map(|n| kept.join(format!("{stream}-{consumer}-{n}")));
        let kept_at = numbered.into_iter().find(|path| !path.exists()).unwrap_or(kept);
        fs::rename(&state, &kept_at).map_err(io_error("move", &state))?;
        Ok(kept_at)
    }
}

/// The reason why the child server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// nats-server reads its configuration as UTF-8.
    #[error("the path {} is not UTF-8, which nats-server needs", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The store directory cannot be prepared, or the process cannot be started.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb of the action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Another relink process uses this store.
    #[error("the NATS store {} is in use by another relink process; stop it, or choose another data directory", store_dir.display())]
    InUse {
        /// The store.
        store_dir: PathBuf,
    },
    /// A server of a killed relink process does not end.
    #[error("a nats-server (process {pid}) of a killed relink still uses {} and does not stop; end it by hand", store_dir.display())]
    Orphan {
        /// The process id, from the pid file.
        pid: String,
        /// The store.
        store_dir: PathBuf,
    },
    /// The server ended before it was ready.
    #[error("nats-server ended at its start ({status}); the end of {}: {log_tail}", log.display())]
    Exited {
        /// The exit status.
        status: ExitStatus,
        /// The path of the log.
        log: PathBuf,
        /// The log's last lines.
        log_tail: String,
    },
    /// Another program uses the port.
    #[error(
        "the port {port} of 127.0.0.1 is in use by another program; stop it, or choose another port with RELINK_NATS_PORT_NUMBER"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The server did not become ready.
    #[error("nats-server was not ready within {seconds} s; see {}", log.display())]
    NotReady {
        /// The time limit, in seconds.
        seconds: u64,
        /// The path of the log.
        log: PathBuf,
    },
    /// The connected server is too old.
    #[error(
        "the NATS server has version {found}, but relink needs {MINIMUM} or newer (2.15 is better: it syncs an atomic batch once); \
         update it, or leave out its address, so that relink runs its own server"
    )]
    TooOld {
        /// The version that the server reports.
        found: String,
    },
    /// The connected server has no JetStream.
    #[error("the NATS server runs without JetStream; start it with `-js` or a `jetstream {{}}` block")]
    NoJetStream,
}

/// Checks that the connected server has the version and the JetStream that relink needs.
///
/// # Errors
/// [`ServerError::TooOld`] below [`MINIMUM`], [`ServerError::NoJetStream`] if JetStream is off. In a cluster it checks only the server
/// of this connection.
pub fn min_version_check(client: &Client) -> Result<ServerVersion, ServerError> {
    let info = client.server_info();
    match ServerVersion::parse(&info.version) {
        Some(version) if version >= MINIMUM && info.jetstream => Ok(version),
        Some(version) if version >= MINIMUM => Err(ServerError::NoJetStream),
        _ => Err(ServerError::TooOld { found: info.version }),
    }
}

/// The file that nats-server writes into `ports_file_dir` once it listens.
#[derive(Debug, Deserialize)]
struct Ports {
    #[serde(default)]
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
}

/// A running nats-server. It is killed when this value is dropped.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    pid: u32,
    url: String,
    monitor_url: Option<String>,
    options: ServerOptions,
    /// The file lock on the store. The operating system releases it when this process ends.
    _owner: File,
}

impl NatsServer {
    /// Starts the server and returns once a client can connect to it.
    ///
    /// # Errors
    /// [`ServerError`]; then no process is left.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let ports_dir = options.ports_dir();
        for directory in [&options.store_dir, &ports_dir] {
            // The caller warns if a directory cannot become private.
            os::create_private_directory(directory).map_err(io_error("create", directory))?;
        }
        let owner = lock_within(OWNER_TIMEOUT, &options.store_dir.join("owner.lock"))
            .await?
            .ok_or_else(|| ServerError::InUse { store_dir: options.store_dir.clone() })?;
        let alive = stop_orphan(&options).await?;
        for stale in fs::read_dir(&ports_dir).map_err(io_error("read", &ports_dir))?.flatten() {
            let _ = fs::remove_file(stale.path());
        }
        // From here on, a pid file always has the id of the process that holds the lock.
        let _ = fs::remove_file(options.pid_file());
        let config = options.store_dir.join("nats-server.conf");
        os::write_private(&config, &options.config()?).map_err(io_error("write", &config))?;

        let mut command = Command::new(&options.binary);
        command.arg("--config").arg(&config).kill_on_drop(true);
        // The child holds its copy of the lock until it ends, also if this process ends first.
        command.stdin(Stdio::from(alive)).stdout(Stdio::null()).stderr(Stdio::null());
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(io_error("run", &options.binary))?;
        let pid = child.id().unwrap_or_default();
        let ports = match timeout(READY_TIMEOUT, ready(&mut child, pid, &options)).await {
            Ok(ready) => ready?,
            Err(_) => {
                return Err(ServerError::NotReady { seconds: READY_TIMEOUT.as_secs(), log: options.log_file() });
            }
        };
        let url = ports.nats.into_iter().next().unwrap_or_default();
        if let Some(login) = &options.login {
            login.write(&options.store_dir, &url).map_err(io_error("write into", &options.store_dir))?;
        }
        tracing::info!(server.url = %url, server.pid = pid, server.store = %options.store_dir.display(), "nats-server is ready");
        Ok(Self { child, pid, url, monitor_url: ports.monitoring.into_iter().next(), options, _owner: owner })
    }

    /// The URL for clients: `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL with user and password, if the server requires them. It is a secret.
    pub fn url_with_login(&self) -> SecretString {
        self.options.url_with_login(&self.url)
    }

    /// The port for clients.
    pub fn port(&self) -> Option<u16> {
        self.url.rsplit_once(':')?.1.parse().ok()
    }

    /// The URL of the HTTP monitor (`/varz`, `/jsz`), if it is on.
    pub fn monitor_url(&self) -> Option<&str> {
        self.monitor_url.as_deref()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The settings of this server. A start with the same settings uses the same store.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// Asks the server to close its store and to end, and kills it if it has not ended after `limit`.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process can neither be stopped nor be killed.
    pub async fn stop(mut self, limit: Duration) -> Result<(), ServerError> {
        let (binary, pid) = (self.options.binary.clone(), self.pid.to_string());
        let stopped = async {
            signal_quit(&binary, &pid).await;
            self.child.wait().await
        };
        match timeout(limit, stopped).await {
            Ok(Ok(status)) => {
                tracing::info!(server.pid = self.pid, server.status = %status, "nats-server has stopped");
                Ok(())
            }
            Ok(Err(source)) => Err(io_error("wait for", &self.options.binary)(source)),
            Err(_) => {
                tracing::warn!(server.pid = self.pid, "nats-server did not stop in time and is killed");
                self.kill().await
            }
        }
    }

    /// Kills the server with SIGKILL, like a crash.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the process cannot be killed.
    pub async fn kill(mut self) -> Result<(), ServerError> {
        self.child.kill().await.map_err(io_error("kill", &self.options.binary))
    }

    /// Waits until the server ends unexpectedly.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the process cannot be watched.
    pub async fn ended(&mut self) -> Result<ExitStatus, ServerError> {
        self.child.wait().await.map_err(io_error("wait for", &self.options.binary))
    }
}

/// Waits for the ports file, and then for a connection. The caller sets the time limit.
async fn ready(child: &mut Child, pid: u32, options: &ServerOptions) -> Result<Ports, ServerError> {
    let binary = options.binary.file_name().unwrap_or_default().to_string_lossy();
    let ports_file = options.ports_dir().join(format!("{binary}_{pid}.ports"));
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Some(status) = child.try_wait().map_err(io_error("wait for", &options.binary))? {
            let log = options.log_file();
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(5).collect();
            let log_tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
            if let Some(port) = options.port.filter(|_| log_tail.contains("address already in use")) {
                return Err(ServerError::PortInUse { port });
            }
            return Err(ServerError::Exited { status, log, log_tail });
        }
        // An incomplete file does not parse; the next check reads it again.
        let Ok(text) = fs::read_to_string(&ports_file) else { continue };
        let Ok(ports) = serde_json::from_str::<Ports>(&text) else { continue };
        let Some(url) = ports.nats.first() else { continue };
        let Ok(access) = Access::of_urls([options.url_with_login(url).expose_secret()]) else { continue };
        if access.connect(&options.name).await.is_ok_and(|client| client.server_info().jetstream) {
            return Ok(ports);
        }
    }
}

/// Takes the lock of the store. If the server of a killed relink process holds it, that server is stopped first.
async fn stop_orphan(options: &ServerOptions) -> Result<File, ServerError> {
    let path = options.store_dir.join("server.lock");
    if let Some(lock) = try_lock(&path)? {
        return Ok(lock);
    }
    let pid = fs::read_to_string(options.pid_file()).unwrap_or_default().trim().to_owned();
    tracing::warn!(server.pid = pid, "stopping the nats-server of a killed relink process");
    signal_quit(&options.binary, &pid).await;
    let freed = lock_within(ORPHAN_TIMEOUT, &path).await?;
    freed.ok_or_else(|| ServerError::Orphan { pid, store_dir: options.store_dir.clone() })
}

/// Takes a lock, and waits for it if it is held. `None`: it was held for the whole time.
async fn lock_within(limit: Duration, path: &Path) -> Result<Option<File>, ServerError> {
    let free = async {
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            if let Some(lock) = try_lock(path)? {
                return Ok(Some(lock));
            }
        }
    };
    timeout(limit, free).await.unwrap_or(Ok(None))
}

/// Asks a server to end with nats-server's own `--signal`, because a signal needs unsafe code. The caller waits for the end.
async fn signal_quit(binary: &Path, pid: &str) {
    // Without a process id, `--signal` would stop any nats-server on this machine.
    if pid.parse::<u32>().is_err() {
        return;
    }
    let mut command = Command::new(binary);
    command.arg("--signal").arg(format!("quit={pid}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.status().await {
        tracing::warn!(server.pid = pid, %error, "nats-server could not be asked to stop");
    }
}

fn try_lock(path: &Path) -> Result<Option<File>, ServerError> {
    let file = File::create(path).map_err(io_error("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(io_error("lock", path)(source)),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError + use<> {
    let path = path.to_owned();
    move |source| ServerError::Io { action, path, source }
}

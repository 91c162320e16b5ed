//! The processes of a run: relink, a nats-server, and where possible a small disk for the nats-server of relink.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::Client;
use belvo_sandbox::{Control, Sandbox, SandboxConfig};
use relink::clock::TEST_OFFSET_VARIABLE;
use relink::nats::connection::Access;
use relink::nats::server::{NatsServer, ServerOptions};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::load::Shared;
use super::support::binary::{API_TOKEN, WEBHOOK_SECRET, inherited, is_alive, try_signal};

const RELINK: &str = env!("CARGO_BIN_EXE_relink");

/// The size of the disk of relink's own nats-server.
const DISK: &str = "192m";

/// The time limit for what a process has to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(10);

/// More restarts of its own nats-server within ten minutes end relink, as documented.
pub(crate) const OWN_RESTARTS_MAX: u32 = 4;

/// Which nats-server relink uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Kind {
    /// A nats-server of the harness, with `sync_interval: always`.
    External,
    /// The nats-server that relink runs itself.
    Own,
}

/// `RELINK_HTTP_ACKNOWLEDGE`: what relink's answers promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Acknowledge {
    #[default]
    Journal,
    Stream,
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !condition().await.with_context(|| what.to_owned())? {
        ensure!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(POLL).await;
    }
    Ok(())
}

/// A connection to the NATS server with this address, which has the login.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    Ok(Access::of_urls([url])?.connect("harness").await?)
}

/// A running `relink serve`.
#[derive(Debug)]
pub(crate) struct Relink {
    pub(crate) child: Child,
    pub(crate) pid: String,
    log: PathBuf,
    pub(crate) url: String,
}

/// The processes of a run of rounds, and their directory.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) dir: PathBuf,
    /// Holds the mount namespace with the small disk.
    holder: Option<Child>,
    binary: PathBuf,
    pub(crate) nats: Option<NatsServer>,
    port: Option<u16>,
    /// The address of the harness's nats-server, also while it is away; empty if relink runs its own.
    external_url: String,
    pub(crate) relink: Relink,
    /// The setting of the next relink.
    pub(crate) acknowledge: Acknowledge,
    /// The data directory of the present relink.
    pub(crate) data: PathBuf,
    pub(crate) shared: Arc<Shared>,
    /// How often the present relink has had to restart its nats-server.
    pub(crate) own_restarts: u32,
    /// By how many seconds the clock of the next relink is wrong.
    pub(crate) clock_offset: i64,
    /// Stands for Belvo, if relink has its keys.
    belvo: Option<Sandbox>,
    starts: u32,
}

impl World {
    pub(crate) async fn start(
        kind: Kind,
        dir: PathBuf,
        binary: PathBuf,
        has_belvo: bool,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let data = dir.join("data-0");
        fs::create_dir_all(data.join("nats"))?;
        let holder = match kind {
            Kind::Own => small_disk(&data.join("nats")).await?,
            Kind::External => None,
        };
        let child = Command::new("true").spawn()?;
        let relink = Relink { child, pid: String::new(), log: PathBuf::new(), url: String::new() };
        let (nats, port, own_restarts, starts) = (None, None, 0, 0);
        let belvo = if has_belvo { Some(Sandbox::start(SandboxConfig::default()).await?) } else { None };
        let mut world = Self {
            kind,
            dir,
            holder,
            binary,
            nats,
            port,
            external_url: String::new(),
            relink,
            acknowledge: Acknowledge::default(),
            data,
            shared,
            own_restarts,
            clock_offset: 0,
            belvo,
            starts,
        };
        world.start_nats().await?;
        world.start_relink().await?;
        Ok(world)
    }

    /// Starts the nats-server of the harness; relink starts its own.
    pub(crate) async fn start_nats(&mut self) -> Result<()> {
        if self.kind == Kind::External {
            let mut options = ServerOptions::new(&self.binary, self.dir.join("nats"));
            options.port = self.port;
            let server = NatsServer::start(options).await?;
            self.port = server.port();
            server.url().clone_into(&mut self.external_url);
            self.nats = Some(server);
        }
        Ok(())
    }

    /// Starts relink and waits until it listens.
    pub(crate) async fn start_relink(&mut self) -> Result<()> {
        self.relink = self.spawn_relink().await?;
        self.own_restarts = 0;
        self.publish_endpoints()
    }

    /// Makes the present processes known to the load.
    pub(crate) fn publish_endpoints(&self) -> Result<()> {
        let nats = self.nats_url()?;
        self.shared.set_endpoints(|endpoints| {
            endpoints.http.clone_from(&self.relink.url);
            endpoints.acknowledge = self.acknowledge;
            endpoints.nats = nats;
        });
        Ok(())
    }

    pub(crate) async fn spawn_relink(&mut self) -> Result<Relink> {
        self.starts += 1;
        let log = self.dir.join(format!("relink-{}.log", self.starts));
        let mut command = match self.holder.as_ref().and_then(Child::id) {
            Some(holder) => {
                let mut command = Command::new("nsenter");
                command.args(["--target", &holder.to_string(), "--user", "--mount", "--preserve-credentials", RELINK]);
                command
            }
            None => Command::new(RELINK),
        };
        command
            .arg("serve")
            .env_clear()
            .envs(inherited())
            .env("RELINK_NATS_URL", &self.external_url)
            .env("RELINK_HTTP_ACKNOWLEDGE", self.acknowledge.to_string())
            .env("RELINK_NATS_SERVER", &self.binary)
            .env("RELINK_DATA_DIR", &self.data)
            .env("RELINK_LISTEN", "127.0.0.1:0")
            .env("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET)
            .env("RELINK_API_TOKENS", API_TOKEN)
            .env("RELINK_PARTITIONS", "4")
            .env("RELINK_CACHE_BYTES", "8MiB")
            // The checks need the whole history, and a prompt for each episode.
            .env("RELINK_HISTORY", "10000")
            .env("RELINK_POLICY_INCIDENT_LINKS", "0")
            .env("RELINK_POLICY_REMINDER_PAUSE", "1ms")
            .env("RELINK_LOG_FORMAT", "json")
            // A panic of sled would load the debug information of the whole binary (115 MiB) for its backtrace, which is no leak.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .kill_on_drop(true);
        if self.clock_offset != 0 {
            command.env(TEST_OFFSET_VARIABLE, self.clock_offset.to_string());
        }
        if let Some(belvo) = &self.belvo {
            command
                .env("RELINK_BELVO_URL", belvo.url())
                .env("RELINK_BELVO_SECRET_ID", "sandbox")
                .env("RELINK_BELVO_SECRET_PASSWORD", "sandbox")
                .env("RELINK_BELVO_REQUESTS_PER_30S", "10000");
        }
        let mut child = command.spawn()?;
        let pid = child.id().context("a process id")?.to_string();
        let mut url = String::new();
        let listens = until("relink listens", async || {
            let text = fs::read_to_string(&log)?;
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut addresses =
                lines.filter_map(|line| line["http.address"].as_str().map(|address| format!("http://{address}")));
            if let Some(found) = addresses.next() {
                url = found;
                return Ok(true);
            }
            if let Some(status) = child.try_wait()? {
                bail!("relink ended at its start ({status}):\n{text}");
            }
            Ok(false)
        });
        listens.await?;
        Ok(Relink { child, pid, log, url })
    }

    /// The path of a file below the data directory, as this process sees it.
    pub(crate) fn seen(&self, below: &str) -> PathBuf {
        let path = self.data.join(below);
        match self.holder.as_ref().and_then(Child::id) {
            Some(holder) => Path::new(&format!("/proc/{holder}/root")).join(path.strip_prefix("/").unwrap_or(&path)),
            None => path,
        }
    }

    /// The sandbox, if relink has Belvo's keys.
    pub(crate) fn belvo(&self) -> Option<Control> {
        self.belvo.as_ref().map(Sandbox::control)
    }

    pub(crate) fn has_small_disk(&self) -> bool {
        self.holder.is_some()
    }

    fn nats_url(&self) -> Result<String> {
        match self.kind {
            Kind::External => Ok(self.external_url.clone()),
            Kind::Own => Ok(fs::read_to_string(self.seen("nats/url"))?.trim().to_owned()),
        }
    }

    pub(crate) fn nats_pid(&self) -> Result<String> {
        match &self.nats {
            Some(server) => Ok(server.pid().to_string()),
            None => Ok(fs::read_to_string(self.seen("nats/nats-server.pid"))?.trim().to_owned()),
        }
    }

    /// A new connection to NATS.
    pub(crate) async fn client(&self) -> Result<Client> {
        connect(&self.nats_url()?).await
    }

    /// Fails if relink has ended by itself.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        match self.relink.child.try_wait()? {
            Some(status) => bail!("relink ended by itself ({status})"),
            None => Ok(()),
        }
    }

    pub(crate) async fn is_ready(&self, http: &reqwest::Client) -> bool {
        let answer = http.get(format!("{}/readyz", self.relink.url)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// How many messages wait in relink's journal, as `/readyz` says it.
    pub(crate) async fn waiting(&self, http: &reqwest::Client) -> Result<u64> {
        let answer: Value = http.get(format!("{}/readyz", self.relink.url)).send().await?.json().await?;
        answer["journal"]["waiting"].as_u64().with_context(|| format!("no journal.waiting in {answer}"))
    }

    /// The resident memory of relink in bytes; `None` where there is no `/proc`.
    pub(crate) fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.relink.pid)).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }

    /// The last lines of the log of the present relink.
    pub(crate) fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.relink.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Sends SIGTERM, and checks that relink ends with success.
    pub(crate) async fn stop_relink(&mut self) -> Result<()> {
        try_signal("TERM", &self.relink.pid).await;
        let status = self.relink.ended().await?;
        ensure!(status.success(), "a stop ended with {status}");
        Ok(())
    }

    pub(crate) async fn kill_relink(&mut self) -> Result<()> {
        try_signal("KILL", &self.relink.pid).await;
        self.relink.ended().await.map(drop)
    }

    /// Ends all processes of this world.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop_relink().await?;
        if let Some(server) = self.nats.take() {
            server.stop(PATIENCE).await?;
        }
        if let Some(mut holder) = self.holder.take() {
            holder.kill().await?;
        }
        Ok(())
    }
}

impl Drop for World {
    /// After a violation, the nats-server of a killed relink may still run.
    fn drop(&mut self) {
        if self.kind == Kind::Own
            && let Ok(pid) = self.nats_pid()
            && !pid.is_empty()
        {
            let mut kill = std::process::Command::new("kill");
            let _ = kill.args(["-s", "KILL", &pid]).stderr(Stdio::null()).status();
        }
    }
}

impl Relink {
    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        Ok(ended.with_context(|| format!("relink did not end within {PATIENCE:?}"))??)
    }
}

/// Waits until a process has ended.
pub(crate) async fn has_ended(pid: &str) -> Result<()> {
    until("the end of a process", async || Ok(!is_alive(pid).await)).await
}

/// A small file system at this path, in a namespace of its own that needs no privileges; `None` if this machine does not allow it.
async fn small_disk(path: &Path) -> Result<Option<Child>> {
    let quoted = path.display();
    let script =
        format!("mount -t tmpfs -o size={DISK} tmpfs '{quoted}' && touch '{quoted}/.mounted' && exec sleep 1000000");
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(mut holder) = command.spawn() else { return Ok(None) };
    let pid = holder.id().context("a process id")?;
    let mark = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/")?).join(".mounted");
    let mut is_allowed = true;
    until("the small disk", async || {
        is_allowed = holder.try_wait()?.is_none();
        Ok(mark.exists() || !is_allowed)
    })
    .await?;
    let enter = ["--target", &pid.to_string(), "--user", "--mount", "--preserve-credentials", "true"];
    let can_enter = Command::new("nsenter").args(enter).stderr(Stdio::null()).status().await;
    Ok((is_allowed && can_enter.is_ok_and(|status| status.success())).then_some(holder))
}

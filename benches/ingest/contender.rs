//! The measured programs.

use std::fmt;
use std::path::Path;
use std::process::Stdio;

use async_nats::jetstream;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::measure::cpu_seconds;
use crate::support::binary::{Relink, WEBHOOK_SECRET};
use crate::support::{TestNats, nats_server, within};

/// A kind of program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Journal,
    Stream,
    OnePublish,
    Express,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Journal => "relink",
            Self::Stream => "relink, stream",
            Self::OnePublish => "one publish per request",
            Self::Express => "express + PostgreSQL",
        })
    }
}

/// A running program.
pub(crate) struct Contender {
    address: String,
    running: Running,
    directory: TempDir,
}

enum Running {
    Relink(Box<Relink>),
    OnePublish { nats: Box<TestNats>, _server: AbortOnDropHandle<()> },
    Express { node: Box<Child>, postgres: Box<Child> },
}

impl Contender {
    /// Starts a program on a new directory.
    pub(crate) async fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (address, running) = match kind {
            Kind::Journal => relink(directory.path(), "journal").await,
            Kind::Stream => relink(directory.path(), "stream").await,
            Kind::OnePublish => one_publish().await,
            Kind::Express => express(directory.path()).await,
        };
        Self { address, running, directory }
    }

    /// The host and the port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The CPU time of its processes so far. The handler of `OnePublish` runs in the process of the client, so only its server counts.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let processes: Vec<u32> = match &self.running {
            Running::Relink(relink) => {
                relink.child.id().into_iter().flat_map(|pid| [vec![pid], children(pid)].concat()).collect()
            }
            Running::OnePublish { nats, .. } => vec![nats.server.pid()],
            Running::Express { node, postgres } => {
                let postgres = postgres.id().into_iter().flat_map(|pid| [vec![pid], children(pid)].concat());
                node.id().into_iter().chain(postgres).collect()
            }
        };
        processes.iter().filter_map(|pid| cpu_seconds(&pid.to_string())).sum()
    }

    /// Ends the program at once.
    pub(crate) async fn stop(self) {
        match self.running {
            Running::Relink(mut relink) => {
                let servers = relink.child.id().map(children).unwrap_or_default();
                relink.child.kill().await.expect("killed");
                for server in servers {
                    crate::support::binary::try_signal("KILL", &server.to_string()).await;
                }
            }
            Running::OnePublish { .. } => {}
            Running::Express { mut node, mut postgres } => {
                node.kill().await.expect("killed");
                postgres.kill().await.expect("killed");
            }
        }
        drop(self.directory);
    }
}

/// The child processes of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

async fn relink(directory: &Path, acknowledge: &str) -> (String, Running) {
    let server = nats_server().await;
    let more = [
        ("RELINK_HTTP_ACKNOWLEDGE", acknowledge),
        ("RELINK_NATS_SERVER", server.to_str().expect("a path")),
        ("RELINK_WEBHOOKS_FIRST", "true"),
    ];
    let relink = Relink::serve("", directory, &more).await;
    let address = relink.url.trim_start_matches("http://").to_owned();
    (address, Running::Relink(Box::new(relink)))
}

async fn one_publish() -> (String, Running) {
    async fn store(State(context): State<jetstream::Context>, body: Bytes) -> StatusCode {
        let subject = "belvo.webhook.16f68516-bcbc-4cf7-b815-c500d4204e28";
        let Ok(accepted) = context.publish(subject, body).await else { return StatusCode::SERVICE_UNAVAILABLE };
        if accepted.await.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }
    let nats = TestNats::start_with_streams(16).await;
    let router = Router::new().route("/webhooks/belvo", post(store)).with_state(nats.context.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
    (address, Running::OnePublish { nats: Box::new(nats), _server: AbortOnDropHandle::new(server) })
}

/// PostgreSQL with its defaults (it syncs each commit), and the program in `express/`.
async fn express(directory: &Path) -> (String, Running) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ingest/express");
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ingest-express");
    std::fs::create_dir_all(&modules).expect("a directory");
    for file in ["package.json", "server.js"] {
        std::fs::copy(source.join(file), modules.join(file)).expect("a copy");
    }
    run(Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&modules)).await;
    let data = directory.join("postgres");
    // PostgreSQL refuses to run as root.
    let script = std::env::args().skip_while(|argument| argument != "--postgres-user").nth(1);
    let wrap = |program: &str| match &script {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups", program]);
            command
        }
        None => Command::new(program),
    };
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
    run(wrap("initdb").args(["--auth=trust", "--username=bench", "--pgdata"]).arg(&data)).await;
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .and_then(|free| free.local_addr())
        .expect("a free port")
        .port()
        .to_string();
    let mut postgres = wrap("postgres");
    postgres
        .arg("-D")
        .arg(&data)
        .args(["-p", &port, "-k", "", "-h", "127.0.0.1"])
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let postgres = postgres.spawn().expect("PostgreSQL starts");
    let mut node = Command::new("node");
    node.arg("server.js")
        .current_dir(&modules)
        .env("SECRET", WEBHOOK_SECRET)
        .env("PGPORT", &port)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut node = node.spawn().expect("node starts");
    let mut lines = BufReader::new(node.stdout.take().expect("a pipe")).lines();
    let line = within("the express server", lines.next_line()).await.expect("a line").expect("its port");
    (format!("127.0.0.1:{line}"), Running::Express { node: Box::new(node), postgres: Box::new(postgres) })
}

async fn run(command: &mut Command) {
    let output = command.stdout(Stdio::null()).output().await.expect("the program can be run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

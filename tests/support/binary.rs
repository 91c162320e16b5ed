//! The built binary, started like in production.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::within;

pub(crate) const WEBHOOK_SECRET: &str = "Bearer of-the-dashboard";
const RELINK: &str = env!("CARGO_BIN_EXE_relink");
pub(crate) const API_TOKEN: &str = "of-the-application";

/// The environment of this process without `RELINK_*`.
#[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
pub(crate) fn inherited() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| !name.starts_with("RELINK_"))
}

/// An HTTP client for loopback.
pub(crate) fn client() -> reqwest::Client {
    relink::tls::install();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// Sends a signal to a process; returns whether it exists.
pub(crate) async fn try_signal(name: &str, pid: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, pid]).stderr(Stdio::null());
    kill.status().await.expect("a kill command").success()
}

/// Sends a signal to a process that exists.
pub(crate) async fn signal(name: &str, pid: &str) {
    assert!(try_signal(name, pid).await, "process {pid} does not exist");
}

/// Whether a process exists.
pub(crate) async fn is_alive(pid: &str) -> bool {
    try_signal("0", pid).await
}

/// A running `relink serve`.
pub(crate) struct Relink {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// The lines of the log that were read.
    pub(crate) seen: Vec<String>,
    log: mpsc::UnboundedReceiver<String>,
}

impl Relink {
    /// Starts the service with this NATS (empty: its own) and data directory, and waits until its partitions run.
    pub(crate) async fn serve(nats_url: &str, data_dir: &std::path::Path, more: &[(&str, &str)]) -> Self {
        let relink = Self::spawn(&[RELINK, "serve"], nats_url, data_dir, more).await;
        relink.wait_until_ready().await;
        relink
    }

    /// The same, and checks that relink logs this message before it listens.
    pub(crate) async fn serve_after(
        message: &str,
        nats_url: &str,
        data_dir: &std::path::Path,
        more: &[(&str, &str)],
    ) -> Self {
        let relink = Self::serve(nats_url, data_dir, more).await;
        assert!(relink.seen.iter().any(|line| line.contains(message)), "no `{message}` in {:?}", relink.seen);
        relink
    }

    /// The same for a process that may open at most this many files.
    pub(crate) async fn serve_with_descriptors(descriptors: u32, nats_url: &str, data_dir: &std::path::Path) -> Self {
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        let relink = Self::spawn(&["sh", "-c", &script, RELINK, "serve"], nats_url, data_dir, &[]).await;
        relink.wait_until_ready().await;
        relink
    }

    /// Starts the service, which must end by itself before it listens. Returns its status and its log.
    pub(crate) async fn refused(nats_url: &str, data_dir: &std::path::Path) -> (std::process::ExitStatus, String) {
        let mut command = Self::command(&[RELINK, "serve"], nats_url, data_dir, &[]);
        let output = within("the end of relink", command.output()).await.expect("the binary starts");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(program: &[&str], nats_url: &str, data_dir: &std::path::Path, more: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .env_clear()
            .envs(inherited())
            .envs(Some(("RELINK_NATS_URL", nats_url)).filter(|_| !nats_url.is_empty()))
            .env("RELINK_DATA_DIR", data_dir)
            .env("RELINK_LISTEN", "127.0.0.1:0")
            .env("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET)
            .env("RELINK_API_TOKENS", API_TOKEN)
            .env("RELINK_PARTITIONS", "4")
            .env("RELINK_LOG_FORMAT", "json")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts this command, which ends in `relink serve`, and waits until it listens.
    pub(crate) async fn spawn(
        program: &[&str],
        nats_url: &str,
        data_dir: &std::path::Path,
        more: &[(&str, &str)],
    ) -> Self {
        let mut command = Self::command(program, nats_url, data_dir, more);
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("a pipe");
        // The log is always read: relink would wait if the pipe were full.
        let (to_test, log) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = to_test.send(line);
            }
        });
        let mut relink = Self { child, url: String::new(), seen: Vec::new(), log };
        let line = relink.wait_for_log("relink is listening").await;
        let address = line["http.address"].as_str().expect("an address");
        relink.url = format!("http://{address}");
        relink
    }

    /// Waits for a message that starts with this text, and that may be among the lines that were read after the first `read_count`: two
    /// tasks of relink log in any order.
    pub(crate) async fn wait_for_log_after(&mut self, read_count: usize, message: &str) {
        let is_it = |line: &String| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            line["message"].as_str().is_some_and(|text| text.starts_with(message))
        };
        if !self.seen[read_count..].iter().any(is_it) {
            self.wait_for_log(message).await;
        }
    }

    /// Reads the log until a message that starts with this text.
    pub(crate) async fn wait_for_log(&mut self, message: &str) -> serde_json::Value {
        let before = &mut self.seen;
        let search = async {
            while let Some(line) = self.log.recv().await {
                let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                before.push(line);
                if parsed["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                    return parsed;
                }
            }
            panic!("relink ended before it logged `{message}`:\n{}", before.join("\n"));
        };
        within(message, search).await
    }

    /// Waits for the end of the process and reads the rest of its log.
    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        let rest = async {
            while let Some(line) = self.log.recv().await {
                self.seen.push(line);
            }
            self.child.wait().await.expect("a status")
        };
        within("the end of relink", rest).await
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) async fn wait_until_ready(&self) {
        let client = client();
        let ready = async {
            while !client
                .get(format!("{}/readyz", self.url))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("the partitions to run", ready).await;
    }

    /// Waits until `/readyz` answers 503 with a reason that contains this text.
    pub(crate) async fn wait_until_not_ready(&self, client: &reqwest::Client, reason: &str) {
        let not_ready = async {
            loop {
                let answer = client.get(format!("{}/readyz", self.url)).send().await.expect("an answer");
                if answer.status() == 503 && answer.text().await.expect("a body").contains(reason) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(reason, not_ready).await;
    }

    /// Sends a signal to the process.
    pub(crate) async fn signal(&self, name: &str) {
        signal(name, &self.child.id().expect("it runs").to_string()).await;
    }

    /// Waits until relink knows a link. Returns its state.
    pub(crate) async fn wait_for_link(&self, client: &reqwest::Client, link: &str) -> serde_json::Value {
        let url = format!("{}/v1/links/{link}", self.url);
        let known = async {
            loop {
                let answer = client.get(&url).bearer_auth(API_TOKEN).send().await;
                if let Some(answer) = answer.ok().filter(|answer| answer.status().is_success()) {
                    return answer.json().await.expect("JSON");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within("a link to be known", known).await
    }

    /// Posts a webhook. Returns the status of the response, if there is one.
    pub(crate) async fn webhook(&self, client: &reqwest::Client, body: String) -> Option<u16> {
        let request = client.post(format!("{}/webhooks/belvo", self.url)).header("authorization", WEBHOOK_SECRET);
        let answer = request.header("content-type", "application/json").body(body).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// Posts a webhook until it is stored, as Belvo does.
    pub(crate) async fn store_webhook(&self, client: &reqwest::Client, body: String) {
        let stored = async {
            while self.webhook(client, body.clone()).await != Some(200) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within("a webhook to be stored", stored).await;
    }
}

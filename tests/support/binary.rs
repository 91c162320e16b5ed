//! The built binary, started like in production.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::within;

pub(crate) const WEBHOOK_SECRET: &str = "Bearer of-the-dashboard";
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

/// A running `relink serve`.
pub(crate) struct Relink {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// The lines of the log that were read.
    pub(crate) seen: Vec<String>,
    log: Lines<BufReader<ChildStderr>>,
}

impl Relink {
    /// Starts the service with this NATS and data directory, and waits until its partitions run.
    pub(crate) async fn serve(nats_url: &str, data_dir: &std::path::Path, more: &[(&str, &str)]) -> Self {
        Self::serve_by(Command::new(env!("CARGO_BIN_EXE_relink")), None, nats_url, data_dir, more).await
    }

    /// The same, and checks that relink logs this message before it listens.
    pub(crate) async fn serve_after(
        message: &str,
        nats_url: &str,
        data_dir: &std::path::Path,
        more: &[(&str, &str)],
    ) -> Self {
        Self::serve_by(Command::new(env!("CARGO_BIN_EXE_relink")), Some(message), nats_url, data_dir, more).await
    }

    /// The same for a process that may open at most this many files.
    pub(crate) async fn serve_with_descriptors(descriptors: u32, nats_url: &str, data_dir: &std::path::Path) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_relink")]);
        Self::serve_by(shell, None, nats_url, data_dir, &[]).await
    }

    async fn serve_by(
        mut command: Command,
        message_before: Option<&str>,
        nats_url: &str,
        data_dir: &std::path::Path,
        more: &[(&str, &str)],
    ) -> Self {
        command
            .arg("serve")
            .env_clear()
            .envs(inherited())
            .env("RELINK_NATS_URL", nats_url)
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
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("a pipe");
        let mut relink = Self { child, url: String::new(), seen: Vec::new(), log: BufReader::new(stderr).lines() };
        if let Some(message) = message_before {
            relink.wait_for_log(message).await;
        }
        let line = relink.wait_for_log("relink is listening").await;
        let address = line["http.address"].as_str().expect("an address");
        relink.url = format!("http://{address}");
        relink.wait_until_ready().await;
        relink
    }

    /// Reads the log until this message.
    pub(crate) async fn wait_for_log(&mut self, message: &str) -> serde_json::Value {
        let before = &mut self.seen;
        let search = async {
            while let Some(line) = self.log.next_line().await.expect("a log") {
                let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                before.push(line);
                if parsed["message"] == message {
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
            while let Some(line) = self.log.next_line().await.expect("a log") {
                self.seen.push(line);
            }
            self.child.wait().await.expect("a status")
        };
        within("the end of relink", rest).await
    }

    async fn wait_until_ready(&self) {
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

    /// Sends a signal to the process.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().await.expect("a kill command");
        assert!(sent.success());
    }

    /// Posts a webhook. Returns the status of the response, if there is one.
    pub(crate) async fn webhook(&self, client: &reqwest::Client, body: String) -> Option<u16> {
        let request = client.post(format!("{}/webhooks/belvo", self.url)).header("authorization", WEBHOOK_SECRET);
        let answer = request.header("content-type", "application/json").body(body).send().await.ok()?;
        Some(answer.status().as_u16())
    }
}

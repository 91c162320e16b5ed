//! Belvo's official SDKs, unchanged: their conformance suites run through relink's proxy, and the hooks of `examples/` report
//! their errors.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::Command;

use crate::belvo_sdk::{node_sdk, python_sdk};
use crate::foreign::run;
use crate::support::binary::{API_TOKEN, Relink, client};
use crate::support::{TestNats, within};
use crate::{example, rust_example};

/// The sandbox of the suites, and a relink with a proxy in front of it.
struct Scene {
    sandbox: Sandbox,
    relink: Relink,
    proxy: String,
    nats: TestNats,
}

impl Scene {
    async fn start() -> Self {
        // As in the suites: 100 valid links, 20 invalid ones, 10 that require a token.
        let sandbox = Sandbox::start(SandboxConfig::default()).await.expect("a sandbox");
        let control = sandbox.control();
        for number in 0..130 {
            let user = format!("user-{number}");
            let link = control.add_link("erebor_mx_retail", AccessMode::Recurrent, Some(&user)).expect("a link");
            match number {
                0..20 => control.set_status(link, LinkStatus::Invalid).expect("its status"),
                20..30 => control.set_status(link, LinkStatus::TokenRequired).expect("its status"),
                _ => {}
            }
        }
        let nats = TestNats::start().await;
        let url = sandbox.url();
        let settings = [
            ("RELINK_BELVO_URL", url.as_str()),
            ("RELINK_BELVO_SECRET_ID", "sandbox"),
            ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
            ("RELINK_PROXY_LISTEN", "127.0.0.1:0"),
        ];
        let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("data"), &settings).await;
        let address = relink.seen.iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["proxy.address"].as_str().map(str::to_owned)
        });
        let proxy = format!("http://{}", address.expect("relink logs the address of its proxy"));
        Self { sandbox, relink, proxy, nats }
    }

    /// Runs a program to its end. Returns what it printed.
    async fn run(&self, command: &mut Command) -> String {
        command.env("NO_PROXY", "127.0.0.1").env_remove("BELVO_API_URL");
        within("a program", run(command)).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The value of a counter of relink.
    async fn counter(&self, name: &str) -> u64 {
        let answer = client().get(format!("{}/metrics", self.relink.url)).send().await.expect("an answer");
        let metrics = answer.text().await.expect("a body");
        let values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok());
        values.sum()
    }

    /// Checks that the reports of a suite are stored, none of them unreadable.
    async fn check_reports(&mut self) {
        let report =
            |kind: &str, outcome: &str| format!("relink_proxy_reports_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        // The reports follow the calls; a stop waits for them.
        for (kind, least) in [("api_error", 20), ("widget", 4)] {
            let stored = async {
                while self.counter(&report(kind, "stored")).await < least {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            within(kind, stored).await;
            for outcome in ["unreadable", "unavailable"] {
                assert_eq!(self.counter(&report(kind, outcome)).await, 0, "{kind} {outcome}");
            }
        }
        self.relink.signal("TERM").await;
        assert!(self.relink.ended().await.success());
    }
}

fn suite(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/belvo-sandbox/tests/sdk").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_works_through_the_proxy() {
    let folder = python_sdk().await;
    let mut scene = Scene::start().await;
    let mut python = Command::new(folder.join("venv/bin/python"));
    scene.run(python.arg(suite("python.py")).args([&scene.proxy, &scene.sandbox.url()])).await;
    scene.check_reports().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_sdk_works_through_the_proxy() {
    let folder = node_sdk().await;
    let mut scene = Scene::start().await;
    let mut node = Command::new("node");
    scene.run(node.arg(suite("node.mjs")).arg(&scene.proxy).arg(&folder).arg(scene.sandbox.url())).await;
    scene.check_reports().await;
}

/// The hooks of `examples/`, each as a program that needs the addresses of Belvo and of relink, a token, and a link.
async fn hooks() -> [Command; 3] {
    let (python, node) = (python_sdk().await, node_sdk().await);
    // Node looks for modules beside the program.
    let in_node = node.join("report_sdk_errors.mjs");
    std::fs::copy(example("node/report_sdk_errors.mjs"), &in_node).expect("a copy");
    let mut in_python = Command::new(python.join("venv/bin/python"));
    in_python.arg(example("python/report_sdk_errors.py"));
    let mut in_javascript = Command::new("node");
    in_javascript.arg(in_node);
    [in_python, in_javascript, Command::new(rust_example("report_reqwest_errors").await)]
}

/// Without the proxy: the SDKs and reqwest call the sandbox, and the hooks report to relink.
#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_report_the_errors_of_their_clients() {
    let scene = Scene::start().await;
    for mut program in hooks().await {
        let control = scene.sandbox.control();
        let link = control.add_link("heimdall_mx_retail", AccessMode::Recurrent, None).expect("a link").to_string();
        program.args([&scene.sandbox.url(), &scene.relink.url]).arg(API_TOKEN).arg(&link);
        let printed: Value = serde_json::from_str(&scene.run(&mut program).await).expect("JSON");
        assert_eq!(printed[0]["code"], "token_required", "the program gets the error");
        scene.relink.wait_for_link(&client(), &link).await;
        let inputs = scene.nats.read("BELVO").await;
        let report = inputs.into_iter().find_map(|(_, subject, _, body)| subject.ends_with(&link).then_some(body));
        let report: Value = serde_json::from_slice(&report.expect("a report")).expect("JSON");
        assert_eq!((&report["http_status"], &report["path"]), (&json!(428), &json!("/api/accounts/")), "{report}");
        assert_eq!(report["method"].as_str().map(str::to_uppercase).as_deref(), Some("POST"));
        assert_eq!(report["link_id"], link.as_str());
    }
    assert_eq!(scene.counter("relink_http_inputs_total{kind=\"api_error\",outcome=\"stored\"}").await, 3);
}

/// relink is away, or takes the connection and never answers: the program gets its answer first, and the log has a line.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_breaks_and_delays_no_call_while_relink_is_away() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.expect("a sandbox");
    let link = sandbox.control().add_link("heimdall_mx_retail", AccessMode::Recurrent, None).expect("a link");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    // A port that is taken, so that no other test gets it, and on which nothing listens.
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let addresses = [silent.local_addr(), closed.local_addr()];
    let addresses = addresses.map(|address| format!("http://{}", address.expect("an address")));
    for (address, is_silent) in addresses.iter().zip([true, false]) {
        for hook in hooks().await {
            // Both outputs in one pipe, to see their order.
            let mut program = Command::new("sh");
            program.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(hook.as_std().get_program());
            program.args(hook.as_std().get_args()).args([&sandbox.url(), address]).arg(API_TOKEN).arg(link.to_string());
            program.env("NO_PROXY", "127.0.0.1").env_remove("BELVO_API_URL").env("PYTHONUNBUFFERED", "1");
            let mut running = program.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
            let mut printed = BufReader::new(running.stdout.take().expect("a pipe")).lines();
            // The report is open and gets no answer. The program has its own answer all the same.
            let report = async { if is_silent { Some(silent.accept().await.expect("a report")) } else { None } };
            let (line, report) = within("both", async { tokio::join!(printed.next_line(), report) }).await;
            let mut lines = vec![line.expect("UTF-8").expect("a line")];
            drop(report);
            while let Some(line) = within("a line", printed.next_line()).await.expect("UTF-8") {
                lines.push(line);
            }
            // Two threads of Python may print on one line.
            let is_log = |line: &String| line.contains("relink did not get an error of Belvo");
            assert!(within("the end", running.wait()).await.expect("a status").success(), "{lines:?}");
            assert_eq!(lines.iter().filter(|line| is_log(line)).count(), 1, "{lines:?}");
            // Without a server the report may have failed before the program has printed.
            let answer =
                lines.iter().position(|line| line.contains("token_required")).expect("the program gets the error");
            assert!(answer == 0 || !is_silent, "the call has waited for its report: {lines:?}");
        }
    }
}

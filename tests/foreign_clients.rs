//! What others would write against relink, run for real: the programs in `examples/`, each with the client library of
//! its language.
//!
//! A Python program reports an API error; a node makes a notice of it; subscribers in Python, JavaScript and Rust
//! receive it and see the link's state. Where a library cannot be installed the test fails and says so; it is never
//! skipped.

mod foreign;
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use relink::link::{Policy, PolicySettings};
use relink::nats::node::{Node, NodeOptions};
use relink::nats::subject::Subjects;
use relink::node::Phase;
use relink::store::MemoryStore;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use foreign::{installed, run};
use support::{TestNats, within};

const PARTITIONS: u16 = 4;
const LINK: &str = "30cb4806-6e00-48a4-91c9-ca55968576c8";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the examples are there")
}

/// Python with what `examples/python/requirements.txt` asks for.
async fn python() -> PathBuf {
    let requirements = example("python/requirements.txt");
    let wanted = text(&requirements);
    let folder = installed(wanted.trim(), async |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv"))).await?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
        run(Command::new(folder.join("venv/bin/python")).args(pip).arg(&requirements)).await.map(drop)
    });
    folder.await.join("venv/bin/python")
}

/// A folder with what `examples/node/package.json` asks for, and the example in it: modules are looked for beside a
/// program.
async fn node_folder() -> PathBuf {
    let package = example("node/package.json");
    let asked: Value = serde_json::from_str(&text(&package)).expect("package.json is JSON");
    let wanted = format!("node {}", asked["dependencies"]);
    let folder = installed(&wanted, async |folder| {
        std::fs::copy(&package, folder.join("package.json")).map_err(|error| error.to_string())?;
        let npm = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        run(Command::new("npm").args(npm).current_dir(folder)).await.map(drop)
    });
    let folder = folder.await;
    std::fs::copy(example("node/subscribe_notices.mjs"), folder.join("subscribe_notices.mjs")).expect("copied");
    folder
}

/// The example, built as cargo builds it: `cargo test --test foreign_clients` alone does not.
async fn rust_example() -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", "subscribe_notices"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(profile.ends_with("release").then_some("--release"));
    build.arg("--target-dir").arg(profile.parent().expect("target"));
    run(&mut build).await.unwrap_or_else(|error| panic!("{error}"));
    profile.join("examples").join(format!("subscribe_notices{}", std::env::consts::EXE_SUFFIX))
}

/// Runs a subscriber for one notice; the line it prints.
async fn subscribe(command: &mut Command, nats: &TestNats) -> Value {
    let said = within("a subscriber", run(command.arg(nats.server.url()).arg("1"))).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_language_reports_and_subscribes() {
    let (python, node_folder, rust_example) = (python().await, node_folder().await, rust_example().await);
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let policy = Policy::new(PolicySettings::default()).expect("the defaults are in range");
    let options =
        NodeOptions { subjects: Subjects::default(), partitions: PARTITIONS, owner: "test".to_owned(), policy };
    let node = Node::new(nats.connect().await, options, MemoryStore::default());
    let mut phase = node.phase();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(node.run(shutdown.clone()));
    within("starting the partitions", phase.wait_for(|phase| *phase == Phase::Running))
        .await
        .map(drop)
        .expect("running");

    let report = || {
        let mut command = Command::new(&python);
        command.arg(example("python/report_api_error.py")).arg(LINK).arg(nats.server.url());
        command
    };
    let said = run(&mut report()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said, "stored as message 1\n");
    // Reported again, as a retry would: it is the same fact, and nobody is prompted twice.
    run(&mut report()).await.unwrap_or_else(|error| panic!("{error}"));
    within("the repeat", nats_has(&nats, "LINKS", &format!("link.refused.{LINK}"))).await;
    within("the key-value view", nats_has(&nats, "KV_links", &format!("$KV.links.{LINK}"))).await;

    let expected = json!({
        "id": format!("{LINK}.1.1"), "type": "update_required", "link_id": LINK,
        "external_id": null, "institution": null,
        "action": "provide_token", "state_now": "token_required",
    });
    let mut in_python = Command::new(&python);
    in_python.arg(example("python/subscribe_notices.py"));
    assert_eq!(subscribe(&mut in_python, &nats).await, expected);
    let mut in_javascript = Command::new("node");
    in_javascript.arg(node_folder.join("subscribe_notices.mjs"));
    assert_eq!(subscribe(&mut in_javascript, &nats).await, expected);
    assert_eq!(subscribe(&mut Command::new(rust_example), &nats).await, expected);

    // What they have acknowledged does not come again: the consumers remember.
    for durable in ["prompts-python", "prompts-node", "prompts-rust"] {
        let stream = nats.context.get_stream("LINKS").await.expect("the stream");
        let info = stream.consumer_info(durable).await.expect("the consumer is durable");
        assert_eq!((info.num_pending, info.num_ack_pending), (0, 0), "{durable}");
    }
    shutdown.cancel();
    within("stopping", running).await.expect("no panic").expect("a clean end");
}

/// Waits until a stream has a message on this subject.
async fn nats_has(nats: &TestNats, stream: &str, subject: &str) {
    let stream = nats.context.get_stream(stream).await.expect("the stream");
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while stream.get_last_raw_message_by_subject(subject).await.is_err() {
        look.tick().await;
    }
}

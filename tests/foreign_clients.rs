//! The programs in `examples/`, run with the client library of their language, and Belvo's SDKs (`foreign/sdks.rs`).
//!
//! A Python program reports an API error and a node publishes a notice. Subscribers in Python, JavaScript and Rust
//! receive the notice and read the link's state. If a library cannot be installed, the test fails; it is never
//! skipped.

#[path = "foreign/belvo_sdk.rs"]
mod belvo_sdk;
mod foreign;
#[path = "foreign/late_subscriber.rs"]
mod late_subscriber;
#[path = "foreign/sdks.rs"]
mod sdks;
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use relink::nats::server_login::ServerLogin;
use relink::nats::stream::{StreamSettings, ensure_all};
use relink::nats::subject::Subjects;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::process::Command;

use foreign::{installed, run};
use support::binary::{API_TOKEN, Relink, client, inherited};
use support::{TestNats, message, webhook, within};

const PARTITIONS: u16 = 4;
const LINK: &str = "30cb4806-6e00-48a4-91c9-ca55968576c8";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn in_tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the examples are there")
}

/// A Python with the packages of `examples/python/requirements.txt`.
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

/// A directory with the packages of a `package.json` and a copy of the program: Node looks for modules beside the program.
/// A program in TypeScript is compiled, with all checks of its types.
async fn node_program(package: PathBuf, program: PathBuf) -> PathBuf {
    let asked: Value = serde_json::from_str(&text(&package)).expect("package.json is JSON");
    let wanted = format!("node {} {}", asked["dependencies"], asked["devDependencies"]);
    let folder = installed(&wanted, async |folder| {
        std::fs::copy(&package, folder.join("package.json")).map_err(|error| error.to_string())?;
        let npm = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        run(Command::new("npm").args(npm).current_dir(folder)).await.map(drop)
    });
    let folder = folder.await;
    let copied = folder.join(program.file_name().expect("a file"));
    std::fs::copy(&program, &copied).expect("copied");
    if copied.extension().is_some_and(|extension| extension == "ts") {
        std::fs::copy(program.with_file_name("tsconfig.json"), folder.join("tsconfig.json")).expect("copied");
        let compiled = run(Command::new("npx").args(["--no-install", "tsc"]).current_dir(&folder)).await;
        compiled.unwrap_or_else(|error| panic!("{error}"));
        return copied.with_extension("js");
    }
    copied
}

/// Builds the example in Rust: `cargo test --test foreign_clients` alone does not.
async fn rust_example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(profile.ends_with("release").then_some("--release"));
    build.arg("--target-dir").arg(profile.parent().expect("target"));
    // Cargo sets these variables for a test. A build script that watches them, such as ring's, would run again, and
    // everything that depends on it would be built again.
    let of_this_package = inherited().map(|(name, _)| name).filter(|name| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "OUT_DIR"].iter().any(|of| name.starts_with(of))
    });
    of_this_package.for_each(|name| {
        build.env_remove(name);
    });
    run(&mut build).await.unwrap_or_else(|error| panic!("{error}"));
    profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs a subscriber until it has handled `notices` notices. Returns the messages to users that it printed, one each line.
async fn subscribe(
    command: &mut Command,
    (nats, relink): (&TestNats, &Relink),
    notices: usize,
    file: &Path,
) -> Vec<Value> {
    let url = nats.server.url_with_login();
    command.env("RELINK_URL", &relink.url).env("RELINK_API_TOKEN", API_TOKEN);
    let printed =
        within("a subscriber", run(command.arg(url.expose_secret()).arg(notices.to_string()).arg(file))).await;
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {printed}")))
        .collect()
}

/// The example subscribers, each with the name of its consumer.
async fn subscribers() -> [(&'static str, Command); 3] {
    let node_example = node_program(example("node/package.json"), example("node/subscribe_notices.ts"));
    let (python, node_example, rust_example) =
        (python().await, node_example.await, rust_example("subscribe_notices").await);
    let mut in_python = Command::new(python);
    in_python.arg(example("python/subscribe_notices.py"));
    let mut in_javascript = Command::new("node");
    in_javascript.arg(node_example);
    [("prompts-python", in_python), ("prompts-node", in_javascript), ("prompts-rust", Command::new(rust_example))]
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_in_every_language_report_and_subscribe() {
    let (python, subscribers) = (python().await, subscribers().await);
    // relink's own nats-server requires a login; its address for programs contains it.
    let nats = TestNats::start_with(|server| server.login = Some(ServerLogin::in_directory(&server.store_dir))).await;
    let directory = tempfile::tempdir().expect("a directory");
    let relink = Relink::serve(nats.server.url_with_login().expose_secret(), directory.path(), &[]).await;

    let report = || {
        let mut command = Command::new(&python);
        command.arg(example("python/report_api_error.py")).arg(LINK).arg(nats.server.url_with_login().expose_secret());
        command
    };
    let printed = run(&mut report()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(printed, "stored as message 1\n");
    // A repeated report is the same fact, and does not prompt again.
    run(&mut report()).await.unwrap_or_else(|error| panic!("{error}"));
    within("the repeat", nats_has(&nats, "KV_links", &format!("link.refused.{LINK}"))).await;

    let expected = json!({
        "id": format!("{LINK}.1.1"), "type": "update_required", "external_id": null,
        "links": [{"link_id": LINK, "institution": null, "action": "provide_token"}],
    });
    for (durable, mut subscriber) in subscribers {
        assert_eq!(
            subscribe(&mut subscriber, (&nats, &relink), 1, &nats.dir.path().join(durable)).await,
            std::slice::from_ref(&expected),
            "{durable}"
        );
        // An acknowledged notice is not delivered again: the consumer is durable.
        let stream = nats.context.get_stream("KV_links").await.expect("the stream");
        let info = stream.consumer_info(durable).await.expect("the consumer is durable");
        assert_eq!((info.num_pending, info.num_ack_pending), (0, 0), "{durable}");
    }
    relink.signal("TERM").await;
}

/// The whole service, and a receiver that verifies the notice with the official library of Standard Webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_python_gets_a_notice_over_http() {
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let mut receiver = Command::new(python().await);
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port").port();
    receiver.arg(example("python/receive_notices.py")).args([&port.to_string(), SECRET, "1"]);

    let (nats, directory) = (TestNats::start().await, tempfile::tempdir().expect("a directory"));
    let url = format!("http://127.0.0.1:{port}/relink");
    let settings = [("RELINK_NOTICES_URL", url.as_str()), ("RELINK_NOTICES_SECRETS", SECRET)];
    let mut relink = Relink::serve(nats.server.url_with_login().expose_secret(), directory.path(), &settings).await;
    relink.store_webhook(&client(), webhook(LINK, "invalid_credentials", 1)).await;
    let printed = within("a notice", run(&mut receiver)).await.unwrap_or_else(|error| panic!("{error}"));
    let notice: Value = serde_json::from_str(&printed).expect("one line");
    assert_eq!((&notice["type"], &notice["link"]), (&json!("update_required"), &json!(LINK)));
    relink.signal("TERM").await;
    assert!(relink.ended().await.success(), "{:?}", relink.seen);
}

/// The same in JavaScript, with repeats: a notice is handled once, also by a receiver that is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_javascript_handles_each_notice_once() {
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let program = node_program(example("node/package.json"), example("node/receive_notices.mjs")).await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("an address");
    let (nats, directory) = (TestNats::start().await, tempfile::tempdir().expect("a directory"));
    let sandbox = Sandbox::start(SandboxConfig::default()).await.expect("a sandbox");
    let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).expect("a link");
    sandbox.control().set_status(link, LinkStatus::Invalid).expect("its status");
    let (belvo, link) = (sandbox.url(), link.to_string());
    let (file, url) = (directory.path().join("notices"), format!("http://{address}/relink"));
    let receiver = |count: usize| {
        let mut command = Command::new("node");
        command.arg(&program).args([&address.port().to_string(), SECRET]).arg(&file).arg(count.to_string());
        tokio::spawn(
            async move { within("a receiver", run(&mut command)).await.unwrap_or_else(|error| panic!("{error}")) },
        )
    };
    let settings = [
        ("RELINK_NOTICES_URL", url.as_str()),
        ("RELINK_NOTICES_SECRETS", SECRET),
        ("RELINK_BELVO_URL", &belvo),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
        ("RELINK_REPAIR_BASE_URL", "https://relink.example.com"),
        ("RELINK_REPAIR_KEYS", "the-key-of-these-tests-is-long-enough-for-it"),
    ];
    // Before relink: a notice that is refused is sent again only after a pause.
    let receiving = receiver(1);
    let mut relink =
        Relink::serve(nats.server.url_with_login().expose_secret(), &directory.path().join("data"), &settings).await;
    relink.wait_for_log_after(0, "users can repair their links on relink's page").await;
    relink.store_webhook(&client(), webhook(&link, "invalid_credentials", 1)).await;
    let printed = receiving.await.expect("no panic");
    let first: Value = serde_json::from_str(&printed).expect("one line");
    assert_eq!((&first["type"], &first["link"]), (&json!("update_required"), &json!(link)));
    relink.signal("TERM").await;
    assert!(relink.ended().await.success(), "{:?}", relink.seen);

    // A crash has left a part of a line.
    let whole = std::fs::read_to_string(&file).expect("the file");
    assert_eq!(whole, printed);
    std::fs::write(&file, format!("{whole}{{\"id\": \"torn")).expect("written");
    let again = receiver(1);
    let send = async |id: &str, secret: &str| {
        let signer = standardwebhooks::Webhook::new(secret).expect("a secret");
        let (at, body) = (relink::clock::now().as_millis() / 1_000, json!({"type": "recovered"}).to_string());
        let signature = signer.sign(id, at, body.as_bytes()).expect("a signature");
        let request = || {
            let request = client().post(&url).header("webhook-id", id).header("webhook-timestamp", at.to_string());
            request.header("webhook-signature", &signature).body(body.clone()).send()
        };
        let answered = async {
            loop {
                match request().await {
                    Ok(answer) => return answer.status().as_u16(),
                    // The receiver is starting.
                    Err(_refused) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        within("an answer", answered).await
    };
    let first_id = first["id"].as_str().expect("an id");
    assert_eq!(send("new", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").await, 401);
    assert_eq!(send(first_id, SECRET).await, 204, "a repeat is accepted");
    assert_eq!(send("new", SECRET).await, 204);
    let printed = again.await.expect("no panic");
    assert_eq!(serde_json::from_str::<Value>(&printed).expect("one line"), json!({"id": "new", "type": "recovered"}));
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), format!("{whole}{printed}"));
}

/// The output stream is the bucket: the clients find the states and nothing else, with a longer history than they would create.
#[tokio::test(flavor = "multi_thread")]
async fn key_value_clients_read_the_states() {
    let mut in_python = Command::new(python().await);
    in_python.arg(in_tests("key_value.py"));
    let mut in_javascript = Command::new("node");
    in_javascript.arg(node_program(in_tests("package.json"), in_tests("key_value.mjs")).await);

    let nats = TestNats::start_with(|server| server.login = Some(ServerLogin::in_directory(&server.store_dir))).await;
    let settings = StreamSettings { partitions: PARTITIONS, history_count: 70, ..StreamSettings::default() };
    ensure_all(&nats.context, &Subjects::default(), &settings).await.expect("the streams are declared");
    for version in 1..=80 {
        let states = vec![
            message(format!("$KV.links.{LINK}"), version.to_string()),
            message(format!("link.notice.recovered.{LINK}"), "notice"),
            message("$KV.links.other", "other"),
        ];
        nats.batches().publish_atomic(states).await.expect("stored");
    }
    let history: Vec<String> = (11..=80).map(|version| version.to_string()).collect();
    let expected = json!({
        "get": "80", "history": history, "keys": [LINK, "other"], "watch": {LINK: "80", "other": "other"}, "purged": false,
    });
    for mut client in [in_python, in_javascript] {
        client.arg(nats.server.url_with_login().expose_secret()).arg(LINK);
        let printed = within("a client", run(&mut client)).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), expected);
    }
}

/// The official parser finds nothing in the document, and can read all that it refers to.
#[tokio::test(flavor = "multi_thread")]
async fn the_asyncapi_document_is_valid() {
    let program = node_program(in_tests("package.json"), in_tests("asyncapi.mjs")).await;
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/asyncapi.json");
    let printed = within("the parser", run(Command::new("node").arg(program).arg(document))).await;
    let printed: Value = serde_json::from_str(&printed.unwrap_or_else(|error| panic!("{error}"))).expect("JSON");
    assert_eq!(printed, json!({"version": "3.1.0", "findings": []}));
}

/// Waits until a stream has a message on this subject.
async fn nats_has(nats: &TestNats, stream: &str, subject: &str) {
    let stream = nats.context.get_stream(stream).await.expect("the stream");
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    while stream.get_last_raw_message_by_subject(subject).await.is_err() {
        poll.tick().await;
    }
}

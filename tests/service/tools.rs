//! The commands that work without the service, `replay`, `doctor`, `backup`, `restore` and `rebuild`, against the binary and a real
//! nats-server.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::support::binary::{API_TOKEN, Relink, WEBHOOK_SECRET, client};
use crate::support::{TestNats, webhook, within};

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// Runs a command with the settings of the service.
async fn run(relink: &Relink, nats_url: &str, data: &Path, args: &[&str], more: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
    let listen = relink.url.strip_prefix("http://").expect("an address");
    command.args(args).env_clear().env("RELINK_NATS_URL", nats_url).env("RELINK_DATA_DIR", data);
    command.env("RELINK_LISTEN", listen).env("RELINK_PARTITIONS", "4").env("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET);
    command.env("RELINK_API_TOKENS", API_TOKEN).envs(more.iter().copied());
    within("a command", command.output()).await.expect("relink runs")
}

/// The settings for the simulated Belvo at this address.
fn keys_of<'a>(belvo: &'a str, password: &'a str) -> [(&'static str, &'a str); 3] {
    [("RELINK_BELVO_URL", belvo), ("RELINK_BELVO_SECRET_ID", "sandbox"), ("RELINK_BELVO_SECRET_PASSWORD", password)]
}

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The checks of `doctor` that found this, as name and advice.
fn found<'a>(report: &'a Value, verdict: &str) -> Vec<(&'a str, &'a str)> {
    let checks = report["checks"].as_array().expect("checks").iter();
    let found = checks.filter(|check| check["verdict"] == verdict);
    found
        .map(|check| (check["name"].as_str().unwrap_or_default(), check["advice"].as_str().unwrap_or_default()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_replayed_with_its_own_policy_and_with_another_one() {
    let nats = TestNats::start().await;
    let (url, data) = (nats.server.url(), nats.dir.path().join("relink"));
    let policy = [("RELINK_POLICY_REMINDERS", "1s"), ("RELINK_POLICY_REMINDER_PAUSE", "1s")];
    let relink = Relink::serve(url, &data, &policy).await;
    let mut reminders = nats.client.subscribe(format!("link.notice.reminder.{LINK}")).await.unwrap();
    relink.store_webhook(&client(), webhook(LINK, "token_required", 1)).await;
    within("a reminder", reminders.next()).await.expect("a reminder");

    let span = ["replay", "--from", "1h", "--to", "0s", "--tolerance", "10s"];
    let same = run(&relink, url, &data, &[&span[..], &["--json"]].concat(), &policy).await;
    let same = json_of(&same);
    assert_eq!(
        (&same["differences_count"], &same["links_count"], &same["inputs_count"]),
        (&json!(0), &json!(1), &json!(1))
    );
    let counts = |report: &Value, name: &str| {
        report["types"].as_array().unwrap().iter().find(|row| row["type"] == name).cloned()
    };
    assert_eq!(counts(&same, "reminder").unwrap()["same_count"], 1);

    let file = nats.dir.path().join("calm.toml");
    std::fs::write(&file, "[http]\nlisten = \"127.0.0.1:1\"\n[policy]\nreminders = [\"1day\"]\n").unwrap();
    let other = [&span[..], &["--policy", file.to_str().unwrap()]].concat();
    let text = run(&relink, url, &data, &other, &policy).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("removed  {LINK}  reminder 1  20")), "{text}");
    assert!(text.contains("replayed 1 input of 1 link; nothing was written."), "{text}");

    std::fs::write(&file, "[policy]\nreminder_pauze = \"1s\"\n").unwrap();
    let wrong = run(&relink, url, &data, &other, &policy).await;
    assert_eq!(wrong.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean `policy.reminder_pause`?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_is_wrong_and_says_what_to_do() {
    let nats = TestNats::start().await;
    let (url, data) = (nats.server.url(), nats.dir.path().join("relink"));
    let relink = Relink::serve(url, &data, &[]).await;
    let healthy = ["doctor", "--json", "--data-dir", data.to_str().expect("a text")];
    let healthy = run(&relink, url, &data, &healthy, &[("RELINK_DATA_DIR", "/proc/none")]).await;
    assert!(healthy.status.success(), "{}", String::from_utf8_lossy(&healthy.stdout));
    let report = json_of(&healthy);
    let good: Vec<&str> = found(&report, "ok").into_iter().map(|(name, _)| name).collect();
    for name in [
        "settings",
        "NATS",
        "streams",
        "stream sizes",
        "copies",
        "dead letters",
        "clock of NATS",
        "data directory",
        "service",
        "journal",
    ] {
        assert!(good.contains(&name), "{name}: {report:#}");
    }

    // An operator has changed a stream.
    let mut config = nats.context.get_stream("BELVO").await.unwrap().cached_info().config.clone();
    config.max_age = Duration::from_secs(3600);
    nats.context.update_stream(config).await.unwrap();
    let changed = run(&relink, url, &data, &["doctor", "--json"], &[]).await;
    assert_eq!(changed.status.code(), Some(1));
    let report = json_of(&changed);
    let streams = found(&report, "problem").into_iter().find(|(name, _)| *name == "streams").expect("a problem");
    assert!(streams.1.starts_with("run `nats stream edit BELVO --max-age=2592000s`"), "{streams:?}");

    let wrong = run(&relink, url, &data, &["doctor", "--json"], &[("RELINK_PARTITIONS", "many")]).await;
    assert_eq!(wrong.status.code(), Some(78));
    let report = json_of(&wrong);
    assert!(found(&report, "problem")[0].1.contains("RELINK_PARTITIONS"), "{report:#}");

    let away = run(&relink, "nats://127.0.0.1:1", &data, &["doctor"], &[]).await;
    let text = String::from_utf8(away.stdout).unwrap();
    assert!(
        away.status.code() == Some(1) && text.contains("problem  NATS") && text.contains("-> check that it is running"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_of_belvo_are_named_by_readyz_and_by_doctor() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let nats = TestNats::start().await;
    let (url, data, belvo) = (nats.server.url(), nats.dir.path().join("relink"), sandbox.url());
    let keys = keys_of(&belvo, "wrong");
    let relink = Relink::serve(url, &data, &keys).await;
    let refused = async {
        loop {
            let ready: Value =
                client().get(format!("{}/readyz", relink.url)).send().await.unwrap().json().await.unwrap();
            if let Some(warning) = ready["warnings"][0].as_str() {
                return warning.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(within("a warning", refused).await.starts_with("Belvo refuses the API keys: check belvo.secret_id"));

    let output = run(&relink, url, &data, &["doctor", "--json"], &keys).await;
    assert_eq!(output.status.code(), Some(1));
    let report = json_of(&output);
    let problem = found(&report, "problem").into_iter().find(|(name, _)| *name == "Belvo's keys").expect("a problem");
    assert!(problem.1.contains("belvo.secret_id"), "{problem:?}");
    let service = found(&report, "warning").into_iter().find(|(name, _)| *name == "service").expect("a warning");
    assert!(service.1.contains("belvo.secret_id"), "{service:?}");
    // The widget of the real Belvo beside a sandbox on this machine.
    assert!(
        found(&report, "warning")
            .iter()
            .any(|(name, advice)| *name == "settings" && advice.contains("belvo.widget_url")),
        "{report:#}"
    );
    sandbox.shutdown().await;
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The command orders a read; its output is what the read has found.
#[tokio::test(flavor = "multi_thread")]
async fn verify_prints_what_belvo_has_answered() {
    let nats = TestNats::start().await;
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    sandbox.control().set_status(link, LinkStatus::TokenRequired).unwrap();
    let (url, data, belvo) = (nats.server.url(), nats.dir.path().join("relink"), sandbox.url());
    let keys = keys_of(&belvo, "sandbox");
    let relink = Relink::serve(url, &data, &keys).await;
    let id = link.to_string();
    relink.store_webhook(&client(), webhook(&id, "token_required", 1)).await;
    let verify = async || run(&relink, url, &data, &["verify", &id], &keys).await;
    let broken = text_of(&verify().await);
    assert!(broken.contains("The link is token_required."), "{broken}");
    sandbox.control().set_status(link, LinkStatus::Valid).unwrap();
    let repaired = verify().await;
    assert!(repaired.status.success() && text_of(&repaired).contains("The link is valid."), "{}", text_of(&repaired));
    let again = run(&relink, url, &data, &["verify", &id, "--json"], &keys).await;
    assert_eq!(json_of(&again)["read"]["state"]["body"]["state"], "valid");
    sandbox.shutdown().await;
}

/// As in `relink tail | head -1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_prints_on_ends_when_nobody_reads_it() {
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    relink.store_webhook(&client(), webhook(LINK, "token_required", 1)).await;
    relink.wait_for_link(&client(), LINK).await;
    for args in [&["links", "--watch", "--json"][..], &["institutions", "--watch"], &["tail", "--after", "0"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
        command.args(args).args(["--url", &relink.url, "--token", API_TOKEN]).env_clear();
        let mut program = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("relink starts");
        let mut output = program.stdout.take().expect("a pipe");
        within("its first output", output.read_u8()).await.expect("a byte");
        drop(output);
        // `tail` prints only what is new.
        relink.store_webhook(&client(), webhook("7d3a1c52-5b0e-4f6c-9a55-0c2f6f1f3f10", "token_required", 2)).await;
        let ended = within("its end", program.wait()).await.expect("it ends");
        assert!(ended.success(), "{args:?}: {ended}");
    }
}

/// The three commands while relink runs and while it is stopped, and a relink on what was restored.
#[tokio::test(flavor = "multi_thread")]
async fn the_streams_are_saved_and_restored_and_the_store_is_rebuilt() {
    let nats = TestNats::start().await;
    let (url, data) = (nats.server.url(), nats.dir.path().join("relink"));
    let directory = nats.dir.path().join("backups/1");
    let directory = directory.to_str().expect("UTF-8");
    let mut relink = Relink::serve(url, &data, &[]).await;
    relink.store_webhook(&client(), webhook(LINK, "token_required", 1)).await;
    let before = relink.wait_for_link(&client(), LINK).await;

    let saved = run(&relink, url, &data, &["backup", directory], &[]).await;
    assert!(saved.status.success() && text_of(&saved).contains("saved BELVO: 1 message, "), "{}", text_of(&saved));
    for (refused, why) in [
        (&["backup", directory][..], "BELVO exists already"),
        (&["restore", directory], "relink runs on this data directory: stop it first"),
        (&["rebuild"], "relink runs on this data directory: stop it first"),
    ] {
        let output = run(&relink, url, &data, refused, &[]).await;
        assert!(!output.status.success() && text_of(&output).contains(why), "{refused:?}: {}", text_of(&output));
    }
    relink.signal("TERM").await;
    assert!(relink.ended().await.success(), "{:?}", relink.seen);

    let refused = run(&relink, url, &data, &["restore", directory], &[]).await;
    let names = "NATS has these streams already: BELVO, KV_links, RELINK_DEAD";
    assert!(!refused.status.success() && text_of(&refused).contains(names), "{}", text_of(&refused));
    // A part of a backup deletes nothing.
    let half = nats.dir.path().join("half");
    std::fs::create_dir(&half).unwrap();
    let output = run(&relink, url, &data, &["restore", half.to_str().unwrap(), "--replace"], &[]).await;
    assert!(!output.status.success() && text_of(&output).contains("not a whole backup"), "{}", text_of(&output));
    // A damaged file deletes nothing: its hash shows the damage.
    let snapshot = nats.dir.path().join("backups/1/KV_links/stream.tar.s2");
    let whole = std::fs::read(&snapshot).unwrap();
    let mut damaged = whole.clone();
    damaged.truncate(whole.len() / 2);
    std::fs::write(&snapshot, damaged).unwrap();
    let refused = run(&relink, url, &data, &["restore", directory, "--replace"], &[]).await;
    assert!(!refused.status.success() && text_of(&refused).contains("is damaged"), "{}", text_of(&refused));
    assert!(!data.join("streams.replaced-1").exists());
    // Without the hash, as in a backup of the `nats` program, NATS finds it, and the streams of before come back.
    let hash = snapshot.with_extension("s2.sha256");
    let aside = nats.dir.path().join("hash");
    std::fs::rename(&hash, &aside).unwrap();
    let refused = run(&relink, url, &data, &["restore", directory, "--replace"], &[]).await;
    let words = "NATS has the streams again that it had before";
    assert!(!refused.status.success() && text_of(&refused).contains(words), "{}", text_of(&refused));
    assert!(data.join("streams.replaced-1/KV_links/stream.tar.s2").exists());
    std::fs::rename(&aside, &hash).unwrap();
    std::fs::write(&snapshot, whole).unwrap();

    let restored = run(&relink, url, &data, &["restore", directory, "--replace", "--json"], &[]).await;
    assert!(restored.status.success(), "{}", text_of(&restored));
    let report = json_of(&restored);
    assert_eq!(report["streams"][1]["stream"], "KV_links", "{report}");
    let kept = data.join("streams.replaced-2");
    assert_eq!(report["replaced_in"], kept.to_str().unwrap(), "{report}");
    // What was replaced is a backup too.
    let restored = run(&relink, url, &data, &["restore", kept.to_str().unwrap(), "--discard"], &[]).await;
    assert!(restored.status.success() && text_of(&restored).contains("restored KV_links: "), "{}", text_of(&restored));
    let rebuilt = run(&relink, url, &data, &["rebuild"], &[]).await;
    let aside = data.join("store.replaced-1");
    assert!(rebuilt.status.success() && text_of(&rebuilt).contains("store.replaced-1"), "{}", text_of(&rebuilt));
    assert!(aside.is_dir());

    let relink = Relink::serve(url, &data, &[]).await;
    assert_eq!(relink.wait_for_link(&client(), LINK).await, before);
}

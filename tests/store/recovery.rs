//! The running program, and its store: damaged while relink runs, not readable for this user, or on a full disk.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::binary::{API_TOKEN, Relink, inherited};
use crate::support::{TestNats, within};
use relink::link::{LinkId, StateName};
use relink::store::{Changes, Head, Put, SledStore, Store};
use tokio::process::Command;
use tokio::time::timeout;

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

fn webhook(code: &str) -> String {
    format!(
        r#"{{"webhook_id":"aadf41a1fc8e4f79a49f7f04027ac999","webhook_type":"LINK","process_type":"recurrent_update",
            "webhook_code":"{code}","link_id":"{LINK}","request_id":"00000001-51eb-4350-9c74-5df5ac92a7f6",
            "external_id":"user-{LINK}","data":{{}}}}"#
    )
}

/// Writes links that are not on the stream into a new store, so that it is larger than its cache.
fn fill(store: &Path) {
    let store = SledStore::open(store, 1 << 20).expect("a new store").store;
    let put = |n: usize| {
        let head = Head { state: StateName::Valid, partition: 0, version: 1, deadline: None };
        let id: LinkId = format!("link-{n}").parse().expect("an id");
        // Bytes that the store cannot compress.
        let mut random = fastrand::Rng::with_seed(n as u64);
        Put::of_record(id, head, std::iter::repeat_with(|| random.u8(..)).take(400).collect::<Vec<_>>())
    };
    for from in (0..15_000).step_by(100) {
        let puts = (from..from + 100).map(put).collect();
        store.apply(&Changes { puts, ..Changes::default() }).expect("applied");
    }
    store.checkpoint().expect("written");
}

/// The database file of the store.
fn database(store: &Path) -> PathBuf {
    let mut directories = fs::read_dir(store).expect("the store").map(|entry| entry.expect("an entry").path());
    directories.find(|path| path.is_dir()).expect("a database").join("db")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_damaged_while_relink_runs_is_rebuilt() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let store = data.join("store");
    fs::create_dir_all(&data).expect("a directory");
    tokio::task::block_in_place(|| fill(&store));
    let mut relink = Relink::serve(nats.server.url(), &data, &[("RELINK_CACHE_BYTES", "1MiB")]).await;
    let client = crate::support::binary::client();
    assert_eq!(relink.webhook(&client, webhook("token_required")).await, Some(200));
    let get = async |path: &str| {
        let request = client.get(format!("{}{path}", relink.url)).bearer_auth(API_TOKEN);
        request.send().await.expect("an answer")
    };
    let stored = async {
        while get(&format!("/v1/links/{LINK}")).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the state", stored).await;
    let file = database(&store);
    let length = usize::try_from(fs::metadata(&file).expect("a file").len()).expect("a length");
    let mut damaged = fs::File::options().write(true).open(&file).expect("the file");
    damaged.write_all(&vec![0x5a; length]).expect("written");
    // The first reader of a damaged page finds the damage. Its answer, and the answers during the rebuild, ask the client to try again.
    let answer = get("/v1/links?limit=1000").await;
    let answer = if answer.status() == 200 { get("/v1/links?limit=1000&after=link-5").await } else { answer };
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(relink.webhook(&client, webhook("link_deleted")).await, Some(200), "inputs are taken meanwhile");
    let rebuilt = async {
        loop {
            let answer = get("/v1/links?limit=1000").await;
            if answer.status() == 200 {
                return answer.json::<serde_json::Value>().await.expect("JSON");
            }
            assert_eq!(answer.status(), 503);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let links = within("the rebuild", rebuilt).await;
    let ids: Vec<_> = links["links"].as_array().expect("a list").iter().map(|link| link["link_id"].as_str()).collect();
    assert_eq!(ids, [Some(LINK)], "the store has what the stream has");
    let line = relink
        .wait_for_log("the store is damaged and was moved to quarantine; relink rebuilds it from the stream")
        .await;
    let kept_at = line["store.kept_at"].as_str().expect("a path");
    assert!(Path::new(kept_at).join("db").exists(), "{kept_at}");
    let notices = async {
        while !nats.read("KV_links").await.iter().any(|(_, subject, ..)| subject.starts_with("link.notice.removed.")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the notice of the second webhook", notices).await;
}

/// Starts `relink serve`, which must end by itself, and returns its log. `user`: the numeric user under which it runs.
async fn refused(nats: &TestNats, data: &Path, user: Option<u32>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
    command
        .arg("serve")
        .env_clear()
        .envs(inherited())
        .env("RELINK_NATS_URL", nats.server.url())
        .env("RELINK_DATA_DIR", data)
        .env("RELINK_LISTEN", "127.0.0.1:0")
        .env("RELINK_WEBHOOK_SECRETS", crate::support::binary::WEBHOOK_SECRET)
        .env("RELINK_API_TOKENS", API_TOKEN)
        .kill_on_drop(true);
    if let Some(user) = user {
        command.uid(user);
    }
    let output = within("the end of relink", command.output()).await.expect("the binary starts");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn quarantines(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.to_string_lossy().contains("quarantine")).collect()
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_this_user_may_not_read_is_not_damaged() {
    use std::os::unix::fs::PermissionsExt;
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let store = data.join("store");
    fs::create_dir_all(&data).expect("a directory");
    drop(SledStore::open(&store, 1 << 20).expect("a new store"));
    let file = database(&store);
    let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("permissions");
    allow(0o000);
    // Root may read every file, so a test of root lets relink run as another user.
    let is_root = fs::File::open(&file).is_ok();
    if is_root {
        for directory in [nats.dir.path(), &data, &store] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("permissions");
        }
        fs::set_permissions(store.join("lock"), fs::Permissions::from_mode(0o666)).expect("permissions");
    }
    let log = refused(&nats, &data, is_root.then_some(65_534)).await;
    assert!(log.contains("relink may not read or write") && log.contains("owner"), "{log}");
    assert_eq!(quarantines(&data), Vec::<PathBuf>::new());
    allow(0o600);
    assert_eq!(SledStore::open(&store, 1 << 20).expect("the store opens").quarantined, None);
}

/// Runs relink three times on a disk of 3 MB, in a mount namespace of its own. The store becomes full while relink runs.
#[cfg(target_os = "linux")]
const ON_A_SMALL_DISK: &str = r#"
    mount -t tmpfs -o size=3m none "$RELINK_DATA_DIR" || { echo "no mount"; exit 0; }
    for n in 1 2 3; do "$RELINK" serve; done
    ls "$RELINK_DATA_DIR" | sed 's/^/file: /' >&2
"#;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_relink_with_a_sentence_and_without_a_quarantine_for_each_start() {
    let nats = TestNats::start_with_streams(4).await;
    let publish = |n: usize| {
        let body = webhook("token_required").replace(LINK, &format!("link-{n}"));
        nats.context.publish(format!("belvo.webhook.link-{n}"), body.into())
    };
    for from in (0..4_000).step_by(200) {
        let acks = futures::future::join_all((from..from + 200).map(publish)).await;
        for ack in acks {
            ack.expect("a publish").await.expect("stored");
        }
    }
    let data = nats.dir.path().join("relink");
    fs::create_dir_all(&data).expect("a directory");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK])
        .env_clear()
        .envs(inherited())
        .env("RELINK", env!("CARGO_BIN_EXE_relink"))
        .env("RELINK_NATS_URL", nats.server.url())
        .env("RELINK_DATA_DIR", &data)
        .env("RELINK_LISTEN", "127.0.0.1:0")
        .env("RELINK_PARTITIONS", "4")
        .env("RELINK_WEBHOOK_SECRETS", crate::support::binary::WEBHOOK_SECRET)
        .env("RELINK_API_TOKENS", API_TOKEN)
        .kill_on_drop(true);
    // On a busy machine with an unoptimized relink this takes longer than everything else.
    let output = timeout(Duration::from_secs(300), command.output()).await.expect("three starts end");
    let Some(output) = output.ok().filter(|output| !output.stdout.starts_with(b"no mount")) else {
        eprintln!("skipped: this system does not let the test mount a small disk");
        return;
    };
    let log = String::from_utf8_lossy(&output.stderr);
    if log.contains("unshare:") {
        eprintln!("skipped: {log}");
        return;
    }
    assert_eq!(log.matches("the disk of the store is full").count(), 3, "{log}");
    // What sled leaves behind on a full disk may be a damaged database, but only once.
    assert!(log.matches("file: store.quarantine-").count() <= 1, "{log}");
}

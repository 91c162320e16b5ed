//! The journal of a real relink: webhooks are taken while NATS is away, and published when it is back.

use std::path::Path;
use std::time::Duration;

use crate::support::binary::{API_TOKEN, Relink, WEBHOOK_SECRET, client, signal};
use crate::support::{TestNats, webhook, within};
use relink::nats::server::{NatsServer, ServerOptions};
use serde_json::{Value, json};

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// The status and the body of an answer.
async fn get(relink: &Relink, path: &str) -> (u16, Value) {
    let request = client().get(format!("{}{path}", relink.url)).bearer_auth(API_TOKEN);
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn post_webhook(relink: &Relink, body: String) -> (u16, Value) {
    let request = client().post(format!("{}/webhooks/belvo", relink.url)).header("authorization", WEBHOOK_SECRET);
    let answer = request.body(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn command(relink: &Relink, link: &str, name: &str) {
    let url = format!("{}/v1/links/{link}/commands", relink.url);
    let request = client().post(url).bearer_auth(API_TOKEN).body(json!({"command": name}).to_string());
    assert_eq!(request.send().await.expect("an answer").status(), 202);
}

/// A free port, on which nothing listens.
async fn free_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").port()
}

async fn nats_on(port: Option<u16>, directory: &Path) -> NatsServer {
    let mut options = ServerOptions::new(crate::support::nats_server().await, directory.join("nats"));
    options.port = port;
    NatsServer::start(options).await.expect("nats-server starts")
}

async fn spawn(nats_url: &str, data: &Path) -> Relink {
    Relink::spawn(&[env!("CARGO_BIN_EXE_relink"), "serve"], nats_url, data, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn relink_starts_and_takes_webhooks_while_nats_is_down() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let port = free_port().await;
    let data = directory.path().join("relink");
    let mut relink = spawn(&format!("nats://127.0.0.1:{port}"), &data).await;
    for n in 1..=3 {
        let (status, body) = post_webhook(&relink, webhook(&link(n), "invalid_credentials", n)).await;
        assert_eq!((status, &body["journal"]), (200, &json!(n)));
        assert!(body["message_id"].is_string(), "{body}");
    }
    // An unreadable webhook is kept too.
    let (status, body) = post_webhook(&relink, "not JSON".to_owned()).await;
    assert_eq!((status, &body["journal"]), (400, &json!(4)));
    let (status, body) = get(&relink, "/readyz").await;
    assert_eq!((status, &body["journal"]["waiting"]), (503, &json!(4)), "{body}");
    let metrics = client().get(format!("{}/metrics", relink.url)).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    assert!(metrics.contains("\nrelink_journal_records 4\n"), "{metrics}");
    let (status, body) = get(&relink, "/readyz/inputs").await;
    assert_eq!((status, &body["status"]), (200, &json!("ready")));
    // A read says why there are no links yet, and the log has no error, because nothing has failed.
    let (status, body) = get(&relink, "/v1/links").await;
    let detail = body["detail"].as_str().expect("a detail");
    assert!(status == 503 && detail.contains("NATS cannot be reached since the start: check "), "{body}");
    assert!(!detail.contains("rebuilt"), "{body}");
    relink.wait_for_log_after(0, "a request was refused").await;
    assert!(!relink.seen.iter().any(|line| line.contains("ERROR")), "{:?}", relink.seen);

    // What is on the disk survives the process.
    relink.child.kill().await.expect("killed");
    let relink = spawn(&format!("nats://127.0.0.1:{port}"), &data).await;
    let server = nats_on(Some(port), directory.path()).await;
    relink.wait_until_ready().await;
    for n in 1..=3 {
        let state = relink.wait_for_link(&client(), &link(n)).await;
        assert_eq!(state["link_id"], link(n), "{state}");
    }
    let (_, letters) = get(&relink, "/v1/dead-letters").await;
    assert_eq!(letters["dead_letters"].as_array().map(Vec::len), Some(1), "{letters}");
    let (status, body) = get(&relink, "/readyz").await;
    assert_eq!((status, &body["journal"]["waiting"]), (200, &json!(0)), "{body}");
    server.kill().await.expect("killed");
}

/// The default of SIGXFSZ is the end of the process, without a line in the log.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_file_size_is_an_error_and_not_the_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // 4 MiB, in blocks of 512 bytes. NATS is away, so the journal keeps what it gets.
    let program = ["sh", "-c", "ulimit -f 8192 && exec \"$0\" serve", env!("CARGO_BIN_EXE_relink")];
    let nats_url = format!("nats://127.0.0.1:{}", free_port().await);
    let mut relink = Relink::spawn(&program, &nats_url, &directory.path().join("relink"), &[]).await;
    let client = client();
    let large = |n: usize| webhook(&link(n), "invalid_credentials", n) + &" ".repeat(1_000_000);
    let mut statuses = Vec::new();
    for n in 1..=6 {
        statuses.push(relink.webhook(&client, large(n)).await);
    }
    // The next webhook is in a new file.
    assert_eq!(statuses, [200, 200, 200, 200, 503, 200].map(Some));
    relink.signal("TERM").await;
    assert!(relink.ended().await.success(), "{:?}", relink.seen);
    let is_said = |line: &String| line.contains("the journal cannot be written") && line.contains("File too large");
    assert!(relink.seen.iter().any(is_said), "{:?}", relink.seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_nats_is_away_keeps_the_journal_for_the_next_start() {
    let mut nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let (url, port) = (nats.server.url().to_owned(), nats.server.port());
    nats.kill().await;
    let (status, _) = post_webhook(&relink, webhook(&link(1), "invalid_credentials", 1)).await;
    assert_eq!(status, 200);
    relink.signal("TERM").await;
    let mut relink = relink;
    assert!(relink.ended().await.success());
    assert!(relink.seen.iter().any(|line| line.contains("the next start publishes it")), "{:?}", relink.seen);

    let server = nats_on(port, nats.dir.path()).await;
    let relink = Relink::serve(&url, &data, &[]).await;
    relink.wait_for_link(&client(), &link(1)).await;
    server.kill().await.expect("killed");
}

/// A crash can forget which records are published. Then they are published again, and the links refuse the repeats; also a command,
/// whose body says nothing that would distinguish a repeat from a second command.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_published_again_change_nothing() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let id = link(1);
    assert_eq!(post_webhook(&relink, webhook(&id, "invalid_credentials", 1)).await.0, 200);
    command(&relink, &id, "mute").await;
    command(&relink, &id, "unmute").await;
    let inputs = async |count: usize| {
        let published = async {
            loop {
                let inputs = nats.read("BELVO").await;
                if inputs.len() >= count {
                    return inputs;
                }
            }
        };
        within("the inputs", published).await
    };
    assert_eq!(inputs(3).await.len(), 3);
    let version = |state: &Value| state["version"].as_u64();
    let settled = async |relink: &Relink| {
        let settled = async {
            loop {
                let state = relink.wait_for_link(&client(), &id).await;
                let (_, history) = get(relink, &format!("/v1/links/{id}/history")).await;
                let handled = history["entries"].as_array().map_or(0, Vec::len);
                if version(&state) >= Some(3) {
                    return (state, handled);
                }
            }
        };
        within("the three inputs to be handled", settled).await
    };
    let (before, _) = settled(&relink).await;
    relink.child.kill().await.expect("killed");
    std::fs::remove_file(data.join("journal/published")).expect("the note exists");

    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let repeated = inputs(6).await;
    let id_of = |index: usize| repeated[index].2.get("Relink-Journal").map(ToString::to_string);
    for index in 0..3 {
        assert_eq!(id_of(index), id_of(index + 3), "a repeat has the id of its record");
    }
    let refused = async {
        loop {
            let (_, history) = get(&relink, &format!("/v1/links/{id}/history")).await;
            let entries = history["entries"].as_array().cloned().unwrap_or_default();
            let repeats = entries.iter().filter(|entry| entry.to_string().contains("\"repeated\"")).count();
            if repeats == 3 {
                return;
            }
        }
    };
    within("three refused repeats", refused).await;
    assert_eq!(version(&relink.wait_for_link(&client(), &id).await), version(&before));
}

/// The first copy of a record was refused, because it said nothing new then. In the repeat it would say something.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_refused_changes_nothing_when_it_is_published_again() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let id = link(1);
    for (n, code) in ["invalid_credentials", "invalid_credentials", "token_required"].into_iter().enumerate() {
        assert_eq!(post_webhook(&relink, webhook(&id, code, n)).await.0, 200);
    }
    let entries = async |relink: &Relink, count: usize| {
        let handled = async {
            loop {
                let (_, history) = get(relink, &format!("/v1/links/{id}/history")).await;
                let entries = history["entries"].as_array().cloned().unwrap_or_default();
                if entries.len() >= count {
                    return entries;
                }
            }
        };
        within("the inputs to be handled", handled).await
    };
    assert!(entries(&relink, 3).await.iter().any(|entry| entry.to_string().contains("\"already_known\"")));
    // The history is read from the stream, and the state from the store, which is written later.
    let stored = async {
        loop {
            let link = relink.wait_for_link(&client(), &id).await;
            if link["version"] == 2 {
                return link;
            }
        }
    };
    let before = within("the state", stored).await;
    assert_eq!(before["state"], "token_required");
    relink.child.kill().await.expect("killed");
    std::fs::remove_file(data.join("journal/published")).expect("the note exists");

    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    entries(&relink, 6).await;
    assert_eq!(relink.wait_for_link(&client(), &id).await["version"], before["version"]);
}

/// With the setting, what answers webhooks comes before what handles them while all CPUs are busy.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn threads_behind_the_http_server_have_a_lower_priority() {
    let (nats, directory) = (TestNats::start().await, tempfile::tempdir().unwrap());
    let relink = Relink::serve(nats.server.url(), directory.path(), &[("RELINK_WEBHOOKS_FIRST", "true")]).await;
    let tasks = format!("/proc/{}/task", relink.child.id().unwrap());
    let mut nice_values = std::collections::BTreeMap::<String, std::collections::BTreeSet<i32>>::new();
    for task in std::fs::read_dir(tasks).unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        // proc(5): the name is in parentheses, and the nice value is the 17th field after it.
        let (name, fields) = stat.rsplit_once(") ").unwrap();
        let name = name.split_once('(').unwrap().1.to_owned();
        nice_values.entry(name).or_default().insert(fields.split(' ').nth(16).unwrap().parse().unwrap());
    }
    let own = nice_values["relink"].first().copied().unwrap();
    for (name, nice) in [("journal", own), ("tokio-rt-worker", own), ("background", own.max(10))] {
        assert_eq!(nice_values[name], [nice].into(), "{name}: {nice_values:?}");
    }
}

/// A reminder is due while NATS is away, and the link is muted meanwhile. When NATS is back, the mute comes first.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_has_accepted_comes_before_an_overdue_reminder() {
    let nats = TestNats::start().await;
    let policy = [("RELINK_POLICY_REMINDERS", "3s"), ("RELINK_POLICY_REMINDER_PAUSE", "1s")];
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &policy).await;
    let ids: Vec<_> = (1..=20).map(link).collect();
    for (id, n) in ids.iter().zip(1..) {
        assert_eq!(post_webhook(&relink, webhook(id, "invalid_credentials", n)).await.0, 200);
    }
    let mut due_at = String::new();
    for id in &ids {
        let state = relink.wait_for_link(&client(), id).await;
        assert_eq!(state["episode"]["prompt"], "sent", "{state}");
        due_at = due_at.max(state["due_at"].as_str().expect("a reminder is due").to_owned());
    }
    let server = nats.server.pid().to_string();
    // The connection stays, so the node is ready to go on at once.
    signal("STOP", &server).await;
    for id in &ids {
        command(&relink, id, "mute").await;
    }
    let due_at: jiff::Timestamp = due_at.parse().expect("a time");
    let until_due = due_at.duration_since(jiff::Timestamp::now()).unsigned_abs();
    // The reminders become due, and a node that does not wait plans them.
    tokio::time::sleep(until_due + Duration::from_secs(2)).await;

    signal("CONT", &server).await;
    let all_muted = async {
        for id in &ids {
            while relink.wait_for_link(&client(), id).await["muted"] != true {}
        }
    };
    within("the mutes", all_muted).await;
    for id in &ids {
        let (_, history) = get(&relink, &format!("/v1/links/{id}/history")).await;
        let entries = history["entries"].as_array().expect("entries");
        assert!(entries.len() >= 3 && !entries.iter().any(|entry| entry["type"] == "reminder"), "{history}");
    }
}

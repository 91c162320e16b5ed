//! The node after its streams were restored from a backup, or lost their end: it continues where it was.
//!
//! The backup is that of `relink backup`.

use std::time::Duration;

use relink::nats::backup;
use relink::nats::stream::extent;
use relink::store::{MemoryStore, Store};
use serde_json::{Value, json};

use crate::support::node::{PARTITIONS, RunningNode};
use crate::support::{TestNats, within};

const LINKS: u32 = 30;

/// A stream in files.
struct Backup {
    stream: &'static str,
    directory: tempfile::TempDir,
}

async fn api(nats: &TestNats, subject: String, request: &Value) -> Value {
    let response = nats.client.request(subject, request.to_string().into()).await.expect("a response");
    let response: Value = serde_json::from_slice(&response.payload).expect("JSON");
    assert!(response.get("error").is_none(), "{response}");
    response
}

async fn back_up(nats: &TestNats, stream: &'static str) -> Backup {
    let directory = tempfile::tempdir().expect("a directory");
    within("a backup", backup::save(&nats.context, stream, directory.path(), |_| {})).await.expect("a backup");
    Backup { stream, directory }
}

async fn restore(nats: &TestNats, backup: &Backup) {
    let restored = backup::restore(&nats.context, backup.stream, backup.directory.path(), |_, _| {});
    within("a restore", restored).await.expect("restored");
}

async fn created_ns(nats: &TestNats, stream: &str) -> i128 {
    extent(&nats.context, stream).await.expect("the stream").identity.created_ns
}

/// Breaks the links `from..to`, and waits until the node has handled it.
async fn break_links(nats: &TestNats, from: u32, to: u32) {
    for link in from..to {
        let body = json!({
            "webhook_id": format!("w{link}"), "webhook_type": "LINK", "webhook_code": "token_required",
            "process_type": "recurrent_update", "link_id": format!("link-{link}"), "request_id": format!("r{link}"),
            "external_id": null, "data": {},
        });
        let subject = format!("belvo.webhook.link-{link}");
        let ack = nats.context.publish(subject, body.to_string().into()).await.expect("a publish");
        ack.await.expect("stored");
    }
    within("the prompts", async {
        while count(nats, "link.notice.update_required.*").await < u64::from(to) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Sends a command for a link, and waits until its state has this version.
async fn command(nats: &TestNats, command: &str, link: &str, version: u64) {
    let subject = format!("belvo.command.{link}");
    let ack = nats.context.publish(subject, json!({"command": command}).to_string().into()).await.expect("a publish");
    ack.await.expect("stored");
    within("the state", async {
        while last_state(nats, link).await.1 < version {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The sequence and the version of the last state of a link.
async fn last_state(nats: &TestNats, link: &str) -> (u64, u64) {
    let stream = nats.context.get_stream("KV_links").await.expect("the stream");
    let last = stream.get_last_raw_message_by_subject(&format!("$KV.links.{link}")).await.expect("a state");
    let record: Value = serde_json::from_slice(&last.payload).expect("JSON");
    (last.sequence, record["version"].as_u64().expect("a version"))
}

/// nats-server drops a message whose checksum is wrong. A deletion has the same effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_last_state_is_lost_goes_on_after_the_lost_version() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, 0, LINKS).await;
    command(&nats, "mute", "link-3", 2).await;
    command(&nats, "mute", "link-7", 2).await;
    node.stop().await;
    let (sequence, _) = last_state(&nats, "link-3").await;
    api(&nats, "$JS.API.STREAM.MSG.DELETE.KV_links".to_owned(), &json!({"seq": sequence})).await;
    assert_eq!(last_state(&nats, "link-3").await.1, 1);
    // The store is lost too.
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    let stored = node.store.get(&"link-3".parse().expect("an id")).expect("a store").expect("the link");
    assert_eq!(stored.head.version, 2, "version 2 is not given out again");
    command(&nats, "mute", "link-3", 3).await;
    node.stop().await;
    assert_eq!(last_state(&nats, "link-3").await.1, 3);
}

/// The number of messages with this subject on `KV_links`.
async fn count(nats: &TestNats, filter: &str) -> u64 {
    let request = json!({"subjects_filter": filter});
    let info = api(nats, "$JS.API.STREAM.INFO.KV_links".to_owned(), &request).await;
    let subjects = info["state"]["subjects"].as_object();
    subjects.map_or(0, |subjects| subjects.values().filter_map(Value::as_u64).sum())
}

async fn replace(nats: &TestNats, backup: &Backup) {
    let before = created_ns(nats, backup.stream).await;
    nats.context.delete_stream(backup.stream).await.expect("deleted");
    restore(nats, backup).await;
    assert_ne!(created_ns(nats, backup.stream).await, before, "a restored stream has another creation time");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_no_input_is_handled_again() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, 0, LINKS).await;
    let store = node.stop().await;
    let backups = [back_up(&nats, "BELVO").await, back_up(&nats, "KV_links").await];
    // With the old store, and on another host, where there is none.
    for (round, store) in [(0, store), (1, MemoryStore::default())] {
        for backup in &backups {
            replace(&nats, backup).await;
        }
        let before = extent(&nats.context, "KV_links").await.expect("the stream").last_sequence;
        let node = RunningNode::start(&nats, store).await;
        // A partition that starts at the beginning would refuse the old inputs before it handles this one.
        break_links(&nats, LINKS, LINKS + 1).await;
        let store = node.stop().await;
        assert_eq!(count(&nats, "link.refused.*").await, 0, "round {round}");
        assert_eq!(count(&nats, "link.notice.update_required.*").await, u64::from(LINKS) + 1);
        // Fences and a closing message; a prompt, the state, the offset and a closing message.
        let after = extent(&nats.context, "KV_links").await.expect("the stream").last_sequence;
        assert!(after - before <= u64::from(PARTITIONS) + 1 + 5, "round {round}: {before}, {after}");
        assert_eq!(store.count().expect("a store").values().sum::<u64>(), u64::from(LINKS) + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_of_older_inputs_the_handled_ones_are_not_handled_again() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, 0, 10).await;
    let backup = back_up(&nats, "BELVO").await;
    break_links(&nats, 10, 20).await;
    let store = node.stop().await;
    replace(&nats, &backup).await;
    let node = RunningNode::start(&nats, store).await;
    break_links(&nats, 20, 40).await;
    node.stop().await;
    assert_eq!(count(&nats, "link.refused.*").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_on_an_input_stream_whose_end_is_damaged() {
    let mut nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    break_links(&nats, 0, LINKS).await;
    let store = node.stop().await;
    let messages = nats.dir.path().join("nats/jetstream/$G/streams/BELVO/msgs");
    let last = extent(&nats.context, "BELVO").await.expect("the stream").last_sequence;
    nats.restart_after(|_store| damage(&messages)).await;
    let left = within("the stream", async {
        loop {
            if let Ok(extent) = extent(&nats.context, "BELVO").await {
                break extent.last_sequence;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(left < last, "the damage has removed messages: {left} of {last} are left");
    let node = RunningNode::start(&nats, store).await;
    break_links(&nats, LINKS, LINKS + 10).await;
    node.stop().await;
    assert_eq!(count(&nats, "link.refused.*").await, 0);
}

/// Cuts the last block of messages, flips a bit of what is left, and removes the index, so that the server reads the block.
fn damage(messages: &std::path::Path) {
    let entries = std::fs::read_dir(messages).expect("the directory of the messages");
    let mut blocks: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    blocks.retain(|path| path.extension().is_some_and(|extension| extension == "blk"));
    blocks.sort();
    let block = blocks.last().expect("a block of messages");
    let mut bytes = std::fs::read(block).expect("a readable block");
    bytes.truncate(bytes.len() * 3 / 4);
    let middle = bytes.len() * 2 / 3;
    bytes[middle] ^= 1;
    std::fs::write(block, bytes).expect("a writable block");
    let index = messages.join("index.db");
    if index.exists() {
        std::fs::remove_file(index).expect("removable");
    }
}

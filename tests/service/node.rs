//! The node on a real nats-server: a published input becomes a state and notices on `KV_links`, also across crashes and take-overs.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use relink::clock::{self, Clock};
use relink::contract::{IncidentBody, IncidentChange, NoticeBody, Record};
use relink::link::{StateName, Timestamp};
use relink::nats::commit::take_fences;
use relink::nats::node::NodeError;
use relink::nats::subject::Subjects;
use relink::node::{FenceToTake, fence_message};
use relink::store::{MemoryStore, Store};

use crate::support::node::{PARTITIONS, RunningNode};
use crate::support::{TestNats, within};

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

fn webhook(code: &str, request: u32) -> String {
    format!(
        r#"{{"webhook_id":"aadf41a1fc8e4f79a49f7f04027ac999","webhook_type":"LINK","process_type":"recurrent_update",
            "webhook_code":"{code}","link_id":"{LINK}","request_id":"{request:08}-51eb-4350-9c74-5df5ac92a7f6",
            "external_id":"user-{LINK}","data":{{}}}}"#
    )
}

async fn publish(nats: &TestNats, subject: &str, body: impl Into<String>) {
    let ack = nats.context.publish(subject.to_owned(), body.into().into()).await.expect("a publish");
    ack.await.expect("stored");
}

/// The first `count` messages on `KV_links` with this filter; waits until they exist.
async fn read_output(nats: &TestNats, filter: &str, count: usize) -> Vec<(String, bytes::Bytes)> {
    let stream = nats.context.get_stream("KV_links").await.expect("the stream");
    let config = pull::OrderedConfig { filter_subject: filter.to_owned(), ..pull::OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let messages = consumer.messages().await.expect("messages");
    let collect = messages.take(count).map(|message| {
        let message = message.expect("a message");
        (message.subject.to_string(), message.payload.clone())
    });
    within(filter, collect.collect()).await
}

async fn last_sequence(nats: &TestNats) -> u64 {
    nats.context.get_stream("KV_links").await.expect("the stream").cached_info().state.last_sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_becomes_one_prompt() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("invalid_credentials", 1)).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("invalid_credentials", 1)).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("invalid_credentials", 2)).await;
    let refused = read_output(&nats, &format!("link.refused.{LINK}"), 2).await;
    assert!(refused[0].1.windows(8).any(|w| w == b"repeated"), "{refused:?}");
    assert!(refused[1].1.windows(13).any(|w| w == b"already_known"), "{refused:?}");
    let notices = read_output(&nats, "link.notice.>", 1).await;
    assert_eq!(notices[0].0, format!("link.notice.update_required.{LINK}"));
    let notice: NoticeBody = serde_json::from_slice(&notices[0].1).expect("a notice");
    assert_eq!(notice.external_id.as_deref(), Some(format!("user-{LINK}").as_str()));
    let store = node.stop().await;
    let stored = store.get(&LINK.parse().expect("an id")).expect("a store").expect("the link");
    assert_eq!(stored.parse().expect("a record").version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_input_becomes_a_dead_letter_and_the_partition_goes_on() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), "not json").await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), "").await;
    publish(&nats, &format!("belvo.telepathy.{LINK}"), "{}").await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("link_healed", 1)).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 2)).await;
    read_output(&nats, "link.notice.update_required.*", 1).await;
    let dead = nats.read("RELINK_DEAD").await;
    let subjects: Vec<_> = dead.iter().map(|(_, subject, ..)| subject.as_str()).collect();
    assert_eq!(
        subjects,
        ["relink.dead.malformed", "relink.dead.malformed", "relink.dead.unknown_subject", "relink.dead.unknown_code"]
    );
    assert_eq!(&dead[0].3[..], b"not json");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_nothing_and_publishes_nothing_twice() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    read_output(&nats, "link.offset.*", 1).await;
    let store = node.abort().await;
    publish(&nats, "belvo.webhook.other", webhook("token_required", 2).replace(LINK, "other")).await;
    // After a crash of the host, the store has the content of its last checkpoint, or is lost.
    for store in [store.durable(), MemoryStore::default()] {
        let node = RunningNode::start(&nats, store).await;
        let notices = read_output(&nats, "link.notice.>", 2).await;
        assert_eq!(notices[0].0, format!("link.notice.update_required.{LINK}"));
        assert_eq!(notices[1].0, "link.notice.update_required.other");
        let before = last_sequence(&nats).await;
        let store = node.stop().await;
        assert_eq!(store.count().expect("a store").values().sum::<u64>(), 2);
        assert_eq!(last_sequence(&nats).await, before);
    }
    assert_eq!(read_output(&nats, "link.notice.>", 2).await.len(), 2);
}

/// Writes fences of another owner for these partitions.
async fn take_by_another(nats: &TestNats, partitions: std::ops::Range<u16>) {
    let fence = |partition| {
        let message = fence_message(partition, "another", Timestamp::from_millis(1));
        FenceToTake { partition, expects: None, message }
    };
    let fences = partitions.map(fence).collect();
    take_fences(&nats.batches(), &Subjects::default(), fences, None).await.expect("the fences");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_node_is_refused_and_its_deliveries_are_not_lost() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let first = RunningNode::start(&nats, MemoryStore::default()).await;
    // Another owner takes the partitions, and the first node does not know it yet.
    take_by_another(&nats, 0..PARTITIONS).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    let ended = within("the end of a replaced node", first.task).await.expect("no panic");
    assert!(matches!(ended, Err(NodeError::Fenced)), "{ended:?}");
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    let states = read_output(&nats, "$KV.links.>", 1).await;
    assert_eq!(Record::parse(&states[0].1).expect("a record").version, 1);
    assert_eq!(node.stop().await.count().expect("a store").values().sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_loses_one_partition_goes_on_with_the_others() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    take_by_another(&nats, 1..2).await;
    // After the first refused commit, the node goes on without the partition that it has lost.
    let links = (0..40).map(|link| format!("link-{link}"));
    for id in links.clone() {
        publish(&nats, &format!("belvo.webhook.{id}"), webhook("token_required", 1).replace(LINK, &id)).await;
    }
    let mut of_others = Vec::new();
    for (_, subject, ..) in nats.read("BELVO").await {
        let words: Vec<&str> = subject.split('.').collect();
        if words[1] != "1" {
            of_others.push(words[3].to_owned());
        }
    }
    assert!((1..40).contains(&of_others.len()), "{of_others:?}");
    let states = read_output(&nats, "$KV.links.>", of_others.len()).await;
    let published: BTreeSet<_> = states.iter().map(|(subject, _)| subject.trim_start_matches("$KV.links.")).collect();
    assert_eq!(published, of_others.iter().map(String::as_str).collect());
    node.stop().await;
    // The node wrote nothing for the lost partition. The next node handles its inputs.
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    read_output(&nats, "$KV.links.>", 40).await;
    assert_eq!(node.stop().await.count().expect("a store").values().sum::<u64>(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_whose_commit_is_too_large_becomes_the_only_dead_letter() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    let breaks = async |link: &str| {
        publish(&nats, &format!("belvo.webhook.{link}"), webhook("token_required", 1).replace(LINK, link)).await;
        publish(&nats, &format!("belvo.widget.{link}"), r#"{"event":"started"}"#).await;
    };
    breaks("link-a").await;
    read_output(&nats, "link.notice.update_started.*", 1).await;
    // The stream's limit is a little more than the largest message so far.
    let size = |(_, _, headers, body): &(u64, String, HeaderMap, bytes::Bytes)| {
        let values = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        values.map(|(name, value)| name.to_string().len() + value.as_str().len() + 4).sum::<usize>() + body.len()
    };
    let largest = nats.read("KV_links").await.iter().map(size).max().expect("messages");
    let mut config = nats.context.get_stream("KV_links").await.expect("the stream").cached_info().config.clone();
    config.max_message_size = i32::try_from(largest + 100).expect("a small number");
    nats.context.update_stream(config).await.expect("a smaller limit");
    breaks("link-b").await;
    let institution = "x".repeat(240);
    let large = format!(
        r#"{{"observed_at":"2100-01-01T00:00:00Z","outcome":"found",
            "link":{{"id":"link-b","status":"valid","institution":"{institution}"}}}}"#
    );
    publish(&nats, "belvo.observation.link-b", large.clone()).await;
    breaks("link-c").await;
    let dead = async {
        loop {
            let dead = nats.read("RELINK_DEAD").await;
            if !dead.is_empty() {
                return dead;
            }
        }
    };
    let dead = within("the dead letter", dead).await;
    let letters: Vec<_> = dead.iter().map(|(_, subject, _, body)| (subject.as_str(), &body[..])).collect();
    assert_eq!(letters, [("relink.dead.too_large", large.as_bytes())]);
    // The partitions go on: every link has its prompt and the start of its repair.
    read_output(&nats, "link.notice.update_started.*", 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_stream_that_was_created_again_is_read_from_its_beginning() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    for request in 0..5 {
        publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", request)).await;
    }
    read_output(&nats, &format!("link.refused.{LINK}"), 4).await;
    let store = node.stop().await;
    nats.context.delete_stream("BELVO").await.expect("deleted");
    nats.ensure(PARTITIONS).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("link_deleted", 9)).await;
    let node = RunningNode::start(&nats, store).await;
    read_output(&nats, "link.notice.removed.*", 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_output_stream_is_filled_from_the_store() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    read_output(&nats, "link.notice.>", 1).await;
    let before = read_output(&nats, "$KV.links.>", 1).await;
    let store = node.stop().await;
    nats.context.delete_stream("KV_links").await.expect("deleted");
    nats.ensure(PARTITIONS).await;
    // A stream on which a process has taken a fence is not new.
    take_by_another(&nats, 1..2).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    read_output(&nats, "link.notice.>", 1).await;
    node.abort().await;
    nats.context.delete_stream("KV_links").await.expect("deleted");
    nats.ensure(PARTITIONS).await;
    let node = RunningNode::start(&nats, store).await;
    assert_eq!(read_output(&nats, "$KV.links.>", 1).await, before);
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("link_deleted", 2)).await;
    let states = read_output(&nats, "$KV.links.>", 2).await;
    assert_eq!(Record::parse(&states[1].1).expect("a record").version, 2);
    // The input was not handled again.
    let notices = read_output(&nats, "link.notice.>", 1).await;
    assert_eq!(notices[0].0, format!("link.notice.removed.{LINK}"));
    assert_eq!(node.stop().await.count().expect("a store").values().sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_output_stream_is_filled_from_the_store() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    let before = read_output(&nats, "$KV.links.>", 1).await;
    nats.context.get_stream("KV_links").await.expect("the stream").purge().await.expect("purged");
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("link_deleted", 2)).await;
    let states = read_output(&nats, "$KV.links.>", 2).await;
    assert_eq!(states[0], before[0]);
    assert_eq!(Record::parse(&states[1].1).expect("a record").version, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_publishes_no_state_twice() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    let before = read_output(&nats, "$KV.links.>", 1).await;
    let store = node.stop().await;
    nats.context.delete_stream("KV_links").await.expect("deleted");
    nats.ensure(PARTITIONS).await;
    // An earlier restore was interrupted before the node took the fences.
    publish(&nats, &before[0].0, String::from_utf8_lossy(&before[0].1)).await;
    let node = RunningNode::start(&nats, store).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("link_deleted", 2)).await;
    let states = read_output(&nats, "$KV.links.>", 2).await;
    let versions = states.iter().map(|(_, body)| Record::parse(body).expect("a record").version);
    assert_eq!(versions.collect::<Vec<_>>(), [1, 2]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_without_any_input() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    publish(&nats, &format!("belvo.widget.{LINK}"), r#"{"event":"started","expires_in_seconds":1}"#).await;
    // The token expires after a second, and the attempt has failed.
    let failed = read_output(&nats, "link.notice.update_failed.*", 1).await;
    assert!(String::from_utf8_lossy(&failed[0].1).contains("\"timer\""), "{failed:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_goes_on_after_a_restart_of_the_server() {
    let mut nats = TestNats::start_with_streams(PARTITIONS).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    read_output(&nats, "link.notice.>", 1).await;
    nats.restart().await;
    publish(&nats, "belvo.webhook.x", webhook("token_required", 2).replace(LINK, "x")).await;
    tokio::time::timeout(Duration::from_secs(30), read_output(&nats, "link.notice.>", 2)).await.expect("it goes on");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_at_once_lose_nothing() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let first = RunningNode::start(&nats, MemoryStore::default()).await;
    // The first node still has an open pull at every partition when the second node takes them.
    let second = RunningNode::start(&nats, MemoryStore::default()).await;
    const LINKS: u64 = 200;
    for link in 0..LINKS {
        let id = format!("link-{link}");
        publish(&nats, &format!("belvo.webhook.{id}"), webhook("token_required", 1).replace(LINK, &id)).await;
    }
    let ended = within("the end of a replaced node", first.task).await.expect("no panic");
    assert!(matches!(ended, Err(NodeError::Fenced)), "{ended:?}");
    assert_eq!(read_output(&nats, "$KV.links.>", LINKS as usize).await.len() as u64, LINKS);
    assert_eq!(second.stop().await.count().expect("a store").values().sum::<u64>(), LINKS);
}

fn found(link: &str) -> String {
    format!(
        r#"{{"observed_at":"2026-01-01T00:00:00Z","source":"verify","outcome":"found",
            "link":{{"id":"{link}","institution":"erebor_mx_retail","status":"valid"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_published_once_and_is_known_after_a_loss_of_the_store() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let mut node = RunningNode::start(&nats, MemoryStore::default()).await;
    const LINKS: usize = 20;
    for link in (0..=LINKS).map(|link| format!("link-{link}")) {
        publish(&nats, &format!("belvo.observation.{link}"), found(&link)).await;
    }
    let fails = async |link: usize| {
        let id = format!("link-{link}");
        publish(&nats, &format!("belvo.webhook.{id}"), webhook("invalid_credentials", 1).replace(LINK, &id)).await;
    };
    for link in 0..LINKS {
        fails(link).await;
    }
    let incidents = read_output(&nats, "link.incident.>", 1).await;
    assert_eq!(incidents[0].0, "link.incident.erebor_mx_retail");
    let began: IncidentBody = serde_json::from_slice(&incidents[0].1).expect("an incident");
    assert_eq!((began.change, began.links_count), (IncidentChange::Began, 20));
    // The host crashes, and the store is lost.
    node.abort().await;
    node = RunningNode::start(&nats, MemoryStore::default()).await;
    fails(LINKS).await;
    let mut states = read_output(&nats, &format!("$KV.links.link-{LINKS}"), 2).await;
    let deferred = states.pop().expect("two states");
    let deferred = Record::parse(&deferred.1).expect("a record");
    assert!(deferred.because.incident && deferred.sent.is_empty(), "{deferred:?}");
    assert_eq!(node.stop().await.incidents().expect("a store"), [began]);
    let outputs = nats.read("KV_links").await;
    let count = |prefix: &str| outputs.iter().filter(|(_, subject, ..)| subject.starts_with(prefix)).count();
    assert_eq!((count("link.incident."), count("link.notice.update_required.")), (1, LINKS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_ahead_ends_no_attempt_and_gets_the_time_of_the_server() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let ahead = Duration::from_secs(11 * 60);
    let clock = Clock::steady_from(clock::now().after(ahead));
    let node = RunningNode::start_with_clock(&nats, MemoryStore::default(), clock.clone()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    publish(&nats, &format!("belvo.widget.{LINK}"), r#"{"event":"started","expires_in_seconds":600}"#).await;
    read_output(&nats, &format!("link.notice.update_started.{LINK}"), 1).await;
    // Timers are planned before inputs, so this commit would have the end of the attempt.
    for request in 2..5 {
        let other = format!("other-{request}");
        publish(&nats, &format!("belvo.webhook.{other}"), webhook("token_required", request).replace(LINK, &other))
            .await;
        read_output(&nats, &format!("$KV.links.{other}"), 1).await;
    }
    let store = node.stop().await;
    let stored = store.get(&LINK.parse().expect("an id")).expect("a store").expect("the link");
    assert_eq!(stored.head.state, StateName::Updating);
    assert!(clock.now() < clock::now().after(Duration::from_secs(60)), "jobs and sweeps have the time of the server");
}

//! The node on a real nats-server: from a publish on an input subject to the state and notices on `LINKS`, and what survives.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use relink::contract::{IncidentBody, IncidentNews, NoticeBody, Record};
use relink::link::{Policy, Settings, Timestamp};
use relink::nats::commit::take_fences;
use relink::nats::node::{Node, NodeError, NodeOptions};
use relink::nats::subject::Subjects;
use relink::node::{FenceToTake, Phase, fence_message};
use relink::store::{MemoryStore, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use support::{TestNats, within};

const LANES: u16 = 4;
const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

struct RunningNode {
    store: MemoryStore,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), NodeError>>,
}

impl RunningNode {
    async fn start(nats: &TestNats, store: MemoryStore) -> Self {
        let options = NodeOptions {
            subjects: Subjects::default(),
            partitions: LANES,
            owner: "test".to_owned(),
            policy: Policy::new(Settings { can_verify: true, ..Settings::default() })
                .expect("the defaults are in range"),
        };
        let node = Node::new(nats.connect().await, options, store.clone());
        let mut phase = node.phase();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(node.run(shutdown.clone()));
        let running =
            within("starting the lanes", async { phase.wait_for(|phase| *phase == Phase::Running).await.map(|_| ()) });
        running.await.expect("the node runs");
        Self { store, shutdown, task }
    }

    async fn stop(self) -> MemoryStore {
        self.shutdown.cancel();
        within("stopping", self.task).await.expect("no panic").expect("a clean end");
        self.store
    }

    /// Ends it without any goodbye, as `kill -9` would.
    async fn abort(self) -> MemoryStore {
        self.task.abort();
        let _ = self.task.await;
        self.store
    }
}

fn webhook(code: &str, request: u32) -> String {
    format!(
        r#"{{"webhook_id":"aadf41a1fc8e4f79a49f7f04027ac999","webhook_type":"LINK","process_type":"recurrent_update",
            "webhook_code":"{code}","link_id":"{LINK}","request_id":"{request:08}-51eb-4350-9c74-5df5ac92a7f6",
            "external_id":"user-7","data":{{}}}}"#
    )
}

async fn publish(nats: &TestNats, subject: &str, body: impl Into<String>) {
    let ack = nats.context.publish(subject.to_owned(), body.into().into()).await.expect("a publish");
    ack.await.expect("stored");
}

/// Everything on `LINKS` of these subjects, until `count` have come.
async fn read_output(nats: &TestNats, filter: &str, count: usize) -> Vec<(String, bytes::Bytes)> {
    let stream = nats.context.get_stream("LINKS").await.expect("the stream");
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
    nats.context.get_stream("LINKS").await.expect("the stream").cached_info().state.last_sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_becomes_one_prompt() {
    let nats = TestNats::start_with_streams(LANES).await;
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
    assert_eq!(notice.external_id.as_deref(), Some("user-7"));
    let store = node.stop().await;
    let stored = store.get(&LINK.parse().expect("an id")).expect("a store").expect("the link");
    assert_eq!(stored.parse().expect("a record").version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_set_aside_and_the_lane_goes_on() {
    let nats = TestNats::start_with_streams(LANES).await;
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
async fn a_crash_loses_nothing_and_says_nothing_twice() {
    let nats = TestNats::start_with_streams(LANES).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    read_output(&nats, "link.mark.*", 1).await;
    let store = node.abort().await;
    publish(&nats, "belvo.webhook.other", webhook("token_required", 2).replace(LINK, "other")).await;
    // A host crash on top: the store is what it was at its last checkpoint, or gone.
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

/// Another process takes these partitions, and no process that runs knows of it.
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
    let nats = TestNats::start_with_streams(LANES).await;
    let first = RunningNode::start(&nats, MemoryStore::default()).await;
    // Somebody else takes the lanes; the first node does not know yet.
    take_by_another(&nats, 0..LANES).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    let ended = within("the end of a replaced node", first.task).await.expect("no panic");
    assert!(matches!(ended, Err(NodeError::Fenced)), "{ended:?}");
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    let states = read_output(&nats, "link.state.>", 1).await;
    assert_eq!(Record::parse(&states[0].1).expect("a record").version, 1);
    assert_eq!(node.stop().await.count().expect("a store").values().sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_loses_one_lane_goes_on_with_the_others() {
    let nats = TestNats::start_with_streams(LANES).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    take_by_another(&nats, 1..2).await;
    // Each link's commit is refused or stored; whoever is refused goes on without the lane that was lost.
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
    let states = read_output(&nats, "link.state.>", of_others.len()).await;
    let told: BTreeSet<_> = states.iter().map(|(subject, _)| subject.trim_start_matches("link.state.")).collect();
    assert_eq!(told, of_others.iter().map(String::as_str).collect());
    node.stop().await;
    // Nothing of the lost lane was written, and nothing of it is lost.
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    read_output(&nats, "link.state.>", 40).await;
    assert_eq!(node.stop().await.count().expect("a store").values().sum::<u64>(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_whose_commit_is_too_large_is_set_aside_alone() {
    let nats = TestNats::start_with_streams(LANES).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    let breaks = async |link: &str| {
        publish(&nats, &format!("belvo.webhook.{link}"), webhook("token_required", 1).replace(LINK, link)).await;
        publish(&nats, &format!("belvo.widget.{link}"), r#"{"event":"started"}"#).await;
    };
    breaks("link-a").await;
    read_output(&nats, "link.notice.update_started.*", 1).await;
    // A stream that takes what that came to, and not much more.
    let size = |(_, _, headers, body): &(u64, String, HeaderMap, bytes::Bytes)| {
        let values = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        values.map(|(name, value)| name.to_string().len() + value.as_str().len() + 4).sum::<usize>() + body.len()
    };
    let largest = nats.read("LINKS").await.iter().map(size).max().expect("messages");
    let mut config = nats.context.get_stream("LINKS").await.expect("the stream").cached_info().config.clone();
    config.max_message_size = i32::try_from(largest + 100).expect("a small number");
    nats.context.update_stream(config).await.expect("a smaller limit");
    breaks("link-b").await;
    let institution = "x".repeat(240);
    let large = format!(r#"{{"event":"success","link":"link-b","institution":"{institution}"}}"#);
    publish(&nats, "belvo.widget.link-b", large.clone()).await;
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
    // The lanes go on: of every link the prompt and the start of its repair.
    read_output(&nats, "link.notice.update_started.*", 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_stream_made_anew_is_read_from_its_beginning() {
    let nats = TestNats::start_with_streams(LANES).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    for request in 0..5 {
        publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", request)).await;
    }
    read_output(&nats, &format!("link.refused.{LINK}"), 4).await;
    let store = node.stop().await;
    nats.context.delete_stream("BELVO").await.expect("deleted");
    nats.ensure(LANES).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("link_deleted", 9)).await;
    let node = RunningNode::start(&nats, store).await;
    read_output(&nats, "link.notice.removed.*", 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_knows_more_than_the_stream_is_rebuilt() {
    let nats = TestNats::start_with_streams(LANES).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    read_output(&nats, "link.notice.>", 1).await;
    let store = node.stop().await;
    nats.context.delete_stream("LINKS").await.expect("deleted");
    nats.context.delete_stream("KV_links").await.expect("deleted");
    nats.ensure(LANES).await;
    let node = RunningNode::start(&nats, store).await;
    // Nothing is left of the states, but all of the input is: the story is told again from it.
    read_output(&nats, "link.notice.>", 1).await;
    let store = node.stop().await;
    assert_eq!(store.count().expect("a store").values().sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_without_any_input() {
    let nats = TestNats::start_with_streams(LANES).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    publish(&nats, &format!("belvo.webhook.{LINK}"), webhook("token_required", 1)).await;
    publish(&nats, &format!("belvo.widget.{LINK}"), r#"{"event":"started","expires_in_seconds":1}"#).await;
    // The token dies after a second, and Belvo is asked.
    let jobs = read_output(&nats, "link.job.verify.*", 1).await;
    assert!(String::from_utf8_lossy(&jobs[0].1).contains("\"timer\""), "{jobs:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_go_and_come_back() {
    let mut nats = TestNats::start_with_streams(LANES).await;
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
    let nats = TestNats::start_with_streams(LANES).await;
    let first = RunningNode::start(&nats, MemoryStore::default()).await;
    // The first still has its pulls waiting at every lane when the second takes them.
    let second = RunningNode::start(&nats, MemoryStore::default()).await;
    const LINKS: u64 = 200;
    for link in 0..LINKS {
        let id = format!("link-{link}");
        publish(&nats, &format!("belvo.webhook.{id}"), webhook("token_required", 1).replace(LINK, &id)).await;
    }
    let ended = within("the end of a replaced node", first.task).await.expect("no panic");
    assert!(matches!(ended, Err(NodeError::Fenced)), "{ended:?}");
    assert_eq!(read_output(&nats, "link.state.>", LINKS as usize).await.len() as u64, LINKS);
    assert_eq!(second.stop().await.count().expect("a store").values().sum::<u64>(), LINKS);
}

fn found(link: &str) -> String {
    format!(
        r#"{{"observed_at":"2026-01-01T00:00:00Z","source":"verify","outcome":"found",
            "link":{{"id":"{link}","institution":"erebor_mx_retail","status":"valid"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_told_once_and_outlives_the_store() {
    let nats = TestNats::start_with_streams(LANES).await;
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
    let told = read_output(&nats, "link.incident.>", 1).await;
    assert_eq!(told[0].0, "link.incident.erebor_mx_retail");
    let began: IncidentBody = serde_json::from_slice(&told[0].1).expect("an incident");
    assert_eq!((began.news, began.links_count), (IncidentNews::Began, 20));
    // The host crashes and takes the store with it.
    node.abort().await;
    node = RunningNode::start(&nats, MemoryStore::default()).await;
    fails(LINKS).await;
    let mut states = read_output(&nats, &format!("link.state.link-{LINKS}"), 2).await;
    let held = states.pop().expect("two states");
    let held = Record::parse(&held.1).expect("a record");
    assert!(held.because.incident && held.sent.is_empty(), "{held:?}");
    assert_eq!(node.stop().await.incidents().expect("a store"), [began]);
    let said = nats.read("LINKS").await;
    let count = |prefix: &str| said.iter().filter(|(_, subject, ..)| subject.starts_with(prefix)).count();
    assert_eq!((count("link.incident."), count("link.notice.update_required.")), (1, LINKS));
}

//! Messages on the input subjects that no publisher should send: headers that the NATS client cannot parse, headers that leave no place for
//! a dead letter's own, and messages of the largest size. None of them stops a partition, and no other input waits for them.

use crate::support;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use relink::nats::node::Node;
use relink::store::MemoryStore;
use tokio_util::sync::CancellationToken;

use crate::support::node::{PARTITIONS, options};
use crate::support::raw_client::RawClient;
use crate::support::{TestNats, within};

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn webhook(n: usize) -> String {
    support::webhook(&link(n), "invalid_credentials", n)
}

/// Starts a node, and waits until each of these links has its prompt.
async fn wait_for_prompts(nats: &TestNats, wanted: usize) -> BTreeSet<String> {
    wait_with(nats.connect().await, nats, wanted).await
}

/// The same with this connection.
async fn wait_with(client: async_nats::Client, nats: &TestNats, wanted: usize) -> BTreeSet<String> {
    let shutdown = CancellationToken::new();
    let node = Node::new(client, options(), MemoryStore::default());
    let task = tokio::spawn(node.run(shutdown.clone()));
    let stream = nats.context.get_stream("KV_links").await.expect("the stream");
    let filter_subject = "link.notice.update_required.*".to_owned();
    let config = pull::OrderedConfig { filter_subject, ..pull::OrderedConfig::default() };
    let messages = stream.create_consumer(config).await.expect("a consumer").messages().await.expect("messages");
    let prompts = messages.take(wanted).map(|message| message.expect("a message").subject.to_string());
    let prompts: Vec<String> = within("the prompts", prompts.collect()).await;
    shutdown.cancel();
    within("stopping", task).await.expect("no panic").expect("a clean end");
    prompts.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_the_client_cannot_parse_stop_no_partition() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let mut raw = RawClient::connect(&nats).await;
    let headers: [&[u8]; 6] = [
        b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\nX Name: blank\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0\r\nX-Good: yes\r\n\r\n",
    ];
    for n in 0..60 {
        raw.publish(&format!("belvo.webhook.{}", link(n)), headers[n % 6], webhook(n).as_bytes()).await;
    }
    raw.flush().await;
    let wanted: BTreeSet<String> = (0..60).map(|n| format!("link.notice.update_required.{}", link(n))).collect();
    assert_eq!(wait_for_prompts(&nats, 60).await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_such_headers_closes_the_connection_a_few_times_only() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let mut raw = RawClient::connect(&nats).await;
    for n in 0..120 {
        let headers: &[u8] = if n % 2 == 0 { b"NATS/1.0\r\nno colon\r\n\r\n" } else { b"NATS/1.0\r\nA: b\r\n\r\n" };
        raw.publish(&format!("belvo.webhook.{}", link(n)), headers, webhook(n).as_bytes()).await;
    }
    raw.flush().await;
    let client = nats.connect().await;
    wait_with(client.clone(), &nats, 120).await;
    let connects = client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    // One for each partition, and one that all of them share.
    assert!(connects <= 2 + u64::from(PARTITIONS), "{connects} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_very_long_headers_is_dead_lettered() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let mut raw = RawClient::connect(&nats).await;
    let mut headers = String::from("NATS/1.0\r\n");
    for n in 0..16 {
        let _ = write!(headers, "X-Long-{n}: {}\r\n", "x".repeat(4_040));
    }
    headers.push_str("\r\n");
    raw.publish(&format!("belvo.webhook.{}", link(0)), headers.as_bytes(), b"not json").await;
    raw.publish(&format!("belvo.webhook.{}", link(0)), b"NATS/1.0\r\n\r\n", webhook(0).as_bytes()).await;
    raw.flush().await;
    assert_eq!(wait_for_prompts(&nats, 1).await.len(), 1, "the input behind it is handled");
    let letters = nats.read("RELINK_DEAD").await;
    let [(_, subject, headers, body)] = &letters[..] else { panic!("one dead letter, not {}", letters.len()) };
    assert_eq!((subject.as_str(), &body[..]), ("relink.dead.malformed", &b"not json"[..]));
    let dropped: usize =
        headers.get("Relink-Dead-Headers-Dropped").expect("a count").as_str().parse().expect("a number");
    assert_eq!(headers.iter().filter(|(name, _)| name.to_string().starts_with("X-Long-")).count(), 16 - dropped);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_messages_are_read_although_a_pull_is_bounded_in_bytes() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let publisher = nats.connect().await;
    let large = vec![b'x'; publisher.max_payload() - 1_024];
    for n in 0..2 {
        publisher.publish(format!("belvo.webhook.{}", link(n)), large.clone().into()).await.expect("a publish");
    }
    publisher.flush().await.expect("a flush");
    let mut raw = RawClient::connect(&nats).await;
    for n in 0..2 {
        raw.publish(&format!("belvo.webhook.{}", link(n)), b"NATS/1.0\r\n\r\n", webhook(n).as_bytes()).await;
    }
    raw.flush().await;
    assert_eq!(wait_for_prompts(&nats, 2).await.len(), 2);
}

//! Inputs that are removed from the input stream before relink has read them: relink counts them, and counts nothing else.

use crate::support;

use std::time::Duration;

use async_nats::jetstream;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use relink::metric;
use relink::nats::stream::partition_consumer;
use relink::store::MemoryStore;

use crate::support::node::{PARTITIONS, RunningNode};
use crate::support::{TestNats, within};

/// Publishes inputs of many links. The numbers follow those of the last call, so the last one is the last sequence.
async fn publish(nats: &TestNats, numbers: std::ops::Range<usize>) {
    let last = u64::try_from(numbers.end).expect("a sequence");
    for n in numbers {
        let link = format!("00000000-0000-4000-8000-{:012}", n % 500);
        let body = support::webhook(&link, "invalid_credentials", n);
        nats.client.publish(format!("belvo.webhook.{link}"), body.into()).await.expect("a publish");
    }
    nats.client.flush().await.expect("a flush");
    // The server takes the messages before it stores them.
    let stored = async {
        while nats.context.get_stream("BELVO").await.expect("the stream").cached_info().state.last_sequence < last {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("storing the inputs", stored).await;
}

/// The sum of a counter over its labels.
fn count(handle: &PrometheusHandle, name: &str) -> u64 {
    let text = handle.render();
    let values = text
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum::<u64>()
}

/// What the server knows of a partition's consumer.
async fn consumer(stream: &jetstream::stream::Stream, partition: u16) -> jetstream::consumer::Info {
    stream.consumer_info(&partition_consumer(partition)).await.expect("a consumer")
}

/// Waits until nothing of the stream waits for a node. The count of handled inputs cannot say it: it has those of a crash twice.
async fn until_all_handled(what: &str, stream: &jetstream::stream::Stream) {
    let waiting = async {
        for partition in 0..PARTITIONS {
            loop {
                let info = consumer(stream, partition).await;
                if info.num_pending == 0 && info.num_ack_pending == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    within(what, waiting).await;
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, waiting).await;
}

/// One test, because the metrics belong to the process.
#[tokio::test(flavor = "multi_thread")]
async fn removed_inputs_are_counted_and_no_others() {
    let metrics = PrometheusBuilder::new().install_recorder().expect("no other recorder");
    let handled = || count(&metrics, metric::INPUTS.name);
    let removed = || count(&metrics, metric::INPUTS_REMOVED.name);
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let stream: jetstream::stream::Stream = nats.context.get_stream("BELVO").await.expect("the stream");

    // A load with a crash, a restart, new messages meanwhile, and the removal of handled inputs: nothing is missing.
    publish(&nats, 0..2_000).await;
    let node = RunningNode::start(&nats, MemoryStore::default()).await;
    until("some inputs", || handled() > 0).await;
    let store = node.abort().await;
    publish(&nats, 2_000..3_000).await;
    let node = RunningNode::start(&nats, store).await;
    publish(&nats, 3_000..4_000).await;
    until_all_handled("all inputs", &stream).await;
    stream.purge().sequence(3_000).await.expect("a purge");
    // NATS removes an old message like a deleted one.
    for sequence in 3_500..3_510 {
        stream.delete_message(sequence).await.expect("a deletion");
    }
    publish(&nats, 4_000..5_000).await;
    until_all_handled("the next inputs", &stream).await;
    assert_eq!(removed(), 0);
    let store = node.stop().await;

    // A purge of everything while most inputs wait. The next input of each partition shows it.
    let before = handled();
    publish(&nats, 5_000..13_000).await;
    let node = RunningNode::start(&nats, store).await;
    until("some inputs", || handled() > before).await;
    // A partition that has not asked its consumer yet cannot know what it lost.
    within("a delivery of each partition", async {
        for partition in 0..PARTITIONS {
            while consumer(&stream, partition).await.delivered.stream_sequence <= 5_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })
    .await;
    stream.purge().await.expect("a purge");
    let at_the_purge = handled() - before;
    assert!(at_the_purge < 7_000, "the purge came too late: {at_the_purge}");
    publish(&nats, 13_000..13_500).await;
    until_all_handled("the inputs after the purge", &stream).await;
    node.stop().await;
    // The inputs that arrived between the purge and the next delivery hide as many.
    let lost = 8_500 - (handled() - before);
    assert!((lost - 500..=lost).contains(&removed()), "{} of {lost} lost inputs are counted", removed());
}

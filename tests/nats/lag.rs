//! The lag of the partitions, as the server knows it.

use async_nats::jetstream::consumer::PullConsumer;
use futures::StreamExt as _;
use relink::clock;
use relink::nats::lag::LagReader;
use relink::nats::stream::partition_consumer;
use relink::nats::subject::Subjects;

use crate::support::{TestNats, webhook, within};

#[tokio::test]
async fn the_lag_is_what_no_partition_has_acknowledged_yet() {
    let nats = TestNats::start_with_streams(2).await;
    let reader = LagReader::new(nats.context.clone(), Subjects::default(), 2);
    let lag = reader.lag();
    assert_eq!(lag.borrow().read_at, None);
    reader.round().await;
    assert!(lag.borrow().read_at.is_some() && lag.borrow().partitions.iter().all(|lag| lag.waiting == 0));

    // Three messages of one link are in one partition.
    let began_at = clock::now();
    for number in 0..3 {
        let publish = nats.context.publish("belvo.webhook.a", webhook("a", "invalid_credentials", number).into());
        within("a publish", async { publish.await.unwrap().await.unwrap() }).await;
    }
    // The server acknowledges a message before it has counted it for the consumer.
    let counted = async {
        while lag.borrow().partitions.iter().map(|lag| lag.waiting).sum::<u64>() < 3 {
            reader.round().await;
        }
    };
    within("the counts of the server", counted).await;
    let partitions = lag.borrow().partitions.clone();
    let behind = partitions.iter().position(|lag| lag.waiting > 0).expect("a partition with messages");
    assert_eq!(
        (partitions[behind].waiting, partitions[1 - behind].waiting, partitions[1 - behind].oldest_at),
        (3, 0, None)
    );
    // The server and this test share a clock.
    let first_at = partitions[behind].oldest_at.expect("the time of the oldest message");
    assert!(first_at >= began_at && first_at <= clock::now(), "{first_at}");

    // A message that is delivered and not acknowledged still waits; one that is acknowledged does not.
    let stream = nats.context.get_stream("BELVO").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer(&partition_consumer(behind.try_into().unwrap())).await.unwrap();
    let mut delivered = consumer.fetch().max_messages(2).messages().await.unwrap();
    let first = within("a message", delivered.next()).await.unwrap().unwrap();
    reader.round().await;
    assert_eq!(lag.borrow().partitions[behind].waiting, 3);
    first.double_ack().await.unwrap();
    reader.round().await;
    let rest = lag.borrow().partitions[behind];
    assert!(rest.waiting == 2 && rest.oldest_at >= Some(first_at), "{rest:?}");
}

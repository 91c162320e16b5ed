//! The publisher, with a real nats-server: every caller gets the sequence of its own message.

use std::collections::HashSet;

use crate::support::{TestNats, within};
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::future::join_all;
use relink::contract::InputKind;
use relink::nats::publisher::{PublishError, Publisher, PublisherOptions};
use relink::nats::subject::Subjects;

fn publisher(nats: &TestNats, options: PublisherOptions) -> Publisher {
    Publisher::start(nats.client.clone(), Subjects::default(), options)
}

async fn publish(publisher: &Publisher, n: usize) -> Result<u64, PublishError> {
    let subject = Subjects::default().input(InputKind::Webhook, &format!("link-{n}"));
    publisher.publish(subject, HeaderMap::new(), Bytes::from(format!("body {n}"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_get_their_own_sequences() {
    let nats = TestNats::start_with_streams(4).await;
    let publisher = publisher(&nats, PublisherOptions::default());
    let tasks = (0..1_000).map(|n| {
        let publisher = publisher.clone();
        tokio::spawn(async move { (n, publish(&publisher, n).await.expect("stored")) })
    });
    let answered = within("a thousand answers", join_all(tasks)).await;
    let answered: HashSet<_> = answered.into_iter().map(|answered| answered.expect("no panic")).collect();

    let stored = nats.read("BELVO").await;
    let stored: HashSet<_> = stored
        .into_iter()
        .map(|(sequence, subject, _, body)| {
            let subjects = Subjects::default();
            let link_id = subjects.parse_input(&subject).expect("a stored input subject").link_id;
            let n: usize = link_id.trim_start_matches("link-").parse().expect("a number");
            assert_eq!(&body[..], format!("body {n}").as_bytes());
            (n, sequence)
        })
        .collect();
    assert_eq!(answered.len(), 1_000);
    assert_eq!(answered, stored, "each caller gets the sequence of its message");
}

#[tokio::test]
async fn a_caller_that_waits_keeps_its_order() {
    let nats = TestNats::start_with_streams(2).await;
    let publisher = publisher(&nats, PublisherOptions::default());
    for n in 0..5 {
        assert_eq!(publish(&publisher, n).await, Ok(n as u64 + 1));
    }
}

#[tokio::test]
async fn a_bad_message_fails_alone() {
    let nats = TestNats::start_with_streams(2).await;
    let publisher =
        publisher(&nats, PublisherOptions { gather: std::time::Duration::from_millis(50), ..Default::default() });
    let send = |subject: &str, headers: HeaderMap, body: usize| {
        publisher.publish(subject.to_owned(), headers, Bytes::from(vec![b'x'; body]))
    };
    // There are enough good messages for a batch.
    let neighbours = join_all((0..10).map(|_| send("belvo.webhook.n", HeaderMap::new(), 10)));
    // The stream does not allow a rollup, so the server refuses the whole batch.
    let mut rollup = HeaderMap::new();
    rollup.insert("Nats-Rollup", "sub");
    let (neighbours, good, refused, other, elsewhere, wild, large) = tokio::join!(
        neighbours,
        send("belvo.webhook.a", HeaderMap::new(), 10),
        send("belvo.webhook.b", rollup, 10),
        send("belvo.webhook.c", HeaderMap::new(), 10),
        send("$KV.links.a", HeaderMap::new(), 10),
        send("belvo.webhook.*", HeaderMap::new(), 10),
        send("belvo.webhook.a", HeaderMap::new(), 9 * 1024 * 1024),
    );
    assert_eq!(neighbours, (1..=10).map(Ok).collect::<Vec<_>>());
    assert_eq!((good, other), (Ok(11), Ok(12)));
    assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
    assert!(matches!(elsewhere, Err(PublishError::Subject { .. })), "{elsewhere:?}");
    assert!(matches!(wild, Err(PublishError::Subject { .. })), "{wild:?}");
    assert!(matches!(large, Err(PublishError::TooLarge { max, .. }) if max < 8 * 1024 * 1024), "{large:?}");
    assert_eq!(nats.read("BELVO").await.len(), 12);
}

#[tokio::test]
async fn the_largest_allowed_message_is_stored() {
    let nats = TestNats::start_with_streams(2).await;
    let publisher = publisher(&nats, PublisherOptions::default());
    let send = |size: usize| {
        let mut headers = HeaderMap::new();
        headers.insert("Ce-Type", "x");
        publisher.publish("belvo.webhook.a".to_owned(), headers, Bytes::from(vec![b'x'; size]))
    };
    let Err(PublishError::TooLarge { size, max }) = send(nats.client.max_payload()).await else { panic!("it fits") };
    let largest = max - (size - nats.client.max_payload());
    assert!(matches!(send(largest + 1).await, Err(PublishError::TooLarge { .. })));
    assert_eq!(send(largest).await, Ok(1));
}

#[tokio::test]
async fn callers_get_busy_when_the_queue_is_full() {
    let nats = TestNats::start_with_streams(2).await;
    let options = PublisherOptions { queue_messages_max: 10, ..PublisherOptions::default() };
    let few_messages = publisher(&nats, options);
    // There is one thread and no await between the calls, so the publisher's task takes no message before all callers have tried.
    let answers = join_all((0..50).map(|n| publish(&few_messages, n))).await;
    let busy = answers.iter().filter(|answer| **answer == Err(PublishError::Busy)).count();
    assert_eq!((busy, answers.iter().filter(|answer| answer.is_ok()).count()), (40, 10));

    let few_bytes = publisher(&nats, PublisherOptions { queue_bytes_max: 500, ..PublisherOptions::default() });
    let answers = join_all((0..50).map(|n| publish(&few_bytes, n))).await;
    assert!(answers.contains(&Err(PublishError::Busy)));
    assert!(publish(&few_bytes, 0).await.is_ok(), "the answers release the bytes of the queue");
}

#[tokio::test]
async fn shutdown_answers_every_caller_and_refuses_new_ones() {
    let nats = TestNats::start_with_streams(2).await;
    let publisher = publisher(&nats, PublisherOptions { batch_messages_max: 7, ..PublisherOptions::default() });
    let (answers, ()) = within("the shutdown", async {
        tokio::join!(join_all((0..100).map(|n| publish(&publisher, n))), publisher.shutdown())
    })
    .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(publish(&publisher, 0).await, Err(PublishError::Closed));
    assert_eq!(nats.read("BELVO").await.len(), 100);
}

#[tokio::test]
async fn without_a_server_callers_get_unavailable() {
    let nats = TestNats::start_with_streams(2).await;
    let options = PublisherOptions { timeout: std::time::Duration::from_millis(200), ..PublisherOptions::default() };
    let publisher = publisher(&nats, options);
    nats.server.kill().await.expect("killed");
    let answers = within("the answers", join_all((0..20).map(|n| publish(&publisher, n)))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(PublishError::Unavailable { .. }))), "{answers:?}");
}

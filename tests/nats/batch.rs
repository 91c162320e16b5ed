//! Atomic batches and fences, with a real nats-server.

use crate::support::{TestNats, message};
use relink::nats::batch::{BATCH_MESSAGES_MAX, BatchError, Batches};

/// Takes the fence of partition 0 like a new owner, and returns its sequence.
async fn take_fence(batches: &Batches, last: u64) -> u64 {
    let fence = message("link.fence.0", "owner").expecting("link.fence.0", last);
    batches.publish_atomic(vec![fence]).await.expect("the fence is free").last_sequence
}

#[tokio::test]
async fn a_batch_is_stored_whole_and_in_order() {
    let nats = TestNats::start_with_streams(2).await;
    let messages = (0..5).map(|n| message(format!("$KV.links.l{n}"), format!("{n}"))).collect();
    let ack = nats.batches().publish_atomic(messages).await.expect("the batch commits");
    assert_eq!((ack.stream.as_str(), ack.last_sequence, ack.count), ("KV_links", 5, 5));
    assert_eq!([0, 4].map(|index| ack.sequence_of(index)), [1, 5]);
    let stored = nats.read("KV_links").await;
    let bodies: Vec<_> =
        stored.iter().map(|(sequence, subject, _, body)| (*sequence, subject.as_str(), &body[..])).collect();
    assert_eq!(bodies[0], (1, "$KV.links.l0", &b"0"[..]));
    assert_eq!(bodies[4], (5, "$KV.links.l4", &b"4"[..]));
}

#[tokio::test]
async fn a_single_message_can_be_published_as_a_batch() {
    let nats = TestNats::start_with_streams(2).await;
    let ack = nats.batches().publish_atomic(vec![message("$KV.links.a", "1")]).await.expect("the batch commits");
    assert_eq!((ack.last_sequence, ack.count), (1, 1));
}

#[tokio::test]
async fn the_largest_batch_commits_and_one_more_is_refused() {
    let nats = TestNats::start_with_streams(2).await;
    let many = |count| (0..count).map(|n| message(format!("$KV.links.l{n}"), "x")).collect::<Vec<_>>();
    let error = nats.batches().publish_atomic(many(BATCH_MESSAGES_MAX + 1)).await.expect_err("it is too large");
    assert!(matches!(error, BatchError::TooLarge { count: 1001 }), "{error}");
    assert!(matches!(nats.batches().publish_atomic(Vec::new()).await, Err(BatchError::Empty)));
    let ack = nats.batches().publish_atomic(many(BATCH_MESSAGES_MAX)).await.expect("a thousand fit");
    assert_eq!((ack.last_sequence, ack.count), (1_000, 1_000));
}

#[tokio::test]
async fn a_replaced_owner_is_refused_even_with_a_batch_it_had_staged() {
    let nats = TestNats::start_with_streams(2).await;
    let (old, new) = (nats.batches(), Batches::new(nats.connect().await, relink::nats::batch::BATCH_TIMEOUT));
    let fence = take_fence(&old, 0).await;
    let owned = |body: &str| {
        vec![message("$KV.links.a", body).expecting("link.fence.0", fence), message("link.notice.recovered.a", body)]
    };
    old.publish_atomic(owned("mine")).await.expect("the owner may write");
    let staged = old.stage(owned("late")).await.expect("staging waits for no answer");

    let next_fence = take_fence(&new, fence).await;
    let before = nats.read("KV_links").await.len();
    for refused in [staged.commit().await, old.publish_atomic(owned("later")).await] {
        let error = refused.expect_err("the fence has moved");
        assert!(matches!(error, BatchError::Refused { .. }), "{error}");
        assert!(error.is_certain());
    }
    let again = message("link.fence.0", "owner").expecting("link.fence.0", fence);
    assert!(matches!(old.publish_atomic(vec![again]).await, Err(BatchError::Refused { .. })));
    assert_eq!(nats.read("KV_links").await.len(), before, "no message of a refused batch is stored");

    let theirs = message("$KV.links.a", "theirs").expecting("link.fence.0", next_fence);
    new.publish_atomic(vec![theirs]).await.expect("the new owner may write");
}

#[tokio::test]
async fn one_batch_is_staged_while_another_commits() {
    let nats = TestNats::start_with_streams(2).await;
    let batches = nats.batches();
    let fence = take_fence(&batches, 0).await;
    let slice = |k: usize| {
        let first = message(format!("$KV.links.s{k}"), "x").expecting("link.fence.0", fence);
        std::iter::once(first).chain((1..50).map(|n| message(format!("$KV.links.s{k}n{n}"), "x"))).collect::<Vec<_>>()
    };
    let mut staged = batches.stage(slice(0)).await.expect("staged");
    let mut last = fence;
    for k in 1..=10 {
        let (ack, next) = tokio::join!(staged.commit(), batches.stage(slice(k)));
        let ack = ack.expect("the batch commits");
        assert_eq!((ack.last_sequence, ack.sequence_of(0)), (last + 50, last + 1));
        last = ack.last_sequence;
        staged = next.expect("staged");
    }
    drop(staged); // A staged batch that is not committed is never stored.
    assert_eq!(nats.read("KV_links").await.len() as u64, last);
}

#[tokio::test]
async fn an_abandoned_batch_no_longer_counts_as_open() {
    let nats = TestNats::start_with_streams(2).await;
    let batches = nats.batches();
    let two = || vec![message("$KV.links.a", "x"), message("$KV.links.b", "x")];
    for _ in 0..60 {
        batches.stage(two()).await.expect("staged").abandon().await;
    }
    batches.publish_atomic(two()).await.expect("there is room");
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(batches.stage(two()).await.expect("staged"));
    }
    let error = batches.publish_atomic(two()).await.expect_err("fifty are open");
    assert!(matches!(error, BatchError::TooManyOpen), "{error}");
    let abandoned = open.pop().expect("one of fifty");
    abandoned.abandon().await;
    batches.publish_atomic(two()).await.expect("one place is free");
    for staged in open {
        assert_eq!(staged.commit().await.expect("other staged batches stay open").count, 2);
    }
    assert_eq!(nats.read("KV_links").await.len(), 2 * (2 + 49));
}

#[tokio::test]
async fn several_partitions_share_a_batch_and_one_stale_fence_refuses_it() {
    let nats = TestNats::start_with_streams(2).await;
    let batches = nats.batches();
    let fences = vec![
        message("link.fence.0", "owner").expecting("link.fence.0", 0),
        message("link.fence.1", "owner").expecting("link.fence.1", 0),
    ];
    batches.publish_atomic(fences).await.expect("both fences are free");
    let shared = |one: u64, two: u64| {
        vec![
            message("$KV.links.a", "x").expecting("link.fence.0", one),
            message("$KV.links.b", "x").expecting("link.fence.1", two),
        ]
    };
    batches.publish_atomic(shared(1, 2)).await.expect("both fences hold");
    assert!(matches!(batches.publish_atomic(shared(1, 1)).await, Err(BatchError::Refused { .. })));
    assert_eq!(nats.read("KV_links").await.len(), 4);
}

#[tokio::test]
async fn a_known_message_id_refuses_the_batch() {
    let nats = TestNats::start_with_streams(2).await;
    let named = || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "one");
        vec![message("$KV.links.a", "x").with_headers(headers), message("$KV.links.b", "x")]
    };
    nats.batches().publish_atomic(named()).await.expect("the id is new");
    assert!(matches!(nats.batches().publish_atomic(named()).await, Err(BatchError::Duplicate)));
    let alone = named().remove(0);
    assert!(matches!(nats.batches().publish_atomic(vec![alone]).await, Err(BatchError::Duplicate)));
    assert_eq!(nats.read("KV_links").await.len(), 2);
}

#[tokio::test]
async fn the_error_has_the_reason_of_an_early_refusal() {
    let nats = TestNats::start_with_streams(2).await;
    let error = nats.batches().publish_atomic(vec![message("nobody.listens", "x")]).await.expect_err("no stream");
    assert!(matches!(error, BatchError::NoStream { .. }), "{error}");
    // A stream that does not allow batches (10174). The answer to the first message has this reason.
    let plain = async_nats::jetstream::stream::Config {
        name: "PLAIN".to_owned(),
        subjects: vec!["plain.>".to_owned()],
        ..Default::default()
    };
    nats.context.create_stream(plain).await.expect("created");
    let two = || vec![message("plain.x", "1"), message("plain.x", "2")];
    let error = nats.batches().publish_atomic(two()).await.expect_err("the stream allows no batches");
    assert!(matches!(error, BatchError::Server { code: 10174, .. }), "{error}");
    let large = vec![message("$KV.links.a", "x"), message("$KV.links.b", "x".repeat(9 * 1024 * 1024))];
    let error = nats.batches().publish_atomic(large).await.expect_err("too large for one message");
    assert!(matches!(error, BatchError::MessageTooLarge { index: 1 }), "{error}");
}

#[tokio::test]
async fn a_commit_without_an_answer_has_an_unknown_outcome() {
    let nats = TestNats::start_with_streams(2).await;
    let batches = Batches::new(nats.client.clone(), std::time::Duration::from_millis(200));
    let staged = batches.stage(vec![message("$KV.links.a", "x"), message("$KV.links.b", "x")]).await.expect("staged");
    nats.server.kill().await.expect("killed");
    let error = staged.commit().await.expect_err("there is no server");
    assert!(matches!(error, BatchError::Unknown { .. }) && !error.is_certain(), "{error}");
}

//! Streams and consumers, with a real nats-server: created if they are missing, compared otherwise, and never edited.

use std::time::Duration;

use crate::support::{TestNats, message, within};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{Config, Source, SubjectTransform};
use bytes::Bytes;
use futures::StreamExt;
use relink::contract::InputKind;
use relink::nats::declaration::{Ensured, StreamError};
use relink::nats::history::Histories;
use relink::nats::stream::{StreamSettings, declarations, ensure_all, extent, partition_consumer};
use relink::nats::subject::Subjects;
use strum::VariantArray;

fn settings(partitions: u16) -> StreamSettings {
    StreamSettings { partitions, ..StreamSettings::default() }
}

#[tokio::test]
async fn missing_streams_are_created_and_existing_ones_are_unchanged() {
    let nats = TestNats::start().await;
    for pinned in [None, Some(Duration::from_secs(45))] {
        let prefix = if pinned.is_some() { "b" } else { "a" };
        let subjects = Subjects::new(&format!("{prefix}.belvo"), &format!("{prefix}.link")).expect("prefixes");
        let settings = StreamSettings { partition_takeover: pinned, ..settings(3) };
        for expected in [Ensured::Created, Ensured::Matching, Ensured::Matching] {
            for declaration in declarations(&subjects, &settings) {
                let ensured = declaration.ensure(&nats.context).await;
                assert_eq!(ensured.expect("declared"), expected, "{}", declaration.name());
            }
        }
    }
}

#[tokio::test]
async fn nodes_that_start_together_agree() {
    let nats = TestNats::start().await;
    let (subjects, settings) = (Subjects::default(), settings(4));
    let starts = (0..4).map(|_| ensure_all(&nats.context, &subjects, &settings));
    for outcome in futures::future::join_all(starts).await {
        outcome.expect("the second node finds the streams as declared");
    }
}

#[tokio::test]
async fn the_error_for_a_difference_has_a_command() {
    let nats = TestNats::start_with_streams(2).await;
    let change = async |stream: &str, change: fn(&mut Config)| {
        let found = nats.context.get_stream(stream).await.expect("the stream exists");
        let mut config = found.cached_info().config.clone();
        change(&mut config);
        nats.context.update_stream(&config).await.expect("the operator may edit");
    };
    // An operator may change fields on which relink does not depend.
    change("KV_links", |config| config.description = Some("ours".to_owned())).await;
    change("KV_links", |config| config.max_bytes = 1 << 20).await;
    ensure_all(&nats.context, &Subjects::default(), &settings(2)).await.expect("no compared field has changed");

    change("KV_links", |config| config.max_messages_per_subject = 3).await;
    let error = ensure_all(&nats.context, &Subjects::default(), &settings(2)).await.expect_err("it differs");
    let text = error.to_string();
    assert!(
        matches!(&error, StreamError::Differs { kind: "stream", name, differences } if name == "KV_links" && differences.len() == 1)
    );
    assert!(text.contains("max_msgs_per_subject is 3, wanted 64"), "{text}");
    assert!(text.contains("nats stream edit KV_links --max-msgs-per-subject=64"), "{text}");
    let unchanged = nats.context.get_stream("KV_links").await.expect("there").cached_info().config.clone();
    assert_eq!(unchanged.max_messages_per_subject, 3, "relink edits nothing");
    change("KV_links", |config| config.max_messages_per_subject = 64).await;

    change("BELVO", |config| config.max_age = Duration::from_secs(3_600)).await;
    let error = ensure_all(&nats.context, &Subjects::default(), &settings(2)).await.expect_err("it differs");
    assert!(error.to_string().contains("max_age is 1h, wanted 30days"), "{error}");
    change("BELVO", |config| config.max_age = Duration::from_secs(30 * 86_400)).await;

    let error_of = async |wanted: StreamSettings| {
        ensure_all(&nats.context, &Subjects::default(), &wanted).await.expect_err("it differs").to_string()
    };
    let text = error_of(StreamSettings { input_age_max: Duration::from_secs(3600), ..settings(2) }).await;
    assert!(text.contains("nats stream edit BELVO --max-age=3600s"), "{text}");
    let text = error_of(StreamSettings { partition_ack_wait: Duration::from_secs(20), ..settings(2) }).await;
    assert!(text.contains("the consumer BELVO/relink-0 "), "{text}");
    assert!(text.contains("nats consumer edit BELVO relink-0 --wait=20s"), "{text}");
}

#[tokio::test]
async fn the_number_of_partitions_is_fixed_at_creation() {
    let nats = TestNats::start_with_streams(2).await;
    let error = ensure_all(&nats.context, &Subjects::default(), &settings(3)).await.expect_err("it is fixed");
    assert!(matches!(&error, StreamError::Partitions { found: 2, wanted: 3, .. }), "{error}");
}

#[tokio::test]
async fn all_inputs_of_a_link_go_to_one_partition_in_order() {
    let nats = TestNats::start_with_streams(4).await;
    let subjects = Subjects::default();
    let links: Vec<String> = (0..40).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let mut messages = Vec::new();
    for &kind in InputKind::VARIANTS {
        messages.extend(links.iter().map(|link| message(subjects.input(kind, link), kind.as_str())));
    }
    nats.batches().publish_atomic(messages).await.expect("a batch is transformed like a single message");

    let stream = nats.context.get_stream("BELVO").await.expect("there");
    let (mut seen, mut partitions_used) = (0, 0);
    for partition in 0..4 {
        let consumer: PullConsumer = stream.get_consumer(&partition_consumer(partition)).await.expect("declared");
        let mut messages = consumer.fetch().max_messages(500).messages().await.expect("a pull");
        let mut kinds = std::collections::HashMap::<String, Vec<InputKind>>::new();
        while let Some(message) = within("a message", messages.next()).await {
            let message = message.expect("a message");
            let input = subjects.parse_input(&message.subject).expect("an input subject");
            assert_eq!(input.partition, partition);
            kinds.entry(input.link_id.to_owned()).or_default().push(input.kind);
            seen += 1;
        }
        partitions_used += usize::from(!kinds.is_empty());
        assert!(kinds.values().all(|kinds| kinds[..] == *InputKind::VARIANTS), "{kinds:?}");
    }
    assert_eq!((seen, partitions_used), (40 * InputKind::VARIANTS.len(), 4));
}

#[tokio::test]
async fn a_stream_that_was_created_again_has_another_identity() {
    let nats = TestNats::start_with_streams(2).await;
    nats.batches().publish_atomic(vec![message("belvo.webhook.a", "x")]).await.expect("stored");
    let before = extent(&nats.context, "BELVO").await.expect("there");
    assert_eq!((before.first_sequence, before.last_sequence), (1, 1));
    assert_eq!(extent(&nats.context, "BELVO").await.expect("there"), before);
    nats.context.delete_stream("BELVO").await.expect("deleted");
    assert!(matches!(extent(&nats.context, "BELVO").await, Err(StreamError::Api { .. })));
    nats.ensure(2).await;
    let after = extent(&nats.context, "BELVO").await.expect("there");
    assert_ne!(after.identity, before.identity);
    assert_eq!(after.last_sequence, 0);
}

/// Streams of relink 0.2: `LINKS`, and `KV_links` with a copy of its states.
async fn declare_streams_of_0_2(nats: &TestNats) {
    let output = Config { name: "LINKS".to_owned(), subjects: vec!["link.>".to_owned()], ..Config::default() };
    nats.context.create_stream(output).await.expect("created");
    let transform =
        SubjectTransform { source: "link.state.*".to_owned(), destination: "$KV.links.{{wildcard(1)}}".to_owned() };
    let source = Source { name: "LINKS".to_owned(), subject_transforms: vec![transform], ..Source::default() };
    let copy = Config { name: "KV_links".to_owned(), sources: Some(vec![source]), ..Config::default() };
    nats.context.create_stream(copy).await.expect("created");
}

#[tokio::test]
async fn the_streams_of_0_2_are_refused_and_unchanged() {
    let nats = TestNats::start().await;
    declare_streams_of_0_2(&nats).await;
    nats.context.publish("link.state.a", "1".into()).await.expect("sent").await.expect("stored");
    let refusal =
        async || ensure_all(&nats.context, &Subjects::default(), &settings(2)).await.expect_err("refused").to_string();
    let text = refusal().await;
    assert!(text.contains("the streams LINKS and KV_links of relink 0.2"), "{text}");
    assert!(text.contains("run `nats stream rm LINKS` and `nats stream rm KV_links`"), "{text}");
    assert_eq!(nats.read("LINKS").await.len(), 1, "relink deletes nothing");
    nats.context.get_stream("BELVO").await.expect_err("nothing is created before the refusal");

    nats.context.delete_stream("LINKS").await.expect("deleted");
    let text = refusal().await;
    assert!(text.contains("the stream KV_links of relink 0.2") && !text.contains("LINKS"), "{text}");
    nats.context.delete_stream("KV_links").await.expect("deleted");
    nats.ensure(2).await;
}

/// The name `LINKS` is free for other streams.
#[tokio::test]
async fn a_stream_of_another_program_is_not_one_of_0_2() {
    let nats = TestNats::start().await;
    let other = Config { name: "LINKS".to_owned(), subjects: vec!["other.>".to_owned()], ..Config::default() };
    nats.context.create_stream(other).await.expect("created");
    nats.ensure(2).await;
}

/// The output stream is a key-value bucket. The keys are the links, whatever else the stream has, also with a longer history than the
/// clients themselves would create.
#[tokio::test]
async fn a_key_value_client_reads_states_and_can_delete_no_history() {
    for history_count in [64, 100] {
        let nats = TestNats::start().await;
        let settings = StreamSettings { history_count, ..settings(2) };
        ensure_all(&nats.context, &Subjects::default(), &settings).await.expect("the streams are declared");
        let bucket = nats.context.get_key_value("links").await.expect("a bucket");
        let mut changes = bucket.watch_all().await.expect("a watch");
        let count = history_count + 6;
        for version in 1..=count {
            let state = message("$KV.links.a", version.to_string());
            let all = vec![state, message("link.notice.recovered.a", "n"), message("$KV.links.b", "b")];
            nats.batches().publish_atomic(all).await.expect("stored");
            for expected in [("a", version.to_string()), ("b", "b".to_owned())] {
                let change = within("a change", changes.next()).await.expect("open").expect("an entry");
                assert_eq!((change.key.as_str(), &change.value[..]), (expected.0, expected.1.as_bytes()));
            }
        }
        let last = bucket.get("a").await.expect("read").expect("a state");
        assert_eq!(last, Bytes::from(count.to_string()));
        let history: Vec<_> = bucket.history("a").await.expect("a history").collect().await;
        let values: Vec<_> = history.into_iter().map(|entry| entry.expect("an entry").value).collect();
        assert_eq!(values, (7..=count).map(|version| Bytes::from(version.to_string())).collect::<Vec<_>>());
        let mut keys: Vec<String> =
            bucket.keys().await.expect("the keys").map(|key| key.expect("a key")).collect().await;
        keys.sort_unstable();
        assert_eq!(keys, ["a", "b"]);

        // A client that may publish could write a state, but no client can delete a history.
        let stored = nats.read("KV_links").await.len();
        bucket.purge("a").await.expect_err("the stream allows no rollup");
        let mut rollup = async_nats::HeaderMap::new();
        rollup.insert("Nats-Rollup", "all");
        let all = nats.context.publish_with_headers("link.notice.recovered.a", rollup, Bytes::new()).await;
        all.expect("sent").await.expect_err("the stream allows no rollup");
        assert_eq!(nats.read("KV_links").await.len(), stored);
    }
}

/// A copy in another region, under a name of its own. The transform gives the keys the name of the new bucket, and leaves the rest out.
#[tokio::test]
async fn a_mirror_of_the_states_is_a_bucket_too() {
    let nats = TestNats::start_with_streams(2).await;
    let transform = SubjectTransform { source: "$KV.links.>".to_owned(), destination: "$KV.copy.>".to_owned() };
    let source = Source { name: "KV_links".to_owned(), subject_transforms: vec![transform], ..Source::default() };
    let mirror = Config {
        name: "KV_copy".to_owned(),
        mirror: Some(source),
        mirror_direct: true,
        max_messages_per_subject: 64,
        allow_message_ttl: true,
        ..Config::default()
    };
    let mirror = nats.context.create_stream(mirror).await.expect("created");
    let consumer = mirror.create_consumer(pull::Config::default()).await.expect("a consumer");
    let mut arriving = consumer.messages().await.expect("a pull");
    nats.batches()
        .publish_atomic(vec![message("link.fence.0", "f"), message("$KV.links.a", "1")])
        .await
        .expect("stored");
    let state = within("the mirror", arriving.next()).await.expect("open").expect("a message");
    assert_eq!(state.subject.as_str(), "$KV.copy.a");
    let bucket = nats.context.get_key_value("copy").await.expect("a bucket");
    assert_eq!(bucket.get("a").await.expect("read"), Some(Bytes::from("1")));
}

/// Closing messages expire, and nothing else does.
#[tokio::test]
async fn only_a_message_with_a_time_to_live_expires() {
    let nats = TestNats::start_with_streams(2).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-TTL", "1s");
    let closing = message("link.commit.w", "c").with_headers(headers);
    nats.batches().publish_atomic(vec![message("$KV.links.a", "1"), closing]).await.expect("stored");
    let expired = async {
        while nats.context.get_stream("KV_links").await.expect("there").cached_info().state.messages > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the expiry", expired).await;
    assert_eq!(nats.read("KV_links").await[0].1, "$KV.links.a");
}

#[tokio::test]
async fn a_long_history_is_read_from_its_newest_message() {
    let nats = TestNats::start().await;
    let settings = StreamSettings { history_count: 5_000, ..settings(2) };
    ensure_all(&nats.context, &Subjects::default(), &settings).await.expect("the streams are declared");
    for _ in 0..3 {
        let refusals = (0..900).map(|_| message("link.refused.a", "{}")).collect();
        nats.batches().publish_atomic(refusals).await.expect("the batch commits");
    }
    let histories = Histories::new(nats.context.clone(), Subjects::default());
    let history = within("the history", histories.read(&"a".parse().expect("an id"))).await.expect("a history");
    let sequences: Vec<u64> = history.entries.iter().map(|entry| entry.sequence).collect();
    assert!(history.truncated);
    assert_eq!(sequences, (701..=2_700).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_full_stream_refuses_messages_and_keeps_the_old_ones() {
    let nats = TestNats::start().await;
    let settings = StreamSettings { bytes_max: Some(20_000), ..settings(2) };
    ensure_all(&nats.context, &Subjects::default(), &settings).await.expect("the streams are declared");
    let states = |from: u32| (from..from + 50).map(|n| message(format!("$KV.links.l{n}"), "x".repeat(100))).collect();
    nats.batches().publish_atomic(states(0)).await.expect("the batch commits");
    let stored = nats.read("KV_links").await;
    let mut refused = 0;
    for round in 1..10 {
        refused += usize::from(nats.batches().publish_atomic(states(50 * round)).await.is_err());
    }
    assert!(refused > 0, "the limit is reached");
    assert_eq!(nats.read("KV_links").await[..50], stored[..], "no state is deleted");
}

//! Dead letters, with a real nats-server: stored whole and only once, listed, and replayed.

use crate::support::{TestNats, message};
use async_nats::HeaderMap;
use bytes::Bytes;
use relink::contract::DeadReason;
use relink::nats::dead_letter::{DeadLetter, DeadLetterError, DeadLetters, InputPosition};
use relink::nats::stream::{StreamIdentity, extent};
use relink::nats::subject::Subjects;

fn letter(subject: &str, body: &'static [u8]) -> DeadLetter {
    DeadLetter {
        subject: subject.to_owned(),
        headers: HeaderMap::new(),
        payload: Bytes::from_static(body),
        reason: DeadReason::Malformed,
        detail: "not JSON:\r\nexpected value".to_owned(),
        input: None,
    }
}

#[tokio::test]
async fn a_dead_letter_keeps_its_bytes_and_headers_and_can_be_replayed() {
    let nats = TestNats::start_with_streams(2).await;
    let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    let mut headers = HeaderMap::new();
    headers.insert("Ce-Id", "42");
    headers.append("X-Twice", "1");
    headers.append("X-Twice", "2");
    // The input has the headers of a batch and the stored subject, like one that a partition reads.
    let input = message("belvo.webhook.abc", "\u{0}{broken").with_headers(headers);
    nats.batches().publish_atomic(vec![message("belvo.webhook.x", "{}"), input]).await.expect("stored");
    let (sequence, subject, headers, payload) = nats.read("BELVO").await.remove(1);
    let stream = extent(&nats.context, "BELVO").await.expect("there").identity;
    let input = Some(InputPosition { stream: stream.clone(), sequence, stored_at_ns: 1_790_000_000_000_000_000 });
    let dead = DeadLetter { input, subject: subject.clone(), headers, payload: payload.clone(), ..letter("", b"") };

    let number = letters.publish(&dead).await.expect("stored");
    assert_eq!(letters.publish(&dead).await.expect("stored"), number, "a repeat gives the same dead letter");
    let stored = letters.get(number).await.expect("there");
    assert_eq!((stored.subject.as_str(), &stored.payload), (subject.as_str(), &payload));
    assert_eq!((stored.input_stream.as_deref(), stored.input_sequence), (Some(stream.to_string().as_str()), Some(2)));
    assert_eq!((stored.reason.as_str(), stored.detail.as_str()), ("malformed", "not JSON:\\r\\nexpected value"));
    assert_eq!(stored.headers.get("Ce-Id").map(|value| value.as_str()), Some("42"));
    assert_eq!(stored.headers.get_all("X-Twice").count(), 2);
    assert!(stored.headers.get("Nats-Batch-Id").is_some(), "headers on which JetStream would act are kept too");
    assert!(stored.at_ns > 0 && stored.truncated_from.is_none());

    let again = letters.replay(number, Some("night-shift")).await.expect("replayed");
    let (sequence, replayed, headers, body) = nats.read("BELVO").await.remove(2);
    assert_eq!((sequence, replayed, body), (again, subject, payload));
    assert_eq!(headers.get("Ce-Id").map(|value| value.as_str()), Some("42"));
    assert_eq!(headers.get("Relink-Token").map(|value| value.as_str()), Some("night-shift"));
    assert!(headers.get("Nats-Batch-Id").is_none() && headers.get("Relink-Dead-Reason").is_none());
}

#[tokio::test]
async fn a_letter_has_no_open_session() {
    const SESSION: &str = "2675b703b9d4451f8d4861a3eee54449";
    let nats = TestNats::start_with_streams(2).await;
    let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    let inside = format!(r#"[{{"code":"brand_new","session":"{SESSION}","expiry":9600,"message":"kept"}}]"#);
    let as_text = serde_json::Value::from(inside.as_str()).to_string();
    for payload in [
        format!(r#"{{"http_status":428,"body":{inside}}}"#),
        format!(r#"{{"http_status":428,"body":{as_text}}}"#),
        format!(r#"{{"http_status":428,"body":{inside}"#),
    ] {
        let payload = Bytes::from(payload);
        let dead = DeadLetter { payload: payload.clone(), ..letter("belvo.api_error.a", b"") };
        let number = letters.publish(&dead).await.expect("stored");
        assert_eq!(letters.publish(&dead).await.expect("stored"), number, "one dead letter");
        let kept = String::from_utf8(letters.get(number).await.expect("there").payload.to_vec()).expect("a text");
        assert!(!kept.contains(SESSION), "{kept}");
        assert!(kept.contains("brand_new") && kept.contains("9600") && kept.contains("kept"), "{kept}");
    }
}

#[tokio::test]
async fn letters_are_listed_page_by_page() {
    let nats = TestNats::start_with_streams(2).await;
    let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    assert!(letters.list(0, 10).await.expect("read").is_empty());
    for body in [&b"1"[..], b"2", b"3"] {
        letters.publish(&letter("belvo.webhook.a", body)).await.expect("stored");
    }
    letters.publish(&letter("belvo.webhook.a", b"1")).await.expect("the same message gives the same dead letter");
    let bodies = async |after, limit| {
        let page = letters.list(after, limit).await.expect("read");
        page.into_iter().map(|letter| (letter.sequence, letter.payload)).collect::<Vec<_>>()
    };
    let all: Vec<_> = (1..=3).zip(["1", "2", "3"].map(Bytes::from)).collect();
    assert_eq!(bodies(0, 10).await, all);
    assert_eq!(bodies(0, 2).await, all[..2]);
    assert_eq!(bodies(2, 10).await, all[2..]);
    assert_eq!(bodies(3, 10).await, []);
    assert!(matches!(letters.get(4).await, Err(DeadLetterError::NotFound { sequence: 4 })));
}

#[tokio::test]
async fn a_letter_that_is_too_large_is_shortened_and_has_a_header_about_it() {
    let nats = TestNats::start_with_streams(2).await;
    let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    let body = Bytes::from(vec![b'x'; nats.client.max_payload()]);
    let large = DeadLetter { payload: body.clone(), reason: DeadReason::Malformed, ..letter("belvo.webhook.a", b"") };
    let number = letters.publish(&large).await.expect("stored");
    let stored = letters.get(number).await.expect("there");
    assert_eq!(stored.truncated_from, Some(body.len() as u64));
    assert_eq!(stored.payload, body[..stored.payload.len()]);
    assert!(stored.payload.len() > body.len() - 8 * 1024);
    assert!(matches!(letters.replay(number, None).await, Err(DeadLetterError::NotReplayable { .. })));
}

#[tokio::test]
async fn only_inputs_are_replayed() {
    let nats = TestNats::start_with_streams(2).await;
    let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    for subject in
        ["$KV.links.a", "belvo.webhook.a.b", "/webhooks\r\nX: y", "belvo.other.a", "$JS.API.STREAM.DELETE.KV_links"]
    {
        let number = letters.publish(&letter(subject, b"x")).await.expect("stored");
        let error = letters.replay(number, None).await.expect_err("not an input");
        assert!(matches!(error, DeadLetterError::NotReplayable { .. }), "{error}");
    }
    let number = letters.publish(&letter("belvo.webhook.a", b"y")).await.expect("stored");
    assert_eq!(letters.replay(number, None).await.expect("an input over HTTP has a subject without a partition"), 1);
    // The replayed subject has relink's spelling of the link id, not the publisher's.
    let spelt = letter("belvo.1.webhook.urn:uuid:16F68516-BCBC-4CF7-B815-C500D4204E28", b"y");
    let number = letters.publish(&spelt).await.expect("stored");
    letters.replay(number, None).await.expect("replayed");
    let (_, subject, ..) = nats.read("BELVO").await.pop().expect("an input");
    assert!(subject.ends_with(".webhook.16f68516-bcbc-4cf7-b815-c500d4204e28"), "{subject}");
}

#[tokio::test]
async fn messages_that_differ_in_any_part_are_different_letters() {
    let nats = TestNats::start_with_streams(2).await;
    let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    let first = letter("/webhooks/belvo", b"1");
    let with_header = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", value);
        headers.insert("content-type", "text/plain");
        DeadLetter { headers, ..first.clone() }
    };
    let others = [
        first.clone(),
        letter("/webhooks/belvo", b""),
        letter("belvo.webhook.a", b"1"),
        DeadLetter { reason: DeadReason::NoLink, ..first.clone() },
        DeadLetter { detail: "another".to_owned(), ..first.clone() },
        with_header("br"),
        with_header("zstd"),
    ];
    for _twice in 0..2 {
        for (number, other) in (1..).zip(&others) {
            assert_eq!(letters.publish(other).await.expect("stored"), number);
        }
    }
}

/// The letter of an input.
fn of_input(stream: &StreamIdentity, sequence: u64, body: &'static [u8]) -> DeadLetter {
    let input = InputPosition { stream: stream.clone(), sequence, stored_at_ns: 1_790_000_000_000_000_000 };
    DeadLetter { input: Some(input), ..letter("belvo.1.webhook.a", body) }
}

#[tokio::test]
async fn several_letters_are_stored_in_order_and_once() {
    for takes_batches in [true, false] {
        let nats = TestNats::start_with_streams(2).await;
        let mut config = nats.context.get_stream("RELINK_DEAD").await.expect("there").cached_info().config.clone();
        assert!(config.allow_atomic_publish);
        if !takes_batches {
            // The stream of an older relink.
            config.allow_atomic_publish = false;
            nats.context.delete_stream("RELINK_DEAD").await.expect("deleted");
            nats.context.create_stream(config).await.expect("created");
            nats.ensure(2).await;
        }
        let letters = DeadLetters::new(nats.context.clone(), Subjects::default());
        let stream = extent(&nats.context, "BELVO").await.expect("there").identity;
        let mut all: Vec<_> = (1..=620).map(|sequence| of_input(&stream, sequence, b"{}")).collect();
        letters.publish_all(&all[..100]).await.expect("stored");
        // A crash before the commit: the same letters again, and more of them.
        all[510].payload = Bytes::from(vec![b'x'; nats.client.max_payload()]);
        letters.publish_all(&all).await.expect("stored");
        letters.publish_all(&all).await.expect("stored");
        letters.publish_all(&[]).await.expect("nothing to store");
        let stored = letters.list(0, 1_000).await.expect("read");
        let sequences: Vec<_> = stored.iter().filter_map(|letter| letter.input_sequence).collect();
        assert_eq!(sequences, (1..=620).collect::<Vec<_>>(), "batches: {takes_batches}");
        assert!(stored.iter().all(|letter| letter.truncated_from.is_some() == (letter.input_sequence == Some(511))));
        assert!(stored.iter().all(|letter| letter.headers.is_empty()), "the headers of a batch are not the letter's");
    }
}

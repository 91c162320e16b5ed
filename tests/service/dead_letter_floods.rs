//! A backlog of messages with codes that relink does not know: other links do not wait for long, and the log stays short.

use crate::support::binary::{API_TOKEN, Relink, client};
use crate::support::{TestNats, message, webhook, within};
use async_nats::jetstream::consumer::pull;
use futures::StreamExt;

const OTHER_LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// The messages of the backlog.
const UNKNOWN: usize = 5_000;

/// The lines of the log, with the level WARN, that the whole backlog may cause.
const WARNINGS_MAX: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_unknown_codes_delays_no_other_link_and_fills_no_log() {
    let nats = TestNats::start_with_streams(4).await;
    let unknown = |n: usize| {
        let link = format!("00000000-0000-4000-8000-{:012}", n % 40);
        message(format!("belvo.webhook.{link}"), webhook(&link, "link_healed", n))
    };
    for first in (0..UNKNOWN).step_by(500) {
        let batch = (first..first + 500).map(unknown).collect();
        nats.batches().publish_atomic(batch).await.expect("stored");
    }
    let known = message(format!("belvo.webhook.{OTHER_LINK}"), webhook(OTHER_LINK, "token_required", UNKNOWN));
    nats.batches().publish_atomic(vec![known]).await.expect("stored");

    let stream = nats.context.get_stream("KV_links").await.expect("the stream");
    let filter_subject = format!("link.notice.update_required.{OTHER_LINK}");
    let notices = stream.create_consumer(pull::OrderedConfig { filter_subject, ..pull::OrderedConfig::default() });
    let mut notices = notices.await.expect("a consumer").messages().await.expect("messages");
    let mut relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    within("the prompt of the other link", notices.next()).await.expect("a message").expect("a notice");

    // Every message of the backlog is a dead letter, once, in the order of the inputs.
    let letters = async {
        loop {
            let stream = nats.context.get_stream("RELINK_DEAD").await.expect("the stream");
            if stream.cached_info().state.messages >= UNKNOWN as u64 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within("the dead letters", letters).await;
    let listed = client().get(format!("{}/v1/dead-letters?limit=1000", relink.url)).bearer_auth(API_TOKEN);
    let listed: serde_json::Value = listed.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(listed["dead_letters"].as_array().expect("a list").len(), 1_000);
    assert_eq!(listed["dead_letters"][0]["reason"], "unknown_code");

    relink.signal("TERM").await;
    assert!(relink.ended().await.success());
    assert_eq!(nats.read("RELINK_DEAD").await.len(), UNKNOWN);
    let warnings: Vec<_> = relink.seen.iter().filter(|line| line.contains(r#""level":"WARN""#)).collect();
    assert!(warnings.len() < WARNINGS_MAX, "{} warnings, such as {:?}", warnings.len(), &warnings[..3]);
    assert!(warnings.iter().any(|line| line.contains("unknown_code")), "{warnings:?}");
}

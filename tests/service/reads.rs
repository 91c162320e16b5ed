//! What a read over HTTP shows. A subscriber that gets a notice asks relink about the link at once, so the answer must not be older.

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures::{StreamExt as _, stream};
use serde_json::Value;

use crate::support::binary::{API_TOKEN, Relink, client};
use crate::support::{TestNats, webhook, within};

const LINKS: usize = 300;

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// The store is written behind the stream, and a notice is on the stream. Only a consumer shows what is on the stream: a subscription
/// without JetStream also gets the messages of a batch that is not committed yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_after_a_notice_has_the_state_of_the_notice() {
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    let filter_subject = "link.notice.update_required.>".to_owned();
    let config = OrderedConfig { filter_subject, ..OrderedConfig::default() };
    let consumer = nats.context.create_consumer_on_stream(config, "KV_links").await.expect("a consumer");
    let notices = consumer.messages().await.expect("the messages");
    let client = client();
    let send = stream::iter(1..=LINKS).for_each_concurrent(16, |n| {
        let (relink, client) = (&relink, &client);
        async move { relink.store_webhook(client, webhook(&link(n), "token_required", n)).await }
    });
    let read = notices.take(LINKS).for_each_concurrent(8, |notice| {
        let (relink, client) = (&relink, &client);
        async move {
            let notice: Value = serde_json::from_slice(&notice.expect("a notice").payload).expect("JSON");
            let id = notice["link_id"].as_str().expect("a link");
            let request = client.get(format!("{}/v1/links/{id}", relink.url)).bearer_auth(API_TOKEN);
            let state: Value = request.send().await.expect("an answer").json().await.expect("JSON");
            assert_eq!(state["state"], "token_required", "{id}: {state}");
        }
    });
    within("all reads", async { tokio::join!(send, read) }).await;
}

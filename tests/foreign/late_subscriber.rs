//! The example subscribers, started late, with the address of relink: one message to a person, also if a later message about another
//! link mentions the link of an earlier one.

use serde_json::{Value, json};

use crate::support::binary::{API_TOKEN, Relink, client};
use crate::support::{TestNats, webhook, within};
use crate::{subscribe, subscribers};

const FIRST: &str = "30cb4806-6e00-48a4-91c9-ca55968576c8";
const SECOND: &str = "4f2c1d0e-7b1a-4c3d-9e8f-0a1b2c3d4e5f";

#[tokio::test(flavor = "multi_thread")]
async fn a_late_subscriber_writes_once_about_a_link_that_a_later_message_mentions() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let relink = Relink::serve(nats.server.url(), &data, &[("RELINK_POLICY_REMINDER_PAUSE", "1s")]).await;
    for link in [FIRST, SECOND] {
        let read = json!({"observed_at": "2026-01-01T00:00:00Z", "outcome": "found",
            "link": {"id": link, "institution": "erebor_mx_retail", "status": "valid", "external_id": "maria"}});
        let published = nats.context.publish(format!("belvo.observation.{link}"), read.to_string().into()).await;
        published.expect("sent").await.expect("stored");
    }
    for (link, n) in [(FIRST, 1), (SECOND, 2)] {
        let known = async { while relink.wait_for_link(&client(), link).await["external_id"] != "maria" {} };
        within("the reads", known).await;
        relink.store_webhook(&client(), webhook(link, "token_required", n)).await;
        let prompted = async { while relink.wait_for_link(&client(), link).await["episode"]["prompt"] != "sent" {} };
        within("the prompt", prompted).await;
    }
    assert_eq!(relink.wait_for_link(&client(), FIRST).await["last_mention"]["link_id"], SECOND);

    for (durable, mut subscriber) in subscribers().await {
        subscriber.env("RELINK_URL", &relink.url).env("RELINK_API_TOKEN", API_TOKEN);
        let messages = subscribe(&mut subscriber, &nats, 2, &nats.dir.path().join(durable)).await;
        let ids = |message: &Value| -> Vec<Value> {
            message["links"].as_array().expect("links").iter().map(|link| link["link_id"].clone()).collect()
        };
        let written: Vec<_> = messages.iter().map(ids).collect();
        assert_eq!(written, [[SECOND, FIRST]], "{durable}: {messages:?}");
    }
}

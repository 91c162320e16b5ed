//! The example subscribers, started late: no message about a link that works again, one message to a person, also if a later message about
//! another link mentions the link of an earlier one, and none about a bank that is down now.

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
    for (link, n) in [(FIRST, 1), (SECOND, 2)] {
        read(&nats, &relink, link, "erebor_mx_retail", "maria").await;
        prompt(&relink, link, n).await;
    }
    assert_eq!(relink.wait_for_link(&client(), FIRST).await["last_mention"]["link_id"], SECOND);

    for (durable, mut subscriber) in subscribers().await {
        let messages = subscribe(&mut subscriber, (&nats, &relink), 2, &nats.dir.path().join(durable)).await;
        let ids = |message: &Value| -> Vec<Value> {
            message["links"].as_array().expect("links").iter().map(|link| link["link_id"].clone()).collect()
        };
        let written: Vec<_> = messages.iter().map(ids).collect();
        assert_eq!(written, [[SECOND, FIRST]], "{durable}: {messages:?}");
    }
}

/// A new subscriber reads the whole history. It writes only about links that are broken now, and only once.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscriber_writes_about_no_link_that_works_again() {
    const REPAIRED: &str = FIRST;
    const MUTED: &str = SECOND;
    const BROKEN: &str = "8a7b6c5d-1e2f-4a3b-9c8d-7e6f5a4b3c2d";
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    for (n, link) in (1..).zip([REPAIRED, MUTED, BROKEN]) {
        read(&nats, &relink, link, "erebor_mx_retail", link).await;
        prompt(&relink, link, n).await;
    }
    let broken_at = relink.wait_for_link(&client(), REPAIRED).await["updated_at"].clone();
    observe(
        &nats,
        REPAIRED,
        &json!({"observed_at": broken_at, "outcome": "found", "link": {"id": REPAIRED, "status": "valid"}}),
    )
    .await;
    let works = async { while relink.wait_for_link(&client(), REPAIRED).await["state"] != "valid" {} };
    within("the repair", works).await;
    let mute = client().post(format!("{}/v1/links/{MUTED}/commands", relink.url)).bearer_auth(API_TOKEN);
    assert_eq!(mute.json(&json!({"command": "mute"})).send().await.expect("an answer").status(), 202);
    let muted = async { while relink.wait_for_link(&client(), MUTED).await["muted"] != true {} };
    within("the mute", muted).await;

    for (durable, mut subscriber) in subscribers().await {
        let messages = subscribe(&mut subscriber, (&nats, &relink), 3, &nats.dir.path().join(durable)).await;
        assert_eq!(messages.len(), 1, "{durable}: {messages:?}");
        assert_eq!(messages[0]["links"][0]["link_id"], BROKEN, "{durable}");
    }
    // A consumer of the same name that starts again at the oldest notice, with the same file: the file knows all but one.
    let new = "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f";
    read(&nats, &relink, new, "erebor_mx_retail", new).await;
    prompt(&relink, new, 4).await;
    for (durable, mut subscriber) in subscribers().await {
        nats.context.delete_consumer_from_stream(durable, "KV_links").await.expect("deleted");
        let messages = subscribe(&mut subscriber, (&nats, &relink), 1, &nats.dir.path().join(durable)).await;
        assert_eq!(messages.len(), 1, "{durable}: {messages:?}");
        assert_eq!(messages[0]["links"][0]["link_id"], new, "{durable}");
    }
}

/// Stores an observation of Belvo.
async fn observe(nats: &TestNats, link: &str, observation: &Value) {
    let published = nats.context.publish(format!("belvo.observation.{link}"), observation.to_string().into()).await;
    published.expect("sent").await.expect("stored");
}

/// Stores a read of a working link, and waits until relink knows it.
async fn read(nats: &TestNats, relink: &Relink, link: &str, institution: &str, person: &str) {
    let read = json!({"observed_at": "2026-01-01T00:00:00Z", "outcome": "found",
        "link": {"id": link, "institution": institution, "status": "valid", "external_id": person}});
    observe(nats, link, &read).await;
    let known = async { while relink.wait_for_link(&client(), link).await["external_id"] != person {} };
    within("the read", known).await;
}

/// Breaks a link with the webhook of this number, and waits for the prompt.
async fn prompt(relink: &Relink, link: &str, n: usize) {
    relink.store_webhook(&client(), webhook(link, "token_required", n)).await;
    let prompted = async { while relink.wait_for_link(&client(), link).await["episode"]["prompt"] != "sent" {} };
    within("the prompt", prompted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_about_a_bank_that_is_down_waits_and_holds_up_no_other() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let relink = Relink::serve(nats.server.url(), &data, &[("RELINK_STATUS_WEBHOOK_SECRETS", "of-the-page")]).await;
    read(&nats, &relink, FIRST, "erebor_mx_retail", "maria").await;
    read(&nats, &relink, SECOND, "gringotts_mx_retail", "pedro").await;
    prompt(&relink, FIRST, 1).await;
    prompt(&relink, SECOND, 2).await;
    let outage = json!({"incident": {"status": "identified", "updated_at": "2026-01-01T00:00:00Z",
        "components": [{"name": "erebor_mx_retail", "status": "major_outage"}]}});
    let page = client().post(format!("{}/webhooks/belvo-status?secret=of-the-page", relink.url)).json(&outage);
    assert_eq!(page.send().await.expect("an answer").status(), 200);
    let is_down =
        async { while !relink.wait_for_link(&client(), FIRST).await["institution_down_since"].is_string() {} };
    within("the outage", is_down).await;

    for (durable, mut subscriber) in subscribers().await {
        let messages = subscribe(&mut subscriber, (&nats, &relink), 1, &nats.dir.path().join(durable)).await;
        assert_eq!(messages.len(), 1, "{durable}: {messages:?}");
        assert_eq!(messages[0]["links"][0]["link_id"], SECOND, "{durable}");
        // The earlier notice is not lost: the server delivers it again later.
        let stream = nats.context.get_stream("KV_links").await.expect("the stream");
        let info = stream.consumer_info(durable).await.expect("the consumer is durable");
        assert_eq!((info.num_pending, info.num_ack_pending), (0, 1), "{durable}");
    }
}

//! Observe mode, with the binary: everything is recorded, nothing is sent, and the next start without it goes on.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::binary::{API_TOKEN, Relink, client};
use crate::support::{TestNats, webhook, within};

const FIRST: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
const SECOND: &str = "b91835f5-6f83-4d9b-a0ad-a5a249f18b7c";

async fn get(relink: &Relink, path: &str) -> Value {
    let request = client().get(format!("{}{path}", relink.url)).bearer_auth(API_TOKEN);
    within(path, async { request.send().await.expect("an answer").json().await.expect("JSON") }).await
}

/// What a command prints that calls this relink.
async fn printed(relink: &Relink, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
    command.args(args).args(["--url", &relink.url]).env_clear().env("RELINK_API_TOKENS", API_TOKEN);
    let output = within("a command", command.output()).await.expect("relink runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The subjects of the notices, sent and kept back.
async fn notices(nats: &TestNats) -> Vec<String> {
    let subjects = nats.read("KV_links").await.into_iter().map(|(_, subject, ..)| subject);
    subjects.filter(|subject| subject.starts_with("link.notice.") || subject.starts_with("link.observed.")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_sent_is_recorded_and_a_start_without_it_sends_the_next_notice() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let observing = "relink only observes (service.observe)";
    let mut relink = Relink::serve_after(observing, nats.server.url(), &data, &[("RELINK_OBSERVE", "true")]).await;
    relink.store_webhook(&client(), webhook(FIRST, "token_required", 1)).await;
    relink.wait_for_link(&client(), FIRST).await;
    assert_eq!(notices(&nats).await, [format!("link.observed.update_required.{FIRST}")]);

    let (ready, summary) = (get(&relink, "/readyz").await, get(&relink, "/v1/summary").await);
    assert!(ready["warnings"][0].as_str().unwrap().starts_with(observing), "{ready}");
    assert_eq!(summary["observe"], true);
    let update = client().post(format!("{}/v1/links/{FIRST}/update", relink.url)).bearer_auth(API_TOKEN);
    let update = within("a refusal", update.send()).await.unwrap();
    assert_eq!(update.status(), 503);
    assert_eq!(update.json::<Value>().await.unwrap()["type"], "urn:relink:problem:observing");

    let why = printed(&relink, &["why", FIRST]).await;
    assert!(why.contains("relink would have prompted the user"), "{why}");
    assert!(why.contains("(observe mode)") && why.contains("update_required"), "{why}");
    assert!(why.contains("relink records reminder 1") && !why.contains("gets reminder"), "{why}");
    let report: Value = serde_json::from_str(&printed(&relink, &["observed", "--json"]).await).unwrap();
    assert_eq!((&report["notices_count"], &report["days"][0]["type"]), (&json!(1), &json!("update_required")));

    relink.signal("TERM").await;
    assert!(relink.ended().await.success());
    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    relink.store_webhook(&client(), webhook(SECOND, "token_required", 2)).await;
    relink.wait_for_link(&client(), SECOND).await;
    let both = [format!("link.observed.update_required.{FIRST}"), format!("link.notice.update_required.{SECOND}")];
    assert_eq!(notices(&nats).await, both);
    assert!(get(&relink, "/readyz").await["warnings"].is_null());
    assert!(get(&relink, "/v1/summary").await["observe"].is_null());
    // Nobody got the first prompt, so the list has it.
    let prompts = get(&relink, "/v1/prompts").await;
    let prompts: Vec<&str> =
        prompts["links"].as_array().unwrap().iter().map(|link| link["link_id"].as_str().unwrap()).collect();
    assert_eq!(prompts, [FIRST, SECOND]);
    assert!(printed(&relink, &["observed"]).await.contains("1 notice about 1 link"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_only_records_the_prompt_and_says_so() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let observing = "relink only observes (service.observe)";
    let relink = Relink::serve_after(observing, nats.server.url(), &data, &[("RELINK_OBSERVE", "true")]).await;
    // A link may be muted before its first webhook, over HTTP.
    let mute = client().post(format!("{}/v1/links/{FIRST}/commands", relink.url)).bearer_auth(API_TOKEN);
    let mute = within("a mute", mute.json(&json!({"command": "mute"})).send()).await.unwrap();
    assert_eq!(mute.status(), 202);
    relink.wait_for_link(&client(), FIRST).await;
    relink.store_webhook(&client(), webhook(FIRST, "token_required", 1)).await;
    let broken = async { while get(&relink, &format!("/v1/links/{FIRST}")).await["state"] != "token_required" {} };
    within("a broken link", broken).await;
    assert!(printed(&relink, &["links", "--held"]).await.contains(FIRST));
    assert_eq!(notices(&nats).await, [""; 0]);

    let released = printed(&relink, &["release", FIRST]).await;
    assert!(released.contains("relink would have prompted the user"), "{released}");
    assert!(released.contains("this is recorded, and nothing is sent to the user") && !released.contains("ublished"));
    assert_eq!(notices(&nats).await, [format!("link.observed.update_required.{FIRST}")]);
    // The state is on NATS before it is in the store.
    let sent = async { while get(&relink, &format!("/v1/links/{FIRST}")).await["episode"]["prompt"] != "sent" {} };
    within("the prompt in the store", sent).await;
    let held = printed(&relink, &["links", "--held"]).await;
    assert!(held.starts_with("no link matches\n") && held.contains("Recorded prompts count as sent"), "{held}");
}

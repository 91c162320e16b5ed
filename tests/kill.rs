//! SIGKILL of the real binary and of the real nats-server under load: no input is lost, and no message is published twice.
//!
//! The seed decides after how many webhooks each kill comes (`RELINK_TEST_SEED=<n>` uses it again). The exact moment is random.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use relink::contract::{NoticeBody, Record, RefusedBody};
use support::binary::Relink;
use support::{TestNats, within};
use tokio::process::Command;

const LINKS: usize = 40;
const ROUNDS: usize = 6;

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn webhook(link: &str, code: &str, request: usize) -> String {
    format!(
        r#"{{"webhook_id":"{request:032x}","webhook_type":"LINK","process_type":"recurrent_update","webhook_code":"{code}",
            "link_id":"{link}","request_id":"{request:08x}-51eb-4350-9c74-5df5ac92a7f6","external_id":null,"data":{{}}}}"#
    )
}

#[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
fn seed() -> u64 {
    let given = std::env::var("RELINK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed: RELINK_TEST_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_is_lost_and_no_message_is_published_twice() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut nats = TestNats::start_with(|options| options.sync_always = true).await;
    let data = nats.dir.path().join("relink");
    let client = support::binary::client();
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let mut accepted = 0_usize;
    let mut request = 0_usize;
    for round in 0..ROUNDS {
        // The kill comes during a burst of webhooks. Belvo repeats a webhook that got no 2xx answer.
        let burst: Vec<String> = (0..LINKS)
            .map(|n| {
                request += 1;
                let code = if random.bool() { "invalid_credentials" } else { "token_required" };
                webhook(&link(n), code, request)
            })
            .collect();
        let kill_after = random.usize(..LINKS);
        let kill_nats = round == ROUNDS / 2;
        let posts = burst.iter().map(|body| relink.webhook(&client, body.clone()));
        let mut unanswered: Vec<&String> = Vec::new();
        let answers = async {
            let mut posts = futures::stream::FuturesOrdered::from_iter(posts);
            let mut answers = Vec::new();
            while let Some(answer) = futures::StreamExt::next(&mut posts).await {
                answers.push(answer);
                if answers.len() == kill_after {
                    let pid = if kill_nats { nats.server.pid() } else { relink.child.id().expect("it runs") };
                    Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status().await.expect("a kill command");
                    if kill_nats {
                        break;
                    }
                }
            }
            answers
        };
        let answers = within("a burst", answers).await;
        for (n, body) in burst.iter().enumerate() {
            match answers.get(n) {
                Some(Some(200)) => accepted += 1,
                Some(_) | None => unanswered.push(body),
            }
        }
        if kill_nats {
            nats.restart().await;
        }
        if !kill_nats || relink.child.try_wait().expect("a child").is_some() {
            relink.signal("KILL").await;
            relink.child.wait().await.expect("it ended");
            relink = Relink::serve(nats.server.url(), &data, &[]).await;
        }
        for body in unanswered {
            let repeat = async {
                while relink.webhook(&client, body.clone()).await != Some(200) {
                    tokio::task::yield_now().await;
                }
            };
            within("Belvo's retry", repeat).await;
            accepted += 1;
        }
    }
    assert_eq!(accepted, LINKS * ROUNDS);
    // The last input of each link. When their outputs are published, so are those of all earlier inputs.
    for n in 0..LINKS {
        let deleted = webhook(&link(n), "link_deleted", 1_000_000 + n);
        assert_eq!(relink.webhook(&client, deleted).await, Some(200));
    }
    let outputs = within("the last output of every link", async {
        loop {
            let outputs = nats.read("LINKS").await;
            let removed = outputs.iter().filter(|(_, subject, ..)| subject.starts_with("link.notice.removed.")).count();
            if removed >= LINKS {
                return outputs;
            }
        }
    })
    .await;
    relink.signal("TERM").await;
    assert!(within("a graceful end", relink.child.wait()).await.expect("an end").success());
    let inputs: BTreeSet<u64> = nats.read("BELVO").await.iter().map(|(sequence, ..)| *sequence).collect();
    check(&outputs, &inputs);
}

/// Every input has exactly one outcome, every link's versions are 1, 2, 3, …, and each link was prompted exactly once.
fn check(outputs: &[(u64, String, async_nats::HeaderMap, bytes::Bytes)], inputs: &BTreeSet<u64>) {
    let mut ids = BTreeSet::new();
    let mut outcomes: BTreeMap<u64, usize> = BTreeMap::new();
    let mut versions: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut prompts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, subject, headers, body) in outputs {
        if subject.starts_with("link.fence.") {
            continue;
        }
        let id = headers.get("ce-id").expect("every message has an id").to_string();
        assert!(ids.insert(id.clone()), "the message {id} was published twice");
        let words: Vec<&str> = subject.split('.').collect();
        match words[1] {
            "state" => {
                let record = Record::parse(body).expect("a record");
                versions.entry(record.link_id).or_default().push(record.version);
                *outcomes.entry(record.because.origin.input_sequence.expect("no timer was due")).or_default() += 1;
            }
            "refused" => {
                let refused: RefusedBody = serde_json::from_slice(body).expect("a refusal");
                *outcomes.entry(refused.origin.input_sequence.expect("no timer was due")).or_default() += 1;
            }
            "notice" if words[2] == "update_required" => {
                let notice: NoticeBody = serde_json::from_slice(body).expect("a notice");
                *prompts.entry(notice.link_id).or_default() += 1;
            }
            _ => {}
        }
    }
    let handled: BTreeSet<u64> = outcomes.keys().copied().collect();
    assert_eq!(&handled, inputs, "an input without an outcome was lost");
    assert!(outcomes.values().all(|&count| count == 1), "an input had two outcomes: {outcomes:?}");
    assert_eq!(versions.len(), LINKS);
    for (link, versions) in &versions {
        let expected: Vec<u64> = (1..=versions.len() as u64).collect();
        assert_eq!(versions, &expected, "{link}");
    }
    assert!(prompts.len() == LINKS && prompts.values().all(|&count| count == 1), "{prompts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_graceful_stop_the_next_start_goes_on() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let client = support::binary::client();
    for (round, signal) in ["TERM", "INT", "TERM"].into_iter().enumerate() {
        let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
        assert_eq!(relink.webhook(&client, webhook(&link(round), "token_required", round)).await, Some(200));
        relink.signal(signal).await;
        assert!(within("a graceful end", relink.child.wait()).await.expect("an end").success());
    }
    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let summary = within("the links", async {
        loop {
            let request = client.get(format!("{}/v1/links", relink.url)).bearer_auth(support::binary::API_TOKEN);
            let links: serde_json::Value = request.send().await.expect("an answer").json().await.expect("JSON");
            if links["links"].as_array().is_some_and(|links| links.len() == 3) {
                return links;
            }
        }
    })
    .await;
    assert!(summary["links"].as_array().expect("links").iter().all(|link| link["version"] == 1), "{summary}");
}

//! `GET /v1/events`: the messages about links as they come.

use relink::contract::StreamEvent;
use reqwest::{Method, Response};
use serde_json::json;

use crate::bench::{API_TOKEN, Answer, Bench, LINK, answer};
use crate::command_line::publish_history;
use crate::support::within;

const OTHER: &str = "b91835f5-6f83-4d9b-a0ad-a5a249f18b7c";

fn events(answer: &Answer) -> Vec<StreamEvent> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let data = answer.text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|event| serde_json::from_str(event).unwrap()).collect()
}

async fn publish_notice(bench: &Bench, link: &str) {
    let body = json!({"type": "update_required", "institution": "gringotts_mx_retail"}).to_string();
    let subject = format!("link.notice.update_required.{link}");
    bench.nats.context.publish(subject, body.into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn events_are_sent_in_the_order_of_the_stream_behind_any_sequence() {
    let bench = Bench::new().await;
    publish_history(&bench).await;
    publish_notice(&bench, OTHER).await;
    let get = async |query: &str| events(&bench.get(&format!("/v1/events?wait=0&{query}")).await);

    let all = get("after=0").await;
    let kinds: Vec<String> = all.iter().map(|event| serde_json::to_value(event.kind).unwrap().to_string()).collect();
    assert_eq!(kinds.join(" "), r#""notice" "job" "state" "refused" "notice""#);
    assert_eq!(all.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(all[2].body.get("recent").is_none() && all[2].body["state"] == "valid");
    assert_eq!(all[0].message_id.as_deref(), Some(format!("{LINK}.1.1").as_str()));

    assert_eq!(get("after=3").await, all[3..]);
    assert_eq!(get("after=0&kind=notice,job").await.len(), 3);
    assert_eq!(get("after=0&type=update_required").await, all[4..]);
    assert_eq!(get("after=0&kind=notice,observed,state&type=update_required,recovered").await, all[4..]);
    assert_eq!(get("after=0&institution=gringotts_mx_retail").await, all[4..]);
    assert_eq!(get(&format!("after=0&link={LINK}")).await, all[..4]);
    assert!(get("").await.is_empty(), "without `after`, only what comes from now on");
    assert!(get("after=5").await.is_empty(), "the end of the stream is no error");
    for after in ["after=6", "after=18446744073709551615"] {
        let answered = bench.get(&format!("/v1/events?wait=0&{after}")).await;
        let detail = answered.problem(400, "bad-parameter")["detail"].as_str().unwrap();
        assert!(detail.contains("is behind the end of `KV_links`, whose last sequence is 5"), "{detail}");
    }

    // A browser that connects again keeps the old address and says what it has.
    let again = bench.request(Method::GET, "/v1/events?wait=0&after=0").bearer_auth(API_TOKEN);
    assert_eq!(events(&answer(again.header("last-event-id", "4")).await), all[4..]);

    for wrong in [
        "wait=101",
        "wait=x",
        "kind=nothing",
        "type=bogus",
        "type=recovered,bogus",
        "after=-1",
        "link=a.b",
        "link=",
        "institution=",
        "since=1",
    ] {
        bench.get(&format!("/v1/events?{wrong}")).await.problem(400, "bad-parameter");
    }
}

#[tokio::test]
async fn a_filtered_answer_moves_the_place_of_the_client_too() {
    let bench = Bench::new().await;
    publish_history(&bench).await;
    let answered = bench.get("/v1/events?wait=0&after=0&type=recovered").await;
    assert!(events(&answered).is_empty());
    assert!(answered.text.contains("id: 4"), "{}", answered.text);
}

/// Reads chunks until one has this text.
async fn read_until(response: &mut Response, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = within("an event", response.chunk()).await.unwrap().expect("the answer goes on");
        read.push_str(&String::from_utf8_lossy(&chunk));
    }
}

#[tokio::test]
async fn a_message_is_sent_when_it_comes_and_the_stop_ends_the_answer() {
    let bench = Bench::new().await;
    let request = bench.request(Method::GET, "/v1/events").bearer_auth(API_TOKEN);
    let mut response = within("the head", request.send()).await.unwrap();
    publish_notice(&bench, OTHER).await;
    read_until(&mut response, OTHER).await;

    bench.shutdown.cancel();
    while within("the end", response.chunk()).await.unwrap().is_some() {}
    let Bench { served, .. } = bench;
    within("the stop", served).await.unwrap();
}

#[tokio::test]
async fn a_client_too_many_is_refused_and_a_client_that_is_gone_leaves_its_place_at_once() {
    let bench = Bench::new().await;
    let open = || bench.request(Method::GET, "/v1/events").bearer_auth(API_TOKEN).send();
    let mut watching = Vec::new();
    for _ in 0..32 {
        let response = within("the head", open()).await.unwrap();
        assert_eq!(response.status(), 200);
        watching.push(response);
    }
    bench.get("/v1/events?wait=0").await.problem(503, "busy");
    // No message is needed, and no interval of a keep-alive passes, until relink notices that the clients are gone.
    drop(watching);
    within("a free place", async { while bench.get("/v1/events?wait=0").await.status != 200 {} }).await;
}

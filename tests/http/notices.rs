//! `POST /v1/notices/check`: whom a notice is still about. The rules have tests of their own, beside `contract::NoticeToCheck`.

use relink::link::{Cause, Episode, EpisodeNumber, Link, Prompt, State, Timestamp};
use serde_json::{Value, json};

use crate::bench::Bench;

const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn notice(link: &str) -> Value {
    let other = json!({"link_id": "other", "institution": null, "episode": 1, "action": "provide_token"});
    json!({"type": "update_required", "link_id": link, "external_id": "maria", "institution": "erebor_mx_retail", "state": "invalid",
        "action": "update_credentials", "episode": {"number": 1, "a_new_field": true}, "also_broken": [other],
        "because": {"at": "2023-11-14T22:13:20.000Z", "event": "an_event_of_a_newer_relink"}})
}

#[tokio::test]
async fn a_notice_is_about_the_links_that_still_need_their_user() {
    let bench = Bench::new().await;
    let broken = State::broken(Episode::new(EpisodeNumber(1), Cause::Credentials, AT, Prompt::Sent));
    for (id, state) in [("own", broken), ("other", State::Valid { suspicion: None })] {
        let mut link = Link::unknown(id.parse().unwrap(), AT);
        (link.version, link.state) = (1, state);
        bench.put_link(&link);
    }
    let checked = bench.post("/v1/notices/check", notice("own")).await;
    assert_eq!(checked.status, 200, "{}", checked.text);
    let expected = json!({"links": [{"link_id": "own", "institution": "erebor_mx_retail", "action": "update_credentials"}],
        "left_out": [{"link_id": "other", "reason": "repaired"}]});
    assert_eq!(checked.body, expected);
    // An id that no link can have is one that relink does not know.
    let checked = bench.post("/v1/notices/check", notice("no link")).await;
    assert_eq!(checked.body["left_out"][0], json!({"link_id": "no link", "reason": "unknown"}));
}

#[tokio::test]
async fn a_body_that_is_no_notice_is_refused_with_the_reason() {
    let bench = Bench::new().await;
    for body in [json!({}), json!([]), json!({"link_id": "own"})] {
        let refused = bench.post("/v1/notices/check", body).await;
        refused.problem(422, "wrong-shape");
        assert!(refused.text.contains("as relink published it"), "{}", refused.text);
    }
    let other =
        |n: u32| json!({"link_id": format!("l{n}"), "institution": null, "episode": 1, "action": "provide_token"});
    let mut too_many = notice("own");
    too_many["also_broken"] = (0..64).map(other).collect();
    let refused = bench.post("/v1/notices/check", too_many).await;
    refused.problem(422, "wrong-shape");
    assert!(refused.text.contains("64 links at most"), "{}", refused.text);
}

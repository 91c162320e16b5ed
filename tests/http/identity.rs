//! Every spelling of a link id, at every endpoint, names the same link.

use relink::link::State;
use serde_json::json;

use crate::bench::{Bench, LINK, answer};

/// The spellings of a UUID in databases, libraries and texts, and their form in a path.
const SPELLINGS: [(&str, &str); 6] = [
    (LINK, LINK),
    ("16f68516bcbc4cf7b815c500d4204e28", "16f68516bcbc4cf7b815c500d4204e28"),
    ("16F68516-BCBC-4CF7-B815-C500D4204E28", "16F68516-BCBC-4CF7-B815-C500D4204E28"),
    ("urn:uuid:16f68516-bcbc-4cf7-b815-c500d4204e28", "urn:uuid:16f68516-bcbc-4cf7-b815-c500d4204e28"),
    ("{16F68516-BCBC-4CF7-B815-C500D4204E28}", "%7B16F68516-BCBC-4CF7-B815-C500D4204E28%7D"),
    (" 16f68516-bcbc-4cf7-b815-c500d4204e28 ", "%2016f68516-bcbc-4cf7-b815-c500d4204e28%20"),
];

#[tokio::test]
async fn inputs_with_every_spelling_have_the_subject_of_one_link() {
    let bench = Bench::new().await;
    let mut expected = Vec::new();
    for (spelling, in_path) in SPELLINGS {
        let webhook = json!({"webhook_type": "LINK", "webhook_code": "token_required", "link_id": spelling});
        assert_eq!(answer(bench.webhook(webhook.to_string())).await.status, 200, "{spelling}");
        let error = |path: &str, link_id: Option<&str>, link: Option<&str>| {
            json!({"http_status": 400, "method": "POST", "path": path, "link_id": link_id,
                "body": [{"code": "invalid_link", "link": link}]})
        };
        for error in [
            error("/api/transactions/", Some(spelling), None),
            error("/api/transactions/", None, Some(spelling)),
            error(&format!("/api/links/{in_path}/refresh/"), None, None),
            error(&format!("/api/accounts/?link={in_path}"), None, None),
            error(&format!("/api/links/{LINK}/refresh/"), Some(spelling), Some(spelling)),
        ] {
            let answer = bench.post("/v1/api-errors", &error).await;
            assert_eq!((answer.status, &answer.body["link_id"]), (202, &json!(LINK)), "{error}: {}", answer.text);
        }
        let claimed = json!({"event": "success", "link": spelling});
        for path in [format!("/v1/links/{in_path}/widget"), format!("/v1/links/{LINK}/widget")] {
            let answer = bench.post(&path, &claimed).await;
            assert_eq!((answer.status, &answer.body["link_id"]), (202, &json!(LINK)), "{path}: {}", answer.text);
        }
        let muted = bench.post(&format!("/v1/links/{in_path}/commands"), json!({"command": "mute"})).await;
        assert_eq!((muted.status, &muted.body["link_id"]), (202, &json!(LINK)), "{}", muted.text);
        let kinds =
            ["webhook", "api_error", "api_error", "api_error", "api_error", "api_error", "widget", "widget", "command"];
        expected.extend(kinds.map(|kind| format!("belvo.{kind}.{LINK}")));
    }
    let subjects: Vec<_> = bench.inputs().await.into_iter().map(|(subject, ..)| subject).collect();
    assert_eq!(subjects, expected);
}

#[tokio::test]
async fn a_link_can_be_read_by_every_spelling() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor_mx_retail", State::Valid { suspicion: None });
    for (_, in_path) in SPELLINGS {
        let link = bench.get(&format!("/v1/links/{in_path}")).await;
        assert_eq!((link.status, &link.body["link_id"]), (200, &json!(LINK)), "{in_path}: {}", link.text);
        let page = bench.get(&format!("/v1/links?after={in_path}")).await;
        assert_eq!((page.status, &page.body["links"]), (200, &json!([])), "{in_path}: {}", page.text);
        let history = bench.get(&format!("/v1/links/{in_path}/history")).await;
        history.problem(404, "not-found");
        assert!(history.text.contains(LINK), "{}", history.text);
    }
}

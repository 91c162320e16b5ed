//! Answers that are not from Belvo: of a gateway, a proxy or a login page, or truncated ones. None of them says
//! anything about a link.

use axum::http::header::{CONTENT_TYPE, LOCATION};

use super::*;

const OTHER: &str = "30cb4806-6e00-48a4-91c9-ca55968576c8";
const CONSENT: &str = "b2c17cb6-1f9d-4f9c-8d0f-1f5e7d0c0f5a";
const PAGE: &str = "<!doctype html><title>Sign in</title><p>hunter2";

/// A server whose answer can be changed, so that one client can be used for all answers.
struct Stand {
    client: Client,
    answer: Arc<Mutex<(u16, String)>>,
}

impl Stand {
    async fn start() -> Self {
        let answer = Arc::new(Mutex::new((200, String::new())));
        let given = Arc::clone(&answer);
        let (client, _) = server(move || {
            let (status, body) = given.lock().unwrap().clone();
            let headers = [(CONTENT_TYPE, "text/html"), (LOCATION, "/login")];
            (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
        })
        .await;
        // The budget is large enough for hundreds of requests without a wait.
        Self { client: client.with_budget(Budget::new(100_000)), answer }
    }

    fn answer(&self, status: u16, body: impl ToString) -> &Client {
        *self.answer.lock().unwrap() = (status, body.to_string());
        &self.client
    }

    /// Whether every call treats the answer as a temporary failure.
    async fn is_temporary_failure(&self, status: u16, body: impl ToString) -> bool {
        let client = self.answer(status, body);
        is_transient(&client.get_link(&link()).await)
            && is_transient(&client.get_consent(&link(), CONSENT).await)
            && is_transient(&client.refresh_link(&link(), &[]).await)
            && is_transient(&client.update_token(&link(), None).await)
            && is_transient(&client.links(&LinkFilter::All).next().await.map(drop))
            && is_transient(&client.knows_any_link().await)
    }
}

fn is_transient<T>(result: &Result<T, CallError>) -> bool {
    match result {
        Err(error @ CallError::Transient { .. }) => !error.to_string().contains("hunter2"),
        Ok(_) | Err(CallError::Api(_) | CallError::Permanent { .. }) => false,
    }
}

#[tokio::test]
async fn an_html_page_says_nothing_about_a_link() {
    let stand = Stand::start().await;
    let gateways = [200, 201, 202, 203, 206, 301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 418, 422, 428];
    for status in gateways.into_iter().chain([451, 500, 502, 503, 504]) {
        assert!(stand.is_temporary_failure(status, PAGE).await, "{status}");
        assert!(stand.is_temporary_failure(status, "").await, "{status}, empty");
    }
    assert!(stand.is_temporary_failure(204, "").await);
}

#[tokio::test]
async fn json_of_another_shape_says_nothing_about_a_link() {
    let stand = Stand::start().await;
    let bodies = [
        "null",
        "[]",
        "{}",
        "true",
        "7",
        "\"valid\"",
        "[null]",
        "[[]]",
        r#"[{"code": "not_found"#,
        // Answers of gateways and frameworks.
        r#"{"message": "Forbidden"}"#,
        r#"{"message": "no Route matched with those values"}"#,
        r#"{"error": "x"}"#,
        r#"{"fault": {"faultstring": "x"}}"#,
    ];
    for body in bodies {
        for status in [200, 202, 302, 400, 401, 404, 409, 428, 500] {
            assert!(stand.is_temporary_failure(status, body).await, "{status} {body}");
        }
    }
    // An error with the status of a success.
    assert!(stand.is_temporary_failure(200, errors("invalid_link", "x")).await);
    assert!(stand.is_temporary_failure(202, errors("not_found", "Not found.")).await);
}

#[tokio::test]
async fn a_truncated_or_endless_body_says_nothing_about_a_link() {
    let stand = Stand::start().await;
    let body = json!({"id": LINK, "status": "valid"}).to_string();
    assert!(matches!(stand.answer(200, &body).get_link(&link()).await, Ok(LinkRead::Found(_))));
    assert!(is_transient(&stand.answer(200, &body[..body.len() - 1]).get_link(&link()).await));
    // The part that is read is a complete resource, but the rest is not known.
    let endless = format!("{body}{}", " ".repeat(BODY_BYTES_MAX));
    assert!(is_transient(&stand.answer(200, endless).get_link(&link()).await));
}

#[tokio::test]
async fn an_answer_about_another_link_says_nothing_about_this_one() {
    let stand = Stand::start().await;
    for body in [
        json!({"id": OTHER, "status": "invalid"}),
        json!({"id": 7, "status": "valid"}),
        json!({"status": "valid"}),
        json!({"id": LINK}),
        json!({"id": LINK, "status": null}),
    ] {
        assert!(is_transient(&stand.answer(200, &body).get_link(&link()).await), "{body}");
    }
    for body in [
        json!({"id": OTHER, "link_id": LINK, "status": "AUTHORISED"}),
        json!({"id": CONSENT, "link_id": OTHER, "status": "EXPIRED"}),
        json!({"link_id": LINK, "status": "EXPIRED"}),
    ] {
        assert!(is_transient(&stand.answer(200, &body).get_consent(&link(), CONSENT).await), "{body}");
    }
    let body = json!([{"code": "token_required", "link": OTHER}]);
    assert!(is_transient(&stand.answer(428, body).refresh_link(&link(), &[]).await));
    // Another spelling of the id is accepted, and so is an unknown status.
    let body = json!({"id": LINK.to_uppercase(), "status": "a_new_word"});
    assert!(matches!(stand.answer(200, body).get_link(&link()).await, Ok(LinkRead::Found(_))));
}

#[tokio::test]
async fn a_404_is_believed_only_in_belvos_words() {
    let stand = Stand::start().await;
    for body in [
        errors("not_found", "Not found"),
        json!({"code": "not_found"}),
        json!({"detail": "Not found."}),
        json!({"detail": "No Link matches the given query."}),
    ] {
        assert!(matches!(stand.answer(404, &body).get_link(&link()).await, Ok(LinkRead::Missing)), "{body}");
        assert_eq!(stand.client.get_consent(&link(), CONSENT).await.unwrap(), None, "{body}");
    }
    // The answers of a framework and of a gateway for an unknown route.
    for body in [json!({"detail": "Not Found"}), json!({"message": "Not found."}), json!([{"message": "Not found."}])] {
        assert!(stand.is_temporary_failure(404, &body).await, "{body}");
    }
    let gone = stand.answer(410, errors("not_found", "Not found.")).get_link(&link()).await;
    assert!(!matches!(gone, Ok(LinkRead::Missing)));
}

#[tokio::test]
async fn a_refresh_is_accepted_only_with_a_request_id() {
    let stand = Stand::start().await;
    for body in [json!({"request_id": ""}), json!({"request_id": null}), json!({"status": "ok"})] {
        assert!(is_transient(&stand.answer(202, &body).refresh_link(&link(), &[]).await), "{body}");
    }
    for body in [json!({"access": ""}), json!({"access": 7}), json!({"token": "x"})] {
        assert!(is_transient(&stand.answer(200, &body).update_token(&link(), None).await), "{body}");
    }
}

/// A server that answers with these pages in order, and then repeats the last one.
async fn list_of(pages: Vec<Value>) -> (Client, Asked) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    server(move || {
        let at = count.fetch_add(1, Ordering::Relaxed);
        Json(pages[at.min(pages.len() - 1)].clone()).into_response()
    })
    .await
}

/// The ids in all pages of a list.
async fn all_ids(client: &Client) -> Result<Vec<String>, CallError> {
    let (mut pages, mut ids) = (client.links(&LinkFilter::All), Vec::new());
    while let Some(page) = pages.next().await? {
        ids.extend(page.items.iter().map(|item| item["id"].to_string()));
    }
    Ok(ids)
}

#[tokio::test]
async fn only_the_query_of_next_is_used() {
    for next in [
        "http://attacker.example/api/links/?page=2",
        "https://127.0.0.1:1/api/links/?page=2",
        "http://user:password@internal:8000/v2/other/?page=2#fragment",
        "/api/links/?page=2",
        "?page=2",
        "//attacker.example?page=2",
    ] {
        let (client, asked) = list_of(vec![page(&json!(next), &["a"]), page(&Value::Null, &["b"])]).await;
        assert_eq!(all_ids(&client).await.unwrap(), [r#""a""#, r#""b""#], "{next}");
        assert_eq!(asked.lock().unwrap()[1].0, "GET /api/links/?page=2", "{next}");
    }
    // A page is returned even if its `next` cannot be followed.
    for next in [json!("http://127.0.0.1/api/links/"), json!(""), json!(7), json!({}), json!("x".repeat(1 << 16))] {
        let (client, _) = list_of(vec![page(&next, &["a"])]).await;
        let mut pages = client.links(&LinkFilter::All);
        assert_eq!(pages.next().await.unwrap().unwrap().items.len(), 1, "{next}");
        assert!(is_transient(&pages.next().await.map(drop)), "{next}");
    }
}

#[tokio::test]
async fn a_list_that_repeats_itself_ends() {
    let first = format!("http://belvo/api/links/?{}", LinkFilter::All.query());
    for (pages, expected) in [
        // `next` leads to the same page or to the first page.
        (vec![page(&json!("?page=2"), &["a"]), page(&json!("?page=2"), &["b"])], 2),
        (vec![page(&json!("?page=2"), &["a"]), page(&json!(first), &["b"])], 2),
        (vec![page(&json!(first), &["a"])], 1),
    ] {
        let (client, asked) = list_of(pages).await;
        assert_eq!(all_ids(&client).await.unwrap().len(), expected);
        assert_eq!(asked.lock().unwrap().len(), expected);
    }
    // `next` differs each time, but the page is the same.
    let count = std::sync::atomic::AtomicUsize::new(2);
    let (client, asked) = server(move || {
        let next = count.fetch_add(1, Ordering::Relaxed);
        Json(page(&json!(format!("?page={next}")), &["a"])).into_response()
    })
    .await;
    assert_eq!(all_ids(&client).await.unwrap(), [r#""a""#]);
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_unreadable_element_affects_no_other() {
    let list = json!({"next": null, "results": [null, {"id": LINK, "status": "valid"}, 7, [], "x", {"id": 7}]});
    let (client, _) = server(json_answer(200, list)).await;
    let page = client.links(&LinkFilter::All).next().await.unwrap().unwrap();
    assert_eq!((page.items.len(), page.malformed_count), (2, 4));
}

#[tokio::test]
async fn an_unreadable_page_can_be_skipped() {
    let (client, asked) = server(|| (StatusCode::INTERNAL_SERVER_ERROR, PAGE).into_response()).await;
    let mut pages = client.links(&LinkFilter::All);
    for expected in [1, 2, 3] {
        assert!(pages.next().await.is_err());
        let line = asked.lock().unwrap().last().unwrap().0.clone();
        assert_eq!(line.contains(&format!("&page={expected}")), expected > 1, "{line}");
        assert!(pages.skip_page());
    }
}

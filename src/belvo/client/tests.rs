//! The client against a small HTTP server.

use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::{Json, Router};
use tokio::net::TcpListener;

use reqwest::StatusCode;

use super::*;
use crate::link::Timestamp;

mod odd;

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
const SESSION: &str = "2675b703b9d4451f8d4861a3eee54449";

/// A received request: the request line, the headers, the body.
type Asked = Arc<Mutex<Vec<(String, HeaderMap, Value)>>>;
type Answers = Arc<dyn Fn() -> HttpResponse + Send + Sync>;

/// A server that gives every request the same answer, and keeps the requests.
async fn server(answer: impl Fn() -> HttpResponse + Send + Sync + 'static) -> (Client, Asked) {
    async fn handle(State((asked, answer)): State<(Asked, Answers)>, request: Request) -> HttpResponse {
        let line = format!("{} {}", request.method(), request.uri());
        let headers = request.headers().clone();
        let bytes = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
        asked.lock().unwrap().push((line, headers, serde_json::from_slice(&bytes).unwrap_or_default()));
        answer()
    }
    let asked = Asked::default();
    let answer: Answers = Arc::new(answer);
    let app = Router::new().fallback(handle).with_state((Arc::clone(&asked), answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (client(&format!("http://{address}/")), asked)
}

fn client(base: &str) -> Client {
    let timeouts = Timeouts { connect: Duration::from_secs(2), whole: Duration::from_millis(2000) };
    Client::new(base, SecretId("key-id".into()), SecretPassword("hunter2".into()), timeouts).unwrap()
}

fn link() -> LinkId {
    LINK.parse().unwrap()
}

fn json_answer(status: u16, body: Value) -> impl Fn() -> HttpResponse + Send + Sync + 'static {
    move || (StatusCode::from_u16(status).unwrap(), Json(body.clone())).into_response()
}

fn errors(code: &str, message: &str) -> Value {
    json!([{"code": code, "message": message, "request_id": "3e7b283c6efa449c9c028a16b5c249fd"}])
}

#[tokio::test]
async fn reads_a_link() {
    let (client, asked) = server(json_answer(200, json!({"id": LINK, "status": "valid"}))).await;
    let Ok(LinkRead::Found(resource)) = client.get_link(&link()).await else { panic!("not found") };
    assert_eq!(resource["status"], "valid");
    let (line, headers, _) = asked.lock().unwrap().pop().unwrap();
    assert_eq!(line, format!("GET /api/links/{LINK}/"));
    assert_eq!(headers["authorization"], "Basic a2V5LWlkOmh1bnRlcjI=");
    assert_eq!(headers["user-agent"], concat!("relink/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_link_is_missing_only_after_a_404_of_belvo() {
    let (belvo, _) = server(json_answer(404, errors("not_found", "Not found."))).await;
    assert!(matches!(belvo.get_link(&link()).await, Ok(LinkRead::Missing)));
    let (stranger, _) = server(|| (StatusCode::NOT_FOUND, "<html>no such page</html>").into_response()).await;
    assert!(matches!(stranger.get_link(&link()).await, Err(CallError::Transient { .. })));
}

#[tokio::test]
async fn a_consent_is_read_without_personal_fields() {
    let id = "b2c17cb6-1f9d-4f9c-8d0f-1f5e7d0c0f5a";
    let body = json!({"id": id, "link_id": LINK, "status": "AUTHORISED", "expired_at": "2027-01-01T00:00:00Z",
        "display_name": "Jack Oswald White", "document_number": "76109277673", "user_name": "Jack White"});
    let (client, asked) = server(json_answer(200, body)).await;
    let consent = client.get_consent(&link(), id).await.unwrap().unwrap();
    assert_eq!(consent.keys().collect::<Vec<_>>(), ["expired_at", "id", "link_id", "status"]);
    assert_eq!(asked.lock().unwrap().pop().unwrap().0, format!("GET /api/consents/{id}/"));
    // A consent id from a webhook is checked before it is put into a URL.
    assert_eq!(client.get_consent(&link(), "../links").await.unwrap(), None);
    assert!(asked.lock().unwrap().is_empty());

    let (client, _) = server(json_answer(404, errors("not_found", "Not found."))).await;
    assert_eq!(client.get_consent(&link(), id).await.unwrap(), None);
}

#[tokio::test]
async fn asks_for_a_refresh() {
    let (client, asked) = server(json_answer(202, json!({"request_id": "r1"}))).await;
    let accepted = RefreshAnswer::Accepted { request_id: Some("r1".into()) };
    assert_eq!(client.refresh_link(&link(), &[]).await.unwrap(), accepted);
    let (line, _, body) = asked.lock().unwrap().pop().unwrap();
    assert_eq!((line, body), (format!("POST /api/links/{LINK}/refresh/"), json!({})));
    client.refresh_link(&link(), &["BILLS".to_owned()]).await.unwrap();
    assert_eq!(asked.lock().unwrap().pop().unwrap().2, json!({"fetch_resources": ["BILLS"]}));

    for (message, wait) in
        [("Please wait 7 minutes", 420), ("Please wait", 600), ("Please wait 9999999999 minutes", 3600)]
    {
        let (client, _) = server(json_answer(409, errors("link_refreshed", message))).await;
        let cooling = RefreshAnswer::CoolingDown { wait: Duration::from_secs(wait) };
        assert_eq!(client.refresh_link(&link(), &[]).await.unwrap(), cooling, "{message}");
    }
}

#[tokio::test]
async fn a_client_that_only_reads_refreshes_nothing_and_mints_nothing() {
    let (client, asked) = server(json_answer(200, json!({"id": LINK, "status": "valid"}))).await;
    let client = client.reading_only(true);
    let is_refused =
        |error: &CallError| matches!(error, CallError::Permanent { class: None, why } if why.contains("observe"));
    assert!(is_refused(&client.refresh_link(&link(), &[]).await.unwrap_err()));
    assert!(is_refused(&client.update_token(&link(), None).await.unwrap_err()));
    assert!(is_refused(&client.renewal_token(&link(), Map::new()).await.unwrap_err()));
    assert!(asked.lock().unwrap().is_empty());
    client.get_link(&link()).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_outage_of_the_institution_is_returned_with_its_error() {
    for (code, is_transient) in
        [("institution_down", true), ("institution_unavailable", true), ("institution_inactive", false)]
    {
        let (client, _) = server(json_answer(400, errors(code, "x"))).await;
        let answer = client.refresh_link(&link(), &[]).await.unwrap();
        let RefreshAnswer::Outage { error, is_transient: found } = answer else { panic!("{code}: {answer:?}") };
        assert_eq!((found, error.http_status, error.link_id.as_deref()), (is_transient, 400, Some(LINK)), "{code}");
    }
}

#[tokio::test]
async fn mints_a_token() {
    let (client, asked) = server(json_answer(200, json!({"access": "jwt-a", "refresh": "jwt-r"}))).await;
    let token = client.update_token(&link(), None).await.unwrap();
    assert_eq!((token.access.expose_secret(), token.expires_in), ("jwt-a", Duration::from_secs(600)));
    assert_eq!(token.refresh.as_ref().map(ExposeSecret::expose_secret), Some("jwt-r"));
    let (line, headers, body) = asked.lock().unwrap().pop().unwrap();
    assert_eq!((line.as_str(), headers.get("authorization")), ("POST /api/token/", None));
    let scopes = "read_institutions,write_links,read_links";
    assert_eq!(body, json!({"id": "key-id", "password": "hunter2", "link_id": LINK, "scopes": scopes}));
    assert!(!format!("{token:?} {client:?}").contains("jwt-"));
}

#[tokio::test]
async fn failures_are_classified() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (status, code, retry_after) in
        [(500, "unexpected_error", None), (400, "too_many_sessions", seconds(120)), (429, "throttled", seconds(30))]
    {
        let (client, _) = server(json_answer(status, errors(code, "x"))).await;
        match client.refresh_link(&link(), &[]).await {
            Err(CallError::Transient { why, retry_after: after }) => {
                assert_eq!(after, retry_after, "{code}");
                assert!(why.contains(code) && why.contains(LINK), "{why}");
            }
            other => panic!("{code}: {other:?}"),
        }
    }
    for (status, code, expected) in
        [(401, "authentication_failed", Unrelated::Keys), (400, "unsupported_operation", Unrelated::Request)]
    {
        let (client, _) = server(json_answer(status, errors(code, "x"))).await;
        let error = client.refresh_link(&link(), &[]).await;
        assert!(matches!(error, Err(CallError::Permanent { class, .. }) if class == Some(expected)), "{code}");
    }
    let (client, _) = server(|| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "slow").into_response()).await;
    assert!(
        matches!(client.get_link(&link()).await, Err(CallError::Transient { retry_after, .. }) if retry_after == seconds(7))
    );
}

#[tokio::test]
async fn an_error_about_the_link_is_returned_without_its_session() {
    let body = json!([{"code": "token_required", "session": SESSION, "expiry": 9600, "link": LINK,
        "token_generation_data": {"value": "12345"}}]);
    let (client, _) = server(json_answer(428, body)).await;
    let Err(CallError::Api(error)) = client.refresh_link(&link(), &[]).await else { panic!("not handed on") };
    assert_eq!(error.link_id.as_deref(), Some(LINK));
    let text = serde_json::to_string(&*error).unwrap();
    assert!(!text.contains(SESSION) && !text.contains("12345"), "{text}");
    // The published error still contains how long the session is open.
    let at = Timestamp::default();
    let meaning = super::super::translate(crate::contract::InputKind::ApiError, &link(), text.as_bytes(), at);
    let Ok(Meaning::Event(input)) = meaning else { panic!("{meaning:?}") };
    let Event::Broken(breakage) = input.event else { panic!("{input:?}") };
    assert_eq!(breakage.session.unwrap().expires_at, at.after(Duration::from_secs(9600)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let redirect = || (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response();
    let (client, asked) = server(redirect).await;
    assert!(matches!(client.update_token(&link(), None).await, Err(CallError::Transient { .. })));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_network_failure_is_temporary_and_shows_no_secret() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let error = client(&format!("http://{address}")).update_token(&link(), None).await.unwrap_err();
    assert!(matches!(error, CallError::Transient { .. }), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("cannot connect") && !text.contains("hunter2") && !text.contains("key-id"), "{text}");

    // A server that accepts the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let timeouts = Timeouts { connect: Duration::from_secs(2), whole: Duration::from_millis(50) };
    let base = format!("http://{address}");
    let client = Client::new(&base, SecretId("a".into()), SecretPassword("b".into()), timeouts).unwrap();
    let error = client.get_link(&link()).await.unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[test]
fn an_invalid_address_is_refused() {
    for base in ["", "api.belvo.com", "ftp://api.belvo.com", "https://user:hunter2@api.belvo.com", "https://x/?a=1"] {
        let client = Client::new(base, SecretId("a".into()), SecretPassword("b".into()), Timeouts::default());
        assert!(matches!(client, Err(BadClient::Address)), "{base}");
    }
    assert!(!format!("{:?}", client("https://api.belvo.com")).contains("hunter2"));
}

fn page(next: &Value, ids: &[&str]) -> Value {
    let results: Vec<Value> = ids.iter().map(|id| json!({"id": id, "status": "valid"})).collect();
    json!({"count": 2, "next": next, "previous": null, "results": results})
}

#[tokio::test]
async fn lists_request_large_pages_with_few_fields() {
    let (client, asked) = server(json_answer(200, page(&Value::Null, &[LINK]))).await;
    let mut pages = client.links(&LinkFilter::Ids(vec![link(), "b".parse().unwrap()]));
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!(first.items[0]["id"], LINK);
    assert!(pages.next().await.unwrap().is_none());
    let (line, headers, _) = asked.lock().unwrap().pop().unwrap();
    let fields = "id,institution,institution_user_id,access_mode,status,refresh_rate,last_accessed_at,created_at,external_id,fetch_resources";
    assert_eq!(line, format!("GET /api/links/?id__in={LINK},b&page_size=1000&fields={fields}"));
    assert_eq!(headers["authorization"], "Basic a2V5LWlkOmh1bnRlcjI=");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn links_are_listed_by_their_users() {
    for (key, field) in [(UserKey::InstitutionUserId, "institution_user_id"), (UserKey::ExternalId, "external_id")] {
        let (client, asked) = server(json_answer(200, page(&Value::Null, &[LINK]))).await;
        let filter = LinkFilter::Users { key, values: vec!["a+b/c=".to_owned(), "maría & co".to_owned()] };
        client.links(&filter).next().await.unwrap().unwrap();
        let (line, ..) = asked.lock().unwrap().pop().unwrap();
        let query = format!("GET /api/links/?{field}__in=a%2Bb%2Fc%3D,mar%C3%ADa%20%26%20co&page_size=1000");
        assert!(line.starts_with(&query), "{line}");
    }
}

#[tokio::test]
async fn a_list_keeps_only_requested_fields() {
    // `next` may lose the parameter `fields`.
    let person = json!({"id": "c1", "link_id": LINK, "status": "AUTHORISED", "display_name": "Jack Oswald White",
        "document_number": "76109277673", "user_name": "Jack White"});
    let list = json!({"count": 1, "next": null, "previous": null, "results": [person]});
    let (client, asked) = server(json_answer(200, list)).await;
    let consents = client.consents().next().await.unwrap().unwrap();
    assert_eq!(consents.items[0].keys().collect::<Vec<_>>(), ["id", "link_id", "status"]);
    let (line, _, _) = asked.lock().unwrap().pop().unwrap();
    assert!(line.starts_with("GET /api/consents/?page_size=1000&fields=id,link_id,status,"), "{line}");
}

#[tokio::test]
async fn a_refused_list_is_about_no_link() {
    for (status, code, transient) in [(401, "authentication_failed", false), (500, "unexpected_error", true)] {
        let (client, _) = server(json_answer(status, errors(code, "x"))).await;
        let Err(error) = client.knows_any_link().await else { panic!("{status}") };
        assert_eq!(matches!(error, CallError::Transient { .. }), transient, "{error}");
        assert!(!matches!(error, CallError::Api(_)), "{error}");
    }
    let (client, _) = server(json_answer(404, errors("not_found", "Not found."))).await;
    assert!(matches!(client.knows_any_link().await, Err(CallError::Permanent { .. })));
}

#[tokio::test]
async fn no_more_requests_are_sent_than_the_budget_allows() {
    let (client, asked) = server(json_answer(200, json!({"id": LINK, "status": "valid"}))).await;
    let client = client.with_budget(Budget::within(5, Duration::from_secs(3600)));
    let id = link();
    let calls = futures::future::join_all((0..12).map(|_| client.get_link(&id))).await;
    assert_eq!(calls.iter().filter(|call| call.is_ok()).count(), 5);
    let held = |call: &Result<LinkRead, CallError>| matches!(call, Err(CallError::Transient { retry_after: Some(wait), .. }) if *wait > Duration::from_secs(3000));
    assert_eq!(calls.iter().filter(|call| held(call)).count(), 7);
    assert_eq!(asked.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn a_429_stops_every_clone_for_as_long_as_it_says() {
    let throttled = || {
        let body = Json(errors("throttled", "Request was throttled."));
        (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "40")], body).into_response()
    };
    let (client, asked) = server(throttled).await;
    let other = client.clone();
    assert!(client.get_link(&link()).await.is_err());
    let Err(CallError::Transient { retry_after: Some(wait), .. }) = other.get_link(&link()).await else {
        panic!("it was sent")
    };
    assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(40), "{wait:?}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

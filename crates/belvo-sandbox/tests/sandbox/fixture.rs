//! The fixture: a sandbox, a client with the right secrets, and a receiver of its webhooks.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use belvo_sandbox::{AccessMode, Control, Sandbox, SandboxConfig};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

pub(crate) const AUTHORIZATION: &str = "Bearer typed-into-the-dashboard";
pub(crate) const RECURRENT: AccessMode = AccessMode::Recurrent;

/// A sandbox, a client with the right secrets, and a receiver of its webhooks.
pub(crate) struct Fixture {
    pub(crate) sandbox: Sandbox,
    pub(crate) control: Control,
    pub(crate) client: reqwest::Client,
    pub(crate) received: mpsc::UnboundedReceiver<(HeaderMap, Value)>,
    pub(crate) answers: mpsc::UnboundedSender<Answer>,
}

/// The response of the receiver to the next webhook; the default is 200.
pub(crate) enum Answer {
    Status(u16),
    /// A 307 redirect to the receiver itself.
    Redirect,
    Never,
}

#[derive(Clone)]
struct Receiver {
    seen: mpsc::UnboundedSender<(HeaderMap, Value)>,
    answers: std::sync::Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Answer>>>,
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    let answer = receiver.answers.lock().await.try_recv();
    let _closed = receiver.seen.send((headers, body));
    match answer {
        Ok(Answer::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Ok(Answer::Redirect) => Redirect::temporary("/webhooks/belvo").into_response(),
        Ok(Answer::Never) => std::future::pending().await,
        Err(_) => StatusCode::OK.into_response(),
    }
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let (seen, received) = mpsc::unbounded_channel();
        let (answers, waiting) = mpsc::unbounded_channel();
        let receiver = Receiver { seen, answers: std::sync::Arc::new(tokio::sync::Mutex::new(waiting)) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhooks/belvo", listener.local_addr().unwrap());
        let app = axum::Router::new().route("/webhooks/belvo", axum::routing::post(receive)).with_state(receiver);
        tokio::spawn(async move { axum::serve(listener, app).await });

        let mut config = SandboxConfig {
            webhook_url: Some(url),
            webhook_authorization: Some(SecretString::from(AUTHORIZATION)),
            data_delay: Duration::ZERO,
            ..SandboxConfig::default()
        };
        change(&mut config);
        let sandbox = Sandbox::start(config).await.unwrap();
        let control = sandbox.control();
        Self { sandbox, control, client: reqwest::Client::new(), received, answers }
    }

    /// A call with the right secrets: status and body.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.sandbox.url()) };
        let mut request = self.client.request(method, url).basic_auth("sandbox", Some("sandbox"));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::POST, path, body).await
    }

    /// A call that must fail: checks Belvo's envelope, and returns the status and the first error.
    pub(crate) async fn refused(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, errors) = self.call(method, path, body).await;
        assert!(status >= 400, "{status} {errors}");
        let error = errors.as_array().unwrap()[0].clone();
        let request_id = error["request_id"].as_str().unwrap();
        assert!(request_id.len() == 32 && request_id.chars().all(|digit| digit.is_ascii_hexdigit()), "{request_id}");
        assert!(error["message"].is_string());
        (status, error)
    }

    /// The code of a POST of data, which is one login at the bank.
    pub(crate) async fn log_in(&self, link: Uuid) -> (u16, String) {
        let (status, body) = self.post("/api/accounts/", json!({"link": link})).await;
        (status, body[0]["code"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn status(&self, link: Uuid) -> String {
        self.get(&format!("/api/links/{link}/")).await.1["status"].as_str().unwrap_or("gone").to_owned()
    }

    /// The next webhook at the receiver.
    pub(crate) async fn webhook(&mut self) -> Value {
        let (headers, body) = self.received.recv().await.unwrap();
        assert_eq!(headers["authorization"], AUTHORIZATION);
        body
    }

    pub(crate) async fn webhooks(&mut self, count: usize) -> Vec<Value> {
        let mut webhooks = Vec::new();
        for _ in 0..count {
            webhooks.push(self.webhook().await);
        }
        webhooks
    }

    pub(crate) async fn token(&self, link: Uuid) -> String {
        self.token_of(link, "read_institutions,write_links,read_links").await
    }

    pub(crate) async fn token_of(&self, link: Uuid, scopes: &str) -> String {
        let body = json!({"id": "sandbox", "password": "sandbox", "link_id": link, "scopes": scopes});
        let (status, body) = self.post("/api/token/", body).await;
        assert_eq!(status, 200, "{body}");
        body["access"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn widget(&self, token: &str, outcome: &str) -> (u16, Value) {
        self.post("/widget/complete", json!({"access_token": token, "outcome": outcome})).await
    }
}

/// Family and code of each webhook.
pub(crate) fn codes(webhooks: &[Value]) -> Vec<String> {
    webhooks
        .iter()
        .map(|body| format!("{}/{}", body["webhook_type"].as_str().unwrap(), body["webhook_code"].as_str().unwrap()))
        .collect()
}

//! Reports the errors that a program gets from Belvo with reqwest to relink:
//! `cargo run --example report_reqwest_errors BELVO_URL RELINK_URL TOKEN LINK_ID`
//!
//! Copy [`ReportErrors`], and add it to your client as the last middleware, behind one that tries again: then relink gets the
//! answer to each attempt. It needs the crates `reqwest-middleware`, `async-trait` and `http`,
//! which is `axum::http` too.
//!
//! A report never delays and never breaks a call of your program: it is sent from a task of its own. If relink is away, or too
//! slow for the errors, the log has a line, and relink finds the link with its next sweep.
//!
//! This example does not use relink's crate.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use axum::http::{self, Extensions};
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{ClientBuilder, Error, Middleware, Next, Result};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// From now on, relink gets every error that Belvo answers to a client with this middleware.
struct ReportErrors {
    relink: reqwest::RequestBuilder,
    /// The reports that may be open at once.
    slots: Arc<Semaphore>,
}

impl ReportErrors {
    fn new(client: &reqwest::Client, relink_url: &str, token: &str) -> Self {
        let relink =
            client.post(format!("{relink_url}/v1/api-errors")).bearer_auth(token).timeout(Duration::from_secs(2));
        Self { relink, slots: Arc::new(Semaphore::new(8)) }
    }

    fn report(&self, report: &Value) {
        let Some(relink) = self.relink.try_clone().map(|relink| relink.json(report)) else { return };
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return eprintln!("relink did not get an error of Belvo: too many reports wait");
        };
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = relink.send().await.and_then(Response::error_for_status) {
                eprintln!("relink did not get an error of Belvo: {}", error.without_url());
            }
        });
    }
}

#[async_trait::async_trait]
impl Middleware for ReportErrors {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let (method, url) = (request.method().to_string(), request.url().clone());
        let sent = request.body().and_then(|body| serde_json::from_slice::<Value>(body.as_bytes()?).ok());
        let answer = next.run(request, extensions).await?;
        if answer.status().as_u16() < 400 {
            return Ok(answer);
        }
        // The body can be read only once, so your program gets a copy of the answer.
        let mut copy =
            http::Response::builder().status(answer.status()).version(answer.version()).url(answer.url().clone());
        copy.headers_mut().into_iter().for_each(|headers| headers.clone_from(answer.headers()));
        let http_status = answer.status().as_u16();
        let body = answer.bytes().await?;
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let (link_id, text) = (sent.as_ref().and_then(|sent| sent.get("link")), String::from_utf8_lossy(&body));
        self.report(
            &json!({"http_status": http_status, "method": method, "path": path, "link_id": link_id, "body": text}),
        );
        Ok(copy.body(body).map_err(Error::middleware)?.into())
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [belvo_url, relink_url, token, link_id] = &arguments[..] else {
        return Err("give BELVO_URL, RELINK_URL, TOKEN and LINK_ID".into());
    };
    // Your program has a provider of TLS already, unless it sets up its own.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let reqwest = reqwest::Client::new();
    let reporter = ReportErrors::new(&reqwest, relink_url, token);
    let slots = Arc::clone(&reporter.slots);
    let client = ClientBuilder::new(reqwest).with(reporter).build();
    // Your program, unchanged.
    let call = client.post(format!("{belvo_url}/api/accounts/")).basic_auth("sandbox", Some("sandbox"));
    let body = json!({"link": link_id}).to_string();
    let answer = call.header("content-type", "application/json").body(body).send().await?;
    println!("{}", answer.text().await?);
    // This program ends at once, so it waits for its report.
    let _all = slots.acquire_many(8).await?;
    Ok(())
}

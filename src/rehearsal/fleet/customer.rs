//! The HTTP calls of the customer's application to Belvo, and the actions of its users in the widget.
//! relink's own calls are in `relink`.

use std::collections::BTreeMap;

use anyhow::Context;
use belvo_sandbox::SandboxConfig;
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::contract::{ApiError, without_session};
use crate::link::LinkId;

/// The outcome of a user's attempt in the widget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    WrongPassword,
    Exit,
}

/// What follows when a user leaves the widget or the portal.
pub(super) struct Left {
    /// Where the browser goes, if the program that minted the token has named addresses for it.
    pub(super) next: Option<String>,
    /// What the widget passes to the application that shows it.
    pub(super) callback: Value,
}

/// The header in which the sandbox names the next address of the browser.
const NEXT_HEADER: &str = "x-sandbox-callback-url";

/// The customer's application.
pub(super) struct Customer {
    base: String,
    id: String,
    password: SecretString,
    http: reqwest::Client,
}

impl Customer {
    pub(super) fn of(base: String, config: &SandboxConfig) -> anyhow::Result<Self> {
        let http = crate::direct::client().build().context("making the customer's HTTP client")?;
        Ok(Self { base, id: config.secret_id.clone(), password: config.secret_password.clone(), http })
    }

    /// Reads data of a link, for which Belvo logs in at the bank; returns Belvo's error, if any.
    pub(super) async fn read_owners(&self, link: &LinkId) -> anyhow::Result<Option<ApiError>> {
        let path = "/api/owners/";
        let request = self.request(Method::POST, path).json(&json!({"link": link.as_str()}));
        let response = request.send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(None);
        }
        let body = without_session(response.json::<Value>().await.unwrap_or_default());
        Ok(Some(ApiError {
            schema_version: None,
            http_status: status.as_u16(),
            method: "POST".to_owned(),
            path: path.to_owned(),
            link_id: Some(link.to_string()),
            request_id: None,
            body,
        }))
    }

    /// Deletes a link: asynchronously with a webhook, or synchronously without one. Returns whether Belvo deleted it.
    pub(super) async fn delete(&self, link: &LinkId, with_webhook: bool) -> anyhow::Result<bool> {
        let mut request = self.request(Method::DELETE, &format!("/api/links/{link}/"));
        if with_webhook {
            request = request.header("X-Belvo-Request-Mode", "async");
        }
        Ok(request.send().await?.status().is_success())
    }

    /// Completes the widget. `None` if the token has expired.
    pub(super) async fn in_widget(&self, token: &SecretString, outcome: Outcome) -> anyhow::Result<Option<Left>> {
        let outcome = match outcome {
            Outcome::Success => "success",
            Outcome::WrongPassword => "wrong_password",
            Outcome::Exit => "exit",
        };
        let body = json!({"access_token": token.expose_secret(), "outcome": outcome});
        self.leave("/widget/complete", &body).await
    }

    /// Renews a consent in Belvo's portal, which the browser has opened at this address. `None` if the portal refuses it.
    pub(super) async fn in_portal(&self, opened: &Url) -> anyhow::Result<Option<Left>> {
        let parameters: BTreeMap<_, _> = opened.query_pairs().collect();
        self.leave("/portal/renew", &json!(parameters)).await
    }

    async fn leave(&self, path: &str, body: &Value) -> anyhow::Result<Option<Left>> {
        let response = self.http.post(format!("{}{path}", self.base)).json(body).send().await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let next = response.headers().get(NEXT_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Some(Left { next, callback: response.json().await? }))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http.request(method, url).basic_auth(&self.id, Some(self.password.expose_secret()))
    }
}

//! The HTTP calls of the customer's application: to relink and to Belvo.

use reqwest::{Method, RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::error::PlayError;

/// An HTTP response.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Response {
    pub(super) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Belvo's code of the first error.
    pub(super) fn code(&self) -> Option<&str> {
        self.body[0]["code"].as_str()
    }
}

/// relink's HTTP API.
pub(super) struct RelinkHttp {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
    pub(super) api_token: SecretString,
    /// The secret of the webhooks of Belvo's status page.
    pub(super) status_secret: Option<SecretString>,
}

impl RelinkHttp {
    /// Sends a POST; any status but 2xx is an error.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, PlayError> {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        self.send(path, request).await
    }

    /// Sends a GET; any status but 2xx is an error.
    pub(super) async fn get(&self, path: &str) -> Result<Value, PlayError> {
        self.send(path, self.client.get(format!("{}{path}", self.url))).await
    }

    /// The webhook of Belvo's status page about an institution, whose name on the page is Belvo's code.
    pub(super) async fn report_institution(&self, institution: &str, status: &'static str) -> Result<(), PlayError> {
        let path = "/webhooks/belvo-status";
        let secret = self.status_secret.as_ref().map_or("", |secret| secret.expose_secret());
        let component = json!({"name": institution, "status": status});
        let body = json!({"component": component, "component_update": {"new_status": status}});
        let request = self.client.post(format!("{}{path}", self.url)).json(&body);
        let response = send(request.header("authorization", secret)).await?;
        let problem = || format!("relink answered {path} with {}: {}", response.status, response.body);
        if response.is_ok() { Ok(()) } else { Err(PlayError::Unexpected(problem())) }
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Value, PlayError> {
        let response = send(request.bearer_auth(self.api_token.expose_secret())).await?;
        if response.is_ok() {
            return Ok(response.body);
        }
        Err(PlayError::Unexpected(format!("relink answered {path} with {}: {}", response.status, response.body)))
    }
}

/// Belvo's HTTP API, as the customer's application uses it.
pub(super) struct BelvoHttp {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
    pub(super) secret_id: String,
    pub(super) secret_password: SecretString,
}

impl BelvoHttp {
    /// Calls the API with Basic auth and returns the response, whatever its status.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, PlayError> {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.basic_auth(&self.secret_id, Some(self.secret_password.expose_secret()));
        send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// Deletes by URL: synchronously, or asynchronously with a webhook at the end.
    pub(super) async fn delete(&self, url: &str, later: bool) -> Result<Response, PlayError> {
        let request = self.client.delete(url).basic_auth(&self.secret_id, Some(self.secret_password.expose_secret()));
        send(if later { request.header("X-Belvo-Request-Mode", "async") } else { request }).await
    }

    /// Completes the widget as the user does, with this outcome.
    pub(super) async fn complete_widget(&self, access_token: &str, outcome: &str) -> Result<Value, PlayError> {
        let body = json!({ "access_token": access_token, "outcome": outcome });
        let response = send(self.client.post(format!("{}/widget/complete", self.url)).json(&body)).await?;
        if response.is_ok() {
            return Ok(response.body);
        }
        Err(PlayError::Unexpected(format!("the widget refused `{outcome}`: {}", response.body)))
    }
}

impl BelvoHttp {
    /// Renews a consent, as the button on the portal's page at this address does. The address contains a token.
    pub(super) async fn renew_consent(&self, address: &str) -> Result<(), PlayError> {
        let portal = format!("{}/portal/", self.url);
        let page = Url::parse(address).ok().filter(|page| page.as_str().split('?').next() == Some(portal.as_str()));
        let elsewhere = || {
            let problem =
                format!("relink sends its users to another portal; start it with RELINK_BELVO_PORTAL_URL={portal}");
            PlayError::Unexpected(problem)
        };
        let page = page.ok_or_else(elsewhere)?;
        let given: Map<String, Value> =
            page.query_pairs().map(|(name, value)| (name.into_owned(), Value::from(value.into_owned()))).collect();
        let response = send(self.client.post(format!("{portal}renew")).json(&given)).await?;
        if response.is_ok() {
            return Ok(());
        }
        Err(PlayError::Unexpected(format!("the portal answered {}: {}", response.status, response.body)))
    }
}

async fn send(request: RequestBuilder) -> Result<Response, PlayError> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Response { status, body })
}

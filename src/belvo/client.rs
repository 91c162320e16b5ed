//! The client of Belvo's API. It reads links and consents, asks for a historical refresh, and mints widget tokens for
//! update mode.
//!
//! Every request takes from one [`Budget`], and a 429 pauses all of them. The client does not retry. It never shows a
//! secret: keys and tokens are `secrecy` types, and no error quotes a body. The tables of `classify` decide whether a
//! failed call may succeed later. Sources: "API reference" (links, token), guide "Connect Widget update mode", guide
//! "Belvo API errors".

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::answer::{Answer, BODY_BYTES_MAX, REFRESH_PAUSE, Refused, THROTTLED_PAUSE, has_text, wait_named};
use super::budget::{Budget, BudgetLeft, Urgency};
use super::meaning::Meaning;
use super::unrelated::Unrelated;
use crate::contract::ApiError;
use crate::link::{Event, LinkId};

mod answer;
mod call;
mod claim;
mod institution;
mod list;
mod traced;
mod wire;

use call::Call;
use list::{CONSENT_FIELDS, CONSENTS, keep};
pub use list::{IDS_MAX, LinkFilter, ListPage, ListPages, USER_KEYS_BYTES_MAX, USER_KEYS_MAX, UserKey};
pub use wire::{Question, Reply, Wire};

/// How long a widget token is valid: "10 minutes" according to the guide. The token itself may contain a later time.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// The scopes that update mode needs. Creation needs fewer: a token without `read_links` fails only when the user has
/// opened the widget.
const TOKEN_SCOPES: &str = "read_institutions,write_links,read_links";

/// The scopes that a renewal in Belvo's portal needs (guide: My Belvo Portal).
const RENEWAL_SCOPES: &str = "read_consents,write_consents,write_consent_callback";

/// Belvo's `secretId`.
#[derive(Clone, Debug)]
pub struct SecretId(pub SecretString);

/// Belvo's `secretPassword`.
#[derive(Clone, Debug)]
pub struct SecretPassword(pub SecretString);

/// The time limits of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection is established.
    pub connect: Duration,
    /// Until the complete answer has arrived.
    pub whole: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), whole: Duration::from_secs(30) }
    }
}

/// A client of Belvo's API with one pair of API keys.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address, without a slash at the end.
    base: String,
    id: SecretId,
    password: SecretPassword,
    http: reqwest::Client,
    /// Replaces the network, in a simulation.
    wire: Option<Arc<dyn Wire>>,
    budget: Budget,
    /// The urgency of the calls that belong to no sweep.
    urgency: Urgency,
    /// Whether Belvo refused the keys in its last answer that shows it; clones share it.
    keys_refused: Arc<AtomicBool>,
    /// Whether calls that change something are refused.
    reads_only: bool,
}

/// Why no client can be made of these settings.
#[derive(Debug, thiserror::Error)]
pub enum BadClient {
    /// The address is not `http://…` or `https://…`.
    #[error("Belvo's address must look like https://api.belvo.com, without user, query or fragment")]
    Address,
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built")]
    Http(#[source] reqwest::Error),
}

/// The result of `GET /api/links/{id}/`.
#[derive(Clone, PartialEq)]
pub enum LinkRead {
    /// The unchanged link resource.
    Found(Map<String, Value>),
    /// Belvo answered 404.
    Missing,
}

impl fmt::Debug for LinkRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Found(_resource) => "Found",
            Self::Missing => "Missing",
        })
    }
}

/// The result of `POST /api/links/{id}/refresh/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshAnswer {
    /// 202: Belvo accepted the refresh. Its webhooks contain this id.
    Accepted {
        /// Belvo's `request_id`.
        request_id: Option<String>,
    },
    /// 409 `link_refreshed`: the link was refreshed within the last minutes.
    CoolingDown {
        /// How long to wait.
        wait: Duration,
    },
    /// The institution cannot be used. The caller publishes the error, which is evidence about the institution.
    Outage {
        /// Belvo's error.
        error: Box<ApiError>,
        /// Whether a later call may succeed.
        is_transient: bool,
    },
}

/// A widget token for update mode. Mint it when the user clicks; never store it.
#[derive(Clone, Debug)]
pub struct WidgetToken {
    /// The access token for the widget. The token becomes invalid when the user has connected.
    pub access: SecretString,
    /// The refresh token, if Belvo returned one.
    pub refresh: Option<SecretString>,
    /// How long `access` is valid.
    pub expires_in: Duration,
    /// Belvo's status of the link when the token was minted, from the claim `link` of an update-mode token.
    pub link_status: Option<String>,
}

/// A failed call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The error is about the link, or is in no table. The caller publishes it as an `api_error`.
    #[error("Belvo answered {} to {} {}", .0.http_status, .0.method, .0.path)]
    Api(Box<ApiError>),
    /// The same call may succeed later: 50x, `too_many_sessions`, an outage, a rate limit, a network failure, or an
    /// answer that is not from Belvo.
    #[error("{why}; a later call may succeed")]
    Transient {
        /// The error text.
        why: String,
        /// When to try again, if that is known. Otherwise back off; Belvo recommends 3, 6, 12, 24 and 48 seconds.
        retry_after: Option<Duration>,
    },
    /// The same call will fail again: the API keys, the permissions, the request, or a quota are the reason.
    #[error("{why}")]
    Permanent {
        /// The error text.
        why: String,
        /// The class of the error, if it is in a table.
        class: Option<Unrelated>,
    },
}

impl Client {
    /// Makes a client. `base` is one of Belvo's addresses, such as `https://sandbox.belvo.com`.
    ///
    /// # Errors
    /// [`BadClient`]: the address is not valid, or the HTTP client cannot be built.
    pub fn new(base: &str, id: SecretId, password: SecretPassword, timeouts: Timeouts) -> Result<Self, BadClient> {
        let url = Url::parse(base.trim()).map_err(|_| BadClient::Address)?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        let has_tail = url.query().is_some() || url.fragment().is_some();
        if has_user || has_tail || !["http", "https"].contains(&url.scheme()) {
            return Err(BadClient::Address);
        }
        let http = http_client(&url)
            .user_agent(concat!("relink/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.whole)
            // The body of the token call contains the keys. So redirects are not followed: the keys go only to the
            // configured address.
            .redirect(reqwest::redirect::Policy::none());
        let http = http.build().map_err(BadClient::Http)?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        let (budget, keys_refused) = (Budget::default(), Arc::default());
        Ok(Self {
            base,
            id,
            password,
            http,
            wire: None,
            budget,
            urgency: Urgency::Job,
            keys_refused,
            reads_only: false,
        })
    }

    /// Sets the budget. The client uses the clock of the budget; clones share both.
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// A client for calls that a person waits for, with the same budget: [`Urgency::Person`].
    #[must_use]
    pub fn for_people(&self) -> Self {
        Self { urgency: Urgency::Person, ..self.clone() }
    }

    /// Replaces the network by `wire`: no request goes over HTTP.
    #[must_use]
    pub fn with_wire(self, wire: Arc<dyn Wire>) -> Self {
        Self { wire: Some(wire), ..self }
    }

    /// With `true`, the client refuses every call that changes something at Belvo, or lets a user change it.
    #[must_use]
    pub fn reading_only(self, reads_only: bool) -> Self {
        Self { reads_only, ..self }
    }

    fn check_may_write(&self) -> Result<(), CallError> {
        let why = || "relink only observes (service.observe), so it changes nothing at Belvo".to_owned();
        if self.reads_only { Err(CallError::Permanent { why: why(), class: None }) } else { Ok(()) }
    }

    /// Whether Belvo refuses the API keys, as far as the last answers show.
    pub fn are_keys_refused(&self) -> bool {
        self.keys_refused.load(Ordering::Relaxed)
    }

    /// What is left of the budget of calls.
    pub fn budget_left(&self) -> BudgetLeft {
        self.budget.left()
    }

    /// `GET /api/links/{id}/`.
    ///
    /// # Errors
    /// [`CallError`]. A 404 for the link is no error.
    pub async fn get_link(&self, link: &LinkId) -> Result<LinkRead, CallError> {
        let call = Call { method: Method::GET, path: format!("/api/links/{link}/"), link: Some(link) };
        // A cache or a gateway may return the answer to another request, which must not change this link.
        let is_it = |resource: &Map<String, Value>| {
            let id = resource.get("id").and_then(Value::as_str).and_then(|id| id.trim().parse::<LinkId>().ok());
            id.as_ref() == Some(link) && has_text(resource, "status")
        };
        Ok(self.read_one(&call, is_it).await?.map_or(LinkRead::Missing, LinkRead::Found))
    }

    /// `GET /api/consents/{id}/`: the consent behind `link`, without the fields that identify a person. `None` if Belvo
    /// answers 404, or if `id` is not an id of Belvo.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_consent(&self, link: &LinkId, id: &str) -> Result<Option<Map<String, Value>>, CallError> {
        let Ok(id) = Uuid::try_parse(id) else { return Ok(None) };
        let call = Call { method: Method::GET, path: format!("{CONSENTS}{id}/"), link: Some(link) };
        let is_it = |consent: &Map<String, Value>| {
            let text = |key| consent.get(key).and_then(Value::as_str).map(str::trim);
            let of = text("link_id").map(str::parse::<LinkId>);
            text("id").and_then(|found| Uuid::try_parse(found).ok()) == Some(id)
                && of.is_none_or(|of| of.is_ok_and(|of| of == *link))
        };
        let mut consent = self.read_one(&call, is_it).await?;
        // This call has no parameter `fields`, so the answer contains the name and the document number of the user too.
        if let Some(consent) = &mut consent {
            keep(CONSENT_FIELDS, consent);
        }
        Ok(consent)
    }

    /// Reads one resource. `None` if Belvo answers 404. `is_it` checks that the answer is about the requested resource.
    async fn read_one(
        &self,
        call: &Call<'_>,
        is_it: impl Fn(&Map<String, Value>) -> bool,
    ) -> Result<Option<Map<String, Value>>, CallError> {
        let answer = self.ask(call, |request| self.with_keys(request)).await?;
        let (status, retry_after) = (answer.status, answer.retry_after);
        if status.is_success() {
            let resource = answer.object().filter(is_it);
            return resource.map(Some).ok_or_else(|| call.not_belvos(status, retry_after));
        }
        let refused = Refused::of(call, answer)?;
        match &refused.meaning {
            // In the table a 404 is a hint that leads to a read of the link. This call is the read.
            Meaning::Event(input) if input.event == Event::MissingReported && !refused.says_missing => {
                Err(call.not_belvos(status, retry_after))
            }
            Meaning::Event(input) if input.event == Event::MissingReported => Ok(None),
            Meaning::Unknown { .. } if refused.says_missing => Ok(None),
            Meaning::Event(_) | Meaning::NotAboutTheLink { .. } | Meaning::StatusPage(_) | Meaning::Unknown { .. } => {
                Err(refused.into())
            }
        }
    }

    /// `POST /api/links/{id}/refresh/`, for these resources; for all resources of the link if the list is empty.
    ///
    /// # Errors
    /// [`CallError`]. A 409 because of a recent refresh is no error.
    pub async fn refresh_link(&self, link: &LinkId, resources: &[String]) -> Result<RefreshAnswer, CallError> {
        self.check_may_write()?;
        let call = Call { method: Method::POST, path: format!("/api/links/{link}/refresh/"), link: Some(link) };
        let body = if resources.is_empty() { json!({}) } else { json!({ "fetch_resources": resources }) };
        let answer = self.ask(&call, |request| self.with_keys(request).json(&body)).await?;
        let (status, retry_after) = (answer.status, answer.retry_after);
        if status.is_success() {
            // Without a `request_id` the answer may not be from Belvo. If it was, Belvo answers the next try with 409.
            let receipt = answer.object().filter(|receipt| has_text(receipt, "request_id"));
            let receipt = receipt.ok_or_else(|| call.not_belvos(status, retry_after))?;
            let request_id = receipt.get("request_id").and_then(Value::as_str).map(str::to_owned);
            return Ok(RefreshAnswer::Accepted { request_id });
        }
        let refused = Refused::of(&call, answer)?;
        match &refused.meaning {
            Meaning::NotAboutTheLink { class: Unrelated::Delay, .. } => {
                let wait = refused.retry_after.or_else(|| wait_named(&refused.error.body)).unwrap_or(REFRESH_PAUSE);
                Ok(RefreshAnswer::CoolingDown { wait })
            }
            Meaning::NotAboutTheLink { class, .. } if class.is_about_the_institution() => {
                Ok(RefreshAnswer::Outage { error: Box::new(refused.error), is_transient: class.is_transient() })
            }
            Meaning::Event(_) | Meaning::NotAboutTheLink { .. } | Meaning::StatusPage(_) | Meaning::Unknown { .. } => {
                Err(refused.into())
            }
        }
    }

    /// `POST /api/token/`, for update mode of this link. `widget` is Belvo's object with the branding and the addresses
    /// of the callbacks.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn update_token(
        &self,
        link: &LinkId,
        widget: Option<Map<String, Value>>,
    ) -> Result<WidgetToken, CallError> {
        let mut body = json!({ "link_id": link.as_str(), "scopes": TOKEN_SCOPES });
        if let Some(widget) = widget {
            body["widget"] = widget.into();
        }
        self.mint(link, body).await
    }

    /// `POST /api/token/`, for the renewal of the consent behind this link. `widget` is the object of the caller that
    /// identifies the user.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn renewal_token(&self, link: &LinkId, widget: Map<String, Value>) -> Result<WidgetToken, CallError> {
        let mut widget = widget;
        widget.insert("openfinance_feature".to_owned(), "consent_management".into());
        self.mint(link, json!({ "widget": widget, "scopes": RENEWAL_SCOPES })).await
    }

    /// The body of the call contains the keys.
    async fn mint(&self, link: &LinkId, mut body: Value) -> Result<WidgetToken, CallError> {
        self.check_may_write()?;
        let call = Call { method: Method::POST, path: "/api/token/".to_owned(), link: Some(link) };
        body["id"] = self.id.0.expose_secret().into();
        body["password"] = self.password.0.expose_secret().into();
        let answer = self.ask(&call, |request| request.json(&body)).await?;
        if !answer.status.is_success() {
            return Err(Refused::of(&call, answer)?.into());
        }
        let (status, retry_after) = (answer.status, answer.retry_after);
        let tokens = answer.object().unwrap_or_default();
        let token = |name| tokens.get(name).and_then(Value::as_str).filter(|token| !token.is_empty());
        let token = |name| token(name).map(SecretString::from);
        let access = token("access").ok_or_else(|| call.not_belvos(status, retry_after))?;
        let link_status = claim::status_in(access.expose_secret());
        Ok(WidgetToken { access, refresh: token("refresh"), expires_in: TOKEN_LIFE, link_status })
    }

    fn with_keys(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(self.id.0.expose_secret(), Some(self.password.0.expose_secret()))
    }

    async fn ask(
        &self,
        call: &Call<'_>,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, CallError> {
        let url = format!("{}{}", self.base, call.path);
        let (answer, _took) = self.ask_at(call, &url, self.urgency, BODY_BYTES_MAX, fill).await?;
        Ok(answer)
    }

    /// The answer, and the time from sending the request to the complete answer.
    async fn ask_at(
        &self,
        call: &Call<'_>,
        url: &str,
        urgency: Urgency,
        bytes_max: usize,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<(Answer, Duration), CallError> {
        self.budget.take(urgency).await.map_err(|wait| call.held_back(wait))?;
        let request = fill(self.http.request(call.method.clone(), url));
        let sent_at = self.budget.clock().elapsed();
        let answer = self.exchange(call, request, bytes_max).await?;
        if answer.refuses_keys() {
            self.keys_refused.store(true, Ordering::Relaxed);
        } else if answer.status.is_success() {
            self.keys_refused.store(false, Ordering::Relaxed);
        }
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            self.budget.pause(answer.retry_after.unwrap_or(THROTTLED_PAUSE));
        }
        Ok((answer, self.budget.clock().elapsed().saturating_sub(sent_at)))
    }

    async fn exchange(&self, call: &Call<'_>, request: RequestBuilder, bytes_max: usize) -> Result<Answer, CallError> {
        let span = call.span();
        let answer = self.exchange_untraced(call, traced::with_trace(request, &span), bytes_max).await;
        match &answer {
            Ok(answer) => traced::note_status(&span, answer.status),
            Err(error) => span.fail(|| error.to_string()),
        }
        answer
    }

    async fn exchange_untraced(
        &self,
        call: &Call<'_>,
        request: RequestBuilder,
        bytes_max: usize,
    ) -> Result<Answer, CallError> {
        let Some(wire) = &self.wire else {
            let response = request.send().await.map_err(|error| call.broke_off(error))?;
            return Answer::read(response, bytes_max).await.map_err(|error| call.broke_off(error));
        };
        let request = request.build().map_err(|error| call.broke_off(error))?;
        let reply = wire.ask(Question::of(&request)).await;
        reply.map(|reply| Answer::of(reply, bytes_max)).map_err(|why| {
            let why = format!("{} {} {why}", call.method, call.path);
            CallError::Transient { why, retry_after: None }
        })
    }
}

/// The builder of a client for this address of Belvo. It uses the proxy of the environment, except for this machine.
pub fn http_client(url: &Url) -> reqwest::ClientBuilder {
    crate::tls::install();
    let http = reqwest::Client::builder();
    if url.host_str().is_some_and(is_loopback) { http.no_proxy() } else { http }
}

fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;

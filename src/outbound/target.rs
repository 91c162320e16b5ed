//! One HTTP address, and the request for a message.
//!
//! A notice is a POST with the headers of Standard Webhooks 1.0 and those of CloudEvents 1.0 (HTTP binding, binary
//! mode), which have the same names as in NATS. A forwarded webhook is a POST with the `Authorization` value of the
//! settings, because relink never stores the one that Belvo sent.
//!
//! No redirect is followed. Neither the address nor a body gets into the log or into a dead letter.

use std::error::Error;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use reqwest::header::{self, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::retry::Verdict;
use super::signature::SigningKeys;
use crate::belvo::http_client;
use crate::clock::Clock;
use crate::contract::JOURNAL_HEADER;
use crate::nats::envelope::{SOURCE, WEBHOOK_SOURCE, trace_of};
use crate::nats::stream::OutboundConsumer;
use crate::trace::{Span, SpanKind};

/// The time limits of a request. Standard Webhooks recommends 15 to 30 seconds for the response.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How much of the body of a response is read, so that the connection can be used again. It has no meaning.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// The settings of a target.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// The address.
    pub url: Url,
    /// How old a message gets before it becomes a dead letter.
    pub retry_for: Duration,
    /// What the target gets.
    pub kind: TargetKind,
}

/// What a target gets.
#[derive(Clone, Debug)]
pub enum TargetKind {
    /// Notices and incidents.
    Notices {
        /// The keys that sign.
        keys: SigningKeys,
        /// The types of notice, and `incident`; empty: all of them.
        types: Vec<String>,
    },
    /// The webhooks of Belvo, as they came.
    Webhooks {
        /// The value of `Authorization`.
        authorization: Option<SecretString>,
    },
}

/// A target.
#[derive(Debug)]
pub struct Target {
    settings: TargetSettings,
    client: Client,
    clock: Clock,
    gate: Gate,
    gone: CancellationToken,
}

/// A message for a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) subject: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) payload: &'a Bytes,
    /// How long ago its cause was. A late message begins a trace of its own.
    pub(super) age: Duration,
}

/// Whether a target gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    /// Its type is not in the settings, or it is no webhook that Belvo sent over HTTP.
    No,
    /// relink did not publish it.
    Foreign,
}

impl Target {
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(settings: TargetSettings, clock: Clock) -> Result<Self, reqwest::Error> {
        let client = http_client(&settings.url)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .user_agent(concat!("relink/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let gate = Gate::new(settings.kind.name());
        Ok(Self { settings, client, clock, gate, gone: CancellationToken::new() })
    }

    /// The name in logs and metrics.
    pub fn name(&self) -> &'static str {
        self.settings.kind.name()
    }

    pub(super) const fn settings(&self) -> &TargetSettings {
        &self.settings
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Is cancelled when the target has answered 410.
    pub(super) const fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Waits for its turn and sends the message once, which was tried so often before. `None`: `stop` came before the request began.
    pub(super) async fn send_in_turn(
        &self,
        message: Outgoing<'_>,
        tries: u32,
        stop: &CancellationToken,
    ) -> Option<Verdict> {
        let _place = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = self.gone.cancelled() => return None,
            place = self.gate.enter(tries) => place,
        };
        let verdict = self.send(message).await;
        match &verdict {
            Verdict::Accepted { .. } => self.gate.accepted(),
            Verdict::Failed(failure) => self.gate.failed(failure),
            Verdict::Gone if !self.gone.is_cancelled() => {
                self.gone.cancel();
                tracing::error!(
                    target.name = self.name(),
                    "an HTTP target has answered 410 Gone, so relink sends it nothing more until relink is started again; the messages \
                     stay in their stream"
                );
            }
            Verdict::Gone => {}
        }
        Some(verdict)
    }

    /// Sends the message at once.
    pub(super) async fn send(&self, message: Outgoing<'_>) -> Verdict {
        let Some(mut request) = self.request(message) else {
            return Verdict::Failed(super::retry::Failure {
                why: "the headers of the message cannot be sent over HTTP".to_owned(),
                is_of_target: false,
                retry_after: None,
            });
        };
        let span = self.span(message);
        for (name, value) in span.headers() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        match self.client.execute(request).await {
            Ok(response) => {
                span.set("http.response.status_code", || i64::from(response.status().as_u16()));
                if !response.status().is_success() {
                    span.fail(|| response.status().as_u16().to_string());
                }
                let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let verdict = Verdict::of_response(response.status().as_u16(), retry_after);
                skip_body(response).await;
                // Only receivers of Standard Webhooks give 410 this meaning.
                if verdict == Verdict::Gone && matches!(self.settings.kind, TargetKind::Webhooks { .. }) {
                    return Verdict::Failed(super::retry::Failure {
                        why: "the response has the status 410".to_owned(),
                        is_of_target: false,
                        retry_after: None,
                    });
                }
                verdict
            }
            Err(error) => {
                let why = text_of(error);
                span.fail(|| why.clone());
                Verdict::unreachable(why)
            }
        }
    }

    /// The span of an attempt, in the trace of the message.
    fn span(&self, message: Outgoing<'_>) -> Span {
        let cause = trace_of(message.headers);
        let span = Span::begin_after(message.age, SpanKind::Client, cause, || format!("send {}", self.name()));
        span.set("http.request.method", || "POST");
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        if let Some(id) = header("ce-id") {
            span.set("messaging.message.id", || id);
        }
        if let Some(link) = header("ce-subject") {
            span.set("relink.link.id", || link);
        }
        span
    }

    /// Whether the target gets this message.
    pub(super) fn wants(&self, message: Outgoing<'_>) -> Wanted {
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
        match &self.settings.kind {
            TargetKind::Webhooks { .. } => {
                // A client of NATS could send the same headers, but only by intention. What an operator replays has no
                // number of a journal.
                let is_belvos = header("ce-source") == Some(WEBHOOK_SOURCE) && header(JOURNAL_HEADER).is_some();
                if is_belvos { Wanted::Yes } else { Wanted::No }
            }
            TargetKind::Notices { types, .. } => {
                if header("ce-source") != Some(SOURCE) || self.request(message).is_none() {
                    return Wanted::Foreign;
                }
                let kind = type_of(message.subject);
                let is_wanted = types.is_empty() || types.iter().any(|wanted| wanted == kind);
                if is_wanted { Wanted::Yes } else { Wanted::No }
            }
        }
    }

    /// `None`: a header of the message cannot be sent over HTTP.
    fn request(&self, message: Outgoing<'_>) -> Option<Request> {
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
        let id = header("ce-id");
        let mut headers = header::HeaderMap::new();
        let content_type = header("content-type").unwrap_or("application/json");
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).ok()?);
        match &self.settings.kind {
            TargetKind::Notices { keys, .. } => {
                // The parts of the signed text are separated by dots, so the specification wants no dot in an id.
                let id = id?.replace('.', "_");
                let timestamp = self.clock.now().as_millis().div_euclid(1_000);
                let signature = keys.sign(&id, timestamp, message.payload);
                for (name, value) in [("id", id), ("timestamp", timestamp.to_string()), ("signature", signature)] {
                    let name = HeaderName::from_bytes(format!("webhook-{name}").as_bytes()).ok()?;
                    headers.insert(name, HeaderValue::from_str(&value).ok()?);
                }
                for (name, _values) in message.headers.iter() {
                    let name: &str = name.as_ref();
                    if let (Some("ce-"), Some(value)) = (name.get(..3), header(name)) {
                        headers
                            .insert(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
                    }
                }
            }
            TargetKind::Webhooks { authorization } => {
                if let Some(secret) = authorization {
                    let mut value = HeaderValue::from_str(secret.expose_secret()).ok()?;
                    value.set_sensitive(true);
                    headers.insert(header::AUTHORIZATION, value);
                }
                if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
                    headers.insert(HeaderName::from_static("relink-message-id"), id);
                }
            }
        }
        let mut request = Request::new(reqwest::Method::POST, self.settings.url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(message.payload.clone().into());
        Some(request)
    }
}

impl TargetKind {
    /// The name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Notices { .. } => "notices",
            Self::Webhooks { .. } => "webhooks",
        }
    }

    /// The consumer of the messages.
    pub const fn consumer(&self) -> OutboundConsumer {
        match self {
            Self::Notices { .. } => OutboundConsumer::Notices,
            Self::Webhooks { .. } => OutboundConsumer::Webhooks,
        }
    }
}

/// The type of a notice, or `incident`: the token before the last one of its subject.
fn type_of(subject: &str) -> &str {
    subject.rsplit('.').nth(1).unwrap_or_default()
}

async fn skip_body(mut response: Response) {
    let mut rest = RESPONSE_BYTES_MAX;
    while let Ok(Some(chunk)) = response.chunk().await {
        rest = rest.saturating_sub(chunk.len());
        if rest == 0 {
            return;
        }
    }
}

/// The reason without the address, which may contain a secret of the target.
fn text_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let (mut why, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        why.push_str(": ");
        why.push_str(&cause.to_string());
        source = cause.source();
    }
    why
}

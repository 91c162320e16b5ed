//! The sandbox without a socket: the caller sends requests by function calls and sets the clock.
//!
//! The caller gets the same server as over HTTP, with the same routes, credentials and faults. No function waits. A
//! fault that would wait ([`ApiFault::Timeout`](super::ApiFault::Timeout)) gives no response, and the caller decides
//! about the duration.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::handler::Handler;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{Request, Response};
use axum::routing::any_service;
use futures::FutureExt;

use crate::api;
use crate::config::{SandboxConfig, WebhookDelivery};
use crate::control::Control;
use crate::shared::Shared;

/// A sandbox in this process. Scheduled events happen when its clock is moved.
#[derive(Clone, Debug)]
pub struct InProcess {
    shared: Arc<Shared>,
    router: Router,
}

/// An answer of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The value of the `Retry-After` header, if there is one.
    pub retry_after: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl InProcess {
    /// A sandbox whose webhooks are taken by [`Control::take_webhooks`]. `config.listen` and `config.webhook_url` are not used.
    pub fn new(config: SandboxConfig) -> Self {
        let shared = Arc::new(Shared::new(SandboxConfig { delivery: WebhookDelivery::ByHand, ..config }));
        Self { router: api::router(Arc::clone(&shared)), shared }
    }

    /// The control API.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Sends a request to Belvo's API; `target` is path and query. `None` means no response.
    pub fn ask(&self, method: &str, target: &str, authorization: Option<&str>, body: Vec<u8>) -> Option<Answered> {
        let mut request = Request::builder().method(method).uri(target).header("content-type", "application/json");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Body::from(body)).ok()?;
        let response = Handler::call(any_service(self.router.clone()), request, ()).now_or_never()?;
        let text = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (status, retry_after) = (response.status().as_u16(), text(RETRY_AFTER));
        let body = whole(response)?.to_vec();
        Some(Answered { status, retry_after, body })
    }
}

fn whole(response: Response<Body>) -> Option<Bytes> {
    to_bytes(response.into_body(), usize::MAX).now_or_never()?.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{AccessMode, ApiFault, SandboxTime};

    #[test]
    fn it_answers_like_the_one_behind_a_socket() {
        let config = SandboxConfig { time: SandboxTime::Driven { from_ms: 0 }, ..SandboxConfig::default() };
        let sandbox = InProcess::new(config);
        let link = sandbox.control().create_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
        let target = format!("/api/links/{link}/");
        let keys = Some("Basic c2FuZGJveDpzYW5kYm94");
        let answered = sandbox.ask("GET", &target, keys, Vec::new()).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&answered.body).unwrap();
        assert_eq!((answered.status, body["id"].as_str()), (200, Some(link.to_string().as_str())));
        assert_eq!(sandbox.ask("GET", &target, None, Vec::new()).unwrap().status, 401);
        assert!(sandbox.control().take_webhooks().is_empty(), "they are not due yet");
        sandbox.control().advance(Duration::from_secs(1));
        assert!(!sandbox.control().take_webhooks().is_empty());
        sandbox.control().fail_api(ApiFault::RateLimited(Duration::from_secs(7)), 1, "").unwrap();
        let throttled = sandbox.ask("GET", &target, keys, Vec::new()).unwrap();
        assert_eq!((throttled.status, throttled.retry_after.as_deref()), (429, Some("7")));
    }
}

//! A replacement for the network: a request to Belvo and its response, as values.
//!
//! With it, [`Client`](super::Client) runs without a socket: paging, the check that an answer is Belvo's, and the decision whether to try
//! again are the shipped code. The simulation loses, delays and falsifies the responses. The service does not use it.

use std::fmt;

use futures::future::BoxFuture;
use reqwest::Request;
use reqwest::header::AUTHORIZATION;
use secrecy::SecretString;

/// Replaces the network between relink and Belvo.
pub trait Wire: fmt::Debug + Send + Sync {
    /// Sends a request to Belvo, and returns the response.
    ///
    /// # Errors
    /// The reason why there is no response, as the end of a sentence, such as "timed out"; Belvo may have handled the
    /// request.
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Reply, String>>;
}

/// A request to Belvo.
#[derive(Clone, Debug)]
pub struct Question {
    /// The HTTP method, in capitals.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The value of the `Authorization` header, if there is one.
    pub authorization: Option<SecretString>,
    /// The body, JSON or empty.
    pub body: Vec<u8>,
}

/// The response of Belvo.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The value of the `Retry-After` header, if there is one.
    pub retry_after: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Question {
    pub(super) fn of(request: &Request) -> Self {
        let (url, headers) = (request.url(), request.headers());
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(SecretString::from);
        let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default().to_vec();
        Self { method: request.method().to_string(), target: format!("{}{query}", url.path()), authorization, body }
    }
}

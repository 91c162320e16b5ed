//! A call to Belvo as a span within the running work. The calls of a sweep belong to no work, so they have none.

use reqwest::{RequestBuilder, StatusCode};
use uuid::Uuid;

use super::Call;
use crate::trace::{Span, SpanKind};

impl Call<'_> {
    /// The span of the call.
    pub(super) fn span(&self) -> Span {
        let span = Span::within(SpanKind::Client, || format!("Belvo {} {}", self.method, self.template()));
        span.set("http.request.method", || self.method.to_string());
        span.set("url.template", || self.template());
        if let Some(link) = self.link {
            span.set("relink.link.id", || link.to_string());
        }
        span
    }

    /// The path without ids.
    fn template(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let is_id = |part: &str| Uuid::try_parse(part).is_ok() || self.link.is_some_and(|link| link.as_str() == part);
        path.split('/').map(|part| if is_id(part) { "{id}" } else { part }).collect::<Vec<_>>().join("/")
    }
}

/// The request with the trace of this span.
pub(super) fn with_trace(request: RequestBuilder, span: &Span) -> RequestBuilder {
    span.headers().fold(request, |request, (name, value)| request.header(name, value))
}

/// Notes the status of the answer.
pub(super) fn note_status(span: &Span, status: StatusCode) {
    span.set("http.response.status_code", || i64::from(status.as_u16()));
    if status.is_server_error() || status.is_client_error() {
        span.fail(|| status.as_u16().to_string());
    }
}

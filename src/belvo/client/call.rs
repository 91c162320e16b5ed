//! One request to Belvo, and the errors of a request that brings no answer of Belvo.

use std::error::Error;
use std::time::Duration;

use reqwest::{Method, StatusCode};

use super::CallError;
use crate::link::LinkId;
use crate::metric;

/// One request, for the text of errors.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    /// `None` for a list.
    pub(super) link: Option<&'a LinkId>,
}

impl Call<'_> {
    /// The answer does not have the shape that Belvo documents, so it is from another server, such as a gateway. The
    /// call may succeed later.
    pub(super) fn not_belvos(&self, status: StatusCode, retry_after: Option<Duration>) -> CallError {
        let status = status.as_u16();
        metrics::counter!(metric::BELVO_UNEXPECTED_RESPONSES.name, "status" => status.to_string()).increment(1);
        let why = format!("{} {} was answered {status}, and not in Belvo's words", self.method, self.path);
        CallError::Transient { why, retry_after }
    }

    /// The budget has no place for the request soon enough.
    pub(super) fn held_back(&self, wait: Duration) -> CallError {
        let why = format!("{} {} was not sent: the budget of Belvo calls is used up", self.method, self.path);
        CallError::Transient { why, retry_after: Some(wait) }
    }

    /// The network failed. It is not known whether Belvo received the request.
    pub(super) fn broke_off(&self, error: reqwest::Error) -> CallError {
        let what = match () {
            () if error.is_timeout() => "timed out",
            () if error.is_connect() => "cannot connect",
            () => "broke off",
        };
        let error = error.without_url();
        let mut why = format!("{} {} {what}", self.method, self.path);
        let mut source = error.source();
        while let Some(cause) = source {
            why.push_str(": ");
            why.push_str(&cause.to_string());
            source = cause.source();
        }
        CallError::Transient { why, retry_after: None }
    }
}

//! Injected faults: in the next N webhooks, or in the responses to the next N calls of the API.
//!
//! Faults are applied in the order in which they were set. Faults change webhooks and responses, never the state of a
//! link: for that see [`super::control::Control::set_login`] and [`super::control::Control::set_status`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::ControlError;
use crate::problem::Problem;

/// A fault in the delivery of webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookFault {
    /// The webhook is recorded and not sent.
    Drop,
    /// The webhook is sent twice, byte for byte.
    Duplicate,
    /// The webhook is sent later.
    Delay(Duration),
    /// The affected webhooks are held back, then sent in reverse order.
    Reorder,
    /// The `external_id` of the webhook is null.
    NullExternalId,
    /// The code of the webhook is not documented by Belvo.
    UnknownCode,
    /// The data of the webhook has `errors`, as when only a part of the data was collected.
    DataErrors,
    /// The code of the webhook lacks `openfinance_`, as the guide "My Belvo Portal" spells it: `consent_expired`.
    ShortCode,
}

/// A fault in the answers of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// Any error of Belvo's error reference, by its code; a suffix as in `login_error:locked` selects the message, and
    /// `forbidden_html` is the proxy's 403. `token_required` opens a session for the link that the call names, in its
    /// path or as `link` in its body; it applies to the next call that names a link.
    Error(String),
    /// 429 with `Retry-After`.
    RateLimited(Duration),
    /// No response for this span, then 408.
    Timeout(Duration),
}

impl ApiFault {
    /// HTTP 500, `unexpected_error`.
    pub fn server_error() -> Self {
        Self::Error("unexpected_error".into())
    }

    /// HTTP 400, `institution_down`.
    pub fn institution_down() -> Self {
        Self::Error("institution_down".into())
    }

    /// HTTP 400, `too_many_sessions`.
    pub fn too_many_sessions() -> Self {
        Self::Error("too_many_sessions".into())
    }
}

impl ApiFault {
    /// Checks that Belvo documents the code.
    ///
    /// # Errors
    /// [`ControlError::NoSuchCode`] if it does not.
    pub fn check(&self) -> Result<(), ControlError> {
        ApiAnswer::of(self.clone()).map(drop)
    }
}

/// The answer to a call: [`ApiFault`], with its error looked up.
#[derive(Clone, Debug)]
pub(crate) enum ApiAnswer {
    Error(Problem),
    /// A 428 for the link that the call names; a call that names no link is not affected.
    TokenRequired,
    RateLimited(Duration),
    Timeout(Duration),
}

impl ApiAnswer {
    pub(crate) fn of(fault: ApiFault) -> Result<Self, ControlError> {
        match fault {
            ApiFault::Error(code) if code == "token_required" => Ok(Self::TokenRequired),
            ApiFault::Error(code) => Problem::documented(&code).map(Self::Error),
            ApiFault::RateLimited(span) => Ok(Self::RateLimited(span)),
            ApiFault::Timeout(span) => Ok(Self::Timeout(span)),
        }
    }
}

/// A pending API fault.
#[derive(Clone, Debug)]
pub(crate) struct ArmedApiFault {
    pub(crate) answer: ApiAnswer,
    pub(crate) left: usize,
    /// The fault applies only to calls whose `METHOD /path` contains this text; empty for any call.
    pub(crate) on: String,
}

/// All pending faults.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    webhooks: VecDeque<(WebhookFault, usize)>,
    api: Vec<ArmedApiFault>,
}

impl Faults {
    pub(crate) fn arm_webhook(&mut self, fault: WebhookFault, count: usize) {
        if count > 0 {
            self.webhooks.push_back((fault, count));
        }
    }

    pub(crate) fn arm_api(&mut self, fault: ArmedApiFault) {
        if fault.left > 0 {
            self.api.push(fault);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The fault of the next webhook, and the remaining number of this fault.
    pub(crate) fn next_webhook(&mut self) -> Option<(WebhookFault, usize)> {
        let (fault, left) = self.webhooks.front_mut()?;
        *left -= 1;
        let taken = (fault.clone(), *left);
        if *left == 0 {
            self.webhooks.pop_front();
        }
        Some(taken)
    }

    /// Whether the fault of this call depends on the link that the call names.
    pub(crate) fn asks_for_link(&self, call: &str) -> bool {
        self.api
            .iter()
            .any(|armed| call.contains(armed.on.as_str()) && matches!(armed.answer, ApiAnswer::TokenRequired))
    }

    /// The faulty response to this call, if any. `call` is `METHOD /path`.
    pub(crate) fn next_api(&mut self, call: &str, names_link: bool) -> Option<ApiAnswer> {
        let is_meant = |armed: &ArmedApiFault| {
            call.contains(armed.on.as_str()) && (names_link || !matches!(armed.answer, ApiAnswer::TokenRequired))
        };
        let index = self.api.iter().position(is_meant)?;
        let armed = &mut self.api[index];
        armed.left -= 1;
        let answer = armed.answer.clone();
        if armed.left == 0 {
            self.api.remove(index);
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_used_up_in_order() {
        let mut faults = Faults::default();
        faults.arm_webhook(WebhookFault::Drop, 2);
        faults.arm_webhook(WebhookFault::Duplicate, 1);
        let taken: Vec<_> = std::iter::from_fn(|| faults.next_webhook()).collect();
        assert_eq!(taken, [(WebhookFault::Drop, 1), (WebhookFault::Drop, 0), (WebhookFault::Duplicate, 0)]);
    }

    #[test]
    fn an_api_fault_waits_for_its_call() {
        let mut faults = Faults::default();
        let arm = |answer| ArmedApiFault { answer, left: 1, on: "POST /api/".into() };
        faults.arm_api(arm(ApiAnswer::TokenRequired));
        faults.arm_api(arm(ApiAnswer::Timeout(Duration::ZERO)));
        assert!(faults.next_api("GET /api/links/", true).is_none());
        assert!(matches!(faults.next_api("POST /api/token/", false), Some(ApiAnswer::Timeout(_))));
        assert!(faults.next_api("POST /api/token/", false).is_none());
        assert!(matches!(faults.next_api("POST /api/accounts/", true), Some(ApiAnswer::TokenRequired)));
        assert!(faults.next_api("POST /api/accounts/", true).is_none());
    }
}

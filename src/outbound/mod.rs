//! Messages that relink sends over HTTP: notices as signed webhooks, and Belvo's webhooks passed on unchanged.
//!
//! ```text
//!   KV_links  link.notice.>, link.incident.>  ─▶ relink-notices  ─▶ Worker ─▶ POST, signed (Standard Webhooks 1.0)
//!   BELVO     belvo.*.webhook.*               ─▶ relink-webhooks ─▶ Worker ─▶ POST, as Belvo sent it
//!                                                                     └─▶ RELINK_DEAD, when it was refused for days
//! ```
//!
//! Each target has a durable consumer, so nothing is lost while the target, relink or NATS is down. A message is
//! acknowledged after a 2xx or as a dead letter, so it is sent **at least once**. The messages of a link stay in order:
//! the next one is sent when the previous one was accepted, or is a dead letter.
//!
//! - `worker`: reads the consumer; `queues`: the order of each link; `attempts`: sends one message until it is accepted
//! - `target`: the request; `signature`: its signature; `gate`: bounds the requests; `retry`: the rules of repeats
//!
//! This module decides nothing about a link, and never changes a body.

mod attempts;
mod gate;
mod queues;
mod retry;
mod signature;
mod target;
mod worker;

use std::sync::Arc;
use std::time::Duration;

pub use self::signature::{BadKey, SigningKeys};
pub use self::target::{Target, TargetKind, TargetSettings};
pub use self::worker::Worker;

use self::retry::Verdict;
use self::target::Outgoing;
use crate::contract::DeadReason;
use crate::nats::dead_letter::StoredLetter;

/// The targets of this installation.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// The target of notices.
    pub notices: Option<Arc<Target>>,
    /// The target of forwarded webhooks.
    pub webhooks: Option<Arc<Target>>,
}

/// A dead letter that was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resent {
    /// The name of the target.
    pub target: &'static str,
    /// The status of its response.
    pub status: u16,
}

/// Why a dead letter was not sent again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResendError {
    /// There is no target for it, or its body is not complete.
    #[error("the dead letter cannot be sent again: {0}")]
    NotPossible(String),
    /// The target did not accept it.
    #[error("the target for {target} did not accept the message: {why}")]
    Refused {
        /// The name of the target.
        target: &'static str,
        /// The reason.
        why: String,
    },
}

impl Targets {
    /// Both targets, each if it exists.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.notices.iter().chain(&self.webhooks)
    }

    /// Sends a dead letter again, once and at once. `None` if the message of the letter is not one for HTTP.
    pub async fn resend(&self, letter: &StoredLetter) -> Option<Result<Resent, ResendError>> {
        let (target, setting) = if letter.reason == DeadReason::NoticeNotDelivered.as_str() {
            (&self.notices, "RELINK_NOTICES_URL")
        } else if letter.reason == DeadReason::WebhookNotForwarded.as_str() {
            (&self.webhooks, "RELINK_FORWARD_URL")
        } else {
            return None;
        };
        let refuse = |why: String| Some(Err(ResendError::NotPossible(why)));
        let Some(target) = target else { return refuse(format!("relink has no address for it; set {setting}")) };
        if let Some(length) = letter.truncated_from {
            return refuse(format!("only {} of its {length} bytes were kept", letter.payload.len()));
        }
        // An operator sends it, so it does not belong to the trace of the message.
        let (headers, age) = (&letter.headers, Duration::MAX);
        let message = Outgoing { subject: &letter.subject, headers, payload: &letter.payload, age };
        let refused = |why: String| Err(ResendError::Refused { target: target.name(), why });
        Some(match target.send(message).await {
            Verdict::Accepted { status } => Ok(Resent { target: target.name(), status }),
            Verdict::Gone => refused("the response has the status 410".to_owned()),
            Verdict::Failed(failure) => refused(failure.why),
        })
    }
}

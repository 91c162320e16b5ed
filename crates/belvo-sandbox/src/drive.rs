//! The manual clock: a program sets the sandbox's time and delivers the webhooks itself.
//!
//! A program that simulates a year in a second calls [`Control::next_event_at`] and [`Control::advance_to`], then
//! [`Control::take_webhooks`], and [`Control::record_outcome`] for each webhook. The cost does not depend on the
//! number of links.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::clock::millis;
use crate::control::Control;
use crate::outbox::{DeliveryOutcome, QueuedWebhook};

/// A webhook that was taken out of the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenWebhook {
    /// The due time, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The link of the webhook.
    pub link_id: Uuid,
    /// The webhook's id.
    pub webhook_id: String,
    /// The family.
    pub webhook_type: String,
    /// The code.
    pub webhook_code: String,
    /// 1 for the first attempt, up to 6.
    pub attempt: u32,
    /// The body, as Belvo would send it.
    pub body: Value,
}

impl Control {
    /// The sandbox's time, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    /// The time of the next scheduled event or webhook. The time may be in the past.
    pub fn next_event_at(&self) -> Option<i64> {
        let world = self.shared.world();
        [world.schedule.next_due(), world.outbox.next_due()].into_iter().flatten().min()
    }

    /// Moves the sandbox's time forward: tokens expire, cool-downs end, scheduled events happen, each at its own
    /// time, and webhooks and retries become due.
    pub fn advance(&self, span: Duration) {
        self.shared.advance(|_| millis(span));
    }

    /// Moves the sandbox's time forward to `at_ms`; an earlier time is ignored.
    pub fn advance_to(&self, at_ms: i64) {
        self.shared.advance(|now| at_ms.saturating_sub(now));
    }

    /// Takes all webhooks that are due now, in order. For [`WebhookDelivery::ByHand`](super::WebhookDelivery::ByHand):
    /// the sandbox does not send them.
    pub fn take_webhooks(&self) -> Vec<TakenWebhook> {
        self.shared.change(|world, now| {
            let taken = std::iter::from_fn(|| world.outbox.take_due(now));
            taken.map(|(at_ms, queued)| TakenWebhook::of(at_ms, queued)).collect()
        })
    }

    /// Records the outcome of a webhook that was taken; if it failed, Belvo's retry follows.
    pub fn record_outcome(&self, taken: TakenWebhook, outcome: DeliveryOutcome) {
        self.shared.change(|world, now| world.record_outcome(now, taken.into(), outcome));
    }
}

impl TakenWebhook {
    fn of(at_ms: i64, queued: QueuedWebhook) -> Self {
        let QueuedWebhook { webhook_id, link_id, webhook_type, webhook_code, body, attempt } = queued;
        Self { at_ms, link_id, webhook_id, webhook_type, webhook_code, attempt, body }
    }
}

impl From<TakenWebhook> for QueuedWebhook {
    fn from(taken: TakenWebhook) -> Self {
        let TakenWebhook { at_ms: _, link_id, webhook_id, webhook_type, webhook_code, attempt, body } = taken;
        Self { webhook_id, link_id, webhook_type, webhook_code, body, attempt }
    }
}

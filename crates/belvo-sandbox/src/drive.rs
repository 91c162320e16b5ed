//! Driving: time that moves when it is told to, and webhooks that are taken out by hand.
//!
//! A program that lives through a year in a second does this: [`Control::next_event_at`], [`Control::advance_to`], then
//! [`Control::take_webhooks`], and [`Control::settle_webhook`] for each. What it does costs the same with ten links and
//! with ten thousand.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::clock::millis;
use crate::control::Control;
use crate::outbox::{DeliveryOutcome, Parcel};

/// A webhook that was taken out of the post box.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenWebhook {
    /// When it was due, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The link it is about.
    pub link_id: Uuid,
    /// The webhook's id.
    pub webhook_id: String,
    /// Its family.
    pub webhook_type: String,
    /// Its code.
    pub webhook_code: String,
    /// 1 for the first attempt, up to 6.
    pub attempt: u32,
    /// The body, as Belvo would send it.
    pub body: Value,
}

impl Control {
    /// What time it is in the sandbox, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    /// When the next thing happens by itself, or the next webhook is due. It may be in the past.
    pub fn next_event_at(&self) -> Option<i64> {
        let world = self.shared.world();
        [world.agenda.next_due(), world.post_box.next_due()].into_iter().flatten().min()
    }

    /// Moves the sandbox's time forward: tokens age, cool-downs end, what is planned happens, each thing at its own
    /// time, and webhooks and retries come due.
    pub fn advance(&self, span: Duration) {
        self.shared.advance(|_| millis(span));
    }

    /// The same, up to a moment; nothing happens if that is past.
    pub fn advance_to(&self, at_ms: i64) {
        self.shared.advance(|now| at_ms.saturating_sub(now));
    }

    /// Takes all webhooks that are due now, in order. For [`WebhookDelivery::ByHand`](super::WebhookDelivery::ByHand):
    /// nobody else sends them.
    pub fn take_webhooks(&self) -> Vec<TakenWebhook> {
        self.shared.change(|world, now| {
            let taken = std::iter::from_fn(|| world.post_box.take_due(now));
            taken.map(|(at_ms, parcel)| TakenWebhook::of(at_ms, parcel)).collect()
        })
    }

    /// Says what came of a webhook that was taken: it is recorded, and Belvo's retry follows if it failed.
    pub fn settle_webhook(&self, taken: TakenWebhook, outcome: DeliveryOutcome) {
        self.shared.change(|world, now| world.settle(now, taken.into(), outcome));
    }
}

impl TakenWebhook {
    fn of(at_ms: i64, parcel: Parcel) -> Self {
        let Parcel { webhook_id, link_id, webhook_type, webhook_code, body, attempt } = parcel;
        Self { at_ms, link_id, webhook_id, webhook_type, webhook_code, attempt, body }
    }
}

impl From<TakenWebhook> for Parcel {
    fn from(taken: TakenWebhook) -> Self {
        let TakenWebhook { at_ms: _, link_id, webhook_id, webhook_type, webhook_code, attempt, body } = taken;
        Self { webhook_id, link_id, webhook_type, webhook_code, body, attempt }
    }
}

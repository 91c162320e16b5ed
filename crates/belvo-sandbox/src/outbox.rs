//! The outbox: queued webhooks, and the record of every attempt.
//!
//! [`super::bank`] adds webhooks, and the dispatcher takes them when they are due.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock::belvo_time;

/// A queued webhook.
#[derive(Clone, Debug)]
pub(crate) struct QueuedWebhook {
    pub(crate) webhook_id: String,
    pub(crate) link_id: Uuid,
    pub(crate) webhook_type: String,
    pub(crate) webhook_code: String,
    pub(crate) body: Value,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
}

/// The outcome of one attempt to deliver a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The receiver answered with this HTTP status.
    Answered(u16),
    /// No response within the timeout.
    TimedOut,
    /// The connection failed.
    Failed(String),
    /// Dropped by a fault: [`WebhookFault::Drop`](crate::WebhookFault::Drop).
    Dropped,
    /// There is no webhook URL.
    NoUrl,
}

impl DeliveryOutcome {
    /// Whether Belvo counts it as delivered.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Answered(status) if (200..300).contains(status))
    }

    /// The error, for the log; none if the webhook arrived, or was never sent.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Answered(status) if !self.is_ok() => Some(format!("answered {status}")),
            Self::TimedOut => Some("no response in time".to_owned()),
            Self::Failed(reason) => Some(reason.clone()),
            Self::Answered(_) | Self::Dropped | Self::NoUrl => None,
        }
    }
}

/// The record of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delivery {
    /// 1, 2, 3, … in the order of the attempts.
    pub seq: u64,
    /// The time of the attempt, by the sandbox's clock.
    pub at: String,
    /// 1 for the first, up to 6.
    pub attempt: u32,
    /// The webhook's id.
    pub webhook_id: String,
    /// The link it is about.
    pub link_id: Uuid,
    /// The family.
    pub webhook_type: String,
    /// The code.
    pub webhook_code: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: DeliveryOutcome,
    /// The body, as sent.
    pub body: Value,
}

/// Queued webhooks, and the records of the attempts.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The records of the latest attempts, numbered in order.
    pub(crate) deliveries: VecDeque<Delivery>,
    /// The number of webhooks in transit: taken, and without an outcome.
    in_flight: usize,
    queue: BTreeMap<(i64, u64), QueuedWebhook>,
    held: Vec<(i64, QueuedWebhook)>,
    delivered: u64,
}

impl Outbox {
    /// Queues a webhook; `seq` orders those of the same millisecond.
    pub(crate) fn put(&mut self, due_at: i64, seq: u64, queued: QueuedWebhook) {
        self.queue.insert((due_at, seq), queued);
    }

    /// Holds a webhook back, until [`Self::take_held`].
    pub(crate) fn hold(&mut self, due_at: i64, queued: QueuedWebhook) {
        self.held.push((due_at, queued));
    }

    /// Takes the webhooks that were held back, in reverse order, with the due time of the latest one.
    pub(crate) fn take_held(&mut self) -> (Option<i64>, impl Iterator<Item = QueuedWebhook> + use<>) {
        let held = std::mem::take(&mut self.held);
        (held.iter().map(|held| held.0).max(), held.into_iter().rev().map(|held| held.1))
    }

    /// The due time of the next webhook.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the next webhook if it is due, with its due time. The caller must record its outcome.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(i64, QueuedWebhook)> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.in_flight += 1;
        let ((due_at, _), queued) = entry.remove_entry();
        Some((due_at, queued))
    }

    /// Counts the outcome of a taken webhook.
    pub(crate) fn has_come_back(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Whether no webhook is queued or in transit.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty() && self.in_flight == 0
    }

    /// Drops all queued webhooks.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.held.clear();
    }

    /// Drops the webhooks that were held back.
    pub(crate) fn let_go(&mut self) {
        self.held.clear();
    }

    /// The attempts after number `after`.
    pub(crate) fn deliveries_after(&self, after: u64) -> impl Iterator<Item = &Delivery> {
        let start = self.deliveries.partition_point(|delivery| delivery.seq <= after);
        self.deliveries.range(start..)
    }

    /// Records an attempt; drops the oldest records beyond `kept`.
    pub(crate) fn record(&mut self, now: i64, queued: &QueuedWebhook, outcome: DeliveryOutcome, kept: usize) {
        self.delivered += 1;
        if self.deliveries.len() >= kept.max(1) {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(Delivery {
            seq: self.delivered,
            at: belvo_time(now),
            attempt: queued.attempt,
            webhook_id: queued.webhook_id.clone(),
            link_id: queued.link_id,
            webhook_type: queued.webhook_type.clone(),
            webhook_code: queued.webhook_code.clone(),
            outcome,
            body: queued.body.clone(),
        });
    }
}

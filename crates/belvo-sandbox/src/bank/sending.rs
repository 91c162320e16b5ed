//! Adds webhooks to the outbox, with the injected faults, and records the outcome of each attempt.

use serde_json::{Value, json};

use crate::clock::millis;
use crate::fault::WebhookFault;
use crate::outbox::{DeliveryOutcome, QueuedWebhook};
use crate::webhook::Webhook;
use crate::world::World;

/// The first attempt and five retries (webhook docs, oldest copy).
const ATTEMPTS_MAX: u32 = 6;

/// The message of an error in a webhook's data. The docs show none; a customer's code reads `code` and
/// `message`.
const PARTIAL: &str = "Belvo is unable to process the request due to an internal system issue";

impl World {
    /// Adds a webhook to the outbox, with the next fault applied.
    pub(crate) fn post(&mut self, due_at: i64, now: i64, mut webhook: Webhook) {
        let fault = self.faults.next_webhook();
        match fault {
            Some((WebhookFault::NullExternalId, _)) => webhook.external_id = None,
            Some((WebhookFault::UnknownCode, _)) => webhook.webhook_code = "code_from_the_future".into(),
            Some((WebhookFault::DataErrors, _)) => {
                if let Value::Object(data) = &mut webhook.data {
                    data.insert("errors".into(), json!([{"code": "unexpected_error", "message": PARTIAL}]));
                }
            }
            Some((WebhookFault::ShortCode, _)) => {
                webhook.webhook_code = webhook.webhook_code.replace("openfinance_", "");
            }
            _ => {}
        }
        let webhook_id = self.uuid().simple().to_string();
        let queued = QueuedWebhook {
            body: webhook.to_body(&webhook_id, self.shape),
            webhook_id,
            link_id: webhook.link_id,
            webhook_type: webhook.webhook_type,
            webhook_code: webhook.webhook_code,
            attempt: 1,
        };
        match fault {
            Some((WebhookFault::Drop, _)) => self.record(now, &queued, DeliveryOutcome::Dropped),
            Some((WebhookFault::Duplicate, _)) => {
                self.enqueue(due_at, queued.clone());
                self.enqueue(due_at, queued);
            }
            Some((WebhookFault::Delay(span), _)) => self.enqueue(due_at + millis(span), queued),
            Some((WebhookFault::Reorder, left)) => {
                self.outbox.hold(due_at, queued);
                if left == 0 {
                    let (latest, held) = self.outbox.take_held();
                    for queued in held {
                        self.enqueue(latest.unwrap_or(due_at), queued);
                    }
                }
            }
            _ => self.enqueue(due_at, queued),
        }
    }

    /// Queues a webhook without a fault: for retries and replays.
    pub(crate) fn enqueue(&mut self, due_at: i64, queued: QueuedWebhook) {
        let seq = self.seq();
        self.outbox.put(due_at, seq, queued);
    }

    /// Records the outcome of a taken webhook. A failed one is retried up to five times, each time one
    /// step later than before (linear back-off); then it is lost, and no API of Belvo shows it.
    pub(crate) fn record_outcome(&mut self, now: i64, mut queued: QueuedWebhook, outcome: DeliveryOutcome) {
        self.outbox.has_come_back();
        let is_over = outcome.is_ok() || outcome == DeliveryOutcome::NoUrl || queued.attempt >= ATTEMPTS_MAX;
        self.record(now, &queued, outcome);
        if !is_over {
            let wait_ms = self.rules.retry_step_ms.saturating_mul(i64::from(queued.attempt));
            queued.attempt += 1;
            self.enqueue(now.saturating_add(wait_ms), queued);
        }
    }

    fn record(&mut self, now: i64, queued: &QueuedWebhook, outcome: DeliveryOutcome) {
        let kept = self.rules.deliveries_kept;
        self.outbox.record(now, queued, outcome, kept);
    }
}

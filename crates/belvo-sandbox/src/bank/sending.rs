//! Webhooks on their way into the outbox, with the faults that were asked for, and what follows an attempt.

use serde_json::{Value, json};

use crate::clock::millis;
use crate::fault::WebhookFault;
use crate::outbox::{DeliveryOutcome, Parcel};
use crate::webhook::Webhook;
use crate::world::World;

/// The first attempt and five retries (webhook docs, oldest copy).
const ATTEMPTS_MAX: u32 = 6;

/// What an error in a webhook's data says. It is in no copy of the docs; a customer's code reads a code and a message.
const PARTIAL: &str = "Belvo is unable to process the request due to an internal system issue";

impl World {
    /// Puts a webhook in the post box, with the next fault applied.
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
        let parcel = Parcel {
            body: webhook.to_body(&webhook_id, self.shape),
            webhook_id,
            link_id: webhook.link_id,
            webhook_type: webhook.webhook_type,
            webhook_code: webhook.webhook_code,
            attempt: 1,
        };
        match fault {
            Some((WebhookFault::Drop, _)) => self.record(now, &parcel, DeliveryOutcome::Dropped),
            Some((WebhookFault::Duplicate, _)) => {
                self.enqueue(due_at, parcel.clone());
                self.enqueue(due_at, parcel);
            }
            Some((WebhookFault::Delay(span), _)) => self.enqueue(due_at + millis(span), parcel),
            Some((WebhookFault::Reorder, left)) => {
                self.post_box.hold(due_at, parcel);
                if left == 0 {
                    let (latest, held) = self.post_box.take_held();
                    for parcel in held {
                        self.enqueue(latest.unwrap_or(due_at), parcel);
                    }
                }
            }
            _ => self.enqueue(due_at, parcel),
        }
    }

    /// Puts a parcel in the queue as it is: for retries and replays.
    pub(crate) fn enqueue(&mut self, due_at: i64, parcel: Parcel) {
        let seq = self.seq();
        self.post_box.put(due_at, seq, parcel);
    }

    /// Writes down what came of a parcel that was taken out. A refused one comes back one step later than the time
    /// before (linear back-off), five times; then it is lost, and nothing can read it back.
    pub(crate) fn settle(&mut self, now: i64, mut parcel: Parcel, outcome: DeliveryOutcome) {
        self.post_box.has_come_back();
        let is_over = outcome.is_ok() || outcome == DeliveryOutcome::NoUrl || parcel.attempt >= ATTEMPTS_MAX;
        self.record(now, &parcel, outcome);
        if !is_over {
            let wait_ms = self.rules.retry_step_ms.saturating_mul(i64::from(parcel.attempt));
            parcel.attempt += 1;
            self.enqueue(now.saturating_add(wait_ms), parcel);
        }
    }

    fn record(&mut self, now: i64, parcel: &Parcel, outcome: DeliveryOutcome) {
        let kept = self.rules.deliveries_kept;
        self.post_box.record(now, parcel, outcome, kept);
    }
}

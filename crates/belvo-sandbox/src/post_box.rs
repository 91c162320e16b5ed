//! The post box every webhook goes through, and the record of what came of each.
//!
//! [`World::post`] applies the faults that were armed and puts a parcel in; the courier takes it out when it is due.
//! Next: [`super::courier`].

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::clock::belvo_time;
use super::fault::WebhookFault;
use super::webhook::Webhook;
use super::world::World;

/// The first attempt and five retries (webhook docs, oldest copy).
const ATTEMPTS_MAX: u32 = 6;

/// What an error in a webhook's data says. It is in no copy of the docs; a customer's code reads a code and a message.
const PARTIAL: &str = "Belvo is unable to process the request due to an internal system issue";

/// A webhook on its way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) webhook_id: String,
    pub(crate) link_id: Uuid,
    pub(crate) webhook_type: String,
    pub(crate) webhook_code: String,
    pub(crate) body: Value,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
}

/// What came of one attempt to deliver a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The receiver answered with this HTTP status.
    Answered(u16),
    /// No answer within the timeout.
    TimedOut,
    /// No connection, or it broke.
    Failed(String),
    /// Lost on purpose: [`WebhookFault::Drop`].
    Dropped,
    /// There is no webhook URL.
    NoUrl,
}

impl DeliveryOutcome {
    /// Whether Belvo would take it as delivered.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Answered(status) if (200..300).contains(status))
    }

    /// What went wrong on the way, in words; nothing if it arrived, or was never sent.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Answered(status) if !self.is_ok() => Some(format!("answered {status}")),
            Self::TimedOut => Some("no answer in time".to_owned()),
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
    /// When, by the sandbox's clock.
    pub at: String,
    /// 1 for the first, up to 6.
    pub attempt: u32,
    /// The webhook's id.
    pub webhook_id: String,
    /// The link it is about.
    pub link_id: Uuid,
    /// Its family.
    pub webhook_type: String,
    /// Its code.
    pub webhook_code: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: DeliveryOutcome,
    /// The body, as sent.
    pub body: Value,
}

/// Webhooks that wait for their time, and what came of those that did not.
#[derive(Debug, Default)]
pub(crate) struct PostBox {
    /// The records of the latest attempts, numbered in order.
    pub(crate) deliveries: VecDeque<Delivery>,
    /// How many parcels have been taken out, and nobody has said yet what came of them.
    in_flight: usize,
    queue: BTreeMap<(i64, u64), Parcel>,
    held: Vec<(i64, Parcel)>,
    delivered: u64,
}

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
            Some((WebhookFault::Delay(span), _)) => self.enqueue(due_at + super::clock::millis(span), parcel),
            Some((WebhookFault::Reorder, left)) => {
                self.post_box.held.push((due_at, parcel));
                if left == 0 {
                    let latest = self.post_box.held.iter().map(|held| held.0).max().unwrap_or(due_at);
                    for (_, parcel) in std::mem::take(&mut self.post_box.held).into_iter().rev() {
                        self.enqueue(latest, parcel);
                    }
                }
            }
            _ => self.enqueue(due_at, parcel),
        }
    }

    /// Puts a parcel in the queue as it is: for retries and replays.
    pub(crate) fn enqueue(&mut self, due_at: i64, parcel: Parcel) {
        let seq = self.seq();
        self.post_box.queue.insert((due_at, seq), parcel);
    }

    /// Writes down what came of a parcel that was taken out. A refused one comes back one step later than the time
    /// before (linear back-off), five times; then it is lost, and nothing can read it back.
    pub(crate) fn settle(&mut self, now: i64, mut parcel: Parcel, outcome: DeliveryOutcome) {
        self.post_box.in_flight = self.post_box.in_flight.saturating_sub(1);
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

impl PostBox {
    /// When the next parcel is due.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the next parcel out if it is due, with the time it was due at. [`World::settle`] has to follow.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(i64, Parcel)> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.in_flight += 1;
        let ((due_at, _), parcel) = entry.remove_entry();
        Some((due_at, parcel))
    }

    /// Whether nothing is on its way or waiting.
    pub(crate) fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty() && self.in_flight == 0
    }

    /// Forgets every webhook that is on its way.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.held.clear();
    }

    /// Forgets the webhooks that were held back for others, which will not come.
    pub(crate) fn let_go(&mut self) {
        self.held.clear();
    }

    /// The attempts after the `after`th, which are numbered in order.
    pub(crate) fn deliveries_after(&self, after: u64) -> impl Iterator<Item = &Delivery> {
        let start = self.deliveries.partition_point(|delivery| delivery.seq <= after);
        self.deliveries.range(start..)
    }

    fn record(&mut self, now: i64, parcel: &Parcel, outcome: DeliveryOutcome, kept: usize) {
        self.delivered += 1;
        if self.deliveries.len() >= kept.max(1) {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(Delivery {
            seq: self.delivered,
            at: belvo_time(now),
            attempt: parcel.attempt,
            webhook_id: parcel.webhook_id.clone(),
            link_id: parcel.link_id,
            webhook_type: parcel.webhook_type.clone(),
            webhook_code: parcel.webhook_code.clone(),
            outcome,
            body: parcel.body.clone(),
        });
    }
}

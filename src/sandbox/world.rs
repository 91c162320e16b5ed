//! Everything the sandbox remembers, behind one lock, and the post box every webhook goes through.
//!
//! It does no I/O and reads no clock: callers pass `now`, the courier takes parcels out. What happens at a login is in
//! [`super::bank`], what happens by itself in [`super::schedule`].

use std::collections::{BTreeMap, HashMap, VecDeque};

use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::clock::belvo_time;
use super::consent::Consent;
use super::fault::{Faults, WebhookFault};
use super::link::Link;
use super::webhook::{PayloadShape, Webhook};

/// How many delivery records are kept; the oldest go first.
const DELIVERIES_MAX: usize = 200_000;

/// An MFA session that waits for its token (428).
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) link: Uuid,
    pub(crate) expires_at: i64,
}

/// A widget access token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) link: Option<Uuid>,
    pub(crate) expires_at: i64,
    pub(crate) alive: bool,
    /// What went wrong in the widget so far, for its exit callback.
    pub(crate) last_error: Option<(String, String)>,
    /// `widget.callback_urls` of the request, for the stand-in page.
    pub(crate) callback_urls: Value,
}

/// Where webhooks go: what was typed into Belvo's dashboard.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) authorization: Option<SecretString>,
}

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

/// The numbers Belvo's behaviour depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How soon the webhooks of a refresh follow it.
    pub(crate) data_delay_ms: i64,
    /// How many failed logins make a link `invalid`.
    pub(crate) logins_until_invalid: u32,
}

impl Rules {
    /// `expiry` of the 428's example.
    pub(crate) const SESSION_LIFE_MS: i64 = 9_600 * 1_000;
    /// Widget access tokens live ten minutes.
    pub(crate) const TOKEN_LIFE_MS: i64 = 600 * 1_000;
    /// One `refresh/` per link in ten minutes.
    pub(crate) const REFRESH_EVERY_MS: i64 = 600 * 1_000;
    /// Five synchronous deletions a minute.
    pub(crate) const DELETIONS_MAX: usize = 5;
    /// The minute those five count in.
    pub(crate) const DELETIONS_SPAN_MS: i64 = 60 * 1_000;
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rules: Rules,
    pub(crate) rng: fastrand::Rng,
    pub(crate) links: BTreeMap<Uuid, Link>,
    pub(crate) sessions: HashMap<String, Session>,
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) consents: BTreeMap<Uuid, Consent>,
    /// When the latest links were deleted, for the limit of five a minute.
    pub(crate) deletions: VecDeque<i64>,
    pub(crate) faults: Faults,
    pub(crate) target: Option<Target>,
    pub(crate) shape: PayloadShape,
    pub(crate) deliveries: VecDeque<Delivery>,
    /// Whether the courier is out with a parcel.
    pub(crate) in_flight: bool,
    queue: BTreeMap<(i64, u64), Parcel>,
    held: Vec<(i64, Parcel)>,
    next_seq: u64,
    delivered: u64,
}

impl World {
    pub(crate) fn new(rules: Rules, seed: u64, target: Option<Target>, shape: PayloadShape) -> Self {
        Self {
            rules,
            rng: fastrand::Rng::with_seed(seed),
            links: BTreeMap::new(),
            sessions: HashMap::new(),
            tokens: HashMap::new(),
            consents: BTreeMap::new(),
            deletions: VecDeque::new(),
            faults: Faults::default(),
            target,
            shape,
            deliveries: VecDeque::new(),
            in_flight: false,
            queue: BTreeMap::new(),
            held: Vec::new(),
            next_seq: 0,
            delivered: 0,
        }
    }

    /// A new id, from the seed.
    pub(crate) fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.rng.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// The next number of the one sequence that orders links and parcels.
    pub(crate) fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Puts a webhook in the post box, with the next fault applied.
    pub(crate) fn post(&mut self, due_at: i64, now: i64, mut webhook: Webhook) {
        let fault = self.faults.next_webhook();
        match fault {
            Some((WebhookFault::NullExternalId, _)) => webhook.external_id = None,
            Some((WebhookFault::UnknownCode, _)) => webhook.webhook_code = "code_from_the_future".into(),
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
                self.held.push((due_at, parcel));
                if left == 0 {
                    let latest = self.held.iter().map(|held| held.0).max().unwrap_or(due_at);
                    for (_, parcel) in std::mem::take(&mut self.held).into_iter().rev() {
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
        self.queue.insert((due_at, seq), parcel);
    }

    /// When the next parcel is due.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the next parcel out if it is due, and marks the courier as being out with it.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<Parcel> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.in_flight = true;
        Some(entry.remove())
    }

    /// Whether nothing is on its way or waiting.
    pub(crate) fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty() && !self.in_flight
    }

    /// Forgets every webhook that is on its way.
    pub(crate) fn clear_queue(&mut self) {
        self.queue.clear();
        self.held.clear();
    }

    /// The attempts after the `after`th, which are numbered in order.
    pub(crate) fn deliveries_after(&self, after: u64) -> impl Iterator<Item = &Delivery> {
        let start = self.deliveries.partition_point(|delivery| delivery.seq <= after);
        self.deliveries.range(start..)
    }

    /// Writes down what came of an attempt.
    pub(crate) fn record(&mut self, now: i64, parcel: &Parcel, outcome: DeliveryOutcome) {
        self.delivered += 1;
        if self.deliveries.len() == DELIVERIES_MAX {
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

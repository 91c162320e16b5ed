//! Sends one message until the target accepts it, or until it becomes a dead letter.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use futures::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::queues::Position;
use super::retry::{Failure, Verdict, gives_up, pause_of_message};
use super::target::{Outgoing, Target, TargetKind};
use crate::contract::DeadReason;
use crate::link::Timestamp;
use crate::metric;
use crate::nats::dead_letter::{DeadLetter, DeadLetters, InputPosition};
use crate::nats::limit::{REQUEST_TIMEOUT, within};
use crate::nats::stream::StreamIdentity;

/// The pause before a dead letter or an acknowledgement is tried again, while NATS is away.
const NATS_PAUSE: Duration = Duration::from_secs(1);

/// A message that is in a queue.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) link: String,
    pub(super) position: Position,
    pub(super) message: jetstream::Message,
}

/// What a message needs to be sent.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    pub(super) target: Arc<Target>,
    pub(super) dead_letters: DeadLetters,
    /// The name of the stream.
    pub(super) stream: String,
    pub(super) stop: CancellationToken,
}

impl Held {
    pub(super) fn outgoing(&self) -> Option<Outgoing<'_>> {
        let (subject, payload) = (self.message.subject.as_str(), &self.message.payload);
        Some(Outgoing { subject, headers: self.message.headers.as_ref()?, payload, age: Duration::ZERO })
    }
}

impl Attempts {
    /// Returns whether the message is done: accepted, or a dead letter. If not, `stop` or 410 came before.
    pub(super) async fn run(&self, held: &Held) -> bool {
        // A message without headers is not wanted, so it is in no queue.
        let Some(message) = held.outgoing() else { return true };
        let mut attempts = 0;
        loop {
            // A panic is a bug. The message goes the way of one that the target refuses.
            let message = Outgoing { age: self.age(held), ..message };
            let sent = AssertUnwindSafe(self.target.send_in_turn(message, attempts, &self.stop)).catch_unwind().await;
            let panicked = || Failure { why: "relink panicked".to_owned(), is_of_target: false, retry_after: None };
            let Some(verdict) = sent.unwrap_or_else(|_panic| Some(Verdict::Failed(panicked()))) else { return false };
            let failure = match verdict {
                Verdict::Accepted { .. } => {
                    self.count("accepted");
                    break;
                }
                Verdict::Gone => return false,
                Verdict::Failed(failure) => failure,
            };
            attempts += 1;
            if gives_up(self.age(held), attempts, self.target.settings().retry_for) {
                self.count("given_up");
                if !self.set_aside(held, &failure, attempts).await {
                    return false;
                }
                break;
            }
            self.count("failed");
            if !self.pause(pause_of_message(attempts, &failure)).await {
                return false;
            }
        }
        self.acknowledge(held).await;
        true
    }

    /// Acknowledges until the server has confirmed it, or until the stop.
    async fn acknowledge(&self, held: &Held) {
        loop {
            let confirmed = async { held.message.double_ack().await.map_err(|error| error.to_string()) };
            match within(REQUEST_TIMEOUT, confirmed).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "a message that was sent over HTTP is not acknowledged yet"),
            }
            if !self.pause(NATS_PAUSE).await {
                return;
            }
        }
    }

    /// Stores a dead letter. Returns whether it is stored; if not, the stop came before.
    async fn set_aside(&self, held: &Held, failure: &Failure, attempts: u32) -> bool {
        let Position { created_ns, sequence, stored_at_ns } = held.position;
        let letter = DeadLetter {
            subject: held.message.subject.to_string(),
            headers: held.message.headers.clone().unwrap_or_default(),
            payload: held.message.payload.clone(),
            reason: match self.target.settings().kind {
                TargetKind::Notices { .. } => DeadReason::NoticeNotDelivered,
                TargetKind::Webhooks { .. } => DeadReason::WebhookNotForwarded,
            },
            detail: format!("{} (attempt {attempts} since the start of relink)", failure.why),
            input: Some(InputPosition {
                stream: StreamIdentity { stream: self.stream.clone(), created_ns },
                sequence,
                stored_at_ns,
            }),
        };
        loop {
            match self.dead_letters.publish(&letter).await {
                Ok(_sequence) => return true,
                Err(error) => tracing::warn!(%error, "a dead letter of a message for HTTP is not stored yet"),
            }
            if !self.pause(NATS_PAUSE).await {
                return false;
            }
        }
    }

    /// Returns whether the pause is over; if not, the stop or 410 came before.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = self.target.gone().cancelled() => false,
            () = sleep(pause) => true,
        }
    }

    /// How long the message has been stored.
    fn age(&self, held: &Held) -> Duration {
        let stored_at = Timestamp::from_nanos(held.position.stored_at_ns);
        self.target.clock().now().since(stored_at)
    }

    fn count(&self, outcome: &'static str) {
        metrics::counter!(metric::OUTBOUND_REQUESTS.name, "target" => self.target.name(), "outcome" => outcome)
            .increment(1);
    }
}

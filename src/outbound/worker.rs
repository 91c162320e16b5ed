//! Reads the consumer of a target, and lets each message be sent in the order of its link.
//!
//! The server delivers a message again if it gets no sign of life within the acknowledgement wait. So the worker keeps
//! all messages that it has (`Queues`), and reports progress for them. A new worker, or one with a new connection, does
//! not know which messages the server has delivered before. It asks the server for their number, and sends nothing new
//! until they have arrived again: otherwise a later message of a link could overtake an earlier one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::{self, AckKind, Context, consumer};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::attempts::{Attempts, Held};
use super::queues::{Added, Position, Queues};
use super::target::{Target, Wanted};
use crate::metric;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::foreign;
use crate::nats::limit::{READ_TIMEOUT, REQUEST_TIMEOUT, reconnected, within};
use crate::nats::stream::{OUTBOUND_PENDING_MAX, StreamIdentity};
use crate::nats::subject::Subjects;

/// How many messages one pull asks for, and how long it waits for them.
const PULL_MESSAGES_MAX: usize = 64;
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// With this many bytes in the queues, the worker asks for no more messages.
const BYTES_MAX: usize = 64 << 20;

/// The pause before the worker opens the consumer again after an error.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// How often the messages for an address that wants no more of them are counted.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// How long a stop waits for the open requests. They are repeated after the next start.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// The time limit of reports of progress, and of returning the messages at a stop.
const HINTS_WITHIN: Duration = Duration::from_secs(2);

/// Sends the messages of one consumer.
pub struct Worker {
    context: Context,
    subjects: Subjects,
    attempts: Attempts,
    stop: CancellationToken,
    queues: Queues<Arc<Held>>,
    open: JoinSet<Option<(String, Position)>>,
}

/// The consumer, and what it had delivered when it was opened.
struct Opened {
    consumer: PullConsumer,
    created_ns: i128,
    ack_wait: Duration,
    /// The last message that was delivered before.
    last: Position,
    /// How many messages up to there are not acknowledged, and not in the queues.
    missing: usize,
    /// The end of the wait for them.
    deadline: Instant,
}

impl Worker {
    /// A worker for `target`, which runs until `stop`. Must be called inside a tokio runtime.
    pub fn new(
        target: Arc<Target>,
        context: Context,
        subjects: Subjects,
        dead_letters: DeadLetters,
        stop: CancellationToken,
    ) -> Self {
        let stream = target.settings().kind.consumer().stream(&subjects);
        let attempts = Attempts { target, dead_letters, stream, stop: stop.clone() };
        Self { context, subjects, attempts, stop, queues: Queues::default(), open: JoinSet::new() }
    }

    /// Sends messages until the stop.
    pub async fn run(mut self) {
        let target = Arc::clone(&self.attempts.target);
        let consumer = target.settings().kind.consumer();
        let reader = foreign::Reader {
            stream: self.attempts.stream.clone(),
            durable: consumer.durable(),
            filters: consumer.filters(&self.subjects),
            is_own: self.attempts.stream == self.subjects.output_stream(),
        };
        let (mut checked, stop) = (0, self.stop.clone());
        while !stop.is_cancelled() && !target.gone().is_cancelled() {
            let Err(problem) = self.work().await else { continue };
            tracing::warn!(%problem, target.name = target.name(), "the consumer of an HTTP target failed and will be opened again");
            let pause = async {
                sleep(REOPEN_PAUSE).await;
                // A message that the client cannot parse may have closed the connection.
                if let Err(problem) = foreign::end_unparsable(&self.context, &reader, &mut checked).await {
                    tracing::warn!(%problem, target.name = target.name(), "the messages for an HTTP target cannot be checked");
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = pause => {}
            }
        }
        if target.gone().is_cancelled() {
            self.is_stopped(true);
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.count_forever() => {}
            }
        }
        stop.cancelled().await;
        self.leave().await;
    }

    /// Counts the messages for an address that wants no more of them: an operator sees what it has not got.
    async fn count_forever(&self) {
        let durable = self.attempts.target.settings().kind.consumer().durable();
        loop {
            let consumer = async {
                let stream = self.context.get_stream(&self.attempts.stream).await.map_err(|error| error.to_string())?;
                stream.consumer_info(durable).await.map_err(|error| error.to_string())
            };
            if let Ok(info) = within(READ_TIMEOUT, consumer).await {
                self.count_waiting(&info);
            }
            sleep(COUNT_EVERY).await;
        }
    }

    async fn work(&mut self) -> Result<(), String> {
        let (stop, gone) = (self.stop.clone(), self.attempts.target.gone().clone());
        let mut reconnected = std::pin::pin!(reconnected(&self.context.client()));
        let mut opened = tokio::select! {
            opened = within(REQUEST_TIMEOUT, self.open()) => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        let mut ticks = interval(opened.ack_wait / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch: Option<Batch> = None;
        loop {
            let is_waiting = opened.missing > 0 && Instant::now() < opened.deadline;
            if !is_waiting {
                opened.missing = 0;
                self.send_ready();
            }
            let room = OUTBOUND_PENDING_MAX.saturating_sub(self.queues.len());
            if batch.is_none() && room > 0 && self.queues.bytes() < BYTES_MAX {
                let pull = opened.consumer.batch().max_messages(room.min(PULL_MESSAGES_MAX)).expires(PULL_EXPIRES);
                let pulled = async { pull.messages().await.map_err(|error| error.to_string()) };
                batch = Some(within(REQUEST_TIMEOUT, pulled).await?);
            }
            let delivered = async {
                match &mut batch {
                    Some(batch) => batch.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = gone.cancelled() => return Ok(()),
                () = &mut reconnected => return Err("the connection to NATS was made anew".to_owned()),
                _ = ticks.tick() => self.keep_alive(&opened).await,
                Some(ended) = self.open.join_next() => self.ended(ended),
                message = delivered => match message {
                    Some(message) => self.take(message.map_err(|error| error.to_string())?, &mut opened).await,
                    None => batch = None,
                },
                () = sleep_until(opened.deadline), if is_waiting => {}
            }
        }
    }

    async fn open(&self) -> Result<Opened, String> {
        let (stream, durable) = (&self.attempts.stream, self.attempts.target.settings().kind.consumer().durable());
        let stream = self.context.get_stream(stream).await.map_err(|error| error.to_string())?;
        let created_ns = StreamIdentity::of(stream.cached_info()).created_ns;
        let consumer: PullConsumer = stream.get_consumer(durable).await.map_err(|error| error.to_string())?;
        let info = consumer.cached_info();
        let last = Position { created_ns, sequence: info.delivered.stream_sequence, stored_at_ns: i64::MAX };
        let missing = info.num_ack_pending.saturating_sub(self.queues.count_to(last));
        let ack_wait = info.config.ack_wait.max(Duration::from_millis(300));
        tracing::debug!(
            target.name = self.attempts.target.name(),
            messages.waiting = info.num_pending,
            messages.delivered_before = info.num_ack_pending,
            "the consumer of an HTTP target is open"
        );
        let deadline = Instant::now() + ack_wait + PULL_EXPIRES;
        Ok(Opened { consumer, created_ns, ack_wait, last, missing, deadline })
    }

    /// Puts a message into its queue, or acknowledges it if it is not for the target.
    async fn take(&mut self, message: jetstream::Message, opened: &mut Opened) {
        let Ok(info) = message.info() else { return };
        let stored_at_ns = i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        let position = Position { created_ns: opened.created_ns, sequence: info.stream_sequence, stored_at_ns };
        let link = queue_name(message.subject.as_str()).to_owned();
        let bytes = message.payload.len();
        let held = Arc::new(Held { link, position, message });
        let target = &self.attempts.target;
        let wanted = held.outgoing().map_or(Wanted::Foreign, |outgoing| target.wants(outgoing));
        let added = match wanted {
            Wanted::Yes => self.queues.add(&held.link, position, bytes, Arc::clone(&held)),
            Wanted::No => Added::Accepted,
            Wanted::Foreign => {
                if self.attempts.stream == self.subjects.output_stream() {
                    foreign::report_at(position.sequence, held.message.subject.as_str());
                }
                Added::Accepted
            }
        };
        if added != Added::Known && position <= opened.last {
            opened.missing = opened.missing.saturating_sub(1);
        }
        if added == Added::Accepted {
            // Without this acknowledgement the server delivers it again.
            let acknowledged = async { held.message.ack().await.map_err(|error| error.to_string()) };
            let _delivered_again = within(REQUEST_TIMEOUT, acknowledged).await;
        }
    }

    /// Begins to send the first message of each queue.
    fn send_ready(&mut self) {
        while let Some((link, position, held)) = self.queues.next() {
            let attempts = self.attempts.clone();
            self.open.spawn(async move { attempts.run(&held).await.then_some((link, position)) });
        }
    }

    fn ended(&mut self, ended: Result<Option<(String, Position)>, tokio::task::JoinError>) {
        match ended {
            Ok(Some((link, position))) => self.queues.accepted(&link, position),
            // The stop, or 410: the message stays in its queue.
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "sending a message over HTTP ended, which is a bug; its link waits until the next start");
            }
        }
    }

    /// Tells the server that the messages in the queues are still handled, and counts those that wait.
    async fn keep_alive(&self, opened: &Opened) {
        self.is_stopped(false);
        if self.context.client().connection_state() != State::Connected {
            return;
        }
        self.for_all(AckKind::Progress).await;
        let info = async { opened.consumer.get_info().await.map_err(|error| error.to_string()) };
        if let Ok(info) = within(READ_TIMEOUT, info).await {
            self.count_waiting(&info);
        }
    }

    fn count_waiting(&self, info: &consumer::Info) {
        let unacknowledged = u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX);
        let waiting = info.num_pending.saturating_add(unacknowledged);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
        metrics::gauge!(metric::OUTBOUND_WAITING.name, "target" => self.attempts.target.name()).set(waiting as f64);
    }

    fn is_stopped(&self, is_stopped: bool) {
        let value = if is_stopped { 1.0 } else { 0.0 };
        metrics::gauge!(metric::OUTBOUND_STOPPED.name, "target" => self.attempts.target.name()).set(value);
    }

    /// Gives the messages back, so that they are delivered at once after the next start.
    async fn leave(mut self) {
        let open = async {
            while let Some(ended) = self.open.join_next().await {
                if let Ok(Some((link, position))) = ended {
                    self.queues.accepted(&link, position);
                }
            }
        };
        let _aborted = timeout(STOP_WITHIN, open).await;
        self.open.shutdown().await;
        self.for_all(AckKind::Nak(None)).await;
    }

    /// Sends this acknowledgement for all messages in the queues, in the order of the stream.
    async fn for_all(&self, kind: AckKind) {
        let all = async {
            for held in self.queues.all() {
                if held.message.ack_with(kind).await.is_err() {
                    return;
                }
            }
        };
        let _late = timeout(HINTS_WITHIN, all).await;
    }
}

/// The name of the queue of a subject. Incidents of an institution have a queue of their own.
fn queue_name(subject: &str) -> &str {
    let last = subject.rsplit('.').next().unwrap_or(subject);
    let kind = subject.strip_suffix(last).unwrap_or_default();
    if kind.ends_with("incident.") { &subject[kind.len() - "incident.".len()..] } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notices_of_a_link_have_one_queue() {
        assert_eq!(queue_name("link.notice.recovered.a-1"), "a-1");
        assert_eq!(queue_name("staging.link.notice.reminder.a-1"), "a-1");
        assert_eq!(queue_name("belvo.3.webhook.a-1"), "a-1");
        assert_eq!(queue_name("link.incident.erebor"), "incident.erebor");
    }
}

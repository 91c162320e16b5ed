//! A lane: one partition's deliveries, in order, from its durable consumer into the node's one queue.
//!
//! A lane is *reset to its own mark* whenever it starts: what JetStream remembers of acknowledgements is a hint for operators, the mark
//! on `LINKS` is the truth. So nothing here is ever nak'd, redelivery order does not matter, and acknowledging is fire and forget.
//!
//! A consumer hands each message to one reader. A process that has been replaced and does not know it yet still has pulls waiting, and
//! what goes to it would be a hole here that later messages step over. The consumer counts its deliveries, so a hole shows: the
//! lane fails, and starts again behind its mark.

use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::stream::lane_consumer;
use super::subject::Subjects;
use crate::engine::Delivery;

/// How many messages one pull asks for: a few commits' worth, so that the next slice is here when the last is committed.
const PULL_MESSAGES_MAX: usize = 512;

/// A pull that brings nothing is renewed after this.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// How often the server shows that it is still there. Two missed ones end the lane's stream with an error.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A lane cannot go on; the node starts its lanes again.
#[derive(Debug, thiserror::Error)]
#[error("lane {lane}: {problem}")]
pub struct LaneError {
    /// Which.
    pub lane: u16,
    /// What happened, as async-nats says it.
    pub problem: String,
}

/// Puts a lane's consumer behind `handled`, whatever it remembers.
///
/// # Errors
/// [`LaneError`] if the consumer is not there or the server does not answer.
pub async fn rewind(input: &Stream, lane: u16, handled: u64) -> Result<(), LaneError> {
    let name = lane_consumer(lane);
    let reset = input.reset_consumer(&name, Some(handled + 1)).await;
    reset.map(drop).map_err(|error| LaneError { lane, problem: format!("cannot reset consumer {name}: {error}") })
}

/// Reads a lane behind `handled` until the queue is closed or the lane fails; a failure is the last thing it sends.
pub async fn read(
    input: Stream,
    lane: u16,
    handled: u64,
    subjects: Subjects,
    queue: mpsc::Sender<Result<Delivery, LaneError>>,
) {
    if let Err(error) = forward(input, lane, handled, &subjects, &queue).await {
        // A closed queue means that the node is already starting over.
        let _ = queue.send(Err(error)).await;
    }
}

async fn forward(
    input: Stream,
    lane: u16,
    handled: u64,
    subjects: &Subjects,
    queue: &mpsc::Sender<Result<Delivery, LaneError>>,
) -> Result<(), LaneError> {
    let failed = |problem: String| LaneError { lane, problem };
    let name = lane_consumer(lane);
    let consumer: PullConsumer = input.get_consumer(&name).await.map_err(|error| failed(error.to_string()))?;
    let delivered = consumer.cached_info().delivered;
    if delivered.stream_sequence > handled {
        return Err(failed(format!("another process reads {name}: it got message {}", delivered.stream_sequence)));
    }
    let mut delivered_count = delivered.consumer_sequence;
    let pull: pull::StreamBuilder<'_> = consumer.stream();
    let messages = pull
        .max_messages_per_batch(PULL_MESSAGES_MAX)
        .expires(PULL_EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| failed(error.to_string()))?;
        delivered_count += 1;
        let count = message.info().map_err(|error| failed(error.to_string()))?.consumer_sequence;
        if count != delivered_count {
            return Err(failed(format!(
                "another process reads {name}: delivery {count} came after {}",
                delivered_count - 1
            )));
        }
        let delivery = delivery(lane, subjects, message).map_err(failed)?;
        if queue.send(Ok(delivery)).await.is_err() {
            return Ok(());
        }
    }
    Err(failed("the stream of messages ended".to_owned()))
}

fn delivery(lane: u16, subjects: &Subjects, message: jetstream::Message) -> Result<Delivery, String> {
    let info = message.info().map_err(|error| error.to_string())?;
    let (sequence, stored_at) = (info.stream_sequence, info.published.unix_timestamp_nanos());
    let stored_at_ns = i64::try_from(stored_at).map_err(|_| "a message from outside this age".to_owned())?;
    let message = message.message;
    let headers = message
        .headers
        .iter()
        .flat_map(|headers| headers.iter())
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())));
    let headers = headers.collect();
    let subject = message.subject.to_string();
    let (kind, link) = subjects
        .parse_input(&subject)
        .map_or_else(Default::default, |input| (input.kind.as_str().to_owned(), input.link_id.to_owned()));
    let receipt = message.reply.map(|reply| reply.to_string()).unwrap_or_default();
    Ok(Delivery { lane, sequence, stored_at_ns, subject, kind, link, headers, payload: message.payload, receipt })
}

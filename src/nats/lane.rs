//! A lane: one partition's deliveries, in order, from its durable consumer into the node's one queue.
//!
//! The consumer is put where the node says whenever a reader starts. Nothing here is ever nak'd, and acknowledging is fire and forget.
//! Each delivery is handed over with its number in the count of the consumer, so that the node sees a hole.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::stream::lane_consumer;
use super::subject::Subjects;
use crate::engine::Delivery;
use crate::node::{Delivered, ReaderId};

/// How many messages one pull asks for: a few commits' worth, so that the next slice is here when the last is committed.
const PULL_MESSAGES_MAX: usize = 512;

/// A pull that brings nothing is renewed after this.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// How often the server shows that it is still there. Two missed ones end the lane's stream with an error.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a reader hands over.
#[derive(Debug)]
pub enum FromLane {
    /// The consumer stands where it was asked to, in the stream that was created at this time, in nanoseconds since the Unix epoch.
    Rewound(ReaderId, i64),
    /// A message.
    Delivered(Delivered),
    /// The reader has ended, as its last word: why, as async-nats says it.
    Failed(ReaderId, String),
}

/// Puts a lane's consumer behind `behind`, whatever it remembers, and reads on from there until the queue is closed or something fails.
pub async fn read(
    context: jetstream::Context,
    reader: ReaderId,
    lane: u16,
    behind: u64,
    subjects: Subjects,
    queue: mpsc::Sender<FromLane>,
) {
    if let Err(problem) = forward(&context, reader, lane, behind, &subjects, &queue).await {
        // A closed queue means that the node has ended.
        let _ = queue.send(FromLane::Failed(reader, format!("partition {lane}: {problem}"))).await;
    }
}

async fn forward(
    context: &jetstream::Context,
    reader: ReaderId,
    lane: u16,
    behind: u64,
    subjects: &Subjects,
    queue: &mpsc::Sender<FromLane>,
) -> Result<(), String> {
    let name = lane_consumer(lane);
    let input = context.get_stream(subjects.input_stream()).await.map_err(|error| error.to_string())?;
    let reset = input.reset_consumer(&name, Some(behind + 1)).await;
    reset.map_err(|error| format!("cannot reset consumer {name}: {error}"))?;
    let consumer: PullConsumer = input.get_consumer(&name).await.map_err(|error| error.to_string())?;
    let delivered = consumer.cached_info().delivered;
    if delivered.stream_sequence > behind {
        return Err(format!("another process reads {name}: it got message {}", delivered.stream_sequence));
    }
    // Asked last: a stream made anew before that has another consumer of this name.
    let input = context.get_stream(subjects.input_stream()).await.map_err(|error| error.to_string())?;
    let created = input.cached_info().created.unix_timestamp_nanos();
    let created_ns = i64::try_from(created).map_err(|_| "a stream whose time is out of range".to_owned())?;
    if queue.send(FromLane::Rewound(reader, created_ns)).await.is_err() {
        return Ok(());
    }
    let pull: pull::StreamBuilder<'_> = consumer.stream();
    let messages = pull
        .max_messages_per_batch(PULL_MESSAGES_MAX)
        .expires(PULL_EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|error| error.to_string())?;
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| error.to_string())?;
        let count = message.info().map_err(|error| error.to_string())?.consumer_sequence;
        let nth = count.saturating_sub(delivered.consumer_sequence);
        let delivery = delivery(lane, subjects, message)?;
        if queue.send(FromLane::Delivered(Delivered { reader, nth, delivery })).await.is_err() {
            return Ok(());
        }
    }
    Err("the stream of messages ended".to_owned())
}

fn delivery(lane: u16, subjects: &Subjects, message: jetstream::Message) -> Result<Delivery, String> {
    let info = message.info().map_err(|error| error.to_string())?;
    let (sequence, stored_at) = (info.stream_sequence, info.published.unix_timestamp_nanos());
    let stored_at_ns = i64::try_from(stored_at).map_err(|_| "a message whose time is out of range".to_owned())?;
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

//! The reader of a partition: it pulls the deliveries of one partition from the partition consumer, in order, into the queue
//! of the node.
//!
//! Whenever a reader starts, it resets the consumer to the sequence that the node names. The reader never sends a negative
//! acknowledgement, and does not wait for the effect of an acknowledgement. Each delivery has its number in the count of the
//! consumer, so that the node notices a missing one.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::limit::{REQUEST_TIMEOUT, within};
use super::stream::partition_consumer;
use super::subject::Subjects;
use crate::engine::Delivery;
use crate::node::{Delivered, ReaderId};

/// How many messages one pull asks for: enough for a few commits, so that the next messages are here when a commit is done.
const PULL_MESSAGES_MAX: usize = 512;

/// How long a pull waits for messages before it is repeated. The open pulls of a process that hangs (SIGSTOP) live on for as long, and
/// take messages from the process that replaces it. So this limits the time of a take-over.
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// The interval of the server's heartbeats, less than half of [`PULL_EXPIRES`]. Two missed heartbeats end the reader with an error.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a reader sends to the driver.
#[derive(Debug)]
pub enum FromReader {
    /// The consumer has been reset, in the stream that was created at this time, in nanoseconds since the Unix epoch.
    Rewound(ReaderId, i64),
    /// A message.
    Delivered(Delivered),
    /// The reader has ended, with the error of async-nats. Nothing follows.
    Failed(ReaderId, String),
}

/// Resets the partition consumer, and reads the messages after the sequence `behind` until the queue is closed or a call fails.
pub async fn read(
    context: jetstream::Context,
    reader: ReaderId,
    partition: u16,
    behind: u64,
    subjects: Subjects,
    queue: mpsc::Sender<FromReader>,
) {
    if let Err(problem) = forward(&context, reader, partition, behind, &subjects, &queue).await {
        // A closed queue means that the node has ended.
        let _ = queue.send(FromReader::Failed(reader, format!("partition {partition}: {problem}"))).await;
    }
}

async fn forward(
    context: &jetstream::Context,
    reader: ReaderId,
    partition: u16,
    behind: u64,
    subjects: &Subjects,
    queue: &mpsc::Sender<FromReader>,
) -> Result<(), String> {
    let opened = within(REQUEST_TIMEOUT, open(context, partition, behind, subjects)).await;
    let (consumer, created_ns) = opened?;
    if queue.send(FromReader::Rewound(reader, created_ns)).await.is_err() {
        return Ok(());
    }
    let messages = within(REQUEST_TIMEOUT, async {
        let pull: pull::StreamBuilder<'_> = consumer.stream();
        let pull = pull.max_messages_per_batch(PULL_MESSAGES_MAX).expires(PULL_EXPIRES).heartbeat(HEARTBEAT);
        pull.messages().await.map_err(|error| error.to_string())
    });
    let messages = messages.await?;
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| error.to_string())?;
        let count = message.info().map_err(|error| error.to_string())?.consumer_sequence;
        let nth = count.saturating_sub(consumer.cached_info().delivered.consumer_sequence);
        let delivery = delivery(partition, subjects, message)?;
        if queue.send(FromReader::Delivered(Delivered { reader, nth, delivery })).await.is_err() {
            return Ok(());
        }
    }
    Err("the stream of messages ended".to_owned())
}

/// Resets the consumer to the message after `behind`. Returns the consumer, and when its stream was created, in nanoseconds since the
/// Unix epoch.
async fn open(
    context: &jetstream::Context,
    partition: u16,
    behind: u64,
    subjects: &Subjects,
) -> Result<(PullConsumer, i64), String> {
    let name = partition_consumer(partition);
    let input = context.get_stream(subjects.input_stream()).await.map_err(|error| error.to_string())?;
    let reset = input.reset_consumer(&name, Some(behind + 1)).await;
    reset.map_err(|error| format!("cannot reset consumer {name}: {error}"))?;
    let consumer: PullConsumer = input.get_consumer(&name).await.map_err(|error| error.to_string())?;
    let delivered = consumer.cached_info().delivered;
    if delivered.stream_sequence > behind {
        return Err(format!("another process uses consumer {name}: it got message {}", delivered.stream_sequence));
    }
    // The creation time is read last, so that it belongs to the stream of this consumer or to a newer stream.
    let input = context.get_stream(subjects.input_stream()).await.map_err(|error| error.to_string())?;
    let created = input.cached_info().created.unix_timestamp_nanos();
    let created_ns =
        i64::try_from(created).map_err(|_| "the creation time of the input stream is out of range".to_owned())?;
    Ok((consumer, created_ns))
}

fn delivery(partition: u16, subjects: &Subjects, message: jetstream::Message) -> Result<Delivery, String> {
    let info = message.info().map_err(|error| error.to_string())?;
    let (sequence, stored_at) = (info.stream_sequence, info.published.unix_timestamp_nanos());
    let stored_at_ns = i64::try_from(stored_at).map_err(|_| "the time of a message is out of range".to_owned())?;
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
    Ok(Delivery { partition, sequence, stored_at_ns, subject, kind, link, headers, payload: message.payload, receipt })
}

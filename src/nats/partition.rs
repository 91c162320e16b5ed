//! The reader of a partition: it pulls the deliveries of one partition from the partition consumer, in order, into the queue
//! of the node.
//!
//! Whenever a reader starts, it resets the consumer to the sequence that the node names. The reader never sends a negative
//! acknowledgement, and does not wait for the effect of an acknowledgement. Each delivery has its number in the count of the
//! consumer, so that the node notices a missing one.
//!
//! A message whose headers the NATS client cannot parse closes the connection (`raw_message.rs`). So a reader takes such messages by
//! another request before it pulls, and it ends when the connection was made anew, because such a message may have closed it. Where one
//! is, more may follow, and every one would close the connection of all partitions. So after that, or behind such a message, a reader
//! takes the messages that wait already in the same way, before it pulls.

use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::{HeaderMap, Subject, jetstream};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::limit::{REQUEST_TIMEOUT, reconnected, within};
use super::raw_message::{self, RawMessage, Wanted};
use super::stream::partition_consumer;
use super::subject::Subjects;
use crate::engine::Delivery;
use crate::node::{Delivered, ReaderId};

/// How many messages one pull asks for: enough for a few commits, so that the next messages are here when a commit is done.
const PULL_MESSAGES_MAX: usize = 512;

/// How many bytes one pull asks for, at least; see [`pull_bytes`].
const PULL_BYTES: usize = 2 * 1024 * 1024;

/// How many bytes the headers, the subject and the reply subject of a message add to its size in a pull, at most.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 128 * 1024;

/// How many messages a reader looks at before it pulls.
const LOOK_AHEAD: usize = 16;

/// How long a pull waits for messages before it is repeated. The open pulls of a process that hangs (SIGSTOP) live on for as long, and
/// take messages from the process that replaces it. So this limits the time of a take-over.
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// The interval of the server's heartbeats, less than half of [`PULL_EXPIRES`]. Two missed heartbeats end the reader with an error.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// A message from a reader to the driver.
#[derive(Debug)]
pub enum FromReader {
    /// The consumer has been reset.
    Rewound {
        /// The reader of the consumer.
        reader: ReaderId,
        /// When the stream of the consumer was created, in nanoseconds since the Unix epoch.
        created_ns: i64,
        /// How many messages the consumer has to deliver.
        pending: u64,
    },
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
    let mut reconnected = std::pin::pin!(reconnected(&context.client()));
    let (by_request, mut first_to_pull) = up_to_unparsable(context, partition, behind, subjects).await?;
    let behind = by_request.last().map_or(behind, |message| message.sequence);
    let opened = within(REQUEST_TIMEOUT, open(context, partition, behind, subjects)).await;
    let (consumer, created_ns) = opened?;
    let pending = consumer.cached_info().num_pending;
    if queue.send(FromReader::Rewound { reader, created_ns, pending }).await.is_err() {
        return Ok(());
    }
    let mut nth_before = 0;
    for message in by_request {
        nth_before += 1;
        let delivery = raw_delivery(partition, subjects, message);
        if queue
            .send(FromReader::Delivered(Delivered { reader, nth: nth_before, pending: None, delivery }))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
    let messages = within(REQUEST_TIMEOUT, async {
        let pull: pull::StreamBuilder<'_> = consumer.stream();
        let pull = pull
            .max_messages_per_batch(PULL_MESSAGES_MAX)
            .max_bytes_per_batch(pull_bytes(context.client().max_payload()));
        let pull = pull.expires(PULL_EXPIRES).heartbeat(HEARTBEAT);
        pull.messages().await.map_err(|error| error.to_string())
    });
    let messages = messages.await?;
    let mut messages = std::pin::pin!(messages);
    loop {
        let message = tokio::select! {
            biased;
            message = messages.next() => message,
            () = &mut reconnected => return Err("the connection to NATS was made anew".to_owned()),
        };
        let Some(message) = message else { break };
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let (count, pending) = (info.consumer_sequence, Some(info.pending));
        let (sequence, stored_at) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        let stored_at_ns = i64::try_from(stored_at).map_err(|_| "the time of a message is out of range".to_owned())?;
        // A reset makes the consumer count from 1 again, so before the first delivery its number does not show another process's reset.
        if let Some(first) = first_to_pull.take().filter(|first| sequence > *first) {
            return Err(format!(
                "the consumer begins with message {sequence}, not {first}: another process has reset it"
            ));
        }
        let nth = nth_before + count.saturating_sub(consumer.cached_info().delivered.consumer_sequence);
        let delivery = delivery(partition, subjects, sequence, stored_at_ns, message.message);
        if queue.send(FromReader::Delivered(Delivered { reader, nth, pending, delivery })).await.is_err() {
            return Ok(());
        }
    }
    Err("the stream of messages ended".to_owned())
}

/// How many bytes one pull asks for. Without a limit, a backlog of large messages fills the server's buffer for this connection, and the
/// server closes it as that of a slow consumer (`max_pending`, 64 MiB by default, for all partitions together). A pull that is smaller than
/// a message would never get it.
fn pull_bytes(max_payload: usize) -> usize {
    PULL_BYTES.max(max_payload + MESSAGE_OVERHEAD_BYTES)
}

/// The next messages of the partition up to the last one whose headers cannot be parsed, if there is one within [`LOOK_AHEAD`] messages.
/// Each such message that is pulled costs a new connection, so the messages between them are read by the same requests. And the sequence of
/// the message after them, if it is known.
async fn up_to_unparsable(
    context: &jetstream::Context,
    partition: u16,
    behind: u64,
    subjects: &Subjects,
) -> Result<(Vec<RawMessage>, Option<u64>), String> {
    let (stream, filter) = (subjects.input_stream(), subjects.partition(partition));
    let (mut read, mut taken, mut bytes) = (Vec::new(), 0, 0);
    while read.len() < taken + LOOK_AHEAD && read.len() < PULL_MESSAGES_MAX && bytes < PULL_BYTES {
        let next = read.last().map_or(behind, |message: &RawMessage| message.sequence) + 1;
        let wanted = Wanted::next(filter.clone(), next);
        let Some(message) = within(REQUEST_TIMEOUT, raw_message::read(context, &stream, &wanted)).await? else { break };
        bytes += message.payload.len();
        if !message.is_parsable() {
            let sequence = message.sequence;
            tracing::warn!(
                input.sequence = sequence,
                "the headers of an input cannot be parsed; relink reads it without them"
            );
            taken = read.len() + 1;
        }
        read.push(message);
    }
    let next = read.get(taken).map(|message| message.sequence);
    read.truncate(taken);
    Ok((read, next))
}

/// The delivery of a message that was read by a request. It has no receipt: the consumer starts behind it.
fn raw_delivery(partition: u16, subjects: &Subjects, message: RawMessage) -> Delivery {
    let headers = message.headers();
    let RawMessage { subject, sequence, stored_at_ns, payload, .. } = message;
    let (kind, link) = kind_and_link(subjects, &subject);
    Delivery { partition, sequence, stored_at_ns, subject, kind, link, headers, payload, receipt: String::new() }
}

/// The kind and the link in the subject; empty if it is not the subject of an input.
fn kind_and_link(subjects: &Subjects, subject: &str) -> (String, String) {
    subjects
        .parse_input(subject)
        .map_or_else(Default::default, |input| (input.kind.as_str().to_owned(), input.link_id.to_owned()))
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
    // A missing consumer is answered at once here. The reset of a missing one has no answer.
    input.consumer_info(&name).await.map_err(|error| format!("consumer {name}: {error}"))?;
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

fn delivery(
    partition: u16,
    subjects: &Subjects,
    sequence: u64,
    stored_at_ns: i64,
    message: async_nats::Message,
) -> Delivery {
    let async_nats::Message { subject, reply, payload, headers, .. } = message;
    let (kind, link) = kind_and_link(subjects, &subject);
    let mut copied = Vec::with_capacity(headers.as_ref().map_or(0, HeaderMap::len));
    for (name, values) in headers.iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        copied.extend(values.iter().map(|value| (name.to_owned(), value.as_str().to_owned())));
    }
    let (subject, receipt) = (subject.into_string(), reply.map(Subject::into_string).unwrap_or_default());
    Delivery { partition, sequence, stored_at_ns, subject, kind, link, headers: copied, payload, receipt }
}

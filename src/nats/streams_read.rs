//! Reads for the node: facts about the two streams, fences and single messages. `output_read.rs` reads the output stream.
//!
//! This file only reads. The node decides what an answer means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use serde::Deserialize;

use super::foreign;
use super::limit::{REQUEST_TIMEOUT, within};
use super::raw_message::{self, RawMessage, Wanted};
use super::stream::extent;
use super::subject::Subjects;
use crate::contract::Fence;
use crate::node::{FenceFacts, StreamFacts};

/// The most open requests for fences.
const FENCES_AT_ONCE: usize = 16;

/// How long the server keeps the consumer that finds the first message after a time.
const PROBE_LIFE: Duration = Duration::from_secs(5);

/// The two streams of an environment.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) context: jetstream::Context,
    pub(super) subjects: Subjects,
    /// The output stream's `max_msg_size`, in bytes, from the last read.
    message_bytes_max: Arc<AtomicUsize>,
}

impl Streams {
    pub(super) fn new(context: jetstream::Context, subjects: Subjects) -> Self {
        Self { context, subjects, message_bytes_max: Arc::new(AtomicUsize::new(usize::MAX)) }
    }

    /// The largest size of a message of the output stream, in bytes; `usize::MAX` before the first read.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max.load(Ordering::Relaxed)
    }

    /// The output stream's creation time and last sequence. It also stores the stream's `max_msg_size`.
    ///
    /// # Errors
    /// The error text of the request; the same for every method here.
    pub(super) async fn output_facts(&self) -> Result<StreamFacts, String> {
        let name = self.subjects.output_stream();
        let stream = self.stream(&name).await?;
        // -1 means no limit; a server may report it as 0.
        let max = usize::try_from(stream.cached_info().config.max_message_size).ok().filter(|max| *max > 0);
        self.message_bytes_max.store(max.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.facts(&name).await
    }

    /// A stream's creation time and last sequence.
    pub(super) async fn facts(&self, stream: &str) -> Result<StreamFacts, String> {
        let extent = extent(&self.context, stream).await.map_err(|error| error.to_string())?;
        let created_ns = i64::try_from(extent.identity.created_ns)
            .map_err(|_| format!("the creation time of stream {stream} is out of range"))?;
        Ok(StreamFacts { created_ns, last_sequence: extent.last_sequence })
    }

    /// The last fence of each of these partitions.
    pub(super) async fn fences(&self, partitions: Vec<u16>) -> Result<BTreeMap<u16, FenceFacts>, String> {
        let stream = self.subjects.output_stream();
        let owner_in = |message: &RawMessage| {
            serde_json::from_slice(&message.payload)
                .ok()
                .map(|Fence { owner, .. }| owner)
                .filter(|_| message.is_parsable())
        };
        let fence = async |partition: u16| {
            let subject = self.subjects.fence(partition);
            let wanted = Wanted::last(subject.clone());
            let Some(last) = raw_message::read(&self.context, &stream, &wanted).await? else { return Ok(None) };
            let sequence = last.sequence;
            let owner = match owner_in(&last) {
                Some(owner) => owner,
                // Somebody else has published on the subject. The owner is still the one of the last true fence.
                None => {
                    foreign::report(&last);
                    let is_own = |message: &RawMessage| owner_in(message).is_some();
                    let own =
                        foreign::last_own_before(&self.context, stream.clone(), &subject, sequence, is_own).await?;
                    own.as_ref().and_then(owner_in).unwrap_or_default()
                }
            };
            Ok(Some((partition, FenceFacts { sequence, owner })))
        };
        let fences = futures::stream::iter(partitions).map(fence).buffered(FENCES_AT_ONCE);
        fences.try_filter_map(async |fence| Ok(fence)).try_collect().await
    }

    /// The body of the last message of the output stream on this subject, if there is one.
    pub(super) async fn last_output(&self, subject: &str) -> Result<Option<Bytes>, String> {
        let (stream, wanted) = (self.subjects.output_stream(), Wanted::last(subject.to_owned()));
        let last = raw_message::read(&self.context, &stream, &wanted).await?;
        Ok(last.map(|last| last.payload))
    }

    /// The owner of a message of the output stream; `None` if the stream no longer has the message, or it has no owner.
    pub(super) async fn owner_of(&self, sequence: u64) -> Result<Option<String>, String> {
        /// Fences and closing messages have this field.
        #[derive(Deserialize)]
        struct Owned {
            owner: String,
        }
        let stream = self.subjects.output_stream();
        let message = raw_message::read(&self.context, &stream, &Wanted::at(sequence)).await?;
        Ok(message.and_then(|message| serde_json::from_slice(&message.payload).ok()).map(|Owned { owner }| owner))
    }

    /// When a message of the input stream was stored; `None` if the stream no longer has it.
    pub(super) async fn look_up_input(&self, sequence: u64) -> Result<Option<i64>, String> {
        let stream = self.subjects.input_stream();
        let message = raw_message::read(&self.context, &stream, &Wanted::at(sequence)).await?;
        Ok(message.map(|message| message.stored_at_ns))
    }

    /// The time of the server that has the input stream, in nanoseconds since the Unix epoch.
    pub(super) async fn stream_time(&self) -> Result<i64, String> {
        let time = server_time(&self.context, &self.subjects.input_stream()).await?;
        i64::try_from(time.unix_timestamp_nanos()).map_err(|error| format!("cannot read the server's time: {error}"))
    }

    /// The sequence of the first message of the input stream that was stored after a time. No message is delivered for that: the server
    /// answers where a new consumer starts.
    pub(super) async fn find_input(&self, after_ns: i64) -> Result<Option<u64>, String> {
        let start_time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(after_ns) + 1)
            .map_err(|error| error.to_string())?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ack_policy: AckPolicy::None,
            inactive_threshold: PROBE_LIFE,
            ..pull::Config::default()
        };
        let input = self.stream(&self.subjects.input_stream()).await?;
        let consumer = input.create_consumer(config).await.map_err(|error| error.to_string())?;
        let info = consumer.cached_info();
        Ok((info.num_pending > 0).then_some(info.delivered.stream_sequence + 1))
    }

    pub(super) async fn stream(&self, name: &str) -> Result<jetstream::stream::Stream, String> {
        let found = async { self.context.get_stream(name).await.map_err(|error| format!("stream {name}: {error}")) };
        within(REQUEST_TIMEOUT, found).await
    }
}

/// The time of the server that has a stream.
pub(super) async fn server_time(context: &jetstream::Context, stream: &str) -> Result<time::OffsetDateTime, String> {
    /// The field `ts` of the response: when the server wrote it. async-nats does not read it.
    #[derive(Deserialize)]
    struct Answered {
        #[serde(with = "time::serde::rfc3339")]
        ts: time::OffsetDateTime,
    }
    let answered = context.request(format!("STREAM.INFO.{stream}"), &()).await;
    answered.map(|Answered { ts }| ts).map_err(|error| format!("cannot read the server's time: {error}"))
}

//! Reads for the node: facts about the two streams, fences, single messages, and the output stream.
//!
//! This file only reads. The node decides what an answer means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::limit::{REQUEST_TIMEOUT, within};
use super::raw_message::{self, Wanted};
use super::stream::extent;
use super::subject::{OutputSubject, Subjects};
use crate::contract::Fence;
use crate::node::{FenceFacts, Input, OutputKind, OutputMessage, RequestId, StreamFacts};

/// The most messages of the output stream in one `OutputRead`.
const CHUNK_MESSAGES: usize = 1_000;

/// The most open requests for fences.
const FENCES_AT_ONCE: usize = 16;

/// How long the server keeps the consumer that finds the first message after a time.
const PROBE_LIFE: Duration = Duration::from_secs(5);

/// How long to wait for the next message of a read. The stream has it, but the server may have to search a large stream for it.
const NEXT_MESSAGE_WAIT: Duration = Duration::from_secs(60);

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
        let output = self.stream(&self.subjects.output_stream()).await?;
        let fence = async |partition: u16| {
            let subject = self.subjects.fence(partition);
            let failed = |error: &dyn std::fmt::Display| format!("cannot read {subject}: {error}");
            match output.get_last_raw_message_by_subject(&subject).await {
                Ok(last) => {
                    let Fence { owner, .. } = serde_json::from_slice(&last.payload).map_err(|error| failed(&error))?;
                    Ok(Some((partition, FenceFacts { sequence: last.sequence, owner })))
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(failed(&error)),
            }
        };
        let fences = futures::stream::iter(partitions).map(fence).buffered(FENCES_AT_ONCE);
        fences.try_filter_map(async |fence| Ok(fence)).try_collect().await
    }

    /// The body of the last message of the output stream on this subject, if there is one.
    pub(super) async fn last_output(&self, subject: &str) -> Result<Option<Bytes>, String> {
        let output = self.stream(&self.subjects.output_stream()).await?;
        match output.get_last_raw_message_by_subject(subject).await {
            Ok(last) => Ok(Some(last.payload)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(format!("cannot read {subject}: {error}")),
        }
    }

    /// The owner of a message of the output stream; `None` if the stream no longer has the message, or it has no owner.
    pub(super) async fn owner_of(&self, sequence: u64) -> Result<Option<String>, String> {
        /// Fences and closing messages have this field.
        #[derive(Deserialize)]
        struct Owned {
            owner: String,
        }
        let output = self.stream(&self.subjects.output_stream()).await?;
        match output.get_raw_message(sequence).await {
            Ok(message) => Ok(serde_json::from_slice(&message.payload).ok().map(|Owned { owner }| owner)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(format!("cannot read message {sequence} of the output stream: {error}")),
        }
    }

    /// When a message of the input stream was stored; `None` if the stream no longer has it.
    pub(super) async fn look_up_input(&self, sequence: u64) -> Result<Option<i64>, String> {
        let stream = self.subjects.input_stream();
        let message = raw_message::read(&self.context, &stream, &Wanted::at(sequence)).await?;
        Ok(message.map(|message| message.stored_at_ns))
    }

    /// The time of the server that has the input stream, in nanoseconds since the Unix epoch.
    pub(super) async fn stream_time(&self) -> Result<i64, String> {
        /// The field `ts` of the response: when the server wrote it. async-nats does not read it.
        #[derive(Deserialize)]
        struct Answered {
            #[serde(with = "time::serde::rfc3339")]
            ts: time::OffsetDateTime,
        }
        let request = format!("STREAM.INFO.{}", self.subjects.input_stream());
        let failed = |error: &dyn std::fmt::Display| format!("cannot read the server's time: {error}");
        let Answered { ts } = self.context.request(request, &()).await.map_err(|error| failed(&error))?;
        i64::try_from(ts.unix_timestamp_nanos()).map_err(|error| failed(&error))
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

    /// Reads the messages of the output stream after `after`, or the last message of each subject, and sends them in chunks up to
    /// `up_to`.
    pub(super) async fn read_output(
        &self,
        request: RequestId,
        after: Option<u64>,
        up_to: u64,
        handed_over: &mpsc::Sender<Input>,
    ) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot read the output stream: {error}");
        let subjects = &self.subjects;
        let deliver_policy = match after {
            Some(after) => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            None => DeliverPolicy::LastPerSubject,
        };
        let config = pull::OrderedConfig {
            filter_subjects: read_filter(subjects),
            deliver_policy,
            ..pull::OrderedConfig::default()
        };
        let output = self.stream(&subjects.output_stream()).await?;
        let arriving = within(REQUEST_TIMEOUT, async {
            let consumer = output.create_consumer(config).await.map_err(|error| failed(&error))?;
            consumer.messages().await.map_err(|error| failed(&error))
        });
        let mut arriving = arriving.await?;
        let (mut messages, mut reached) = (Vec::new(), 0);
        while reached < up_to {
            // An ordered consumer opens itself again for ever, also if NATS is gone.
            let next = within(NEXT_MESSAGE_WAIT, async {
                arriving.next().await.ok_or_else(|| failed(&"the consumer ended"))?.map_err(|error| failed(&error))
            });
            let message = next.await?;
            reached = message.info().map_err(|error| failed(&error))?.stream_sequence;
            let kind = match subjects.parse_output(&message.subject) {
                Some(OutputSubject::State { .. }) => OutputKind::State,
                Some(OutputSubject::Offset { partition }) => OutputKind::Offset(partition),
                Some(OutputSubject::Incident { .. }) => OutputKind::Incident,
                Some(OutputSubject::Commit { .. }) => OutputKind::Commit,
                Some(_) | None => OutputKind::Other,
            };
            messages.push(OutputMessage { sequence: reached, kind, body: message.message.payload });
            if messages.len() >= CHUNK_MESSAGES || reached >= up_to {
                let input = Input::OutputRead { request, messages: std::mem::take(&mut messages), reached };
                // A closed channel means that the node has ended.
                let _ = handed_over.send(input).await;
            }
        }
        Ok(())
    }

    async fn stream(&self, name: &str) -> Result<jetstream::stream::Stream, String> {
        let found = async { self.context.get_stream(name).await.map_err(|error| format!("stream {name}: {error}")) };
        within(REQUEST_TIMEOUT, found).await
    }
}

/// The subjects of the output stream that catching up reads. Fences and the last messages of commits change nothing in the store, but a
/// read ends at one of them, and the last messages of commits have the digest of all links.
fn read_filter(subjects: &Subjects) -> Vec<String> {
    vec![
        subjects.state_wildcard(),
        subjects.incident_wildcard(),
        subjects.offset_wildcard(),
        subjects.offset_wildcard_0_1(),
        subjects.fence_wildcard(),
        subjects.commit_wildcard(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Address;
    use crate::nats::envelope;

    /// A read that could not see the message at which it ends would wait for the next one.
    #[test]
    fn the_filter_has_every_message_that_is_applied_and_every_message_at_which_a_read_ends() {
        let subjects = Subjects::default();
        let filter = read_filter(&subjects);
        for address in [
            Address::State("a".parse().unwrap()),
            Address::Incident("erebor".to_owned()),
            Address::Offset(3),
            Address::Fence(3),
            Address::Commit("writer-1".to_owned()),
        ] {
            let subject = envelope::subject(&subjects, &address);
            let (start, _last_token) = subject.rsplit_once('.').unwrap();
            assert!(filter.contains(&format!("{start}.*")), "{subject}");
        }
    }
}

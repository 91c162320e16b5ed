//! Reads what a stream has recorded, in the order of the stream: for `relink replay`.
//!
//! A pull consumer reads the messages. A message with headers that the client cannot parse ends the pull (`foreign.rs`); then the next
//! messages are read one by one, and the pull goes on behind them. The consumer is kept in the memory of the server and is deleted by it;
//! nothing else is changed there.

use std::ops::ControlFlow;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;

use super::foreign::Walk;
use super::limit::{REQUEST_TIMEOUT, reconnected, within};
use super::pull::{Pulled, next_message, reading};
use super::raw_message::RawMessage;
use super::subject::Subjects;
use crate::link::Timestamp;

/// How many messages are read one by one after a pull that was interrupted.
const ONE_BY_ONE: usize = 16;

/// A message as a stream has stored it.
#[derive(Clone, Debug)]
pub struct RecordedMessage {
    /// The subject.
    pub subject: String,
    /// The sequence on the stream.
    pub sequence: u64,
    /// When it was stored, in nanoseconds since the Unix epoch.
    pub stored_at_ns: i64,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub payload: Bytes,
}

/// What a stream has.
#[derive(Clone, Copy, Debug)]
pub struct RecordedExtent {
    /// Whether older messages have been deleted.
    pub is_cut: bool,
    /// When its first message was stored; `None` if it has none.
    pub first_at: Option<Timestamp>,
    /// How many messages each subject keeps; `None`: all.
    pub per_subject: Option<usize>,
}

/// The two streams of an environment, to be read.
#[derive(Clone, Debug)]
pub struct Recordings {
    context: Context,
    subjects: Subjects,
}

impl Recordings {
    /// Reads by this connection.
    pub fn new(client: async_nats::Client, subjects: Subjects) -> Self {
        Self { context: async_nats::jetstream::new(client), subjects }
    }

    /// The subjects of the environment.
    pub const fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// What a stream has now.
    ///
    /// # Errors
    /// The error text of a request.
    pub async fn extent(&self, stream: &str) -> Result<RecordedExtent, String> {
        let info = within(REQUEST_TIMEOUT, async {
            let found = self.context.get_stream(stream).await.map_err(|error| format!("stream {stream}: {error}"))?;
            Ok(found.cached_info().clone())
        });
        let info = info.await?;
        let first_at = (info.state.messages > 0).then(|| Timestamp::of(info.state.first_timestamp));
        let per_subject = usize::try_from(info.config.max_messages_per_subject).ok().filter(|max| *max > 0);
        Ok(RecordedExtent { is_cut: info.state.first_sequence > 1, first_at, per_subject })
    }

    /// Calls `each` with every message of these subjects that the stream has now, from the time `from` on if it is given, until `each`
    /// breaks.
    ///
    /// # Errors
    /// The error text of a request, or of a read that makes no progress.
    pub async fn read(
        &self,
        stream: &str,
        filters: Vec<String>,
        from: Option<Timestamp>,
        mut each: impl FnMut(RecordedMessage) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let begin = |from: Timestamp| DeliverPolicy::ByStartTime { start_time: from.point() };
        let mut deliver = from.map_or(DeliverPolicy::All, begin);
        let mut reached = 0;
        loop {
            let before = reached;
            let problem = match pull(&self.context, stream, &filters, deliver, &mut reached, &mut each).await? {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            let mut walk = Walk::new(&self.context, stream.to_owned(), filters.clone(), reached + 1);
            for _ in 0..ONE_BY_ONE {
                let Some(message) = walk.next().await? else { return Ok(()) };
                reached = message.sequence;
                let headers = message.headers();
                let RawMessage { subject, sequence, stored_at_ns, payload, .. } = message;
                // Before the first message of a pull, the walk begins with the stream, and not with the time.
                if from.is_some_and(|from| stored_at_ns < from.as_millis() * 1_000_000) {
                    continue;
                }
                if each(RecordedMessage { subject, sequence, stored_at_ns, headers, payload }).is_break() {
                    return Ok(());
                }
            }
            if reached == before {
                return Err(problem);
            }
            deliver = DeliverPolicy::ByStartSequence { start_sequence: reached + 1 };
        }
    }
}

/// Pulls what the stream has now. The inner error is the reason why the pull was interrupted.
async fn pull(
    context: &Context,
    stream: &str,
    filters: &[String],
    deliver_policy: DeliverPolicy,
    reached: &mut u64,
    each: &mut impl FnMut(RecordedMessage) -> ControlFlow<()>,
) -> Result<Result<(), String>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read the stream {stream}: {error}");
    let config = reading(filters.to_vec(), deliver_policy);
    let mut reconnected = std::pin::pin!(reconnected(&context.client()));
    let begun = Pulled::begin(context, stream, config, reconnected.as_mut()).await;
    let (mut arriving, pending) = begun.map_err(|error| failed(&error))?;
    for _ in 0..pending {
        let message = match next_message(&mut arriving, reconnected.as_mut(), &failed).await {
            Ok(message) => message,
            Err(problem) => return Ok(Err(problem)),
        };
        let info = message.info().map_err(|error| failed(&error))?;
        let (sequence, published) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        let stored_at_ns = i64::try_from(published).map_err(|_| failed(&"the time of a message is out of range"))?;
        let message = message.message;
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let headers = headers
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())));
        let (subject, headers) = (message.subject.to_string(), headers.collect());
        *reached = sequence;
        if each(RecordedMessage { subject, sequence, stored_at_ns, headers, payload: message.payload }).is_break() {
            break;
        }
    }
    Ok(Ok(()))
}

//! Messages on relink's own subjects that relink did not write: with headers that the NATS client cannot parse, or with the header of a
//! key-value client that deletes a key.
//!
//! Any client that may publish on `link.>` or `$KV.links.>` can store such a message. async-nats closes its connection when it gets one
//! (`raw_message.rs`), and each reader of the output stream would get it again. So after a connection was closed, a reader looks at the
//! next messages by requests that parse no headers ([`Walk`]), and steps over those that cannot be parsed. Each of them is logged and
//! counted once in a process ([`report`]).

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer::PullConsumer};

use super::limit::{REQUEST_TIMEOUT, within};
use super::raw_message::{self, RawMessage, Wanted};
use crate::metric;

/// The most sequences that are remembered as reported. A flood beyond that is reported again at the next read.
const REPORTED_MAX: usize = 10_000;

/// The sequences of the reported messages.
static REPORTED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Logs and counts a message that relink did not write. Several readers find it, and only the first one reports it.
pub(super) fn report(message: &RawMessage) {
    report_at(message.sequence, &message.subject);
}

/// The same for the message at this sequence.
pub(crate) fn report_at(sequence: u64, subject: &str) {
    let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !reported.insert(sequence) {
        return;
    }
    if reported.len() > REPORTED_MAX {
        reported.pop_first();
    }
    metrics::counter!(metric::FOREIGN_MESSAGES.name).increment(1);
    tracing::error!(
        nats.sequence = sequence,
        nats.subject = %subject.escape_debug(),
        "a message on the output stream is not relink's own, because it cannot be read or deletes a key of the bucket; relink stepped over \
         it. Only relink may publish on these subjects"
    );
}

/// The header with which a key-value client marks a key as deleted. The state before it stays on the stream.
const KV_OPERATION: &str = "KV-Operation";

/// Whether a key-value client marks a key as deleted with these headers.
pub(super) fn is_deletion(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(KV_OPERATION).is_some())
}

/// Whether relink can have written this message.
pub(super) fn may_be_own(message: &RawMessage) -> bool {
    message.is_parsable() && !message.headers().iter().any(|(name, _)| name.eq_ignore_ascii_case(KV_OPERATION))
}

/// Reads the messages of some subjects one by one, in the order of the stream, without parsing their headers.
pub(super) struct Walk<'a> {
    context: &'a jetstream::Context,
    stream: String,
    /// The next message of each filter. No subject may match two filters.
    heads: Vec<(String, Head)>,
}

enum Head {
    /// The next message at this sequence or behind it is not read yet.
    Unread(u64),
    /// `None`: the stream has no more.
    Read(Option<RawMessage>),
}

impl<'a> Walk<'a> {
    /// Starts at the sequence `from`.
    pub(super) fn new(context: &'a jetstream::Context, stream: String, filters: Vec<String>, from: u64) -> Self {
        let heads = filters.into_iter().map(|filter| (filter, Head::Unread(from))).collect();
        Self { context, stream, heads }
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The error text of the request.
    pub(super) async fn next(&mut self) -> Result<Option<RawMessage>, String> {
        for (filter, head) in &mut self.heads {
            if let Head::Unread(from) = head {
                let wanted = Wanted::next(filter.clone(), *from);
                let read = within(REQUEST_TIMEOUT, raw_message::read(self.context, &self.stream, &wanted)).await?;
                *head = Head::Read(read);
            }
        }
        let sequence = |head: &Head| match head {
            Head::Read(Some(message)) => message.sequence,
            Head::Read(None) | Head::Unread(_) => u64::MAX,
        };
        let Some((_, first)) = self.heads.iter_mut().min_by_key(|(_, head)| sequence(head)) else { return Ok(None) };
        let Head::Read(Some(message)) = first else { return Ok(None) };
        let after = Head::Unread(message.sequence + 1);
        match std::mem::replace(first, after) {
            Head::Read(message) => Ok(message),
            Head::Unread(_) => Ok(None),
        }
    }
}

/// The last message of this subject before the sequence `before` that `is_own` accepts.
///
/// # Errors
/// The error text of a request.
pub(super) async fn last_own_before(
    context: &jetstream::Context,
    stream: String,
    subject: &str,
    before: u64,
    is_own: impl Fn(&RawMessage) -> bool,
) -> Result<Option<RawMessage>, String> {
    let mut walk = Walk::new(context, stream, vec![subject.to_owned()], 1);
    let mut last = None;
    while let Some(message) = walk.next().await?.filter(|message| message.sequence < before) {
        last = Some(message).filter(&is_own).or(last);
    }
    Ok(last)
}

/// A consumer whose client has lost its connection, perhaps because of a message with headers that it cannot parse.
pub(crate) struct Reader<'a> {
    /// The stream.
    pub(crate) stream: String,
    /// The name of the consumer.
    pub(crate) durable: &'a str,
    /// The subjects of the consumer. No subject matches two of them.
    pub(crate) filters: Vec<String>,
    /// Whether only relink publishes on them, so that such a message is reported.
    pub(crate) is_own: bool,
}

/// Ends the deliveries that cannot be parsed; otherwise the server would deliver them again, for ever. `checked` is the sequence up to
/// which an earlier call has looked.
///
/// The client never gets such a message, so it has no subject for the acknowledgement. The server finds the delivery by the sequence in
/// that subject, and ignores the counts and the time.
///
/// # Errors
/// The error text of a request.
pub(crate) async fn end_unparsable(
    context: &jetstream::Context,
    reader: &Reader<'_>,
    checked: &mut u64,
) -> Result<(), String> {
    let Reader { stream, durable, filters, is_own } = reader;
    let consumer: PullConsumer =
        context.get_consumer_from_stream(*durable, stream).await.map_err(|error| error.to_string())?;
    let (floor, last) =
        (consumer.cached_info().ack_floor.stream_sequence, consumer.cached_info().delivered.stream_sequence);
    // A stream that was created again starts at 1.
    let from = if *checked <= last { floor.max(*checked) } else { floor };
    let mut walk = Walk::new(context, stream.clone(), filters.clone(), from + 1);
    while let Some(message) = walk.next().await?.filter(|message| message.sequence <= last) {
        if message.is_parsable() {
            continue;
        }
        if *is_own {
            report(&message);
        }
        let receipt = format!("$JS.ACK.{stream}.{durable}.1.{}.1.1.0", message.sequence);
        let ended = async {
            context
                .client()
                .request(receipt, "+TERM".into())
                .await
                .map_err(|error| format!("cannot end a delivery: {error}"))
        };
        within(REQUEST_TIMEOUT, ended).await?;
    }
    *checked = last;
    Ok(())
}

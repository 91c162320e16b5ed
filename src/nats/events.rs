//! The messages about links and institutions on `KV_links`, as they come: for people who watch, not for programs that act on notices
//! (those have a durable consumer).
//!
//! A reader asks for one message after the other, without a consumer, so it leaves nothing on the server, and a message with headers that
//! the client cannot parse does not close the connection (`foreign::Walk`). It goes on behind any sequence that the stream still has. It
//! reads some thousand messages per second; if more come, it falls behind, and loses none.

use async_nats::jetstream::Context;
use serde_json::Value;

use super::foreign::{self, Walk};
use super::history::without_internals;
use super::limit::{READ_TIMEOUT, connected, within};
use super::raw_message::RawMessage;
use super::subject::{OutputSubject, Subjects};
use crate::contract::{At, EventKind, StreamEvent};
use crate::link::{LinkId, Timestamp};

/// Why the messages cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// NATS does not answer now.
    #[error("the messages cannot be read from NATS: {0}")]
    Read(String),
    /// The stream has not come so far: the sequence is wrong, or of another stream.
    #[error("the sequence {after} is behind the end of the stream; its last sequence is {last}")]
    BehindTheEnd {
        /// The sequence behind which to begin.
        after: u64,
        /// The last sequence that the stream has given to a message.
        last: u64,
    },
}

/// The messages that a reader reads.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// One link; `None` for all links and institutions.
    pub link: Option<&'a LinkId>,
    /// The kinds.
    pub kinds: &'a [EventKind],
    /// The types of notices and jobs, each one token; empty for all. Messages of an institution are read with every type.
    pub types: &'a [String],
}

/// Opens readers.
#[derive(Clone, Debug)]
pub struct Events {
    context: Context,
    subjects: Subjects,
}

/// Reads messages in the order of the stream.
#[derive(Debug)]
pub struct EventReader {
    context: Context,
    subjects: Subjects,
    filters: Vec<String>,
    /// The sequence up to which it has read.
    reached: u64,
}

impl Events {
    /// Reads from this NATS connection.
    pub const fn new(context: Context, subjects: Subjects) -> Self {
        Self { context, subjects }
    }

    /// A reader of these messages behind the sequence `after`, or of those that come from now on.
    ///
    /// # Errors
    /// [`EventsError`] if NATS does not answer in time, or if `after` is no sequence of the stream.
    pub async fn reader(&self, after: Option<u64>, selection: Selection<'_>) -> Result<EventReader, EventsError> {
        // The stream knows its last sequence also if the last message has expired. It is asked for 0 too: while NATS does not answer, an
        // answer without events would say that there are none.
        let last = self.last_sequence().await?;
        let reached = after.unwrap_or(last);
        if reached > last {
            return Err(EventsError::BehindTheEnd { after: reached, last });
        }
        let Selection { link, kinds, types } = selection;
        let kinds = kinds.iter().filter(|kind| link.is_none() || **kind != EventKind::Incident);
        let id = link.map_or("*", LinkId::as_str);
        let filters = kinds.flat_map(|kind| match (types, kind) {
            ([], _) | (_, EventKind::Incident) => vec![self.subjects.events(*kind, id)],
            (types, kind) => types.iter().filter_map(|name| self.subjects.events_of_type(*kind, name, id)).collect(),
        });
        let (context, subjects, filters) = (self.context.clone(), self.subjects.clone(), filters.collect());
        Ok(EventReader { context, subjects, filters, reached })
    }

    async fn last_sequence(&self) -> Result<u64, EventsError> {
        connected(&self.context.client()).await.map_err(EventsError::Read)?;
        let stream = within(READ_TIMEOUT, async {
            let stream = self.context.get_stream(self.subjects.output_stream()).await;
            stream.map_err(|error| error.to_string())
        });
        Ok(stream.await.map_err(EventsError::Read)?.cached_info().state.last_sequence)
    }
}

impl EventReader {
    /// The next messages, at most `max`; none if there are no more now.
    ///
    /// # Errors
    /// [`EventsError`] if NATS does not answer in time. The next call reads the same messages.
    pub async fn next(&mut self, max: usize) -> Result<Vec<StreamEvent>, EventsError> {
        connected(&self.context.client()).await.map_err(EventsError::Read)?;
        let from = self.reached.saturating_add(1);
        let mut walk = Walk::new(&self.context, self.subjects.output_stream(), self.filters.clone(), from);
        let (mut events, mut reached) = (Vec::new(), self.reached);
        while events.len() < max {
            let Some(message) = walk.next().await.map_err(EventsError::Read)? else { break };
            reached = message.sequence;
            if foreign::may_be_own(&message) {
                events.extend(event(&self.subjects, &message));
            } else {
                foreign::report(&message);
            }
        }
        self.reached = reached;
        Ok(events)
    }
}

/// The event of a message; `None` if the message is about no link and no institution.
fn event(subjects: &Subjects, message: &RawMessage) -> Option<StreamEvent> {
    let (kind, name, link_id) = match subjects.parse_output(&message.subject)? {
        OutputSubject::State { link_id } => (EventKind::State, None, Some(link_id)),
        OutputSubject::Notice { notice, link_id } => (EventKind::Notice, Some(notice), Some(link_id)),
        OutputSubject::Observed { notice, link_id } => (EventKind::Observed, Some(notice), Some(link_id)),
        OutputSubject::Job { job, link_id } => (EventKind::Job, Some(job), Some(link_id)),
        OutputSubject::Refused { link_id } => (EventKind::Refused, None, Some(link_id)),
        OutputSubject::Incident { .. } => (EventKind::Incident, None, None),
        OutputSubject::Fence { .. } | OutputSubject::Offset { .. } | OutputSubject::Commit { .. } => return None,
    };
    let mut body: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    if kind == EventKind::State {
        without_internals(&mut body);
    }
    let name = name.or_else(|| body["type"].as_str().filter(|_| kind == EventKind::Incident));
    Some(StreamEvent {
        sequence: message.sequence,
        stored_at: At(Timestamp::from_nanos(message.stored_at_ns)),
        kind,
        name: name.map(ToOwned::to_owned),
        link_id: link_id.map(ToOwned::to_owned),
        institution: body["institution"].as_str().map(ToOwned::to_owned),
        message_id: message.headers().into_iter().find(|(name, _)| name == "ce-id").map(|(_, id)| id),
        body,
    })
}

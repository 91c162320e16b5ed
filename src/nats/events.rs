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
use super::raw_message::{self, RawMessage, Wanted};
use super::subject::{OutputSubject, Subjects};
use crate::contract::{At, EventKind, StreamEvent};
use crate::link::{LinkId, Timestamp};

/// The messages cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("the messages cannot be read from NATS: {0}")]
pub struct EventsError(String);

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

    /// A reader of the messages of these kinds behind the sequence `after`, or of those that come from now on; of one link, or of all links
    /// and institutions.
    ///
    /// # Errors
    /// [`EventsError`] if NATS does not answer in time.
    pub async fn reader(
        &self,
        after: Option<u64>,
        link: Option<&LinkId>,
        kinds: &[EventKind],
    ) -> Result<EventReader, EventsError> {
        let reached = match after {
            Some(after) => after,
            None => self.last_sequence().await?,
        };
        let kinds = kinds.iter().filter(|kind| link.is_none() || **kind != EventKind::Incident);
        let id = link.map_or("*", LinkId::as_str);
        let filters = kinds.map(|kind| self.subjects.events(*kind, id)).collect();
        let (context, subjects) = (self.context.clone(), self.subjects.clone());
        Ok(EventReader { context, subjects, filters, reached })
    }

    async fn last_sequence(&self) -> Result<u64, EventsError> {
        connected(&self.context.client()).await.map_err(EventsError)?;
        let (stream, wanted) = (self.subjects.output_stream(), Wanted::last(">".to_owned()));
        let last = within(READ_TIMEOUT, raw_message::read(&self.context, &stream, &wanted)).await;
        Ok(last.map_err(EventsError)?.map_or(0, |message| message.sequence))
    }
}

impl EventReader {
    /// The next messages, at most `max`; none if there are no more now.
    ///
    /// # Errors
    /// [`EventsError`] if NATS does not answer in time. The next call reads the same messages.
    pub async fn next(&mut self, max: usize) -> Result<Vec<StreamEvent>, EventsError> {
        connected(&self.context.client()).await.map_err(EventsError)?;
        let from = self.reached.saturating_add(1);
        let mut walk = Walk::new(&self.context, self.subjects.output_stream(), self.filters.clone(), from);
        let (mut events, mut reached) = (Vec::new(), self.reached);
        while events.len() < max {
            let Some(message) = walk.next().await.map_err(EventsError)? else { break };
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
        stored_at: At(Timestamp::from_millis(message.stored_at_ns / 1_000_000)),
        kind,
        name: name.map(ToOwned::to_owned),
        link_id: link_id.map(ToOwned::to_owned),
        institution: body["institution"].as_str().map(ToOwned::to_owned),
        message_id: message.headers().into_iter().find(|(name, _)| name == "ce-id").map(|(_, id)| id),
        body,
    })
}

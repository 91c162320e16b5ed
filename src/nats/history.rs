//! The history of a link: all messages about it that `KV_links` still has, oldest first.
//!
//! An ephemeral pull consumer reads the link's own subjects. The server filters them, so the length of the stream does not matter.
//! `KV_links` keeps the last messages of each subject (64 by default), so the history of an old link has no beginning; the newest state is
//! always there.
//!
//! relink keeps no second copy of the history. Next: `http/links.rs` serves it, `cli/history.rs` prints it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::Value;
use strum::VariantArray;
use tokio::time::timeout;

use crate::contract::{At, EventKind, HistoryEntry, HistoryKind, JobName, NoticeName};
use crate::link::{LinkId, Timestamp};
use crate::nats::foreign::{self, Walk};
use crate::nats::limit::{READ_TIMEOUT, connected, reconnected, within, within_or};
use crate::nats::raw_message::RawMessage;
use crate::nats::subject::{OutputSubject, Subjects};

/// The most messages of one link that are returned: the newest ones. A link has about 15 subjects, each with up to `RELINK_HISTORY`
/// messages, and one state message for each accepted event.
pub const HISTORY_MESSAGES_MAX: usize = 2_000;

/// How many messages one pull asks for.
const PULL_MESSAGES_MAX: usize = 512;

/// The time limit of all requests of a read; it is short because a person waits for the answer, and longer than a pull that fails.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(5);

/// The part of it for a pull. A pull that takes longer has met a message that ends it without an error.
const PULL_TIMEOUT: Duration = Duration::from_secs(3);

/// The most links that are remembered as links with a message that the client cannot parse.
const FOREIGN_LINKS_MAX: usize = 1_000;

/// The history of a link, or its newer part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkHistory {
    /// The messages, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Whether there are more than [`HISTORY_MESSAGES_MAX`] messages; then the oldest ones are missing.
    pub truncated: bool,
}

/// The history cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the history cannot be read from NATS: {detail}")]
pub struct HistoryError {
    /// The error text.
    pub detail: String,
}

impl HistoryError {
    fn of(error: impl std::fmt::Display) -> Self {
        Self { detail: error.to_string() }
    }
}

/// Reads histories.
#[derive(Clone, Debug)]
pub struct Histories {
    context: Context,
    subjects: Subjects,
    /// Links with a message that the client cannot parse. All clones share them.
    foreign: Arc<Mutex<BTreeSet<LinkId>>>,
}

/// Reads histories; a simulation implements it too.
pub trait ReadHistory: Send + Sync {
    /// The messages about a link, oldest first.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn history<'a>(&'a self, link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>>;
}

impl ReadHistory for Histories {
    fn history<'a>(&'a self, link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>> {
        Box::pin(self.read(link))
    }
}

impl Histories {
    /// Creates a reader for this environment.
    pub fn new(context: Context, subjects: Subjects) -> Self {
        Self { context, subjects, foreign: Arc::default() }
    }

    /// All messages about a link on `KV_links`, oldest first; none for an unknown link.
    ///
    /// # Errors
    /// [`HistoryError`] if NATS does not answer in time or the stream does not exist.
    pub async fn read(&self, link: &LinkId) -> Result<LinkHistory, HistoryError> {
        connected(&self.context.client()).await.map_err(HistoryError::of)?;
        let late = || HistoryError::of(format!("no answer within {} s", HISTORY_TIMEOUT.as_secs()));
        within_or(HISTORY_TIMEOUT, late, self.read_all(link)).await
    }

    async fn read_all(&self, link: &LinkId) -> Result<LinkHistory, HistoryError> {
        if !self.is_foreign(link) {
            let mut reconnected = std::pin::pin!(reconnected(&self.context.client()));
            let pulled = tokio::select! {
                biased;
                pulled = timeout(PULL_TIMEOUT, self.pull(link)) => pulled,
                () = &mut reconnected => Ok(Err(HistoryError::of("the connection to NATS was made anew"))),
            };
            match pulled {
                Ok(Ok(history)) => return Ok(history),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a history could not be pulled and is read message by message")
                }
                Err(_) => tracing::debug!("a history was not pulled in time and is read message by message"),
            }
        }
        self.read_one_by_one(link).await
    }

    async fn pull(&self, link: &LinkId) -> Result<LinkHistory, HistoryError> {
        let stream = self.context.get_stream_no_info(self.subjects.output_stream()).await.map_err(HistoryError::of)?;
        let config = pull::Config {
            filter_subjects: self.subjects_of(link.as_str()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            // The server deletes the consumer after this time without a reader.
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let created = async { stream.create_consumer(config).await.map_err(|error| error.to_string()) };
        let consumer = within(READ_TIMEOUT, created).await.map_err(HistoryError::of)?;
        let pending = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
        let mut newest = Newest::default();
        if pending > 0 {
            let pulled = consumer.stream().max_messages_per_batch(PULL_MESSAGES_MAX).messages().await;
            let mut messages = pulled.map_err(HistoryError::of)?.take(pending);
            while let Some(message) = messages.next().await {
                let message = message.map_err(HistoryError::of)?;
                let info = message.info().map_err(HistoryError::of)?;
                if foreign::is_deletion(message.headers.as_ref()) {
                    foreign::report_at(info.stream_sequence, &message.subject);
                    continue;
                }
                let stored_at_ns = i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
                let message_id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
                let message_id = message_id.map(|id| id.as_str().to_owned());
                newest.push(self.entry(
                    &message.subject,
                    info.stream_sequence,
                    stored_at_ns,
                    message_id,
                    &message.payload,
                ));
            }
        }
        // The server would delete the consumer later. Many reads must not leave many consumers until then.
        if let Err(error) = stream.delete_consumer(&consumer.cached_info().name).await {
            tracing::debug!(%error, "a consumer of a history could not be deleted and will expire");
        }
        Ok(newest.into_history())
    }

    /// Reads the messages without a pull, because one of them may have headers that the client cannot parse: its delivery would close the
    /// connection of all partitions. Such messages are left out.
    async fn read_one_by_one(&self, link: &LinkId) -> Result<LinkHistory, HistoryError> {
        let (stream, filters) = (self.subjects.output_stream(), self.subjects_of(link.as_str()));
        let mut walk = Walk::new(&self.context, stream, filters, 1);
        let mut newest = Newest::default();
        while let Some(message) = walk.next().await.map_err(HistoryError::of)? {
            if !foreign::may_be_own(&message) {
                foreign::report(&message);
                if !message.is_parsable() {
                    self.note_foreign(link);
                }
                continue;
            }
            let headers = message.headers();
            let message_id = headers.into_iter().find(|(name, _)| name == "ce-id").map(|(_, id)| id);
            let RawMessage { subject, sequence, stored_at_ns, payload, .. } = &message;
            newest.push(self.entry(subject, *sequence, *stored_at_ns, message_id, payload));
        }
        Ok(newest.into_history())
    }

    /// Whether an earlier read has found a message of this link that the client cannot parse.
    fn is_foreign(&self, link: &LinkId) -> bool {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).contains(link)
    }

    fn note_foreign(&self, link: &LinkId) {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        foreign.insert(link.clone());
        if foreign.len() > FOREIGN_LINKS_MAX {
            foreign.pop_first();
        }
    }

    fn subjects_of(&self, link: &str) -> Vec<String> {
        let mut subjects = vec![self.subjects.state(link), self.subjects.refused(link)];
        subjects.extend(NoticeName::VARIANTS.iter().map(|name| self.subjects.notice(name.as_str(), link)));
        subjects.push(self.subjects.events(EventKind::Observed, link));
        subjects.extend(JobName::VARIANTS.iter().map(|name| self.subjects.job(name.as_str(), link)));
        subjects
    }

    /// The entry of a message; `None` if it is not about a link.
    fn entry(
        &self,
        subject: &str,
        sequence: u64,
        stored_at_ns: i64,
        message_id: Option<String>,
        payload: &[u8],
    ) -> Option<HistoryEntry> {
        let (kind, name) = match self.subjects.parse_output(subject) {
            Some(OutputSubject::State { .. }) => (HistoryKind::State, None),
            Some(OutputSubject::Notice { notice, .. }) => (HistoryKind::Notice, Some(notice.to_owned())),
            Some(OutputSubject::Observed { notice, .. }) => (HistoryKind::Observed, Some(notice.to_owned())),
            Some(OutputSubject::Job { job, .. }) => (HistoryKind::Job, Some(job.to_owned())),
            Some(OutputSubject::Refused { .. }) => (HistoryKind::Refused, None),
            Some(
                OutputSubject::Fence { .. }
                | OutputSubject::Offset { .. }
                | OutputSubject::Commit { .. }
                | OutputSubject::Incident { .. },
            )
            | None => return None,
        };
        let mut body = serde_json::from_slice(payload).unwrap_or(Value::Null);
        if kind == HistoryKind::State {
            without_internals(&mut body);
        }
        let stored_at = At(Timestamp::from_nanos(stored_at_ns));
        Some(HistoryEntry { kind, name, message_id, sequence, stored_at, body })
    }
}

/// Removes from a state what only relink uses: it recognises repeated events by this field.
pub(super) fn without_internals(state: &mut Value) {
    if let Value::Object(record) = state {
        record.remove("recent");
    }
}

/// The newest entries, at most [`HISTORY_MESSAGES_MAX`].
#[derive(Default)]
struct Newest {
    entries: VecDeque<HistoryEntry>,
    truncated: bool,
}

impl Newest {
    fn push(&mut self, entry: Option<HistoryEntry>) {
        self.entries.extend(entry);
        if self.entries.len() > HISTORY_MESSAGES_MAX {
            self.entries.pop_front();
            self.truncated = true;
        }
    }

    fn into_history(self) -> LinkHistory {
        LinkHistory { entries: self.entries.into(), truncated: self.truncated }
    }
}

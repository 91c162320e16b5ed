//! Everything `LINKS` still has of one link, in the order in which it was decided.
//!
//! An ephemeral pull consumer over the link's own subjects: the server filters, so a long stream costs nothing.
//! `LINKS` keeps the last messages of each subject (64 by default), so an old link's story begins in the middle; the
//! newest state is always there.
//!
//! Never: a second copy of the history elsewhere. Next: `http/links.rs` shows it, `cli/history.rs` prints it.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{Context, Message};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use crate::contract::{At, JobName, NoticeName};
use crate::link::{LinkId, Timestamp};
use crate::nats::subject::{OutputSubject, Subjects};

/// The most messages of one link that are read. A link has some fifteen subjects, and one state message an event.
pub const HISTORY_MESSAGES_MAX: usize = 2_000;

/// How long a history may take: a person waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// One message about a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// What kind of message.
    pub kind: HistoryKind,
    /// Of a notice or a job: which.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its `ce-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Its sequence in `LINKS`.
    pub sequence: u64,
    /// When `LINKS` stored it.
    pub stored_at: At,
    /// Its body.
    pub body: Value,
}

/// The kinds of message about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryKind {
    /// Its state after an event.
    State,
    /// What the company was told.
    Notice,
    /// What Belvo was to be asked.
    Job,
    /// What was ignored.
    Refused,
}

/// Some of a link's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkHistory {
    /// Oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Whether there was more than [`HISTORY_MESSAGES_MAX`]; the newest are missing then.
    pub truncated: bool,
}

/// The history cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the history cannot be read from NATS: {detail}")]
pub struct HistoryError {
    /// What JetStream said.
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
}

/// Something that knows the histories of links.
pub trait ReadHistory: Send + Sync {
    /// What has been decided about a link, oldest first.
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
    /// The histories of this environment.
    pub fn new(context: Context, subjects: Subjects) -> Self {
        Self { context, subjects }
    }

    /// Everything `LINKS` has of a link, oldest first; nothing for a link it has never heard of.
    ///
    /// # Errors
    /// [`HistoryError`] if NATS does not answer in time or the stream is not there.
    pub async fn read(&self, link: &LinkId) -> Result<LinkHistory, HistoryError> {
        timeout(READ_TIMEOUT, self.read_all(link))
            .await
            .unwrap_or_else(|_| Err(HistoryError::of(format!("no answer within {} s", READ_TIMEOUT.as_secs()))))
    }

    async fn read_all(&self, link: &LinkId) -> Result<LinkHistory, HistoryError> {
        let stream = self.context.get_stream_no_info(self.subjects.output_stream()).await.map_err(HistoryError::of)?;
        let config = pull::Config {
            filter_subjects: self.subjects_of(link.as_str()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            // The server's own way to forget a consumer whose reader has gone.
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(HistoryError::of)?;
        let pending = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
        let wanted = pending.min(HISTORY_MESSAGES_MAX);
        let mut history = LinkHistory { entries: Vec::with_capacity(wanted), truncated: pending > wanted };
        if wanted > 0 {
            let pulled = consumer.fetch().max_messages(wanted).expires(READ_TIMEOUT).messages().await;
            let mut messages = pulled.map_err(HistoryError::of)?.take(wanted);
            while let Some(message) = messages.next().await {
                history.entries.extend(self.entry(&message.map_err(HistoryError::of)?)?);
            }
        }
        // It would go by itself; a page of histories should not leave a page of consumers until then.
        if let Err(error) = stream.delete_consumer(&consumer.cached_info().name).await {
            tracing::debug!(%error, "a consumer of a history could not be deleted and will expire");
        }
        Ok(history)
    }

    fn subjects_of(&self, link: &str) -> Vec<String> {
        let mut subjects = vec![self.subjects.state(link), self.subjects.refused(link)];
        subjects.extend(NoticeName::ALL.map(|name| self.subjects.notice(name.as_str(), link)));
        subjects.extend(JobName::ALL.map(|name| self.subjects.job(name.as_str(), link)));
        subjects
    }

    fn entry(&self, message: &Message) -> Result<Option<HistoryEntry>, HistoryError> {
        let info = message.info().map_err(HistoryError::of)?;
        let (kind, name) = match self.subjects.parse_output(&message.subject) {
            Some(OutputSubject::State { .. }) => (HistoryKind::State, None),
            Some(OutputSubject::Notice { notice, .. }) => (HistoryKind::Notice, Some(notice.to_owned())),
            Some(OutputSubject::Job { job, .. }) => (HistoryKind::Job, Some(job.to_owned())),
            Some(OutputSubject::Refused { .. }) => (HistoryKind::Refused, None),
            Some(
                OutputSubject::Fence { .. }
                | OutputSubject::Offset { .. }
                | OutputSubject::Commit { .. }
                | OutputSubject::Incident { .. },
            )
            | None => {
                return Ok(None);
            }
        };
        let message_id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
        let stored_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let mut body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
        if let (HistoryKind::State, Value::Object(record)) = (kind, &mut body) {
            record.remove("recent"); // By which relink recognises repeats: for its own use.
        }
        Ok(Some(HistoryEntry {
            kind,
            name,
            message_id: message_id.map(|id| id.as_str().to_owned()),
            sequence: info.stream_sequence,
            stored_at: At(Timestamp::from_millis(stored_ms)),
            body,
        }))
    }
}

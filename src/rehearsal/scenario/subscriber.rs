//! The subscriber of a scenario: an ordinary consumer of relink's output stream, as any other program would use.
//!
//! It recognises a subject by its last tokens (`notice.<type>.<link>`, `refused.<link>`), or as a key of the bucket, so it
//! works with any subject prefix.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, stream::Stream};
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::error::PlayError;
use crate::nats::connection::Access;

/// The consumer of relink's jobs: while it has messages, relink still has calls to Belvo to make.
const JOBS: &str = "relink-jobs";

/// The kind of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A notice, with its type.
    Notice(String),
    State,
    Refused,
    /// An incident of an institution. The subject ends with the institution instead of a link id.
    Incident,
    /// Jobs and internal messages, which a subscriber ignores.
    Other,
}

/// A received message.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) kind: Kind,
    pub(super) link: String,
    pub(super) body: Value,
}

impl Received {
    fn of(subject: &str, body: Value) -> Self {
        let words: Vec<&str> = subject.split('.').collect();
        let kind = match words.as_slice() {
            [.., "notice", notice, _link] => Kind::Notice((*notice).to_owned()),
            ["$KV", _bucket, _link] => Kind::State,
            [.., "refused", _link] => Kind::Refused,
            [.., "incident", _institution] => Kind::Incident,
            _ => Kind::Other,
        };
        Self { kind, link: words.last().copied().unwrap_or_default().to_owned(), body }
    }

    /// The id of the input that led to this message.
    pub(super) fn input_id(&self) -> Option<&str> {
        let because = if self.kind == Kind::Refused { &self.body } else { &self.body["because"] };
        because["origin"]["message_id"].as_str()
    }
}

/// All messages received since the start, in order.
pub(super) struct Subscriber {
    stream: Stream,
    received: Arc<Mutex<Vec<Received>>>,
    count: watch::Receiver<usize>,
    /// The probe inputs of the player: see [`Subscriber::ignore`].
    ignored: Mutex<HashSet<String>>,
    listener: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    /// Subscribes to all messages that relink publishes from now on.
    pub(super) async fn open(nats_url: &str, stream: &str) -> Result<Self, PlayError> {
        let failed = |error: &dyn std::fmt::Display| PlayError::Nats(error.to_string());
        let access = Access::of_urls([nats_url]).map_err(|error| failed(&error))?;
        let client = access.connect("relink scenario").await.map_err(|error| failed(&error))?;
        let stream = jetstream::new(client).get_stream(stream).await.map_err(|error| failed(&error))?;
        let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::New, ..pull::OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let into = Arc::clone(&received);
        let listener = tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                let mut received = into.lock().unwrap_or_else(PoisonError::into_inner);
                received.push(Received::of(&message.subject, body));
                sender.send_replace(received.len());
            }
        });
        Ok(Self { stream, received, count, ignored: Mutex::default(), listener })
    }

    /// Ignores the messages that result from this probe input.
    pub(super) fn ignore(&self, input_id: &str) {
        self.ignored.lock().unwrap_or_else(PoisonError::into_inner).insert(input_id.to_owned());
    }

    /// The messages about a link after the first `after` messages, without those of probe inputs.
    pub(super) fn about(&self, link: Uuid, after: usize) -> Vec<Received> {
        let link = link.to_string();
        let ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |received: &&Received| {
            let is_ignored = received.input_id().is_some_and(|input| ignored.contains(input));
            received.link == link && received.kind != Kind::Other && !is_ignored
        };
        self.all().iter().skip(after).filter(ours).cloned().collect()
    }

    /// The incident messages of an institution after the first `after` messages.
    pub(super) fn of_institution(&self, institution: &str, after: usize) -> Vec<Received> {
        let of_it =
            |received: &&Received| received.kind == Kind::Incident && received.body["institution"] == institution;
        self.all().iter().skip(after).filter(of_it).cloned().collect()
    }

    /// Whether relink has published the result of an input.
    pub(super) fn has_answered(&self, link: Uuid, input_id: &str) -> bool {
        let link = link.to_string();
        self.all().iter().any(|received| received.link == link && received.input_id() == Some(input_id))
    }

    /// The number of received messages.
    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    /// Waits until `found` returns a value.
    pub(super) async fn wait<T>(
        &self,
        what: &str,
        within: Duration,
        found: impl Fn(&Self) -> Option<T>,
    ) -> Result<T, PlayError> {
        let mut count = self.count.clone();
        let search = async {
            loop {
                count.borrow_and_update();
                if let Some(found) = found(self) {
                    return Ok(found);
                }
                count.changed().await.map_err(|_| PlayError::Nats("the subscription ended".to_owned()))?;
            }
        };
        let late = |_| PlayError::Late { what: what.to_owned(), within };
        tokio::time::timeout(within, search).await.map_err(late)?
    }

    /// Waits until relink has no call to Belvo left to make.
    pub(super) async fn jobs_done(&self, within: Duration) -> Result<(), PlayError> {
        /// The state of a consumer has to be polled; this is the interval.
        const ASK_EVERY: Duration = Duration::from_millis(25);
        let ask = async {
            loop {
                let info = self.stream.consumer_info(JOBS).await;
                let info = info.map_err(|error| PlayError::Nats(format!("the consumer {JOBS}: {error}")))?;
                if info.num_pending == 0 && info.num_ack_pending == 0 {
                    return Ok(());
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        let late = |_| PlayError::Late { what: "the end of relink's calls to Belvo".to_owned(), within };
        tokio::time::timeout(within, ask).await.map_err(late)?
    }

    fn all(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

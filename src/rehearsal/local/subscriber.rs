//! The subscriber of the demo and of `relink dev`: an ordinary consumer of `KV_links`, as any other program would use.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;

/// The most messages that are kept. `relink dev` may run for weeks, and prints each message once.
const KEPT_MAX: usize = 1_000;

/// The limit of a wait for a message.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A received message.
#[derive(Clone, Debug)]
pub(in crate::rehearsal) struct Received {
    pub(in crate::rehearsal) subject: String,
    pub(in crate::rehearsal) body: Value,
}

/// The last received messages, in order.
#[derive(Debug, Default)]
struct Kept {
    messages: VecDeque<Received>,
    /// How many messages were received before the first one that is kept.
    forgotten: usize,
}

impl Kept {
    fn push(&mut self, message: Received) {
        if self.messages.len() == KEPT_MAX {
            self.messages.pop_front();
            self.forgotten += 1;
        }
        self.messages.push_back(message);
    }

    /// How many messages were received.
    fn count(&self) -> usize {
        self.forgotten + self.messages.len()
    }

    /// The kept messages from this index on, with their indexes. The index counts all received messages.
    fn from(&self, index: usize) -> impl Iterator<Item = (usize, &Received)> {
        (self.forgotten..).zip(&self.messages).skip(index.saturating_sub(self.forgotten))
    }
}

/// Receives messages, and keeps the last ones.
#[derive(Clone)]
pub(in crate::rehearsal) struct Subscriber {
    received: Arc<Mutex<Kept>>,
    count: watch::Receiver<usize>,
}

impl Subscriber {
    /// Subscribes to all messages that relink publishes from now on.
    pub(in crate::rehearsal) async fn start(client: async_nats::Client) -> anyhow::Result<Self> {
        let stream = jetstream::new(client).get_stream("KV_links").await.context("the stream of states")?;
        let consumer = stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::New,
                ..pull::OrderedConfig::default()
            })
            .await?;
        let mut messages = consumer.messages().await?;
        let received = Arc::new(Mutex::new(Kept::default()));
        let (sender, count) = watch::channel(0);
        let into = Arc::clone(&received);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                let mut received = into.lock().unwrap_or_else(PoisonError::into_inner);
                received.push(Received { subject: message.subject.to_string(), body });
                if sender.send(received.count()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { received, count })
    }

    /// Waits for the message with this index; returns it with its index. If it is not kept any more, this is the oldest one that is.
    pub(in crate::rehearsal) async fn at(&self, index: usize) -> anyhow::Result<(usize, Received)> {
        let mut count = self.count.clone();
        count.wait_for(|count| *count > index).await.context("the subscription ended")?;
        let kept = self.kept();
        let (found, received) = kept.from(index).next().context("the last messages are kept")?;
        Ok((found, received.clone()))
    }

    /// Waits for a matching message after the first `after` messages; returns it with its index.
    pub(in crate::rehearsal) async fn wait(
        &self,
        what: &str,
        after: usize,
        fits: impl Fn(&Received) -> bool,
    ) -> anyhow::Result<(usize, Received)> {
        let mut count = self.count.clone();
        let search = async {
            loop {
                count.borrow_and_update();
                let found =
                    self.kept().from(after).find(|(_, received)| fits(received)).map(|(at, found)| (at, found.clone()));
                if let Some(found) = found {
                    return Ok(found);
                }
                count.changed().await.context("the subscription ended")?;
            }
        };
        let waited = tokio::time::timeout(WAIT_LIMIT, search).await;
        waited.map_err(|_| anyhow!("{what} did not arrive within {} s", WAIT_LIMIT.as_secs()))?
    }

    /// The last received messages.
    pub(in crate::rehearsal) fn snapshot(&self) -> Vec<Received> {
        self.kept().messages.iter().cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of messages received so far.
    pub(in crate::rehearsal) fn len(&self) -> usize {
        *self.count.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_are_kept_with_their_numbers() {
        let mut kept = Kept::default();
        for number in 0..KEPT_MAX + 7 {
            kept.push(Received { subject: number.to_string(), body: Value::Null });
        }
        assert_eq!((kept.messages.len(), kept.count()), (KEPT_MAX, KEPT_MAX + 7));
        for (wanted, found) in [(0, 7), (7, 7), (8, 8), (KEPT_MAX + 6, KEPT_MAX + 6)] {
            let (index, received) = kept.from(wanted).next().unwrap();
            assert_eq!((index, received.subject.clone()), (found, found.to_string()));
        }
        assert!(kept.from(KEPT_MAX + 7).next().is_none());
    }
}

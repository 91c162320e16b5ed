//! The subscriber of the demo and of `relink dev`: an ordinary consumer of `KV_links`, as any other program would use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;

/// The limit of a wait for a message.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A received message.
#[derive(Clone, Debug)]
pub(in crate::rehearsal) struct Received {
    pub(in crate::rehearsal) subject: String,
    pub(in crate::rehearsal) body: Value,
}

/// All received messages, in order.
#[derive(Clone)]
pub(in crate::rehearsal) struct Subscriber {
    received: Arc<Mutex<Vec<Received>>>,
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
        let received = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let into = Arc::clone(&received);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                let mut received = into.lock().unwrap_or_else(PoisonError::into_inner);
                received.push(Received { subject: message.subject.to_string(), body });
                if sender.send(received.len()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { received, count })
    }

    /// Waits for the message with this index.
    pub(in crate::rehearsal) async fn at(&self, index: usize) -> anyhow::Result<Received> {
        let mut count = self.count.clone();
        count.wait_for(|count| *count > index).await.context("the subscription ended")?;
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.get(index).cloned().context("received messages are kept")
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
                let found = self.snapshot().into_iter().enumerate().skip(after).find(|(_, received)| fits(received));
                if let Some(found) = found {
                    return Ok(found);
                }
                count.changed().await.context("the subscription ended")?;
            }
        };
        let waited = tokio::time::timeout(WAIT_LIMIT, search).await;
        waited.map_err(|_| anyhow!("{what} did not arrive within {} s", WAIT_LIMIT.as_secs()))?
    }

    /// All messages received so far.
    pub(in crate::rehearsal) fn snapshot(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of messages received so far.
    pub(in crate::rehearsal) fn len(&self) -> usize {
        *self.count.borrow()
    }
}

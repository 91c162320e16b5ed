//! The demo's own subscriber: an ordinary consumer of `LINKS`, like that of any other program.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;

/// How long the story waits for the next thing to happen before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// One message that arrived.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) subject: String,
    pub(super) body: Value,
}

/// Everything that has arrived so far, in order.
#[derive(Clone)]
pub(super) struct Watch {
    heard: Arc<Mutex<Vec<Heard>>>,
    count: watch::Receiver<usize>,
}

impl Watch {
    /// Subscribes to everything that relink publishes.
    pub(super) async fn start(client: async_nats::Client) -> anyhow::Result<Self> {
        let stream = jetstream::new(client).get_stream("LINKS").await.context("the stream of states")?;
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let into = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push(Heard { subject: message.subject.to_string(), body });
                if sender.send(heard.len()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { heard, count })
    }

    /// Waits for a message that fits, from the `after`th on; gives its place too.
    pub(super) async fn wait(
        &self,
        what: &str,
        after: usize,
        fits: impl Fn(&Heard) -> bool,
    ) -> anyhow::Result<(usize, Heard)> {
        let mut count = self.count.clone();
        let search = async {
            loop {
                count.borrow_and_update();
                let found = self.snapshot().into_iter().enumerate().skip(after).find(|(_, heard)| fits(heard));
                if let Some(found) = found {
                    return Ok(found);
                }
                count.changed().await.context("the subscription ended")?;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, search).await;
        waited.map_err(|_| anyhow!("{what} did not come within {} s", PATIENCE.as_secs()))?
    }

    /// All that has arrived.
    pub(super) fn snapshot(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How much has arrived.
    pub(super) fn len(&self) -> usize {
        *self.count.borrow()
    }
}

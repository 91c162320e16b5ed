//! A pull consumer that reads a stream once, by itself in the memory of the server.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;

use super::limit::within;

/// How long to wait for the next message of a read. The stream has it, but the server may have to search a large stream for it.
const NEXT_MESSAGE_WAIT: Duration = Duration::from_secs(60);

/// How long the server keeps the consumer of a reader that is gone.
const CONSUMER_LIFE: Duration = Duration::from_secs(30);

/// A consumer of these subjects, which acknowledges nothing and leaves nothing on the disk of the server.
pub(super) fn reading(filter_subjects: Vec<String>, deliver_policy: DeliverPolicy) -> pull::Config {
    pull::Config {
        filter_subjects,
        deliver_policy,
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: CONSUMER_LIFE,
        ..pull::Config::default()
    }
}

/// The next message of a read. `reconnected` is [`super::limit::reconnected`], called before the consumer was created: what a lost connection
/// had in flight is missing, so the read is interrupted.
///
/// # Errors
/// The error text, made by `failed`, or that of a missed limit.
pub(super) async fn next_message(
    arriving: &mut pull::Stream,
    reconnected: Pin<&mut impl Future<Output = ()>>,
    failed: &impl Fn(&dyn Display) -> String,
) -> Result<Message, String> {
    let next = within(NEXT_MESSAGE_WAIT, async {
        arriving.next().await.ok_or_else(|| failed(&"the consumer ended"))?.map_err(|error| failed(&error))
    });
    tokio::select! {
        biased;
        next = next => next,
        () = reconnected => Err(failed(&"the connection to NATS was made anew")),
    }
}

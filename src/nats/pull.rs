//! A pull consumer that reads a stream once, by itself in the memory of the server.
//!
//! The messages are pulled by requests of our own, and not by the stream of async-nats 0.51. Its requests are sent by a task of their own,
//! which in four of six rebuilds of a million links did not send the next one, once to three times. Then nothing arrived for 30 s, until
//! the read was begun anew after "missed idle heartbeat". Why is not known.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{Context, Message};
use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;

use super::limit::{REQUEST_TIMEOUT, within};
use super::partition::MESSAGE_OVERHEAD_BYTES;

/// How long to wait for the next message of a read. The stream has it, but the server may have to search a large stream for it.
const NEXT_MESSAGE_WAIT: Duration = Duration::from_secs(60);

/// How long the server keeps the consumer of a reader that is gone.
const CONSUMER_LIFE: Duration = Duration::from_secs(30);

/// How long the server may take to create a consumer. To find the last message of each subject, it took 43 s with ten million subjects.
const CREATE_WAIT: Duration = Duration::from_secs(10 * 60);

/// The messages that one request asks for.
const REQUEST_MESSAGES: usize = 500;

/// How many messages are asked for ahead. While a part is handled, the server sends the next one.
const AHEAD_MESSAGES: usize = 2 * REQUEST_MESSAGES;

/// The bytes that one request asks for, as [`REQUEST_MESSAGES`]: large messages that were asked for ahead filled the server's buffer for this
/// connection (`max_pending`, 64 MiB by default), and the server closed it as that of a slow consumer.
const REQUEST_BYTES: usize = 12 << 20;

/// How long the server keeps a request without messages.
const REQUEST_LIFE: Duration = Duration::from_secs(30);

/// The header with the number of messages that an ended request did not get.
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";

const RECONNECTED: &str = "the connection to NATS was made anew";

/// The status of a request that the server has kept for as long as it asked.
const REQUEST_ENDED: StatusCode = StatusCode::TIMEOUT;

/// The end of a request that the next message does not fit into any more: status 409 with this text.
const BYTES_USED_UP: &str = "Message Size Exceeds MaxBytes";

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

/// The messages of a consumer.
pub(super) struct Pulled {
    context: Context,
    /// Where the requests go.
    requests: String,
    /// Where the messages arrive.
    inbox: String,
    arriving: Subscriber,
    /// How many messages the server still has to send for the requests so far.
    open: usize,
    /// How many messages have arrived.
    count: u64,
}

impl Pulled {
    /// Creates a consumer of the stream, and begins to pull. Returns how many messages the stream has for it, too. `reconnected`: as for
    /// [`next_message`].
    ///
    /// # Errors
    /// The error text of the client, or that of a missed limit.
    pub(super) async fn begin(
        context: &Context,
        stream: &str,
        config: pull::Config,
        reconnected: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(Self, u64), String> {
        let patient = ContextBuilder::new().timeout(CREATE_WAIT).build(context.client());
        let created = within(CREATE_WAIT, async {
            let created = patient.create_consumer_on_stream(config, stream).await;
            created.map_err(|error| error.to_string())
        });
        let consumer: PullConsumer = tokio::select! {
            biased;
            created = created => created?,
            () = reconnected => return Err(RECONNECTED.to_owned()),
        };
        let begun = within(REQUEST_TIMEOUT, Self::pulling(context, &consumer));
        Ok((begun.await?, consumer.cached_info().num_pending))
    }

    async fn pulling(context: &Context, consumer: &PullConsumer) -> Result<Self, String> {
        let info = consumer.cached_info();
        let requests = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", info.stream_name, info.name);
        let client = context.client();
        let inbox = client.new_inbox();
        let arriving = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let mut pulled = Self { context: context.clone(), requests, inbox, arriving, open: 0, count: 0 };
        pulled.ask().await?;
        Ok(pulled)
    }

    /// Sends requests until enough messages are asked for.
    async fn ask(&mut self) -> Result<(), String> {
        while self.open + REQUEST_MESSAGES <= AHEAD_MESSAGES {
            // A request that is smaller than a message would never get it.
            let max_bytes = REQUEST_BYTES.max(self.context.client().max_payload() + MESSAGE_OVERHEAD_BYTES);
            let expires = REQUEST_LIFE.as_nanos() as u64;
            let request = serde_json::json!({ "batch": REQUEST_MESSAGES, "max_bytes": max_bytes, "expires": expires });
            let request = Bytes::from(request.to_string());
            let (subject, inbox) = (self.requests.clone(), self.inbox.clone());
            let sent = self.context.client().publish_with_reply(subject, inbox, request).await;
            sent.map_err(|error| error.to_string())?;
            self.open += REQUEST_MESSAGES;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Message, String> {
        loop {
            self.ask().await?;
            let message = self.arriving.next().await.ok_or_else(|| "the subscription ended".to_owned())?;
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.open = self.open.saturating_sub(1);
                    self.count += 1;
                    let message = Message { message, context: self.context.clone() };
                    let nth = message.info().map_err(|error| error.to_string())?.consumer_sequence;
                    // What a lost connection had in flight: the messages behind it may arrive before anybody notices.
                    return if nth == self.count { Ok(message) } else { Err("a message is missing".to_owned()) };
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(status) if is_end(status, message.description.as_deref()) => {
                    let left = message.headers.as_ref().and_then(|headers| headers.get(PENDING_MESSAGES));
                    let left = left.and_then(|count| count.as_str().parse().ok()).unwrap_or(REQUEST_MESSAGES);
                    self.open = self.open.saturating_sub(left);
                }
                Some(status) => {
                    return Err(format!("{status} {}", message.description.unwrap_or_default()));
                }
            }
        }
    }
}

/// Whether the server has ended a request as it should, so that the next one goes on.
fn is_end(status: StatusCode, description: Option<&str>) -> bool {
    let is_full =
        status == StatusCode::REQUEST_TERMINATED && description.is_some_and(|why| why.contains(BYTES_USED_UP));
    status == REQUEST_ENDED || is_full
}

/// The next message of a read. `reconnected` is [`super::limit::reconnected`], called before the consumer was created: what a lost connection
/// had in flight is missing, so the read is interrupted.
///
/// # Errors
/// The error text, made by `failed`, or that of a missed limit.
pub(super) async fn next_message(
    arriving: &mut Pulled,
    reconnected: Pin<&mut impl Future<Output = ()>>,
    failed: &impl Fn(&dyn Display) -> String,
) -> Result<Message, String> {
    let next = within(NEXT_MESSAGE_WAIT, async { arriving.next().await.map_err(|error| failed(&error)) });
    tokio::select! {
        biased;
        next = next => next,
        () = reconnected => Err(failed(&RECONNECTED)),
    }
}

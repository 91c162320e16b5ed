//! The lag of each partition: how many of its messages are not handled yet, and since when the oldest one waits.
//!
//! It is read from the server every few seconds and not counted by the node, so it also rises while a node is stuck. The node acknowledges
//! the messages of a commit after the commit; an acknowledgement that is lost counts until the server delivers the message again.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::limit::{READ_TIMEOUT, within};
use super::raw_message::{self, Wanted};
use super::stream::partition_info;
use super::subject::Subjects;
use crate::clock;
use crate::link::Timestamp;
use crate::metric;

/// The pause between two rounds.
const EVERY: Duration = Duration::from_secs(5);

/// The lag of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionLag {
    /// The number of messages that are not handled yet.
    pub waiting: u64,
    /// When the server stored the oldest of them.
    pub oldest_at: Option<Timestamp>,
}

/// The lag of all partitions, in the order of their numbers, and when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// When the last round began that read every partition; `None` before the first one.
    pub read_at: Option<Timestamp>,
    /// One for each partition.
    pub partitions: Vec<PartitionLag>,
}

/// Reads the lag until it is stopped.
pub struct LagReader {
    context: jetstream::Context,
    subjects: Subjects,
    partitions: u16,
    lag: watch::Sender<Lag>,
}

impl LagReader {
    /// A reader of this number of partitions.
    pub fn new(context: jetstream::Context, subjects: Subjects, partitions: u16) -> Self {
        Self { context, subjects, partitions, lag: watch::Sender::default() }
    }

    /// The lag as it was last read.
    pub fn lag(&self) -> watch::Receiver<Lag> {
        self.lag.subscribe()
    }

    /// Runs until `shutdown`. What cannot be read is read again in the next round: while NATS is away, the oldest messages get older.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let round = async {
                if self.context.client().connection_state() == State::Connected {
                    self.round().await;
                }
                self.record(clock::now());
                sleep(EVERY).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = round => {}
            }
        }
    }

    /// Reads all partitions. If one cannot be read, the lag from before stays.
    pub async fn round(&self) {
        let read_at = clock::now();
        let mut partitions = Vec::with_capacity(self.partitions.into());
        for partition in 0..self.partitions {
            match within(READ_TIMEOUT, self.read(partition)).await {
                Ok(lag) => partitions.push(lag),
                // `/readyz` shows that NATS does not answer, and the log does.
                Err(problem) => {
                    tracing::debug!(partition, problem, "the lag of a partition cannot be read");
                    return;
                }
            }
        }
        self.lag.send_replace(Lag { read_at: Some(read_at), partitions });
    }

    async fn read(&self, partition: u16) -> Result<PartitionLag, String> {
        let info = partition_info(&self.context, &self.subjects, partition).await?;
        let unacknowledged = u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX);
        let waiting = info.num_pending.saturating_add(unacknowledged);
        if waiting == 0 {
            return Ok(PartitionLag::default());
        }
        let behind = Wanted::next(self.subjects.partition(partition), info.ack_floor.stream_sequence + 1);
        let oldest = raw_message::read(&self.context, &self.subjects.input_stream(), &behind).await?;
        let oldest_at = oldest.map(|message| Timestamp::from_nanos(message.stored_at_ns));
        Ok(PartitionLag { waiting, oldest_at })
    }

    /// Sets the metrics.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number")]
    fn record(&self, now: Timestamp) {
        for (partition, lag) in self.lag.borrow().partitions.iter().enumerate() {
            let oldest_secs = lag.oldest_at.map_or(0.0, |at| now.since(at).as_secs_f64());
            metrics::gauge!(metric::INPUTS_WAITING.name, "partition" => partition.to_string()).set(lag.waiting as f64);
            metrics::gauge!(metric::INPUTS_OLDEST_SECONDS.name, "partition" => partition.to_string()).set(oldest_secs);
        }
    }
}

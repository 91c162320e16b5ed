//! How many inputs wait for the node: in the journal of this process, and in the consumer of each partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;

use crate::clock;
use crate::link::Timestamp;
use crate::nats::stream::partition_info;
use crate::nats::streams_read::Streams;

/// Up to when the journal of this process is published, for a clock that shows this time now; `None` if it is not known at this moment.
type PublishedUntil = dyn Fn(Timestamp) -> Option<Timestamp> + Send + Sync;

/// The journal whose messages the node waits for.
#[derive(Clone, Default)]
pub struct PublishedJournal(Option<Arc<PublishedUntil>>);

impl PublishedJournal {
    /// A journal that answers with this function.
    pub fn new(published_until: impl Fn(Timestamp) -> Option<Timestamp> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(published_until)))
    }

    /// For how long its oldest message has waited, in milliseconds.
    fn waited_ms(&self) -> Option<u64> {
        let now = clock::now();
        let until = self.0.as_ref().map_or(Some(now), |published_until| published_until(now))?;
        u64::try_from(now.since(until).as_millis()).ok()
    }
}

/// The answer to [`crate::node::Output::ReadInputEnds`]: for how long the journal waits, in milliseconds, and the end of each partition.
pub(super) async fn read(
    streams: &Streams,
    journal: &PublishedJournal,
    partitions: Vec<u16>,
) -> Result<(u64, BTreeMap<u16, u64>), String> {
    // In this order: what the journal publishes after the first line is behind the ends, or among them.
    let waited_ms = journal.waited_ms().ok_or("the journal is being read")?;
    let last_sequence = streams.facts(&streams.subjects.input_stream()).await?.last_sequence;
    let ends = partitions.into_iter().map(|partition| async move {
        let info = partition_info(&streams.context, &streams.subjects, partition).await?;
        Ok::<_, String>((partition, if info.num_pending == 0 { info.delivered.stream_sequence } else { last_sequence }))
    });
    let ends: Vec<_> = try_join_all(ends).await?;
    Ok((waited_ms, ends.into_iter().collect()))
}

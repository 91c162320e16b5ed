//! Hands each input to the part of the node that handles it.

use std::time::Duration;

use super::Node;
use super::input::{Input, RequestId};
use super::output::{End, PartitionEnd};
use super::partition::Partition;
use crate::link::Timestamp;
use crate::store::Store;

impl<S: Store + Clone> Node<S> {
    pub(super) fn dispatch(&mut self, now: Timestamp, input: Input) -> Result<(), End> {
        match input {
            Input::Gained { partitions } => {
                self.has_all =
                    self.partitions.is_empty() && partitions.len() == usize::from(self.options.partitions_count);
                for partition in partitions {
                    self.partitions.entry(partition).or_insert_with(Partition::assigned);
                }
            }
            Input::Lost { partitions } => {
                partitions.into_iter().for_each(|partition| self.end_partition(partition, PartitionEnd::GivenUp));
            }
            Input::OutputFacts { request, stream } => self.output_facts(now, request, stream).map_err(End::of)?,
            Input::StoreRestarted { request, kept_at } => self.store_restarted(now, request, kept_at),
            Input::FencesTaken { request, fences, closing } => self.fences_taken(now, request, &fences, closing),
            Input::OutputLookedUp { request, owner } => self.output_looked_up(now, request, owner.as_deref()),
            Input::FencesRefused { request } => self.fences_refused(now, request),
            Input::FencesRead { request, fences } => self.fences_read(now, request, &fences),
            Input::OutputRead { request, messages, reached } => {
                self.output_read(request, &messages, reached).map_err(|problem| End::Record { problem })?;
            }
            Input::InputFacts { request, stream } => self.input_facts(now, request, stream),
            Input::InputLookedUp { request, stored_at_ns } => self.input_looked_up(now, request, stored_at_ns),
            Input::InputFound { request, sequence } => self.input_found(now, request, sequence),
            Input::StreamTime { request, stream_at_ns, host_at_ms } => {
                let stream = Timestamp::from_nanos(stream_at_ns);
                self.stream_time(now, request, stream, Timestamp::from_millis(host_at_ms));
            }
            Input::InputEnds { request, waited_ms, ends } => {
                self.input_ends(now, request, Duration::from_millis(waited_ms), ends);
            }
            Input::Rewound { reader, created_ns, pending } => self.rewound(now, reader, created_ns, pending),
            Input::Delivered { deliveries } => self.delivered(now, deliveries),
            Input::ReaderFailed { reader, problem } => self.reader_failed(now, reader, &problem),
            Input::DeadLettersStored { batch } => self.dead_letters_stored(batch),
            Input::BatchStaged { batch } => self.batch_staged(now, batch),
            Input::BatchCommitted { batch, last_sequence, messages_count } => {
                self.batch_committed(now, batch, last_sequence, messages_count);
            }
            Input::BatchRefused { batch } => self.batch_refused(now, batch),
            Input::BatchTooLarge { batch, limit } => self.batch_too_large(batch, &limit),
            Input::BatchFailed { batch, problem } | Input::BatchUnknown { batch, problem } => {
                if self.has_batch(batch) {
                    self.start_over(now, &problem);
                }
            }
            Input::Applied { request } => {
                self.assert_first(request, self.applying.iter().any(|applying| applying.request == request));
                self.applied(now, request);
            }
            Input::Checkpointed { request } => {
                self.assert_first(request, self.checkpointing == Some(request));
                self.checkpointed(request);
            }
            Input::StoreFailed { problem } => return Err(End::Store { problem }),
            Input::RequestFailed { request, problem } => {
                let _ = self.measuring_failed(now, request)
                    || self.input_ends_failed(now, request)
                    || self.acquiring_failed(now, request, &problem)
                    || self.resuming_failed(now, request, &problem);
            }
            Input::StartOver { problem } => self.start_over(now, &problem),
            Input::Tick => self.wake_at = None,
            Input::Shutdown => self.stopping = true,
        }
        Ok(())
    }

    /// Panics if the driver answers a write before an earlier one: the store may be wrong, and the node would wait forever for the earlier
    /// answer.
    fn assert_first(&self, request: RequestId, is_under_way: bool) {
        let earlier = self.applying.front().filter(|first| is_under_way && first.request < request);
        let earlier = earlier.map(|first| first.request);
        assert!(earlier.is_none(), "the driver finished write {request:?} before write {earlier:?}");
    }
}

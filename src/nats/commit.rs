//! The commit: one atomic batch on `LINKS` that carries everything a plan came to, guarded by the fences of its partitions; and the fences
//! themselves.
//!
//! Where a message names a fence, the batch is stored only if the last message on `link.fence.<partition>` is still that one. A writer that
//! has been replaced is refused as a whole, whatever it had in flight.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::batch::{BATCH_MESSAGES_MAX, BatchError, BatchMessage, Batches, StagedBatch};
use super::envelope;
use super::subject::Subjects;
use crate::engine::{Message, Outgoing};
use crate::node::{BatchId, FenceToTake, Input, Limit};

/// A message is larger than the stream's `max_msg_size`.
const MESSAGE_EXCEEDS_MAXIMUM: u64 = 10_054;

/// Takes fences: from now on the commits of every other owner are refused. Gives their sequences.
///
/// # Errors
/// [`BatchError`]; [`BatchError::Refused`] if a fence is not where it was expected.
pub async fn take_fences(
    batches: &Batches,
    subjects: &Subjects,
    fences: Vec<FenceToTake>,
) -> Result<BTreeMap<u16, u64>, BatchError> {
    let mut taken = BTreeMap::new();
    for fences in fences.chunks(BATCH_MESSAGES_MAX) {
        let message = |FenceToTake { partition, expects, message }: &FenceToTake| {
            let message = to_batch_message(subjects, message.clone());
            match expects {
                Some(sequence) => message.expecting(subjects.fence(*partition), *sequence),
                None => message,
            }
        };
        let ack = batches.publish_atomic(fences.iter().map(message).collect()).await?;
        taken.extend(fences.iter().enumerate().map(|(index, fence)| (fence.partition, ack.sequence_of(index))));
    }
    Ok(taken)
}

/// Sends a batch to the server, all but its last message.
///
/// # Errors
/// [`BatchError`]; nothing was stored.
pub async fn stage(batches: &Batches, subjects: &Subjects, messages: Vec<Outgoing>) -> Result<StagedBatch, BatchError> {
    let messages = messages.into_iter().map(|Outgoing { partition, fence, message }| {
        let message = to_batch_message(subjects, message);
        match fence {
            Some(fence) => message.expecting(subjects.fence(partition), fence),
            None => message,
        }
    });
    batches.stage(messages.collect()).await
}

/// What the error of a batch is to the node.
pub(super) fn failure(batch: BatchId, error: &BatchError) -> Input {
    let problem = error.to_string();
    match error {
        BatchError::Refused { .. } => Input::BatchRefused { batch },
        BatchError::TooLarge { .. } => Input::BatchTooLarge { batch, limit: Limit::Messages },
        BatchError::MessageTooLarge { .. } | BatchError::Server { code: MESSAGE_EXCEEDS_MAXIMUM, .. } => {
            Input::BatchTooLarge { batch, limit: Limit::MessageBytes }
        }
        // Our batches have no message ids: if the server knows one, only looking tells what is there.
        BatchError::Unknown { .. } | BatchError::Duplicate => Input::BatchUnknown { batch, problem },
        BatchError::Empty
        | BatchError::Incomplete
        | BatchError::TooManyOpen
        | BatchError::NoStream { .. }
        | BatchError::Server { .. } => Input::BatchFailed { batch, problem },
    }
}

fn to_batch_message(subjects: &Subjects, message: Message) -> BatchMessage {
    let headers: HeaderMap = envelope::headers(&message);
    BatchMessage::new(envelope::subject(subjects, &message.address), Bytes::from(message.body)).with_headers(headers)
}

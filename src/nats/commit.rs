//! The commit: one atomic batch on `KV_links` with all messages of a plan, guarded by the fences of its partitions. This file also takes
//! fences.
//!
//! A message may name a fence. Then the server stores the batch only if that fence is still the last message on
//! `link.fence.<partition>`. So the server refuses every batch of a node that another node has replaced.

use std::collections::BTreeMap;

use async_nats::HeaderMap;

use super::batch::{BATCH_MESSAGES_MAX, BatchError, BatchMessage, Batches, OpenBatch};
use super::envelope;
use super::subject::Subjects;
use crate::engine::{Message, Outgoing};
use crate::node::{BatchId, Closing, FenceToTake, Input, Limit};

/// The server's error code for a message that is larger than the stream's `max_msg_size`.
const MESSAGE_EXCEEDS_MAXIMUM: u64 = 10_054;

/// Stores fences. From then on the server refuses the commits of every earlier owner. Returns the sequence of each fence, and the
/// sequence of the closing message.
///
/// # Errors
/// [`BatchError`]; [`BatchError::Refused`] if the last fence of a partition has another sequence than expected.
pub async fn take_fences(
    batches: &Batches,
    subjects: &Subjects,
    fences: Vec<FenceToTake>,
    mut closing: Option<Message>,
) -> Result<(BTreeMap<u16, u64>, Option<u64>), BatchError> {
    let (mut taken, mut closed_at) = (BTreeMap::new(), None);
    for fences in fences.chunks(BATCH_MESSAGES_MAX - 1) {
        let message = |FenceToTake { partition, expects, message }: &FenceToTake| {
            let message = to_batch_message(subjects, message.clone());
            match expects {
                Some(sequence) => message.expecting(subjects.fence(*partition), *sequence),
                None => message,
            }
        };
        let mut messages: Vec<BatchMessage> = fences.iter().map(message).collect();
        // The closing message goes into the first batch. If more batches follow, no commit is sent before all fences are stored.
        let closes = closing.take().map(|closing| messages.push(to_batch_message(subjects, closing))).is_some();
        let ack = batches.publish_atomic(messages).await?;
        closed_at = closed_at.or(closes.then_some(ack.last_sequence));
        taken.extend(fences.iter().enumerate().map(|(index, fence)| (fence.partition, ack.sequence_of(index))));
    }
    Ok((taken, closed_at))
}

/// The closing message of a commit. The server refuses the whole batch if the previous closing message is no longer on the stream.
pub fn closing(subjects: &Subjects, Closing { follows, message }: Closing) -> BatchMessage {
    let message = to_batch_message(subjects, message);
    let subject = message.subject.clone();
    message.expecting(subject, follows)
}

/// Sends all messages of a batch to the server, except the last one.
///
/// # Errors
/// [`BatchError`]; nothing was stored.
pub async fn stage(batches: &Batches, subjects: &Subjects, messages: Vec<Outgoing>) -> Result<OpenBatch, BatchError> {
    let messages = messages.into_iter().map(|Outgoing { partition, fence, message }| {
        let message = to_batch_message(subjects, message);
        match fence {
            Some(fence) => message.expecting(subjects.fence(partition), fence),
            None => message,
        }
    });
    batches.open(messages.collect()).await
}

/// The node's input for an error of a batch.
pub(super) fn failure(batch: BatchId, error: &BatchError) -> Input {
    let problem = error.to_string();
    match error {
        BatchError::Refused { .. } => Input::BatchRefused { batch },
        BatchError::TooLarge { .. } => Input::BatchTooLarge { batch, limit: Limit::Messages },
        BatchError::MessageTooLarge { .. } | BatchError::Server { code: MESSAGE_EXCEEDS_MAXIMUM, .. } => {
            Input::BatchTooLarge { batch, limit: Limit::MessageBytes }
        }
        // relink's batches have no message ids, so a duplicate id is unexpected, and only the stream shows what is stored.
        BatchError::Unknown { .. } | BatchError::Duplicate => Input::BatchUnknown { batch, problem },
        BatchError::Empty
        | BatchError::Incomplete
        | BatchError::TooManyOpen
        | BatchError::NoStream { .. }
        | BatchError::Server { .. } => Input::BatchFailed { batch, problem },
    }
}

pub(super) fn to_batch_message(subjects: &Subjects, message: Message) -> BatchMessage {
    let headers: HeaderMap = envelope::headers(&message);
    BatchMessage::new(envelope::subject(subjects, &message.address), message.body).with_headers(headers)
}

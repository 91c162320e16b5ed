//! The commit: one atomic batch on `LINKS` that carries everything a plan came to, guarded by the fences of its partitions; and the fences
//! themselves.
//!
//! Where a message names a fence, the batch is stored only if the last message on `link.fence.<partition>` is still that one. A writer that
//! has been replaced is refused as a whole, whatever it had in flight.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::batch::{BATCH_MESSAGES_MAX, BatchError, BatchMessage, Batches, OpenBatch};
use super::envelope;
use super::subject::Subjects;
use crate::engine::{Message, Outgoing};
use crate::node::{BatchId, Closing, FenceToTake, Input, Limit};

/// A message is larger than the stream's `max_msg_size`.
const MESSAGE_EXCEEDS_MAXIMUM: u64 = 10_054;

/// Takes fences: from now on the commits of every other owner are refused. Gives their sequences, and that of the message behind them.
///
/// # Errors
/// [`BatchError`]; [`BatchError::Refused`] if a fence is not where it was expected.
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
        // Behind the first fences: the others, if there are so many, are not committed to before all of them are taken.
        let closes = closing.take().map(|closing| messages.push(to_batch_message(subjects, closing))).is_some();
        let ack = batches.publish_atomic(messages).await?;
        closed_at = closed_at.or(closes.then_some(ack.last_sequence));
        taken.extend(fences.iter().enumerate().map(|(index, fence)| (fence.partition, ack.sequence_of(index))));
    }
    Ok((taken, closed_at))
}

/// The last message of a commit. It is refused, and all of the batch with it, if the one before is no longer on the stream.
pub fn closing(subjects: &Subjects, Closing { follows, message }: Closing) -> BatchMessage {
    let message = to_batch_message(subjects, message);
    let subject = message.subject.clone();
    message.expecting(subject, follows)
}

/// Sends a batch to the server, all but its last message.
///
/// # Errors
/// [`BatchError`]; nothing was stored.
pub async fn stage(batches: &Batches, subjects: &Subjects, messages: Vec<Outgoing>) -> Result<OpenBatch, BatchError> {
    let messages = messages.into_iter().map(|Outgoing { lane, fence, message }| {
        let message = to_batch_message(subjects, message);
        match fence {
            Some(fence) => message.expecting(subjects.fence(lane), fence),
            None => message,
        }
    });
    batches.open(messages.collect()).await
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

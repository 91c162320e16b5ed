//! Publishes a group of inputs with few disk syncs, and gives each one its outcome.
//!
//! Next: `publisher.rs` forms groups of the messages of many callers, `journal/` publishes its records.

use async_nats::jetstream::ErrorCode;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::nats::batch::{BatchAck, BatchError, BatchMessage, Batches};
use crate::nats::publisher::{NotStored, PublishError};

/// Up to this number, messages are published one by one, because a sync for each takes less time than the 3 ms of a batch. On a disk
/// that syncs in 0.2 ms, both ways take the same time at about 12 messages; on a slower disk the number is lower.
const SINGLE_MESSAGES_MAX: usize = 4;

/// The server's errors for a message that it would take later: limits of the account or of its resources, and a failed write.
const NO_ROOM: [ErrorCode; 6] = [
    ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ErrorCode::CLUSTER_NOT_AVAILABLE,
    ErrorCode::INSUFFICIENT_RESOURCES,
    ErrorCode::MEMORY_RESOURCES_EXCEEDED,
    ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ErrorCode::STREAM_STORE_FAILED,
];

/// The last publish, if it failed and its message was not the reason.
pub(super) type LastFailure = watch::Sender<Option<NotStored>>;

/// Whether the order of messages is important.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// They are of different callers.
    Any,
    /// If one of them is not stored, the later ones are not stored either, unless that one was refused for ever.
    Kept,
}

/// Publishes `messages`, in order. Returns an outcome for each.
pub(super) async fn publish(
    batches: &Batches,
    last_failure: &LastFailure,
    messages: Vec<BatchMessage>,
    order: Order,
) -> Vec<Result<u64, PublishError>> {
    if messages.len() <= SINGLE_MESSAGES_MAX {
        return match order {
            Order::Any => {
                // They are sent in order, and all are in flight together.
                join_all(messages.into_iter().map(|message| publish_one(batches, last_failure, message))).await
            }
            Order::Kept => publish_one_by_one(batches, last_failure, messages).await,
        };
    }
    let count = messages.len();
    // The clone copies subjects and headers; bodies are shared.
    let outcome = batches.publish_atomic(messages.clone()).await;
    if let (Err(error), true) = (&outcome, count > 1)
        && may_be_one_messages_fault(error)
    {
        tracing::warn!(batch.count = count, %error, "a batch was refused, so its messages are published one by one");
        return publish_one_by_one(batches, last_failure, messages).await;
    }
    if let Err(error) = &outcome {
        tracing::warn!(batch.count = count, %error, "a batch was not stored");
    }
    note_outcome(last_failure, &outcome);
    (0..count).map(|index| answer_at(&outcome, index)).collect()
}

/// Publishes each message after the one before was answered. After an unknown outcome, the others are not sent.
async fn publish_one_by_one(
    batches: &Batches,
    last_failure: &LastFailure,
    messages: Vec<BatchMessage>,
) -> Vec<Result<u64, PublishError>> {
    let mut outcomes = Vec::with_capacity(messages.len());
    let mut unavailable = None;
    for message in messages {
        let outcome = match &unavailable {
            Some(error) => Err(PublishError::clone(error)),
            None => publish_one(batches, last_failure, message).await,
        };
        if let Err(error @ (PublishError::Unavailable { .. } | PublishError::NoRoom { .. })) = &outcome {
            unavailable.get_or_insert_with(|| error.clone());
        }
        outcomes.push(outcome);
    }
    outcomes
}

async fn publish_one(
    batches: &Batches,
    last_failure: &LastFailure,
    message: BatchMessage,
) -> Result<u64, PublishError> {
    let outcome = batches.publish_atomic(vec![message]).await;
    note_outcome(last_failure, &outcome);
    answer_at(&outcome, 0)
}

fn note_outcome(last_failure: &LastFailure, outcome: &Result<BatchAck, BatchError>) {
    let why = match outcome {
        Ok(_) => {
            last_failure.send_if_modified(|last| last.take().is_some());
            return;
        }
        Err(error) if may_be_one_messages_fault(error) && !is_no_room(error) => return,
        Err(BatchError::Server { description, .. }) => description.clone(),
        Err(BatchError::Unknown { .. }) => "NATS did not answer".to_owned(),
        // The error names the subject, which has the id of a link.
        Err(BatchError::NoStream { .. }) => "no stream takes the subjects of inputs".to_owned(),
        Err(error) => error.to_string(),
    };
    last_failure.send_replace(Some(NotStored { at: Instant::now(), why }));
}

/// Whether a repeat may succeed later, without a change of the message.
fn is_no_room(error: &BatchError) -> bool {
    match error {
        BatchError::Server { code, .. } => NO_ROOM.iter().any(|no_room| no_room.0 == *code),
        BatchError::NoStream { .. } => true,
        _ => false,
    }
}

fn may_be_one_messages_fault(error: &BatchError) -> bool {
    match error {
        BatchError::Server { .. }
        | BatchError::Duplicate
        | BatchError::Refused { .. }
        | BatchError::NoStream { .. }
        | BatchError::TooLarge { .. }
        | BatchError::MessageTooLarge { .. } => true,
        BatchError::Empty | BatchError::Incomplete | BatchError::TooManyOpen | BatchError::Unknown { .. } => false,
    }
}

fn answer_at(outcome: &Result<BatchAck, BatchError>, index: usize) -> Result<u64, PublishError> {
    match outcome {
        Ok(ack) => Ok(ack.sequence_of(index)),
        Err(error @ BatchError::Server { code, description }) if is_no_room(error) => {
            Err(PublishError::NoRoom { code: *code, description: description.clone() })
        }
        Err(BatchError::Server { code, description }) => {
            Err(PublishError::Refused { code: *code, description: description.clone() })
        }
        Err(error @ BatchError::MessageTooLarge { .. }) => {
            Err(PublishError::Refused { code: 10054, description: error.to_string() })
        }
        Err(error @ BatchError::Duplicate) => {
            Err(PublishError::Refused { code: 10201, description: error.to_string() })
        }
        Err(error) => Err(PublishError::Unavailable { cause: error.to_string() }),
    }
}

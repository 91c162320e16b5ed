//! The commit: one atomic batch on `LINKS` that carries everything a plan came to, guarded by the fences of its lanes.
//!
//! Of each lane's messages the first carries the fence: the batch is stored only if the last message on `link.fence.<lane>` is still the
//! one this owner wrote. A writer that has been replaced is refused as a whole, whatever it had in flight.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;

use super::batch::{BATCH_MESSAGES_MAX, BatchError, BatchMessage, Batches, StagedBatch};
use super::envelope;
use super::subject::Subjects;
use crate::contract::{Address, At, Fence};
use crate::engine::{Message, Plan};
use crate::link::Timestamp;

/// The fences a node holds: for each lane the sequence of its own fence message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fences(BTreeMap<u16, u64>);

impl Fences {
    /// Takes the lanes `0..partitions`: from now on every other owner's commits are refused.
    ///
    /// # Errors
    /// [`BatchError`] if the fences could not be written.
    pub async fn take(
        batches: &Batches,
        subjects: &Subjects,
        partitions: u16,
        owner: &str,
        now: Timestamp,
    ) -> Result<Self, BatchError> {
        let fence = Fence { owner: owner.to_owned(), taken_at: At(now) };
        let body = serde_json::to_vec(&fence).expect("a fence is a plain struct");
        let lanes: Vec<u16> = (0..partitions).collect();
        let mut fences = BTreeMap::new();
        for lanes in lanes.chunks(BATCH_MESSAGES_MAX) {
            let message = |&lane: &u16| {
                let id = format!("fence.{lane}.{owner}.{}", now.as_millis());
                let message = Message { address: Address::Fence(lane), id, at: now, body: body.clone() };
                to_batch_message(subjects, message)
            };
            let ack = batches.publish_atomic(lanes.iter().map(message).collect()).await?;
            fences.extend(lanes.iter().enumerate().map(|(index, &lane)| (lane, ack.sequence_of(index))));
        }
        Ok(Self(fences))
    }

    /// The sequence of the last of them: a store that has come that far knows everything the earlier owners did.
    pub fn last_sequence(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }

    /// Sends a plan's messages to the server, all but the last.
    ///
    /// # Errors
    /// [`BatchError`]; nothing was stored.
    pub async fn stage(
        &self,
        batches: &Batches,
        subjects: &Subjects,
        plan: &mut Plan,
    ) -> Result<StagedBatch, BatchError> {
        let mut guarded = BTreeSet::new();
        let messages = std::mem::take(&mut plan.messages).into_iter().map(|outgoing| {
            let message = to_batch_message(subjects, outgoing.message);
            match self.0.get(&outgoing.lane) {
                Some(&fence) if guarded.insert(outgoing.lane) => {
                    message.expecting(subjects.fence(outgoing.lane), fence)
                }
                Some(_) | None => message,
            }
        });
        batches.stage(messages.collect()).await
    }
}

/// Whether somebody other than `owner` holds any of the lanes `0..partitions`. A lane without a fence is nobody's.
///
/// # Errors
/// What the server said, if it could not be asked.
pub async fn are_held_by_another(
    output: &Stream,
    subjects: &Subjects,
    partitions: u16,
    owner: &str,
) -> Result<bool, String> {
    for lane in 0..partitions {
        let subject = subjects.fence(lane);
        let failed = |error: &dyn std::fmt::Display| format!("cannot read {subject}: {error}");
        let fence = match output.get_last_raw_message_by_subject(&subject).await {
            Ok(last) => serde_json::from_slice::<Fence>(&last.payload).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => continue,
            Err(error) => return Err(failed(&error)),
        };
        if fence.owner != owner {
            return Ok(true);
        }
    }
    Ok(false)
}

fn to_batch_message(subjects: &Subjects, message: Message) -> BatchMessage {
    let headers: HeaderMap = envelope::headers(&message);
    BatchMessage::new(envelope::subject(subjects, &message.address), Bytes::from(message.body)).with_headers(headers)
}

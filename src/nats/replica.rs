//! The replica: brings a store up to the stream `LINKS`.
//!
//! Start, stand-by, take-over and rebuild are this one thing: read the states, marks and incidents behind the store's position, or, for an empty store,
//! the last of each subject, and apply them as commits. It only ever reads the stream, and it may be repeated or
//! interrupted anywhere: a put that is not newer changes nothing.

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;

use super::subject::{OutputSubject, Subjects};
use crate::contract::{BadRecord, IncidentBody, Mark};
use crate::link::Policy;
use crate::store::{Changes, Position, Put, Store, StoreError};

/// How many states are applied at once.
const CHUNK: usize = 1_000;

/// The store could not be brought up to the stream.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The stream cannot be read.
    #[error("cannot read the stream of states: {0}")]
    Stream(String),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record was written by a newer relink.
    #[error(transparent)]
    Record(#[from] BadRecord),
}

/// What catching up came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    /// How many states were read.
    pub states_count: u64,
    /// Whether the store was empty and has been rebuilt.
    pub rebuilt: bool,
}

/// Applies everything of `output` up to `target`, the sequence of a fence.
///
/// # Errors
/// [`ReplicaError`]; the store then stands somewhere on the way, and catching up goes on from there.
pub async fn catch_up<S: Store>(
    output: &Stream,
    stream_created_ns: i64,
    target: u64,
    subjects: &Subjects,
    policy: &Policy,
    store: &S,
) -> Result<CaughtUp, ReplicaError> {
    let position = store.position()?;
    let mut caught_up = CaughtUp { rebuilt: position.is_none(), ..CaughtUp::default() };
    let deliver_policy = match position {
        Some(position) if position.sequence >= target => return Ok(caught_up),
        Some(position) => DeliverPolicy::ByStartSequence { start_sequence: position.sequence + 1 },
        None => DeliverPolicy::LastPerSubject,
    };
    let failed = |error: &dyn std::fmt::Display| ReplicaError::Stream(error.to_string());
    // Fences are among the subjects so that the target itself arrives and ends the reading.
    let config = pull::OrderedConfig {
        filter_subjects: vec![
            subjects.state_wildcard(),
            subjects.incident_wildcard(),
            subjects.mark_wildcard(),
            subjects.fence_wildcard(),
        ],
        deliver_policy,
        ..pull::OrderedConfig::default()
    };
    let consumer = output.create_consumer(config).await.map_err(|error| failed(&error))?;
    let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
    let mut changes = Changes::default();
    let mut reached = 0;
    while reached < target {
        let message = messages.next().await.ok_or_else(|| ReplicaError::Stream("it ended".to_owned()))?;
        let message = message.map_err(|error| failed(&error))?;
        reached = message.info().map_err(|error| failed(&error))?.stream_sequence;
        match subjects.parse_output(&message.subject) {
            Some(OutputSubject::State { .. }) => {
                caught_up.states_count += 1;
                changes.puts.extend(put(&message.payload, policy)?);
            }
            Some(OutputSubject::Mark { partition }) => match serde_json::from_slice::<Mark>(&message.payload) {
                Ok(mark) => changes.marks.push((partition, mark)),
                Err(error) => tracing::error!(nats.sequence = reached, %error, "skipped a mark that is not ours"),
            },
            Some(OutputSubject::Incident { .. }) => match serde_json::from_slice::<IncidentBody>(&message.payload) {
                Ok(incident) => changes.incidents.push(incident),
                Err(error) => tracing::error!(nats.sequence = reached, %error, "skipped an incident that is not ours"),
            },
            _ => {}
        }
        if changes.puts.len() >= CHUNK || reached >= target {
            changes.position = Some(Position { stream_created_ns, sequence: reached });
            tokio::task::block_in_place(|| store.apply(&changes))?;
            changes = Changes::default();
        }
    }
    Ok(caught_up)
}

/// The put for a state message. Nobody but relink publishes states; one that is not ours is no reason never to start again.
fn put(payload: &[u8], policy: &Policy) -> Result<Option<Put>, BadRecord> {
    match Put::of_state_message(payload, policy) {
        Ok(put) => Ok(Some(put)),
        Err(error @ BadRecord::FutureVersion { .. }) => Err(error),
        Err(error) => {
            tracing::error!(%error, "skipped a state that is not ours");
            Ok(None)
        }
    }
}

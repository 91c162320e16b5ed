//! Catching up: messages of the output stream become changes of the store. [`Coverage`] tracks which messages the store has.
//!
//! A start, a take-over and a rebuild use the same mechanism. The node reads the messages after the store's position or, for an empty
//! store, the last message of each subject, and applies them like a commit. It may repeat this or stop anywhere, because a put that is not
//! newer than the stored record changes nothing.

use std::collections::BTreeMap;

use super::input::{OutputKind, OutputMessage};
use super::lost_states::Expected;
use crate::contract::{BadRecord, CommittedOffset, IncidentBody};
use crate::link::Policy;
use crate::store::{Changes, Position, Put, Witness};

/// The most threads that decode messages, and the fewest messages for which a thread is worth its start.
const THREADS_MAX: usize = 4;
const MESSAGES_PER_THREAD_MIN: usize = 100;

/// The changes from some messages.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub(super) changes: Changes,
    pub(super) states_count: u64,
    /// The sequences of unreadable messages, each with an error text.
    pub(super) skipped: Vec<(u64, String)>,
}

/// Turns messages into changes, except those that the store has already. `expected` gets what the store must have after them.
///
/// # Errors
/// A record of a newer version of relink, because the node cannot decide about that link without it. Other unreadable messages are skipped:
/// only relink publishes on this stream, and one foreign message must not prevent every start.
pub(super) fn read(
    messages: &[OutputMessage],
    known: &Coverage,
    expected: &mut Expected,
    policy: &Policy,
) -> Result<Read, BadRecord> {
    let mut read = Read::default();
    let mut puts = decode_states(messages, policy).into_iter();
    for (OutputMessage { sequence, kind, body }, put) in messages.iter().zip(&mut puts) {
        // The node may have learned during the read that a commit of its own is stored.
        if known.has(*sequence) {
            continue;
        }
        let problem = match kind {
            OutputKind::State => {
                read.states_count += 1;
                expected.state(*sequence);
                match put {
                    Some(Ok(put)) => {
                        read.changes.puts.push(put);
                        continue;
                    }
                    Some(Err(error @ BadRecord::FutureVersion { .. })) => return Err(error),
                    Some(Err(error)) => error.to_string(),
                    None => continue,
                }
            }
            OutputKind::Offset(partition) => match serde_json::from_slice::<CommittedOffset>(body) {
                Ok(offset) => {
                    read.changes.offsets.push((*partition, offset));
                    continue;
                }
                Err(error) => error.to_string(),
            },
            OutputKind::Incident => match serde_json::from_slice::<IncidentBody>(body) {
                Ok(incident) => {
                    read.changes.incidents.push(incident);
                    continue;
                }
                Err(error) => error.to_string(),
            },
            OutputKind::Commit => {
                expected.commit(*sequence, body);
                continue;
            }
            OutputKind::Other => continue,
        };
        read.skipped.push((*sequence, problem));
    }
    Ok(read)
}

/// The put of each state; `None` for other messages. Decoding takes half of the time of a rebuild, so several threads do it.
fn decode_states(messages: &[OutputMessage], policy: &Policy) -> Vec<Option<Result<Put, BadRecord>>> {
    let decode = |message: &OutputMessage| {
        (message.kind == OutputKind::State).then(|| Put::of_state_message(&message.body, policy))
    };
    let threads_count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    if messages.len() < MESSAGES_PER_THREAD_MIN * threads_count {
        return messages.iter().map(decode).collect();
    }
    std::thread::scope(|scope| {
        let parts = messages.chunks(messages.len().div_ceil(threads_count));
        let threads: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(decode).collect::<Vec<_>>())).collect();
        let decoded = threads.into_iter().map(|thread| thread.join());
        decoded.flat_map(|decoded| decoded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// The messages of the output stream that the store has: all messages up to a sequence, and after it our own commits. Between these commits
/// there may be messages of other nodes that this node has not read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    stream_created_ns: i64,
    /// The store has every message up to this sequence; `None` for an empty store.
    reached: Option<u64>,
    /// While the stream has this message, it has all messages before it too.
    witness: Option<Witness>,
    /// The first and the last sequence of each run of own commits after `reached`.
    runs: BTreeMap<u64, u64>,
}

impl Coverage {
    /// The coverage of a store at this position.
    pub(super) fn at(stream_created_ns: i64, position: Option<Position>) -> Self {
        let (reached, witness) = position.map_or((None, None), |position| (Some(position.sequence), position.witness));
        Self { stream_created_ns, reached, witness, runs: BTreeMap::new() }
    }

    /// The store has every message up to this sequence; `None` for an empty store.
    pub(super) fn reached(&self) -> Option<u64> {
        self.reached
    }

    /// The position to write with the next changes of the store.
    pub(super) fn position(&self) -> Option<Position> {
        let Self { stream_created_ns, ref witness, .. } = *self;
        self.reached.map(|sequence| Position { stream_created_ns, sequence, witness: witness.clone() })
    }

    /// The message that must still be on the stream, if the store has any.
    pub(super) fn witness(&self) -> Option<&Witness> {
        self.witness.as_ref().filter(|_| self.reached.is_some())
    }

    /// Makes the message at `sequence` the witness: this node wrote it, and the store has every earlier message of this node.
    pub(super) fn witnessed(&mut self, sequence: u64, owner: &str) {
        self.witness = Some(Witness { sequence, owner: owner.to_owned() });
    }

    /// The highest sequence that the store has; 0 for none.
    pub(super) fn last(&self) -> u64 {
        self.runs.last_key_value().map(|(_, last)| *last).or(self.reached).unwrap_or(0)
    }

    pub(super) fn runs_count(&self) -> usize {
        self.runs.len()
    }

    /// Whether the store has the message already. To apply it again could set a committed offset back.
    pub(super) fn has(&self, sequence: u64) -> bool {
        self.reached.is_some_and(|reached| sequence <= reached)
            || self.runs.range(..=sequence).next_back().is_some_and(|(_, last)| sequence <= *last)
    }

    /// Every message up to `sequence` has been read.
    pub(super) fn read_to(&mut self, sequence: u64) {
        self.reached = Some(self.reached.map_or(sequence, |reached| reached.max(sequence)));
        self.join();
    }

    /// A commit of this node is stored at the sequences `first` to `last`.
    pub(super) fn committed(&mut self, first: u64, last: u64) {
        let end = self.runs.entry(first).or_insert(last);
        *end = last.max(*end);
        self.join();
    }

    fn join(&mut self) {
        let Some(mut reached) = self.reached else { return };
        while let Some(entry) = self.runs.first_entry().filter(|entry| *entry.key() <= reached + 1) {
            reached = reached.max(entry.remove());
        }
        self.reached = Some(reached);
        // Adjacent runs become one run.
        let mut joined: BTreeMap<u64, u64> = BTreeMap::new();
        for (first, last) in std::mem::take(&mut self.runs) {
            match joined.last_entry() {
                Some(mut before) if first <= *before.get() + 1 => {
                    let end = last.max(*before.get());
                    before.insert(end);
                }
                Some(_) | None => drop(joined.insert(first, last)),
            }
        }
        self.runs = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(reached: Option<u64>) -> Coverage {
        Coverage::at(7, reached.map(|sequence| Position { stream_created_ns: 7, sequence, witness: None }))
    }

    #[test]
    fn own_commits_advance_the_position_while_no_other_node_writes() {
        let mut known = coverage(Some(10));
        known.committed(11, 14);
        known.committed(15, 15);
        assert_eq!((known.reached(), known.last(), known.runs_count()), (Some(15), 15, 0));
    }

    #[test]
    fn the_position_does_not_pass_a_gap_before_it_has_been_read() {
        let mut known = coverage(Some(10));
        known.committed(13, 14);
        known.committed(15, 20);
        known.committed(30, 31);
        assert_eq!((known.reached(), known.last(), known.runs_count()), (Some(10), 31, 2));
        assert!(known.has(13) && known.has(20) && known.has(30));
        assert!(!known.has(12) && !known.has(21) && !known.has(32));
        known.read_to(12);
        assert_eq!((known.reached(), known.runs_count()), (Some(20), 1));
        known.read_to(29);
        known.witnessed(31, "us");
        let witness = Some(Witness { sequence: 31, owner: "us".to_owned() });
        assert_eq!(known.position(), Some(Position { stream_created_ns: 7, sequence: 31, witness }));
    }

    #[test]
    fn a_commit_that_has_been_read_already_changes_nothing() {
        let mut known = coverage(Some(10));
        known.read_to(20);
        known.committed(12, 15);
        known.committed(19, 22);
        assert_eq!((known.reached(), known.last(), known.runs_count()), (Some(22), 22, 0));
    }

    #[test]
    fn messages_that_the_store_has_are_not_applied_again() {
        let offset = |sequence: u64| OutputMessage {
            sequence,
            kind: OutputKind::Offset(0),
            body: serde_json::to_vec(&CommittedOffset {
                stream_created_ns: 1,
                sequence,
                stored_at_ns: 1,
                journals: Vec::new(),
            })
            .unwrap()
            .into(),
        };
        let policy = Policy::new(crate::link::PolicySettings::default()).unwrap();
        let mut known = coverage(Some(10));
        known.committed(11, 12);
        known.committed(15, 16);
        let read = read(
            &[offset(11), offset(12), offset(13), offset(15), offset(17)],
            &known,
            &mut Expected::default(),
            &policy,
        )
        .unwrap();
        let sequences: Vec<u64> = read.changes.offsets.iter().map(|(_, offset)| offset.sequence).collect();
        assert_eq!(sequences, [13, 17]);
    }

    #[test]
    fn an_empty_store_has_no_position() {
        let mut known = coverage(None);
        known.committed(3, 4);
        assert_eq!((known.position(), known.last()), (None, 4));
        known.read_to(2);
        assert_eq!(known.reached(), Some(4));
    }
}

//! Catching up: what messages of the output stream come to, and how much of the stream the store has.
//!
//! Start, take-over and rebuild are this one thing: read what is behind the store's position, or, for an empty store, the last message of
//! each subject, and apply it like a commit. It may be repeated or interrupted anywhere: a put that is not newer changes nothing.

use std::collections::BTreeMap;

use super::input::{OutputKind, OutputMessage};
use crate::contract::{BadRecord, IncidentBody, Mark};
use crate::link::Policy;
use crate::store::{Changes, Position, Put, Witness};

/// What some messages come to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub(super) changes: Changes,
    pub(super) states_count: u64,
    /// Messages that are not ours, and what is wrong with them.
    pub(super) skipped: Vec<(u64, String)>,
}

/// Reads messages, but those that the store has by another way.
///
/// # Errors
/// A record of a newer relink: nothing can be decided without it. Other unreadable messages are skipped: only relink publishes here, and
/// a foreign message is no reason never to start again.
pub(super) fn read(messages: &[OutputMessage], known: &Coverage, policy: &Policy) -> Result<Read, BadRecord> {
    let mut read = Read::default();
    for OutputMessage { sequence, kind, body } in messages {
        // A commit of ours may have become known while it was being read.
        if known.has(*sequence) {
            continue;
        }
        let problem = match kind {
            OutputKind::State => {
                read.states_count += 1;
                match Put::of_state_message(body, policy) {
                    Ok(put) => {
                        read.changes.puts.push(put);
                        continue;
                    }
                    Err(error @ BadRecord::FutureVersion { .. }) => return Err(error),
                    Err(error) => error.to_string(),
                }
            }
            OutputKind::Mark(partition) => match serde_json::from_slice::<Mark>(body) {
                Ok(mark) => {
                    read.changes.marks.push((*partition, mark));
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
            OutputKind::Other => continue,
        };
        read.skipped.push((*sequence, problem));
    }
    Ok(read)
}

/// How much of the output stream the store has: everything up to a sequence, and beyond that our own commits, between which there may
/// be messages of other nodes that nobody has read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    stream_created_ns: i64,
    /// `None`: nothing at all.
    reached: Option<u64>,
    /// Proves that the stream still has all of this.
    witness: Option<Witness>,
    /// First and last sequence of each run of own commits beyond `reached`.
    islands: BTreeMap<u64, u64>,
}

impl Coverage {
    /// That of a store at this position.
    pub(super) fn at(stream_created_ns: i64, position: Option<Position>) -> Self {
        let (reached, witness) = position.map_or((None, None), |position| (Some(position.sequence), position.witness));
        Self { stream_created_ns, reached, witness, islands: BTreeMap::new() }
    }

    /// Everything up to here is in the store.
    pub(super) fn reached(&self) -> Option<u64> {
        self.reached
    }

    /// The store's position, for its next write.
    pub(super) fn position(&self) -> Option<Position> {
        let Self { stream_created_ns, ref witness, .. } = *self;
        self.reached.map(|sequence| Position { stream_created_ns, sequence, witness: witness.clone() })
    }

    /// The message that has to be on the stream still, if anything is known of it.
    pub(super) fn witness(&self) -> Option<&Witness> {
        self.witness.as_ref().filter(|_| self.reached.is_some())
    }

    /// This process wrote a message at `sequence`, and has read or written everything of its own before it.
    pub(super) fn witnessed(&mut self, sequence: u64, owner: &str) {
        self.witness = Some(Witness { sequence, owner: owner.to_owned() });
    }

    /// The last sequence that is in the store; 0 for none.
    pub(super) fn last(&self) -> u64 {
        self.islands.last_key_value().map(|(_, last)| *last).or(self.reached).unwrap_or(0)
    }

    pub(super) fn islands_count(&self) -> usize {
        self.islands.len()
    }

    /// Whether the store has the message already, and perhaps newer ones: applying it would take a committed offset back.
    pub(super) fn has(&self, sequence: u64) -> bool {
        self.reached.is_some_and(|reached| sequence <= reached)
            || self.islands.range(..=sequence).next_back().is_some_and(|(_, last)| sequence <= *last)
    }

    /// Everything up to `sequence` has been read.
    pub(super) fn read_to(&mut self, sequence: u64) {
        self.reached = Some(self.reached.map_or(sequence, |reached| reached.max(sequence)));
        self.join();
    }

    /// A commit of ours is stored from `first` to `last`.
    pub(super) fn committed(&mut self, first: u64, last: u64) {
        let end = self.islands.entry(first).or_insert(last);
        *end = last.max(*end);
        self.join();
    }

    fn join(&mut self) {
        let Some(mut reached) = self.reached else { return };
        while let Some(entry) = self.islands.first_entry().filter(|entry| *entry.key() <= reached + 1) {
            reached = reached.max(entry.remove());
        }
        self.reached = Some(reached);
        // Runs that touch are one.
        let mut joined: BTreeMap<u64, u64> = BTreeMap::new();
        for (first, last) in std::mem::take(&mut self.islands) {
            match joined.last_entry() {
                Some(mut before) if first <= *before.get() + 1 => {
                    let end = last.max(*before.get());
                    before.insert(end);
                }
                Some(_) | None => drop(joined.insert(first, last)),
            }
        }
        self.islands = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(reached: Option<u64>) -> Coverage {
        Coverage::at(7, reached.map(|sequence| Position { stream_created_ns: 7, sequence, witness: None }))
    }

    #[test]
    fn own_commits_move_the_position_while_nobody_else_writes() {
        let mut known = coverage(Some(10));
        known.committed(11, 14);
        known.committed(15, 15);
        assert_eq!((known.reached(), known.last(), known.islands_count()), (Some(15), 15, 0));
    }

    #[test]
    fn a_gap_is_not_stepped_over_until_it_has_been_read() {
        let mut known = coverage(Some(10));
        known.committed(13, 14);
        known.committed(15, 20);
        known.committed(30, 31);
        assert_eq!((known.reached(), known.last(), known.islands_count()), (Some(10), 31, 2));
        assert!(known.has(13) && known.has(20) && known.has(30));
        assert!(!known.has(12) && !known.has(21) && !known.has(32));
        known.read_to(12);
        assert_eq!((known.reached(), known.islands_count()), (Some(20), 1));
        known.read_to(29);
        known.witnessed(31, "us");
        let witness = Some(Witness { sequence: 31, owner: "us".to_owned() });
        assert_eq!(known.position(), Some(Position { stream_created_ns: 7, sequence: 31, witness }));
    }

    #[test]
    fn what_has_been_read_and_is_then_said_to_be_ours_changes_nothing() {
        let mut known = coverage(Some(10));
        known.read_to(20);
        known.committed(12, 15);
        known.committed(19, 22);
        assert_eq!((known.reached(), known.last(), known.islands_count()), (Some(22), 22, 0));
    }

    #[test]
    fn what_the_store_has_is_not_applied_again() {
        let mark = |sequence: u64| OutputMessage {
            sequence,
            kind: OutputKind::Mark(0),
            body: serde_json::to_vec(&Mark { stream_created_ns: 1, sequence, stored_at_ns: 1 }).unwrap().into(),
        };
        let policy = Policy::new(crate::link::Settings::default()).unwrap();
        let mut known = coverage(Some(10));
        known.committed(11, 12);
        known.committed(15, 16);
        let read = read(&[mark(11), mark(12), mark(13), mark(15), mark(17)], &known, &policy).unwrap();
        let sequences: Vec<u64> = read.changes.marks.iter().map(|(_, mark)| mark.sequence).collect();
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

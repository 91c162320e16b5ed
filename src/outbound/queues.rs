//! The messages of one target that are not accepted yet, in one queue for each link, without I/O.
//!
//! Only the first message of a queue is sent, so the messages of a link stay in order, and a message that fails delays
//! no other link. The consumer may deliver a message again, for example after the connection was lost; a message that
//! is in a queue, or that was accepted a moment ago, is recognised by its position.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// How many accepted messages are remembered, in case the consumer has delivered one of them again.
const ACCEPTED_MAX: usize = 4_096;

/// Where a message is stored. The order is that of the stream; a stream that was created again comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    /// When the stream was created, in nanoseconds since the Unix epoch.
    pub(super) created_ns: i128,
    /// The sequence in the stream.
    pub(super) sequence: u64,
    /// When the message was stored, in nanoseconds since the Unix epoch. A stream that lost its last messages gives
    /// their sequences to other messages.
    pub(super) stored_at_ns: i64,
}

/// The result of [`Queues::add`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// The message is in its queue now.
    New,
    /// The message was in its queue already.
    Known,
    /// The message was accepted before, so its delivery must only be acknowledged again.
    Accepted,
}

/// The queues.
#[derive(Debug)]
pub(super) struct Queues<T> {
    links: HashMap<String, Queue<T>>,
    /// The queues whose first message may be sent, in the order of their turn.
    ready: VecDeque<String>,
    /// The messages in all queues.
    held: BTreeSet<Position>,
    held_bytes: usize,
    /// The last accepted messages, and the order in which they are forgotten.
    accepted: BTreeSet<Position>,
    accepted_order: VecDeque<Position>,
}

#[derive(Debug)]
struct Queue<T> {
    messages: BTreeMap<Position, (usize, T)>,
    is_sending: bool,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self {
            links: HashMap::new(),
            ready: VecDeque::new(),
            held: BTreeSet::new(),
            held_bytes: 0,
            accepted: BTreeSet::new(),
            accepted_order: VecDeque::new(),
        }
    }
}

impl<T: Clone> Queues<T> {
    /// Adds a message of this many bytes to the queue of `link`, in the order of the stream.
    pub(super) fn add(&mut self, link: &str, position: Position, bytes: usize, message: T) -> Added {
        if self.accepted.contains(&position) {
            return Added::Accepted;
        }
        if !self.held.insert(position) {
            return Added::Known;
        }
        self.held_bytes += bytes;
        let queue = self.links.entry(link.to_owned()).or_insert_with(|| {
            self.ready.push_back(link.to_owned());
            Queue { messages: BTreeMap::new(), is_sending: false }
        });
        queue.messages.insert(position, (bytes, message));
        Added::New
    }

    /// The first message of the next queue. Its queue gives no other one until [`Queues::accepted`].
    pub(super) fn next(&mut self) -> Option<(String, Position, T)> {
        let link = self.ready.pop_front()?;
        let queue = self.links.get_mut(&link)?;
        let (&position, (_, message)) = queue.messages.first_key_value()?;
        queue.is_sending = true;
        Some((link, position, message.clone()))
    }

    /// Removes a message that the target has accepted, or that is a dead letter.
    pub(super) fn accepted(&mut self, link: &str, position: Position) {
        let Some(queue) = self.links.get_mut(link) else { return };
        if let Some((bytes, _)) = queue.messages.remove(&position) {
            self.held_bytes -= bytes;
            self.held.remove(&position);
            self.accepted.insert(position);
            self.accepted_order.push_back(position);
        }
        if queue.messages.is_empty() {
            self.links.remove(link);
        } else if std::mem::take(&mut queue.is_sending) {
            self.ready.push_back(link.to_owned());
        }
        if self.accepted_order.len() > ACCEPTED_MAX
            && let Some(oldest) = self.accepted_order.pop_front()
        {
            self.accepted.remove(&oldest);
        }
    }

    /// How many messages are in the queues.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The bytes of these messages.
    pub(super) const fn bytes(&self) -> usize {
        self.held_bytes
    }

    /// How many messages of the queues have this position or an earlier one.
    pub(super) fn count_to(&self, last: Position) -> usize {
        self.held.range(..=last).count()
    }

    /// All messages, in the order of the stream.
    pub(super) fn all(&self) -> Vec<T> {
        let mut all: Vec<_> = self.links.values().flat_map(|queue| &queue.messages).collect();
        all.sort_unstable_by_key(|(position, _)| **position);
        all.into_iter().map(|(_, (_, message))| message.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Position {
        Position { created_ns: 1, sequence, stored_at_ns: 7 }
    }

    fn next(queues: &mut Queues<u64>) -> Option<u64> {
        queues.next().map(|(_, _, message)| message)
    }

    #[test]
    fn the_messages_of_a_link_are_sent_in_order_and_one_at_a_time() {
        let mut queues = Queues::default();
        for (link, sequence) in [("a", 3), ("a", 1), ("b", 2), ("a", 4)] {
            assert_eq!(queues.add(link, at(sequence), 10, sequence), Added::New);
        }
        assert_eq!((next(&mut queues), next(&mut queues), next(&mut queues)), (Some(1), Some(2), None));
        queues.accepted("a", at(1));
        assert_eq!((next(&mut queues), next(&mut queues)), (Some(3), None));
        assert_eq!((queues.len(), queues.bytes(), queues.all()), (3, 30, vec![2, 3, 4]));
        queues.accepted("b", at(2));
        queues.accepted("a", at(3));
        assert_eq!(next(&mut queues), Some(4));
        queues.accepted("a", at(4));
        assert_eq!((queues.len(), queues.bytes(), next(&mut queues)), (0, 0, None));
    }

    #[test]
    fn a_repeated_delivery_is_not_sent_again() {
        let mut queues = Queues::default();
        assert_eq!(queues.add("a", at(1), 1, 1), Added::New);
        assert_eq!(queues.add("a", at(1), 1, 1), Added::Known);
        assert_eq!(next(&mut queues), Some(1));
        queues.accepted("a", at(1));
        assert_eq!(queues.add("a", at(1), 1, 1), Added::Accepted);
        // A stream that lost its end gives the sequence to another message.
        let other = Position { stored_at_ns: 8, ..at(1) };
        assert_eq!(queues.add("a", other, 1, 9), Added::New);
        assert_eq!((next(&mut queues), queues.count_to(at(1)), queues.count_to(other)), (Some(9), 0, 1));
    }
}

//! A model of JetStream, as far as relink relies on it: an input stream with its consumers, an output stream with batches, and dead
//! letters.
//!
//! The model does not interpret messages and contains no rule of relink. The model shows how a server behaves; the
//! faults of a server are injected from outside, by `world`.
//!
//! - `input`: the input stream, its consumers, and their pull requests
//! - `output`: the output stream, staged batches and fences
//! - `jobs`: the consumer of the jobs on the output stream

mod input;
mod jobs;
mod output;

use std::collections::BTreeMap;

pub(super) use self::input::{InputStream, Pull};
pub(super) use self::jobs::Jobs;
pub(super) use self::output::{FOLLOWS_ANYTHING, OutputStream, Stored};
use crate::engine::DeadDelivery;

/// The time within which a dead letter with a known id is a duplicate (`duplicate_window` of the dead letter stream).
const DEAD_LETTERS_WINDOW_MS: i64 = 3_600_000;

/// The three streams.
pub(super) struct JetStream {
    pub(super) input: InputStream,
    pub(super) output: OutputStream,
    pub(super) dead_letters: DeadLetters,
    pub(super) jobs: Jobs,
}

impl JetStream {
    pub(super) fn new(partitions: u16, now_ns: i64, ack_wait_ms: i64) -> Self {
        Self {
            input: InputStream::new(partitions, now_ns, ack_wait_ms),
            output: OutputStream::new(now_ns),
            dead_letters: DeadLetters::default(),
            jobs: Jobs::default(),
        }
    }
}

/// The dead letters.
#[derive(Default)]
pub(super) struct DeadLetters {
    pub(super) all: Vec<DeadDelivery>,
    /// The time at which a dead letter with this id was stored last.
    known: BTreeMap<String, i64>,
}

impl DeadLetters {
    /// Stores a dead letter, unless it is a duplicate; returns whether it was stored.
    pub(super) fn store(&mut self, id: String, dead_letter: DeadDelivery, now_ms: i64) -> bool {
        let known = self.known.get(&id).is_some_and(|at| now_ms - at < DEAD_LETTERS_WINDOW_MS);
        if !known {
            self.known.insert(id, now_ms);
            self.all.push(dead_letter);
        }
        !known
    }
}

//! JETSTREAM, as far as relink relies on it: an input stream with its consumers, an output stream that takes batches, and dead letters.
//!
//! Nothing here knows what a message means, and no rule of relink's is here. What a server does wrong is done to it by `world`, from
//! outside; here is what it does at all.
//!
//! - `input`: the input stream, its consumers, and the readers that wait at them
//! - `output`: the output stream, staged batches and fences

mod input;
mod output;

use std::collections::BTreeMap;

pub(super) use self::input::{InputStream, Pull};
pub(super) use self::output::{FOLLOWS_ANYTHING, OutputStream, Stored};
use crate::engine::Dead;

/// Within this time a letter with an id that is there already is the same letter (`duplicate_window` of the dead letters).
const LETTERS_WINDOW_MS: i64 = 3_600_000;

/// The three streams.
pub(super) struct JetStream {
    pub(super) input: InputStream,
    pub(super) output: OutputStream,
    pub(super) letters: Letters,
}

impl JetStream {
    pub(super) fn new(partitions: u16, now_ns: i64, ack_wait_ms: i64) -> Self {
        Self {
            input: InputStream::new(partitions, now_ns, ack_wait_ms),
            output: OutputStream::new(now_ns),
            letters: Letters::default(),
        }
    }
}

/// The dead letters.
#[derive(Default)]
pub(super) struct Letters {
    pub(super) all: Vec<Dead>,
    /// When a letter of this id was stored last.
    known: BTreeMap<String, i64>,
}

impl Letters {
    /// Stores a letter, unless one of its id has been stored lately; whether it did.
    pub(super) fn store(&mut self, id: String, letter: Dead, now_ms: i64) -> bool {
        let known = self.known.get(&id).is_some_and(|at| now_ms - at < LETTERS_WINDOW_MS);
        if !known {
            self.known.insert(id, now_ms);
            self.all.push(letter);
        }
        !known
    }
}

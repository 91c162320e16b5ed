//! The log of stored dead letters: the first ones at once, and then one line a second. After a change of Belvo's codes, thousands of dead
//! letters can be stored in a second, and a line for each would hide all others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::dead_letter::DeadLetter;

/// The characters of a detail that a line shows.
const DETAIL_SHOWN_MAX: usize = 200;

/// The least time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Counts stored dead letters. All clones write one log.
#[derive(Clone, Debug, Default)]
pub(super) struct DeadLetterLog(Arc<Mutex<Pending>>);

/// The dead letters that are not in the log yet.
#[derive(Debug, Default)]
struct Pending {
    by_reason: BTreeMap<&'static str, u64>,
    example: Option<Example>,
    /// Whether a task writes the next line.
    has_writer: bool,
}

/// The last dead letter of a line.
#[derive(Debug)]
struct Example {
    sequence: u64,
    input_sequence: Option<u64>,
    detail: String,
}

impl DeadLetterLog {
    /// Counts letters that were stored, each with its sequence. Must be called inside a tokio runtime.
    pub(super) fn stored<'a>(&self, letters: impl IntoIterator<Item = (&'a DeadLetter, u64)>) {
        let mut pending = self.pending();
        let mut last = None;
        for (letter, sequence) in letters {
            *pending.by_reason.entry(letter.reason.as_str()).or_default() += 1;
            last = Some((letter, sequence));
        }
        let Some((letter, sequence)) = last else { return };
        let input_sequence = letter.input.as_ref().map(|input| input.sequence);
        pending.example =
            Some(Example { sequence, input_sequence, detail: letter.detail.chars().take(DETAIL_SHOWN_MAX).collect() });
        if pending.has_writer {
            return;
        }
        pending.has_writer = true;
        pending.write();
        drop(pending);
        let log = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LINE_EVERY).await;
                let mut pending = log.pending();
                if !pending.write() {
                    pending.has_writer = false;
                    return;
                }
            }
        });
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// Writes a line about all pending letters. Returns whether there were any.
    fn write(&mut self) -> bool {
        let by_reason = std::mem::take(&mut self.by_reason);
        let Some(Example { sequence, input_sequence, detail }) = self.example.take() else { return false };
        let reasons: Vec<_> = by_reason.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        tracing::warn!(
            dead_letters.count = by_reason.values().sum::<u64>(),
            dead_letters.by_reason = reasons.join(", "),
            dead_letter.sequence = sequence,
            input.sequence = input_sequence,
            "messages were stored as dead letters; the last one: {detail}"
        );
        true
    }
}

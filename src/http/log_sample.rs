//! Limits the log of failed requests: a flood of them must not fill a disk.
//!
//! Of each kind of problem the first lines are logged. After them one line a second has the number of further ones
//! and an example, until there was none for a while. The metrics count every request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::problem::Severity;

/// The lines that are logged one by one.
const FIRST: u32 = 10;

/// The interval of the lines with a number.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

/// After this time without a problem of a kind, its next ones are first ones again.
const QUIET: Duration = Duration::from_secs(10);

/// The kind of a problem, and its level: a flood of warnings must not hide an error of the same kind.
type Key = (&'static str, Severity);

/// The recent lines of each kind of problem.
#[derive(Clone, Default)]
pub(super) struct LogSample(Arc<Mutex<HashMap<Key, Recent>>>);

struct Recent {
    last: Instant,
    logged: u32,
    /// How many lines were not logged since the last summary.
    left_out: u64,
    /// The last line that was not logged.
    example: String,
}

impl LogSample {
    /// Whether to log a line about a problem of this kind. If not, it is counted, and `summary` will be called with
    /// the number of such lines and with the last of them.
    pub(super) fn takes(&self, kind: Key, line: &str, summary: impl FnOnce(u64, &str) + Send + 'static) -> bool {
        let now = Instant::now();
        let mut kinds = self.kinds();
        let recent =
            kinds.entry(kind).or_insert_with(|| Recent { last: now, logged: 0, left_out: 0, example: String::new() });
        if now.duration_since(recent.last) > QUIET {
            recent.logged = 0;
        }
        recent.last = now;
        if recent.logged < FIRST {
            recent.logged += 1;
            return true;
        }
        recent.left_out += 1;
        line.clone_into(&mut recent.example);
        if recent.left_out == 1 {
            let sample = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(SUMMARY_EVERY).await;
                let (count, example) = sample.take(kind);
                summary(count, &example);
            });
        }
        false
    }

    fn take(&self, kind: Key) -> (u64, String) {
        let mut kinds = self.kinds();
        let recent = kinds.get_mut(&kind);
        recent
            .map(|recent| (std::mem::take(&mut recent.left_out), std::mem::take(&mut recent.example)))
            .unwrap_or_default()
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Key, Recent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

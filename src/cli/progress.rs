//! The progress of long work, as one line on standard error that replaces itself. Without a terminal nothing is printed.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::clock;

/// The least time between two lines, so that a terminal is not the slowest part of the work.
const EVERY: Duration = Duration::from_millis(100);

/// A line on standard error.
pub(super) struct Progress {
    /// When the next line may be printed; `None` without a terminal.
    next: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let next = std::io::stderr().is_terminal().then(clock::instant);
        Self { next, is_shown: false }
    }

    /// Shows the line, unless the last one is very new. The text must be printable.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        let now = clock::instant();
        if self.next.is_some_and(|next| next <= now) {
            (self.next, self.is_shown) = (Some(now + EVERY), true);
            // To the first column, and erases the line.
            Self::write(&format!("\r\u{1b}[K{}", text()));
        }
    }

    fn write(text: &str) {
        let mut stderr = std::io::stderr();
        // Standard error may be a closed terminal.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            Self::write("\r\u{1b}[K");
        }
    }
}

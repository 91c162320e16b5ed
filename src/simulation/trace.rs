//! The last events of a run, as text. Events are recorded only on request.

use std::collections::VecDeque;

/// The number of lines that are kept.
const LINES_MAX: usize = 20_000;

pub(super) struct Trace {
    is_on: bool,
    lines: VecDeque<String>,
}

impl Trace {
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, lines: VecDeque::new() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn record(&mut self, at_ms: i64, line: impl FnOnce() -> String) {
        if !self.is_on {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>12.3} s  {}", at_ms as f64 / 1_000.0, line()));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

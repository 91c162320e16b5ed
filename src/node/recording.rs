//! A log of inputs, one JSON line each, and what a node makes of it: the same outputs every time.
//!
//! Such a log holds what was delivered, and so perhaps a secret: it is for simulations and for rehearsals, and no part of relink writes
//! one while it serves.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Input, Node, NodeOptions, Output};
use crate::link::Timestamp;
use crate::store::{Store, StoreError};

/// A line of a log.
#[derive(Serialize, Deserialize)]
pub struct Recorded {
    /// When the input was handed in, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// It.
    pub input: Input,
}

/// Why a log could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is not an input.
    #[error("line {line} of the log cannot be read: {problem}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Recorded {
    /// The line for an input.
    pub fn line(now: Timestamp, input: &Input) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            at_ms: i64,
            input: &'a Input,
        }
        serde_json::to_string(&Line { at_ms: now.as_millis(), input }).expect("an input has string keys")
    }
}

/// What a node answers to a log, each output as its debug text. `store` is to be as it was when the log began; it is written as the log
/// says that it was.
///
/// # Errors
/// [`ReplayError`].
pub fn replay<S: Store + Clone>(options: NodeOptions, store: S, log: &str) -> Result<Vec<String>, ReplayError> {
    let mut node = Node::new(options, store.clone());
    let (mut writes, mut outputs) = (VecDeque::new(), Vec::new());
    for (index, line) in log.lines().enumerate() {
        let recorded: Recorded =
            serde_json::from_str(line).map_err(|problem| ReplayError::Line { line: index + 1, problem })?;
        if let Input::Applied { .. } | Input::StoreRestarted { .. } = recorded.input {
            match writes.pop_front() {
                Some(Some(changes)) => store.apply(&changes)?,
                Some(None) => drop(store.restart_empty()?),
                None => {}
            }
        }
        node.handle(Timestamp::from_millis(recorded.at_ms), recorded.input);
        while let Some(output) = node.poll_output() {
            outputs.push(format!("{output:?}"));
            match output {
                Output::Apply { changes, .. } => writes.push_back(Some(changes)),
                Output::RestartStore { .. } => writes.push_back(None),
                _ => {}
            }
        }
    }
    Ok(outputs)
}

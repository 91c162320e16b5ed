//! A log of inputs, one JSON line each, and its replay. A node gives the same outputs at every replay.
//!
//! A log has the payloads of deliveries, which may contain secrets. So only simulations and rehearsals write a log; `relink serve` never
//! does.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Input, Node, NodeOptions, Output};
use crate::link::Timestamp;
use crate::store::{Store, StoreError};

/// One line of a log.
#[derive(Serialize, Deserialize)]
pub struct Recorded {
    /// The time at which the node handled the input, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The input.
    pub input: Input,
}

/// The reason why a log could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is not a recorded input.
    #[error("line {line} of the log cannot be read: {problem}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The error of the JSON parser.
        problem: serde_json::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Recorded {
    /// Writes an input as one line of a log.
    pub fn line(now: Timestamp, input: &Input) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            at_ms: i64,
            input: &'a Input,
        }
        serde_json::to_string(&Line { at_ms: now.as_millis(), input }).expect("an input has string keys")
    }
}

/// Hands the inputs of a log to a new node, and returns the node's outputs as debug texts. `store` must have the same content as at the
/// beginning of the log; the replay repeats the writes whose answers are in the log.
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

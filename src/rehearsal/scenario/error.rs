//! The errors of a scenario: a file that cannot be read, and a scenario that failed.

use std::time::Duration;

use belvo_sandbox::ControlError;

/// A scenario file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem} (column {column})")]
pub struct ScenarioError {
    /// The path of the file, as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// The mistake and the expected form.
    pub problem: String,
}

/// The failure of a scenario.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}\n{received}")]
pub struct Failure {
    /// The step with its line in the file, or the final comparison.
    pub place: String,
    /// The problem.
    pub problem: PlayError,
    /// All messages that relink had published until then.
    pub received: String,
}

/// The problem of a step.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// A wait ended without its message.
    #[error("{what} did not arrive within {}", humantime::format_duration(*.within))]
    Late {
        /// The expected message or state.
        what: String,
        /// The limit of the wait.
        within: Duration,
    },
    /// The result differs from the file.
    #[error("{0}")]
    Unexpected(String),
    /// The sandbox refused an action.
    #[error("the sandbox refused: {0}")]
    Sandbox(#[from] ControlError),
    /// relink or the sandbox could not be reached.
    #[error("no response: {0}")]
    Http(#[from] reqwest::Error),
    /// NATS could not be reached, or does not have the stream.
    #[error("NATS: {0}")]
    Nats(String),
}

//! Why a scenario file cannot be read, and why a scenario did not end as it should.

use std::time::Duration;

use belvo_sandbox::ControlError;

/// A scenario file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem} (column {column})")]
pub struct ScenarioError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Why a scenario did not end as it should.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}\n{received}")]
pub struct Failure {
    /// The step, with its line in the file, or the end.
    pub place: String,
    /// What happened instead.
    pub problem: PlayError,
    /// Everything relink had published until then.
    pub received: String,
}

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// Something that was waited for did not come.
    #[error("{what} did not come within {}", humantime::format_duration(*.within))]
    Late {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// Something else happened than the file says.
    #[error("{0}")]
    Unexpected(String),
    /// The sandbox refused.
    #[error("the sandbox refused: {0}")]
    Sandbox(#[from] ControlError),
    /// relink or the sandbox could not be reached.
    #[error("no answer: {0}")]
    Http(#[from] reqwest::Error),
    /// NATS could not be reached, or has no such stream.
    #[error("NATS: {0}")]
    Nats(String),
}

//! Scenarios: short stories of a link that breaks, each with what must be true at the end, played against any relink.
//!
//! ```toml
//! title = "A late duplicate after the repair"
//! why = "…the trap it rehearses…"
//! [links]
//! maria = { institution = "erebor_mx_retail" }
//! [story]
//! steps = [
//!   { belvo = "refreshes", link = "maria", outcome = "login_error" },
//!   { hear = "update_required", link = "maria" },
//!   …
//! ]
//! [end]
//! maria = { state = "valid", notices = { update_required = 1, recovered = 1 } }
//! ```
//!
//! The whole vocabulary is in `scenarios/README.md`, beside the gallery. [`Scenario::parse`] reads (`reader`, `deeds`,
//! `fields` into `script`), [`play`] plays (`player`, `acts`). relink is met from outside only: its HTTP API
//! (`outside`) and the stream it publishes on (`ear`). Nothing waits by the clock: a step waits for what it names,
//! with a bound, and before anything is judged everything that was set in motion has come to rest.

mod acts;
mod args;
mod deeds;
mod ear;
mod fields;
mod outside;
mod player;
mod reader;
mod script;

use std::time::Duration;

use belvo_sandbox::{ControlError, SandboxConfig};
use secrecy::SecretString;

use self::reader::Setup;
use self::script::{Expectation, Part, Step};

pub use self::args::{ScenarioArgs, run};
pub use self::player::play;
pub use self::reader::ScenarioError;

/// A scenario, read from its file.
#[derive(Clone, Debug)]
pub struct Scenario {
    title: String,
    why: String,
    policy: toml::Table,
    belvo: Setup,
    links: Vec<Part>,
    steps: Vec<Step>,
    endings: Vec<Expectation>,
}

impl Scenario {
    /// What it is about.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The trap it rehearses.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// `[relink.policy]`: the settings of `[policy]` that the relink it is played against needs, so that a wait of
    /// minutes becomes one of milliseconds.
    pub fn policy(&self) -> &toml::Table {
        &self.policy
    }

    /// The sandbox it is to be played in.
    pub fn sandbox(&self, usual: SandboxConfig) -> SandboxConfig {
        self.belvo.apply(usual)
    }
}

/// The relink a scenario is played against. It must be configured with the sandbox as its Belvo.
#[derive(Clone, Debug)]
pub struct RelinkUnderTest {
    /// The base URL of its HTTP door.
    pub url: String,
    /// A bearer token of its API.
    pub api_token: SecretString,
    /// The NATS it publishes on.
    pub nats_url: String,
    /// Its output stream, `LINKS` unless it was given another prefix.
    pub stream: String,
}

/// Where what happens is told, a line at a time.
pub type Tell<'a> = &'a (dyn Fn(&str) + Sync);

/// Why a scenario did not end as it should.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}\n{heard}")]
pub struct Failure {
    /// The step, with its line in the file, or the end.
    pub place: String,
    /// What happened instead.
    pub problem: PlayError,
    /// Everything relink had said until then.
    pub heard: String,
}

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// Something that was waited for did not come.
    #[error("{what} did not come within {}", humantime::format_duration(*.within))]
    Late {
        /// What.
        what: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// Something else happened than what the file says.
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

//! Scenarios: a link breaks in one particular way, and the file says what must be true at the end. Each is played
//! against any relink.
//!
//! ```toml
//! title = "A late duplicate after the repair"
//! why = "…the mistake of a program that does not expect this…"
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
//! The whole vocabulary is in `scenarios/README.md`, beside the scenarios. [`Scenario::parse`] reads a `file`, whose
//! `table`s become `actions` with `values`; [`play`] plays it (`player`, `acts`). relink is met from outside only: its HTTP API
//! (`http`) and the stream it publishes on (`subscriber`). No step waits for a time to pass: it waits for the thing it
//! names, with a limit, and before anything is compared everything under way has come to its end.

mod actions;
mod acts;
mod args;
mod error;
mod file;
mod http;
mod player;
mod subscriber;
mod table;
mod values;

pub use self::args::{ScenarioArgs, run};
pub use self::error::{Failure, PlayError, ScenarioError};
pub use self::file::Scenario;
pub use self::player::{RelinkUnderTest, Tell, play};

//! Scenarios: a link breaks in one particular way, and the file states the expected result. A scenario can be played against any
//! relink.
//!
//! ```toml
//! title = "A late duplicate after the repair"
//! why = "…the mistake of a program that does not expect this…"
//! [links]
//! maria = { institution = "erebor_mx_retail" }
//! [scenario]
//! steps = [
//!   { belvo = "refreshes", link = "maria", outcome = "login_error" },
//!   { notice = "update_required", link = "maria" },
//!   …
//! ]
//! [end]
//! maria = { state = "valid", notices = { update_required = 1, recovered = 1 } }
//! ```
//!
//! `scenarios/README.md` describes all keys. [`Scenario::parse`] reads a `file`, whose `table`s become `actions` with
//! `values`; [`play`] plays it (`player`, `actors`). The player uses only relink's HTTP API (`http`) and its output stream
//! (`subscriber`). No step waits for a fixed time: it waits for a named message or state, with a limit, and each comparison
//! happens after all work in progress is done.

mod actions;
mod actors;
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
pub use self::player::{RelinkUnderTest, Report, play};

//! THE SIMULATION: the shipped node, jobs worker and reconciler against streams, disks, clocks and a Belvo that do everything wrong that they
//! may, from one seed.
//!
//! One seed is one run in virtual time: a few minutes of messages, troubles of the kinds that the seed knows (`chance`), then an end of all
//! troubles in which everything must come to rest. After every event the checkers look (`checkers`). The same seed gives the same run, so a
//! failure is repeated by its number. `fleet` is its sister: there nothing goes wrong with the bus, and users and banks are the subject.
//!
//! - `chance`: the dice, the kinds of trouble, and which of them a seed knows
//! - `jetstream`: a model of the streams; `bank`: what happens to links, and what is published; `belvo`: Belvo in a box
//! - `process`: the node and its store; `network`, `readers`: the way between them and the streams; `troubles`: what strikes by itself
//! - `crew`: the worker and the reconciler of a process; `errands`: the way between them, Belvo and the streams
//! - `world`: what happens next; `checkers`: what must hold
//! - `saboteur`: planted bugs, to test the test; `search`: many seeds, and a failure made short; `args`: the command line
//!
//! Nothing here is imported by what serves. It must never: decide anything about a link, read a clock of its own, or be loosened until it
//! is green.

mod args;
mod bank;
mod belvo;
mod chance;
mod checkers;
mod crew;
mod errands;
mod jetstream;
mod network;
mod process;
mod readers;
mod saboteur;
mod search;
mod trace;
mod troubles;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::args::{SimulateArgs, run};
pub use self::chance::Trouble;
pub use self::saboteur::Bug;
pub use self::search::{Found, shorten};
use self::world::World;

/// Which run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many times somebody has something to say before troubles end; by default the seed chooses.
    pub steps: Option<usize>,
    /// These troubles instead of those that the seed knows.
    pub troubles: Option<Vec<Trouble>>,
    /// A bug that is planted in the nodes.
    pub bug: Option<Bug>,
    /// Whether the last events are written down.
    pub trace: bool,
}

impl Options {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}

/// What happened in a run: one in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events of all kinds.
    pub events: usize,
    /// How many times somebody had something to say.
    pub people: usize,
    /// Inputs that were stored.
    pub inputs: usize,
    /// Inputs that were told in the end.
    pub told: usize,
    /// Commits that were stored.
    pub commits: usize,
    /// Commits that were refused for their fences.
    pub refused: usize,
    /// Requests, answers and deliveries that were lost or late.
    pub lost: usize,
    /// Troubles that struck by themselves.
    pub troubles: usize,
    /// Processes that were started.
    pub processes: usize,
    /// Jobs that were handed out, again and again.
    pub jobs: usize,
    /// Jobs that were given up.
    pub given_up: usize,
    /// Steps that the reconciler began.
    pub sweeps: usize,
}

/// A rule that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which run.
    pub options: Options,
    /// What the checker says.
    pub sentence: String,
    /// The troubles of the run.
    troubles: Vec<Trouble>,
    /// How many times somebody had had something to say.
    people: usize,
    /// The last events, if they were written down.
    pub events: Vec<String>,
}

/// How many of the last events are shown with a failure.
const LINES_SHOWN: usize = 60;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let troubles: Vec<String> = self.troubles.iter().map(ToString::to_string).collect();
        for line in &self.events[self.events.len().saturating_sub(LINES_SHOWN)..] {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\nseed {}: {}", self.options.seed, self.sentence)?;
        let known = if troubles.is_empty() { "none".to_owned() } else { troubles.join(",") };
        writeln!(f, "its troubles: {known}")?;
        write!(f, "again: {}", self.command())
    }
}

impl Failure {
    /// The command that repeats it.
    pub fn command(&self) -> String {
        let mut command = format!("relink simulate --seed {}", self.options.seed);
        if let Some(steps) = self.options.steps {
            command.push_str(&format!(" --steps {steps}"));
        }
        if let Some(troubles) = &self.options.troubles {
            let troubles: Vec<String> = troubles.iter().map(ToString::to_string).collect();
            command.push_str(&format!(" --troubles {}", troubles.join(",")));
        }
        command + " --trace"
    }
}

/// Lives through one run.
///
/// # Errors
/// [`Failure`]: the first rule that did not hold.
pub fn simulate(options: &Options) -> Result<Counts, Box<Failure>> {
    let mut world = World::new(options.clone());
    let checked = catch_unwind(AssertUnwindSafe(|| world.run()));
    let checked = checked.unwrap_or_else(|panic| Err(format!("a panic: {}", process::said_in(&*panic))));
    let failure = |sentence| Failure {
        options: options.clone(),
        sentence,
        troubles: world.known_troubles(),
        people: world.people_had(),
        events: world.trace.lines(),
    };
    match checked {
        Ok(()) => Ok(world.counts),
        Err(sentence) => Err(Box::new(failure(sentence))),
    }
}

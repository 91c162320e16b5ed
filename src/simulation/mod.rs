//! The simulation runs the shipped node, jobs worker and reconciler against models of JetStream, disks, clocks and Belvo, which
//! fail in every permitted way. One seed determines a run.
//!
//! A run takes place in virtual time: a few minutes of messages and faults from the seed's fault mix (`fault`), then a phase without
//! faults, at whose end all work must be done. The checkers run after every event (`checkers`). The same seed gives the same run, so
//! a seed reproduces a failure. `fleet` is the counterpart: there the bus has no faults, and users and institutions are simulated.
//!
//! - `fault`: the random source, the kinds of faults, and the fault mix of a seed
//! - `jetstream`: a model of the streams; `publishers`: changes of links and the messages about them; `status_page`: Belvo's status page;
//!   `belvo`: the Belvo sandbox
//! - `process`: the node and its store; `network`, `readers`: the transport between them and the streams; `injection`: spontaneous faults;
//!   `lost_state`: the fault at the end of a run
//! - `background`: the worker and the reconciler of a process; `background_events`: the transport between them, Belvo and the streams
//! - `journals`: the journal of each host, on a disk in memory; `journal_events`: the transport between their forwarders and the streams;
//!   `publishing`: which way a message takes
//! - `world`: the event queue; `finish`: the end of a run; `checkers`: the invariants
//! - `bug_injector`, `machine_bugs`: injected bugs, which test the simulation itself; `search`: shortens a failing run; `args`: the command line
//!
//! No module of the service imports this one. It must never decide anything about a link or read the system clock, and
//! nobody may relax a checker to make a run pass.

mod args;
mod background;
mod background_events;
mod belvo;
mod bug_injector;
mod checkers;
mod fault;
mod finish;
mod injection;
mod jetstream;
mod journal_events;
mod journals;
mod lost_state;
mod machine_bugs;
mod network;
mod process;
mod publishers;
mod publishing;
mod readers;
mod search;
mod status_page;
mod trace;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::args::{SimulateArgs, run};
pub use self::bug_injector::Bug;
pub use self::fault::Fault;
pub use self::search::{Found, shorten};
use self::world::World;

/// The options of one run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The seed of the random source.
    pub seed: u64,
    /// The number of publisher turns before the faults end; by default the seed determines it.
    pub steps: Option<usize>,
    /// The kinds of faults, in place of the fault mix of the seed.
    pub faults: Option<Vec<Fault>>,
    /// A bug that is injected into every node.
    pub bug: Option<Bug>,
    /// Whether the last events are recorded.
    pub trace: bool,
}

impl Options {
    /// The default run of a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}

/// The counters of a run. The counters show that a run exercised something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events of all kinds.
    pub events: usize,
    /// Turns of the publishers.
    pub turns: usize,
    /// Inputs that were stored.
    pub inputs: usize,
    /// Inputs whose outcome is on the output stream at the end.
    pub outcomes: usize,
    /// Commits that were stored.
    pub commits: usize,
    /// Commits that the server refused because of their fences.
    pub refused: usize,
    /// Requests, responses and deliveries that were lost or late.
    pub lost: usize,
    /// Spontaneous faults that were injected.
    pub faults: usize,
    /// Processes that started.
    pub processes: usize,
    /// Deliveries of jobs, redeliveries included.
    pub jobs: usize,
    /// Jobs that the worker gave up.
    pub given_up: usize,
    /// Steps that the reconciler started.
    pub sweeps: usize,
    /// Messages that a journal has accepted.
    pub accepted: usize,
    /// Records that a journal has published again.
    pub published_again: usize,
}

/// A violated invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The options of one run.
    pub options: Options,
    /// The message of the checker.
    pub sentence: String,
    /// The kinds of faults of the run.
    faults: Vec<Fault>,
    /// The publisher turns that had taken place.
    turns: usize,
    /// The last events, if they were recorded.
    pub events: Vec<String>,
}

/// The number of the last events that are printed with a failure.
const LINES_SHOWN: usize = 60;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        for line in &self.events[self.events.len().saturating_sub(LINES_SHOWN)..] {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\nseed {}: {}", self.options.seed, self.sentence)?;
        let known = if faults.is_empty() { "none".to_owned() } else { faults.join(",") };
        writeln!(f, "faults: {known}")?;
        write!(f, "repeat with: {}", self.command())
    }
}

impl Failure {
    /// The command that repeats the run.
    pub fn command(&self) -> String {
        let mut command = format!("relink simulate --seed {}", self.options.seed);
        if let Some(steps) = self.options.steps {
            command.push_str(&format!(" --steps {steps}"));
        }
        if let Some(faults) = &self.options.faults {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            command.push_str(&format!(" --faults {}", faults.join(",")));
        }
        command + " --trace"
    }
}

/// Executes one run.
///
/// # Errors
/// [`Failure`]: the first violated invariant.
pub fn simulate(options: &Options) -> Result<Counts, Box<Failure>> {
    simulate_with_events(options).0
}

/// Executes one run. Also returns its last events, if [`Options::trace`] is set.
pub fn simulate_with_events(options: &Options) -> (Result<Counts, Box<Failure>>, Vec<String>) {
    let mut world = World::new(options.clone());
    let checked = catch_unwind(AssertUnwindSafe(|| world.run()));
    let checked = checked.unwrap_or_else(|panic| Err(format!("a panic: {}", process::panic_message(&*panic))));
    let failure = |sentence| Failure {
        options: options.clone(),
        sentence,
        faults: world.initial_faults(),
        turns: world.turns_taken(),
        events: world.trace.lines(),
    };
    let events = world.trace.lines();
    match checked {
        Ok(()) => (Ok(world.counts), events),
        Err(sentence) => (Err(Box::new(failure(sentence))), events),
    }
}

//! The command `relink simulate`: its flags, progress and exit status.

use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::fault::Fault;
use super::{Counts, Failure, Found, Options, shorten, simulate, simulate_with_events};
use crate::clock;

/// Test the shipped node, jobs and reconciler against streams, disks, clocks and a Belvo with injected faults.
///
/// Each seed is a separate run in virtual time: two or three nodes with their jobs and sweeps, publishers and a Belvo, and a mix of
/// faults that the seed determines, such as lost responses, replaced owners, failing disks, and streams that lose their tail. After every
/// event the rules of docs/guarantees.md are checked, and at the end no work may be left. If a run violates a rule, the program shortens
/// it, prints its last events and the command that repeats it, and exits with status 1.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// The number of seeds to run, starting at --from.
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run new seeds for this many minutes.
    #[arg(long, value_name = "M", value_parser = parse_minutes)]
    minutes: Option<Duration>,
    /// The first seed; random by default.
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Run only this seed.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "minutes", "from"])]
    seed: Option<u64>,
    /// Inject these faults instead of the fault mix of each seed, such as crash,answer-lost; an unknown name prints the list.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',', hide_possible_values = true)]
    faults: Option<Vec<Fault>>,
    /// End all faults after this many publisher turns.
    #[arg(long, value_name = "N", requires = "seed")]
    steps: Option<usize>,
    /// Print the last events of the run, also if it succeeds.
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn parse_minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of minutes"))?;
    if minutes <= 0.0 {
        return Err("it must be more than 0".to_owned());
    }
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())
}

/// Runs the seeds and stops at the first one that violates a rule.
///
/// # Errors
/// Never today; the signature is that of every subcommand.
pub fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    if let Some(seed) = args.seed {
        return Ok(run_one(Options { seed, steps: args.steps, faults: args.faults, bug: None, trace: args.trace }));
    }
    let began = clock::instant();
    let from = args.from.unwrap_or_else(|| fastrand::u64(..1 << 40));
    anstream::eprintln!("seeds from {from}");
    let is_over = |count: u64| args.minutes.map_or(count >= args.seeds, |minutes| began.elapsed() >= minutes);
    let Searched { count, sum, failure } = search(from, args.faults, is_over, began);
    if let Some(failure) = failure {
        print_failure(&shorten(failure));
        return Ok(ExitCode::FAILURE);
    }
    let seconds = began.elapsed().as_secs_f64();
    anstream::println!(
        "{count} seeds in {seconds:.1} s ({:.0} a minute): {} inputs, {} commits ({} refused), {} processes, {} jobs tried, \
         {} sweeps, {} faults, {} lost requests, responses and deliveries, {} messages \
         through journals ({} published again); no rule was violated",
        count as f64 * 60.0 / seconds.max(0.001),
        sum.inputs,
        sum.commits,
        sum.refused,
        sum.processes,
        sum.jobs,
        sum.sweeps,
        sum.faults,
        sum.lost,
        sum.accepted,
        sum.published_again
    );
    Ok(ExitCode::SUCCESS)
}

/// The result of many seeds.
struct Searched {
    count: u64,
    sum: Counts,
    failure: Option<Box<Failure>>,
}

/// Runs seeds on all cores until `is_over`, or until one violates a rule. Only the assignment of seeds to cores is not deterministic.
fn search(from: u64, faults: Option<Vec<Fault>>, is_over: impl Fn(u64) -> bool + Sync, began: Instant) -> Searched {
    let next = AtomicU64::new(0);
    let progress = Progress { is_seen: std::io::stderr().is_terminal(), shown_ms: 0 };
    let shared = Mutex::new((Searched { count: 0, sum: Counts::default(), failure: None }, progress));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || loop {
        let count = next.fetch_add(1, Ordering::Relaxed);
        if is_over(count) || lock().0.failure.is_some() {
            return;
        }
        let run = simulate(&Options { faults: faults.clone(), ..Options::of(from.wrapping_add(count)) });
        let (searched, progress) = &mut *lock();
        match run {
            Ok(counts) => {
                searched.sum.add(&counts);
                searched.count += 1;
                let (count, events) = (searched.count, searched.sum.events);
                progress.show(began.elapsed(), || format!("{count} seeds, {events} events"));
            }
            Err(failure) => searched.failure = searched.failure.take().or(Some(failure)),
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    let (searched, progress) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    progress.clear();
    searched
}

fn run_one(options: Options) -> ExitCode {
    let (run, events) = simulate_with_events(&options);
    events.iter().for_each(|line| anstream::println!("{line}"));
    match run {
        Ok(counts) => {
            anstream::println!("seed {}: no rule was violated; {counts:?}", options.seed);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let shown = Failure { events: Vec::new(), ..(*failure).clone() };
            anstream::println!("{shown}");
            ExitCode::FAILURE
        }
    }
}

fn print_failure(found: &Found) {
    let Found { first, shortest } = found;
    let style = anstyle::AnsiColor::Red.on_default().bold();
    anstream::println!("{shortest}");
    if first.sentence != shortest.sentence {
        anstream::println!("\noriginal failure: {}", first.sentence);
    }
    anstream::println!("the unshortened run: {}", first.command());
    anstream::println!("{style}a rule was violated{style:#}");
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.turns += other.turns;
        self.inputs += other.inputs;
        self.outcomes += other.outcomes;
        self.commits += other.commits;
        self.refused += other.refused;
        self.lost += other.lost;
        self.faults += other.faults;
        self.processes += other.processes;
        self.jobs += other.jobs;
        self.given_up += other.given_up;
        self.sweeps += other.sweeps;
        self.accepted += other.accepted;
        self.published_again += other.published_again;
    }
}

/// One line of progress that is overwritten, on a terminal only.
struct Progress {
    is_seen: bool,
    shown_ms: u128,
}

impl Progress {
    fn show(&mut self, elapsed: Duration, line: impl FnOnce() -> String) {
        if self.is_seen && elapsed.as_millis() > self.shown_ms + 200 {
            self.shown_ms = elapsed.as_millis();
            self.write(&format!("\r{} ", line()));
        }
    }

    fn clear(&self) {
        if self.is_seen {
            self.write(&format!("\r{:60}\r", ""));
        }
    }

    fn write(&self, text: &str) {
        let mut screen = anstream::stderr();
        // A failure to print the progress must not end the run.
        let _written = screen.write_all(text.as_bytes()).and_then(|()| screen.flush());
    }
}

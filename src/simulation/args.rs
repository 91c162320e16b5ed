//! `relink simulate`: the flags, the progress, and how it ends.

use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::chance::Trouble;
use super::{Counts, Failure, Found, Options, shorten, simulate};
use crate::clock;

/// The shipped node against streams, disks and clocks that go wrong.
///
/// Each seed is a run of its own, in virtual time: two or three nodes, publishers and a Belvo, and troubles of the kinds that the seed knows,
/// such as lost answers, replaced owners, disks that fail, and servers that lose their tail. After every event the rules of
/// docs/guarantees.md ("Guarantees", "What is lost, and when") are checked, and at the end everything must come to rest. A run that breaks a rule is made short
/// and printed with its last events and the command that repeats it, and the status is 1.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// Run so many seeds, from --from on.
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "minutes")]
    seeds: u64,
    /// Run fresh seeds for so many minutes.
    #[arg(long, value_name = "M", value_parser = parse_minutes)]
    minutes: Option<Duration>,
    /// The first seed; by default another one each time.
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Run this seed alone.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "minutes", "from"])]
    seed: Option<u64>,
    /// Let these troubles strike instead of those that each seed knows, such as crash,answer-lost; a wrong one gives the list.
    #[arg(long, value_name = "TROUBLES", value_delimiter = ',')]
    troubles: Option<Vec<Trouble>>,
    /// End all troubles after so many steps of the publishers.
    #[arg(long, value_name = "N", requires = "seed")]
    steps: Option<usize>,
    /// Print the last events of the run, also if it is good.
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn parse_minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("`{text}` is no number of minutes"))?;
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())
}

/// Runs the seeds, and stops at the first that breaks a rule.
///
/// # Errors
/// If there is nobody to print for.
pub fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    if let Some(seed) = args.seed {
        return Ok(run_one(Options { seed, steps: args.steps, troubles: args.troubles, bug: None, trace: args.trace }));
    }
    let began = clock::instant();
    let from = args.from.unwrap_or_else(|| fastrand::u64(..1 << 40));
    anstream::eprintln!("seeds from {from}");
    let is_over = |count: u64| args.minutes.map_or(count >= args.seeds, |minutes| began.elapsed() >= minutes);
    let Searched { count, sum, failure } = search(from, args.troubles, is_over, began);
    if let Some(failure) = failure {
        print_failure(&shorten(failure));
        return Ok(ExitCode::FAILURE);
    }
    let seconds = began.elapsed().as_secs_f64();
    anstream::println!(
        "{count} seeds in {seconds:.1} s ({:.0} a minute): {} inputs, {} commits ({} refused), {} processes, {} troubles, {} lost \
         requests, answers and deliveries; no rule was broken",
        count as f64 * 60.0 / seconds.max(0.001),
        sum.inputs,
        sum.commits,
        sum.refused,
        sum.processes,
        sum.troubles,
        sum.lost
    );
    Ok(ExitCode::SUCCESS)
}

/// What many seeds came to.
struct Searched {
    count: u64,
    sum: Counts,
    failure: Option<Box<Failure>>,
}

/// Runs seeds on all cores until it is over or one breaks a rule. Which core runs a seed is all that chance has not decided.
fn search(from: u64, troubles: Option<Vec<Trouble>>, is_over: impl Fn(u64) -> bool + Sync, began: Instant) -> Searched {
    let next = AtomicU64::new(0);
    let progress = Progress { is_seen: std::io::stderr().is_terminal(), told_ms: 0 };
    let shared = Mutex::new((Searched { count: 0, sum: Counts::default(), failure: None }, progress));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || loop {
        let count = next.fetch_add(1, Ordering::Relaxed);
        if is_over(count) || lock().0.failure.is_some() {
            return;
        }
        let run = simulate(&Options { troubles: troubles.clone(), ..Options::of(from.wrapping_add(count)) });
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
    match simulate(&options) {
        Ok(counts) => {
            anstream::println!("seed {}: no rule was broken; {counts:?}", options.seed);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let shown = Failure { events: Vec::new(), ..(*failure).clone() };
            failure.events.iter().for_each(|line| anstream::println!("{line}"));
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
        anstream::println!("\nfound as: {}", first.sentence);
    }
    anstream::println!("the whole run: {}", first.command());
    anstream::println!("{style}a rule is broken{style:#}");
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.people += other.people;
        self.inputs += other.inputs;
        self.told += other.told;
        self.commits += other.commits;
        self.refused += other.refused;
        self.lost += other.lost;
        self.troubles += other.troubles;
        self.processes += other.processes;
    }
}

/// One line that is written over, for somebody who looks on.
struct Progress {
    is_seen: bool,
    told_ms: u128,
}

impl Progress {
    fn show(&mut self, elapsed: Duration, line: impl FnOnce() -> String) {
        if self.is_seen && elapsed.as_millis() > self.told_ms + 200 {
            self.told_ms = elapsed.as_millis();
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
        // A progress that cannot be shown is not worth ending for.
        let _written = screen.write_all(text.as_bytes()).and_then(|()| screen.flush());
    }
}

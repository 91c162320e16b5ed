//! The crash harness: real processes, a load, and one fault after another. After each round it checks every promise of
//! `docs/guarantees.md` that can be checked from outside.
//!
//! `cargo test --test kill` runs a few rounds; `cargo test --test kill -- --rounds 300` is the long run that `RELIABILITY.md` reports. The
//! seed decides the faults and the load; the moment at which a fault hits is different in each run.
//!
//! Start with `round.rs`; `ledger.rs` and `promised.rs` have the checks, `fault.rs` and `journal.rs` the faults, `readiness.rs` the rule
//! for `/readyz`.

#[path = "../support/mod.rs"]
mod support;

mod fault;
mod figures;
mod journal;
mod ledger;
mod load;
mod promised;
mod readiness;
mod round;
mod self_check;
mod streams;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tokio::time::Instant;

use fault::Fault;
use figures::Figures;
use round::{Outcome, Run};
use world::{Acknowledge, Kind};

/// The name of this test for libtest's filters and lists.
const NAME: &str = "kill";

/// The most rounds with one pair of processes and their streams.
const ROUNDS_OF_A_WORLD: usize = 25;

/// Break relink, its nats-server, its streams and its store under load, and check every promise after each round.
#[derive(Debug, Parser)]
#[command(name = "cargo test --test kill --")]
struct Args {
    /// The number of rounds, each with one fault.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// The seed of the faults and of the load; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Use only this setting of `RELINK_HTTP_ACKNOWLEDGE`; each in half of the rounds by default.
    #[arg(long)]
    acknowledge: Option<Acknowledge>,
    /// Count repeated records that change their links, and go on: to find other violations while this one is known.
    #[arg(long)]
    count_changes_by_repeats: bool,
    /// The number of links.
    #[arg(long, default_value_t = 40)]
    links: usize,
    /// Cause only this fault, by its name in the report or the beginning of it.
    #[arg(long)]
    fault: Option<String>,
    /// Use only this kind of nats-server; both by default.
    #[arg(long)]
    nats: Option<Kind>,
    #[command(flatten)]
    libtest: Libtest,
}

/// The flags of libtest, which `cargo test` passes to every test.
#[derive(Debug, clap::Args)]
struct Libtest {
    #[arg(hide = true)]
    filters: Vec<String>,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    no_capture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(short, long, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(short = 'Z', hide = true)]
    unstable: Option<String>,
}

impl Args {
    fn wants(&self, fault: Fault) -> bool {
        self.fault.as_ref().is_none_or(|name| fault.to_string().starts_with(name.as_str()))
    }
}

impl Libtest {
    /// Whether the filters select this test.
    fn selects(&self) -> bool {
        let matches = |filter: &String| if self.exact { filter == NAME } else { NAME.contains(filter.as_str()) };
        let is_wanted = self.filters.is_empty() || self.filters.iter().any(matches);
        is_wanted && !self.ignored && !self.skip.iter().any(matches)
    }
}

/// The report of a whole run.
#[derive(Debug, Default)]
struct Report {
    faults: BTreeMap<Fault, usize>,
    kinds: BTreeMap<String, usize>,
    figures: Figures,
    samples: u64,
    memory: Vec<u64>,
    longest: Duration,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.libtest.list {
        if args.libtest.selects() {
            anstream::println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    if !args.libtest.selects() || args.rounds == 0 {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    eprintln!(
        "{} rounds, seed {seed}; repeat with: cargo test --test kill -- --rounds {} --seed {seed}",
        args.rounds, args.rounds
    );
    let began = Instant::now();
    let mut report = Report::default();
    match rounds(&args, seed, &mut report).await {
        Ok(()) => {
            report.print(began.elapsed());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("FAILED with seed {seed}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn rounds(args: &Args, seed: u64, report: &mut Report) -> Result<()> {
    let mistakes = self_check::run().context("the checks themselves")?;
    eprintln!("the checks find {mistakes} of {mistakes} injected mistakes");
    let nats = support::nats_server().await;
    let mut decks = Decks::new();
    let per_world = args.rounds.div_ceil(2).clamp(1, ROUNDS_OF_A_WORLD);
    let mut left = args.rounds;
    for number in 0_u64.. {
        if left == 0 {
            break;
        }
        let kind = args.nats.unwrap_or(if number % 2 == 0 { Kind::External } else { Kind::Own });
        let dir = tempfile::tempdir()?;
        // Of four worlds, both kinds have one with Belvo's keys and one without.
        let has_belvo = matches!(number % 4, 1 | 2);
        let seed = seed.wrapping_add(number);
        let run = Run::start(kind, dir.path().to_owned(), nats.clone(), has_belvo, args.links, seed);
        let mut run = run.await.context("starting relink")?;
        run.ledger.counts_changes = args.count_changes_by_repeats;
        let count = left.min(per_world);
        if let Err(error) =
            rounds_of_a_world(run, args, number, args.rounds - left..args.rounds - left + count, &mut decks, report)
                .await
        {
            eprintln!("the logs, the streams and the store are in {}", dir.keep().display());
            return Err(error);
        }
        left -= count;
    }
    Ok(())
}

/// The faults that did not hit yet, for each kind of nats-server and each promise, so that a long run has all of them.
type Decks = BTreeMap<(Kind, Acknowledge), Vec<Fault>>;

/// Runs these rounds with one pair of processes.
async fn rounds_of_a_world(
    mut run: Run,
    args: &Args,
    world: u64,
    rounds: Range<usize>,
    decks: &mut Decks,
    report: &mut Report,
) -> Result<()> {
    let kind = run.world.kind;
    let possible: Vec<Fault> = Fault::possible(&run.world).into_iter().filter(|fault| args.wants(*fault)).collect();
    ensure!(!possible.is_empty(), "no fault that is possible with nats-server {kind} is named {:?}", args.fault);
    if kind == Kind::Own && !run.world.has_small_disk() {
        eprintln!(
            "skipped: the full disk, because this machine does not allow a file system of its own (unshare -rm, nsenter)"
        );
    }
    let half = rounds.start + rounds.len().div_ceil(2);
    for round in rounds {
        // One half of the rounds of each world has the default.
        let is_journal = (round < half) == (world / 2).is_multiple_of(2);
        let acknowledge =
            args.acknowledge.unwrap_or(if is_journal { Acknowledge::Journal } else { Acknowledge::Stream });
        let faults = decks.entry((kind, acknowledge)).or_default();
        if faults.is_empty() {
            faults.clone_from(&possible);
            run.random.shuffle(faults);
        }
        let Some(fault) = faults.pop() else { break };
        let round = round + 1;
        eprint!("round {round}/{}, nats-server {kind}, {acknowledge}: {fault} ... ", args.rounds);
        let outcome = run.round(fault, acknowledge).await;
        let outcome = outcome.map_err(|error| {
            eprintln!("\n\nthe last lines of relink's log:\n{}\n", run.world.last_lines());
            error.context(format!("round {round}, nats-server {kind}, {acknowledge}, {fault} {:?}", run.notes()))
        })?;
        report.add(fault, kind, acknowledge, &outcome);
    }
    report.samples += run.world.shared.readiness.samples();
    report.figures.add(&run.ledger.figures);
    run.world.stop().await.context("the stop at the end")
}

impl Report {
    fn add(&mut self, fault: Fault, kind: Kind, acknowledge: Acknowledge, outcome: &Outcome) {
        let Outcome { took, memory, notes } = outcome;
        *self.faults.entry(fault).or_default() += 1;
        *self.kinds.entry(format!("{kind}, {acknowledge}")).or_default() += 1;
        self.memory.extend(memory);
        self.longest = self.longest.max(*took);
        eprintln!("{took:.1?}, {} MiB {}", memory.unwrap_or_default() >> 20, notes.join("; "));
    }

    fn print(&self, took: Duration) {
        let Figures {
            inputs,
            accepted,
            decided,
            dead_letters,
            prompts,
            repaired,
            lost_by_deletion,
            published_again,
            changes_by_repeats,
            records_again,
            lost_by_damage,
        } = &self.figures;
        let rounds: usize = self.faults.values().sum();
        eprintln!("\n{rounds} rounds in {took:.0?}, the longest {:.1?}; violations: 0", self.longest);
        eprintln!("nats-server, and what an answer promises: {:?}", self.kinds);
        eprintln!(
            "requests answered with success: {accepted}; inputs: {inputs}; decided: {decided}; dead letters: {dead_letters}; prompts: {prompts}"
        );
        eprintln!(
            "lost because the harness deleted a stream: {lost_by_deletion}; published again for the same reason: {published_again}"
        );
        eprintln!(
            "records of the journal: {records_again} published again, {lost_by_damage} lost because the harness damaged them"
        );
        eprintln!("repeated records that changed their links, by the first outcome: {changes_by_repeats:?}");
        eprintln!("links that became valid because relink asked Belvo: {repaired}");
        eprintln!("samples of /readyz: {}", self.samples);
        for (fault, count) in &self.faults {
            eprintln!("{count:5} {fault}");
        }
        let ten = self.memory.len().min(10);
        let median = |of: &[u64]| {
            let mut sorted = of.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).map_or(0, |bytes| bytes >> 20)
        };
        let (first, last) = (&self.memory[..ten], &self.memory[self.memory.len() - ten..]);
        let largest = self.memory.iter().max().map_or(0, |bytes| bytes >> 20);
        eprintln!(
            "memory: median of the first {ten} rounds {} MiB, of the last {} MiB, the largest {largest} MiB",
            median(first),
            median(last)
        );
    }
}

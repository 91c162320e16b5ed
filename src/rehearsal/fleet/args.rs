//! `relink sandbox --links N --days N`: the flags, the progress, and how it ends.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::options::FleetOptions;
use super::simulation::simulate;
use crate::clock;
use crate::printable::printable_lines;

/// The seed, unless another is given.
const SEED: u64 = 1;

/// A simulated fleet, instead of a Belvo to talk to.
#[derive(Args, Debug)]
pub struct FleetArgs {
    /// Simulate a fleet of so many links against relink's own code, with no NATS and no waiting, and report how its
    /// users were prompted: lost, repeated, time to detect and to recover, beside a webhook handler without relink.
    /// Ends with status 1 if relink lost an outage, prompted one twice, or is wrong about a link at the end.
    #[arg(long, value_name = "N", requires = "days", help_heading = "Simulate a fleet",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000),
          conflicts_with_all = ["scenario", "webhook_url", "webhook_authorization"])]
    pub links: Option<u32>,
    /// For so many days; a day without trouble follows. The same --seed gives the same report, byte for byte.
    #[arg(long, value_name = "N", requires = "links", help_heading = "Simulate a fleet",
          value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub days: Option<u32>,
    /// Report in JSON.
    #[arg(long, requires = "links", help_heading = "Simulate a fleet")]
    pub json: bool,
    /// Tell all that happened to this link, too: why one was lost, repeated or stuck.
    #[arg(long, value_name = "LINK", requires = "links", help_heading = "Simulate a fleet")]
    pub story: Option<String>,
    /// Report, and end with status 0 whatever came out.
    #[arg(long, requires = "links", help_heading = "Simulate a fleet")]
    pub report_only: bool,
}

impl FleetArgs {
    /// Whether a fleet is asked for.
    pub const fn is_wanted(&self) -> bool {
        self.links.is_some()
    }
}

/// Simulates a fleet until its days are over, or `shutdown`.
///
/// # Errors
/// If it was stopped, or a part failed in a way that the simulation does not know.
pub async fn run(args: FleetArgs, seed: Option<u64>, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let links = args.links.context("--links is needed")?.try_into()?;
    let days = args.days.context("--days is needed")?;
    let options = FleetOptions { links, days, seed: seed.unwrap_or(SEED), story: args.story };
    let began = clock::instant();
    let progress = Progress::new(days);
    let report = tokio::select! {
        report = simulate(options, |day| progress.show(day)) => report?,
        () = shutdown.cancelled() => anyhow::bail!("stopped before the end"),
    };
    progress.clear();
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        anstream::print!("{}", printable_lines(&report.table()));
        anstream::eprintln!("\n{} days in {:.1} s", days, began.elapsed().as_secs_f64());
    }
    Ok(if report.is_good() || args.report_only { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The progress line on a terminal.
struct Progress {
    days: u32,
    is_seen: bool,
}

impl Progress {
    fn new(days: u32) -> Self {
        Self { days, is_seen: std::io::stderr().is_terminal() }
    }

    fn show(&self, day: u32) {
        let style = anstyle::Style::new().dimmed();
        self.write(&format!("\r{style}day {} of {}{style:#} ", day.min(self.days), self.days));
    }

    fn clear(&self) {
        self.write("\r                        \r");
    }

    fn write(&self, text: &str) {
        if self.is_seen {
            let mut screen = anstream::stderr();
            // A progress that cannot be shown is not worth ending for.
            let _written = screen.write_all(text.as_bytes()).and_then(|()| screen.flush());
        }
    }
}

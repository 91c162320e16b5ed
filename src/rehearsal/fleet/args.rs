//! `relink sandbox --links N --days N`: its flags, progress and exit status.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::options::FleetOptions;
use super::simulation::simulate;
use crate::clock;
use crate::printable::printable_lines;

/// The default seed.
const SEED: u64 = 1;

/// The flags that simulate a fleet instead of a plain sandbox.
#[derive(Args, Debug)]
pub struct FleetArgs {
    /// Simulate a fleet of N links with relink's own code, without NATS and without waiting, and report how its users
    /// were prompted: lost, repeated, time to detect and to recover, compared with a webhook handler without relink.
    /// The exit status is 1 if relink lost an outage, prompted twice for one outage, asked somebody although it could
    /// know that this was in vain, has a wrong state of a link at the end, or if a mail scanner that opened a repair link had any effect.
    #[arg(long, value_name = "N", requires = "days", help_heading = "Simulate a fleet",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000),
          conflicts_with_all = ["scenario", "webhook_url", "webhook_authorization"])]
    pub links: Option<u32>,
    /// The number of days; a phase without faults follows. The same --seed gives the same report, byte for byte.
    #[arg(long, value_name = "N", requires = "links", help_heading = "Simulate a fleet",
          value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub days: Option<u32>,
    /// Print the report as JSON.
    #[arg(long, requires = "links", help_heading = "Simulate a fleet")]
    pub json: bool,
    /// Send no messages to users from 22:00 to 08:00 of the time of their bank's country.
    #[arg(long, requires = "links", help_heading = "Simulate a fleet")]
    pub quiet_hours: bool,
    /// Also print the full history of this link, which shows why it was lost, repeated or stuck.
    #[arg(long, value_name = "LINK", requires = "links", help_heading = "Simulate a fleet")]
    pub link_log: Option<String>,
    /// Exit with status 0 whatever the result.
    #[arg(long, requires = "links", help_heading = "Simulate a fleet")]
    pub report_only: bool,
}

impl FleetArgs {
    /// Whether the flags request a fleet.
    pub const fn is_wanted(&self) -> bool {
        self.links.is_some()
    }
}

/// Simulates a fleet to its last day, or until `shutdown`.
///
/// # Errors
/// If it was stopped, or a part failed in a way that the simulation does not provide for.
pub async fn run(args: FleetArgs, seed: Option<u64>, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let links = args.links.context("--links is needed")?.try_into()?;
    let days = args.days.context("--days is needed")?;
    let (seed, quiet_hours) = (seed.unwrap_or(SEED), args.quiet_hours);
    let options = FleetOptions { links, days, seed, quiet_hours, link_log: args.link_log, bug: None };
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
            // A failure to print the progress must not end the run.
            let _written = screen.write_all(text.as_bytes()).and_then(|()| screen.flush());
        }
    }
}

//! A FLEET, SIMULATED: thousands of links live through a month in seconds, and a judge compares what relink says of them
//! with what is true.
//!
//! The parts that decide are relink's own: the tables, the engine, the machine and its timers, the jobs, the reconciler,
//! and its client of Belvo, which calls a Belvo in a box over HTTP. What is replaced is what only moves bytes or time: the
//! bus is a queue, the store is in memory, and both clocks are moved from one event to the next. All chance comes from one
//! seed, so the same seed gives the same report, byte for byte, and what goes wrong once goes wrong again.
//!
//! - `simulation`: the loop, and the fleet; `calendar`: what is to come
//! - `relink`: relink under test; `post`: the way of a webhook to it
//! - `banks`, `people`, `customer`: everybody else; `hazards`: all their numbers, in one table
//! - `judge`: what is true, and what was made of it; `report`: the same, to be read; `story`: one link's, in full
//! - `args`: the flags of `relink sandbox`
//!
//! It must never: decide anything about a link, or be loosened until it is green.

mod args;
mod banks;
mod calendar;
mod customer;
mod hazards;
mod judge;
mod people;
mod post;
mod relink;
mod report;
mod simulation;
mod story;

pub use args::{FleetArgs, run};
pub use report::{Belvo, Gaps, Report, Score, Spread};

use simulation::Simulation;

/// Which fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOptions {
    /// How many links.
    pub links: usize,
    /// For how many days.
    pub days: u32,
    /// Where all chance comes from.
    pub seed: u64,
    /// A link whose whole story is to be told.
    pub story: Option<String>,
}

/// Lets a fleet live through its days. `on_day` hears of each that has passed.
///
/// # Errors
/// If a part fails in a way that the simulation does not know: a mistake in it, or in relink.
pub async fn simulate(options: FleetOptions, on_day: impl FnMut(u32)) -> anyhow::Result<Report> {
    let mut simulation = Simulation::begin(options).await?;
    simulation.live(on_day).await?;
    let report = Report::of(&simulation);
    simulation.end().await;
    Ok(report)
}

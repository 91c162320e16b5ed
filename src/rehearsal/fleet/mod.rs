//! A simulated fleet: thousands of links live through a month in seconds, and a checker compares relink's states and
//! notices with the ground truth.
//!
//! The parts that decide are relink's own: the tables, the engine, the machine and its timers, the jobs, the reconciler,
//! and its client of Belvo, which calls the sandbox over HTTP. Only the parts that move bytes or time are replaced: the
//! bus is a queue, the store is in memory, and both clocks are moved from one event to the next. All chance comes from one
//! seed, so the same seed gives the same report, byte for byte, and what goes wrong once goes wrong again.
//!
//! - `state`: the fleet; `setup`: its first day; `simulation`: the loop; `calendar`: what is to come
//! - `relink`: relink under test; `webhooks`: the way of a webhook to it
//! - `banks`, `people`, `customer`: everybody else; `hazards`: all their numbers, in one table
//! - `checker`: the ground truth, and relink's record against it; `report`: its numbers; `story`: one link's full history
//! - `args`: the flags of `relink sandbox`
//!
//! It must never: decide anything about a link, or be loosened until it is green.

mod args;
mod banks;
mod calendar;
mod checker;
mod customer;
mod hazards;
mod options;
mod people;
mod relink;
mod report;
mod setup;
mod simulation;
mod state;
mod story;
mod webhooks;

pub use args::{FleetArgs, run};
pub use options::FleetOptions;
pub use report::{Belvo, Gaps, Report, Score, Spread};
pub use simulation::simulate;

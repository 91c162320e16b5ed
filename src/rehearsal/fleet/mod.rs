//! The simulation of a fleet: thousands of links for a month, in seconds. A checker compares relink's states and
//! notices with the ground truth.
//!
//! The parts that decide are relink's own: the tables, the engine, the machine and its timers, the jobs, the reconciler,
//! and its client of Belvo, which calls the sandbox over HTTP. It has a real HTTP server with the repair page. Only the parts that move bytes or time are replaced: the
//! bus is a queue, the store is in memory, and both clocks are set to the time of each event. All randomness comes from one
//! seed, so the same seed gives the same report, byte for byte, and reproduces every failure.
//!
//! - `state`: the fleet; `setup`: its first day; `simulation`: the main loop; `event_queue`: the future events
//! - `relink`: relink under test; `http_server`: its HTTP server; `webhooks`: the network between Belvo and relink
//! - `mails`: the messages with the address of the repair page; `browser`: opens it; `scanners`, `scans`: open it before the user does
//! - `banks`, `users`, `customer`: the other parties; `rates`: all their numbers
//! - `checker`: compares relink with the ground truth; `in_vain`: people asked in vain; `report`: the results; `link_log`: the full history of one link
//! - `args`: the flags of `relink sandbox`
//!
//! This module must never decide anything about a link, and nobody may relax the checker to make a run pass.

mod args;
mod banks;
mod browser;
mod checker;
mod customer;
mod event_queue;
mod http_server;
mod in_vain;
mod link_log;
mod mails;
mod options;
mod rates;
mod relink;
mod report;
mod scanners;
mod scans;
mod setup;
mod simulation;
mod state;
mod users;
mod webhooks;

pub use args::{FleetArgs, run};
pub use options::{FleetOptions, InjectedBug};
pub use report::{Asked, Belvo, Gaps, Report, ScanCounts, Score, Spread};
pub use simulation::simulate;

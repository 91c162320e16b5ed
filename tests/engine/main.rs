//! The tests of `src/engine/`, one promise in each file. `tests/simulation.rs` tests the node with failures of every
//! kind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod activity;
mod cache;
mod creations;
mod decoding;
mod identity;
mod incidents;
mod inputs;
mod limits;
mod observe;
mod persons;
mod plans;
mod repair_links;
mod replay;
mod secrets;
mod superseded;
mod traces;

//! The tests of the durable step in `src/engine/`, one promise in each file. Whole stories of the node, with everything that can go wrong,
//! are in `tests/simulation.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod decoding;
mod identity;
mod incidents;
mod inputs;
mod limits;
mod secrets;

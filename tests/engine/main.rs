//! The tests of the durable step in `src/engine/`: that nothing is lost, nothing is said twice, and no input can stop it.
//!
//! `crashes` runs whole stories (`world`) of the shipped node (`running`) against a model of JetStream (`bus`) and holds what comes of them against
//! a plain reading of the same input (`reference`). The other files are about one promise each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bus;
mod crashes;
mod decoding;
mod identity;
mod incidents;
mod inputs;
mod limits;
mod reference;
mod replay;
mod running;
mod secrets;
mod world;

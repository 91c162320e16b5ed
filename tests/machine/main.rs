//! The tests of the machine in `src/link`: that it is its table and the drawings, that it keeps its rules, and that it
//! knows Belvo's traps.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod consents;
mod drawings;
mod hints;
mod incident;
mod properties;
mod refreshes;
mod scene;
mod table;
mod traps;
mod world;

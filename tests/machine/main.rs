//! The tests of the machine in `src/link`: it equals its table and its drawings, it keeps its rules for random
//! sequences of events, and it handles the known peculiarities of Belvo (`traps`). `institution`
//! has those of the machine of an institution.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asking;
mod bundles;
mod clocks;
mod consents;
mod creation;
mod drawings;
mod family;
mod hints;
mod histories;
mod identity;
mod incident;
mod institution;
mod outage;
mod person;
mod properties;
mod refreshes;
mod scene;
mod superseded;
mod table;
mod traps;
mod turns;
mod world;

//! The tests of the machine in `src/link`: that it is its table, that it keeps its rules, and that it knows Belvo's traps.

mod properties;
mod table;
mod traps;
mod world;

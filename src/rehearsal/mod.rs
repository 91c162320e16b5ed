//! Rehearsals: what needs both relink and a Belvo that can be broken, which is the crate `belvo-sandbox`.
//!
//! [`demo`] plays one story for somebody who looks on, [`scenario`] plays a file against any relink, and [`fleet`] lets
//! thousands of links live through a month in one process. No part that serves imports this module.

pub mod demo;
pub mod fleet;
pub mod scenario;

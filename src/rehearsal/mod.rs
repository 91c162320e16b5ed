//! Programs that run relink against the crate `belvo-sandbox`, in which links can be broken.
//!
//! [`demo`] runs four fixed repairs on real parts, [`dev`] runs the same parts for somebody who connects an application, [`scenario`] plays a file against any relink, and [`fleet`] simulates
//! thousands of links for a month in one process. No module of the service imports this one.

mod local;

pub mod demo;
pub mod dev;
pub mod fleet;
pub mod scenario;

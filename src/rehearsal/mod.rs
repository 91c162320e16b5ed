//! Programs that run relink against the crate `belvo-sandbox`, in which links can be broken.
//!
//! [`demo`] runs four fixed repairs on real parts, [`scenario`] plays a file against any relink, and [`fleet`] simulates
//! thousands of links for a month in one process. No module of the service imports this one.

pub mod demo;
pub mod fleet;
pub mod scenario;

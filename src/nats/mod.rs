//! The bus: everything relink says to NATS and hears from it.
//!
//! | file | what it is |
//! |---|---|
//! | [`subject`] | the one place where subjects and stream names are put together and taken apart |
//! | [`stream`], [`declaration`] | the one place where streams and consumers are declared; the comparison with what exists |
//! | [`batch`] | atomic batch publish: all of it or nothing, and a fence that refuses a replaced writer |
//! | [`server`], [`server_binary`] | a nats-server of our own: started and stopped; found or installed |
//!
//! This room moves bytes. It never looks into a link, decides about one, or reads a clock.

pub mod subject;

pub mod declaration;
pub mod stream;

pub mod batch;

pub mod server;
pub mod server_binary;

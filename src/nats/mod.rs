//! The bus: everything relink says to NATS and hears from it.
//!
//! | file | what it is |
//! |---|---|
//! | [`subject`] | the one place where subjects and stream names are put together and taken apart |
//! | [`stream`], [`declaration`] | the one place where streams and consumers are declared; the comparison with what exists |
//! | [`batch`] | atomic batch publish: all of it or nothing, and a fence that refuses a replaced writer |
//! | [`publisher`] | the way in: many callers, few small batches, an answer to each |
//! | [`dead_letter`] | what could not be read: set aside with its bytes, listed, replayed |
//! | [`server`], [`server_binary`] | a nats-server of our own: started and stopped; found or installed |
//!
//! This room moves bytes. It never looks into a link, decides about one, or reads a clock.

pub mod subject;

pub mod declaration;
pub mod stream;

pub mod batch;
pub mod publisher;

pub mod dead_letter;

pub mod server;
pub mod server_binary;

//! The bus: everything relink says to NATS and hears from it.
//!
//! | file | what it is |
//! |---|---|
//! | [`subject`] | the one place where subjects and stream names are put together and taken apart |
//! | [`stream`], [`declaration`] | the one place where streams and consumers are declared; the comparison with what exists |
//! | [`batch`] | atomic batch publish: all of it or nothing, and a fence that refuses a replaced writer |
//! | [`publisher`] | the way in: many callers, few small batches, an answer to each |
//! | [`inputs`] | the same, as far as the jobs and the reconciler need it |
//! | [`dead_letter`] | what could not be read: set aside with its bytes, listed, replayed |
//! | [`node`] | **the driver of the node**: does over NATS what `crate::node` asks for |
//! | [`partition`] | one partition's deliveries, in order |
//! | `streams_read` | what the node asks about the two streams, and reading the output stream |
//! | [`commit`], [`envelope`] | one atomic batch for a plan, guarded by fences; what each message says of itself |
//! | `notes` | what the node has to say, as log lines and metrics |
//! | [`history`] | everything decided about one link, for whoever asks why |
//! | [`durability`] | whether a server that was given to us syncs its writes |
//! | [`server`], [`server_binary`] | a nats-server of our own: started and stopped; found or installed |
//!
//! This room moves bytes. It never looks into a link or decides about one. [`node`] alone asks the clock.

pub mod subject;

pub mod declaration;
pub mod stream;

pub mod batch;
pub mod inputs;
pub mod publisher;

pub mod dead_letter;
pub mod history;

pub mod commit;
pub mod envelope;
pub mod node;
mod notes;
pub mod partition;
mod streams_read;

pub mod durability;
pub mod server;
pub mod server_binary;

//! The tests of `src/nats/`, each with a real nats-server.

#[path = "../support/mod.rs"]
mod support;

mod batch;
mod dead_letter;
mod lag;
mod login;
mod permissions;
mod poison;
mod poison_output;
mod publisher;
mod recorded;
mod removed_inputs;
mod server;
mod streams;

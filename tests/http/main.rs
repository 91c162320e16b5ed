//! The front door, from outside: real HTTP in, a real nats-server behind it.
//!
//! Nothing sleeps: a 2xx is an answer from the disk, so what it promises can be read at once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod capture;

mod doors;
mod identity;
mod passed_on;
mod reads;
mod repairs;
mod reports;
mod secrets;
mod stories;
mod webhooks;

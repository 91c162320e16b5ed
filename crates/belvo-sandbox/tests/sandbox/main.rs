//! Tests of the sandbox through its HTTP API and its webhooks.
//!
//! No test sleeps: the clock is manual, and each wait has an event.
#![expect(clippy::unwrap_used, reason = "a panic names the line of the test")]

mod fixture;

mod api;
mod consents;
mod families;
mod limits;
mod links;
mod time;
mod webhooks;

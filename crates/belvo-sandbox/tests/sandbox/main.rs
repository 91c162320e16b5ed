//! The sandbox, from outside: real HTTP in, real webhooks out.
//!
//! Nothing sleeps: time is driven, and what has to be waited for announces itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod bench;

mod api;
mod consents;
mod families;
mod limits;
mod roads;
mod time;
mod webhooks;

//! The HTTP server, tested from outside: real HTTP requests, and a real nats-server behind the server.
//!
//! No test sleeps: a message that was answered 2xx is stored, so a test can read it at once.
#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod capture;

mod command_line;
mod connections;
mod console;
mod credentials;
mod encodings;
mod events;
mod floods;
mod identity;
mod killed;
mod mcp;
mod no_secret_in_logs;
mod notices;
mod openapi;
mod operators;
mod outbound;
mod pages;
mod proxied_calls;
mod proxied_reports;
mod reads;
mod receiver;
mod repairs;
mod reports;
mod scopes;
mod status_page;
mod traces;
mod webhooks;

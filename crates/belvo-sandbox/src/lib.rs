//! Belvo in a box: a stand-in for Belvo that behaves like Belvo, for demos and tests.
//!
//! Belvo's own sandbox sends no LINK webhooks and cannot make a link `invalid`, so nobody can rehearse a broken link
//! there. Here every road can be walked: the API of links with its errors, the widget, the webhooks with their retries,
//! and faults in all of them. It depends on nothing of relink, so a mistake of ours about Belvo would have to be made
//! twice to go unnoticed.
//!
//! A tour: `link` and `world` are the state; `bank` is a login, within the limits of `quota`, with
//! what a `verdict` or a `fault` has made of it; `agenda` is when Belvo does
//! something by itself, `schedule` and `consent` what that is; `webhook` and `family` are what is said, `post_box` where it waits and
//! `courier` how it is delivered; `api` is Belvo's HTTP, behind its `rate_limit`; `widget` and `portal` are the pages
//! a user would see.
//! `control` is the control API, in process and over HTTP; `drive` moves time, `in_process` needs no socket, and `new_link` makes many
//! links.

mod clock;
mod config;
mod error;
mod institution;
mod login;
mod rate_limit;
mod schedule;
mod tls;

mod bank_answer;
mod consent;
mod family;
mod fault;
mod link;
mod outbox;
mod problem;
mod quota;
mod webhook;
mod world;

mod bank;
mod shared;

mod api;
mod dispatcher;
mod portal;
mod widget;

mod cli;
mod control;
mod control_http;
mod control_json;
mod drive;
mod in_process;
mod new_link;
mod server;

pub use bank::RefreshOutcome;
pub use cli::{SandboxArgs, run};
pub use clock::SandboxTime;
pub use config::{SandboxConfig, WebhookDelivery};
pub use consent::ConsentLack;
pub use control::{Control, NewWebhook};
pub use drive::TakenWebhook;
pub use error::{ControlError, SandboxError};
pub use fault::{ApiFault, WebhookFault};
pub use in_process::{Answered, InProcess};
pub use link::{AccessMode, LinkStatus, RefreshRate};
pub use login::{Login, LoginFailure};
pub use new_link::NewFleetLink;
pub use outbox::{Delivery, DeliveryOutcome};
pub use problem::error_codes;
pub use quota::QuotaUse;
pub use server::Sandbox;
pub use webhook::{Correction, PayloadShape};

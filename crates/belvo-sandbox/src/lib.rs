//! A stand-in for Belvo in which links can be broken, for demos and tests.
//!
//! Belvo's own sandbox sends no LINK webhooks and cannot make a link `invalid`, so a broken link cannot be tested
//! there. This crate has every event that breaks or repairs a link: the API of links with its errors, the
//! widget, the webhooks with their retries, and faults in all of them. The crate does not depend on relink, so a wrong
//! assumption about Belvo has to be made twice before a test of relink misses it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use belvo_sandbox::{AccessMode, RefreshOutcome, Sandbox, SandboxConfig};
//!
//! let sandbox = Sandbox::start(SandboxConfig::default()).await?;
//! let link = sandbox.control().create_link("erebor_mx_retail", AccessMode::Recurrent, Some("user-1"))?;
//! sandbox.control().scheduled_refresh(link, RefreshOutcome::LoginError)?;
//! # Ok(())
//! # }
//! ```
//!
//! The modules, from the data to the interfaces:
//!
//! - `link`, `consent`, `institution`, `quota`, `schedule`, `outbox`: the data; `world` has all of it
//! - `login`, `bank_answer`, `fault`, `problem`: responses that a test can set
//! - `webhook`, `family`: the content of webhooks
//! - `bank`: every change of a link
//! - `shared`: the state behind its lock; `dispatcher` sends webhooks
//! - `api`, `widget`, `portal`: Belvo's HTTP endpoints; `rate_limit`: that of the proxy in front of them
//! - `control`, `drive`, `new_link`: the control API in process; `control_index`, `control_http`: the same over HTTP
//! - `in_process`: a sandbox without a socket; `server` starts one with a socket; `cli` has the flags of the program

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
mod control_index;
mod control_json;
mod drive;
mod in_process;
mod new_link;
mod server;

pub use bank::RefreshOutcome;
pub use cli::{SandboxArgs, listen_address, run};
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

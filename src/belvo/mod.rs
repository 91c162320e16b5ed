//! Belvo: reading its messages, deciding their meaning, and calling its API.
//!
//! A message goes through three stages, and the modules import each other in that direction only:
//!
//! 1. parse: `payload` (from bytes in any encoding to JSON), [`body`] and `error_body` (Belvo's bodies), `own` and
//!    `report` (the bodies that relink defines), `status_page` (the webhooks of the status page), `fields` and `optional` (single fields), `call` (the request that an API
//!    error answers); `undecodable` says why a message cannot be read, `unreadable` which of its fields
//! 2. classify: `classify` has the tables of all webhooks and API errors. Start here; a new code of Belvo is a new row.
//!    `unrelated` has the classes of messages that are not about a link
//! 3. event: `meaning` makes an event of a class and a body, with its dedup key (`key`)
//!
//! [`translate`](mod@translate) is the sequence of the three stages. [`client`] makes the calls to Belvo's API, and
//! classifies their errors by the same tables; `exchange` makes reports of calls that the proxy has passed on; `budget`
//! is the rate limit of all calls, and `missing` decides whether a 404 means that a link was deleted.
//!
//! This module decides the meaning of a message. The machine (`link`) decides the consequences.

pub mod body;
pub mod client;
pub mod translate;

mod budget;
mod call;
mod classify;
mod error_body;
mod exchange;
mod fields;
mod key;
mod meaning;
mod missing;
mod optional;
mod own;
mod payload;
mod report;
mod status_page;
mod undecodable;
mod unreadable;
mod unrelated;

pub use budget::{Budget, BudgetLeft, Urgency, Usage};
pub use client::{
    BadClient, CallError, Client, IDS_MAX, LinkFilter, LinkRead, ListPage, ListPages, Question, RefreshAnswer, Reply,
    SecretId, SecretPassword, Timeouts, USER_KEYS_BYTES_MAX, USER_KEYS_MAX, UserKey, WidgetToken, Wire, http_client,
};
pub use exchange::{Concern, Exchange, ExchangeReport, is_path_of_api};
pub use meaning::Meaning;
pub use missing::{Absence, MissingGuard};
pub use payload::{TEXT_BYTES_MAX, decompress, decompress_bare, read_json};
pub use status_page::{COMPONENTS_MAX, ComponentStatus, SHOWN_CHARS_MAX, StatusReport};
pub use translate::{Reading, link_of_api_error, link_of_webhook, read, translate};
pub use undecodable::Undecodable;
pub use unrelated::Unrelated;

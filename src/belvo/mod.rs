//! Belvo: reading its messages, deciding their meaning, and calling its API.
//!
//! - [`translate`](mod@translate): the tables that classify webhooks and API errors. Start here; a new code of Belvo is
//!   a new row.
//! - `meaning`: makes an event of a row and a body; `key`: the dedup key of a message
//! - [`body`], `error_body`: readers of Belvo's bodies; `informs`: readers of dates and ids on which no classification
//!   depends
//! - `call`: the request that an API error answers, and the link in it
//! - `own`: readers of the bodies that relink defines; `report`: the reader of a reported API error
//! - `payload`: from bytes in any encoding to JSON; `undecodable`: why a message cannot be read
//! - [`client`]: the calls to Belvo's API; the same tables classify their errors
//! - `budget`: the rate limit of all calls; `missing`: whether a 404 means that a link was deleted
//!
//! This module decides what a message means. The machine (`link`) decides what follows from it.

pub mod body;
pub mod client;
pub mod translate;

mod budget;
mod call;
mod error_body;
mod informs;
mod key;
mod meaning;
mod missing;
mod own;
mod payload;
mod report;
mod undecodable;

pub use budget::{Budget, Urgency, Usage};
pub use client::{
    BadClient, CallError, Client, IDS_MAX, LinkFilter, LinkRead, ListPage, ListPages, RefreshAnswer, SecretId,
    SecretPassword, Timeouts, WidgetToken,
};
pub use meaning::{Meaning, Unrelated};
pub use missing::{Absence, MissingGuard};
pub use payload::{TEXT_BYTES_MAX, decompress, decompress_bare, read_json};
pub use translate::{Reading, link_of_api_error, link_of_webhook, read, translate};
pub use undecodable::Undecodable;

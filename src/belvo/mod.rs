//! THE BANK SIDE: what Belvo sends, what it means, how to call it.
//!
//! - [`translate`](mod@translate) ★: the classification tables, from a message to its meaning. Start here; a new code of Belvo's is a new row.
//! - `meaning`: how a row and a body become an event; `key`: the identity of a fact
//! - [`body`], `error_body`: Belvo's bodies as they are sent, read leniently; `informs`: their dates and ids
//! - `call`: which request an API error answers, and its link
//! - `own`: relink's own bodies, as their senders write them; `report`: of them, a reported API error
//! - `payload`: from bytes to JSON, whatever encoding they have; `undecodable`: why a message has no meaning
//! - [`client`]: the calls relink makes itself; a failure is judged by the same tables
//! - `budget`: how often all of them together may be made; `missing`: when a 404 is believed
//!
//! It decides what a message *means*, never what follows from it: that is the machine.

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
    BadClient, CallError, Client, IDS_MAX, LinkFilter, LinkRead, ListPage, ListPages, Question, RefreshAnswer, Reply,
    SecretId, SecretPassword, Timeouts, WidgetToken, Wire,
};
pub use meaning::{Meaning, Unrelated};
pub use missing::{MissingGuard, Verdict};
pub use payload::{TEXT_BYTES_MAX, decompress, decompress_bare, read_json};
pub use translate::{Reading, link_of_api_error, link_of_webhook, read, translate};
pub use undecodable::Undecodable;

//! THE BANK SIDE: what Belvo sends, what it means, how to call it.
//!
//! - [`translate`](mod@translate) ★: the classification tables, from a message to its meaning. Start here; a new code of Belvo's is a new row.
//! - `meaning`: how a row and a body become an event; `key`: the identity of a fact
//! - [`body`]: Belvo's bodies as they are sent, read leniently; `call`: which request an API error answers, and its link
//! - `undecodable`: why a message has no meaning
//! - [`client`]: the three calls relink makes itself; a failure is judged by the same tables
//!
//! Imports `link` and `contract` only. It decides what a message *means*, never what follows from it: that is the machine.

pub mod body;
pub mod client;
pub mod translate;

mod call;
mod key;
mod meaning;
mod undecodable;

pub use call::{find_link, without_session};
pub use client::{
    BadClient, CallError, Client, LinkRead, RefreshAnswer, SecretId, SecretPassword, Timeouts, WidgetToken,
};
pub use meaning::{Meaning, Unrelated};
pub use translate::{link_of_webhook, translate};
pub use undecodable::Undecodable;

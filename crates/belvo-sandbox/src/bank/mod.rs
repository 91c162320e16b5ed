//! The actions on a link at the bank and at Belvo: all methods that change the [`World`](crate::world::World).
//!
//! These methods send no response, do not sleep and read no clock. `connecting` creates a link from a `registration`,
//! `reading` logs in with the stored credentials, `repairing` makes a link valid again; `consents` is for links without
//! credentials; `scheduled` has Belvo's own actions, `planning` their times; `sending` adds webhooks to the outbox.

mod connecting;
mod consents;
mod planning;
mod reading;
mod registration;
mod repairing;
mod scheduled;
mod sending;

pub(crate) use registration::NewLink;
pub use scheduled::RefreshOutcome;

//! The actions on a link, at the bank and at Belvo: all methods that change the [`World`](crate::world::World).
//!
//! Nothing here sends an answer, sleeps or reads a clock. `connecting` makes a link from a `registration`, `reading` logs
//! in with the stored credentials, `repairing` makes a link work again; `consents` is for those without credentials;
//! `scheduled` has Belvo's own actions, `planning` their times; `sending` puts webhooks into the outbox.

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

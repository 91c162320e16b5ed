//! The messages others see: every JSON body on a subject, as a type that its public JSON Schema is generated from.
//!
//! - [`input`]: what may be said to relink

pub mod input;

mod rfc3339;

pub use input::{
    ApiError, Command, CommandName, InputKind, LastError, NotAnInputKind, Observation, Outcome, Source, Webhook, Widget,
};

//! (being written)
mod time;
pub use time::Timestamp;

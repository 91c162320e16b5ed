//! The repair of a link by its user: the signed link that a notice carries.
//!
//! - `link`: signs and verifies the address in `repair_url`
//!
//! This module has no I/O and no clock. `engine` signs addresses.

mod link;

pub use link::{BadLink, Claims, KEY_LENGTH_MIN, Purpose, RepairLinks};

//! The only file that reads a clock.
//!
//! Everything inside takes `now` as an argument, so a week of retries runs in a millisecond in a test. The rim asks here.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::link::Timestamp;

/// The wall clock, in milliseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the file the ban points to")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// A monotonic instant, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "this is the file the ban points to")]
pub fn instant() -> Instant {
    Instant::now()
}

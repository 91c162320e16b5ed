//! The only file that reads a clock.
//!
//! Everything inside takes `now` as an argument, so a week of retries runs in a millisecond in a test. The rim asks
//! here: [`now`] where it is always the wall clock, a [`Clock`] where somebody may want to drive it (`fleet`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// A clock. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Wall { started: Instant },
    Driven(Arc<AtomicI64>),
}

/// Sets the time of the clocks of [`Clock::driven`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl Default for Clock {
    fn default() -> Self {
        Self::wall()
    }
}

impl Clock {
    /// The system clock.
    pub fn wall() -> Self {
        Self(Source::Wall { started: instant() })
    }

    /// A clock that shows `from`, and the manual clock that sets it.
    pub fn driven(from: Timestamp) -> (Self, ManualClock) {
        let millis = Arc::new(AtomicI64::new(from.as_millis()));
        (Self(Source::Driven(Arc::clone(&millis))), ManualClock(millis))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Wall { .. } => now(),
            Source::Driven(millis) => Timestamp::from_millis(millis.load(Ordering::Acquire)),
        }
    }

    /// The time since a fixed moment in the past, the same for all clones. For the system clock it is monotonic: a change of
    /// the system time does not affect it.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::Wall { started } => started.elapsed(),
            Source::Driven(_) => self.now().since(Timestamp::default()),
        }
    }

    /// Waits for `span`. A driven clock does not wait: it moves forward by `span` at once.
    pub async fn sleep(&self, span: Duration) {
        match &self.0 {
            Source::Wall { .. } => tokio::time::sleep(span).await,
            Source::Driven(millis) => ManualClock(Arc::clone(millis)).set(self.now().after(span)),
        }
    }
}

impl ManualClock {
    /// Sets the clocks to `at`; an earlier time is ignored.
    pub fn set(&self, at: Timestamp) {
        self.0.fetch_max(at.as_millis(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driven_clock_moves_when_it_is_moved() {
        let (clock, manual_clock) = Clock::driven(Timestamp::from_millis(1_000));
        let other = clock.clone();
        manual_clock.set(Timestamp::from_millis(5_000));
        manual_clock.set(Timestamp::from_millis(4_000));
        assert_eq!((other.now(), other.elapsed()), (Timestamp::from_millis(5_000), Duration::from_secs(5)));
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(other.now(), Timestamp::from_millis(3_605_000));
    }
}

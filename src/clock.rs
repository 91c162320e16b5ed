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

/// A clock to hand around. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Wall { started: Instant },
    Driven(Arc<AtomicI64>),
}

/// What moves the clocks of [`Clock::driven`].
#[derive(Clone, Debug)]
pub struct Hands(Arc<AtomicI64>);

impl Default for Clock {
    fn default() -> Self {
        Self::wall()
    }
}

impl Clock {
    /// The clock on the wall.
    pub fn wall() -> Self {
        Self(Source::Wall { started: instant() })
    }

    /// A clock that stands still at `from`, and the hands that move it.
    pub fn driven(from: Timestamp) -> (Self, Hands) {
        let millis = Arc::new(AtomicI64::new(from.as_millis()));
        (Self(Source::Driven(Arc::clone(&millis))), Hands(millis))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Wall { .. } => now(),
            Source::Driven(millis) => Timestamp::from_millis(millis.load(Ordering::Acquire)),
        }
    }

    /// How long since some moment in the past, the same for all clones. On the wall it takes no notice of leaps of the
    /// system's time, so that spans are measured by it.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::Wall { started } => started.elapsed(),
            Source::Driven(_) => self.now().since(Timestamp::default()),
        }
    }

    /// Waits for so long. A driven clock has nobody to wait for it, so it moves on by itself.
    pub async fn sleep(&self, span: Duration) {
        match &self.0 {
            Source::Wall { .. } => tokio::time::sleep(span).await,
            Source::Driven(millis) => Hands(Arc::clone(millis)).set(self.now().after(span)),
        }
    }
}

impl Hands {
    /// Moves the clocks to `at`, never back.
    pub fn set(&self, at: Timestamp) {
        self.0.fetch_max(at.as_millis(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driven_clock_moves_when_it_is_moved() {
        let (clock, hands) = Clock::driven(Timestamp::from_millis(1_000));
        let other = clock.clone();
        hands.set(Timestamp::from_millis(5_000));
        hands.set(Timestamp::from_millis(4_000));
        assert_eq!((other.now(), other.elapsed()), (Timestamp::from_millis(5_000), Duration::from_secs(5)));
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(other.now(), Timestamp::from_millis(3_605_000));
    }
}

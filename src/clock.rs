//! The only file that reads a clock.
//!
//! The core takes `now` as an argument, so a test can run a week of retries in a millisecond. The outer modules read
//! the time here: with [`now`] if it is always the wall clock, with a [`Clock`] if a simulation may replace it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::link::Timestamp;

/// The variable that makes the clock of this process wrong, in seconds. Only for tests, which cannot change the clock of their host: the
/// crash harness (`tests/kill/`) uses it. The configuration checks its value.
pub const TEST_OFFSET_VARIABLE: &str = "RELINK_TEST_CLOCK_OFFSET_SECONDS";

/// By how many seconds a test has made the clock of this process wrong; 0 without a test.
#[expect(clippy::disallowed_methods, reason = "the clock has no access to the configuration")]
pub fn test_offset_seconds() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let read = || std::env::var(TEST_OFFSET_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    *OFFSET.get_or_init(read)
}

/// How often [`Clock::corrected`] looks.
const CORRECTED_EVERY: Duration = Duration::from_millis(20);

/// The wall clock, in milliseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "clippy.toml allows the clock in this file")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(millis.saturating_add(test_offset_seconds().saturating_mul(1_000)))
}

/// The wall clock in full precision, for the times of spans. A test does not move it.
#[expect(clippy::disallowed_methods, reason = "clippy.toml allows the clock in this file")]
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

/// A monotonic instant, to measure durations.
#[expect(clippy::disallowed_methods, reason = "clippy.toml allows the clock in this file")]
pub fn instant() -> Instant {
    Instant::now()
}

/// A clock that is passed to the parts that need one. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Wall {
        started: Instant,
        /// What the wall clock showed at `started`.
        wall: Timestamp,
        /// The time of the NATS server minus the own time, in milliseconds.
        correction_ms: Arc<AtomicI64>,
        is_corrected: Arc<AtomicBool>,
    },
    Manual(Arc<AtomicI64>),
}

/// Sets the time of the clocks of one [`Clock::manual`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl Default for Clock {
    fn default() -> Self {
        Self::wall()
    }
}

impl Clock {
    /// A clock that begins with the time of the wall clock, and is then steady: changes of the system time do not move it. The driver of
    /// the node corrects it by the time of the NATS server.
    pub fn wall() -> Self {
        Self::steady_from(now())
    }

    /// Like [`Clock::wall`], for a host whose wall clock shows `wall`.
    pub fn steady_from(wall: Timestamp) -> Self {
        Self(Source::Wall { started: instant(), wall, correction_ms: Arc::default(), is_corrected: Arc::default() })
    }

    /// A clock that stays at `from` until its [`ManualClock`] sets it.
    pub fn manual(from: Timestamp) -> (Self, ManualClock) {
        let millis = Arc::new(AtomicI64::new(from.as_millis()));
        (Self(Source::Manual(Arc::clone(&millis))), ManualClock(millis))
    }

    /// The time now, by the clock of the NATS server as soon as it is known.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Wall { correction_ms, .. } => {
                let correction_ms = correction_ms.load(Ordering::Acquire);
                Timestamp::from_millis(self.own_now().as_millis().saturating_add(correction_ms))
            }
            Source::Manual(millis) => Timestamp::from_millis(millis.load(Ordering::Acquire)),
        }
    }

    /// The time now without a correction.
    pub fn own_now(&self) -> Timestamp {
        match &self.0 {
            Source::Wall { started, wall, .. } => wall.after(started.elapsed()),
            Source::Manual(_) => self.now(),
        }
    }

    /// At the own time `own` the time was `right`. Does nothing to a manual clock.
    pub fn correct(&self, own: Timestamp, right: Timestamp) {
        if let Source::Wall { correction_ms, is_corrected, .. } = &self.0 {
            correction_ms.store(right.as_millis().saturating_sub(own.as_millis()), Ordering::Release);
            is_corrected.store(true, Ordering::Release);
        }
    }

    /// Returns when the time of the NATS server is known; at once for a manual clock. What is dated earlier has the time of the host, which
    /// may be wrong.
    pub async fn corrected(&self) {
        if let Source::Wall { is_corrected, .. } = &self.0 {
            while !is_corrected.load(Ordering::Acquire) {
                tokio::time::sleep(CORRECTED_EVERY).await;
            }
        }
    }

    /// The time since a fixed moment in the past, the same for all clones. The wall clock measures it monotonically,
    /// so changes of the system time do not affect it.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::Wall { started, .. } => started.elapsed(),
            Source::Manual(_) => self.now().since(Timestamp::default()),
        }
    }

    /// Sleeps for `span`. A manual clock returns at once and advances by `span`, because no other task advances it
    /// meanwhile.
    pub async fn sleep(&self, span: Duration) {
        match &self.0 {
            Source::Wall { .. } => tokio::time::sleep(span).await,
            Source::Manual(millis) => ManualClock(Arc::clone(millis)).set(self.now().after(span)),
        }
    }
}

impl ManualClock {
    /// Sets the clocks to `at`; never backwards.
    pub fn set(&self, at: Timestamp) {
        self.0.fetch_max(at.as_millis(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_manual_clock_advances_only_when_it_is_set() {
        let (clock, manual) = Clock::manual(Timestamp::from_millis(1_000));
        let other = clock.clone();
        manual.set(Timestamp::from_millis(5_000));
        manual.set(Timestamp::from_millis(4_000));
        assert_eq!((other.now(), other.elapsed()), (Timestamp::from_millis(5_000), Duration::from_secs(5)));
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(other.now(), Timestamp::from_millis(3_605_000));
    }

    #[tokio::test]
    async fn a_clock_is_corrected_when_the_time_of_the_server_is_known() {
        let clock = Clock::wall();
        assert!(clock.corrected().now_or_never().is_none(), "the time of the server is not known");
        clock.clone().correct(now(), now());
        assert!(clock.corrected().now_or_never().is_some());
        assert!(Clock::manual(Timestamp::default()).0.corrected().now_or_never().is_some());
    }

    #[test]
    fn a_correction_is_seen_by_all_clones() {
        let (clock, hour) = (Clock::wall(), Duration::from_secs(3600));
        let other = clock.clone();
        clock.correct(Timestamp::from_millis(0), Timestamp::from_millis(0).after(hour));
        assert!(other.now() >= now().after(hour).before(Duration::from_secs(60)) && other.own_now() < other.now());
    }
}

//! The time limit of a stop.
//!
//! A part may not end by itself: a call hangs because NATS is gone, or a program at the other end of a connection sends nothing. Then
//! the part is aborted, and the stop goes on. This loses nothing: an abort has the same effect as `kill -9`, and every input that was
//! answered with 2xx is stored in NATS.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// The time that is left for a stop.
pub(super) struct StopBudget {
    ends_at: Instant,
    total: Duration,
}

/// The part did not end in time.
#[derive(Debug)]
pub(super) struct Aborted;

impl StopBudget {
    /// A stop that begins now and takes at most `total`.
    pub(super) fn new(total: Duration) -> Self {
        Self { ends_at: Instant::now() + total, total }
    }

    /// How long the next step may take, if `reserved` tenths of the whole time must be left for the steps after it.
    pub(super) fn left(&self, reserved: u32) -> Duration {
        (self.ends_at - self.total / 10 * reserved).saturating_duration_since(Instant::now())
    }

    /// Waits for the end of a part, and leaves `reserved` tenths of the whole time for the parts after it. The future is dropped if the
    /// time is over.
    ///
    /// # Errors
    /// [`Aborted`]; a warning names the part.
    pub(super) async fn wait<T>(
        &self,
        part: &str,
        reserved: u32,
        ended: impl Future<Output = T>,
    ) -> Result<T, Aborted> {
        let limit = self.left(reserved);
        timeout_at(Instant::now() + limit, ended).await.map_err(|_| {
            tracing::warn!(
                stop.part = part,
                stop.timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                "a part of relink did not stop in time and is aborted; every input that was answered with 2xx is stored"
            );
            Aborted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_does_not_end_is_aborted_and_leaves_time_for_the_others() {
        let budget = StopBudget::new(Duration::from_millis(200));
        assert_eq!(budget.left(10), Duration::ZERO);
        assert!(budget.left(6) <= budget.left(0));
        assert!(budget.wait("one", 6, std::future::pending::<()>()).await.is_err());
        assert!(budget.wait("two", 0, async {}).await.is_ok());
        assert!(budget.wait("three", 0, std::future::pending::<()>()).await.is_err());
        assert_eq!(budget.left(0), Duration::ZERO);
    }
}

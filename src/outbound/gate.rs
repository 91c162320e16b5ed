//! Bounds the requests to one target, and slows them down while the target cannot be reached or is overloaded.
//!
//! While the target fails, one request at a time asks whether it is back, after a pause that grows to a minute. The
//! gate also writes the log, because it knows whether a failure is the first one: at most one line a minute.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::retry::{Failure, pause_of_target};

/// The most requests to a target at the same time.
const REQUESTS_MAX: u32 = 8;

/// The least time between two lines about failures.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// The gate of a target.
#[derive(Debug)]
pub(super) struct Gate {
    target: &'static str,
    places: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The failures of the target since its last response.
    failures: u32,
    closed_until: Option<Instant>,
    /// The failures since the last line of the log, and the time of that line.
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl Gate {
    pub(super) fn new(target: &'static str) -> Self {
        Self { target, places: Semaphore::new(REQUESTS_MAX as usize), state: Mutex::default() }
    }

    /// Waits until a request may be sent. The request is over when the permit is dropped.
    pub(super) async fn enter(&self) -> SemaphorePermit<'_> {
        loop {
            let is_failing = self.state().failures > 0;
            let places = if is_failing { REQUESTS_MAX } else { 1 };
            let permit = self.places.acquire_many(places).await.expect("the semaphore is never closed");
            let (failures, closed_until) = {
                let state = self.state();
                (state.failures, state.closed_until)
            };
            match closed_until.filter(|until| *until > Instant::now()) {
                Some(until) => {
                    drop(permit);
                    sleep_until(until).await;
                }
                // The target has begun to fail in the meantime.
                None if failures > 0 && !is_failing => drop(permit),
                None => return permit,
            }
        }
    }

    /// The target has accepted a message.
    pub(super) fn accepted(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.failures) > 0 {
            state.logged_at = None;
            tracing::info!(target.name = self.target, "the HTTP target accepts messages again");
        }
        state.closed_until = None;
    }

    /// A message was not accepted.
    pub(super) fn failed(&self, failure: &Failure) {
        let (mut state, now) = (self.state(), Instant::now());
        if !failure.is_of_target {
            // It has answered.
            state.failures = 0;
            state.closed_until = None;
        } else if state.closed_until.is_none_or(|until| until <= now) {
            state.failures += 1;
            state.closed_until = Some(now + pause_of_target(state.failures, failure));
        } else if let Some(asked) = failure.retry_after {
            state.closed_until = state.closed_until.max(Some(now + asked));
        }
        state.unlogged += 1;
        if state.logged_at.is_none_or(|at| now.duration_since(at) >= LINE_EVERY) {
            state.logged_at = Some(now);
            tracing::warn!(
                target.name = self.target,
                failures.count = std::mem::take(&mut state.unlogged),
                why = failure.why,
                "messages were not accepted by an HTTP target, and will be sent again"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(is_of_target: bool) -> Failure {
        Failure { why: "a test".to_owned(), is_of_target, retry_after: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_fails_gets_one_request_at_a_time_after_a_pause() {
        let gate = Gate::new("notices");
        let (first, second) = (gate.enter().await, gate.enter().await);
        gate.failed(&failure(true));
        drop((first, second));
        let before = Instant::now();
        let probe = gate.enter().await;
        assert!(before.elapsed() >= Duration::from_millis(700));
        let blocked = tokio::time::timeout(Duration::from_secs(9), gate.enter()).await;
        assert!(blocked.is_err(), "a second request");
        gate.accepted();
        drop(probe);
        let (_one, _two) = (gate.enter().await, gate.enter().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_message_does_not_slow_down_the_others() {
        let gate = Gate::new("notices");
        let _first = gate.enter().await;
        gate.failed(&failure(false));
        let before = Instant::now();
        let _second = gate.enter().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

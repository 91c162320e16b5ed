//! Bounds the requests to one target, and slows them down while the target cannot be reached or is overloaded.
//!
//! While the target fails, one request at a time asks whether it is back, after a pause that grows to a minute. The message that was tried
//! least asks first: a target may fail for some messages only, and those must not ask again and again while the others wait. The
//! gate also writes the log, because it knows whether a failure is the first one: at most one line a minute.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
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
    /// Who may ask next has changed while the target fails.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The failures of the target since its last response.
    failures: u32,
    closed_until: Option<Instant>,
    /// The messages that wait, by the number of their tries and their turn.
    waiting: BTreeSet<Place>,
    last_turn: u64,
    /// The failures since the last line of the log, and the time of that line.
    unlogged: u64,
    logged_at: Option<Instant>,
}

/// The tries of a message so far, and its turn among those with as many.
type Place = (u32, u64);

/// A message that waits; it leaves when this is dropped.
struct Waiting<'a> {
    gate: &'a Gate,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.state().waiting.remove(&self.place);
        self.gate.note_change();
    }
}

impl Gate {
    pub(super) fn new(target: &'static str) -> Self {
        Self { target, places: Semaphore::new(REQUESTS_MAX as usize), state: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until a message that was tried so often may be sent. The request is over when the permit is dropped.
    pub(super) async fn enter(&self, tries: u32) -> SemaphorePermit<'_> {
        let waiting = self.wait_in_line(tries);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let (is_failing, is_first, closed_until) = {
                let state = self.state();
                (state.failures > 0, state.waiting.first() == Some(&waiting.place), state.closed_until)
            };
            if is_failing && !is_first {
                changed.await;
                continue;
            }
            if let Some(until) = closed_until.filter(|until| *until > Instant::now()) {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = changed => {}
                }
                continue;
            }
            let places = if is_failing { REQUESTS_MAX } else { 1 };
            let acquired = self.places.acquire_many(places);
            let permit = if is_failing {
                tokio::select! {
                    permit = acquired => permit,
                    () = changed => continue,
                }
            } else {
                acquired.await
            };
            let permit = permit.expect("the semaphore is never closed");
            // While this waited for a place, the target may have begun to fail, or to fail again.
            let state = self.state();
            let is_closed = state.closed_until.is_some_and(|until| until > Instant::now());
            if !is_closed && (state.failures > 0) == is_failing {
                return permit;
            }
        }
    }

    fn wait_in_line(&self, tries: u32) -> Waiting<'_> {
        let place = {
            let mut state = self.state();
            state.last_turn += 1;
            let place = (tries, state.last_turn);
            state.waiting.insert(place);
            place
        };
        self.note_change();
        Waiting { gate: self, place }
    }

    /// Lets those that wait look again. While the target accepts messages, nobody looks at the others.
    fn note_change(&self) {
        if self.state().failures > 0 {
            self.changed.notify_waiters();
        }
    }

    /// The target has accepted a message.
    pub(super) fn accepted(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.failures) > 0 {
            self.changed.notify_waiters();
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
            self.changed.notify_waiters();
            state.closed_until = None;
        } else if state.closed_until.is_none_or(|until| until <= now) {
            state.failures += 1;
            state.closed_until = Some(now + pause_of_target(state.failures, failure));
            self.changed.notify_waiters();
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
        let (first, second) = (gate.enter(0).await, gate.enter(0).await);
        gate.failed(&failure(true));
        drop((first, second));
        let before = Instant::now();
        let probe = gate.enter(0).await;
        assert!(before.elapsed() >= Duration::from_millis(700));
        let blocked = tokio::time::timeout(Duration::from_secs(9), gate.enter(0)).await;
        assert!(blocked.is_err(), "a second request");
        gate.accepted();
        drop(probe);
        let (_one, _two) = (gate.enter(0).await, gate.enter(0).await);
    }

    /// A handler that crashes on some bodies, behind a proxy that answers 502 then.
    #[tokio::test(start_paused = true)]
    async fn messages_for_which_the_target_fails_do_not_hold_up_the_others() {
        let gate = std::sync::Arc::new(Gate::new("notices"));
        let (sent, mut sent_by) = tokio::sync::mpsc::unbounded_channel();
        let send = |name: usize, is_bad: bool, after: u64| {
            let (gate, sent) = (std::sync::Arc::clone(&gate), sent.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                for tries in 0.. {
                    let permit = gate.enter(tries).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if !is_bad {
                        gate.accepted();
                        sent.send(name).unwrap();
                        return;
                    }
                    gate.failed(&failure(true));
                    drop(permit);
                    tokio::time::sleep(Duration::from_secs(1 << tries.min(6))).await;
                }
            })
        };
        let bad: Vec<_> = (0..9).map(|name| send(name, true, 0)).collect();
        for name in 100..110 {
            send(name, false, 20_000 + name as u64);
        }
        let begun = Instant::now();
        let mut arrived = Vec::new();
        while arrived.len() < 10 {
            arrived.push(sent_by.recv().await.unwrap());
        }
        // One probe, after the longest pause, and no more: the healthy messages were never tried.
        assert!(begun.elapsed() < Duration::from_secs(20 + 75), "{:?}", begun.elapsed());
        bad.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_message_does_not_slow_down_the_others() {
        let gate = Gate::new("notices");
        let _first = gate.enter(0).await;
        gate.failed(&failure(false));
        let before = Instant::now();
        let _second = gate.enter(0).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

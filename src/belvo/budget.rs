//! The call budget: one rate limit for all calls to Belvo in this process.
//!
//! ```text
//!   the last 30 seconds   ├─────── sweeps: three quarters ───────┤─ and jobs ─┤─ and people ─┤   80 requests
//!                         0                                      60           70             80
//! ```
//!
//! Belvo allows 80 requests in 30 seconds and may block an address that sends more. The limit holds for **every**
//! window of 30 seconds. A token bucket does not keep it, because a full bucket and its refill fit into one window. So
//! the budget keeps the time of each recent request (a sliding window). Sweeps leave a quarter of it free for jobs, such
//! as the reading of a link before its first prompt. Both leave an eighth of it free for the calls that a person waits for:
//! when a thousand links break at once, their jobs use the budget up for minutes, and a user who opens a repair page then
//! must get a widget token.
//!
//! A caller never waits longer than the limit for its kind of call. If it would, it gets the necessary wait as an
//! error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// Belvo's documented limit: 80 requests in 30 seconds, or the address may be blocked. Contracts may have other limits.
const REQUESTS_MAX: usize = 80;
const SPAN: Duration = Duration::from_secs(30);

/// The longest wait of a call for a person or a job. A job has to be acknowledged in time.
const PATIENCE_SHORT: Duration = Duration::from_secs(10);

/// The longest wait of a sweep: two windows.
const PATIENCE_BACKGROUND: Duration = Duration::from_secs(90);

/// The urgency of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A person waits for the answer, at the repair page or in the customer's app.
    Person,
    /// A job.
    Job,
    /// A sweep.
    Background,
}

impl Urgency {
    /// How many requests of a window of `requests_max` these calls may use: at least one.
    const fn share_of(self, requests_max: usize) -> usize {
        match self {
            Self::Person => requests_max,
            Self::Job => requests_max - requests_max / 8,
            Self::Background => requests_max - requests_max / 4,
        }
    }
}

/// Counts of the requests that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of requests.
    pub requests: u64,
    /// The most requests in any window.
    pub most_in_span: usize,
}

/// What is left of the budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLeft {
    /// The most requests in a window.
    pub requests_max: usize,
    /// The requests that may be sent at once for a person. Jobs leave an eighth of the budget free, sweeps a quarter.
    pub requests_left: usize,
    /// The length of the window.
    pub span: Duration,
    /// How long the pause that Belvo asked for goes on; `None` without one.
    pub paused_for: Option<Duration>,
}

/// The call budget. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests_max: usize,
    clock: Clock,
    window: Mutex<Window>,
    /// Calls of the same urgency wait in the order in which they came.
    turn_person: tokio::sync::Mutex<()>,
    turn_job: tokio::sync::Mutex<()>,
    turn_background: tokio::sync::Mutex<()>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(REQUESTS_MAX)
    }
}

impl Budget {
    /// A budget of `requests_max` requests, at least one, in any 30 seconds.
    pub fn new(requests_max: usize) -> Self {
        Self::within(requests_max, SPAN)
    }

    /// A budget of `requests_max` requests, at least one, in any `span`.
    pub fn within(requests_max: usize, span: Duration) -> Self {
        Self::timed(requests_max, span, Clock::wall())
    }

    /// A budget of `requests_max` requests, at least one, in any 30 seconds of this clock.
    pub fn by(clock: Clock, requests_max: usize) -> Self {
        Self::timed(requests_max, SPAN, clock)
    }

    fn timed(requests_max: usize, span: Duration, clock: Clock) -> Self {
        let window = Mutex::new(Window { span, sent: VecDeque::new(), paused_until: None, usage: Usage::default() });
        let (turn_person, turn_job, turn_background) = Default::default();
        let requests_max = requests_max.max(1);
        Self { shared: Arc::new(Shared { requests_max, clock, window, turn_person, turn_job, turn_background }) }
    }

    /// Waits until one more request may be sent, and counts it.
    ///
    /// # Errors
    /// The necessary wait, if it is longer than the limit for this urgency.
    pub async fn take(&self, urgency: Urgency) -> Result<(), Duration> {
        let Shared { requests_max, clock, turn_person, turn_job, turn_background, .. } = &*self.shared;
        let (turn, patience) = match urgency {
            Urgency::Person => (turn_person, PATIENCE_SHORT),
            Urgency::Job => (turn_job, PATIENCE_SHORT),
            Urgency::Background => (turn_background, PATIENCE_BACKGROUND),
        };
        let requests_max = urgency.share_of(*requests_max);
        let until = clock.elapsed() + patience;
        let _turn = turn.lock().await;
        loop {
            let now = clock.elapsed();
            let admitted = self.window().admit(now, requests_max);
            match admitted {
                Ok(()) => return Ok(()),
                Err(wait) if now + wait > until => return Err(wait),
                Err(wait) => clock.sleep(wait).await,
            }
        }
    }

    /// Counts of the requests that were sent.
    pub fn usage(&self) -> Usage {
        self.window().usage
    }

    /// What is left now.
    pub fn left(&self) -> BudgetLeft {
        let (requests_max, now) = (self.shared.requests_max, self.clock().elapsed());
        let mut window = self.window();
        window.forget(now);
        let paused_for = window.paused_until.and_then(|until| until.checked_sub(now)).filter(|pause| !pause.is_zero());
        let free = requests_max.saturating_sub(window.sent.len());
        let requests_left = if paused_for.is_some() { 0 } else { free };
        BudgetLeft { requests_max, requests_left, span: window.span, paused_for }
    }

    /// The clock of the budget.
    pub(super) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Belvo asked for a pause (429, `Retry-After`): no request is sent for this span.
    pub fn pause(&self, span: Duration) {
        self.window().pause(self.clock().elapsed(), span);
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.shared.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the last requests were sent, as [`Clock::elapsed`].
#[derive(Debug)]
struct Window {
    span: Duration,
    sent: VecDeque<Duration>,
    paused_until: Option<Duration>,
    usage: Usage,
}

impl Window {
    /// Counts one request at `now`, or returns how long it has to wait.
    fn admit(&mut self, now: Duration, requests_max: usize) -> Result<(), Duration> {
        if let Some(until) = self.paused_until.filter(|&until| until > now) {
            return Err(until - now);
        }
        self.forget(now);
        // The request may be sent when this earlier one is no longer in the window.
        let Some(excess) = self.sent.len().checked_sub(requests_max) else {
            self.sent.push_back(now);
            self.usage.requests += 1;
            self.usage.most_in_span = self.usage.most_in_span.max(self.sent.len());
            return Ok(());
        };
        let blocking = self.sent.get(excess).copied().unwrap_or(now);
        Err((blocking + self.span).saturating_sub(now))
    }

    /// Forgets the requests that are no longer in the window.
    fn forget(&mut self, now: Duration) {
        while self.sent.front().is_some_and(|&sent| now.saturating_sub(sent) >= self.span) {
            self.sent.pop_front();
        }
    }

    fn pause(&mut self, now: Duration, span: Duration) {
        self.paused_until = self.paused_until.max(Some(now + span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sends as many requests as possible for `seconds`, waiting exactly as long as the budget says. Returns when each
    /// was sent.
    fn greedy(window: &mut Window, start: Duration, seconds: u64, requests_max: usize) -> Vec<Duration> {
        let (mut now, mut sent) = (start, Vec::new());
        while now < start + SECOND * u32::try_from(seconds).unwrap() {
            match window.admit(now, requests_max) {
                Ok(()) => sent.push(now),
                Err(wait) => now += wait.max(Duration::from_nanos(1)),
            }
            now += Duration::from_millis(7);
        }
        sent
    }

    fn empty() -> Window {
        Window { span: SPAN, sent: VecDeque::new(), paused_until: None, usage: Usage::default() }
    }

    #[test]
    fn no_window_of_thirty_seconds_exceeds_the_budget() {
        let start = SECOND;
        let sent = greedy(&mut empty(), start, 300, 80);
        assert_eq!(sent.len(), 800, "the budget is used completely");
        for (index, first) in sent.iter().enumerate() {
            let within = sent[index..].iter().take_while(|&&at| at < *first + SPAN).count();
            assert!(within <= 80, "{within} requests from the {index}th on");
        }
    }

    #[test]
    fn a_quarter_is_reserved_from_sweeps() {
        let (mut window, start) = (empty(), SECOND);
        assert_eq!(greedy(&mut window, start, 20, 60).len(), 60);
        assert_eq!(greedy(&mut window, start + SECOND * 20, 5, 80).len(), 20);
    }

    #[tokio::test]
    async fn jobs_leave_an_eighth_of_the_budget_to_people() {
        let (clock, _manual_clock) = Clock::manual(crate::link::Timestamp::from_millis(0));
        let budget = Budget::by(clock.clone(), 80);
        for _ in 0..70 {
            budget.take(Urgency::Job).await.unwrap();
        }
        assert_eq!(budget.take(Urgency::Job).await, Err(SPAN));
        for _ in 0..10 {
            budget.take(Urgency::Person).await.unwrap();
        }
        assert_eq!(budget.take(Urgency::Person).await, Err(SPAN));
        assert_eq!((clock.elapsed(), budget.usage()), (Duration::ZERO, Usage { requests: 80, most_in_span: 80 }));
    }

    #[test]
    fn every_urgency_may_send_with_the_smallest_budget() {
        for requests_max in 1..100 {
            let share = |urgency: Urgency| urgency.share_of(requests_max);
            let [person, job, sweep] = [Urgency::Person, Urgency::Job, Urgency::Background].map(share);
            assert!(person == requests_max && person >= job && job >= sweep && sweep > 0, "{requests_max}");
        }
    }

    #[test]
    fn a_pause_stops_every_call() {
        let (mut window, start) = (empty(), SECOND);
        window.pause(start, SECOND * 40);
        window.pause(start, SECOND * 5);
        assert_eq!(window.admit(start + SECOND, 80), Err(SECOND * 39));
        assert_eq!(window.admit(start + SECOND * 40, 80), Ok(()));
    }

    #[tokio::test]
    async fn the_budget_waits_by_its_own_clock() {
        let (clock, _manual_clock) = Clock::manual(crate::link::Timestamp::from_millis(0));
        let budget = Budget::by(clock.clone(), 4);
        for _ in 0..7 {
            budget.take(Urgency::Background).await.unwrap();
        }
        assert_eq!(clock.elapsed(), SPAN * 2);
        assert_eq!(budget.usage(), Usage { requests: 7, most_in_span: 3 });
    }

    #[tokio::test]
    async fn what_is_left_comes_back_after_the_window_and_after_a_pause() {
        let (clock, manual) = Clock::manual(crate::link::Timestamp::from_millis(0));
        let budget = Budget::by(clock.clone(), 4);
        let left = || (budget.left().requests_left, budget.left().paused_for);
        assert_eq!((budget.left().requests_max, left()), (4, (4, None)));
        budget.take(Urgency::Job).await.unwrap();
        assert_eq!(left(), (3, None));
        budget.pause(SECOND * 40);
        assert_eq!(left(), (0, Some(SECOND * 40)));
        manual.set(clock.now().after(SECOND * 40));
        assert_eq!(left(), (4, None));
    }

    #[tokio::test]
    async fn a_call_with_a_long_wait_fails_at_once() {
        let budget = Budget::new(4);
        for _ in 0..3 {
            budget.take(Urgency::Background).await.unwrap();
        }
        budget.take(Urgency::Job).await.unwrap();
        let wait = budget.take(Urgency::Job).await.unwrap_err();
        assert!(wait > PATIENCE_SHORT && wait <= SPAN, "{wait:?}");
    }
}

//! The rate limit of the API: 80 calls in 30 seconds, above which the caller's address may be blocked (older
//! API reference; newer copies refer to the contract).
//!
//! At Belvo a proxy in front of the API refuses such calls, so the response is a page of the proxy and not an error of the API.

use std::collections::VecDeque;

/// The span in which calls are counted.
const SPAN_MS: i64 = 30 * 1_000;

/// A sliding window over the latest calls.
#[derive(Debug)]
pub(crate) struct RateLimit {
    calls_max: Option<usize>,
    /// The times of the accepted calls of the last 30 seconds, the oldest first.
    calls: VecDeque<i64>,
}

impl RateLimit {
    /// A limit of `max` calls; `None` means no limit.
    pub(crate) fn new(calls_max: Option<u32>) -> Self {
        Self { calls_max: calls_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX)), calls: VecDeque::new() }
    }

    /// Whether a call at this time is accepted; an accepted call counts.
    pub(crate) fn admits(&mut self, now: i64) -> bool {
        let Some(max) = self.calls_max else { return true };
        while self.calls.pop_front_if(|at| *at + SPAN_MS <= now).is_some() {}
        let is_admitted = self.calls.len() < max;
        if is_admitted {
            self.calls.push_back(now);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let mut limit = RateLimit::new(Some(2));
        let admitted = [0, 10_000, 29_999, 30_000, 39_999, 40_000].map(|now| limit.admits(now));
        assert_eq!(admitted, [true, true, false, true, false, true]);
        assert!((0..1_000).all(|now| RateLimit::new(None).admits(now)));
        assert!(!RateLimit::new(Some(0)).admits(0));
    }
}

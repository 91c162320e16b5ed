//! Limits how often one link causes work: an address may be known to more people than its user.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::link::LinkId;

/// The most links that are counted. If there are more, the counts begin anew.
const LINKS_MAX: usize = 10_000;

/// At most `max` times in one window, for each link.
pub(super) struct Rate {
    max: u32,
    window: Duration,
    clock: Clock,
    /// When the window of a link began, by [`Clock::elapsed`], and how often it has been counted since.
    counts: Mutex<HashMap<LinkId, (Duration, u32)>>,
}

impl Rate {
    pub(super) fn new(max: u32, window: Duration, clock: Clock) -> Self {
        Self { max, window, clock, counts: Mutex::default() }
    }

    /// Counts one more; whether it is still within the limit.
    pub(super) fn allows(&self, link: &LinkId) -> bool {
        let now = self.clock.elapsed();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |began: Duration| now.saturating_sub(began) < self.window;
        if counts.len() >= LINKS_MAX && !counts.contains_key(link) {
            counts.retain(|_, (began, _)| is_open(*began));
            if counts.len() >= LINKS_MAX {
                counts.clear();
            }
        }
        let count = counts.entry(link.clone()).or_insert((now, 0));
        if !is_open(count.0) {
            *count = (now, 0);
        }
        count.1 = count.1.saturating_add(1);
        count.1 <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_its_own_limit_and_the_memory_is_bounded() {
        let rate = Rate::new(2, Duration::from_secs(3_600), Clock::wall());
        let link = |number: usize| format!("link-{number}").parse::<LinkId>().unwrap();
        assert_eq!([link(0), link(0), link(0), link(1)].map(|link| rate.allows(&link)), [true, true, false, true]);
        for number in 0..2 * LINKS_MAX {
            let _counted = rate.allows(&link(number));
        }
        assert!(rate.counts.lock().unwrap().len() <= LINKS_MAX);
        let short = Rate::new(1, Duration::ZERO, Clock::wall());
        assert!(short.allows(&link(0)) && short.allows(&link(0)), "a new window begins");
    }
}

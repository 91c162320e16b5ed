//! What relink has done in the last day, in periods of ten minutes, for `GET /v1/activity` and the console.
//!
//! It is in memory only, so it begins with the start of the process. For more than a day, or after a restart, there are the metrics and
//! the history in NATS.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sketches_ddsketch::{Config, DDSketch};

use crate::engine::Activity;
use crate::link::Timestamp;

/// The length of a period.
pub const PERIOD: Duration = Duration::from_secs(600);

/// The most periods that are kept: one day.
pub const PERIODS_MAX: usize = 144;

/// The periods, oldest first. A clone is the same log.
#[derive(Clone, Default)]
pub struct ActivityLog(Arc<Mutex<VecDeque<Period>>>);

/// What happened in one period.
#[derive(Clone)]
pub struct Period {
    /// When the period began: a whole multiple of [`PERIOD`].
    pub began_at: Timestamp,
    /// The counts. The two lists of times are empty; they are in the sketches below.
    pub counts: Activity,
    /// How long the outages had lasted when their prompts were published.
    pub prompted_after: Spans,
    /// How long the outages lasted that ended with a proof.
    pub repaired_after: Spans,
}

/// A number of time spans, of which the quantiles are known with an error of at most 1 %.
#[derive(Clone)]
pub struct Spans(DDSketch);

impl Default for Spans {
    fn default() -> Self {
        Self(DDSketch::new(Config::defaults()))
    }
}

impl Spans {
    /// Adds a time span.
    pub fn add(&mut self, span: Duration) {
        self.0.add(span.as_secs_f64());
    }

    /// Adds all spans of another.
    pub fn merge(&mut self, other: &Self) {
        // Only sketches of another configuration cannot be merged.
        let _merged = self.0.merge(&other.0);
    }

    /// The number of spans.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// The quantile, in seconds; `None` without any span.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        self.0.quantile(quantile).ok().flatten()
    }
}

impl Period {
    fn new(began_at: Timestamp) -> Self {
        let (prompted_after, repaired_after) = (Spans::default(), Spans::default());
        Self { began_at, counts: Activity::default(), prompted_after, repaired_after }
    }
}

impl ActivityLog {
    /// Adds what a commit did.
    pub fn add(&self, activity: &Activity) {
        let Some(at) = activity.at else { return };
        let length = i64::try_from(PERIOD.as_millis()).expect("ten minutes");
        let began_at = Timestamp::from_millis(at.as_millis().div_euclid(length) * length);
        let mut periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A commit may have earlier steps than the one before it. The difference is small, so they count in the last period.
        if periods.back().is_none_or(|last| last.began_at < began_at) {
            periods.push_back(Period::new(began_at));
        }
        let earliest = at.before(PERIOD * u32::try_from(PERIODS_MAX).expect("a small number"));
        while periods.len() > PERIODS_MAX || periods.front().is_some_and(|first| first.began_at <= earliest) {
            periods.pop_front();
        }
        let Some(period) = periods.back_mut() else { return };
        activity.prompted_after.iter().for_each(|span| period.prompted_after.add(*span));
        activity.repaired_after.iter().for_each(|span| period.repaired_after.add(*span));
        period.counts.add(activity);
    }

    /// The periods in which something happened and that ended after `since`, oldest first.
    pub fn since(&self, since: Timestamp) -> Vec<Period> {
        let periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        periods.iter().filter(|period| period.began_at.after(PERIOD) > since).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::StateName;

    fn outage(minutes: i64) -> Activity {
        let mut activity = Activity { at: Some(Timestamp::from_millis(minutes * 60_000)), ..Activity::default() };
        activity.transitions.insert((StateName::Valid, StateName::Invalid), 1);
        activity.repaired_after.push(Duration::from_secs(u64::try_from(minutes).unwrap()));
        activity
    }

    #[test]
    fn commits_are_summed_by_periods_of_ten_minutes() {
        let log = ActivityLog::default();
        for minutes in [0, 9, 10, 8, 35] {
            log.add(&outage(minutes));
        }
        let seen: Vec<_> = log
            .since(Timestamp::from_millis(0))
            .iter()
            .map(|period| {
                let counts: u64 = period.counts.transitions.values().sum();
                (period.began_at.as_millis() / 60_000, counts, period.repaired_after.count())
            })
            .collect();
        assert_eq!(seen, [(0, 2, 2), (10, 2, 2), (30, 1, 1)], "the late step of minute 8 counts in the last period");
        assert_eq!(log.since(Timestamp::from_millis(20 * 60_000)).len(), 1, "the period from 10 to 20 has ended");
    }

    #[test]
    fn the_log_is_bounded_and_forgets_after_a_day() {
        let log = ActivityLog::default();
        for minutes in (0..3 * 24 * 60).step_by(5) {
            log.add(&outage(minutes));
        }
        let periods = log.since(Timestamp::from_millis(0));
        assert_eq!(periods.len(), PERIODS_MAX);
        assert_eq!(periods[0].began_at, Timestamp::from_millis(2 * 24 * 3_600_000));
        log.add(&outage(20 * 24 * 60));
        assert_eq!(log.since(Timestamp::from_millis(0)).len(), 1, "what is older than a day is gone after a pause");
    }

    #[test]
    fn the_quantiles_are_those_of_the_spans() {
        let mut spans = Spans::default();
        assert_eq!(spans.quantile(0.5), None);
        let mut other = Spans::default();
        (1..=50).for_each(|second| spans.add(Duration::from_secs(second)));
        (51..=100).for_each(|second| other.add(Duration::from_secs(second)));
        spans.merge(&other);
        for (quantile, expected) in [(0.5, 50.0), (0.9, 90.0)] {
            let found = spans.quantile(quantile).unwrap();
            assert!((found - expected).abs() <= expected * 0.02, "{quantile}: {found}");
        }
    }
}

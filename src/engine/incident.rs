//! Counts the links of each institution that fail: it finds the *incidents of links*, in which many fail within minutes. It is pure and
//! has no clock; the caller passes the time.
//!
//! The *threshold* of an institution is the policy's `incident_links`, or five times the usual number of failing links
//! in a window (the baseline), whichever is more. An incident **begins** when at least as many distinct links as the
//! threshold have opened an episode within one window. It **ends** after a whole window in which fewer links than a
//! quarter of the threshold have opened an episode.
//!
//! The start is computed from the times at which the episodes opened, so that a backlog of messages gives the same
//! result however fast it is read. The end is computed from the times at which the openings were planned, so that an
//! incident does not end while its backlog has not been read.
//!
//! **After a restart.** A running incident is known ([`super::institutions`]). Everything else is rebuilt from the links with an open
//! episode. Links that have recovered are not counted, so for a day the baseline is too low, and an incident may begin late. A running
//! incident may last up to one window longer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::link::{LinkId, Policy, Timestamp};

/// The threshold, as a multiple of the baseline.
const BASELINE_FACTOR: u64 = 5;

/// The span over which the baseline is averaged.
const DAY: Duration = Duration::from_secs(86_400);

/// An institution is calm if fewer links fail in a window than the threshold divided by this number.
const CALM_DIVISOR: u64 = 4;

/// An opened episode that counts for an incident: it has a prompt, and a failing institution can be its cause.
pub(super) struct Opening<'a> {
    pub(super) institution: &'a str,
    pub(super) link: &'a LinkId,
    /// When the episode was opened.
    pub(super) at: Timestamp,
    /// Whether its prompt is deferred.
    pub(super) is_deferred: bool,
}

/// An incident has begun.
pub(super) struct Began {
    /// How many links have failed within the window.
    pub(super) links_count: u64,
    pub(super) threshold: u64,
}

/// The failing links of every institution.
pub(super) struct Incidents {
    /// The policy's `incident_links`. 0: incidents are not detected.
    links: u64,
    window: Duration,
    institutions: BTreeMap<String, Failures>,
}

#[derive(Default)]
struct Failures {
    /// Links that opened an episode recently and outside of an incident: when the episode was opened, and when this
    /// opening was planned.
    recent: BTreeMap<LinkId, (Timestamp, Timestamp)>,
    /// The number of openings in each window of the past day.
    baseline: BTreeMap<i64, u64>,
    ongoing: Option<Ongoing>,
}

struct Ongoing {
    began_at: Timestamp,
    threshold: u64,
    /// The earliest start of the calm window. `None`: the time of the next call.
    since: Option<Timestamp>,
    /// When the last openings were planned; at most as many openings as end a calm window.
    latest: VecDeque<Timestamp>,
}

impl Incidents {
    pub(super) fn of(policy: &Policy) -> Self {
        let (links, window) = (u64::from(policy.settings().incident_links), policy.settings().incident_window);
        Self { links, window, institutions: BTreeMap::new() }
    }

    /// The incident of this institution had begun before this process started.
    pub(super) fn resume(&mut self, institution: &str, began_at: Timestamp, threshold: u64) {
        let ongoing = Ongoing { began_at, threshold, since: None, latest: VecDeque::new() };
        self.institutions.entry(institution.to_owned()).or_default().ongoing = Some(ongoing);
    }

    /// Counts an episode that was opened before this process started.
    pub(super) fn remember(&mut self, opening: &Opening<'_>) {
        let bucket = self.bucket(opening.at);
        let failures = self.institutions.entry(opening.institution.to_owned()).or_default();
        if failures.ongoing.as_ref().is_none_or(|ongoing| opening.at <= ongoing.began_at) {
            failures.note(opening, opening.at, bucket);
        }
    }

    /// Whether an incident of the institution goes on.
    pub(super) fn goes_on(&self, institution: &str) -> bool {
        self.links > 0 && self.institutions.get(institution).is_some_and(|known| known.ongoing.is_some())
    }

    /// Counts an opening that is planned at `now`. Returns the incident if one begins with it.
    pub(super) fn opened(&mut self, opening: &Opening<'_>, now: Timestamp) -> Option<Began> {
        if self.links == 0 {
            return None;
        }
        let (window, links, bucket) = (self.window, self.links, self.bucket(opening.at));
        let windows_a_day = self.windows_a_day();
        let failures = self.institutions.entry(opening.institution.to_owned()).or_default();
        if let Some(ongoing) = &mut failures.ongoing {
            ongoing.record_opening(now);
            return None;
        }
        failures.recent.retain(|_, (_, planned_at)| now < planned_at.after(window));
        failures.note(opening, now, bucket);
        let threshold = links.max(failures.above_baseline(bucket, windows_a_day));
        let links_count = failures.most_within_window(opening.at, window);
        if links_count < threshold {
            return None;
        }
        failures.recent.clear();
        let ongoing = Ongoing { began_at: opening.at, threshold, since: Some(now), latest: VecDeque::new() };
        failures.ongoing = Some(ongoing);
        Some(Began { links_count, threshold })
    }

    /// Ends the incident of the institution if it is over at `now`. Returns whether it was.
    pub(super) fn end(&mut self, institution: &str, now: Timestamp) -> bool {
        let (window, is_off) = (self.window, self.links == 0);
        let Some(failures) = self.institutions.get_mut(institution) else { return false };
        let Some(ongoing) = &mut failures.ongoing else { return false };
        ongoing.since.get_or_insert(now);
        let is_over = is_off || ongoing.ends_at(window).is_some_and(|at| at <= now);
        if is_over {
            failures.ongoing = None;
        }
        is_over
    }

    /// Corrects times that lie after `now`, the latest time that it may be: a clock had been ahead.
    pub(super) fn correct_times(&mut self, now: Timestamp) {
        let bucket = self.bucket(now);
        for failures in self.institutions.values_mut() {
            for (opened_at, planned_at) in failures.recent.values_mut() {
                (*opened_at, *planned_at) = ((*opened_at).min(now), (*planned_at).min(now));
            }
            failures.baseline.retain(|past, _| *past <= bucket);
            if let Some(ongoing) = &mut failures.ongoing {
                ongoing.since = ongoing.since.map(|since| since.min(now));
                ongoing.latest.iter_mut().for_each(|latest| *latest = (*latest).min(now));
            }
        }
    }

    /// When the incident of the institution ends if no more links fail.
    pub(super) fn ends_at(&self, institution: &str) -> Option<Timestamp> {
        self.institutions.get(institution)?.ongoing.as_ref()?.ends_at(self.window)
    }

    fn bucket(&self, at: Timestamp) -> i64 {
        at.as_millis().div_euclid(i64::try_from(self.window.as_millis()).unwrap_or(i64::MAX))
    }

    fn windows_a_day(&self) -> u64 {
        u64::try_from(DAY.as_millis() / self.window.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl Failures {
    fn note(&mut self, opening: &Opening<'_>, planned_at: Timestamp, bucket: i64) {
        self.recent.insert(opening.link.clone(), (opening.at, planned_at));
        *self.baseline.entry(bucket).or_default() += 1;
    }

    /// The most openings in any window that contains `at`. Partitions are not read in the order of time, so later
    /// openings may be known.
    fn most_within_window(&self, at: Timestamp, window: Duration) -> u64 {
        let near = |other: &Timestamp| *other < at.after(window) && at < other.after(window);
        let mut times: Vec<_> = self.recent.values().map(|(opened_at, _)| *opened_at).filter(near).collect();
        times.sort_unstable();
        let mut first = 0;
        let mut most = 0;
        for (last, &end) in times.iter().enumerate().filter(|(_, end)| **end >= at) {
            while times[first].after(window) <= end {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most as u64
    }

    /// The multiple of the baseline for the window that ends in `bucket`. This window and the one before it do not
    /// count for the baseline.
    fn above_baseline(&mut self, bucket: i64, windows_a_day: u64) -> u64 {
        let before = bucket.saturating_sub(1);
        let first = before.saturating_sub(i64::try_from(windows_a_day).unwrap_or(i64::MAX));
        self.baseline = self.baseline.split_off(&first);
        let sum: u64 = self.baseline.range(..before).map(|(_, count)| count).sum();
        (BASELINE_FACTOR * sum).div_ceil(windows_a_day)
    }
}

impl Ongoing {
    fn record_opening(&mut self, now: Timestamp) {
        if self.latest.len() == self.calm_limit() {
            self.latest.pop_front();
        }
        self.latest.push_back(now);
    }

    /// The number of openings in one window that ends a calm.
    fn calm_limit(&self) -> usize {
        usize::try_from(self.threshold.div_ceil(CALM_DIVISOR)).unwrap_or(usize::MAX).max(1)
    }

    fn ends_at(&self, window: Duration) -> Option<Timestamp> {
        let last_disturbance = self.latest.front().filter(|_| self.latest.len() == self.calm_limit()).copied();
        Some(self.since?.max(last_disturbance.unwrap_or_default()).after(window))
    }
}

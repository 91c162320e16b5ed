//! Detects incidents: many links of one institution fail within minutes. It is pure and has no clock; the caller passes
//! the time.
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
//! **After a restart.** The last [`IncidentBody`] of each institution is durable, so a running incident is known.
//! Everything else is rebuilt from the links with an open episode. Links that have recovered are not counted, so for a
//! day the baseline is too low, an incident may begin late, and the counts of a running incident may be too small. A
//! running incident may last up to one window longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::contract::{At, IncidentBecause, IncidentBody, IncidentChange, Origin};
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

/// The failures of every institution.
pub(super) struct Incidents {
    /// The policy's `incident_links`. 0: incidents are not detected.
    links: u64,
    window: Duration,
    institutions: BTreeMap<String, Institution>,
    /// Institutions whose end of incident cannot be committed.
    ends_skipped: BTreeSet<String>,
}

#[derive(Default)]
struct Institution {
    /// Links that opened an episode recently and outside of an incident: when the episode was opened, and when this
    /// opening was planned.
    recent: BTreeMap<LinkId, (Timestamp, Timestamp)>,
    /// The number of openings in each window of the past day.
    baseline: BTreeMap<i64, u64>,
    ongoing: Option<Ongoing>,
    /// When the last incident ended.
    ended_at: Option<Timestamp>,
}

struct Ongoing {
    began_at: Timestamp,
    threshold: u64,
    links_count: u64,
    deferred_count: u64,
    /// The earliest start of the calm window. `None`: the time of the next call.
    since: Option<Timestamp>,
    /// When the last openings were planned; at most as many openings as end a calm window.
    latest: VecDeque<Timestamp>,
}

impl Incidents {
    /// Starts from the last message of each institution. [`Incidents::remember`] adds the open episodes.
    pub(super) fn of(policy: &Policy, latest: Vec<IncidentBody>) -> Self {
        let (links, window) = (u64::from(policy.settings().incident_links), policy.settings().incident_window);
        let mut incidents = Self { links, window, institutions: BTreeMap::new(), ends_skipped: BTreeSet::new() };
        for body in latest {
            let institution: &mut Institution = incidents.institutions.entry(body.institution).or_default();
            if body.change == IncidentChange::Ended {
                institution.ended_at = Some(body.at.0);
                continue;
            }
            let ongoing = Ongoing {
                began_at: body.began_at.0,
                threshold: body.threshold,
                links_count: body.links_count,
                deferred_count: 0,
                since: None,
                latest: VecDeque::new(),
            };
            institution.ongoing = Some(ongoing);
        }
        incidents
    }

    /// Counts an episode that was opened before this process started.
    pub(super) fn remember(&mut self, opening: &Opening<'_>) {
        let bucket = self.bucket(opening.at);
        let institution = self.institutions.entry(opening.institution.to_owned()).or_default();
        match &mut institution.ongoing {
            Some(ongoing) if opening.at > ongoing.began_at => ongoing.count(opening.is_deferred),
            Some(_) | None => institution.note(opening, opening.at, bucket),
        }
    }

    /// Whether the institution has an incident. An unknown institution has none.
    pub(super) fn is_on(&self, institution: Option<&str>) -> bool {
        let known = institution.and_then(|name| self.institutions.get(name));
        self.links > 0 && known.is_some_and(|known| known.ongoing.is_some())
    }

    /// How many institutions have an incident.
    pub(super) fn count(&self) -> usize {
        self.institutions.values().filter(|known| known.ongoing.is_some()).count()
    }

    /// Counts an opening that is planned at `now`. Returns the message to publish if an incident begins with it.
    pub(super) fn opened(&mut self, opening: &Opening<'_>, origin: &Origin, now: Timestamp) -> Option<IncidentBody> {
        if self.links == 0 {
            return None;
        }
        let (window, links, bucket) = (self.window, self.links, self.bucket(opening.at));
        let windows_a_day = self.windows_a_day();
        let institution = self.institutions.entry(opening.institution.to_owned()).or_default();
        if let Some(ongoing) = &mut institution.ongoing {
            ongoing.count(opening.is_deferred);
            ongoing.record_opening(now);
            return None;
        }
        institution.recent.retain(|_, (_, planned_at)| now < planned_at.after(window));
        institution.note(opening, now, bucket);
        let threshold = links.max(institution.above_baseline(bucket, windows_a_day));
        let count = institution.most_within_window(opening.at, window);
        if count < threshold {
            return None;
        }
        institution.recent.clear();
        // An opening in a backlog may be older than the end of the last incident, and two incidents must not have the
        // same start.
        let after_last = institution.ended_at.map(|at| at.after(Duration::from_millis(1)));
        let (began_at, latest) = (after_last.map_or(opening.at, |at| at.max(opening.at)), VecDeque::new());
        let ongoing = Ongoing { began_at, threshold, links_count: count, deferred_count: 0, since: Some(now), latest };
        let because = IncidentBecause { link_id: Some(opening.link.to_string()), origin: origin.clone() };
        let body = ongoing.body(IncidentChange::Began, opening.institution, began_at, window, because);
        institution.ongoing = Some(ongoing);
        Some(body)
    }

    /// Ends the incidents that are over at `now`, at most `limit`. Returns the messages to publish.
    pub(super) fn end(&mut self, now: Timestamp, limit: usize) -> Vec<IncidentBody> {
        let (window, is_off) = (self.window, self.links == 0);
        let mut bodies = Vec::new();
        for (name, institution) in &mut self.institutions {
            let Some(ongoing) = &mut institution.ongoing else { continue };
            ongoing.since.get_or_insert(now);
            let is_over = is_off || ongoing.ends_at(window).is_some_and(|at| at <= now);
            if bodies.len() < limit && is_over && !self.ends_skipped.contains(name) {
                let because = IncidentBecause { link_id: None, origin: Origin::timer(now) };
                bodies.push(ongoing.body(IncidentChange::Ended, name, now, window, because));
                (institution.ongoing, institution.ended_at) = (None, Some(now));
            }
        }
        bodies
    }

    /// When the next incident ends if no more links fail.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let known = self.institutions.iter().filter(|(name, _)| !self.ends_skipped.contains(*name));
        let ongoing = known.filter_map(|(_, known)| known.ongoing.as_ref());
        ongoing.filter_map(|ongoing| ongoing.ends_at(self.window)).min()
    }

    /// No longer publishes the end of an incident for these institutions.
    pub(super) fn skip_ends(&mut self, institutions: BTreeSet<String>) {
        self.ends_skipped.extend(institutions);
    }

    /// Takes the institutions whose end of incident is not published.
    pub(super) fn take_ends_skipped(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.ends_skipped)
    }

    fn bucket(&self, at: Timestamp) -> i64 {
        at.as_millis().div_euclid(i64::try_from(self.window.as_millis()).unwrap_or(i64::MAX))
    }

    fn windows_a_day(&self) -> u64 {
        u64::try_from(DAY.as_millis() / self.window.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl Institution {
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
    fn count(&mut self, is_deferred: bool) {
        self.links_count += 1;
        self.deferred_count += u64::from(is_deferred);
    }

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

    fn body(
        &self,
        change: IncidentChange,
        institution: &str,
        at: Timestamp,
        window: Duration,
        because: IncidentBecause,
    ) -> IncidentBody {
        IncidentBody {
            change,
            institution: institution.to_owned(),
            at: At(at),
            began_at: At(self.began_at),
            links_count: self.links_count,
            deferred_count: self.deferred_count,
            threshold: self.threshold,
            window_seconds: window.as_secs(),
            because,
        }
    }
}

#[cfg(test)]
mod tests;

//! Which institutions have an incident: many links of one fail within minutes. Pure, and no clock: whoever calls says
//! what time it is.
//!
//! An incident **begins** with the opening that makes them enough: within one window as many distinct links have opened
//! an episode as the policy's `incident_links` says, or five times as many as is usual for the institution, if that is
//! more. It **ends** when for one whole window fewer than a quarter of that have.
//!
//! What a window holds goes by the time of the openings, so that a backlog shows what happened, and not how fast it is
//! read. The calm at the end goes by the time they are planned, so that an incident does not end while its backlog is
//! still to be read.
//!
//! **What a restart forgets.** Whether an incident is on is durable ([`IncidentBody`]). The rest is rebuilt from the
//! links whose episode is still open: those that have recovered since are not counted, so the usual number is too low
//! for a day, and an incident that is just about to begin may begin later. One that is on begins its calm anew: it may
//! last up to a window longer, and its counts are at least.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::contract::{At, IncidentBecause, IncidentBody, IncidentNews, Origin};
use crate::link::{LinkId, Policy, Timestamp};

/// How many times the usual number is unusual.
const UNUSUAL: u64 = 5;

/// Over how long the usual number is taken.
const DAY: Duration = Duration::from_secs(86_400);

/// The part of the threshold below which an institution is calm, as a divisor.
const CALM: u64 = 4;

/// An episode that was opened with a prompt, for a cause that an institution in trouble can have.
pub(super) struct Opening<'a> {
    pub(super) institution: &'a str,
    pub(super) link: &'a LinkId,
    /// When it was opened.
    pub(super) at: Timestamp,
    /// Whether its prompt waits.
    pub(super) held: bool,
}

/// What is known of every institution.
pub(super) struct Incidents {
    /// 0: there are none.
    links: u64,
    window: Duration,
    institutions: BTreeMap<String, Institution>,
    /// Institutions whose incident's end cannot be told.
    ends_skipped: BTreeSet<String>,
}

#[derive(Default)]
struct Institution {
    /// The links that opened an episode lately and outside an incident: when they did, and when that was planned.
    recent: BTreeMap<LinkId, (Timestamp, Timestamp)>,
    /// How many did over the past day, by window.
    usual: BTreeMap<i64, u64>,
    ongoing: Option<Ongoing>,
    /// When the last one ended.
    ended_at: Option<Timestamp>,
}

struct Ongoing {
    began_at: Timestamp,
    threshold: u64,
    links_count: u64,
    held_count: u64,
    /// The calm is counted from here at the earliest. `None`: from the next look on.
    since: Option<Timestamp>,
    /// When the last openings were planned: as many as are too many for a calm.
    latest: VecDeque<Timestamp>,
}

impl Incidents {
    /// Nothing but the incidents whose last message is known; to be completed by [`Incidents::remember`].
    pub(super) fn of(policy: &Policy, latest: Vec<IncidentBody>) -> Self {
        let (links, window) = (u64::from(policy.settings().incident_links), policy.settings().incident_window);
        let mut incidents = Self { links, window, institutions: BTreeMap::new(), ends_skipped: BTreeSet::new() };
        for body in latest {
            let institution: &mut Institution = incidents.institutions.entry(body.institution).or_default();
            if body.news == IncidentNews::Ended {
                institution.ended_at = Some(body.at.0);
                continue;
            }
            let ongoing = Ongoing {
                began_at: body.began_at.0,
                threshold: body.threshold,
                links_count: body.links_count,
                held_count: 0,
                since: None,
                latest: VecDeque::new(),
            };
            institution.ongoing = Some(ongoing);
        }
        incidents
    }

    /// Counts an opening of before this process.
    pub(super) fn remember(&mut self, opening: &Opening<'_>) {
        let bucket = self.bucket(opening.at);
        let institution = self.institutions.entry(opening.institution.to_owned()).or_default();
        match &mut institution.ongoing {
            Some(ongoing) if opening.at > ongoing.began_at => ongoing.count(opening.held),
            Some(_) | None => institution.note(opening, opening.at, bucket),
        }
    }

    /// Whether the institution has an incident. One that nobody knows has none.
    pub(super) fn is_on(&self, institution: Option<&str>) -> bool {
        let known = institution.and_then(|name| self.institutions.get(name));
        self.links > 0 && known.is_some_and(|known| known.ongoing.is_some())
    }

    /// How many are under way.
    pub(super) fn count(&self) -> usize {
        self.institutions.values().filter(|known| known.ongoing.is_some()).count()
    }

    /// Takes an opening that is planned at `now`; gives what is to be told if it makes an incident.
    pub(super) fn opened(&mut self, opening: &Opening<'_>, origin: &Origin, now: Timestamp) -> Option<IncidentBody> {
        if self.links == 0 {
            return None;
        }
        let (window, links, bucket) = (self.window, self.links, self.bucket(opening.at));
        let windows_a_day = self.windows_a_day();
        let institution = self.institutions.entry(opening.institution.to_owned()).or_default();
        if let Some(ongoing) = &mut institution.ongoing {
            ongoing.count(opening.held);
            ongoing.disturb(now);
            return None;
        }
        institution.recent.retain(|_, (_, planned_at)| now < planned_at.after(window));
        institution.note(opening, now, bucket);
        let threshold = links.max(institution.unusual(bucket, windows_a_day));
        let count = institution.most_together(opening.at, window);
        if count < threshold {
            return None;
        }
        institution.recent.clear();
        // What a backlog tells may be older than the last end, and no two incidents of an institution have one beginning.
        let after_last = institution.ended_at.map(|at| at.after(Duration::from_millis(1)));
        let (began_at, latest) = (after_last.map_or(opening.at, |at| at.max(opening.at)), VecDeque::new());
        let ongoing = Ongoing { began_at, threshold, links_count: count, held_count: 0, since: Some(now), latest };
        let because = IncidentBecause { link_id: Some(opening.link.to_string()), origin: origin.clone() };
        let body = ongoing.tell(IncidentNews::Began, opening.institution, began_at, window, because);
        institution.ongoing = Some(ongoing);
        Some(body)
    }

    /// Ends what is over at `now`, at most `limit` at once; gives what is to be told.
    pub(super) fn end(&mut self, now: Timestamp, limit: usize) -> Vec<IncidentBody> {
        let (window, is_off) = (self.window, self.links == 0);
        let mut told = Vec::new();
        for (name, institution) in &mut self.institutions {
            let Some(ongoing) = &mut institution.ongoing else { continue };
            ongoing.since.get_or_insert(now);
            let is_over = is_off || ongoing.ends_at(window).is_some_and(|at| at <= now);
            if told.len() < limit && is_over && !self.ends_skipped.contains(name) {
                let because = IncidentBecause { link_id: None, origin: Origin::timer(now) };
                told.push(ongoing.tell(IncidentNews::Ended, name, now, window, because));
                (institution.ongoing, institution.ended_at) = (None, Some(now));
            }
        }
        told
    }

    /// When the next one ends if nothing more happens.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let told = self.institutions.iter().filter(|(name, _)| !self.ends_skipped.contains(*name));
        let ongoing = told.filter_map(|(_, known)| known.ongoing.as_ref());
        ongoing.filter_map(|ongoing| ongoing.ends_at(self.window)).min()
    }

    /// The ends of these are not told.
    pub(super) fn skip_ends(&mut self, institutions: BTreeSet<String>) {
        self.ends_skipped.extend(institutions);
    }

    /// The institutions whose end is not told.
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
        *self.usual.entry(bucket).or_default() += 1;
    }

    /// How many opened in the fullest window that has `at` in it. Lanes are not read in the order of time, so it may be any
    /// place in the window.
    fn most_together(&self, at: Timestamp, window: Duration) -> u64 {
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

    /// What is unusual for the window that ends in `bucket`: it and the one before are no part of what is usual.
    fn unusual(&mut self, bucket: i64, windows_a_day: u64) -> u64 {
        let before = bucket.saturating_sub(1);
        let first = before.saturating_sub(i64::try_from(windows_a_day).unwrap_or(i64::MAX));
        self.usual = self.usual.split_off(&first);
        let sum: u64 = self.usual.range(..before).map(|(_, count)| count).sum();
        (UNUSUAL * sum).div_ceil(windows_a_day)
    }
}

impl Ongoing {
    fn count(&mut self, held: bool) {
        self.links_count += 1;
        self.held_count += u64::from(held);
    }

    fn disturb(&mut self, now: Timestamp) {
        if self.latest.len() == self.too_many() {
            self.latest.pop_front();
        }
        self.latest.push_back(now);
    }

    /// So many openings in one window are no calm.
    fn too_many(&self) -> usize {
        usize::try_from(self.threshold.div_ceil(CALM)).unwrap_or(usize::MAX).max(1)
    }

    fn ends_at(&self, window: Duration) -> Option<Timestamp> {
        let disturbed_at = self.latest.front().filter(|_| self.latest.len() == self.too_many()).copied();
        Some(self.since?.max(disturbed_at.unwrap_or_default()).after(window))
    }

    fn tell(
        &self,
        news: IncidentNews,
        institution: &str,
        at: Timestamp,
        window: Duration,
        because: IncidentBecause,
    ) -> IncidentBody {
        IncidentBody {
            news,
            institution: institution.to_owned(),
            at: At(at),
            began_at: At(self.began_at),
            links_count: self.links_count,
            held_count: self.held_count,
            threshold: self.threshold,
            window_seconds: window.as_secs(),
            because,
        }
    }
}

#[cfg(test)]
mod tests;

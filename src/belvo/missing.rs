//! Decides whether a 404 means that a link was deleted. One missing link was deleted; many missing links at once are an
//! incident.
//!
//! Belvo empties its sandbox on the first of each month. A wrong address or the API keys of another customer have the
//! same effect: Belvo answers 404 for every link. A removed link is never revived, so jobs and sweeps ask
//! [`MissingGuard`] before they report a link as missing, and share it. The guard must only be asked about links that
//! were read by their own id.
//!
//! Only links that relink knows count, found or missing. Anybody who reports a 404 can name an unknown link; a 404 for
//! it is no sign of an incident.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::link::{LinkId, Timestamp};

/// Up to this number, missing links in one pass are deletions: a small customer may close ten accounts in a day.
const MISSING_MAX: usize = 10;

/// Above that number, missing links are deletions as long as they are at most one of this many.
const SHARE_MAX: usize = 10;

/// Single reads within this time are counted together.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// How long an incident goes on after its last sign; longer than the time between two sweeps.
const INCIDENT: Duration = Duration::from_secs(6 * 3600);

/// The reason why links are missing at Belvo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The links were deleted.
    Deletion,
    /// Many links are missing at once, so none of them is reported as deleted.
    Incident {
        /// Whether this is the first sign of the incident.
        begins: bool,
    },
}

/// Keeps the recent results of reads. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MissingGuard {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The latest result of a single read of each link, the oldest first.
    answers: VecDeque<Answer>,
    incident_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Answer {
    at: Timestamp,
    link: LinkId,
    is_missing: bool,
}

impl MissingGuard {
    /// A pass read `asked` known links by id, each once, and `missing` of them were missing.
    pub fn assess_pass(&self, asked: usize, missing: usize, now: Timestamp) -> Absence {
        self.seen().assess(is_incident(asked, missing), now)
    }

    /// A single known link was read and found.
    pub fn note_found(&self, link: &LinkId, now: Timestamp) {
        self.seen().note(link, false, now);
    }

    /// A single known link was read and was missing.
    pub fn assess_one(&self, link: &LinkId, now: Timestamp) -> Absence {
        let mut seen = self.seen();
        seen.note(link, true, now);
        let missing = seen.answers.iter().filter(|answer| answer.is_missing).count();
        let incident = is_incident(seen.answers.len(), missing);
        seen.assess(incident, now)
    }

    /// An unknown link was missing. An unknown link is no sign of an incident; during an incident the link is not
    /// reported as deleted either.
    pub fn assess_unknown_link(&self, now: Timestamp) -> Absence {
        self.seen().assess(false, now)
    }

    /// Belvo has no link at all.
    pub fn assess_emptiness(&self, now: Timestamp) -> Absence {
        self.seen().assess(true, now)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_incident(asked: usize, missing: usize) -> bool {
    missing > MISSING_MAX && missing > asked / SHARE_MAX
}

impl Seen {
    fn assess(&mut self, sign: bool, now: Timestamp) -> Absence {
        let goes_on = self.incident_at.is_some_and(|at| now.since(at) < INCIDENT);
        if sign {
            self.incident_at = Some(now);
        }
        if sign || goes_on { Absence::Incident { begins: !goes_on } } else { Absence::Deletion }
    }

    fn note(&mut self, link: &LinkId, is_missing: bool, now: Timestamp) {
        // A repeated read of a link replaces the earlier one.
        self.answers.retain(|answer| now.since(answer.at) < WINDOW && answer.link != *link);
        self.answers.push_back(Answer { at: now, link: link.clone(), is_missing });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000 * seconds)
    }

    fn link(number: usize) -> LinkId {
        format!("link-{number}").parse().unwrap()
    }

    #[test]
    fn an_incident_is_more_than_ten_and_more_than_a_tenth_of_a_pass() {
        for (asked, missing, incident) in
            [(1, 1, false), (10, 10, false), (11, 11, true), (50, 11, true), (1000, 100, false), (1000, 101, true)]
        {
            let absence = MissingGuard::default().assess_pass(asked, missing, at(0));
            assert_eq!(absence != Absence::Deletion, incident, "{missing} of {asked}");
        }
    }

    #[test]
    fn during_an_incident_no_link_counts_as_deleted() {
        let guard = MissingGuard::default();
        assert_eq!(guard.assess_pass(50, 50, at(0)), Absence::Incident { begins: true });
        assert_eq!(guard.assess_one(&link(1), at(60)), Absence::Incident { begins: false });
        assert_eq!(guard.assess_pass(50, 1, at(3600)), Absence::Incident { begins: false });
        assert_eq!(guard.assess_pass(50, 1, at(6 * 3600)), Absence::Deletion);
    }

    #[test]
    fn single_reads_are_counted_together() {
        let guard = MissingGuard::default();
        for number in 0..10 {
            assert_eq!(guard.assess_one(&link(number), at(1)), Absence::Deletion);
        }
        assert_eq!(guard.assess_one(&link(3), at(2)), Absence::Deletion, "asked again");
        assert_eq!(guard.assess_one(&link(10), at(2)), Absence::Incident { begins: true });
        let busy = MissingGuard::default();
        (100..300).for_each(|number| busy.note_found(&link(number), at(1)));
        (0..20).for_each(|number| assert_eq!(busy.assess_one(&link(number), at(1)), Absence::Deletion));
        let slow = MissingGuard::default();
        for number in 0..20 {
            let now = at(60 * i64::try_from(number).unwrap());
            assert_eq!(slow.assess_one(&link(number), now), Absence::Deletion, "{number}");
        }
    }

    #[test]
    fn repeated_reads_of_one_link_count_once() {
        let guard = MissingGuard::default();
        (0..200).for_each(|_| guard.note_found(&link(99), at(1)));
        (0..10).for_each(|number| assert_eq!(guard.assess_one(&link(number), at(1)), Absence::Deletion));
        assert_eq!(guard.assess_one(&link(10), at(1)), Absence::Incident { begins: true });
        let back = MissingGuard::default();
        (0..10).for_each(|number| assert_eq!(back.assess_one(&link(number), at(1)), Absence::Deletion));
        back.note_found(&link(3), at(2));
        assert_eq!(back.assess_one(&link(10), at(3)), Absence::Deletion, "one of the missing links was found later");
    }

    #[test]
    fn unknown_links_are_no_sign_and_do_not_count_as_deleted_during_an_incident() {
        let guard = MissingGuard::default();
        (0..50).for_each(|_| assert_eq!(guard.assess_unknown_link(at(1)), Absence::Deletion));
        assert_eq!(guard.assess_one(&link(1), at(2)), Absence::Deletion, "a deletion among them");
        guard.assess_emptiness(at(3));
        assert_eq!(guard.assess_unknown_link(at(4)), Absence::Incident { begins: false });
    }
}

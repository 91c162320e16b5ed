//! When a 404 is believed: one missing link is a deletion, many at once are an incident.
//!
//! Belvo empties its sandbox on the first of each month, and a wrong address or another customer's keys look the same:
//! every link is a 404. A tombstone is for ever, so whoever sees links missing asks here before saying so, and
//! everybody shares the answer. It must never be asked about links that Belvo was not asked for by their own ids.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::link::{LinkId, Timestamp};

/// So many may be missing in any pass: a small customer may well close ten accounts in a day.
const MISSING_MAX: usize = 10;

/// Above that, one in so many.
const SHARE_MAX: usize = 10;

/// For single questions: what belongs together.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// How long after its last sign an incident is thought to go on: longer than from one sweep to the next.
const INCIDENT: Duration = Duration::from_secs(6 * 3600);

/// What to make of links that Belvo does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Deletions.
    Believable,
    /// Something is wrong at large: say nothing about any link.
    Incident {
        /// Whether this is the first that is seen of it.
        begins: bool,
    },
}

/// Remembers what was missing lately. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MissingGuard {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Answers to single questions, the oldest first; the link if it was missing.
    answers: VecDeque<(Timestamp, Option<LinkId>)>,
    incident_at: Option<Timestamp>,
}

impl MissingGuard {
    /// A pass asked for `asked` links by id, and `missing` of them were not there.
    pub fn judge_pass(&self, asked: usize, missing: usize, now: Timestamp) -> Verdict {
        self.seen().judge(is_incident(asked, missing), now)
    }

    /// A single link was asked for and found.
    pub fn note_found(&self, now: Timestamp) {
        self.seen().note(now, None);
    }

    /// A single link was asked for and was not there.
    pub fn judge_one(&self, link: &LinkId, now: Timestamp) -> Verdict {
        let mut seen = self.seen();
        seen.note(now, Some(link));
        let missing = seen.answers.iter().filter(|(_, missing)| missing.is_some()).count();
        let incident = is_incident(seen.answers.len(), missing);
        seen.judge(incident, now)
    }

    /// Belvo knows no link at all.
    pub fn judge_emptiness(&self, now: Timestamp) -> Verdict {
        self.seen().judge(true, now)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_incident(asked: usize, missing: usize) -> bool {
    missing > MISSING_MAX && missing > asked / SHARE_MAX
}

impl Seen {
    fn judge(&mut self, sign: bool, now: Timestamp) -> Verdict {
        let goes_on = self.incident_at.is_some_and(|at| now.since(at) < INCIDENT);
        if sign {
            self.incident_at = Some(now);
        }
        if sign || goes_on { Verdict::Incident { begins: !goes_on } } else { Verdict::Believable }
    }

    fn note(&mut self, now: Timestamp, missing: Option<&LinkId>) {
        // A question that is asked again is one question.
        self.answers.retain(|(at, link)| now.since(*at) < WINDOW && (link.is_none() || link.as_ref() != missing));
        self.answers.push_back((now, missing.cloned()));
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
    fn more_than_ten_and_more_than_a_tenth_of_a_pass() {
        for (asked, missing, incident) in
            [(1, 1, false), (10, 10, false), (11, 11, true), (50, 11, true), (1000, 100, false), (1000, 101, true)]
        {
            let verdict = MissingGuard::default().judge_pass(asked, missing, at(0));
            assert_eq!(verdict != Verdict::Believable, incident, "{missing} of {asked}");
        }
    }

    #[test]
    fn an_incident_holds_everybody_and_ends() {
        let guard = MissingGuard::default();
        assert_eq!(guard.judge_pass(50, 50, at(0)), Verdict::Incident { begins: true });
        assert_eq!(guard.judge_one(&link(1), at(60)), Verdict::Incident { begins: false });
        assert_eq!(guard.judge_pass(50, 1, at(3600)), Verdict::Incident { begins: false });
        assert_eq!(guard.judge_pass(50, 1, at(6 * 3600)), Verdict::Believable);
    }

    #[test]
    fn single_questions_add_up() {
        let guard = MissingGuard::default();
        for number in 0..10 {
            assert_eq!(guard.judge_one(&link(number), at(1)), Verdict::Believable);
        }
        assert_eq!(guard.judge_one(&link(3), at(2)), Verdict::Believable, "asked again");
        assert_eq!(guard.judge_one(&link(10), at(2)), Verdict::Incident { begins: true });
        let busy = MissingGuard::default();
        (0..200).for_each(|_| busy.note_found(at(1)));
        (0..20).for_each(|number| assert_eq!(busy.judge_one(&link(number), at(1)), Verdict::Believable));
        let slow = MissingGuard::default();
        for number in 0..20 {
            let now = at(60 * i64::try_from(number).unwrap());
            assert_eq!(slow.judge_one(&link(number), now), Verdict::Believable, "{number}");
        }
    }
}

//! When a 404 is believed: one missing link is a deletion, many at once are an incident.
//!
//! Belvo empties its sandbox on the first of each month, and a wrong address or another customer's keys look the same:
//! every link is a 404. A tombstone is for ever, so whoever sees links missing asks here before saying so, and
//! everybody shares the answer. It must never be asked about links that Belvo was not asked for by their own ids.
//!
//! Only links that relink knows count, found or missing. A stranger is a link of which relink has nothing but questions:
//! anybody who reports a 404 names one. That Belvo does not know it either is no sign of anything.

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
    /// The latest answer to a single question about each link, the oldest first.
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
    /// A pass asked for `asked` known links by id, each once, and `missing` of them were not there.
    pub fn judge_pass(&self, asked: usize, missing: usize, now: Timestamp) -> Verdict {
        self.seen().judge(is_incident(asked, missing), now)
    }

    /// A single known link was asked for and found.
    pub fn note_found(&self, link: &LinkId, now: Timestamp) {
        self.seen().note(link, false, now);
    }

    /// A single known link was asked for and was not there.
    pub fn judge_one(&self, link: &LinkId, now: Timestamp) -> Verdict {
        let mut seen = self.seen();
        seen.note(link, true, now);
        let missing = seen.answers.iter().filter(|answer| answer.is_missing).count();
        let incident = is_incident(seen.answers.len(), missing);
        seen.judge(incident, now)
    }

    /// A stranger was not there. It is no sign of an incident, but during one it is not believed either.
    pub fn judge_stranger(&self, now: Timestamp) -> Verdict {
        self.seen().judge(false, now)
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

    fn note(&mut self, link: &LinkId, is_missing: bool, now: Timestamp) {
        // A question that is asked again is one question.
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
        (100..300).for_each(|number| busy.note_found(&link(number), at(1)));
        (0..20).for_each(|number| assert_eq!(busy.judge_one(&link(number), at(1)), Verdict::Believable));
        let slow = MissingGuard::default();
        for number in 0..20 {
            let now = at(60 * i64::try_from(number).unwrap());
            assert_eq!(slow.judge_one(&link(number), now), Verdict::Believable, "{number}");
        }
    }

    #[test]
    fn one_link_that_is_found_again_and_again_is_one_link() {
        let guard = MissingGuard::default();
        (0..200).for_each(|_| guard.note_found(&link(99), at(1)));
        (0..10).for_each(|number| assert_eq!(guard.judge_one(&link(number), at(1)), Verdict::Believable));
        assert_eq!(guard.judge_one(&link(10), at(1)), Verdict::Incident { begins: true });
        let back = MissingGuard::default();
        (0..10).for_each(|number| assert_eq!(back.judge_one(&link(number), at(1)), Verdict::Believable));
        back.note_found(&link(3), at(2));
        assert_eq!(back.judge_one(&link(10), at(3)), Verdict::Believable, "one of them is there after all");
    }

    #[test]
    fn strangers_are_no_sign_and_are_not_believed_during_an_incident() {
        let guard = MissingGuard::default();
        (0..50).for_each(|_| assert_eq!(guard.judge_stranger(at(1)), Verdict::Believable));
        assert_eq!(guard.judge_one(&link(1), at(2)), Verdict::Believable, "a deletion among them");
        guard.judge_emptiness(at(3));
        assert_eq!(guard.judge_stranger(at(4)), Verdict::Incident { begins: false });
    }
}

//! People asked in vain: messages to a user who can do nothing, or who has nothing to do. Counted for relink and for the handler without it.
//!
//! A message is in vain for one of five reasons ([`Reason`]; the first that applies). For relink each of them is counted in one of two
//! numbers: relink **could know**, or it could not. relink could know what its own clock and its own messages say; what the status
//! page reported, or five links with an outage error within ten minutes; and what two whole sweeps had the time to find. It could not know
//! that a link works while the last report is that the link is broken.
//!
//! Everything here is counted from the ground truth and from relink's inputs, without relink's own state.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::link::Timestamp;

/// This many links with an outage error within [`ERRORS_WINDOW`] show that a bank is down: relink's defaults.
const ERROR_LINKS: usize = 5;
const ERRORS_WINDOW: Duration = Duration::from_secs(600);

/// Why a message was in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// The link works.
    Repaired,
    /// Its user has connected the bank anew.
    Replaced,
    /// The bank is down, or refuses everybody.
    BankDown,
    /// The user sleeps.
    QuietHours,
    /// The person got another message within the pause.
    TwiceInPause,
}

/// The facts about a link at the time of a message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Whether the link works.
    pub(super) works: bool,
    /// Whether its user has connected the bank anew.
    pub(super) is_replaced: bool,
    /// Whether relink could know one of the two.
    pub(super) link_could_be_known: bool,
    /// Whether the bank is down, and whether relink could know it.
    pub(super) bank_is_down: bool,
    pub(super) bank_could_be_known: bool,
    pub(super) is_quiet: bool,
    pub(super) is_twice_in_pause: bool,
}

impl Facts {
    /// Why a message is in vain, and whether relink could know it. `None`: it is not.
    pub(super) const fn reason(self) -> Option<(Reason, bool)> {
        Some(if self.works {
            (Reason::Repaired, self.link_could_be_known)
        } else if self.is_replaced {
            (Reason::Replaced, self.link_could_be_known)
        } else if self.bank_is_down {
            (Reason::BankDown, self.bank_could_be_known)
        } else if self.is_quiet {
            (Reason::QuietHours, true)
        } else if self.is_twice_in_pause {
            (Reason::TwiceInPause, true)
        } else {
            return None;
        })
    }
}

/// Messages in vain.
#[derive(Clone, Debug, Default)]
pub(super) struct InVain {
    /// Those that relink could know to be in vain.
    pub(super) could_know: BTreeMap<Reason, u64>,
    /// The others.
    pub(super) other: BTreeMap<Reason, u64>,
}

impl InVain {
    pub(super) fn count(&mut self, reason: Reason, could_know: bool) {
        let counts = if could_know { &mut self.could_know } else { &mut self.other };
        *counts.entry(reason).or_default() += 1;
    }
}

/// What has been reported to relink about a bank.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The status page says that it is down.
    pub(super) page_says_down: bool,
    /// An incident that relink has published goes on.
    pub(super) is_published: bool,
    /// The links with an outage error, and when it was received.
    errors: VecDeque<(Timestamp, usize)>,
}

impl Evidence {
    pub(super) fn error(&mut self, link: usize, now: Timestamp) {
        self.errors.retain(|(_, other)| *other != link);
        self.errors.push_back((now, link));
    }

    /// Whether it shows that the bank is down.
    pub(super) fn shows_outage(&self, now: Timestamp) -> bool {
        let recent = self.errors.iter().filter(|(at, _)| now < at.after(ERRORS_WINDOW)).count();
        self.page_says_down || self.is_published || recent >= ERROR_LINKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        assert_eq!(Facts::default().reason(), None);
        let all = Facts { works: true, bank_is_down: true, is_quiet: true, ..Facts::default() };
        assert_eq!(all.reason(), Some((Reason::Repaired, false)));
        let down = Facts { bank_is_down: true, bank_could_be_known: true, is_quiet: true, ..Facts::default() };
        assert_eq!(down.reason(), Some((Reason::BankDown, true)));
        assert_eq!(Facts { is_quiet: true, ..Facts::default() }.reason(), Some((Reason::QuietHours, true)));
    }

    #[test]
    fn five_links_within_ten_minutes_show_an_outage_and_one_link_does_not() {
        let at = |minute: i64| Timestamp::from_millis(minute * 60_000);
        let mut evidence = Evidence::default();
        (0..9).for_each(|_| evidence.error(7, at(0)));
        (0..3).for_each(|link| evidence.error(link, at(1)));
        assert!(!evidence.shows_outage(at(2)));
        evidence.error(3, at(2));
        assert!(evidence.shows_outage(at(9)));
        assert!(!evidence.shows_outage(at(11)), "the first error is too old");
    }
}

//! What goes wrong in a fleet, how often, and how its people behave: all the numbers of the simulation.
//!
//! None of them is Belvo's: it publishes no such figures. They are meant to be believable, and on the bad side, so that
//! a month has every kind of trouble in it many times over.

use std::time::Duration;

use belvo_sandbox::{AccessMode, RefreshRate};

const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A bank, and the part of the fleet that is with it, of 100.
pub(super) struct Bank {
    pub(super) name: &'static str,
    pub(super) share: u32,
    /// Whether it knows its users by a password, which may change and be refused.
    pub(super) has_password: bool,
    /// Whether the customer reads its data by calls of its own, too.
    pub(super) has_owners: bool,
}

/// The institutions of the sandbox. Heimdall asks for a token at every login, so each refresh of its links is an outage;
/// a single link there would break again at each call, the refresh after its repair included.
pub(super) const BANKS: &[Bank] = &[
    Bank { name: "erebor_mx_retail", share: 36, has_password: true, has_owners: true },
    Bank { name: "gringotts_co_retail", share: 24, has_password: true, has_owners: true },
    Bank { name: "ofmockbank_br_retail", share: 16, has_password: false, has_owners: true },
    Bank { name: "tatooine_mx_fiscal", share: 14, has_password: true, has_owners: false },
    Bank { name: "planet_mx_employment", share: 6, has_password: true, has_owners: false },
    Bank { name: "heimdall_mx_retail", share: 4, has_password: true, has_owners: false },
];

/// Access modes and refresh rates, of 100. Single links are of banks whose data the customer reads by calls of its own;
/// a link of another bank that would be single is refreshed once a week.
pub(super) const RHYTHMS: &[(u32, AccessMode, Option<RefreshRate>)] = &[
    (3, AccessMode::Recurrent, Some(RefreshRate::SixHours)),
    (7, AccessMode::Recurrent, Some(RefreshRate::TwelveHours)),
    (35, AccessMode::Recurrent, Some(RefreshRate::Day)),
    (25, AccessMode::Recurrent, Some(RefreshRate::Week)),
    (5, AccessMode::Recurrent, Some(RefreshRate::ThirtyDays)),
    (25, AccessMode::Single, None),
];

/// What happens to one link in a day, in parts of a million.
pub(super) mod per_day_and_million {
    /// Its password is changed at the bank.
    pub(in crate::rehearsal::fleet) const PASSWORD_CHANGED: u32 = 4_000;
    /// Its bank wants a token, once.
    pub(in crate::rehearsal::fleet) const TOKEN_WANTED: u32 = 2_000;
    /// Its account is locked by the bank.
    pub(in crate::rehearsal::fleet) const LOCKED: u32 = 500;
    /// Its user leaves, and the customer deletes it.
    pub(in crate::rehearsal::fleet) const DELETED: u32 = 700;
}

/// Things of which so many in a hundred are so.
pub(super) mod percent {
    /// Links of which a refresh never finds anything new.
    pub(in crate::rehearsal::fleet) const WITHOUT_NEWS: u32 = 30;
    /// Links that were broken before relink came.
    pub(in crate::rehearsal::fleet) const BROKEN_BEFORE: u32 = 1;
    /// Links that the customer calls each day; the other single ones each week.
    pub(in crate::rehearsal::fleet) const CALLED_DAILY: u32 = 30;
    /// Applications that go on calling although relink published that the link is broken.
    pub(in crate::rehearsal::fleet) const CALLED_ALL_THE_SAME: u32 = 50;
    /// Deletions that Belvo confirms by a webhook; the others it does in silence.
    pub(in crate::rehearsal::fleet) const DELETED_ALOUD: u32 = 50;

    /// Prompts and reminders that the user never acts upon.
    pub(in crate::rehearsal::fleet) const IGNORED: u32 = 12;
    /// Attempts that succeed at once.
    pub(in crate::rehearsal::fleet) const SUCCEEDS: u32 = 76;
    /// Attempts in which the password is mistyped first; the rest closes the widget.
    pub(in crate::rehearsal::fleet) const MISTYPES: u32 = 12;
    /// Successes whose callback is lost.
    pub(in crate::rehearsal::fleet) const CALLBACK_LOST: u32 = 10;
    /// Exits whose callback reaches the application.
    pub(in crate::rehearsal::fleet) const EXIT_HEARD: u32 = 70;
    /// Those who closed the widget and come back by themselves.
    pub(in crate::rehearsal::fleet) const COMES_BACK: u32 = 50;
    /// Users who notice an outage by themselves, and open the widget.
    pub(in crate::rehearsal::fleet) const COMES_UNASKED: u32 = 8;
    /// Outages that are mended where relink cannot see it: by a call of the customer's own.
    pub(in crate::rehearsal::fleet) const MENDED_ELSEWHERE: u32 = 4;
}

/// How long a user takes to react: so many in a hundred within this and the next span.
pub(super) const REACTIONS: &[(u32, Duration, Duration)] = &[
    (45, Duration::from_secs(120), HOUR),
    (30, HOUR, Duration::from_secs(12 * 3600)),
    (18, Duration::from_secs(12 * 3600), Duration::from_secs(2 * 24 * 3600)),
    (7, Duration::from_secs(2 * 24 * 3600), Duration::from_secs(6 * 24 * 3600)),
];

/// How long a bank takes to unlock an account once its user has asked.
pub(super) const UNLOCKING: Span = (HOUR, Duration::from_secs(3 * 24 * 3600));

/// Something that happens to many at once: from one to the next on average, and how long it lasts.
pub(super) struct Disturbance {
    pub(super) every: Duration,
    pub(super) lasts: Span,
}

/// Of each bank: it answers `institution_down`.
pub(super) const BANK_DOWN: Disturbance =
    Disturbance { every: Duration::from_secs(10 * 24 * 3600), lasts: (HOUR, Duration::from_secs(6 * 3600)) };

/// Of each bank with passwords: it refuses everybody's, and then takes them again.
pub(super) const BANK_CONFUSED: Disturbance =
    Disturbance { every: Duration::from_secs(20 * 24 * 3600), lasts: (HOUR, HOUR) };

/// How long Belvo takes after that to call valid again, in silence, what it called invalid for no fault of the user's.
pub(super) const AMENDS: Span = (Duration::from_secs(2 * 3600), Duration::from_secs(8 * 3600));

/// No receiver takes the webhooks.
pub(super) const RECEIVER_DOWN: Disturbance = Disturbance {
    every: Duration::from_secs(3 * 24 * 3600),
    lasts: (Duration::from_secs(20 * 60), Duration::from_secs(20 * 60)),
};

/// Belvo's API answers 500 to everything.
pub(super) const API_DOWN: Disturbance =
    Disturbance { every: Duration::from_secs(4 * 24 * 3600), lasts: (Duration::from_secs(5 * 60), HOUR) };

/// From this to that.
pub(super) type Span = (Duration, Duration);

/// How long a webhook takes from Belvo to the customer, if nothing is the matter.
pub(super) const IN_TRANSIT: Span = (Duration::from_millis(200), Duration::from_secs(5));

/// What becomes of webhooks, of 100, and when each copy of one arrives.
pub(super) const FATES: &[(u32, &[Span])] = &[
    (93, &[IN_TRANSIT]),
    // Lost on its way.
    (1, &[]),
    // Late.
    (1, &[(MINUTE, Duration::from_secs(3 * 3600))]),
    // Overtaken by others.
    (3, &[(IN_TRANSIT.0, Duration::from_secs(30))]),
    // Twice.
    (2, &[IN_TRANSIT, (MINUTE, HOUR)]),
];

/// The first retry of a webhook comes after this, the second after twice as much more. Belvo does not say how long it is.
pub(super) const WEBHOOK_RETRY_STEP: Duration = Duration::from_secs(2 * 60);

/// Draws from these numbers.
pub(super) trait Draw {
    /// Whether it is so, for something that is so `percent` times in a hundred.
    fn happens(&mut self, percent: u32) -> bool;
    /// Something between the two.
    fn between(&mut self, span: Span) -> Duration;
    /// The time to the next of what comes at random, and `every` so often on average.
    fn wait_for(&mut self, every: Duration) -> Duration;
    /// Which of these parts of a hundred.
    fn pick(&mut self, parts: impl Iterator<Item = u32>) -> usize;
    /// How long a user takes to react.
    fn reaction(&mut self) -> Duration;
}

impl Draw for fastrand::Rng {
    fn happens(&mut self, percent: u32) -> bool {
        self.u32(0..100) < percent
    }

    fn between(&mut self, (least, most): Span) -> Duration {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.u64(millis(least)..=millis(most)))
    }

    fn wait_for(&mut self, every: Duration) -> Duration {
        // The logarithm of a number in (0, 1].
        every.mul_f64(-(1.0 - self.f64()).ln()).max(MINUTE)
    }

    fn pick(&mut self, parts: impl Iterator<Item = u32>) -> usize {
        let mut drawn = self.u32(0..100);
        for (index, part) in parts.enumerate() {
            match drawn.checked_sub(part) {
                Some(rest) => drawn = rest,
                None => return index,
            }
        }
        0
    }

    fn reaction(&mut self) -> Duration {
        let (_, least, most) = REACTIONS[self.pick(REACTIONS.iter().map(|reaction| reaction.0))];
        self.between((least, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parts_of_a_hundred() {
        assert_eq!(BANKS.iter().map(|bank| bank.share).sum::<u32>(), 100);
        assert_eq!(RHYTHMS.iter().map(|rhythm| rhythm.0).sum::<u32>(), 100);
        assert_eq!(FATES.iter().map(|fate| fate.0).sum::<u32>(), 100);
        assert_eq!(REACTIONS.iter().map(|reaction| reaction.0).sum::<u32>(), 100);
    }

    #[test]
    fn what_comes_at_random_comes_so_often() {
        let mut rng = fastrand::Rng::with_seed(7);
        let total: Duration = (0..10_000).map(|_| rng.wait_for(DAY)).sum();
        assert!((total / 10_000).abs_diff(DAY) < HOUR, "{:?}", total / 10_000);
    }
}

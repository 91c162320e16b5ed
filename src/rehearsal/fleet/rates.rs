//! The rates of faults and of user behaviour: all numbers of the fleet simulation.
//!
//! The numbers are assumptions: Belvo publishes no such figures. The numbers are plausible but high, so that each kind
//! of fault occurs many times in a month.

use std::time::Duration;

use belvo_sandbox::{AccessMode, RefreshRate};

const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A bank, and its share of the fleet in percent.
pub(super) struct Bank {
    pub(super) name: &'static str,
    pub(super) share: u32,
    /// Whether its users log in with a password, which they can change and the bank can refuse.
    pub(super) has_password: bool,
    /// Whether the customer also reads its data with calls of its own.
    pub(super) has_owners: bool,
}

/// The institutions of the sandbox. Heimdall requires a token at every login, so each refresh of its links is an outage;
/// a single link there would break again at each call, including the refresh after its repair.
pub(super) const BANKS: &[Bank] = &[
    Bank { name: "erebor_mx_retail", share: 36, has_password: true, has_owners: true },
    Bank { name: "gringotts_co_retail", share: 24, has_password: true, has_owners: true },
    Bank { name: "ofmockbank_br_retail", share: 16, has_password: false, has_owners: true },
    Bank { name: "tatooine_mx_fiscal", share: 14, has_password: true, has_owners: false },
    Bank { name: "planet_mx_employment", share: 6, has_password: true, has_owners: false },
    Bank { name: "heimdall_mx_retail", share: 4, has_password: true, has_owners: false },
];

/// Access modes and refresh rates, in percent. Only banks whose data the customer reads have single links;
/// a single link of another bank becomes a link with a weekly refresh.
pub(super) const RHYTHMS: &[(u32, AccessMode, Option<RefreshRate>)] = &[
    (3, AccessMode::Recurrent, Some(RefreshRate::SixHours)),
    (7, AccessMode::Recurrent, Some(RefreshRate::TwelveHours)),
    (35, AccessMode::Recurrent, Some(RefreshRate::Day)),
    (25, AccessMode::Recurrent, Some(RefreshRate::Week)),
    (5, AccessMode::Recurrent, Some(RefreshRate::ThirtyDays)),
    (25, AccessMode::Single, None),
];

/// Faults of one link per day, in parts per million.
pub(super) mod per_day_and_million {
    /// The user changes the password at the bank.
    pub(in crate::rehearsal::fleet) const PASSWORD_CHANGED: u32 = 4_000;
    /// The bank requires a token once.
    pub(in crate::rehearsal::fleet) const TOKEN_WANTED: u32 = 2_000;
    /// The bank locks the account.
    pub(in crate::rehearsal::fleet) const LOCKED: u32 = 500;
    /// The user leaves, and the customer deletes the link.
    pub(in crate::rehearsal::fleet) const DELETED: u32 = 700;
}

/// Probabilities in percent.
pub(super) mod percent {
    /// Links whose refreshes never find new data.
    pub(in crate::rehearsal::fleet) const WITHOUT_NEWS: u32 = 30;
    /// Links that were broken before relink was installed.
    pub(in crate::rehearsal::fleet) const BROKEN_BEFORE: u32 = 1;
    /// Single links that the customer calls each day; the others are called each week.
    pub(in crate::rehearsal::fleet) const CALLED_DAILY: u32 = 30;
    /// Applications that continue their calls after relink has reported the link as broken.
    pub(in crate::rehearsal::fleet) const CALLED_WHILE_BROKEN: u32 = 50;
    /// Deletions with a webhook; the others have none.
    pub(in crate::rehearsal::fleet) const DELETED_WITH_WEBHOOK: u32 = 50;

    /// Prompts and reminders that the user ignores.
    pub(in crate::rehearsal::fleet) const IGNORED: u32 = 12;
    /// Attempts that succeed immediately.
    pub(in crate::rehearsal::fleet) const SUCCEEDS: u32 = 76;
    /// Attempts with a wrong password first; in the remaining attempts the user closes the widget.
    pub(in crate::rehearsal::fleet) const MISTYPES: u32 = 12;
    /// Successes whose callback is lost.
    pub(in crate::rehearsal::fleet) const CALLBACK_LOST: u32 = 10;
    /// Exits whose callback reaches the application.
    pub(in crate::rehearsal::fleet) const EXIT_REPORTED: u32 = 70;
    /// Users who closed the widget and return without a reminder.
    pub(in crate::rehearsal::fleet) const COMES_BACK: u32 = 50;
    /// Users who notice an outage and open the widget without a prompt.
    pub(in crate::rehearsal::fleet) const COMES_UNPROMPTED: u32 = 8;
    /// Users who connect the bank anew in place of a repair.
    pub(in crate::rehearsal::fleet) const CONNECTS_ANEW: u32 = 8;
    /// Outages of a bank that Belvo's status page reports.
    pub(in crate::rehearsal::fleet) const ON_STATUS_PAGE: u32 = 50;
    /// Outages that are repaired by a call of the customer, which relink does not receive.
    pub(in crate::rehearsal::fleet) const REPAIRED_ELSEWHERE: u32 = 4;
}

/// One look of a mail scanner, or of the preview of a link, at an address in a message.
#[derive(Debug)]
pub(super) struct Look {
    /// The time from the message to the look.
    pub(super) after: Span,
    /// HEAD, not GET.
    pub(super) is_head: bool,
    pub(super) user_agent: &'static str,
    /// The client address that the proxy in front of relink reports.
    pub(super) from: &'static str,
}

const fn look(after: Span, is_head: bool, user_agent: &'static str, from: &'static str) -> Look {
    Look { after, is_head, user_agent, from }
}

/// A scanner opens an address before a person can.
const SCANNED: Span = (Duration::from_millis(500), Duration::from_secs(60));
/// The same address again: an archive, or a scan for threats that were not known before.
const SCANNED_AGAIN: Span = (DAY, Duration::from_secs(21 * 24 * 3600));

const GATEWAY: &str = "BarracudaCentral";
const HIDDEN: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36";
const PREVIEW: &str = "WhatsApp/2.23.20.0";
const BOT: &str = "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)";

/// How mail providers scan: the percentage of persons, and the looks at each message. The addresses are of documentation (RFC 5737).
pub(super) const SCANNERS: &[(u32, &[Look])] = &[
    (40, &[]),
    (15, &[look(SCANNED, false, GATEWAY, "192.0.2.10")]),
    // Twice, from two addresses, and as a browser.
    (15, &[look(SCANNED, false, HIDDEN, "198.51.100.7"), look(SCANNED, false, HIDDEN, "203.0.113.9")]),
    (10, &[look(SCANNED, true, GATEWAY, "192.0.2.11"), look(SCANNED, false, GATEWAY, "192.0.2.12")]),
    (10, &[look(SCANNED, false, PREVIEW, "198.51.100.8"), look(SCANNED, true, BOT, "203.0.113.10")]),
    (10, &[look(SCANNED, false, HIDDEN, "198.51.100.9"), look(SCANNED_AGAIN, false, HIDDEN, "198.51.100.9")]),
];

/// The reaction time of users: the percentage whose reaction is between this span and the next one.
pub(super) const REACTIONS: &[(u32, Duration, Duration)] = &[
    (45, Duration::from_secs(120), HOUR),
    (30, HOUR, Duration::from_secs(12 * 3600)),
    (18, Duration::from_secs(12 * 3600), Duration::from_secs(2 * 24 * 3600)),
    (7, Duration::from_secs(2 * 24 * 3600), Duration::from_secs(6 * 24 * 3600)),
];

/// The time that a bank takes to unlock an account.
pub(super) const UNLOCKING: Span = (HOUR, Duration::from_secs(3 * 24 * 3600));

/// A disturbance of many links: its average interval and its duration.
pub(super) struct Disturbance {
    pub(super) every: Duration,
    pub(super) lasts: Span,
}

/// Each bank: it answers `institution_down`.
pub(super) const BANK_DOWN: Disturbance =
    Disturbance { every: Duration::from_secs(10 * 24 * 3600), lasts: (HOUR, Duration::from_secs(6 * 3600)) };

/// How long after an outage begins, or ends, the status page says so.
pub(super) const PAGE_REPORTS: Span = (Duration::from_secs(5 * 60), Duration::from_secs(40 * 60));

/// Each bank with passwords: it refuses all logins for a while.
pub(super) const LOGINS_REFUSED: Disturbance =
    Disturbance { every: Duration::from_secs(20 * 24 * 3600), lasts: (HOUR, HOUR) };

/// The time after which Belvo sets links valid again that refused logins had made invalid, without a webhook.
pub(super) const STATUS_RESTORE: Span = (Duration::from_secs(2 * 3600), Duration::from_secs(8 * 3600));

/// The receiver of webhooks is down.
pub(super) const RECEIVER_DOWN: Disturbance = Disturbance {
    every: Duration::from_secs(3 * 24 * 3600),
    lasts: (Duration::from_secs(20 * 60), Duration::from_secs(20 * 60)),
};

/// Belvo's API answers every call with 500.
pub(super) const API_DOWN: Disturbance =
    Disturbance { every: Duration::from_secs(4 * 24 * 3600), lasts: (Duration::from_secs(5 * 60), HOUR) };

/// A minimum and a maximum.
pub(super) type Span = (Duration, Duration);

/// The normal transit time of a webhook.
pub(super) const IN_TRANSIT: Span = (Duration::from_millis(200), Duration::from_secs(5));

/// The outcomes of a webhook in percent, each with the transit time of every copy.
pub(super) const FATES: &[(u32, &[Span])] = &[
    (93, &[IN_TRANSIT]),
    // Lost.
    (1, &[]),
    // Late.
    (1, &[(MINUTE, Duration::from_secs(3 * 3600))]),
    // Out of order.
    (3, &[(IN_TRANSIT.0, Duration::from_secs(30))]),
    // Duplicated.
    (2, &[IN_TRANSIT, (MINUTE, HOUR)]),
];

/// The time before the first retry of a webhook; the second retry follows after twice that time. Belvo does not document it.
pub(super) const WEBHOOK_RETRY_STEP: Duration = Duration::from_secs(2 * 60);

/// Draws random values with these rates.
pub(super) trait Draw {
    /// True with a probability of `percent`.
    fn happens(&mut self, percent: u32) -> bool;
    /// A span between the minimum and the maximum.
    fn between(&mut self, span: Span) -> Duration;
    /// The time to the next of random events with the average interval `every`.
    fn wait_for(&mut self, every: Duration) -> Duration;
    /// Draws an index; the share of an index, in percent, is its probability.
    fn pick(&mut self, parts: impl Iterator<Item = u32>) -> usize;
    /// A reaction time.
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
    fn shares_add_up_to_a_hundred() {
        assert_eq!(BANKS.iter().map(|bank| bank.share).sum::<u32>(), 100);
        assert_eq!(RHYTHMS.iter().map(|rhythm| rhythm.0).sum::<u32>(), 100);
        assert_eq!(SCANNERS.iter().map(|scanner| scanner.0).sum::<u32>(), 100);
        assert_eq!(FATES.iter().map(|fate| fate.0).sum::<u32>(), 100);
        assert_eq!(REACTIONS.iter().map(|reaction| reaction.0).sum::<u32>(), 100);
    }

    #[test]
    fn random_events_have_their_average_interval() {
        let mut rng = fastrand::Rng::with_seed(7);
        let total: Duration = (0..10_000).map(|_| rng.wait_for(DAY)).sum();
        assert!((total / 10_000).abs_diff(DAY) < HOUR, "{:?}", total / 10_000);
    }
}

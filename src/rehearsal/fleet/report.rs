//! The report of a run, as a table and as JSON. The same seed gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::checker::{Checker, Tally};
use super::in_vain::Reason;
use super::options::FleetOptions;
use super::scans::Scans;
use super::state::Simulation;

/// The maximum number of listed failures.
const FAILURES_MAX: usize = 10;

/// The words for the reasons why a message was in vain.
const REPAIRED: &str = "repaired";
const REPLACED: &str = "replaced";
const BANK_DOWN: &str = "bank_down";
const QUIET_HOURS: &str = "quiet_hours";
const TWICE_IN_PAUSE: &str = "twice_in_pause";

/// The report of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The number of links.
    pub links: usize,
    /// The number of days.
    pub days: u32,
    /// The seed.
    pub seed: u64,
    /// Whether users get no messages at night.
    pub quiet_hours: bool,
    /// Outages: spans in which only the user could repair the link.
    pub outages: u64,
    /// Outages that began before relink was installed.
    pub outages_adopted: u64,
    /// Outages that began before relink detected the end of the previous one, whose prompt is still valid.
    pub outages_carried_over: u64,
    /// Outages that a call of relink caused, such as the refresh after a repair. Without relink they would
    /// not have begun at that time.
    pub outages_at_relinks_call: u64,
    /// Outages in which Belvo refused the login while its status was `valid`.
    pub outages_contradicted: u64,
    /// Outages that were not prompted, because the bank refused all logins and the link worked again later.
    pub outages_avoided: u64,
    /// Incidents of institutions.
    pub incidents: u64,
    /// The results of relink.
    pub relink: Score,
    /// The results of a webhook handler without relink, for the same webhooks and errors.
    pub without_relink: Score,
    /// The time from the change of Belvo's status to the prompt, without the outages before the installation.
    pub time_to_detect: Spread,
    /// The time from the repair to `recovered`.
    pub time_to_recover: Spread,
    /// Prompts for outages that only a sweep detected.
    pub detected_by_sweep: u64,
    /// The gaps.
    pub gaps: Gaps,
    /// relink's calls to Belvo.
    pub belvo: Belvo,
    /// Mail scanners, and the pages that they and people saw.
    pub scans: ScanCounts,
    /// Webhooks that Belvo sent, retries included.
    pub webhooks_sent: u64,
    /// Inputs of relink.
    pub inputs: u64,
    /// Notices of relink, by type.
    pub notices: BTreeMap<String, u64>,
    /// The first failures, one sentence each.
    pub failures: Vec<String>,
    /// The full history of the link of `--link-log`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link_log: Vec<String>,
}

/// The results about prompts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Score {
    /// The number of prompts.
    pub prompts: u64,
    /// The number of outages for each number of prompts.
    pub outages_by_prompts: BTreeMap<u32, u64>,
    /// Prompts beyond the first of an outage.
    pub repeated: u64,
    /// Outages that lasted for two sweeps or more and were not prompted.
    pub lost: u64,
    /// Prompts for a working link.
    pub false_prompts: u64,
    /// Links with a wrong state at the end, after the phase without faults.
    pub stuck: u64,
    /// People asked in vain: messages for a link that works (`repaired`), or whose user has connected the bank anew (`replaced`), while the
    /// bank was down or refused everybody (`bank_down`), in quiet hours, or twice within the pause. Without relink: only prompts.
    pub asked_in_vain: BTreeMap<&'static str, Asked>,
}

/// Messages in vain for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Those that relink could know to be in vain. Always 0 without relink.
    pub could_know: u64,
    /// The others.
    pub other: u64,
}

/// A distribution of durations, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The number of measurements.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The maximum.
    pub max: u64,
}

/// The gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gaps {
    /// Opened gaps.
    pub opened: u64,
    /// Closed gaps. A gap stays open, correctly, if the bank has no new data.
    pub closed: u64,
    /// Refreshes that relink requested.
    pub refreshes_requested: u64,
}

/// Mail scanners that opened the address of a repair page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScanCounts {
    /// The links whose address a scanner opened.
    pub links: u64,
    /// How often scanners opened an address.
    pub looks: u64,
    /// Tokens that Belvo minted because of a scanner. Must be 0.
    pub tokens_minted: u64,
    /// Inputs and messages of relink because of a scanner. Must be 0.
    pub effects: u64,
    /// The pages that scanners and people saw, by their view; `head` are answers to HEAD.
    pub pages: BTreeMap<String, u64>,
    /// Pages that did not fit the state of their link. Must be 0.
    pub wrong_pages: u64,
}

/// relink's calls to Belvo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Belvo {
    /// Calls of Belvo's API.
    pub calls: u64,
    /// The maximum number of calls within 30 seconds.
    pub most_in_30s: usize,
    /// Jobs that relink gave up.
    pub jobs_abandoned: u64,
}

impl Report {
    pub(super) fn of(simulation: &Simulation) -> Self {
        let FleetOptions { links, days, seed, quiet_hours, .. } = simulation.options;
        let Scans { looks, links: scanned, tokens_minted, effects, views, wrong_pages } = simulation.scans.clone();
        let checker: &Checker = &simulation.checker;
        let usage = simulation.relink.usage();
        let with_link = |(link, failure): &(usize, String)| format!("{} {failure}", simulation.members[*link].link);
        Self {
            links,
            days,
            seed,
            quiet_hours,
            outages: checker.outages,
            outages_adopted: checker.adopted,
            outages_carried_over: checker.carried_over,
            outages_contradicted: checker.contradicted,
            outages_avoided: checker.avoided,
            incidents: simulation.incidents,
            outages_at_relinks_call: checker.by_relink,
            relink: Score::of(&checker.relink),
            without_relink: Score::of(&checker.baseline),
            time_to_detect: Spread::of(&checker.to_detect),
            time_to_recover: Spread::of(&checker.to_recover),
            detected_by_sweep: checker.detected_by_sweep,
            gaps: Gaps {
                opened: checker.gaps_opened,
                closed: checker.gaps_closed,
                refreshes_requested: simulation.refreshes_requested,
            },
            belvo: Belvo {
                calls: usage.requests,
                most_in_30s: usage.most_in_span,
                jobs_abandoned: simulation.jobs_abandoned,
            },
            scans: ScanCounts { links: scanned.len() as u64, looks, tokens_minted, effects, pages: views, wrong_pages },
            webhooks_sent: simulation.webhooks_sent,
            inputs: simulation.relink.inputs_count(),
            notices: simulation.notices.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            failures: checker.failures.iter().take(FAILURES_MAX).map(with_link).collect(),
            link_log: simulation.link_log.lines.clone(),
        }
    }

    /// Whether relink lost no outage, prompted at most once in each, asked nobody in vain as far as it could know, has the correct state
    /// of every link at the end, and showed the right pages, without an effect of a mail scanner.
    pub fn is_good(&self) -> bool {
        let is_right = self.relink.lost == 0 && self.relink.repeated == 0 && self.relink.stuck == 0;
        let ScanCounts { tokens_minted, effects, wrong_pages, .. } = self.scans;
        is_right && self.relink.in_vain_though_known() == 0 && tokens_minted + effects + wrong_pages == 0
    }

    /// The report as a table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let (links, days) = (grouped(self.links as u64), self.days);
        let mut line = |line: String| {
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(format!("{links} links, {days} days, seed {}", self.seed));
        line(String::new());
        line(format!("{:<30}{:>10}{:>16}", "", "relink", "without relink"));
        line(format!("{:<30}{:>10}{:>16}", "outages", grouped(self.outages), grouped(self.outages)));
        for (name, value) in [
            ("prompts", (|score: &Score| score.prompts) as fn(&Score) -> u64),
            ("  outages without prompt", |score| score.prompted(0..1)),
            ("  outages prompted once", |score| score.prompted(1..2)),
            ("  outages prompted twice", |score| score.prompted(2..3)),
            ("  outages prompted more", |score| score.prompted(3..u32::MAX)),
            ("lost", |score| score.lost),
            ("repeated", |score| score.repeated),
            ("links stuck at the end", |score| score.stuck),
            ("prompts while the link worked", |score| score.false_prompts),
            ("people asked in vain", |score| score.in_vain(|_| true)),
            ("  relink could know", Score::in_vain_though_known),
            ("  the link worked", |score| score.in_vain(|reason| reason == REPAIRED)),
            ("  bank connected anew", |score| score.in_vain(|reason| reason == REPLACED)),
            ("  bank down", |score| score.in_vain(|reason| reason == BANK_DOWN)),
            ("  in quiet hours", |score| score.in_vain(|reason| reason == QUIET_HOURS)),
            ("  twice in the pause", |score| score.in_vain(|reason| reason == TWICE_IN_PAUSE)),
        ] {
            let (relink, baseline) = (grouped(value(&self.relink)), grouped(value(&self.without_relink)));
            line(format!("{name:<30}{relink:>10}{baseline:>16}"));
        }
        line(String::new());
        line(format!("{:<30}{:>10}{:>10}{:>10}{:>10}", "", "p50", "p95", "p99", "max"));
        for (name, spread) in [("time to detect", self.time_to_detect), ("time to recover", self.time_to_recover)] {
            let [p50, p95, p99, max] = [spread.p50, spread.p95, spread.p99, spread.max].map(span);
            line(format!("{name:<30}{p50:>10}{p95:>10}{p99:>10}{max:>10}"));
        }
        line(String::new());
        for (name, count) in [
            ("detected only by a sweep", self.detected_by_sweep),
            ("broken before installation", self.outages_adopted),
            ("carried over", self.outages_carried_over),
            ("login refused, status valid", self.outages_contradicted),
            ("incidents of institutions", self.incidents),
            ("  prompts avoided", self.outages_avoided),
            ("caused by a call of relink", self.outages_at_relinks_call),
            ("gaps", self.gaps.opened),
            ("  closed", self.gaps.closed),
            ("refreshes requested", self.gaps.refreshes_requested),
            ("calls to Belvo", self.belvo.calls),
            ("  most in 30 s", self.belvo.most_in_30s as u64),
            ("jobs abandoned", self.belvo.jobs_abandoned),
            ("links that scanners opened", self.scans.links),
            ("  looks of scanners", self.scans.looks),
            ("  tokens minted by them", self.scans.tokens_minted),
            ("  other effects of them", self.scans.effects),
            ("pages shown", self.scans.pages.values().sum()),
            ("  wrong pages", self.scans.wrong_pages),
            ("webhooks sent", self.webhooks_sent),
            ("inputs", self.inputs),
        ] {
            line(format!("{name:<30}{:>10}", grouped(count)));
        }
        for (title, counts) in [("pages", &self.scans.pages), ("notices", &self.notices)] {
            line(title.to_owned());
            for (name, count) in counts {
                line(format!("  {name:<28}{:>10}", grouped(*count)));
            }
        }
        for failure in &self.failures {
            line(format!("\n{failure}"));
        }
        for entry in &self.link_log {
            line(entry.clone());
        }
        text
    }
}

impl Score {
    fn of(tally: &Tally) -> Self {
        let Tally { prompts_per_outage, prompts, repeated, lost, false_prompts, stuck, in_vain } = tally.clone();
        let mut asked_in_vain = BTreeMap::<&'static str, Asked>::new();
        let words = [
            (Reason::Repaired, REPAIRED),
            (Reason::Replaced, REPLACED),
            (Reason::BankDown, BANK_DOWN),
            (Reason::QuietHours, QUIET_HOURS),
            (Reason::TwiceInPause, TWICE_IN_PAUSE),
        ];
        for (reason, word) in words {
            let count = |counts: &BTreeMap<Reason, u64>| counts.get(&reason).copied().unwrap_or_default();
            let asked = Asked { could_know: count(&in_vain.could_know), other: count(&in_vain.other) };
            asked_in_vain.insert(word, asked);
        }
        Self { prompts, outages_by_prompts: prompts_per_outage, repeated, lost, false_prompts, stuck, asked_in_vain }
    }

    fn in_vain(&self, is_counted: impl Fn(&str) -> bool) -> u64 {
        let counted = self.asked_in_vain.iter().filter(|(reason, _)| is_counted(reason));
        counted.map(|(_, asked)| asked.could_know + asked.other).sum()
    }

    /// Messages in vain, as relink could know.
    pub fn in_vain_though_known(&self) -> u64 {
        self.asked_in_vain.values().map(|asked| asked.could_know).sum()
    }

    fn prompted(&self, times: std::ops::Range<u32>) -> u64 {
        self.outages_by_prompts.range(times).map(|(_, count)| count).sum()
    }
}

impl Spread {
    /// The distribution of sorted spans.
    fn of(sorted: &[u64]) -> Self {
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        let [p50, p95, p99, max] = [50, 95, 99, 100].map(|percent| at(percent).unwrap_or_default());
        Self { count: sorted.len() as u64, p50, p95, p99, max }
    }
}

/// 1234567 as 1,234,567.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A span in its two largest units.
fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    let mut text = String::new();
    let written = match seconds {
        0 => write!(text, "{millis} ms"),
        1..60 => write!(text, "{seconds} s"),
        60..3_600 => write!(text, "{} min", seconds / 60),
        3_600..86_400 => write!(text, "{}h{:02}", seconds / 3_600, seconds % 3_600 / 60),
        86_400.. => write!(text, "{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    };
    debug_assert!(written.is_ok(), "writing to a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let spans = [150, 59_999, 60_000, 3_660_000, 90_000_000].map(span);
        assert_eq!(spans, ["150 ms", "59 s", "1 min", "1h01", "1d01h"]);
    }

    #[test]
    fn percentiles_are_measured_values() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(Spread::of(&hundred), Spread { count: 100, p50: 50, p95: 95, p99: 99, max: 100 });
        assert_eq!(Spread::of(&[7]), Spread { count: 1, p50: 7, p95: 7, p99: 7, max: 7 });
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}

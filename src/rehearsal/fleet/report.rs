//! The result of a run: a table for people, JSON for machines. The same seed gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::checker::{Checker, Tally};
use super::options::FleetOptions;
use super::state::Simulation;

/// How many of the failures are listed.
const STORIES_MAX: usize = 10;

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How many links there were.
    pub links: usize,
    /// For how many days.
    pub days: u32,
    /// From which seed.
    pub seed: u64,
    /// How often a link stopped working until its user did something.
    pub outages: u64,
    /// Of these, how many are older than relink.
    pub outages_adopted: u64,
    /// Of these, how many began before relink noticed that the one before had ended: its prompt still stands.
    pub outages_carried_over: u64,
    /// Of these, how many began at a call of relink's own, such as the refresh after a repair. Without relink they would
    /// not have begun then.
    pub outages_at_relinks_call: u64,
    /// Of these, in how many Belvo contradicted itself: it refused the login, and its status was `valid`.
    pub outages_contradicted: u64,
    /// Of these, how many were never prompted because their bank refused everybody, and then took them again.
    pub outages_spared: u64,
    /// How often relink published that a bank's incident began.
    pub incidents: u64,
    /// What relink made of it.
    pub relink: Score,
    /// What a webhook handler without relink would have made of the same webhooks and errors.
    pub without_relink: Score,
    /// From the change of Belvo's status to the prompt; of outages that are not older than relink.
    pub time_to_detect: Spread,
    /// From the repair to `recovered`.
    pub time_to_recover: Spread,
    /// Prompts after an outage that only a sweep noticed.
    pub learnt_by_sweep: u64,
    /// Spans of missed history.
    pub gaps: Gaps,
    /// What relink asked of Belvo.
    pub belvo: Belvo,
    /// Webhooks that Belvo sent, its retries included.
    pub webhooks_sent: u64,
    /// Inputs that relink took in.
    pub inputs: u64,
    /// Notices that relink sent, by type.
    pub notices: BTreeMap<String, u64>,
    /// The failures, one sentence each; the first few.
    pub stories: Vec<String>,
    /// The full history of the link that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub story: Vec<String>,
}

/// How well users were prompted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Score {
    /// How many prompts there were.
    pub prompts: u64,
    /// How many outages were prompted this often.
    pub outages_by_prompts: BTreeMap<u32, u64>,
    /// Prompts beyond the first of an outage.
    pub repeated: u64,
    /// Outages that went on through two sweeps and more, and were never prompted.
    pub lost: u64,
    /// Prompts while the link worked.
    pub falsely: u64,
    /// Links whose last state was wrong, after a quiet day.
    pub stuck: u64,
}

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How often it was measured.
    pub count: u64,
    /// Half of them took no longer than this,
    pub p50: u64,
    /// nineteen of twenty than this,
    pub p95: u64,
    /// ninety-nine of a hundred than this,
    pub p99: u64,
    /// and all than this.
    pub max: u64,
}

/// Spans of missed history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gaps {
    /// How many there were.
    pub opened: u64,
    /// How many were filled. Where a bank has nothing new, nothing comes, and that is right.
    pub closed: u64,
    /// How often relink asked Belvo for what was missed.
    pub refreshes_asked: u64,
}

/// What relink asked of Belvo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Belvo {
    /// Calls of its API.
    pub calls: u64,
    /// The most of them in any 30 seconds.
    pub most_in_30s: usize,
    /// Jobs that were given up.
    pub jobs_given_up: u64,
}

impl Report {
    pub(super) fn of(simulation: &Simulation) -> Self {
        let FleetOptions { links, days, seed, story: _ } = simulation.options;
        let checker: &Checker = &simulation.checker;
        let usage = simulation.relink.usage();
        let told = |(link, story): &(usize, String)| format!("{} {story}", simulation.members[*link].link);
        Self {
            links,
            days,
            seed,
            outages: checker.outages,
            outages_adopted: checker.adopted,
            outages_carried_over: checker.carried_over,
            outages_contradicted: checker.contradicted,
            outages_spared: checker.spared,
            incidents: simulation.incidents,
            outages_at_relinks_call: checker.by_relink,
            relink: Score::of(&checker.relink),
            without_relink: Score::of(&checker.naive),
            time_to_detect: Spread::of(&checker.to_detect),
            time_to_recover: Spread::of(&checker.to_recover),
            learnt_by_sweep: checker.learnt_by_sweep,
            gaps: Gaps {
                opened: checker.gaps_opened,
                closed: checker.gaps_closed,
                refreshes_asked: simulation.refreshes_asked,
            },
            belvo: Belvo {
                calls: usage.requests,
                most_in_30s: usage.most_in_span,
                jobs_given_up: simulation.jobs_given_up,
            },
            webhooks_sent: simulation.webhooks_sent,
            inputs: simulation.relink.inputs_count(),
            notices: simulation.notices.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            stories: checker.stories.iter().take(STORIES_MAX).map(told).collect(),
            story: simulation.story.lines.clone(),
        }
    }

    /// Whether relink lost no outage, prompted nobody twice, and ended with the right state of every link.
    pub const fn is_good(&self) -> bool {
        self.relink.lost == 0 && self.relink.repeated == 0 && self.relink.stuck == 0
    }

    /// The table.
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
            ("  outages prompted never", |score| score.prompted(0..1)),
            ("  outages prompted once", |score| score.prompted(1..2)),
            ("  outages prompted twice", |score| score.prompted(2..3)),
            ("  outages prompted more", |score| score.prompted(3..u32::MAX)),
            ("lost", |score| score.lost),
            ("repeated", |score| score.repeated),
            ("links stuck at the end", |score| score.stuck),
            ("while the link worked", |score| score.falsely),
        ] {
            let (relink, naive) = (grouped(value(&self.relink)), grouped(value(&self.without_relink)));
            line(format!("{name:<30}{relink:>10}{naive:>16}"));
        }
        line(String::new());
        line(format!("{:<30}{:>10}{:>10}{:>10}{:>10}", "", "p50", "p95", "p99", "max"));
        for (name, spread) in [("time to detect", self.time_to_detect), ("time to recover", self.time_to_recover)] {
            let [p50, p95, p99, max] = [spread.p50, spread.p95, spread.p99, spread.max].map(span);
            line(format!("{name:<30}{p50:>10}{p95:>10}{p99:>10}{max:>10}"));
        }
        line(String::new());
        for (name, count) in [
            ("learnt only by sweeping", self.learnt_by_sweep),
            ("broken before relink came", self.outages_adopted),
            ("carried over from the last", self.outages_carried_over),
            ("refused, and called valid", self.outages_contradicted),
            ("incidents of a bank", self.incidents),
            ("  links spared a prompt", self.outages_spared),
            ("begun at relink's own call", self.outages_at_relinks_call),
            ("spans of missed history", self.gaps.opened),
            ("  filled", self.gaps.closed),
            ("refreshes asked", self.gaps.refreshes_asked),
            ("calls to Belvo", self.belvo.calls),
            ("  most in 30 s", self.belvo.most_in_30s as u64),
            ("jobs given up", self.belvo.jobs_given_up),
            ("webhooks sent", self.webhooks_sent),
            ("inputs", self.inputs),
        ] {
            line(format!("{name:<30}{:>10}", grouped(count)));
        }
        line("notices".to_owned());
        for (name, count) in &self.notices {
            line(format!("  {name:<28}{:>10}", grouped(*count)));
        }
        for story in &self.stories {
            line(format!("\n{story}"));
        }
        for told in &self.story {
            line(told.clone());
        }
        text
    }
}

impl Score {
    fn of(tally: &Tally) -> Self {
        let Tally { prompts_per_outage, prompts, repeated, lost, falsely, stuck } = tally.clone();
        Self { prompts, outages_by_prompts: prompts_per_outage, repeated, lost, falsely, stuck }
    }

    fn prompted(&self, times: std::ops::Range<u32>) -> u64 {
        self.outages_by_prompts.range(times).map(|(_, count)| count).sum()
    }
}

impl Spread {
    /// Of spans in order.
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
    debug_assert!(written.is_ok(), "a text grows");
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
    fn percentiles_are_of_what_was_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(Spread::of(&hundred), Spread { count: 100, p50: 50, p95: 95, p99: 99, max: 100 });
        assert_eq!(Spread::of(&[7]), Spread { count: 1, p50: 7, p95: 7, p99: 7, max: 7 });
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}

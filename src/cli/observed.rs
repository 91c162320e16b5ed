//! `relink observed`: what relink would have sent in observe mode, counted by day and type of notice.
//!
//! The notices are the messages on `link.observed.>`, which `GET /v1/events` sends. They are counted here, so relink keeps no second record.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::client::{RelinkArgs, RunningRelink};
use super::output::{DIM, line, print, print_json, terminal_width};
use super::tables::{Column, table_of};
use super::tail::EventReader;
use crate::printable::printable;

pub(super) const EXAMPLES: &str = "\
Examples:
  relink observed                      how many notices relink would have sent, by day and type
  relink observed --json               the same, for a program
  relink tail --kind observed --after 0 --no-follow --json
                                       each of these notices, to compare them with those of another system
A day is one of UTC. The stream keeps the newest messages of each type and link (RELINK_HISTORY).";

/// The length of a date at the beginning of a time, such as 2026-11-22.
const DATE_LENGTH: usize = 10;

const COLUMNS: [Column; 4] = [
    Column::always("DAY").whole(),
    Column::always("NOTICE"),
    Column::always("WOULD HAVE BEEN SENT").right(),
    Column::optional("LINKS", 1).right(),
];

#[derive(Args, Debug)]
pub(super) struct ObservedArgs {
    #[command(flatten)]
    relink: RelinkArgs,
}

pub(super) async fn run(args: ObservedArgs) -> anyhow::Result<ExitCode> {
    let relink = RunningRelink::of(args.relink)?;
    let query = [("kind", "observed".to_owned()), ("wait", "0".to_owned())];
    let mut report = Report::default();
    let mut count = |event: Value| {
        report.count(&event);
        Ok(())
    };
    EventReader::read_all(&relink, &query, &mut count).await?;
    if relink.json { print_json(&report.json()) } else { print(&report.table(terminal_width())) }
}

/// What one day has of one type.
#[derive(Default)]
struct Count {
    notices: usize,
    links: BTreeSet<String>,
}

/// The notices by day and type.
#[derive(Default)]
struct Report(BTreeMap<(String, String), Count>);

impl Report {
    fn count(&mut self, event: &Value) {
        let text = |field: &str| event[field].as_str().unwrap_or("?");
        let day = text("stored_at").chars().take(DATE_LENGTH).collect();
        let count = self.0.entry((day, text("type").to_owned())).or_default();
        count.notices += 1;
        count.links.insert(text("link_id").to_owned());
    }

    fn notices_count(&self) -> usize {
        self.0.values().map(|count| count.notices).sum()
    }

    fn links_count(&self) -> usize {
        self.0.values().flat_map(|count| &count.links).collect::<BTreeSet<_>>().len()
    }

    fn json(&self) -> Value {
        let row = |((day, name), count): (&(String, String), &Count)| json!({"day": day, "type": name, "notices_count": count.notices, "links_count": count.links.len()});
        let days: Vec<Value> = self.0.iter().map(row).collect();
        json!({"days": days, "notices_count": self.notices_count(), "links_count": self.links_count()})
    }

    fn table(&self, width: Option<u16>) -> String {
        if self.0.is_empty() {
            return "relink has kept back no notice: it does not observe (`relink serve --observe`), or no notice was due so far\n"
                .to_owned();
        }
        let row = |((day, name), count): (&(String, String), &Count)| {
            [printable(day), printable(name), count.notices.to_string(), count.links.len().to_string()]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        let mut text = table_of(&COLUMNS, &rows, width);
        let (notices, links) = (self.notices_count(), self.links_count());
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (of_notices, of_links) = (plural(notices), plural(links));
        line(&mut text, format_args!("{DIM}{notices} notice{of_notices} about {links} link{of_links}{DIM:#}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::{HOSTILE, is_safe};
    use super::*;

    fn event(day: &str, name: &str, link: &str) -> Value {
        json!({"kind": "observed", "stored_at": format!("{day}T10:15:00.000Z"), "type": name, "link_id": link})
    }

    #[test]
    fn notices_are_counted_by_day_and_type() {
        let mut report = Report::default();
        for (day, name, link) in [
            ("2026-11-23", "update_required", "a"),
            ("2026-11-22", "update_required", "a"),
            ("2026-11-22", "update_required", "a"),
            ("2026-11-22", "update_required", "b"),
            ("2026-11-22", "recovered", "b"),
        ] {
            report.count(&event(day, name, link));
        }
        let row = |day: &str, name: &str, notices: usize, links: usize| json!({"day": day, "type": name, "notices_count": notices, "links_count": links});
        let days = [
            row("2026-11-22", "recovered", 1, 1),
            row("2026-11-22", "update_required", 3, 2),
            row("2026-11-23", "update_required", 1, 1),
        ];
        assert_eq!(report.json(), json!({"days": days, "notices_count": 5, "links_count": 2}));
        let table = anstream::adapter::strip_str(&report.table(None)).to_string();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = table.lines().map(words).collect();
        assert_eq!(lines[0], "DAY NOTICE WOULD HAVE BEEN SENT LINKS");
        assert_eq!(
            lines[2..],
            ["2026-11-22 update_required 3 2", "2026-11-23 update_required 1 1", "5 notices about 2 links"]
        );
    }

    #[test]
    fn a_text_from_outside_forges_no_line() {
        let mut report = Report::default();
        report.count(&event(HOSTILE, HOSTILE, HOSTILE));
        report.count(&json!(HOSTILE));
        assert!(is_safe(&report.table(None)), "{:?}", report.table(None));
        assert!(Report::default().table(None).contains("no notice"));
    }
}

//! `relink replay`: another policy, or this version of relink, over what was recorded; which notices would have been sent otherwise.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::moment::{Moment, span as parse_span};
use super::output::{BOLD, DIM, line, print, print_json};
use crate::config::{Config, Sources};
use crate::link::Timestamp;
use crate::nats::recorded::Recordings;
use crate::printable::{counted, printable};
use crate::replay::{self, Comparison, Difference, KindCount, SentKind, Span};
use crate::{clock, os, service};

pub(super) const EXAMPLES: &str = "\
Examples:
  relink replay --from 7days --policy calm.toml
                                       the last week, with the [policy] of calm.toml
  relink replay --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z
                                       that week, with the policy of the service and this version of relink
  relink replay --from 7days --policy calm.toml --json --first 0
                                       every difference, for a program
It reads NATS by the configuration of the service (--config, RELINK_*), and publishes and stores nothing.

What a replay cannot know: it repeats the inputs that came. Other messages would have led to other inputs.
  - A question to Belvo that only the new policy asks has no recorded answer. It stays unanswered; the report counts them.
  - A user who gets another prompt, or none, may act otherwise.
  - If relink was stopped, its timers were late; in the replay they are on time.
The settings that are not in the file of --policy are those of the service. The inputs of the span must still be there \
(RELINK_INPUT_MAX_AGE). The replay of a link with more than RELINK_HISTORY states since --from begins later; the report counts them.";

/// The default of `--tolerance`, in the form of the command line.
const TOLERANCE: &str = "1m";

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Start of the span: a time such as 2026-11-01T00:00:00Z, a date, or how long ago such as 7days
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    from: Moment,
    /// End of the span; by default now, less the tolerance
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    to: Option<Moment>,
    /// TOML file with the table `policy`, as in the file of the service; without it, the policy of the service
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How far the times of two notices may differ and still count as the same
    #[arg(long, value_name = "SPAN", default_value = TOLERANCE, value_parser = parse_span)]
    tolerance: Duration,
    /// How many differences are printed; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    first: usize,
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let ReplayArgs { from, to, policy, tolerance, first, config, json } = args;
    os::keep_new_files_private();
    let now = clock::now();
    let (from, to) = (from.time(), to.map_or_else(|| now.before(tolerance), Moment::time));
    if from >= to {
        bail!("--from ({from}) must be earlier than --to ({to})");
    }
    let sources = Sources::of_process(config, Vec::new());
    let config = Config::load(&sources)?.config;
    let policy = match policy {
        Some(file) => config.policy_with(&sources, &file)?,
        None => config.policy.clone(),
    };
    let client = service::connect(&config, "relink replay").await?;
    let recordings = Recordings::new(client, config.nats.subjects.clone());
    let progress = |text: String| {
        let _closed_terminal = writeln!(anstream::stderr(), "{DIM}{text}{DIM:#}");
    };
    let span = Span { from, to, tolerance };
    let comparison = replay::run(&recordings, span, policy, config.status_components, progress);
    let comparison = comparison.await.context("the recording cannot be replayed")?;
    let shown = if first == 0 { usize::MAX } else { first };
    if json { print_json(&as_json(&comparison, shown)) } else { print(&report(&comparison, shown)) }
}

fn as_json(comparison: &Comparison, shown: usize) -> Value {
    let Comparison { span, kinds, differences, .. } = comparison;
    let kinds: Vec<Value> = kinds
        .iter()
        .map(|(kind, KindCount { same, added, removed, moved })| {
            json!({"type": kind.as_str(), "same_count": same, "added_count": added, "removed_count": removed, "moved_count": moved})
        })
        .collect();
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let rows: Vec<Value> = differences
        .iter()
        .take(shown)
        .map(|Difference { link, kind, which, recorded_at, replayed_at }| {
            json!({"link_id": link.as_str(), "type": kind.as_str(), "which": which, "change": change(*recorded_at, *replayed_at),
                "recorded_at": time(*recorded_at), "replayed_at": time(*replayed_at)})
        })
        .collect();
    json!({
        "from": span.from.to_string(),
        "to": span.to.to_string(),
        "tolerance_ms": u64::try_from(span.tolerance.as_millis()).unwrap_or(u64::MAX),
        "links_count": comparison.links_count,
        "inputs_count": comparison.inputs_count,
        "types": kinds,
        "differences_count": differences.len(),
        "differences": rows,
        "unanswered_questions_count": comparison.unanswered_count(),
        "links_begun_later_count": comparison.begun_later_count,
        "unreadable_inputs_count": comparison.unreadable_inputs_count,
        "unreadable_messages_count": comparison.unreadable_count,
    })
}

const fn change(recorded_at: Option<Timestamp>, replayed_at: Option<Timestamp>) -> &'static str {
    match (recorded_at, replayed_at) {
        (Some(_), Some(_)) => "moved",
        (Some(_), None) => "removed",
        (None, _) => "added",
    }
}

fn report(comparison: &Comparison, shown: usize) -> String {
    let Comparison { span, kinds, differences, links_count, inputs_count, .. } = comparison;
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "{BOLD}{} to {}{BOLD:#}: replayed {} of {}; nothing was written.",
            span.from,
            span.to,
            counted(*inputs_count, "input"),
            counted(*links_count, "link")
        ),
    );
    if comparison.is_same() {
        let same: u64 = kinds.values().map(|count| count.same).sum();
        line(&mut text, format_args!("No difference: the replay sends the same {}.", counted(same, "message")));
    } else {
        text.push_str(&table(comparison));
        text.push('\n');
    }
    for Difference { link, kind, which, recorded_at, replayed_at } in differences.iter().take(shown) {
        let (link, kind) = (link.as_str(), kind.as_str());
        let which = if which.is_empty() { String::new() } else { format!(" {}", printable(which)) };
        let word = change(*recorded_at, *replayed_at);
        let at = match (recorded_at, replayed_at) {
            (Some(before), Some(after)) => format!("{before} -> {after}"),
            (Some(at), None) | (None, Some(at)) => at.to_string(),
            (None, None) => String::new(),
        };
        line(&mut text, format_args!("{word:<8} {link}  {kind}{which}  {at}"));
    }
    let rest = differences.len().saturating_sub(shown);
    if rest > 0 {
        line(&mut text, format_args!("{DIM}and {}; --first 0 prints all{DIM:#}", counted(rest, "more difference")));
    }
    text.push_str(&limits(comparison));
    text
}

/// What the reader has to know about this result.
fn limits(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (count, sentence) in [
        (
            comparison.unanswered_count(),
            "questions to Belvo have no recorded answer, because only this policy asks them; what follows from them is unknown",
        ),
        (
            comparison.begun_later_count,
            "links have more states than the stream keeps (RELINK_HISTORY), so their replay began later than the span",
        ),
        (comparison.unreadable_inputs_count, "inputs cannot be handled by this version; they would be dead letters"),
        (comparison.unreadable_count, "recorded messages cannot be read by this version, and are not compared"),
    ] {
        if count > 0 {
            line(&mut text, format_args!("{DIM}{count} {sentence}{DIM:#}"));
        }
    }
    text
}

fn table(comparison: &Comparison) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NOTICE", "SAME", "ADDED", "REMOVED", "MOVED"]);
    // A question to Belvo is no difference for a user, and is not counted as one.
    let notices = comparison.kinds.iter().filter(|(kind, _)| **kind != SentKind::Question);
    for (kind, KindCount { same, added, removed, moved }) in notices {
        let counts = [same, added, removed, moved].map(ToString::to_string);
        table.add_row(std::iter::once(kind.as_str().to_owned()).chain(counts));
    }
    for column in 1..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let rows: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    rows.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Recorded, Replayed, Sent};

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000 + minute * 60_000)
    }

    fn reminder(number: u32, minute: i64) -> Sent {
        let (link, kind) = ("16f68516-bcbc-4cf7-b815-c500d4204e28".parse().unwrap(), SentKind::Notice("reminder"));
        Sent { link, kind, which: number.to_string(), episode: Some(1), consent_end: None, input: None, at: at(minute) }
    }

    fn comparison(recorded: Vec<Sent>, sent: Vec<Sent>) -> Comparison {
        let span = Span { from: at(0), to: at(1_000), tolerance: Duration::from_secs(60) };
        let recorded = {
            let sent = recorded;
            let mut recorded = Recorded::new(span, Some(64));
            recorded.sent = sent;
            recorded
        };
        Comparison::of(Replayed { recorded, sent, links_count: 1, inputs_count: 2, unreadable_inputs_count: 0 })
    }

    #[test]
    fn each_difference_is_added_removed_or_moved() {
        let recorded = vec![reminder(1, 10), reminder(2, 100), reminder(3, 200)];
        let sent = vec![reminder(1, 11), reminder(2, 130), reminder(4, 400)];
        let comparison = comparison(recorded, sent);
        let value = as_json(&comparison, usize::MAX);
        let counts =
            json!([{"type": "reminder", "same_count": 1, "added_count": 1, "removed_count": 1, "moved_count": 1}]);
        assert_eq!(value["types"], counts);
        let changes: Vec<_> =
            value["differences"].as_array().unwrap().iter().map(|row| (&row["which"], &row["change"])).collect();
        assert_eq!(
            changes,
            [(&json!("2"), &json!("moved")), (&json!("3"), &json!("removed")), (&json!("4"), &json!("added"))]
        );
        let text = anstream::adapter::strip_str(&report(&comparison, 1)).to_string();
        assert!(text.contains("moved    16f68516") && text.contains("and 2 more differences"), "{text}");
    }

    #[test]
    fn a_notice_about_the_end_of_a_consent_is_moved() {
        let notice = |minute: i64| {
            let body = json!({"because": {"at": at(minute).to_string(), "origin": {}}, "due_at": "2026-12-01T00:00:00.000Z", "rung_secs": 604_800});
            let (link, kind) = ("l".parse().unwrap(), SentKind::Notice("consent_expiring"));
            Sent::of(kind, link, body.to_string().as_bytes()).unwrap()
        };
        let value = as_json(&comparison(vec![notice(10)], vec![notice(30)]), usize::MAX);
        let difference = &value["differences"][0];
        assert_eq!((&difference["which"], &difference["change"]), (&json!("7days before the end"), &json!("moved")));
    }

    #[test]
    fn the_same_messages_are_no_difference() {
        let comparison = comparison(vec![reminder(1, 10)], vec![reminder(1, 10)]);
        assert!(report(&comparison, 20).contains("No difference: the replay sends the same 1 message."));
        assert_eq!(as_json(&comparison, 20)["differences_count"], 0);
    }
}

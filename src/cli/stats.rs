//! `relink stats`: how far repairs get, and how long they take, over a time range.
//!
//! The notices are read from `GET /v1/events`, and the outages that are open now from `GET /v1/links`. They are counted here (`funnel`) and
//! printed as tables, CSV or JSON (`report`), so relink keeps no second record.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::Value;

use self::funnel::{Range, Reading};
use self::report::Report;
use super::client::{RelinkArgs, RunningRelink};
use super::listing::{self, Wanted};
use super::moment::Moment;
use super::output::{print, print_json, terminal_width, wrong_argument};
use super::progress::Progress;
use super::tail::EventReader;
use crate::contract::{INSTITUTIONS_ON_PAGE, NoticeName};
#[cfg(test)]
use crate::link::Timestamp;
use crate::printable::{counted, printable};

mod funnel;
mod report;

pub(super) const EXAMPLES: &str = "\
Examples:
  relink stats                         the outages of the last 30 days, and how many were repaired
  relink stats --since 7days --by institution
  relink stats --since 2026-10-01 --until 2026-11-01 --csv > october.csv
  relink stats --json                  the same, for a program
An outage belongs to the range in which it was detected. A share is the part of these outages that reached a stage. P50 and P90 are the times \
within which half, and nine tenths, of the outages went on; the line above each table says from where to where. The stream keeps the newest messages of each type and \
link (RELINK_HISTORY); what it no longer has is not counted. relink does not record that a user opens the repair page, because mail scanners open \
it too; `updating` is the creation of a widget token.";

/// The notices from which the funnel is computed.
const NOTICES: [NoticeName; 8] = [
    NoticeName::UpdateRequired,
    NoticeName::Reminder,
    NoticeName::UpdateStarted,
    NoticeName::Recovered,
    NoticeName::Refreshed,
    NoticeName::Superseded,
    NoticeName::CreationUnfinished,
    NoticeName::Removed,
];

/// The states of links whose outage, or whose creation, is not over.
const OPEN: [&str; 4] = ["invalid", "token_required", "updating", "unconfirmed"];

#[derive(Args, Debug)]
pub(super) struct StatsArgs {
    /// Count outages from this time on: a time, a date, or how long ago
    #[arg(long, value_name = "TIME", default_value = "30days", value_parser = Moment::parse)]
    since: Moment,
    /// Count outages up to this time: a time, a date, or how long ago
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = Moment::parse)]
    until: Moment,
    /// Only outages of links at this institution; the whole name
    #[arg(long, value_name = "NAME")]
    institution: Option<String>,
    /// Only this table besides the total; may be given several times
    #[arg(long, value_enum, value_name = "GROUP")]
    by: Vec<Group>,
    /// Print one line of CSV for each group and stage
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    relink: RelinkArgs,
}

/// By what outages are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// The institution of the link
    Institution,
    /// What the user had to repair: the last cause that relink knew, because later evidence may change it
    Cause,
    /// The last message before the user started the repair
    Reminder,
}

impl Group {
    const ALL: [Self; 3] = [Self::Institution, Self::Cause, Self::Reminder];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Institution => "institution",
            Self::Cause => "cause",
            Self::Reminder => "reminder_step",
        }
    }
}

pub(super) async fn run(args: StatsArgs) -> anyhow::Result<ExitCode> {
    let range = Range { since: args.since.time(), until: args.until.time() };
    if range.since >= range.until {
        wrong_argument(format_args!("--since ({}) must be before --until ({})", range.since, range.until));
    }
    let relink = RunningRelink::of(args.relink)?;
    let reading = read(&relink).await?;
    if let Some(name) = &args.institution
        && !reading.has_institution(name)
    {
        check_institution(&relink, name).await?;
    }
    let groups = if args.by.is_empty() { Group::ALL.to_vec() } else { args.by };
    let report = Report::of(&reading, range, args.institution.as_deref(), &groups);
    if relink.json {
        print_json(&report.json())
    } else if args.csv {
        print(&report.csv()?)
    } else {
        print(&report.tables(terminal_width()))
    }
}

/// Fails if relink does not know the institution: a mistyped name must not look like an institution without outages.
async fn check_institution(relink: &RunningRelink, name: &str) -> anyhow::Result<()> {
    let (_, limit) = INSTITUTIONS_ON_PAGE;
    let answer = relink.get(&format!("/v1/institutions?limit={limit}")).await?;
    let known = answer["institutions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if known.iter().all(|one| one["institution"].as_str() != Some(name)) {
        bail!("relink knows no institution `{}`; `relink institutions` lists those that it knows", printable(name));
    }
    Ok(())
}

async fn read(relink: &RunningRelink) -> anyhow::Result<Reading> {
    let types = NOTICES.map(NoticeName::as_str).join(",");
    let query = [("kind", "notice,observed".to_owned()), ("type", types), ("wait", "0".to_owned())];
    let (mut reading, mut progress, mut count) = (Reading::default(), Progress::new(), 0_u64);
    let mut take = |event: Value| {
        reading.take_event(&event);
        count += 1;
        progress.show(|| {
            let at = printable(event["stored_at"].as_str().unwrap_or("?"));
            format!("relink stats: {} read, up to {at}", counted(count, "message"))
        });
        Ok(())
    };
    EventReader::read_all(relink, &query, &mut take).await?;
    for state in OPEN {
        let mut shown =
            |count| progress.show(|| format!("relink stats: {} read that are {state} now", counted(count, "link")));
        let wanted = Wanted::new([("state", Some(state.to_string()))], usize::MAX);
        for link in listing::read(relink, &wanted, &mut shown).await?.links {
            reading.take_link(&link);
        }
    }
    Ok(reading)
}

#[cfg(test)]
mod tests;

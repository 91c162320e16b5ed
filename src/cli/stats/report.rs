//! The funnel as tables, CSV or JSON.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::Group;
use super::funnel::{
    OtherEnd, Outage, Passage, Quantiles, Range, Reading, Stage, StageCount, Unfinished, between, by_step, count,
};
use crate::cli::output::{BOLD, DIM, line};
use crate::cli::sentences::span;
use crate::cli::tables::{Column, table_of};
use crate::printable::{counted, printable};

/// The columns of the CSV. Programs read them by name, so none is renamed.
const COLUMNS: [&str; 7] = ["group_by", "group", "stage", "outages", "share", "seconds_p50", "seconds_p90"];

/// The stage of CSV that counts creations that were not finished. It is no stage of an outage.
const CREATION_UNFINISHED: &str = "creation_unfinished";

/// The numbers of a time range.
pub(super) struct Report {
    range: Range,
    institution: Option<String>,
    total: Row,
    groups: Vec<(Group, Vec<Row>)>,
    still_broken_count: usize,
    superseded_count: usize,
    removed_count: usize,
    still_unfinished_count: usize,
    observed_count: usize,
}

/// The numbers of some outages.
struct Row {
    /// `None`: the name is not known.
    name: Option<String>,
    stages: Vec<StageCount>,
    /// From `detected` to `recovered`.
    to_recovered: Option<Quantiles>,
    /// The creations that were not finished; only in the total and of institutions.
    unfinished_count: Option<usize>,
}

impl Row {
    fn of(name: Option<String>, passages: &[&Passage], unfinished_count: Option<usize>) -> Self {
        let all = || passages.iter().copied();
        let to_recovered = between(all(), Stage::Detected, Stage::Recovered);
        Self { name, stages: count(all()), to_recovered, unfinished_count }
    }

    fn count(&self, stage: Stage) -> usize {
        self.stages.iter().find(|count| count.stage == stage).and_then(|count| count.outages).unwrap_or(0)
    }

    /// The part of the detected outages.
    fn share(&self, count: &StageCount) -> Option<f64> {
        let detected = self.count(Stage::Detected);
        // A count of outages fits into the 52 bits of a float.
        count.outages.filter(|_| detected > 0).map(|outages| outages as f64 / detected as f64)
    }

    fn json(&self) -> Map<String, Value> {
        let stage = |count: &StageCount| {
            let share = self.share(count).map(rounded);
            let mut stage = json!({"stage": count.stage.as_str(), "outages_count": count.outages, "share": share});
            stage["seconds_p50"] = json!(count.took.map(|took| seconds(took.p50)));
            stage["seconds_p90"] = json!(count.took.map(|took| seconds(took.p90)));
            stage
        };
        let stages: Vec<Value> = self.stages.iter().map(stage).collect();
        let whole =
            self.to_recovered.map(|took| json!({"seconds_p50": seconds(took.p50), "seconds_p90": seconds(took.p90)}));
        let mut row = Map::new();
        row.insert("stages".to_owned(), stages.into());
        row.insert("detected_to_recovered".to_owned(), json!(whole));
        row.extend(self.unfinished_count.map(|count| ("creations_unfinished_count".to_owned(), json!(count))));
        row
    }
}

impl Report {
    pub(super) fn of(reading: &Reading, range: Range, institution: Option<&str>, groups: &[Group]) -> Self {
        let outages = reading.outages(&range, institution);
        let unfinished = reading.unfinished(&range, institution);
        let passages: Vec<&Passage> = outages.iter().map(|outage| &outage.passage).collect();
        let ended = |end: OtherEnd| outages.iter().filter(|outage| outage.other_end == Some(end)).count();
        let is_open = |outage: &&&Outage| outage.other_end.is_none() && !outage.passage.has(Stage::Recovered);
        Self {
            range,
            institution: institution.map(str::to_owned),
            total: Row::of(None, &passages, Some(unfinished.len())),
            groups: groups.iter().map(|group| (*group, rows(*group, &outages, &unfinished))).collect(),
            still_broken_count: outages.iter().filter(is_open).count(),
            superseded_count: ended(OtherEnd::Superseded),
            removed_count: ended(OtherEnd::Removed),
            still_unfinished_count: unfinished.iter().filter(|unfinished| unfinished.is_still).count(),
            observed_count: reading.observed_count,
        }
    }

    pub(super) fn json(&self) -> Value {
        let mut report = json!({
            "since": self.range.since.to_string(),
            "until": self.range.until.to_string(),
            "institution": self.institution,
            "total": self.total.json(),
            "still_broken_count": self.still_broken_count,
            "superseded_count": self.superseded_count,
            "removed_count": self.removed_count,
            "creations_still_unfinished_count": self.still_unfinished_count,
            "observed_prompts_count": self.observed_count,
        });
        for (group, rows) in &self.groups {
            let row = |row: &Row| {
                let mut fields = row.json();
                fields.insert(group.as_str().to_owned(), json!(row.name));
                Value::Object(fields)
            };
            report[format!("by_{}", group.as_str())] = rows.iter().map(row).collect();
        }
        report
    }

    /// One line for each group and stage.
    pub(super) fn csv(&self) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        let of_groups = self.groups.iter().flat_map(|(group, rows)| rows.iter().map(|row| (group.as_str(), row)));
        for (group, row) in std::iter::once(("total", &self.total)).chain(of_groups) {
            let name = row.name.as_deref().map(printable).unwrap_or_default();
            for count in &row.stages {
                let text = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
                let outages = count.outages.map(|outages| outages.to_string()).unwrap_or_default();
                let share = text(row.share(count).map(rounded));
                let (p50, p90) = (count.took.map(|took| seconds(took.p50)), count.took.map(|took| seconds(took.p90)));
                writer.write_record([group, &name, count.stage.as_str(), &outages, &share, &text(p50), &text(p90)])?;
            }
            if let Some(count) = row.unfinished_count {
                writer.write_record([group, &name, CREATION_UNFINISHED, &count.to_string(), "", "", ""])?;
            }
        }
        let text = writer.into_inner().context("writing CSV")?;
        String::from_utf8(text).context("the CSV is not UTF-8")
    }

    pub(super) fn tables(&self, width: Option<u16>) -> String {
        let mut text = String::new();
        let of = self.institution.as_deref().map(|name| format!(" at {}", printable(name))).unwrap_or_default();
        let (since, until) = (self.range.since, self.range.until);
        line(&mut text, format_args!("{BOLD}Outages{of} that were detected from {since} to {until}{BOLD:#}\n"));
        text += &self.total_table(width);
        for (group, rows) in self.groups.iter().filter(|(_, rows)| !rows.is_empty()) {
            text += &group_table(*group, rows, width);
            text += &unfinished_table(rows, width);
        }
        self.notes(&mut text);
        text
    }

    fn total_table(&self, width: Option<u16>) -> String {
        let mut text = String::new();
        line(
            &mut text,
            format_args!(
                "{DIM}Of all; the times are from the stage before, and those of the last row from `detected`:{DIM:#}"
            ),
        );
        let columns = [
            Column::always("STAGE"),
            Column::always("OUTAGES").right(),
            Column::optional("SHARE", 3).right(),
            Column::optional("P50", 1).right(),
            Column::optional("P90", 2).right(),
        ];
        let mut rows = Vec::new();
        for count in &self.total.stages {
            let outages = count.outages.map_or_else(|| "not recorded".to_owned(), |outages| outages.to_string());
            let share = self.total.share(count).map_or_else(|| "-".to_owned(), percent);
            let [p50, p90] = spans(count.took);
            rows.push([count.stage.as_str().to_owned(), outages, share, p50, p90]);
        }
        let [p50, p90] = spans(self.total.to_recovered);
        rows.push(["detected to recovered", "", "", &p50, &p90].map(str::to_owned));
        text + &table_of(&columns, &rows, width) + "\n"
    }

    /// What the stages do not show.
    fn notes(&self, text: &mut String) {
        let mut notes = vec![format!(
            "Without a repair: {} still broken, {} superseded by a newer link, {} removed.",
            self.still_broken_count, self.superseded_count, self.removed_count
        )];
        let unfinished = self.total.unfinished_count.unwrap_or(0);
        if unfinished > 0 {
            notes.push(format!(
                "Besides, creations of links that were not finished in time: {unfinished}; of these, unconfirmed now: {}.",
                self.still_unfinished_count
            ));
        }
        if self.observed_count > 0 {
            notes.push(format!(
                "In observe mode, relink only recorded {}, and did not send them.",
                counted(self.observed_count, "prompt")
            ));
        }
        for note in notes {
            line(text, format_args!("{DIM}{note}{DIM:#}"));
        }
    }
}

fn rows(group: Group, outages: &[&Outage], unfinished: &[&Unfinished]) -> Vec<Row> {
    let key: fn(&Outage) -> Option<String> = match group {
        Group::Institution => |outage| outage.institution.clone(),
        Group::Cause => |outage| outage.cause.clone(),
        Group::Reminder => {
            let steps = by_step(outages);
            let row = |(name, passages): (String, Vec<Passage>)| {
                Row::of(Some(name), &passages.iter().collect::<Vec<_>>(), None)
            };
            return steps.into_iter().map(row).collect();
        }
    };
    let mut grouped: BTreeMap<Option<String>, (Vec<&Passage>, usize)> = BTreeMap::new();
    for outage in outages {
        grouped.entry(key(outage)).or_default().0.push(&outage.passage);
    }
    let is_of_institution = group == Group::Institution;
    for unfinished in unfinished.iter().filter(|_| is_of_institution) {
        grouped.entry(unfinished.institution.clone()).or_default().1 += 1;
    }
    let row = |(name, (passages, count)): (Option<String>, (Vec<&Passage>, usize))| {
        Row::of(name, &passages, is_of_institution.then_some(count))
    };
    let mut rows: Vec<Row> = grouped.into_iter().map(row).collect();
    // The most outages first, and the names in order.
    rows.sort_by_key(|row| std::cmp::Reverse(row.count(Stage::Detected)));
    rows
}

fn group_table(group: Group, rows: &[Row], width: Option<u16>) -> String {
    let (title, first) = match group {
        Group::Institution => ("INSTITUTION", "DETECTED"),
        Group::Cause => ("CAUSE", "DETECTED"),
        Group::Reminder => ("AFTER", "OUTAGES"),
    };
    // The time of a step begins with its message; of the others, with the outage.
    let took = |row: &Row| match group {
        Group::Institution | Group::Cause => row.to_recovered,
        Group::Reminder => row.stages.iter().find(|count| count.stage == Stage::Updating).and_then(|count| count.took),
    };
    let about = match group {
        Group::Institution => "By institution; the times are whole repairs, from `detected` to `recovered`:",
        Group::Cause => "By cause; the times are whole repairs, from `detected` to `recovered`:",
        Group::Reminder => "By the last message before the repair began; the times are from it to `updating`:",
    };
    let mut text = String::new();
    line(&mut text, format_args!("{DIM}{about}{DIM:#}"));
    let columns = [
        Column::always(title),
        Column::always(first).right(),
        Column::optional("PROMPTED", 3).right(),
        Column::optional("UPDATING", 4).right(),
        Column::always("RECOVERED").right(),
        Column::optional("REFRESHED", 5).right(),
        Column::optional("P50", 1).right(),
        Column::optional("P90", 2).right(),
    ];
    // An institution that has only unfinished creations has a table of its own.
    let rows: Vec<_> = rows.iter().filter(|row| row.count(Stage::Detected) > 0).collect();
    if rows.is_empty() {
        return String::new();
    }
    let cells = |row: &&Row| {
        let name = row.name.as_deref().map_or_else(|| "-".to_owned(), printable);
        let counts = [Stage::Detected, Stage::Prompted, Stage::Updating, Stage::Recovered, Stage::Refreshed];
        let [detected, prompted, updating, recovered, refreshed] = counts.map(|stage| row.count(stage).to_string());
        let [p50, p90] = spans(took(row));
        [name, detected, prompted, updating, recovered, refreshed, p50, p90]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    text + &table_of(&columns, &rows, width) + "\n"
}

/// Creations that were not finished, by institution; empty if there are none.
fn unfinished_table(rows: &[Row], width: Option<u16>) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("{DIM}Links whose creation was not finished in time (`creation_unfinished`):{DIM:#}"));
    let columns = [Column::always("INSTITUTION"), Column::always("NOT FINISHED").right()];
    let counted = rows.iter().filter_map(|row| Some((row, row.unfinished_count.filter(|count| *count > 0)?)));
    let rows: Vec<_> = counted
        .map(|(row, count)| [row.name.as_deref().map_or_else(|| "-".to_owned(), printable), count.to_string()])
        .collect();
    if rows.is_empty() { String::new() } else { text + &table_of(&columns, &rows, width) + "\n" }
}

fn spans(took: Option<Quantiles>) -> [String; 2] {
    took.map_or_else(|| ["-".to_owned(), "-".to_owned()], |took| [span(took.p50), span(took.p90)])
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three digits behind the point are enough for a share.
fn rounded(share: f64) -> f64 {
    (share * 1_000.0).round() / 1_000.0
}

fn seconds(millis: i64) -> f64 {
    // A span of 285,000 years fits into the 52 bits of a float.
    millis as f64 / 1_000.0
}

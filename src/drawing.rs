//! The machine's table, drawn: as a picture for GitHub or Graphviz, as JSON, as text.
//!
//! Everything here is made from [`MOVES`], so that no drawing can say anything but what the machine does. docs/messages.md
//! and ARCHITECTURE.md show the Mermaid drawing between two marks; a test keeps it the current one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::link::table::MOVES;
use crate::link::{EventName, StateName};

/// The mark before the drawing in a document.
pub const BEGIN: &str = "<!-- machine:begin -->";

/// The mark after the drawing in a document.
pub const END: &str = "<!-- machine:end -->";

/// How the machine is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A Mermaid state diagram: what GitHub renders
    Mermaid,
    /// A Graphviz graph
    Dot,
    /// Every row of the table, and the names of all states and events
    Json,
    /// Every row of the table, aligned
    Text,
}

/// Draws the machine. The text ends with a line break.
pub fn draw(format: Format) -> String {
    match format {
        Format::Mermaid => mermaid(),
        Format::Dot => dot(),
        Format::Json => json(),
        Format::Text => text(),
    }
}

/// The Mermaid drawing as a document shows it: between the marks, fenced.
pub fn fenced() -> String {
    format!("{BEGIN}\n```mermaid\n{}```\n{END}", mermaid())
}

/// The first part of a document that stands between the marks, the marks included.
pub fn between_marks(document: &str) -> Option<&str> {
    let from = &document[document.find(BEGIN)?..];
    Some(&from[..from.find(END)? + END.len()])
}

/// The moves between two different states: one arrow, labelled with its events, each in the order of the table.
fn arrows() -> BTreeMap<(StateName, StateName), Vec<EventName>> {
    let mut arrows = BTreeMap::<_, Vec<_>>::new();
    for row in MOVES {
        for &to in row.to.iter().filter(|&&to| to != row.from) {
            arrows.entry((row.from, to)).or_default().push(row.on);
        }
    }
    arrows
}

fn join<'a>(names: impl IntoIterator<Item = &'a str>, between: &str) -> String {
    names.into_iter().collect::<Vec<_>>().join(between)
}

/// Which state leads to which, one line a state: the overview at the head of `src/link/machine.rs`.
pub fn overview() -> String {
    let arrows = arrows();
    let mut drawing = String::new();
    for from in StateName::ALL {
        let to: Vec<_> = arrows.keys().filter(|(source, _)| *source == from).map(|(_, to)| to.as_str()).collect();
        let to = if to.is_empty() { "nothing leads out of it".to_owned() } else { to.join(", ") };
        drawing.push_str(&format!("{:14} ──▶ {to}\n", from.as_str()));
    }
    drawing
}

fn mermaid() -> String {
    let mut drawing = String::from("stateDiagram-v2\n    [*] --> unconfirmed\n");
    for ((from, to), events) in arrows() {
        let label = join(events.iter().map(|event| event.as_str()), "<br/>");
        drawing.push_str(&format!("    {from} --> {to}: {label}\n"));
    }
    drawing.push_str("    removed --> [*]\n");
    drawing
}

fn dot() -> String {
    let mut drawing = String::from("digraph machine {\n    node [shape=box, style=rounded];\n");
    for state in StateName::ALL {
        drawing.push_str(&format!("    {state};\n"));
    }
    for ((from, to), events) in arrows() {
        let label = join(events.iter().map(|event| event.as_str()), "\\n");
        drawing.push_str(&format!("    {from} -> {to} [label=\"{label}\"];\n"));
    }
    drawing.push_str("}\n");
    drawing
}

/// A row in JSON. Its own type: the core knows no JSON.
#[derive(Serialize)]
struct Row {
    from: &'static str,
    on: &'static str,
    to: Vec<&'static str>,
}

/// One row of the table a line, so that people can read it too.
fn json() -> String {
    let states = compact(&StateName::ALL.map(StateName::as_str));
    let events = compact(&EventName::ALL.map(EventName::as_str));
    let rows = MOVES.iter().map(|row| {
        let to = row.to.iter().map(|state| state.as_str()).collect();
        compact(&Row { from: row.from.as_str(), on: row.on.as_str(), to })
    });
    let rows = rows.collect::<Vec<_>>().join(",\n    ");
    format!("{{\n  \"states\": {states},\n  \"events\": {events},\n  \"moves\": [\n    {rows}\n  ]\n}}\n")
}

fn compact(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and lists of names are JSON")
}

fn text() -> String {
    let widest = |names: &[&str]| names.iter().map(|name| name.len()).max().unwrap_or(0);
    let state_width = widest(&StateName::ALL.map(StateName::as_str));
    let event_width = widest(&EventName::ALL.map(EventName::as_str));
    let line = |from: &str, on: &str, to: &str| format!("{from:state_width$}  {on:event_width$}  {to}\n");
    let mut drawing = line("state", "event", "next state");
    for row in MOVES {
        let to = join(row.to.iter().map(|state| state.as_str()), ", ");
        drawing.push_str(&line(row.from.as_str(), row.on.as_str(), &to));
    }
    drawing
}

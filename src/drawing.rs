//! Draws the table of the state machine: as a diagram for GitHub or Graphviz, as JSON, as text.
//!
//! All drawings are made from [`MOVES`], which a test compares with the machine. docs/messages.md and ARCHITECTURE.md
//! contain the Mermaid drawing between two markers, which a test compares with [`fenced`].

use std::collections::BTreeMap;

use serde::Serialize;
use strum::VariantArray;

use crate::link::table::MOVES;
use crate::link::{EventName, StateName};

/// The marker before the drawing in a document.
pub const BEGIN: &str = "<!-- machine:begin -->";

/// The marker after the drawing in a document.
pub const END: &str = "<!-- machine:end -->";

/// The format of a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A Mermaid state diagram, which GitHub renders
    Mermaid,
    /// A Graphviz graph
    Dot,
    /// Every row of the table, and the names of all states and events, as JSON
    Json,
    /// Every row of the table, as aligned text
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

/// The Mermaid drawing as documents contain it: fenced, between the markers.
pub fn fenced() -> String {
    format!("{BEGIN}\n```mermaid\n{}```\n{END}", mermaid())
}

/// The first text of a document between the markers, with the markers.
pub fn between_marks(document: &str) -> Option<&str> {
    let from = &document[document.find(BEGIN)?..];
    Some(&from[..from.find(END)? + END.len()])
}

/// The transitions between two different states: one arrow, with its events in the order of the table.
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

fn names<T: Copy + Into<&'static str>>(all: &[T]) -> Vec<&'static str> {
    all.iter().map(|&name| name.into()).collect()
}

/// The next states of each state, one line a state: the overview at the head of `src/link/machine.rs`.
pub fn overview() -> String {
    let arrows = arrows();
    let mut drawing = String::new();
    for &from in StateName::VARIANTS {
        let to: Vec<_> = arrows.keys().filter(|(source, _)| *source == from).map(|(_, to)| to.as_str()).collect();
        let to = if to.is_empty() { "(final)".to_owned() } else { to.join(", ") };
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
    for &state in StateName::VARIANTS {
        drawing.push_str(&format!("    {state};\n"));
    }
    for ((from, to), events) in arrows() {
        let label = join(events.iter().map(|event| event.as_str()), "\\n");
        drawing.push_str(&format!("    {from} -> {to} [label=\"{label}\"];\n"));
    }
    drawing.push_str("}\n");
    drawing
}

/// A row as JSON; a type of its own, because the core does not derive serde.
#[derive(Serialize)]
struct Row {
    from: &'static str,
    on: &'static str,
    to: Vec<&'static str>,
}

/// One row of the table on each line, for readers and diffs.
fn json() -> String {
    let states = compact(&names(StateName::VARIANTS));
    let events = compact(&names(EventName::VARIANTS));
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
    let state_width = widest(&names(StateName::VARIANTS));
    let event_width = widest(&names(EventName::VARIANTS));
    let line = |from: &str, on: &str, to: &str| format!("{from:state_width$}  {on:event_width$}  {to}\n");
    let mut drawing = line("state", "event", "next state");
    for row in MOVES {
        let to = join(row.to.iter().map(|state| state.as_str()), ", ");
        drawing.push_str(&line(row.from.as_str(), row.on.as_str(), &to));
    }
    drawing
}

//! The drawings of the machine, whole.

use insta::assert_snapshot;
use relink::drawing::{BEGIN, END, Format, between_marks, draw, fenced, overview};
use relink::link::table::MOVES;

#[test]
fn the_drawing_for_github() {
    assert_snapshot!(draw(Format::Mermaid));
}

#[test]
fn the_drawing_for_graphviz() {
    assert_snapshot!(draw(Format::Dot));
}

#[test]
fn the_table_as_text() {
    assert_snapshot!(draw(Format::Text));
}

#[test]
fn the_table_as_json() {
    let drawing: serde_json::Value = serde_json::from_str(&draw(Format::Json)).unwrap();
    assert_eq!(drawing["moves"].as_array().unwrap().len(), MOVES.len());
    assert_snapshot!(draw(Format::Json));
}

#[test]
fn the_overview_at_the_head_of_the_machine() {
    let source = include_str!("../../src/link/machine.rs");
    let shown: String = source
        .lines()
        .map(|line| line.trim_start_matches("//!").trim_start())
        .filter(|line| line.contains(" ──▶ "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(shown == overview(), "src/link/machine.rs should show\n\n{}", overview());
}

#[test]
fn a_document_shows_the_drawing_between_marks() {
    let drawing = fenced();
    assert_eq!(between_marks(&format!("# relink\n\n{drawing}\n\nText.\n")), Some(drawing.as_str()));
    for not_marked in [String::new(), BEGIN.into(), END.into(), format!("{END}{BEGIN}")] {
        assert_eq!(between_marks(&not_marked), None);
    }
}

//! The picture of the machine that the documents show is the one the machine draws.

use std::fs;
use std::path::Path;

use relink::drawing::{BEGIN, END, between_marks, fenced};

fn check(document: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document} cannot be read: {error}"));
    let shown = between_marks(&text).unwrap_or_else(|| panic!("{document} has no {BEGIN} … {END}"));
    assert!(shown == fenced(), "{document} shows another machine; it should show\n\n{}", fenced());
}

#[test]
fn the_readme_shows_the_machine_as_it_is() {
    check("README.md");
}

#[test]
fn the_architecture_shows_the_machine_as_it_is() {
    check("ARCHITECTURE.md");
}

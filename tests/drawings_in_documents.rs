//! The documents say what the program does, where a test can tell: the picture of the machine is the one the machine draws, the
//! settings are the catalogue's, links lead somewhere, and lines can be read.

use std::fs;
use std::path::{Path, PathBuf};

use relink::config::SETTINGS;
use relink::drawing::{BEGIN, END, between_marks, fenced};

const DOCUMENTS: [&str; 5] = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// The longest line of a document, in characters, as in the sources.
const LINE_LENGTH_MAX: usize = 140;

fn path_of(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(document)
}

fn read(document: &str) -> String {
    fs::read_to_string(path_of(document)).unwrap_or_else(|error| panic!("{document} cannot be read: {error}"))
}

/// The lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    text.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    })
}

fn check(document: &str) {
    let text = read(document);
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

#[test]
fn the_readme_lists_every_setting_with_its_default_and_no_other() {
    let text = read("README.md");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `RELINK_")).collect();
    let expected: Vec<_> = SETTINGS
        .iter()
        .map(|setting| {
            let default = setting.default.map(|default| format!("`{default}`")).unwrap_or_default();
            format!("| `{}` | `{}` | {default} | {} |", setting.variable, setting.key, setting.about)
        })
        .collect();
    assert!(rows == expected, "README.md lists other settings; it should list\n\n{}", expected.join("\n"));
}

#[test]
fn relative_links_lead_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        let targets = prose(&text).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(path_of(file).exists(), "{document} links to {target}, which is not there");
        }
    }
}

#[test]
fn a_document_has_one_title_and_lines_that_can_be_read() {
    for document in DOCUMENTS {
        let text = read(document);
        let titles = prose(&text).filter(|line| line.starts_with("# ")).count();
        assert_eq!(titles, 1, "{document} has {titles} titles");
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.contains("<br/>")) {
            let length = line.chars().count();
            assert!(length <= LINE_LENGTH_MAX, "{document}:{number} has {length} characters");
        }
    }
}

#[test]
fn the_readme_names_one_test_command_for_the_checks() {
    let text = read("README.md");
    let block = text.split("<!-- test:begin -->").nth(1).and_then(|rest| rest.split("<!-- test:end -->").next());
    let lines: Vec<_> = block.expect("marks of the test command").lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["```sh", "cargo test", "```"]);
}

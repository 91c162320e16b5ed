//! Tests that documents agree with the program: the drawing of the machine, the table of settings, links, line
//! lengths. `tests/commands_in_documents.rs` runs their commands.

use std::fs;
use std::path::{Path, PathBuf};

use relink::config::all_settings;
use relink::drawing::{BEGIN, END, between_marks, fenced};

/// The documents in the root of the repository; [`documents`] adds those of `docs/`, `docs/how-to/` and `deploy/`.
const ROOT: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "RELIABILITY.md",
];

/// A limit for the README, which is the first page for every reader; details belong in `docs/`.
const README_LINES_MAX: usize = 150;

/// A limit for the summary of what is proven.
const RELIABILITY_LINES_MAX: usize = 120;

/// The longest line of a document, in characters.
const LINE_LENGTH_MAX: usize = 140;

fn path_of(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(document)
}

/// The paths of all documents, below the root of the repository.
fn documents() -> Vec<String> {
    let of_folder = |folder: &str| {
        let files = fs::read_dir(path_of(folder)).expect("a folder of documents");
        let names = files.map(|file| file.expect("a file").file_name());
        let paths = names.map(|name| format!("{folder}/{}", name.to_str().expect("a name in UTF-8")));
        paths.filter(|path| path.ends_with(".md")).collect::<Vec<_>>()
    };
    let mut documents = [of_folder("docs"), of_folder("docs/how-to"), of_folder("deploy")].concat();
    documents.sort();
    documents.extend(ROOT.map(str::to_owned));
    documents
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
    assert!(shown == fenced(), "{document} does not contain the current drawing, which is\n\n{}", fenced());
}

#[test]
fn the_messages_contain_the_current_drawing() {
    check("docs/messages.md");
}

#[test]
fn the_architecture_contains_the_current_drawing() {
    check("ARCHITECTURE.md");
}

#[test]
fn the_settings_document_contains_the_table() {
    let text = read("docs/settings.md");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `RELINK_")).collect();
    let expected: Vec<_> = all_settings()
        .map(|setting| {
            let default = setting.default.map(|default| format!("`{default}`")).unwrap_or_default();
            format!("| `{}` | `{}` | {default} | {} |", setting.variable, setting.key, setting.about)
        })
        .collect();
    assert!(
        rows == expected,
        "docs/settings.md does not contain the current table, which is\n\n{}",
        expected.join("\n")
    );
}

/// The targets of a document's relative links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = prose(text).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.starts_with("http"))
}

/// GitHub's anchor of a heading: lower case, no punctuation, dashes for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn relative_links_have_targets() {
    for document in documents() {
        let text = read(&document);
        let folder = Path::new(&document).parent().expect("a document is in a folder");
        for target in links(&text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { path_of(&document) } else { path_of("").join(folder).join(file) };
            assert!(path.exists(), "{document} links to {target}, which does not exist");
            if !heading.is_empty() {
                let there = fs::read_to_string(&path).expect("a document");
                let mut headings = prose(&there).filter(|line| line.starts_with('#'));
                let is_there = headings.any(|line| anchor(line.trim_start_matches('#').trim()) == heading);
                assert!(is_there, "{document} links to {target}, but that document has no such heading");
            }
        }
    }
}

#[test]
fn the_readme_is_short_and_links_to_every_other_document() {
    let text = read("README.md");
    let lines = text.lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines; move a part to docs/");
    for document in documents().iter().filter(|document| *document != "README.md") {
        assert!(links(&text).any(|target| target == document), "README.md has no link to {document}");
    }
}

#[test]
fn a_document_has_one_title_and_no_long_line() {
    for document in documents() {
        let text = read(&document);
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
    let lines: Vec<_> =
        block.expect("the markers of the test command").lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["```sh", "cargo test", "```"]);
}

/// Whether a source defines this function or constant.
fn has(file: &str, item: &str) -> bool {
    let text = read(file);
    [format!("fn {item}("), format!("const {item}:")].iter().any(|start| text.contains(start))
}

/// The functions and tests that `src/lib.rs` names must exist. rustdoc checks its links; this test checks the names
/// that cannot be links.
#[test]
fn the_tour_names_existing_functions_and_tests() {
    let text = read("src/lib.rs");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("//! | ") && line.contains("`tests/")).collect();
    assert!(rows.len() >= 10, "the table of invariants");
    for row in rows {
        let quoted: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let [.., file, test] = quoted[..] else { panic!("{row} names a file and a test") };
        assert!(has(file, test), "{file} has no {test}");
    }
    // A private function is written before its file: `read` (`src/http/body.rs`).
    let parts: Vec<_> = text.split("` (`src/").collect();
    assert!(parts.len() > 3, "the path of one webhook");
    for pair in parts.windows(2) {
        let function = pair[0].rsplit('`').next().expect("a name");
        let file = format!("src/{}", pair[1].split('`').next().expect("a file"));
        assert!(has(&file, function), "{file} has no {function}");
    }
}

/// The cells of the table rows below a heading, without the head of the table.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = text.split(heading).nth(1).unwrap_or_else(|| panic!("no section `{heading}`"));
    let section = section.split("\n## ").next().expect("a part");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_reliability_document_has_the_promises_of_the_guarantees_and_a_test_for_each() {
    let text = read("RELIABILITY.md");
    assert!(text.lines().count() <= RELIABILITY_LINES_MAX, "RELIABILITY.md is too long");
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let guarantees = one_line(&read("docs/guarantees.md"));
    let tests = rows(&text, "## Which test shows it");
    for row in rows(&text, "## What is promised, and its limits") {
        let [number, promise, _limits] = row[..] else { panic!("{row:?} has three cells") };
        assert!(guarantees.contains(promise), "docs/guarantees.md does not promise `{promise}`");
        assert!(tests.iter().any(|test| test[0] == number), "no test shows `{promise}`");
    }
    for row in tests {
        let [_, _, command] = row[..] else { panic!("{row:?} has three cells") };
        let target =
            command.trim_matches('`').strip_prefix("cargo test --test ").unwrap_or_else(|| panic!("{command}"));
        let files = [format!("tests/{target}.rs"), format!("tests/{target}/main.rs")];
        assert!(files.iter().any(|file| path_of(file).exists()), "there is no test `{target}`");
    }
}

#[test]
fn the_reliability_document_names_existing_tests() {
    let text = read("RELIABILITY.md");
    for part in text.split("`tests/").skip(1) {
        let (file, rest) = part.split_once('`').expect("the end of a path");
        let file = format!("tests/{file}");
        assert!(path_of(&file).exists(), "{file} does not exist");
        if let Some(item) = rest.strip_prefix(": `").and_then(|rest| rest.split('`').next()) {
            assert!(has(&file, item), "{file} has no {item}");
        }
    }
}

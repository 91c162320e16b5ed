//! The table of metrics (`src/metric.rs`): docs/operations.md contains it, and the code records only its metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use relink::metric::{Kind, METRICS, Metric};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn row(metric: &Metric) -> String {
    let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    format!("| `{}` | {labels} | {} |", metric.name, metric.about)
}

#[test]
fn the_document_contains_the_table() {
    let text = fs::read_to_string(root().join("docs/operations.md")).expect("the document");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `relink_")).collect();
    let expected: Vec<_> = METRICS.iter().map(row).collect();
    assert!(
        rows == expected,
        "docs/operations.md does not contain the current table, which is\n\n{}",
        expected.join("\n")
    );
}

/// Documents name only metrics of the table.
#[test]
fn no_document_names_an_unknown_metric() {
    let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    for document in ["README.md", "ARCHITECTURE.md", "SECURITY.md", "docs/operations.md", "docs/guarantees.md"] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        let words =
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("relink_"));
        for word in words {
            assert!(known.contains(word), "{document} names {word}, which is not a metric");
        }
    }
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        assert!(names.insert(metric.name), "{} is in the table twice", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
    }
}

fn sources(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(path) } else { vec![path] }).collect()
}

/// Each recording uses a constant of the table, with its kind and its labels.
#[test]
fn the_code_records_only_metrics_of_the_table() {
    let table = fs::read_to_string(root().join("src/metric.rs")).expect("the table");
    let constant = |metric: &Metric| {
        let line = table.lines().find(|line| line.contains(&format!("\"{}\"", metric.name)));
        line.and_then(|line| line.trim().split(':').next()).expect("each metric has a row").to_owned()
    };
    let constants: Vec<_> = METRICS.iter().map(|metric| (constant(metric), metric)).collect();
    let mut used = BTreeSet::new();
    for path in sources(root().join("src")).into_iter().filter(|path| !path.ends_with("src/metric.rs")) {
        let text = fs::read_to_string(&path).expect("a source");
        let shipped = text.split("#[cfg(test)]\nmod ").next().expect("a part");
        for (kind, word) in [(Kind::Counter, "counter"), (Kind::Gauge, "gauge"), (Kind::Histogram, "histogram")] {
            for call in shipped.split(&format!("metrics::{word}!(")).skip(1) {
                // The arguments end before the recorded value.
                let arguments =
                    [".increment(", ".decrement(", ".set(", ".record("].iter().filter_map(|end| call.find(end)).min();
                let arguments = &call[..arguments.expect("a value is recorded")];
                let named = constants.iter().find(|(name, _)| arguments.starts_with(&format!("metric::{name}.name")));
                let (name, metric) =
                    named.unwrap_or_else(|| panic!("{}: {arguments} is not in the table", path.display()));
                assert_eq!(metric.kind, kind, "{}: {name}", path.display());
                let before_arrows = arguments.split("\" =>").take(arguments.matches("\" =>").count());
                let labels: Vec<_> =
                    before_arrows.filter_map(|part| part.rsplit_once('"')).map(|part| part.1).collect();
                assert_eq!(labels, metric.labels, "{}: {name}", path.display());
                used.insert(name.clone());
            }
        }
    }
    for (name, _) in &constants {
        assert!(used.contains(name), "no code records {name}");
    }
}

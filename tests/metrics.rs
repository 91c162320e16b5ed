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
        // Prometheus adds `job` and `instance` to each series, and renames those of the program to `exported_job` and so on.
        let is_free = metric.labels.iter().all(|label| !["job", "instance", "le", "quantile"].contains(label));
        assert!(is_free, "{} has a label that Prometheus sets itself", metric.name);
        let Kind::Histogram(scale) = metric.kind else { continue };
        assert!(scale.bounds().windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
    }
}

const fn word_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
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
    // `telemetry` registers each metric of the table by its name.
    let is_recorder = |path: &PathBuf| !path.ends_with("src/metric.rs") && !path.ends_with("src/telemetry.rs");
    for path in sources(root().join("src")).into_iter().filter(is_recorder) {
        let text = fs::read_to_string(&path).expect("a source");
        let shipped = text.split("#[cfg(test)]\nmod ").next().expect("a part");
        for word in ["counter", "gauge", "histogram"] {
            for call in shipped.split(&format!("metrics::{word}!(")).skip(1) {
                // The arguments end before the recorded value.
                let arguments =
                    [".increment(", ".decrement(", ".set(", ".record("].iter().filter_map(|end| call.find(end)).min();
                let arguments = &call[..arguments.expect("a value is recorded")];
                let named = constants.iter().find(|(name, _)| arguments.starts_with(&format!("metric::{name}.name")));
                let (name, metric) =
                    named.unwrap_or_else(|| panic!("{}: {arguments} is not in the table", path.display()));
                assert_eq!(word_of(metric.kind), word, "{}: {name}", path.display());
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

/// The selectors of a text: each word `relink_…`, with the names of the labels in the braces after it.
fn selectors(text: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices("relink_").map(|(at, _)| at).filter(|at| !text[..*at].ends_with(is_word));
    let selector = |at: usize| {
        let (word, rest) = text[at..].split_at(text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at));
        let braces = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let labels = braces.split(',').filter_map(|label| label.split('=').next());
        let labels =
            labels.map(|label| label.trim_end_matches('!').trim().to_owned()).filter(|label| !label.is_empty());
        (word.to_owned(), labels.collect())
    };
    starts.map(selector).collect()
}

/// The alerts and the dashboard use only metrics and labels that exist.
#[test]
fn alerts_and_dashboard_name_metrics_of_the_table() {
    for (file, least) in [("prometheus/alerts.yml", 24), ("prometheus/alerts_test.yml", 8), ("grafana/relink.json", 37)]
    {
        let text = fs::read_to_string(root().join("deploy").join(file)).expect("a file of deploy");
        let selectors = selectors(&text.replace("\\\"", "\""));
        assert!(selectors.len() >= least, "{file} has {} selectors", selectors.len());
        for (name, labels) in selectors {
            let metric = METRICS.iter().find(|metric| name_of(metric, &name));
            let metric = metric.unwrap_or_else(|| panic!("{file} names {name}, which is not a metric"));
            for label in labels {
                // Prometheus adds the instance.
                let is_known = label == "instance" || metric.labels.contains(&&*label);
                assert!(is_known, "{file}: {name} has no label {label}");
            }
        }
    }
}

/// Whether a query may call this metric so: a histogram is exported as three series.
fn name_of(metric: &Metric, name: &str) -> bool {
    let Kind::Histogram(_) = metric.kind else { return metric.name == name };
    name.strip_prefix(metric.name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
}

/// `increase` of Prometheus does not see the rise of a series that is new, and most counters have no series before their first event. So
/// each panel and each alert about a number of events also looks for new series.
#[test]
fn the_first_event_of_a_counter_is_seen() {
    for (file, least) in [("prometheus/alerts.yml", 10), ("grafana/relink.json", 25)] {
        let text = fs::read_to_string(root().join("deploy").join(file)).expect("a file of deploy");
        let text = text.replace("\\\"", "\"");
        let increases: Vec<_> = text.split("increase(").skip(1).filter_map(|rest| rest.split_once('[')).collect();
        assert!(increases.len() >= least, "{file} has {} increases", increases.len());
        for (series, rest) in increases {
            let span = rest.split(']').next().expect("a span");
            let new = format!("unless {series} offset {span}");
            assert!(text.contains(&new), "{file}: the first event of {series} is not seen");
        }
    }
}

/// docs/how-to/alerts.md explains each alert, in the order of the rules.
#[test]
fn each_alert_is_explained() {
    let rules = fs::read_to_string(root().join("deploy/prometheus/alerts.yml")).expect("the rules");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let page = fs::read_to_string(root().join("docs/how-to/alerts.md")).expect("the page");
    let explained: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("- `Relink")?.split('`').next()).collect();
    let expected: Vec<_> = alerts.iter().map(|alert| alert.trim_start_matches("Relink")).collect();
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(explained, expected, "docs/how-to/alerts.md");
}

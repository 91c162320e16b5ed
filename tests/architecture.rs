//! The rules of the house that a compiler does not know: who may import whom, who owns which crate, how a file looks.
//!
//! The two tables are the whole of it. A new room is a new row; a new arrow is a decision, to be made here and in ARCHITECTURE.md.
//! Only what ships is looked at: unit tests may reach further.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A room of `src/`, and the rooms it may import. From the centre to the rim: an arrow only ever points up this table.
const ROOMS: &[(&str, &[&str])] = &[
    ("tls", &[]),
    ("printable", &[]),
    ("metric", &[]),
    ("link", &[]),
    ("clock", &["link"]),
    ("drawing", &["link"]),
    ("contract", &["link"]),
    ("belvo", &["metric", "tls", "link", "clock", "contract"]),
    ("store", &["link", "contract"]),
    ("engine", &["link", "contract", "belvo", "store"]),
    ("node", &["link", "contract", "store", "engine"]),
    ("nats", &["metric", "tls", "link", "clock", "contract", "store", "engine", "node"]),
    ("schemas", &["link", "contract", "store", "engine", "nats"]),
    ("config", &["printable", "link", "nats"]),
    ("telemetry", &["metric", "printable", "config"]),
    ("jobs", &["metric", "link", "clock", "contract", "belvo", "nats"]),
    ("reconciler", &["metric", "link", "clock", "contract", "belvo", "store", "nats"]),
    ("http", &["metric", "link", "clock", "contract", "belvo", "store", "nats", "config", "telemetry"]),
    ("service", &["clock", "belvo", "store", "node", "nats", "config", "telemetry", "jobs", "reconciler", "http"]),
    // relink's sandbox is the crate `belvo_sandbox`, which knows nothing of relink; `simulation` uses it too.
    (
        "rehearsal",
        &[
            "tls",
            "printable",
            "link",
            "clock",
            "contract",
            "belvo",
            "store",
            "engine",
            "node",
            "nats",
            "config",
            "jobs",
            "reconciler",
            "service",
        ],
    ),
    ("simulation", &["link", "clock", "contract", "belvo", "store", "engine", "node", "nats", "jobs", "reconciler"]),
    (
        "cli",
        &[
            "printable",
            "contract",
            "drawing",
            "nats",
            "schemas",
            "tls",
            "config",
            "telemetry",
            "service",
            "rehearsal",
            "simulation",
        ],
    ),
    ("main", &["cli"]),
];

/// An outside crate, and the only places that may use it.
const OWNERS: &[(&str, &[&str])] = &[
    ("sled", &["store/sled.rs"]),
    (
        "async_nats",
        &[
            "nats/",
            "jobs.rs",
            "http/ingest.rs",
            "service.rs",
            "config/mod.rs",
            "rehearsal/demo/",
            "rehearsal/scenario/subscriber.rs",
        ],
    ),
    ("axum", &["http/"]),
    ("belvo_sandbox", &["rehearsal/", "simulation/belvo.rs", "cli/mod.rs"]),
    (
        "reqwest",
        &[
            "belvo/client",
            "rehearsal/fleet/customer.rs",
            "rehearsal/demo/",
            "rehearsal/scenario/",
            "cli/",
            "config/",
            "http/repair.rs",
            "http/renewal.rs",
            "nats/durability.rs",
        ],
    ),
    (
        "clap",
        &[
            "cli/",
            "drawing.rs",
            "rehearsal/demo/mod.rs",
            "rehearsal/scenario/args.rs",
            "rehearsal/fleet/args.rs",
            "simulation/args.rs",
        ],
    ),
    (
        "anyhow",
        &[
            "cli/",
            "service.rs",
            "schemas.rs",
            "rehearsal/demo/",
            "rehearsal/scenario/args.rs",
            "rehearsal/fleet/",
            "simulation/args.rs",
        ],
    ),
    ("schemars", &["contract/", "schemas.rs", "schemas/"]),
    ("toml", &["config/", "rehearsal/scenario/"]),
    ("rustls", &["tls.rs"]),
    ("subtle", &["http/auth.rs"]),
    ("fastrand", &["rehearsal/", "simulation/", "reconciler/pace.rs"]),
    ("metrics_exporter_prometheus", &["telemetry.rs", "http/mod.rs"]),
];

/// Crates that the inner rooms do without: the core has no serde, no I/O and no log; what decides is synchronous.
const NOT_IN: &[(&str, &[&str])] = &[
    ("link/", &["serde", "serde_json", "schemars", "tokio", "futures", "tracing", "metrics", "fastrand", "bytes"]),
    ("contract/", &["tokio", "futures", "tracing", "metrics"]),
    ("store/", &["tokio", "futures"]),
    ("engine/", &["tokio", "futures", "metrics"]),
    // What the node does is a value, also what it has to say for log and metrics, so that a simulation sees it.
    ("node/", &["tokio", "futures", "async_nats", "metrics", "tracing", "fastrand", "uuid", "time"]),
];

/// Modules whose files import one another in one direction only: they can be read from the first to the last.
const WITHOUT_CYCLES: &[&str] = &["crates/belvo-sandbox/src/", "src/rehearsal/"];

const LINES_MAX: usize = 500;

/// A source file: its path below the root, its lines as written, and what ships of it without comments and texts.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The room of a file of `src/`; a file of another crate has none.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split('/').next().map(|first| first.trim_end_matches(".rs"))
    }

    fn is_test(&self) -> bool {
        !(self.path.starts_with("src/") || self.path.contains("/src/"))
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut sources, mut directories) =
        (Vec::new(), Vec::from(["src", "crates", "tests", "benches"].map(|name| root.join(name))));
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.expect("a readable directory").path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable source");
                let path = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                sources.push(Source { path, code: without_comments_and_texts(shipped), text });
            }
        }
    }
    assert!(sources.len() > 100, "these are not the sources: {}", sources.len());
    sources
}

fn shipped() -> Vec<Source> {
    sources().into_iter().filter(|source| !source.is_test()).collect()
}

/// Crude, and enough for sources that rustfmt has seen: raw texts with quotes inside would confuse it.
fn without_comments_and_texts(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let mut rest = line.split(" //").next().unwrap_or_default();
        if rest.trim_start().starts_with("//") {
            rest = "";
        }
        for (index, part) in rest.replace("\\\"", "").replace("'\"'", "").split('"').enumerate() {
            code.push_str(if index % 2 == 0 { part } else { " " });
        }
        code.push('\n');
    }
    code
}

/// The names behind every `prefix` that is a path of its own: `crate::a` and `crate::{a, b::c}` give `a` and `b`.
fn names_behind<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|before: char| before == ':' || is_name(before)) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let group = rest.strip_prefix('{').and_then(|group| group.split('}').next());
        for path in group.unwrap_or(rest).split(if group.is_some() { ',' } else { '\0' }) {
            let path = path.trim_start();
            names.insert(&path[..path.find(|c| !is_name(c)).unwrap_or(path.len())]);
        }
    }
    names.remove("");
    names
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Fails with every offence at once.
fn assert_none(rule: &str, offences: impl IntoIterator<Item = String>) {
    let list = offences.into_iter().fold(String::new(), |mut list, offence| {
        writeln!(list, "  {offence}").expect("a text grows");
        list
    });
    assert!(list.is_empty(), "{rule}:\n{list}");
}

#[test]
fn imports_run_along_the_arrows() {
    let mut offences = Vec::new();
    for source in shipped() {
        let Some(room) = source.room().filter(|room| *room != "lib") else { continue };
        let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            offences.push(format!("{}: the room `{room}` has no row in ROOMS", source.path));
            continue;
        };
        let mut imported = names_behind(&source.code, "crate::");
        imported.extend(names_behind(&source.code, "relink::"));
        for name in imported.into_iter().filter(|name| *name != room && !may.contains(name)) {
            offences.push(format!("{} imports {name}", source.path));
        }
        let is_top = source.path == format!("src/{room}.rs") || source.path == format!("src/{room}/mod.rs");
        if is_top && source.code.contains("super::") {
            offences.push(format!("{} leaves its room by `super::`; say `crate::`", source.path));
        }
    }
    assert_none("imports against the arrows of ROOMS", offences);
}

#[test]
fn no_arrow_points_back() {
    for (index, (room, may)) in ROOMS.iter().enumerate() {
        let above: BTreeSet<_> = ROOMS[..index].iter().map(|(name, _)| *name).collect();
        assert!(may.iter().all(|name| above.contains(name)), "{room} imports a room that is not above it: {may:?}");
    }
}

/// The paths that begin with `crate::`, `self::` or `super::`, as their parts; a group in braces is several paths.
fn paths_of(code: &str) -> Vec<Vec<&str>> {
    let mut paths = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            // `pub(in crate::…)` is no import.
            if before.ends_with(|before: char| before == ':' || is_name(before)) || before.ends_with("(in ") {
                continue;
            }
            let mut path = Vec::new();
            let mut rest = &code[at..];
            while let Some((part, behind)) = rest.split_once("::").filter(|(part, _)| part.chars().all(is_name)) {
                path.push(part);
                rest = behind;
            }
            let group = rest.strip_prefix('{').and_then(|group| group.split('}').next());
            for last in group.unwrap_or(rest).split(if group.is_some() { ',' } else { '\0' }) {
                let last = last.trim_start();
                let name = &last[..last.find(|c| !is_name(c)).unwrap_or(last.len())];
                paths.push(path.iter().copied().chain([name]).collect());
            }
        }
    }
    paths
}

/// A file as a module: `src/a/mod.rs` and `src/a.rs` are `src/a`, a crate's root is its `src`.
fn module_of(path: &str) -> &str {
    let path = path.trim_end_matches(".rs");
    ["/mod", "/lib", "/main"].iter().find_map(|root| path.strip_suffix(root)).unwrap_or(path)
}

/// For each module, the other modules that its file imports. A table of contents imports all that it lists.
fn imports_by_module(sources: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let modules: BTreeSet<_> = sources.iter().map(|source| module_of(&source.path)).collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let module = module_of(&source.path);
        let root = &source.path[..source.path.find("src/").map_or(0, |at| at + "src".len())];
        let mut found: BTreeSet<&str> = BTreeSet::new();
        for path in paths_of(&source.code) {
            let mut target = if path[0] == "crate" { root.to_owned() } else { module.to_owned() };
            for part in &path {
                match *part {
                    "crate" | "self" => {}
                    "super" => target.truncate(target.rfind('/').unwrap_or(0)),
                    part if modules.contains(format!("{target}/{part}").as_str()) => {
                        target = format!("{target}/{part}");
                    }
                    _ => break,
                }
            }
            found.extend(modules.get(target.as_str()));
        }
        let listed = |other: &&&str| other.rsplit_once('/').is_some_and(|(parent, _)| parent == module);
        found.extend(modules.iter().filter(listed));
        found.remove(module);
        imports.entry(module).or_default().extend(found);
    }
    imports
}

#[test]
fn no_two_files_import_each_other() {
    let shipped = shipped();
    let imports = imports_by_module(&shipped);
    let mut offences = Vec::new();
    for place in WITHOUT_CYCLES {
        // Whoever imports nothing that is left is taken away; what cannot be taken away is a circle, or imports one.
        let mut left: BTreeMap<_, _> =
            imports.iter().filter(|(module, _)| format!("{module}/").starts_with(place)).collect();
        assert!(left.len() > 3, "{place} has only {} files", left.len());
        loop {
            let free: Vec<_> = left
                .iter()
                .filter(|(_, others)| !others.iter().any(|other| left.contains_key(other)))
                .map(|(module, _)| **module)
                .collect();
            if free.is_empty() {
                break;
            }
            left.retain(|module, _| !free.contains(*module));
        }
        for (module, others) in &left {
            let others: Vec<_> = others.iter().filter(|other| left.contains_key(*other)).collect();
            offences.push(format!("{module} imports {others:?}"));
        }
    }
    assert_none("files that import each other, and those that import such", offences);
}

#[test]
fn the_modules_of_belvo_import_each_other_in_one_direction() {
    // A file of a directory, such as `body/webhook.rs`, belongs to the module of the directory.
    let module_of = |path: &str| {
        let inside = path.strip_prefix("src/belvo/").filter(|inside| *inside != "mod.rs")?;
        inside.split(['/', '.']).next().map(str::to_owned)
    };
    let sources = shipped();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in &sources {
        let Some(module) = module_of(&source.path) else { continue };
        let mut names = names_behind(&source.code, "crate::belvo::");
        if source.path == format!("src/belvo/{module}.rs") {
            names.extend(names_behind(&source.code, "super::"));
        }
        let names = names.into_iter().filter(|name| *name != module).map(str::to_owned);
        imports.entry(module.clone()).or_default().extend(names);
    }
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    imports.values_mut().for_each(|names| names.retain(|name| modules.contains(name)));
    assert!(imports["translate"].contains("classify") && imports["meaning"].contains("classify"), "{imports:?}");
    // Remove the modules that import no other one, again and again: the rest is a circle.
    while let Some(leaf) = imports.iter().find(|(_, names)| names.is_empty()).map(|(module, _)| module.clone()) {
        imports.remove(&leaf);
        for names in imports.values_mut() {
            names.remove(&leaf);
        }
    }
    let circles = imports.iter().map(|(module, names)| format!("belvo::{module} imports {names:?}"));
    assert_none("modules of belvo in a circle", circles);
}

#[test]
fn every_outside_crate_stays_with_its_owner() {
    let mut offences = Vec::new();
    for source in shipped() {
        let Some(inside) = source.path.strip_prefix("src/") else { continue };
        let uses = |name: &str| !names_behind(&source.code, &format!("{name}::")).is_empty();
        for (name, owners) in OWNERS {
            if uses(name) && !owners.iter().any(|owner| inside.starts_with(owner)) {
                offences.push(format!("{} uses {name}, which belongs to {owners:?}", source.path));
            }
        }
        for (place, names) in NOT_IN.iter().filter(|(place, _)| inside.starts_with(place)) {
            offences.extend(names.iter().filter(|name| uses(name)).map(|name| format!("{place} does without {name}")));
        }
    }
    assert_none("crates outside their rooms", offences);
}

#[test]
fn files_are_short_and_begin_with_what_they_are() {
    let offences = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        let problem = match lines {
            _ if !source.text.starts_with("//! ") => "does not begin with `//!`".to_owned(),
            lines if lines > LINES_MAX => format!("has {lines} lines"),
            _ => return None,
        };
        Some(format!("{} {problem}", source.path))
    });
    assert_none(&format!("at most {LINES_MAX} lines, and a head that says what this is"), offences);
}

#[test]
fn no_file_is_named_for_nothing() {
    let nothing = ["util", "utils", "common", "helper", "helpers", "misc"];
    let named = |source: &Source| source.path.split(['/', '.']).any(|part| nothing.contains(&part));
    assert_none("a file has a subject", sources().into_iter().filter(named).map(|source| source.path));
}

#[test]
fn nothing_is_left_for_later() {
    let later = ["to".to_owned() + "do!", "unimplemented!".to_owned(), "TO".to_owned() + "DO", "FIX".to_owned() + "ME"];
    let is_left = |source: &Source| later.iter().any(|word| source.text.contains(word.as_str()));
    let offences = sources().into_iter().filter(|source| source.path != "tests/architecture.rs").filter(is_left);
    assert_none("what is not done is an issue", offences.map(|source| source.path));
}

#[test]
fn names_are_handed_on_by_tables_of_contents_only() {
    let is_contents = |source: &Source| {
        // A file with a directory of its own is the contents of that directory.
        let directory = source.path.trim_end_matches(".rs");
        source.path.ends_with("/mod.rs") || source.path.ends_with("src/lib.rs") || Path::new(directory).is_dir()
    };
    let hands_on = |source: &Source| source.code.lines().any(|line| line.trim_start().starts_with("pub use "));
    let offences = shipped().into_iter().filter(|source| !is_contents(source) && hands_on(source));
    assert_none("`pub use` outside mod.rs", offences.map(|source| source.path));
}

#[test]
fn the_machine_has_no_arm_for_everything_else() {
    let in_link = shipped().into_iter().filter(|source| source.room() == Some("link"));
    let offences = in_link.flat_map(|Source { path, code, .. }| {
        let arms = code.lines().filter(|line| line.trim_start().starts_with("_ =>")).map(str::to_owned);
        arms.map(|arm| format!("{path}:{arm}")).collect::<Vec<_>>()
    });
    assert_none("a new state or event must not compile until it has its arm", offences);
}

#[test]
fn the_reader_of_sources_reads() {
    let code = "use crate::link::{A, B};\nuse crate::{nats::x, store};\nself::sled::y(); // crate::no\n\"crate::no\"\nsled::z()";
    let code = without_comments_and_texts(code);
    assert_eq!(names_behind(&code, "crate::"), BTreeSet::from(["link", "nats", "store"]));
    assert_eq!(names_behind(&code, "sled::"), BTreeSet::from(["z"]));
    let paths = paths_of("use super::{A, b::C};\nself::sled::y(); use x::super::no;");
    assert_eq!(paths, [vec!["self", "sled", "y"], vec!["super", "A"], vec!["super", "b"]]);
}

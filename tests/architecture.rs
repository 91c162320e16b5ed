//! Rules about the sources that the compiler does not check: which module may import which, which module may use
//! which crate, and the form of a file.
//!
//! `architecture/rules.rs` has the complete rules, `MODULES` and `OWNERS`. A new module needs a row. A new import between modules is a
//! design decision: change the table and ARCHITECTURE.md. Unit tests are not checked; they may import more.

#[path = "architecture/rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use rules::{MODULES, NOT_IN, OWNERS, WITHOUT_CYCLES};

const LINES_MAX: usize = 500;

/// A source file: the path below the root, the full text, and the shipped code without comments and string contents.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The top-level module of a file of `src/`; `None` for a file of another crate.
    fn top_module(&self) -> Option<&str> {
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
    assert!(sources.len() > 100, "too few sources were found: {}", sources.len());
    sources
}

fn shipped() -> Vec<Source> {
    sources().into_iter().filter(|source| !source.is_test()).collect()
}

/// A simple scanner, sufficient for formatted sources: raw strings with quotes inside would confuse it.
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

/// The names after every `prefix` that begins a path: `crate::a` and `crate::{a, b::c}` give `a` and `b`.
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

/// Fails with a list of all violations.
fn assert_none(rule: &str, violations: impl IntoIterator<Item = String>) {
    let list = violations.into_iter().fold(String::new(), |mut list, violation| {
        writeln!(list, "  {violation}").expect("a text grows");
        list
    });
    assert!(list.is_empty(), "{rule}:\n{list}");
}

#[test]
fn modules_import_only_what_their_row_allows() {
    let mut violations = Vec::new();
    for source in shipped() {
        let Some(module) = source.top_module().filter(|module| *module != "lib") else { continue };
        let Some((_, may)) = MODULES.iter().find(|(name, _)| *name == module) else {
            violations.push(format!("{}: the module `{module}` has no row in MODULES", source.path));
            continue;
        };
        let mut imported = names_behind(&source.code, "crate::");
        imported.extend(names_behind(&source.code, "relink::"));
        for name in imported.into_iter().filter(|name| *name != module && !may.contains(name)) {
            violations.push(format!("{} imports {name}", source.path));
        }
        let is_top = source.path == format!("src/{module}.rs") || source.path == format!("src/{module}/mod.rs");
        if is_top && source.code.contains("super::") {
            violations.push(format!("{} leaves its module by `super::`; use `crate::`", source.path));
        }
    }
    assert_none("imports that MODULES does not allow", violations);
}

#[test]
fn a_module_imports_only_modules_above_it() {
    for (index, (module, may)) in MODULES.iter().enumerate() {
        let above: BTreeSet<_> = MODULES[..index].iter().map(|(name, _)| *name).collect();
        assert!(may.iter().all(|name| above.contains(name)), "{module} imports a module that is not above it: {may:?}");
    }
}

/// The paths that begin with `crate::`, `self::` or `super::`, split into parts; a group in braces is several paths.
fn paths_of(code: &str) -> Vec<Vec<&str>> {
    let mut paths = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            // `pub(in crate::…)` is not an import.
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

/// The module of a file: `src/a/mod.rs` and `src/a.rs` are `src/a`; the root of a crate is its `src`.
fn module_of(path: &str) -> &str {
    let path = path.trim_end_matches(".rs");
    ["/mod", "/lib", "/main"].iter().find_map(|root| path.strip_suffix(root)).unwrap_or(path)
}

/// The imports of each module. A module also imports its direct submodules.
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
fn files_without_import_cycles() {
    let shipped = shipped();
    let imports = imports_by_module(&shipped);
    let mut violations = Vec::new();
    for place in WITHOUT_CYCLES {
        // Modules without remaining imports are removed repeatedly. The rest are cycles, and modules that import one.
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
            violations.push(format!("{module} imports {others:?}"));
        }
    }
    assert_none("import cycles, and the files that import them", violations);
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
    // Modules without imports are removed repeatedly; the rest is a cycle.
    while let Some(leaf) = imports.iter().find(|(_, names)| names.is_empty()).map(|(module, _)| module.clone()) {
        imports.remove(&leaf);
        for names in imports.values_mut() {
            names.remove(&leaf);
        }
    }
    let cycles = imports.iter().map(|(module, names)| format!("belvo::{module} imports {names:?}"));
    assert_none("import cycles in belvo", cycles);
}

#[test]
fn restricted_crates_are_used_only_by_their_owners() {
    let mut violations = Vec::new();
    for source in shipped() {
        let Some(inside) = source.path.strip_prefix("src/") else { continue };
        let uses = |name: &str| !names_behind(&source.code, &format!("{name}::")).is_empty();
        for (name, owners) in OWNERS {
            if uses(name) && !owners.iter().any(|owner| inside.starts_with(owner)) {
                violations.push(format!("{} uses {name}, which only {owners:?} may use", source.path));
            }
        }
        for (place, names) in NOT_IN.iter().filter(|(place, _)| inside.starts_with(place)) {
            violations.extend(names.iter().filter(|name| uses(name)).map(|name| format!("{place} may not use {name}")));
        }
    }
    assert_none("restricted crates outside their owners", violations);
}

/// A client with the default settings sends everything to the proxy of the environment, also relink's tokens.
#[test]
fn http_clients_are_built_in_two_places() {
    let builds = |source: &Source| {
        ["Client::builder()", "Client::new()", "ClientBuilder::new()", "reqwest::get("].iter().any(|call| {
            let code = &source.code;
            code.contains(&format!("reqwest::{call}")) || (code.contains("use reqwest::") && code.contains(call))
        })
    };
    let places = ["src/direct.rs", "src/belvo/client.rs"];
    let others = shipped().into_iter().filter(|source| source.path.starts_with("src/"));
    let others = others.filter(|source| builds(source) && !places.contains(&source.path.as_str()));
    assert_none("HTTP clients that may use a proxy", others.map(|source| source.path));
}

#[test]
fn files_are_short_and_begin_with_a_description() {
    let violations = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        let problem = match lines {
            _ if !source.text.starts_with("//! ") => "does not begin with `//!`".to_owned(),
            lines if lines > LINES_MAX => format!("has {lines} lines"),
            _ => return None,
        };
        Some(format!("{} {problem}", source.path))
    });
    assert_none(&format!("at most {LINES_MAX} lines, and a description at the head"), violations);
}

#[test]
fn file_names_name_a_subject() {
    let vague = ["util", "utils", "common", "helper", "helpers", "misc"];
    let named = |source: &Source| source.path.split(['/', '.']).any(|part| vague.contains(&part));
    assert_none("file names that name no subject", sources().into_iter().filter(named).map(|source| source.path));
}

#[test]
fn no_source_has_an_unfinished_part() {
    let later = ["to".to_owned() + "do!", "unimplemented!".to_owned(), "TO".to_owned() + "DO", "FIX".to_owned() + "ME"];
    let is_left = |source: &Source| later.iter().any(|word| source.text.contains(word.as_str()));
    let violations = sources().into_iter().filter(|source| source.path != "tests/architecture.rs").filter(is_left);
    assert_none("an unfinished part belongs in an issue", violations.map(|source| source.path));
}

#[test]
fn only_parent_modules_reexport_names() {
    let is_parent = |source: &Source| {
        // A file with a directory of the same name is the parent module of that directory.
        let directory = source.path.trim_end_matches(".rs");
        source.path.ends_with("/mod.rs") || source.path.ends_with("src/lib.rs") || Path::new(directory).is_dir()
    };
    let reexports = |source: &Source| source.code.lines().any(|line| line.trim_start().starts_with("pub use "));
    let violations = shipped().into_iter().filter(|source| !is_parent(source) && reexports(source));
    assert_none("`pub use` outside mod.rs", violations.map(|source| source.path));
}

#[test]
fn the_machine_has_no_wildcard_arm() {
    let in_link = shipped().into_iter().filter(|source| source.top_module() == Some("link"));
    let violations = in_link.flat_map(|Source { path, code, .. }| {
        let arms = code.lines().filter(|line| line.trim_start().starts_with("_ =>")).map(str::to_owned);
        arms.map(|arm| format!("{path}:{arm}")).collect::<Vec<_>>()
    });
    assert_none("a new state or event must not compile until it has its arm", violations);
}

#[test]
fn the_scanner_finds_imports() {
    let code = "use crate::link::{A, B};\nuse crate::{nats::x, store};\nself::sled::y(); // crate::no\n\"crate::no\"\nsled::z()";
    let code = without_comments_and_texts(code);
    assert_eq!(names_behind(&code, "crate::"), BTreeSet::from(["link", "nats", "store"]));
    assert_eq!(names_behind(&code, "sled::"), BTreeSet::from(["z"]));
    let paths = paths_of("use super::{A, b::C};\nself::sled::y(); use x::super::no;");
    assert_eq!(paths, [vec!["self", "sled", "y"], vec!["super", "A"], vec!["super", "b"]]);
}

//! Collects the values of the settings from four layers, with the origin of each value.
//!
//! Unknown names are refused, with a guess at the right one: if a mistyped setting were ignored, its operator would
//! notice in an outage. Values are not parsed here; `mod.rs` does. This is the only file that reads the environment, except that `clock.rs`
//! reads a variable of tests.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::catalogue::all_settings;
use super::setting::Setting;

/// The variables of the programs that ask a running relink, such as `relink show` and the examples. They are no settings of the service.
const VARIABLES_OF_CLIENTS: [&str; 2] = ["RELINK_URL", "RELINK_API_TOKEN"];

/// A variable for tests and no setting: `clock.rs`, which this module may not import, reads it.
const TEST_OFFSET_VARIABLE: &str = "RELINK_TEST_CLOCK_OFFSET_SECONDS";

/// The sources of the configuration.
#[derive(Clone, Default)]
pub struct Sources {
    /// The TOML file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment; only `RELINK_*` are settings.
    pub environment: Vec<(OsString, OsString)>,
    /// The given flags, such as `("--listen", "0.0.0.0:8480")`.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    /// The environment of this process, with `file` and `flags`.
    #[expect(clippy::disallowed_methods, reason = "this is the file the ban points to")]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags }
    }

    /// A variable that is not a setting, such as `PATH`. An empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.environment.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The catalogue.
    Default,
    /// The file.
    File(PathBuf),
    /// The environment.
    Variable(&'static str),
    /// The command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// An unparsed value. The type is not `Debug`, because a value may be a secret.
#[derive(Clone)]
pub(super) enum Raw {
    /// From the environment, a flag or the catalogue.
    Text(String),
    /// From the file.
    Toml(Value),
}

/// A value and its origin.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// The values by key, and the problems of the layers.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) found: BTreeMap<&'static str, Found>,
    pub(super) problems: Vec<String>,
}

impl Layers {
    /// Collects the layers; a later one overrides an earlier one.
    pub(super) fn collect(sources: &Sources) -> Self {
        let mut layers = Self::default();
        for setting in all_settings() {
            if let Some(default) = setting.default {
                layers.put(setting, Raw::Text(default.to_owned()), Origin::Default);
            }
        }
        if let Some(path) = &sources.file {
            layers.add_file(path);
        }
        layers.add_environment(&sources.environment);
        for (flag, value) in &sources.flags {
            match all_settings().find(|setting| setting.flag == Some(*flag)) {
                Some(setting) => layers.put(setting, Raw::Text(value.clone()), Origin::Flag(flag)),
                None => layers.problems.push(format!("flag {flag}: unknown flag")),
            }
        }
        layers
    }

    /// The values of one file.
    pub(super) fn of_file(path: &Path) -> Self {
        let mut layers = Self::default();
        layers.add_file(path);
        layers
    }

    fn put(&mut self, setting: &Setting, raw: Raw, origin: Origin) {
        self.found.insert(setting.key, Found { raw, origin });
    }

    fn add_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.problems.push(format!("file {}: cannot be read: {error}", path.display()));
                return;
            }
        };
        match text.parse::<Table>() {
            Ok(table) => self.add_table(path, "", table),
            Err(error) => {
                // The error's own text would quote the line, which may contain a secret.
                let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                self.problems.push(format!("file {}, line {line}: not TOML: {}", path.display(), error.message()));
            }
        }
    }

    fn add_table(&mut self, path: &Path, prefix: &str, table: Table) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            if let Some(setting) = all_settings().find(|setting| setting.key == key) {
                self.put(setting, Raw::Toml(value), Origin::File(path.to_owned()));
                continue;
            }
            let inside = format!("{key}.");
            match value {
                Value::Table(table) if all_settings().any(|setting| setting.key.starts_with(&inside)) => {
                    self.add_table(path, &inside, table);
                }
                _ => {
                    let guess = guess_key(&key);
                    self.problems.push(format!("file {}: unknown key `{}`{guess}", path.display(), key.escape_debug()));
                }
            }
        }
    }

    fn add_environment(&mut self, environment: &[(OsString, OsString)]) {
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with("RELINK_")) else { continue };
            if value.is_empty() || is_kubernetes(name) || VARIABLES_OF_CLIENTS.contains(&name) {
                continue;
            }
            if name == TEST_OFFSET_VARIABLE {
                if value.to_str().is_none_or(|text| text.parse::<i64>().is_err()) {
                    self.problems.push(format!("environment {name}: a test must give a whole number of seconds"));
                }
                continue;
            }
            let Some(setting) = all_settings().find(|setting| setting.variable == name) else {
                let guess = guess(name, all_settings().map(|setting| setting.variable));
                let problem = format!("environment {}: unknown variable{guess}", name.escape_debug());
                self.problems.push(problem);
                continue;
            };
            match value.to_str() {
                Some(text) => self.put(setting, Raw::Text(text.to_owned()), Origin::Variable(setting.variable)),
                None => self.problems.push(format!("environment {name}: the value is not UTF-8; set it again as text")),
            }
        }
    }
}

/// Whether Kubernetes sets this variable: it describes each service of the namespace, and the variables of a service
/// named `relink` or `relink-…` begin with `RELINK_`.
fn is_kubernetes(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let ends_in = |end: &[&str]| words.ends_with(end);
    let port = words.iter().rposition(|word| *word == "PORT");
    let port_of =
        port.and_then(|at| words.get(at + 1)).is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    ends_in(&["SERVICE", "HOST"])
        || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"])
        || ends_in(&["PORT"])
        || port_of
}

/// A guess for an unknown key: the same name in another table, or the nearest spelling.
fn guess_key(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    match all_settings().find(|setting| setting.key.rsplit('.').next() == Some(last)) {
        Some(setting) => format!("; did you mean `{}`?", setting.key),
        None => guess(key, all_settings().map(|setting| setting.key)),
    }
}

/// A guess for an unknown name: only the nearest spelling, and only if few letters differ, because the names are long
/// and have common prefixes.
fn guess<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    if let Some(longer) = known.iter().find(|known| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('_')))
    {
        return format!("; did you mean `{longer}`?");
    }
    let nearest = known.into_iter().map(|known| (strsim::damerau_levenshtein(name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 3 || distance * 4 <= name.len() => format!("; did you mean `{known}`?"),
        _ => "; `relink serve --help` lists all settings".to_owned(),
    }
}

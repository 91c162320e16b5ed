//! `relink check-config`: prints the resolved configuration as TOML, with hidden secrets and the origin of each
//! value.

use std::fmt::Write;

use toml::Value;

use super::catalogue::all_settings;
use super::layers::{Found, Layers, Raw};
use super::reader::{SET, list, text};
use super::setting::{Kind, Setting};
use crate::printable::{escaped, printable};

/// The placeholder of a secret that is not set.
const NOT_SET: &str = "[not set]";

/// A setting as it is shown: without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSetting {
    /// The key in the file, such as `http.listen`.
    pub key: &'static str,
    /// The name of the environment variable.
    pub variable: &'static str,
    /// The value as TOML on one line. `None` if there is none.
    pub value: Option<String>,
    /// Where the value comes from. `None` if there is no value.
    pub origin: Option<String>,
    is_secret: bool,
}

impl ShownSetting {
    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        let table = self.value.as_ref().and_then(|value| format!("value = {value}").parse::<toml::Table>().ok());
        let value = table.and_then(|mut table| table.remove("value"));
        serde_json::to_value(value).expect("a value of TOML has string keys")
    }
}

/// All settings, in the order of the catalogue.
pub(super) fn settings(layers: &Layers) -> Vec<ShownSetting> {
    let shown = all_settings().map(|setting| {
        let found = layers.found.get(setting.key);
        ShownSetting {
            key: setting.key,
            variable: setting.variable,
            value: found.map(|found| value(setting, found)),
            origin: found.map(|found| printable(&found.origin.to_string())),
            is_secret: setting.secret,
        }
    });
    shown.collect()
}

/// The settings as TOML, each with its origin.
pub(super) fn report(settings: &[ShownSetting]) -> String {
    let mut report = String::new();
    let mut table = "";
    for ShownSetting { key, variable, value, origin, is_secret } in settings {
        let (inside, name) = key.split_once('.').unwrap_or(("", key));
        if inside != table {
            let gap = if table.is_empty() { "" } else { "\n" };
            let _infallible = writeln!(report, "{gap}[{inside}]");
            table = inside;
        }
        let line = match value {
            Some(value) => format!("{name} = {value}"),
            None if *is_secret => format!("{name} = \"{NOT_SET}\""),
            None => format!("# {name} is not set"),
        };
        let origin = origin.clone().unwrap_or_else(|| format!("set {variable} to change it"));
        let _infallible = writeln!(report, "{line:<48} # {origin}");
    }
    report
}

fn value(setting: &Setting, found: &Found) -> String {
    if setting.secret {
        return match (setting.kind, list(&found.raw)) {
            (Kind::List, Ok(items)) => {
                Value::Array(items.iter().map(|_| Value::String(SET.into())).collect()).to_string()
            }
            _ => format!("\"{SET}\""),
        };
    }
    let list_of = |items: Vec<&str>| format!("[{}]", items.into_iter().map(quoted).collect::<Vec<_>>().join(", "));
    match (setting.kind, &found.raw) {
        (Kind::Url, raw @ Raw::Toml(Value::Array(_))) => list_of_urls(raw),
        (Kind::Url, raw) => quoted(&text(raw).map(hide_user).unwrap_or_default()),
        (_, Raw::Toml(value)) => shown(value),
        (Kind::Number | Kind::Switch, Raw::Text(text)) => printable(text.trim()),
        (Kind::List | Kind::Spans, raw @ Raw::Text(_)) => list_of(list(raw).unwrap_or_default()),
        (Kind::Text | Kind::Bytes | Kind::Span, Raw::Text(text)) => quoted(text.trim()),
    }
}

/// Addresses in an array, without users and passwords.
fn list_of_urls(raw: &Raw) -> String {
    let shown: Vec<_> = list(raw).unwrap_or_default().into_iter().map(|url| quoted(&hide_user(url))).collect();
    format!("[{}]", shown.join(", "))
}

/// A value on one line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// A text as a TOML string on one line; characters that a terminal interprets become TOML escapes.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    let escape = |c: char| match u32::from(c) {
        code @ 0..=0xffff => format!("\\u{code:04X}"),
        code => format!("\\U{code:08X}"),
    };
    format!("\"{}\"", escaped(&text, &[], &escape))
}

/// The addresses with users and passwords replaced by [`SET`].
pub(super) fn hide_user(addresses: &str) -> String {
    let hide = |address: &str| {
        let address = address.trim();
        let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // A password may contain a `/`, so without an `@` before the path the last `@` of the address counts.
        let at = rest[..end].rfind('@').or_else(|| rest.rfind('@'));
        let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
        match at {
            Some(at) => format!("{scheme}{SET}@{}", &rest[at + 1..]),
            None => format!("{scheme}{rest}"),
        }
    };
    addresses.split(',').map(hide).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_line_and_parses_to_the_same_text() {
        for text in ["", "a \"b\" \\c", "São Paulo", "x\n[http]\r\u{1b}[2J\u{9b}\u{202e}\u{e0041}", "''"] {
            let shown = quoted(text);
            assert!(!shown.contains(['\n', '\r', '\u{1b}', '\u{9b}', '\u{202e}']), "{shown:?}");
            let read: toml::Table = format!("a = {shown}").parse().unwrap();
            assert_eq!(read["a"].as_str(), Some(text));
        }
    }
}

//! `relink check-config`: the resolved whole as TOML, with secrets hidden and the origin of every value beside it.

use std::fmt::Write;

use toml::Value;

use super::catalogue::{Kind, SETTINGS, Setting};
use super::layers::{Found, Layers, Raw};
use super::reader::{SET, list, text};

/// What stands where no secret is set.
const NOT_SET: &str = "[not set]";

/// The report.
pub(super) fn report(layers: &Layers) -> String {
    let mut report = String::new();
    let mut table = "";
    for setting in SETTINGS {
        let (inside, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if inside != table {
            let gap = if table.is_empty() { "" } else { "\n" };
            let _infallible = writeln!(report, "{gap}[{inside}]");
            table = inside;
        }
        let line = match layers.found.get(setting.key) {
            Some(found) => format!("{name} = {}", value(setting, found)),
            None if setting.secret => format!("{name} = \"{NOT_SET}\""),
            None => format!("# {name} is not set"),
        };
        let origin = match layers.found.get(setting.key) {
            Some(found) => found.origin.to_string(),
            None => format!("set {} to change it", setting.variable),
        };
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
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    match (setting.kind, &found.raw) {
        (Kind::Url, raw) => quoted(&text(raw).map(hide_user).unwrap_or_default()),
        (_, Raw::Toml(value)) => value.to_string(),
        (Kind::Number | Kind::Switch, Raw::Text(text)) => text.trim().to_owned(),
        (Kind::List | Kind::Spans, raw @ Raw::Text(_)) => {
            let items = list(raw).unwrap_or_default();
            Value::Array(items.into_iter().map(|item| Value::String(item.to_owned())).collect()).to_string()
        }
        (Kind::Text | Kind::Bytes | Kind::Span, Raw::Text(text)) => quoted(text.trim()),
    }
}

/// Addresses without their users and passwords.
pub(super) fn hide_user(addresses: &str) -> String {
    let hide = |address: &str| {
        let address = address.trim();
        let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // A password may contain anything, so look for the last `@` if the address has only one part.
        let at = rest[..end].rfind('@').or_else(|| rest.rfind('@'));
        let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
        match at {
            Some(at) => format!("{scheme}{SET}@{}", &rest[at + 1..]),
            None => format!("{scheme}{rest}"),
        }
    };
    addresses.split(',').map(hide).collect::<Vec<_>>().join(",")
}

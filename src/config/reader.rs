//! Parses single values and checks their ranges. Every problem names the origin of the value.
//!
//! A problem is noted and reading continues with a placeholder, so that an operator sees all problems at once. A
//! problem never quotes a secret. Next: `mod.rs` builds the configuration.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use toml::Value;

use super::address::{socket_address, what_is_missing};
use super::catalogue::setting;
use super::layers::{Found, Layers, Raw};
use super::setting::Setting;

/// The text that `check-config` prints in place of a secret; as a value it is refused.
pub(super) const SET: &str = "[set]";

/// The collected values, and the problems so far.
pub(super) struct Reader {
    pub(super) layers: Layers,
}

impl Reader {
    /// Parses one value. `None` if it is not set, or if it was wrong, which is noted.
    pub(super) fn read<T>(&mut self, key: &'static str, parse: impl FnOnce(&Raw) -> Result<T, String>) -> Option<T> {
        let Found { raw, origin } = self.layers.found.get(key)?;
        match parse(raw) {
            Ok(value) => Some(value),
            Err(problem) => {
                let problem = format!("{origin}: {key} {problem}");
                self.layers.problems.push(problem);
                None
            }
        }
    }

    /// Notes a problem with a parsed value.
    pub(super) fn reject(&mut self, key: &'static str, problem: impl Display) {
        let origin = self.layers.found.get(key).map(|found| format!("{}: ", found.origin)).unwrap_or_default();
        self.layers.problems.push(format!("{origin}{key} {problem}"));
    }

    /// Whether the setting has a value, right or wrong.
    pub(super) fn is_set(&self, key: &'static str) -> bool {
        self.layers.found.contains_key(key)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.read(key, |raw| text(raw).map(ToOwned::to_owned))
    }

    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, wanted: &str) -> Option<T> {
        self.read(key, |raw| {
            let text = text(raw)?;
            text.parse().map_err(|_| format!("must be {wanted}, but is `{}`", text.escape_debug()))
        })
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, key: &'static str, wanted: &str) -> Option<SocketAddr> {
        self.read(key, |raw| {
            let text = text(raw)?;
            socket_address(text)
                .ok_or_else(|| format!("must be {wanted}, but is `{}`{}", text.escape_debug(), what_is_missing(text)))
        })
    }

    /// Several addresses, with commas between them.
    pub(super) fn addresses(&mut self, key: &'static str) -> Option<SecretString> {
        self.read(key, |raw| match raw {
            Raw::Toml(Value::Array(_)) => hide(&list(raw)?.join(",")),
            raw => hide(text(raw)?),
        })
    }

    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<i64>) -> i64 {
        let read = self.read(key, |raw| {
            let number = match raw {
                Raw::Text(text) => text.trim().parse().ok(),
                Raw::Toml(Value::Integer(number)) => Some(*number),
                Raw::Toml(_) => None,
            };
            let (least, most) = (range.start(), range.end());
            number.filter(|number| range.contains(number)).ok_or_else(|| {
                format!("must be a whole number from {least} to {most}, but is {}", shown(raw, setting(key)))
            })
        });
        read.unwrap_or(*range.start())
    }

    pub(super) fn switch(&mut self, key: &'static str) -> bool {
        let read = self.read(key, |raw| match raw {
            Raw::Toml(Value::Boolean(switch)) => Ok(*switch),
            Raw::Text(text) if text.trim() == "true" => Ok(true),
            Raw::Text(text) if text.trim() == "false" => Ok(false),
            Raw::Text(_) | Raw::Toml(_) => Err(format!("must be true or false, but is {}", shown(raw, setting(key)))),
        });
        read.unwrap_or_default()
    }

    pub(super) fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let read = self.read(key, |raw| {
            let bytes = match raw {
                Raw::Text(text) | Raw::Toml(Value::String(text)) => parse_bytes(text),
                Raw::Toml(Value::Integer(bytes)) => u64::try_from(*bytes).ok(),
                Raw::Toml(_) => None,
            };
            bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
                let (least, most) = (range.start() >> 20, range.end() >> 20);
                let found = match raw {
                    // A size is no secret.
                    Raw::Toml(Value::String(text)) => format!("`{}`", text.escape_debug()),
                    other => shown(other, setting(key)),
                };
                format!("must be from {least}MiB to {most}MiB in bytes, MiB or GiB, but is {found}")
            })
        });
        read.unwrap_or_default()
    }

    pub(super) fn span(&mut self, key: &'static str) -> Duration {
        self.read(key, |raw| parse_span(text(raw)?)).unwrap_or_default()
    }

    pub(super) fn span_within(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let read = self.read(key, |raw| {
            let span = parse_span(text(raw)?)?;
            let [least, most] = [range.start(), range.end()].map(|end| in_days(*end));
            if range.contains(&span) { Ok(span) } else { Err(format!("must be from {least} to {most}")) }
        });
        read.unwrap_or_default()
    }

    pub(super) fn spans(&mut self, key: &'static str) -> Vec<Duration> {
        self.read(key, |raw| list(raw)?.into_iter().map(parse_one_span).collect()).unwrap_or_default()
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.read(key, |raw| Ok(list(raw)?.into_iter().map(str::to_owned).collect())).unwrap_or_default()
    }

    pub(super) fn secret(&mut self, key: &'static str) -> Option<SecretString> {
        self.read(key, |raw| hide(text(raw)?))
    }

    pub(super) fn secrets(&mut self, key: &'static str) -> Vec<SecretString> {
        self.read(key, |raw| list(raw)?.into_iter().map(hide).collect()).unwrap_or_default()
    }
}

/// The value as a text.
pub(super) fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Text(text) | Raw::Toml(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim()),
        Raw::Text(_) | Raw::Toml(Value::String(_)) => Err("is empty; remove it, or give it a value".to_owned()),
        Raw::Toml(other) => Err(format!("must be a text in quotes, but is {}", with_article(other))),
    }
}

/// The value as texts: an array in the file, or, in the file as elsewhere, one text with commas.
pub(super) fn list(raw: &Raw) -> Result<Vec<&str>, String> {
    let wrong = |other: &Value| format!("must be an array of texts, but is {}", with_article(other));
    match raw {
        Raw::Text(text) | Raw::Toml(Value::String(text)) => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
        }
        Raw::Toml(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) if !text.trim().is_empty() => Ok(text.trim()),
                Value::String(_) => Err("has an empty item; remove it".to_owned()),
                other => Err(format!("must be an array of texts, but contains {}", with_article(other))),
            })
            .collect(),
        Raw::Toml(other) => Err(wrong(other)),
    }
}

fn with_article(value: &Value) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// A wrong value, as it is quoted in a problem.
fn shown(raw: &Raw, setting: &Setting) -> String {
    match raw {
        _ if setting.secret => SET.to_owned(),
        Raw::Text(text) => format!("`{}`", text.escape_debug()),
        Raw::Toml(Value::Integer(number)) => format!("{number}"),
        Raw::Toml(other) => with_article(other),
    }
}

fn hide(text: &str) -> Result<SecretString, String> {
    if text.starts_with(SET) || text.contains(['\r', '\n']) {
        return Err(format!("must be the secret itself, on one line; `{SET}` is only its placeholder in check-config"));
    }
    Ok(SecretString::from(text))
}

/// A span as in a setting, such as `90d`; the crate would write two months and some days.
fn in_days(span: Duration) -> String {
    const DAY_SECS: u64 = 86_400;
    let days = span.as_secs() / DAY_SECS;
    if days > 0 && span == Duration::from_secs(days * DAY_SECS) {
        return format!("{days}d");
    }
    humantime::format_duration(span).to_string()
}

fn parse_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("must be a duration such as 30m, 6h or 1d, but is `{}`", text.escape_debug()))
}

/// One of several spans.
fn parse_one_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        let found = text.escape_debug();
        format!("must be durations such as 30m, 6h or 1d, with commas between them, but one of them is `{found}`")
    })
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
    let factor = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

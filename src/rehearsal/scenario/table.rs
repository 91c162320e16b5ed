//! Reads a table of a scenario file into a type. An error names the position in the file.
//!
//! The problem comes from serde, the position from the spans of `toml`, and the name of the field from the path of
//! `serde_path_to_error`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use toml::Spanned;

use super::error::ScenarioError;

/// A table, with the position of each value.
pub(super) type Table = BTreeMap<String, Spanned<toml::Value>>;

/// A scenario file.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at this position.
    pub(super) fn error(&self, span: &Range<usize>, problem: impl Into<String>) -> ScenarioError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let in_line = before.rsplit('\n').next().unwrap_or_default();
        ScenarioError {
            file: self.file.to_owned(),
            line: self.line_of(span),
            column: in_line.chars().count() + 1,
            problem: problem.into(),
        }
    }

    /// The line of this position, from 1.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
    }

    /// The text of this span, on one line.
    pub(super) fn text_of(&self, span: Range<usize>) -> String {
        self.text.get(span).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Reads a table; `what` is its name in error messages.
    pub(super) fn read<T: DeserializeOwned>(&self, what: &str, table: &Spanned<Table>) -> Result<T, ScenarioError> {
        self.read_as(what, table, |value| value)
    }

    /// Reads a table that `arrange` first converts to the form that serde expects.
    pub(super) fn read_as<T: DeserializeOwned>(
        &self,
        what: &str,
        table: &Spanned<Table>,
        arrange: impl FnOnce(Value) -> Value,
    ) -> Result<T, ScenarioError> {
        let fields = table.get_ref();
        let plain: BTreeMap<_, _> = fields.iter().map(|(key, value)| (key, value.get_ref())).collect();
        let value = serde_json::to_value(plain).map_err(|error| self.error(&table.span(), error.to_string()))?;
        serde_path_to_error::deserialize(arrange(value)).map_err(|error| {
            let message = error.inner().to_string();
            let named = in_quotes(&message, "unknown field ");
            let on_path = error.path().iter().filter_map(|segment| match segment {
                Segment::Map { key } | Segment::Enum { variant: key } => Some(key.as_str()),
                Segment::Seq { .. } | Segment::Unknown => None,
            });
            let field = on_path.chain(named).rfind(|key| fields.contains_key(*key));
            let span = field.and_then(|field| fields.get(field)).map_or_else(|| table.span(), Spanned::span);
            self.error(&span, problem(what, field, &message))
        })
    }
}

/// An error message of serde, in the terms of the file.
fn problem(what: &str, field: Option<&str>, message: &str) -> String {
    let expected = message.split_once(", expected ").map_or("", |(_, expected)| expected);
    if let Some(name) = in_quotes(message, "missing field ") {
        return format!("{what} needs `{name}`");
    }
    if let Some(name) = in_quotes(message, "unknown field ") {
        return format!("{what} has no `{name}`, expected {expected}; scenarios/README.md lists them");
    }
    let Some(field) = field else { return message.to_owned() };
    if let Some(word) = in_quotes(message, "unknown variant ") {
        return format!("`{field}` must be {expected}, not `{word}`");
    }
    let colon = if message.starts_with("must ") { "" } else { ":" };
    format!("`{field}`{colon} {message}")
}

/// The name in back quotes after `start`.
fn in_quotes<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.strip_prefix('`')?.split('`').next()
}

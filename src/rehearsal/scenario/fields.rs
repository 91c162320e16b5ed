//! A table of a scenario file, taken apart key by key; what nobody asked for at the end is a mistake in the file.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::reader::ScenarioError;

/// The keys of one table that have not been taken yet, and where the table is.
pub(super) struct Fields<'a> {
    /// What the table is, for messages: `a step`.
    what: &'a str,
    place: Place<'a>,
    table: Table,
}

/// A line of a file.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) line: usize,
}

impl Place<'_> {
    pub(super) fn error(self, problem: impl Into<String>) -> ScenarioError {
        ScenarioError { file: self.file.to_owned(), line: self.line, problem: problem.into() }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of(what: &'a str, place: Place<'a>, table: Table) -> Self {
        Self { what, place, table }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> ScenarioError {
        self.place.error(problem)
    }

    /// Refuses what is left.
    pub(super) fn finish(self) -> Result<(), ScenarioError> {
        let left: Vec<_> = self.table.keys().map(|key| format!("`{key}`")).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(self.error(format!("{} has no {}; scenarios/README.md lists what it has", self.what, left.join(", "))))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.table.remove(key)
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, ScenarioError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(format!("`{key}` must be a text"))),
        }
    }

    pub(super) fn required(&mut self, key: &str) -> Result<String, ScenarioError> {
        let missing = format!("{} needs `{key}`", self.what);
        self.text(key)?.ok_or_else(|| self.error(missing))
    }

    pub(super) fn switch(&mut self, key: &str, otherwise: bool) -> Result<bool, ScenarioError> {
        match self.take(key) {
            None => Ok(otherwise),
            Some(Value::Boolean(value)) => Ok(value),
            Some(_) => Err(self.error(format!("`{key}` must be true or false"))),
        }
    }

    pub(super) fn count(&mut self, key: &str, otherwise: usize) -> Result<usize, ScenarioError> {
        match self.take(key) {
            None => Ok(otherwise),
            Some(value) => {
                let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
                number.ok_or_else(|| self.error(format!("`{key}` must be a number, 0 or more")))
            }
        }
    }

    /// A span as people write it: `200ms`, `5s`, `7d`.
    pub(super) fn span(&mut self, key: &str) -> Result<Option<Duration>, ScenarioError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let wrong = |_| self.error(format!("`{key}` must be a span such as 200ms, 5s or 7d"));
        humantime::parse_duration(&text).map(Some).map_err(wrong)
    }

    /// A word of a fixed list.
    pub(super) fn one_of(&mut self, key: &str, words: &[&str]) -> Result<Option<String>, ScenarioError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if words.contains(&text.as_str()) {
            return Ok(Some(text));
        }
        Err(self.error(format!("`{key}` must be one of {}, not `{text}`", words.join(", "))))
    }

    /// A word that one of the sandbox's own types knows.
    pub(super) fn word<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, ScenarioError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let wrong = |error| self.error(format!("`{key}`: {error}"));
        serde_json::from_value(Json::String(text)).map(Some).map_err(wrong)
    }

    pub(super) fn json(&mut self, key: &str) -> Result<Json, ScenarioError> {
        let Some(value) = self.take(key) else { return Ok(Json::Null) };
        serde_json::to_value(value).map_err(|error| self.error(format!("`{key}`: {error}")))
    }

    pub(super) fn table(&mut self, key: &str) -> Result<Table, ScenarioError> {
        match self.take(key) {
            None => Ok(Table::new()),
            Some(Value::Table(table)) => Ok(table),
            Some(_) => Err(self.error(format!("`{key}` must be a table"))),
        }
    }
}

//! What relink says of a link besides its record: what is due, the message that mentioned it, and the link that replaced it.

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::contract::{DueOfLink, Mention, Record, Successor};

/// What an answer over HTTP has besides the record of a link, without what this version cannot read.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// What is due for the link, the next first.
    pub(super) due: Vec<DueOfLink>,
    /// The last message about another link that mentioned this one.
    pub(super) mention: Option<Mention>,
    /// The newer link that replaced this one.
    pub(super) successor: Option<Successor>,
}

impl Beside {
    pub(super) fn of(link: &Value) -> Self {
        let due = link["due"].as_array().into_iter().flatten().filter_map(read).collect();
        let of = |field: &str| link.get(field);
        Self { due, mention: of("last_mention").and_then(read), successor: of("successor").and_then(read) }
    }
}

/// The record, and what stands beside it.
///
/// # Errors
/// A newer relink has written the record.
pub(super) fn record_of(link: &Value) -> anyhow::Result<(Record, Beside)> {
    let record =
        serde_json::from_value(link.clone()).context("this version of relink cannot read the state of the link")?;
    Ok((record, Beside::of(link)))
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

//! The answer to `GET /v1/links/{id}`: the state of a link, and what relink knows besides it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::rfc3339::At;
use super::words::DueWord;
use crate::link::Policy;

/// A link, and when relink next acts on it.
#[derive(Serialize, JsonSchema)]
pub struct ShownLink {
    /// The state of the link.
    #[serde(flatten)]
    pub record: Record,
    /// When relink next does something about the link without a message; absent if it waits for messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<At>,
    /// Everything that is due for the link without a message, the next first; its first time is `due_at`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub due: Vec<DueOfLink>,
}

/// When relink acts on a link without a message, and why. A message in between may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DueOfLink {
    /// The time.
    pub at: At,
    /// What relink does then.
    pub what: DueWord,
}

impl ShownLink {
    /// The link of a record, with what is due for it under this policy. If the record cannot be read as a link, nothing is.
    pub fn of(record: Record, policy: &Policy) -> Self {
        let link = record.link().ok();
        let deadlines = link.iter().flat_map(|link| link.deadlines(policy));
        let mut due: Vec<_> =
            deadlines.map(|deadline| DueOfLink { at: At(deadline.at), what: deadline.name.into() }).collect();
        due.sort_by_key(|due| due.at);
        Self { record, due_at: due.first().map(|due| due.at), due }
    }
}

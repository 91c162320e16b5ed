//! A link in answers over HTTP: its state, and what relink knows besides it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::rfc3339::At;
use super::words::{DueWord, StateWord};
use crate::link::{Link, Policy, StateName, Timestamp};

/// A link, and when relink next acts on it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
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
    /// The last message about another link of the same person that mentioned the open outage of this link, or the end of its consent. A
    /// subscriber that is late has to look at it: the user gets this message too. Only the last message about each of the other links is
    /// known, so a later one that mentions nothing hides an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_mention: Option<Mention>,
    /// The newer link of the same user that replaced this one (`episode.superseded_by`). Absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Successor>,
    /// Since when the institution is down. Then its users can do nothing. Absent if it is not down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub institution_down_since: Option<At>,
}

/// A message about another link of the same person that mentioned a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mention {
    /// When it was sent.
    pub at: At,
    /// The link that it was about.
    pub link_id: String,
    /// When the reminder pause after the message ends. A prompt or a reminder about this link that is due before is not sent, because the
    /// message counts as it, once.
    #[serde(default)]
    pub counts_until: Option<At>,
}

/// The newer link that replaced a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Successor {
    /// Belvo's id of the newer link.
    pub link_id: String,
    /// The state of the newer link now. It worked when it replaced the other one, and may have broken or been removed since then. Absent if
    /// relink does not know that link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateWord>,
}

/// What else is known of a link.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The other links of its person.
    pub others: Vec<Link>,
    /// The state of the newer link that supersedes it, if that one is known.
    pub successor_state: Option<StateName>,
    /// Since when its institution is down.
    pub down_since: Option<Timestamp>,
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
    /// The link of a record, with what is due for it under this policy, and what follows from its surroundings. If the record cannot be read
    /// as a link, nothing is due.
    pub fn of(record: Record, surroundings: &Surroundings, policy: &Policy) -> Self {
        let link = record.link().ok();
        let deadlines = link.iter().flat_map(|link| link.deadlines(policy));
        let mut due: Vec<_> =
            deadlines.map(|deadline| DueOfLink { at: At(deadline.at), what: deadline.name.into() }).collect();
        due.sort_by_key(|due| due.at);
        let last_mention = link.as_ref().and_then(|link| link.last_mention(&surroundings.others));
        let last_mention = last_mention.map(|(at, about)| Mention {
            at: At(at),
            link_id: about.to_string(),
            counts_until: Some(At(at.after(policy.settings().reminder_pause))),
        });
        let institution_down_since = surroundings.down_since.map(At);
        let superseded_by = record.episode.as_ref().and_then(|episode| episode.superseded_by.clone());
        let successor =
            superseded_by.map(|link_id| Successor { link_id, state: surroundings.successor_state.map(Into::into) });
        Self { record, due_at: due.first().map(|due| due.at), due, last_mention, successor, institution_down_since }
    }
}

//! Identifiers, parsed once at the border and trusted afterwards.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest link id accepted, in bytes. Belvo's are UUIDs of 36; the head-room is for test fixtures.
pub const LINK_ID_LENGTH_MAX: usize = 64;

/// Belvo's identifier of a link: one user's connection to one institution.
///
/// Belvo sends UUIDs. Accepted is any text of 1 to 64 of `A–Z a–z 0–9 _ -`: exactly what is safe as one NATS subject
/// token and as a store key. A UUID is lower-cased, so that one link is one subject whatever the sender's spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(Arc<str>);

/// The text cannot be a link id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link id is 1 to 64 letters, digits, `-` or `_` (Belvo's are UUIDs)")]
pub struct NotALinkId;

impl LinkId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkId {
    type Err = NotALinkId;

    fn from_str(text: &str) -> Result<Self, NotALinkId> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > LINK_ID_LENGTH_MAX || !text.bytes().all(safe) {
            return Err(NotALinkId);
        }
        let is_uuid = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
        Ok(Self(if is_uuid { text.to_ascii_lowercase().into() } else { text.into() }))
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which episode of a link: 1 is the first outage relink saw. Shown to people as `<link id>-e<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpisodeNumber(pub u32);

/// What identifies a *fact*, so that a second delivery of it is recognised.
///
/// The rim computes it over everything that names the fact (for a webhook: `webhook_id`, type, code, link, `request_id`
/// and a hash of `data` together, because Belvo nowhere promises that `webhook_id` alone is unique). 64 bits are
/// enough: keys are only compared within one link's last [`super::RECENT_KEYS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_link_id() {
        for good in ["16f68516-bcbc-4cf7-b815-c500d4204e28", "link_1", "A"] {
            assert_eq!(good.parse::<LinkId>().unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a b", "*", ">", "é", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<LinkId>(), Err(NotALinkId), "{bad:?}");
        }
    }

    #[test]
    fn one_uuid_is_one_subject() {
        let upper: LinkId = "16F68516-BCBC-4CF7-B815-C500D4204E28".parse().unwrap();
        assert_eq!(upper.as_str(), "16f68516-bcbc-4cf7-b815-c500d4204e28");
    }
}

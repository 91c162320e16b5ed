//! Identifiers. Each identifier is parsed where it enters the program, so that later code need not check it again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// The longest accepted link id, in bytes. Belvo's ids are UUIDs of 36 bytes; longer ids occur in tests.
pub const LINK_ID_LENGTH_MAX: usize = 64;

/// Belvo's identifier of a link: one user's connection to one institution.
///
/// Belvo's ids are UUIDs. Any text of 1 to 64 characters out of `A–Z a–z 0–9 _ -` is accepted, because such a text is
/// safe as one NATS subject token and as a store key. Blanks around the text are removed.
///
/// A UUID is stored in the form that Belvo sends: lower case, with dashes. The same UUID in upper case, without dashes,
/// in braces or as `urn:uuid:…` (RFC 9562) is read as the same link. A text of 32 hexadecimal digits is therefore
/// always read as a UUID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(Arc<str>);

/// The text is not a link id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link id is 1 to 64 letters, digits, `-` or `_` (Belvo's are UUIDs)")]
pub struct NotALinkId;

impl LinkId {
    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that is this UUID.
    pub fn of_uuid(uuid: Uuid) -> Self {
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*uuid.hyphenated().encode_lower(&mut text)))
    }

    /// The UUID that the id is, if it is one.
    pub fn uuid(&self) -> Option<Uuid> {
        // A UUID has one form only (`FromStr`), and no other text of this length is read as one.
        (self.0.len() == UUID_TEXT_LENGTH).then(|| Uuid::try_parse(&self.0).ok()).flatten()
    }
}

/// The length of a UUID with its dashes, in bytes.
const UUID_TEXT_LENGTH: usize = 36;

impl FromStr for LinkId {
    type Err = NotALinkId;

    fn from_str(text: &str) -> Result<Self, NotALinkId> {
        let text = text.trim();
        // Each message names its link some times, so the form that Belvo sends takes the short way.
        if is_plain_uuid(text) {
            return Ok(Self(text.into()));
        }
        if let Some(uuid) = uuid_of(text) {
            return Ok(Self(uuid.hyphenated().to_string().into()));
        }
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > LINK_ID_LENGTH_MAX || !text.bytes().all(safe) {
            return Err(NotALinkId);
        }
        Ok(Self(text.into()))
    }
}

/// Whether a text is a UUID in lower case, with its dashes.
fn is_plain_uuid(text: &str) -> bool {
    let is_in_place = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _other => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == UUID_TEXT_LENGTH && text.bytes().enumerate().all(is_in_place)
}

/// The UUID in a text, in any of the accepted forms.
fn uuid_of(text: &str) -> Option<Uuid> {
    const URN: &str = "urn:uuid:";
    let bare = match text.get(..URN.len()) {
        Some(start) if start.eq_ignore_ascii_case(URN) => &text[URN.len()..],
        Some(_) | None => text,
    };
    let bare = bare.strip_prefix('{').and_then(|inside| inside.strip_suffix('}')).unwrap_or(bare);
    // Dashes may stand anywhere between 32 hexadecimal digits. Repeated braces or prefixes are not accepted.
    let digits: String = bare.chars().filter(|letter| !matches!(letter, '-' | '_')).take(33).collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_uuid.then(|| Uuid::try_parse(&digits).ok()).flatten()
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

/// The number of an episode of a link, from 1. In messages it is part of the episode id, `<link id>-e<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpisodeNumber(pub u32);

/// Identifies a fact, so that the machine recognises a second message about the same fact.
///
/// The module `belvo` computes it as a hash over the fields that identify the fact. For a webhook these are
/// `webhook_id`, type, code, link, `request_id` and a hash of `data`; Belvo does not promise that `webhook_id` alone is
/// unique. 64 bits are enough, because a key is compared only with the last [`super::RECENT_KEYS_MAX`] keys of one
/// link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_id_is_a_safe_subject_token() {
        for good in ["16f68516-bcbc-4cf7-b815-c500d4204e28", "link_1", "A"] {
            assert_eq!(good.parse::<LinkId>().unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a b", "*", ">", "é", "a\nb", " ", "urn:uuid:", "{}", &"x".repeat(65)] {
            assert_eq!(bad.parse::<LinkId>(), Err(NotALinkId), "{bad:?}");
        }
    }

    #[test]
    fn all_spellings_of_a_uuid_are_one_link() {
        const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
        for spelling in [
            LINK,
            "16F68516-BCBC-4CF7-B815-C500D4204E28",
            "16f68516bcbc4cf7b815c500d4204e28",
            "16F68516BCBC4CF7B815C500D4204E28",
            "{16f68516-bcbc-4cf7-b815-c500d4204e28}",
            "{16F68516BCBC4CF7B815C500D4204E28}",
            "urn:uuid:16f68516-bcbc-4cf7-b815-c500d4204e28",
            "URN:UUID:16f68516bcbc4cf7b815c500d4204e28",
            " 16f68516-bcbc-4cf7-b815-c500d4204e28\r\n",
            "\t{16f68516-bcbc-4cf7-b815-c500d4204e28} ",
        ] {
            assert_eq!(spelling.parse::<LinkId>().unwrap().as_str(), LINK, "{spelling:?}");
        }
        for misplaced in ["16f68516-bcbc4cf7-b815-c500-d4204e28", "16f68516_bcbc_4cf7_b815_c500d4204e28"] {
            assert_eq!(misplaced.parse::<LinkId>().unwrap().as_str(), LINK, "32 digits are a UUID");
        }
        assert_eq!(" link_1 ".parse::<LinkId>().unwrap().as_str(), "link_1");
    }

    #[test]
    fn a_text_that_is_almost_a_uuid_is_kept_or_rejected() {
        for odd in ["16f68516bcbc4cf7b815c500d4204e2", "16f68516bcbc4cf7b815c500d4204e2g"] {
            assert_eq!(odd.parse::<LinkId>().unwrap().as_str(), odd);
        }
        for odd in
            ["{{16f68516-bcbc-4cf7-b815-c500d4204e28}}", "urn:uuid:link_1", "{16f68516-bcbc-4cf7-b815-c500d4204e28"]
        {
            assert_eq!(odd.parse::<LinkId>(), Err(NotALinkId), "{odd}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_id_parses_to_itself(text in "\\PC{0,70}|[0-9a-fA-F]{32}|[0-9A-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}") {
            if let Ok(id) = text.parse::<LinkId>() {
                proptest::prop_assert_eq!(id.as_str().parse::<LinkId>(), Ok(id.clone()));
            }
        }
    }
}

//! Identifiers, parsed once at the border and trusted afterwards.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// The longest link id accepted, in bytes. Belvo's are UUIDs of 36; the head-room is for test fixtures.
pub const LINK_ID_LENGTH_MAX: usize = 64;

/// Belvo's identifier of a link: one user's connection to one institution.
///
/// Belvo sends UUIDs. Accepted is any text of 1 to 64 of `A–Z a–z 0–9 _ -`: exactly what is safe as one NATS subject
/// token and as a store key. Blanks around it do not count.
///
/// A UUID has one spelling here, the one that Belvo sends: small letters, with dashes. Databases and libraries write the
/// same UUID in capitals, without dashes, in braces or as `urn:uuid:…` (RFC 9562); each of these is read as that link. So
/// 32 hexadecimal digits are always a UUID, also where they were made up for a test.
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
        let text = text.trim();
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

/// The UUID that a text spells, whatever the spelling.
fn uuid_of(text: &str) -> Option<Uuid> {
    const URN: &str = "urn:uuid:";
    let bare = match text.get(..URN.len()) {
        Some(start) if start.eq_ignore_ascii_case(URN) => &text[URN.len()..],
        Some(_) | None => text,
    };
    let bare = bare.strip_prefix('{').and_then(|inside| inside.strip_suffix('}')).unwrap_or(bare);
    // 32 hexadecimal digits are a UUID wherever its dashes are; a prefix or braces more than once are no spelling of anybody's.
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
        for bad in ["", "a.b", "a b", "*", ">", "é", "a\nb", " ", "urn:uuid:", "{}", &"x".repeat(65)] {
            assert_eq!(bad.parse::<LinkId>(), Err(NotALinkId), "{bad:?}");
        }
    }

    #[test]
    fn one_uuid_is_one_link() {
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
    fn what_only_looks_like_a_uuid_is_as_it_is() {
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
        fn an_id_is_its_own_spelling(text in "\\PC{0,70}|[0-9a-fA-F]{32}|[0-9A-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}") {
            if let Ok(id) = text.parse::<LinkId>() {
                proptest::prop_assert_eq!(id.as_str().parse::<LinkId>(), Ok(id.clone()));
            }
        }
    }
}

//! The digest of all links: whether a state is missing, without the states themselves.

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::link::LinkId;

/// All links and their versions, as two numbers. Each new state of a link changes both of them in constant time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Digest of links")]
pub struct LinksDigest {
    /// The number of links with a state.
    pub links_count: u64,
    /// The sum over all links of the first 8 bytes of SHA-256 of id and version, modulo 2^64, as 16 hexadecimal digits.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    #[schemars(with = "String")]
    sum: u64,
}

impl LinksDigest {
    /// A digest with this sum, for a store that keeps it in its own format.
    pub const fn of_parts(links_count: u64, sum: u64) -> Self {
        Self { links_count, sum }
    }

    /// The sum.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// Replaces the version of a link; `before` is `None` for a link that is not counted yet.
    pub fn replace(&mut self, id: &LinkId, before: Option<u64>, version: u64) {
        match before {
            Some(before) => self.sum = self.sum.wrapping_sub(term(id, before)),
            None => self.links_count = self.links_count.wrapping_add(1),
        }
        self.sum = self.sum.wrapping_add(term(id, version));
    }

    /// The version among `versions` with which one link explains the difference to `expected`, if the link has the version `found` here.
    pub fn version_instead_of(
        &self,
        expected: &Self,
        id: &LinkId,
        found: u64,
        mut versions: impl Iterator<Item = u64>,
    ) -> Option<u64> {
        if self.links_count != expected.links_count {
            return None;
        }
        let wanted = expected.sum.wrapping_sub(self.sum).wrapping_add(term(id, found));
        versions.find(|version| term(id, *version) == wanted)
    }
}

fn term(id: &LinkId, version: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(version.to_be_bytes());
    hash.update(id.as_str());
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

// A JSON number would lose digits in many languages.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn to_hex<S: Serializer>(sum: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{sum:016x}"))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    u64::from_str_radix(&text, 16).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> LinkId {
        text.parse().unwrap()
    }

    fn digest(links: &[(&str, u64)]) -> LinksDigest {
        let mut digest = LinksDigest::default();
        links.iter().for_each(|(link, version)| digest.replace(&id(link), None, *version));
        digest
    }

    #[test]
    fn the_order_and_the_way_do_not_matter_but_every_version_does() {
        let mut stepped = digest(&[("b", 1), ("a", 1)]);
        stepped.replace(&id("a"), Some(1), 2);
        assert_eq!(stepped, digest(&[("a", 2), ("b", 1)]));
        for other in [&[("a", 1), ("b", 2)][..], &[("a", 3)], &[("a", 2), ("b", 1), ("c", 1)], &[("a", 2), ("c", 1)]] {
            assert_ne!(stepped, digest(other), "{other:?}");
        }
    }

    #[test]
    fn one_lost_state_is_found() {
        let (expected, found) = (digest(&[("a", 7), ("b", 3)]), digest(&[("a", 5), ("b", 3)]));
        assert_eq!(found.version_instead_of(&expected, &id("a"), 5, 6..20), Some(7));
        assert_eq!(found.version_instead_of(&expected, &id("b"), 3, 4..20), None);
        assert_eq!(digest(&[("b", 3)]).version_instead_of(&expected, &id("b"), 3, 4..20), None, "a lost link");
    }

    #[test]
    fn the_format_is_fixed() {
        let json = serde_json::to_string(&digest(&[("a", 1)])).unwrap();
        assert_eq!(json, r#"{"links_count":1,"sum":"3b196fd4907bedf5"}"#);
        assert_eq!(serde_json::from_str::<LinksDigest>(&json).unwrap(), digest(&[("a", 1)]));
    }
}

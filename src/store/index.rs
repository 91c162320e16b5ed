//! The indexes of links: the keys that a link has in them, and the keys that answer a query.
//!
//! A *group* has the links of an institution, of an external id, or of both. A link is in at most three groups. The keys of a group are
//! ordered by state and then by link, so a query with a state reads one range, and a query without a state merges the ranges of the six
//! states. Every combination of filters is answered like this, and a page reads no link that is not on it.
//!
//! A key has the hash of a name, because a name may have 4 KiB and any character. The hash has 96 bits, so nobody can find another name
//! with the same hash.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use strum::VariantArray;

use super::format::{self, DEADLINE_PREFIX, GROUP_PREFIX, Head, LINK_PREFIX, STATE_PREFIX};
use super::{Query, StoreError};
use crate::contract::Record;
use crate::link::{LinkId, StateName};

/// The length of the hash of a name, in bytes.
const HASH_LENGTH: usize = 12;

/// The length of encoded [`Labels`], in bytes.
pub(super) const LABELS_LENGTH: usize = 2 * HASH_LENGTH;

/// The hash of the name of a group; zeros for no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupHash([u8; HASH_LENGTH]);

impl GroupHash {
    const NONE: Self = Self([0; HASH_LENGTH]);

    fn of(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind);
        parts.iter().for_each(|part| hash.update(part));
        let [start @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            <[u8; 32]>::from(hash.finalize());
        Self(start)
    }

    pub(super) fn of_institution(name: &str) -> Self {
        Self::of("institution:", &[name.as_bytes()])
    }

    fn of_external_id(name: &str) -> Self {
        Self::of("external_id:", &[name.as_bytes()])
    }

    fn of_both(institution: Self, external_id: Self) -> Self {
        Self::of("both:", &[&institution.0, &external_id.0])
    }

    fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// The names of a record that have an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Names {
    #[serde(default)]
    pub(super) institution: Option<String>,
    #[serde(default)]
    pub(super) external_id: Option<String>,
}

impl Names {
    /// The names in the JSON of a record. A record that cannot be read has none, as if it were not repaired (`Record::repair`).
    pub(super) fn read(record: &[u8]) -> Self {
        // Only these two fields are parsed, which takes a tenth of the time of the whole record.
        serde_json::from_slice(record).unwrap_or_else(|_| {
            let repaired = Record::repair(record).map(|repaired| repaired.record);
            repaired.map_or_else(
                |_| Self::default(),
                |Record { institution, external_id, .. }| Self { institution, external_id },
            )
        })
    }
}

/// The hashes of the names of a link. They are part of the stored link, so that its index keys follow without parsing its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) institution: GroupHash,
    external_id: GroupHash,
}

impl Labels {
    pub(super) fn of(names: &Names) -> Self {
        let Names { institution, external_id } = names;
        Self {
            institution: institution.as_deref().map_or(GroupHash::NONE, GroupHash::of_institution),
            external_id: external_id.as_deref().map_or(GroupHash::NONE, GroupHash::of_external_id),
        }
    }

    /// The institution, if the link has one.
    pub(super) fn institution(&self) -> Option<GroupHash> {
        Some(self.institution).filter(|hash| hash.is_some())
    }

    pub(super) fn encode(&self) -> [u8; LABELS_LENGTH] {
        let mut bytes = [0; LABELS_LENGTH];
        let (institution, external_id) = bytes.split_at_mut(HASH_LENGTH);
        institution.copy_from_slice(&self.institution.0);
        external_id.copy_from_slice(&self.external_id.0);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; LABELS_LENGTH]) -> Self {
        let hash = |from| GroupHash(std::array::from_fn(|n| bytes[from + n]));
        Self { institution: hash(0), external_id: hash(HASH_LENGTH) }
    }

    /// The most specific group of these labels; `None` if both are missing.
    fn group(&self) -> Option<GroupHash> {
        match (self.institution.is_some(), self.external_id.is_some()) {
            (true, true) => Some(GroupHash::of_both(self.institution, self.external_id)),
            (true, false) => Some(self.institution),
            (false, true) => Some(self.external_id),
            (false, false) => None,
        }
    }

    fn groups(&self) -> impl Iterator<Item = GroupHash> {
        let both = (self.institution.is_some() && self.external_id.is_some()).then(|| self.group()).flatten();
        [self.institution, self.external_id].into_iter().filter(|hash| hash.is_some()).chain(both)
    }
}

/// The prefixes of index keys, in order.
pub(super) const PREFIXES: [&[u8]; 3] = [DEADLINE_PREFIX, GROUP_PREFIX, STATE_PREFIX];

pub(super) fn is_key(key: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Every index key of a link.
pub(super) fn keys(id: &LinkId, head: &Head, labels: &Labels) -> Vec<Vec<u8>> {
    let mut keys = Vec::with_capacity(5);
    keys.push(format::state_key(head.state, id));
    keys.extend(head.deadline.map(|at| format::deadline_key(at, id)));
    keys.extend(labels.groups().map(|group| [&group_prefix(group, head.state), id.as_str().as_bytes()].concat()));
    keys
}

fn group_prefix(group: GroupHash, state: StateName) -> Vec<u8> {
    [GROUP_PREFIX, &group.0, &[format::state_byte(state)]].concat()
}

/// The links of a query: key prefixes that a link id follows, and a check of a link.
#[derive(Debug)]
pub(super) struct Wanted {
    /// One prefix, or one of each state.
    pub(super) prefixes: Vec<Vec<u8>>,
    labels: Labels,
    state: Option<StateName>,
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Self {
        let names = Names { institution: query.institution.clone(), external_id: query.external_id.clone() };
        let (labels, state) = (Labels::of(&names), query.state);
        let prefixes = match (labels.group(), state) {
            (None, None) => vec![LINK_PREFIX.to_vec()],
            (None, Some(state)) => vec![format::state_prefix(state)],
            (Some(group), Some(state)) => vec![group_prefix(group, state)],
            (Some(group), None) => StateName::VARIANTS.iter().map(|&state| group_prefix(group, state)).collect(),
        };
        Self { prefixes, labels, state }
    }

    /// Whether the ids of several ranges are merged. Then a link that changes its state during the read could be missed.
    pub(super) fn is_merged(&self) -> bool {
        self.prefixes.len() > 1
    }

    /// Whether the query reads more than the links themselves.
    pub(super) fn needs_index(&self) -> bool {
        self.prefixes[0] != LINK_PREFIX
    }

    /// Whether a link still belongs to the query. It may have changed after its index key was read.
    pub(super) fn has(&self, head: &Head, labels: &Labels) -> bool {
        let is_of = |wanted: GroupHash, found: GroupHash| !wanted.is_some() || wanted == found;
        self.state.is_none_or(|state| state == head.state)
            && is_of(self.labels.institution, labels.institution)
            && is_of(self.labels.external_id, labels.external_id)
    }

    /// The next ids after `after`, in order, at most `count`. `scan` gives the keys from a key on.
    ///
    /// # Errors
    /// The error of `scan`.
    pub(super) fn ids<I: Iterator<Item = Result<Vec<u8>, StoreError>>>(
        &self,
        after: Option<&[u8]>,
        count: usize,
        scan: impl Fn(Vec<u8>) -> I,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut ranges = Vec::with_capacity(self.prefixes.len());
        for prefix in &self.prefixes {
            // The first key after this one.
            let start = after.map_or_else(|| prefix.clone(), |after| [prefix, after, &[0]].concat());
            ranges.extend(Range::start(prefix, scan(start))?);
        }
        let mut ids: Vec<Vec<u8>> = Vec::new();
        while ids.len() < count
            && let Some(first) = (0..ranges.len()).min_by(|&one, &other| ranges[one].id.cmp(&ranges[other].id))
        {
            let id = match ranges[first].advance()? {
                Some(id) => id,
                None => ranges.swap_remove(first).id,
            };
            // A link that has just changed its state may be in two ranges.
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

/// The rest of the keys with a prefix, of which the first one is read.
struct Range<'a, I> {
    prefix: &'a [u8],
    id: Vec<u8>,
    keys: I,
}

impl<'a, I: Iterator<Item = Result<Vec<u8>, StoreError>>> Range<'a, I> {
    fn start(prefix: &'a [u8], mut keys: I) -> Result<Option<Self>, StoreError> {
        let id = next_id(prefix, &mut keys)?;
        Ok(id.map(|id| Self { prefix, id, keys }))
    }

    /// The id, replaced by the next one; `None` if this is the last id.
    fn advance(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let next = next_id(self.prefix, &mut self.keys)?;
        Ok(next.map(|next| std::mem::replace(&mut self.id, next)))
    }
}

fn next_id(
    prefix: &[u8],
    keys: &mut impl Iterator<Item = Result<Vec<u8>, StoreError>>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let key = keys.next().transpose()?;
    Ok(key.and_then(|key| key.strip_prefix(prefix).map(<[u8]>::to_vec)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(institution: Option<&str>, external_id: Option<&str>) -> Names {
        Names { institution: institution.map(str::to_owned), external_id: external_id.map(str::to_owned) }
    }

    #[test]
    fn names_are_read_from_any_record() {
        let read = |json: &str| Names::read(json.as_bytes());
        assert_eq!(read(r#"{"institution":"erebor","external_id":null,"x":[1]}"#), names(Some("erebor"), None));
        assert_eq!(read(r#"{"institution":7}"#), names(None, None));
        assert_eq!(read("  "), names(None, None));
    }

    #[test]
    fn the_groups_of_different_names_differ() {
        let all = [
            (Some("a"), None),
            (None, Some("a")),
            (Some("a"), Some("a")),
            (Some("a"), Some("b")),
            (Some("b"), Some("a")),
            (Some(""), None),
            (None, Some("")),
        ];
        let mut groups: Vec<_> = all.iter().map(|&(one, other)| Labels::of(&names(one, other)).group()).collect();
        assert!(groups.iter().all(Option::is_some));
        groups.sort();
        groups.dedup();
        assert_eq!(groups.len(), all.len());
        let labels = Labels::of(&names(Some("a"), Some("b")));
        assert_eq!((Labels::decode(&labels.encode()), labels.groups().count()), (labels, 3));
    }
}

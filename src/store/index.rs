//! The indexes of links: the keys that a link has in them, and the keys that answer a query.
//!
//! Three indexes answer every list. The first is ordered by state, institution and link; the second, for links with an external id, by
//! external id, state, institution and link; the third does the same for Belvo's key of a user at an institution. A query with a state
//! and an institution reads one range of keys. Any other query merges ranges: those of the six states, and those of the institutions,
//! which one read for each institution finds. Every combination of filters is answered like this, and a page reads no link that is not on
//! it (but a query with both an external id and a user reads all links of the user). Further indexes would save the merge, but each key
//! of a link makes rebuilds and commits slower. A person or a user seldom has more than a few links, so their keys are all read first, and
//! merged only if there are many.
//!
//! A key has the hash of a name, because a name may have 4 KiB and any character. The hash has 96 bits, so nobody can find another name
//! with the same hash.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use strum::VariantArray;

use super::format::{self, DEADLINE_PREFIX, EXTERNAL_ID_PREFIX, Head, LINK_PREFIX, STATE_PREFIX, USER_PREFIX};
use super::{Query, StoreError};
use crate::contract::Record;
use crate::link::{LinkId, Profile, StateName};

/// The length of the hash of a name, in bytes.
pub(super) const HASH_LENGTH: usize = 12;

/// The hash of a name; zeros for no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NameHash([u8; HASH_LENGTH]);

impl NameHash {
    const NONE: Self = Self([0; HASH_LENGTH]);

    fn of(kind: &str, name: &str) -> Self {
        let hash = Sha256::new().chain_update(kind).chain_update(name);
        let [start @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            <[u8; 32]>::from(hash.finalize());
        Self(start)
    }

    pub(super) fn of_institution(name: &str) -> Self {
        Self::of("institution:", name)
    }

    fn of_external_id(name: &str) -> Self {
        Self::of("external_id:", name)
    }

    fn of_user(name: &str) -> Self {
        Self::of("institution_user_id:", name)
    }

    fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// The names of a record that have an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Names {
    /// The name of the institution.
    #[serde(default)]
    pub institution: Option<String>,
    /// The customer's own id of the link or of its user.
    #[serde(default)]
    pub external_id: Option<String>,
    /// Belvo's key of the user at the institution.
    #[serde(default)]
    pub institution_user_id: Option<String>,
}

impl Names {
    /// The names of a link. Its record has the same.
    pub fn of(profile: &Profile) -> Self {
        Self {
            institution: profile.institution.clone(),
            external_id: profile.external_id.clone(),
            institution_user_id: profile.institution_user_id.clone(),
        }
    }

    /// The names in the JSON of a record. A record that cannot be read has none, as if it were not repaired (`Record::repair`).
    pub(super) fn read(record: &[u8]) -> Self {
        // Only these three fields are parsed, which takes a tenth of the time of the whole record.
        serde_json::from_slice(record).unwrap_or_else(|_| {
            let repaired = Record::repair(record).map(|repaired| repaired.record);
            repaired.map_or_else(
                |_| Self::default(),
                |Record { institution, external_id, institution_user_id, .. }| Self {
                    institution,
                    external_id,
                    institution_user_id,
                },
            )
        })
    }
}

/// The hashes of the names of a link. They are part of the stored link, so that its index keys follow without parsing its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) institution: NameHash,
    external_id: NameHash,
    user: NameHash,
}

impl Labels {
    pub(super) fn of(names: &Names) -> Self {
        let Names { institution, external_id, institution_user_id } = names;
        Self {
            institution: institution.as_deref().map_or(NameHash::NONE, NameHash::of_institution),
            external_id: external_id.as_deref().map_or(NameHash::NONE, NameHash::of_external_id),
            user: institution_user_id.as_deref().map_or(NameHash::NONE, NameHash::of_user),
        }
    }

    /// The institution, if the link has one.
    pub(super) fn institution(&self) -> Option<NameHash> {
        Some(self.institution).filter(|hash| hash.is_some())
    }

    const fn hashes(&self) -> [NameHash; 3] {
        [self.institution, self.external_id, self.user]
    }

    /// A bit for each hash that [`Self::encode`] writes.
    pub(super) fn flags(&self) -> u8 {
        let bits = self.hashes().into_iter().enumerate();
        bits.map(|(place, hash)| u8::from(hash.is_some()) << place).sum()
    }

    /// Writes the hashes of the names that the link has.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let hashes = self.hashes().into_iter().filter(|hash| hash.is_some());
        hashes.for_each(|NameHash(hash)| bytes.extend_from_slice(&hash));
    }

    /// Reads the labels with these flags at the beginning of some bytes. Returns the rest of the bytes too.
    pub(super) fn decode(flags: u8, mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut hashes = [NameHash::NONE; 3];
        for (_, hash) in hashes.iter_mut().enumerate().filter(|(place, _)| flags >> place & 1 != 0) {
            let (found, rest) = bytes.split_first_chunk::<HASH_LENGTH>()?;
            (*hash, bytes) = (NameHash(*found), rest);
        }
        let [institution, external_id, user] = hashes;
        Some((Self { institution, external_id, user }, bytes))
    }
}

/// The prefixes of index keys, in order.
pub(super) const PREFIXES: [&[u8]; 4] = [DEADLINE_PREFIX, EXTERNAL_ID_PREFIX, STATE_PREFIX, USER_PREFIX];

pub(super) fn is_key(key: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Every index key of a link.
pub(super) fn keys(id: &LinkId, head: &Head, labels: &Labels) -> Vec<Vec<u8>> {
    let Labels { institution, external_id, user } = labels;
    let id = format::id_key(id);
    let of_list = |prefix: &[u8]| [prefix, &institution.0, &id].concat();
    let mut keys = Vec::with_capacity(4);
    keys.push(of_list(&format::state_prefix(head.state)));
    keys.extend(head.deadline.map(|at| format::deadline_key(at, &id)));
    keys.extend(external_id.is_some().then(|| of_list(&name_prefix(EXTERNAL_ID_PREFIX, *external_id, head.state))));
    keys.extend(user.is_some().then(|| of_list(&name_prefix(USER_PREFIX, *user, head.state))));
    keys
}

fn name_prefix(prefix: &[u8], name: NameHash, state: StateName) -> Vec<u8> {
    [prefix, &name.0, &[format::state_byte(state)]].concat()
}

/// Up to so many keys of a person or a user are read at once.
const FEW_MAX: usize = 16;

/// The links of a query: the key prefixes that have them, and a check of a link.
#[derive(Debug)]
pub(super) struct Wanted {
    /// One prefix, or one of each state.
    prefixes: Vec<Vec<u8>>,
    /// Whether the hash of any institution follows a prefix, and then a link id; otherwise the link id follows.
    is_of_all_institutions: bool,
    /// The prefix of all keys of the person or the user, in every state.
    of_name: Option<Vec<u8>>,
    labels: Labels,
    state: Option<StateName>,
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Self {
        let names = Names {
            institution: query.institution.clone(),
            external_id: query.external_id.clone(),
            institution_user_id: query.institution_user_id.clone(),
        };
        let (labels, state) = (Labels::of(&names), query.state);
        let Labels { institution, external_id, user } = labels;
        if names == Names::default() && state.is_none() {
            let prefixes = vec![LINK_PREFIX.to_vec()];
            return Self { prefixes, is_of_all_institutions: false, of_name: None, labels, state };
        }
        let of_name = match (user.is_some(), external_id.is_some()) {
            (true, _) => Some([USER_PREFIX, &user.0].concat()),
            (false, true) => Some([EXTERNAL_ID_PREFIX, &external_id.0].concat()),
            (false, false) => None,
        };
        let prefix = |state| {
            let mut prefix = of_name.as_ref().map_or_else(
                || format::state_prefix(state),
                |of_name| [&of_name[..], &[format::state_byte(state)]].concat(),
            );
            prefix.extend(institution.is_some().then_some(institution.0).into_iter().flatten());
            prefix
        };
        let prefixes = state
            .map_or_else(|| StateName::VARIANTS.iter().copied().map(prefix).collect(), |state| vec![prefix(state)]);
        Self { prefixes, is_of_all_institutions: !institution.is_some(), of_name, labels, state }
    }

    /// Whether the ids of several ranges are merged. Then a link that changes its state during the read could be missed.
    pub(super) fn is_merged(&self) -> bool {
        self.prefixes.len() > 1 || self.is_of_all_institutions
    }

    /// Whether a link still belongs to the query. It may have changed after its index key was read.
    pub(super) fn has(&self, head: &Head, labels: &Labels) -> bool {
        let is_of = |wanted: NameHash, found: NameHash| !wanted.is_some() || wanted == found;
        self.state.is_none_or(|state| state == head.state)
            && is_of(self.labels.institution, labels.institution)
            && is_of(self.labels.external_id, labels.external_id)
            && is_of(self.labels.user, labels.user)
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
        if let Some(ids) = self.few(after, count, &scan)? {
            return Ok(ids);
        }
        let prefixes = if self.is_of_all_institutions { self.of_institutions(&scan)? } else { self.prefixes.clone() };
        // The next id of each range, of which the first one is the next id of the query.
        let (mut ranges, mut next) = (Vec::with_capacity(prefixes.len()), BinaryHeap::with_capacity(prefixes.len()));
        for prefix in &prefixes {
            // The first key after this one.
            let start = after.map_or_else(|| prefix.clone(), |after| [prefix, after, &[0]].concat());
            let mut keys = scan(start);
            next.extend(next_id(prefix, &mut keys)?.map(|id| Reverse((id, ranges.len()))));
            ranges.push(keys);
        }
        let mut ids: Vec<Vec<u8>> = Vec::new();
        while ids.len() < count
            && let Some(Reverse((id, range))) = next.pop()
        {
            next.extend(next_id(&prefixes[range], &mut ranges[range])?.map(|id| Reverse((id, range))));
            // A link that has just changed its state may be in two ranges.
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// As [`Self::ids`], if the person or the user has few links.
    fn few<I: Iterator<Item = Result<Vec<u8>, StoreError>>>(
        &self,
        after: Option<&[u8]>,
        count: usize,
        scan: impl Fn(Vec<u8>) -> I,
    ) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let Some(of_name) = self.of_name.as_ref().filter(|_| self.is_merged()) else { return Ok(None) };
        let (mut keys, mut ids) = (scan(of_name.clone()), Vec::new());
        for read_count in 0.. {
            let key = keys.next().transpose()?;
            let Some(key) = key.filter(|key| key.starts_with(of_name)) else { break };
            if read_count == FEW_MAX {
                return Ok(None);
            }
            let of_range = self.prefixes.iter().find_map(|prefix| key.strip_prefix(&prefix[..]));
            let skipped = if self.is_of_all_institutions { HASH_LENGTH } else { 0 };
            let id = of_range.and_then(|rest| rest.get(skipped..));
            ids.extend(id.filter(|id| after.is_none_or(|after| *id > after)).map(<[u8]>::to_vec));
        }
        ids.sort_unstable();
        // A link that has just changed its state may have two keys.
        ids.dedup();
        ids.truncate(count);
        Ok(Some(ids))
    }

    /// The prefixes with each institution that has keys.
    fn of_institutions<I: Iterator<Item = Result<Vec<u8>, StoreError>>>(
        &self,
        scan: impl Fn(Vec<u8>) -> I,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut found = Vec::new();
        for prefix in &self.prefixes {
            let mut start = prefix.clone();
            while let Some(key) = scan(start).next().transpose()?
                && key.starts_with(prefix)
                && let Some(of_institution) = key.get(..prefix.len() + HASH_LENGTH)
            {
                // No id in a key begins with this byte, so the next institution follows.
                start = [of_institution, &[u8::MAX]].concat();
                found.push(of_institution.to_vec());
            }
        }
        Ok(found)
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
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn names(institution: Option<&str>, external_id: Option<&str>) -> Names {
        let (institution, external_id) = (institution.map(str::to_owned), external_id.map(str::to_owned));
        Names { institution, external_id, institution_user_id: None }
    }

    #[test]
    fn names_are_read_from_any_record() {
        let read = |json: &str| Names::read(json.as_bytes());
        assert_eq!(read(r#"{"institution":"erebor","external_id":null,"x":[1]}"#), names(Some("erebor"), None));
        assert_eq!(read(r#"{"institution":7}"#), names(None, None));
        assert_eq!(read("  "), names(None, None));
    }

    #[test]
    fn the_keys_of_different_names_differ() {
        let all = [
            (None, None),
            (Some("a"), None),
            (None, Some("a")),
            (Some("a"), Some("a")),
            (Some("a"), Some("b")),
            (Some("b"), Some("a")),
            (Some(""), None),
            (None, Some("")),
        ];
        let id = "16f68516-bcbc-4cf7-b815-c500d4204e28".parse().unwrap();
        let head = Head { state: StateName::Valid, partition: 0, version: 1, deadline: None };
        let mut found: Vec<_> = all.iter().map(|&(one, other)| Labels::of(&names(one, other))).collect();
        for labels in &found {
            let mut encoded = Vec::new();
            labels.encode(&mut encoded);
            encoded.push(7);
            assert_eq!(Labels::decode(labels.flags(), &encoded), Some((*labels, &[7][..])));
        }
        let mut keys: Vec<_> = found.drain(..).map(|labels| keys(&id, &head, &labels)).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all.len());
    }

    proptest! {
        /// The keys of a name are read at once if they are few, and merged if they are many.
        #[test]
        fn few_and_many_links_of_a_person_are_found_in_order(
            links in prop::collection::btree_map(0..3_000_u16, (0..4_usize, prop::sample::select(StateName::VARIANTS)), 0..3 * FEW_MAX),
            bank in prop::option::of(0..4_usize),
            after in prop::option::of(0..3_000_u16),
            count in 1..2 * FEW_MAX,
        ) {
            let key = |link: u16| format!("\x01link-{link:04}").into_bytes();
            let of_link = |(link, (bank, state)): (&u16, &(usize, StateName))| {
                let labels = Labels::of(&names(Some(&format!("bank-{bank}")), Some("maria")));
                let head = Head { state: *state, partition: 0, version: 1, deadline: None };
                keys(&format!("link-{link:04}").parse().unwrap(), &head, &labels)
            };
            let tree: BTreeSet<_> = links.iter().flat_map(of_link).collect();
            let scan = |start: Vec<u8>| tree.range(start..).cloned().map(Ok);
            let institution = bank.map(|bank| format!("bank-{bank}"));
            let query = Query { external_id: Some("maria".to_owned()), institution, limit: count, ..Query::default() };
            let found = Wanted::of(&query).ids(after.map(key).as_deref(), count, scan).unwrap();
            let is_wanted = |&(link, (of, _)): &(&u16, &(usize, StateName))| {
                bank.is_none_or(|bank| *of == bank) && after.is_none_or(|after| *link > after)
            };
            let expected: Vec<_> = links.iter().filter(is_wanted).map(|(link, _)| key(*link)).take(count).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_list_of_all_institutions_reads_one_key_more_for_each_of_them() {
        let of_bank = |bank: usize, link: usize| {
            let labels = Labels::of(&names(Some(&format!("bank-{bank}")), Some("maria")));
            let head = Head { state: StateName::VARIANTS[bank % 2], partition: 0, version: 1, deadline: None };
            keys(&format!("link-{link:04}").parse().unwrap(), &head, &labels)
        };
        let tree: BTreeSet<_> = (0..1_000).flat_map(|link| of_bank(link % 10, link)).collect();
        let reads_count = Cell::new(0);
        let scan =
            |start: Vec<u8>| tree.range(start..).inspect(|_| reads_count.set(reads_count.get() + 1)).cloned().map(Ok);
        let query = Query { external_id: Some("maria".to_owned()), limit: 20, ..Query::default() };
        let ids = Wanted::of(&query).ids(Some(b"\x01link-0099"), 20, scan).unwrap();
        let expected: Vec<_> = (100..120).map(|link| format!("\x01link-{link:04}").into_bytes()).collect();
        assert_eq!(ids, expected);
        // The keys that show that there are many; one key behind each of the six states, two of each institution, and one for each id.
        assert!(reads_count.get() <= FEW_MAX + 1 + 6 + 2 * 10 + 20, "{reads_count:?}");
    }
}

//! A scan of all entries: whether the store has what was written to it, and whether its indexes and counts follow from its links.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::StoreError;
use super::content::{Content, unseal};
use super::counts::{StateCounts, decode_institution};
use super::format::{
    self, CONTENT_KEY, DEADLINE_PREFIX, FORMAT_KEY, INCIDENT_PREFIX, INSTITUTION_PREFIX, LINK_PREFIX, OFFSET_PREFIX,
    POSITION_KEY, STATE_PREFIX, StoredLink,
};
use super::index::{self, NameHash};
use crate::link::Timestamp;

/// The entries that a scan has found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    found: Content,
    index_found: IndexSum,
    index_expected: IndexSum,
    institutions_found: Institutions,
    institutions_expected: Institutions,
}

/// The counts of each institution with links.
type Institutions = BTreeMap<NameHash, StateCounts>;

/// A sum over index keys. Both sums of a scan are made in one process, so the hash need not be the same in every version.
#[derive(Debug, Default, PartialEq, Eq)]
struct IndexSum {
    keys_count: u64,
    sum: u64,
}

impl IndexSum {
    fn add(&mut self, key: &[u8]) {
        self.keys_count = self.keys_count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key));
    }

    fn remove(&mut self, key: &[u8]) {
        self.keys_count = self.keys_count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key));
    }

    fn join(&mut self, other: &Self) {
        self.keys_count = self.keys_count.wrapping_add(other.keys_count);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    key.hash(&mut hash);
    hash.finish()
}

/// A check of the indexes of an open store, in steps, while commits change them.
#[derive(Debug)]
pub(super) struct IndexCheck {
    expected: IndexSum,
    found: IndexSum,
    /// Every key before this one has been read.
    pub(super) next: Vec<u8>,
}

impl IndexCheck {
    /// Takes the next key.
    pub(super) fn take(&mut self, key: &[u8]) {
        self.found.add(key);
        self.next.clear();
        self.next.extend_from_slice(key);
        self.next.push(0);
    }

    /// A commit adds an index key, or removes one.
    pub(super) fn changed(&mut self, key: &[u8], is_added: bool) {
        let change = if is_added { IndexSum::add } else { IndexSum::remove };
        change(&mut self.expected, key);
        if *key < self.next[..] {
            change(&mut self.found, key);
        }
    }

    /// Ends the check, when every key has been read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if keys of the indexes are missing, or too many.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        check_index(&self.found, &self.expected)
    }
}

impl Scan {
    /// Takes the next entry of the store. The order of the entries does not matter.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the entry is not as it was written.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if key == FORMAT_KEY || key == CONTENT_KEY {
            return Ok(());
        }
        if index::is_key(key) {
            self.index_found.add(key);
            return Ok(());
        }
        check_known(key)?;
        let payload = unseal(key, value)?;
        if let Some(id) = key.strip_prefix(LINK_PREFIX) {
            let id = format::parse_link_id(id).ok_or_else(no_link_id)?;
            let decoded = format::decode_head(key, payload);
            let (head, labels) = decoded.map_err(|error| StoreError::Damaged(error.to_string()))?;
            self.found.links.replace(&id, None, head.version);
            self.found.by_state.add(head.state, 1)?;
            if let Some(institution) = labels.institution() {
                self.institutions_expected.entry(institution).or_default().add(head.state, 1)?;
            }
            index::keys(&id, &head, &labels).iter().for_each(|key| self.index_expected.add(key));
        } else if let Some(name) = key.strip_prefix(INSTITUTION_PREFIX) {
            let (name, counts) = decode_institution(name, payload)?;
            // A count of an institution stays when the last link has left it.
            if counts.sum() > 0 {
                self.institutions_found.insert(NameHash::of_institution(name), counts);
            }
        }
        self.found.add(key, value);
        Ok(())
    }

    /// Adds the result of a scan of other entries.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the sum of two counts is too large.
    pub(super) fn join(&mut self, other: Self) -> Result<(), StoreError> {
        let Self { found, index_found, index_expected, institutions_found, institutions_expected } = other;
        self.found.join(&found)?;
        self.index_found.join(&index_found);
        self.index_expected.join(&index_expected);
        self.institutions_found.extend(institutions_found);
        for (institution, counts) in institutions_expected {
            self.institutions_expected.entry(institution).or_default().join(&counts)?;
        }
        Ok(())
    }

    /// Ends a scan of a whole store, or of all entries but the indexes. `recorded` is the store's own record of its content. Returns the
    /// check of the indexes that is left, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if entries are missing, old, or too many.
    pub(super) fn end(self, recorded: &Content, has_indexes: bool) -> Result<Option<IndexCheck>, StoreError> {
        let Self { mut found, index_found, index_expected, institutions_found, institutions_expected } = self;
        found.is_complete = recorded.is_complete;
        check_content(&found, recorded)?;
        if institutions_found != institutions_expected {
            return Err(StoreError::Damaged("the counts of its institutions do not fit its links".to_owned()));
        }
        let check = IndexCheck { expected: index_expected, found: index_found, next: Vec::new() };
        if has_indexes { check.end().map(|()| None) } else { Ok(Some(check)) }
    }
}

/// A scan of a store of formats 1 to 3: whether its indexes fit its links. Format 3 also has a checksum of each value, and the sum of them.
#[derive(Debug)]
pub(super) struct LegacyScan {
    is_sealed: bool,
    found: Content,
    index_found: IndexSum,
    index_expected: IndexSum,
}

impl LegacyScan {
    pub(super) fn new(is_sealed: bool) -> Self {
        let (index_found, index_expected) = (IndexSum::default(), IndexSum::default());
        Self { is_sealed, found: Content::default(), index_found, index_expected }
    }

    /// Takes the next entry of the store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the entry is none of relink's, or not as it was written.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if key == FORMAT_KEY || (self.is_sealed && key == CONTENT_KEY) {
            return Ok(());
        }
        if key.starts_with(STATE_PREFIX) || key.starts_with(DEADLINE_PREFIX) {
            self.index_found.add(key);
            return Ok(());
        }
        check_known(key)?;
        let payload = if self.is_sealed { unseal(key, value)? } else { value };
        if let Some(id) = key.strip_prefix(LINK_PREFIX) {
            let id = format::parse_legacy_link_id(id).filter(|parsed| parsed.as_str().as_bytes() == id);
            let id = id.ok_or_else(no_link_id)?;
            let decoded = format::decode_legacy_link(key, payload);
            let StoredLink { head, .. } = decoded.map_err(|error| StoreError::Damaged(error.to_string()))?;
            self.index_expected.add(&format::legacy_state_key(head.state, &id));
            let deadline_key = |at: Timestamp| format::deadline_key(at, id.as_str().as_bytes());
            head.deadline.iter().for_each(|at| self.index_expected.add(&deadline_key(*at)));
            self.found.links.replace(&id, None, head.version);
        }
        if self.is_sealed {
            self.found.add(key, value);
        }
        Ok(())
    }

    /// Ends a scan of a whole store, and returns its content. `recorded` is the store's own record of it, which formats 1 and 2 do not have.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if entries or keys of the indexes are missing, old, or too many.
    pub(super) fn end(self, recorded: Option<&Content>) -> Result<Content, StoreError> {
        // Formats 1 and 2 did not record whether the store was complete.
        let is_complete = recorded.is_none_or(|recorded| recorded.is_complete);
        let found = Content { is_complete, ..self.found };
        recorded.map_or(Ok(()), |recorded| check_content(&found, recorded))?;
        check_index(&self.index_found, &self.index_expected)?;
        Ok(found)
    }
}

fn check_content(found: &Content, recorded: &Content) -> Result<(), StoreError> {
    if found == recorded {
        return Ok(());
    }
    let (found, recorded) = (found.entries_count, recorded.entries_count);
    Err(StoreError::Damaged(format!("entries are missing or old: {found} were found, {recorded} were written")))
}

fn check_known(key: &[u8]) -> Result<(), StoreError> {
    let prefixes = [LINK_PREFIX, INCIDENT_PREFIX, OFFSET_PREFIX, INSTITUTION_PREFIX];
    if prefixes.iter().any(|prefix| key.starts_with(prefix)) || key == POSITION_KEY {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("it has an unknown key: {}", key.escape_ascii())))
}

fn check_index(found: &IndexSum, expected: &IndexSum) -> Result<(), StoreError> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.keys_count, expected.keys_count);
    Err(StoreError::Damaged(format!("its indexes have {found} keys and do not fit its links ({expected})")))
}

fn no_link_id() -> StoreError {
    StoreError::Damaged("a key has no link id, or another spelling of one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::content::seal;

    #[test]
    fn a_missing_and_an_old_entry_are_noticed() {
        let (one, other, old) = (seal(b"ia", b"1"), seal(b"ib", b"2"), seal(b"ib", b"0"));
        let mut written = Content { is_complete: true, ..Content::default() };
        written.add(b"ia", &one);
        written.add(b"ib", &old);
        written.remove(b"ib", &old);
        written.add(b"ib", &other);
        assert_eq!(Content::decode(&written.encode()).unwrap(), written);
        let scan = |entries: &[(&[u8], &[u8])]| {
            let mut scan = Scan::default();
            entries.iter().try_for_each(|(key, value)| scan.take(key, value))?;
            scan.end(&written, true)
        };
        assert!(scan(&[(b"ia", &one), (b"ib", &other)]).is_ok());
        assert!(scan(&[(b"ia", &one)]).is_err());
        assert!(scan(&[(b"ia", &one), (b"ib", &old)]).is_err());
        assert!(scan(&[(b"ia", &one), (b"ib", &other), (b"sv", &[])]).is_err(), "an index key without a link");
        assert!(scan(&[(b"ia", &one), (b"ib", &other), (b"x", &[])]).is_err(), "an unknown key");
    }
}

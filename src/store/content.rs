//! Checksums: one for each value, and a sum over all values of the store.
//!
//! A checksum of a value shows that its bytes are those that were written. It cannot show that the value is the newest one, or that no value
//! is missing: after a damage, sled may return an old page, or none. The sum over all checksums shows that. Every commit writes it together
//! with its other changes, and a scan of the store compares it with the values that it finds.

use std::hash::{DefaultHasher, Hash, Hasher};

use sha2::{Digest, Sha256};

use super::StoreError;
use super::format::{
    self, CONTENT_KEY, DEADLINE_PREFIX, FORMAT_KEY, INCIDENT_PREFIX, LINK_PREFIX, OFFSET_PREFIX, POSITION_KEY,
    STATE_PREFIX,
};
use crate::contract::LinksDigest;

/// The length of the checksum in front of a value, in bytes.
const CHECKSUM_LENGTH: usize = 8;

/// A value with its checksum.
pub(super) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CHECKSUM_LENGTH + payload.len());
    value.extend_from_slice(&checksum(key, payload).to_be_bytes());
    value.extend_from_slice(payload);
    value
}

/// The value without its checksum.
///
/// # Errors
/// [`StoreError::Damaged`] if the checksum does not fit.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match value.split_first_chunk::<CHECKSUM_LENGTH>() {
        Some((sealed, payload)) if u64::from_be_bytes(*sealed) == checksum(key, payload) => Ok(payload),
        Some(_) | None => Err(StoreError::Damaged(format!("the checksum of {} is wrong", key.escape_ascii()))),
    }
}

/// The first 8 bytes of SHA-256. The key is part of it, so that a value at another key is noticed.
fn checksum(key: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(payload);
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What the store has: all entries except the format, this record itself, and the indexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The number of entries.
    pub(super) entries_count: u64,
    /// The bytes of their keys and values.
    pub(super) bytes: u64,
    /// The sum of their checksums, modulo 2^64.
    pub(super) sum: u64,
    /// All links and their versions.
    pub(super) links: LinksDigest,
    /// Whether the store has the state of every link. `false` while it is being rebuilt.
    pub(super) is_complete: bool,
}

impl Content {
    /// Adds a sealed value.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.entries_count = self.entries_count.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_add(sealed_checksum(value));
    }

    /// Removes a sealed value.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.entries_count = self.entries_count.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_sub(sealed_checksum(value));
    }

    /// The value at [`CONTENT_KEY`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { entries_count, bytes, sum, links, is_complete } = *self;
        let mut payload = Vec::with_capacity(41);
        for number in [entries_count, bytes, sum, links.links_count, links.sum()] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        payload.push(u8::from(is_complete));
        seal(CONTENT_KEY, &payload)
    }

    /// # Errors
    /// [`StoreError::Damaged`] if the value is not a sealed content.
    pub(super) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let payload = unseal(CONTENT_KEY, value)?;
        let damaged = || StoreError::Damaged("its record of its content has another length".to_owned());
        let (entries_count, rest) = payload.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (bytes, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (sum, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (links_count, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (links_sum, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let [is_complete] = *rest else { return Err(damaged()) };
        let numbers = [entries_count, bytes, sum, links_count, links_sum];
        let [entries_count, bytes, sum, links_count, links_sum] = numbers.map(|number| u64::from_be_bytes(*number));
        let links = LinksDigest::of_parts(links_count, links_sum);
        Ok(Self { entries_count, bytes, sum, links, is_complete: is_complete != 0 })
    }
}

fn sealed_checksum(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |sealed| u64::from_be_bytes(*sealed))
}

/// A scan of all entries: the content that it finds, and whether the indexes follow from the links.
#[derive(Debug, Default)]
pub(super) struct Scan {
    found: Content,
    index_found: IndexSum,
    index_expected: IndexSum,
}

/// A sum over index keys. Both sums of a scan are made in one process, so the hash need not be the same in every version.
#[derive(Debug, Default, PartialEq, Eq)]
struct IndexSum {
    keys_count: u64,
    sum: u64,
}

impl IndexSum {
    fn add(&mut self, key: &[u8]) {
        let mut hash = DefaultHasher::new();
        key.hash(&mut hash);
        self.keys_count += 1;
        self.sum = self.sum.wrapping_add(hash.finish());
    }
}

impl Scan {
    /// Takes the next entry of the store. `is_sealed`: whether the values of this store have checksums.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the entry is not as it was written.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8], is_sealed: bool) -> Result<(), StoreError> {
        if key == FORMAT_KEY || (is_sealed && key == CONTENT_KEY) {
            return Ok(());
        }
        if key.starts_with(STATE_PREFIX) || key.starts_with(DEADLINE_PREFIX) {
            self.index_found.add(key);
            return Ok(());
        }
        let is_known = [LINK_PREFIX, INCIDENT_PREFIX, OFFSET_PREFIX].iter().any(|prefix| key.starts_with(prefix));
        if !is_known && key != POSITION_KEY {
            return Err(StoreError::Damaged(format!("it has an unknown key: {}", key.escape_ascii())));
        }
        let payload = if is_sealed { unseal(key, value)? } else { value };
        if let Some(id) = key.strip_prefix(LINK_PREFIX) {
            let id = format::parse_link_id(id).filter(|parsed| parsed.as_str().as_bytes() == id);
            let id =
                id.ok_or_else(|| StoreError::Damaged("a key has no link id, or another spelling of one".to_owned()))?;
            let head = format::decode_head(key, payload).map_err(|error| StoreError::Damaged(error.to_string()))?;
            self.found.links.replace(&id, None, head.version);
            self.index_expected.add(&format::state_key(head.state, &id));
            if let Some(at) = head.deadline {
                self.index_expected.add(&format::deadline_key(at, &id));
            }
        }
        self.found.add(key, value);
        Ok(())
    }

    /// Ends a scan of a whole store. `recorded` is the store's own record of its content; `None` for a store without checksums.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if entries are missing, old, or too many.
    pub(super) fn end(self, recorded: Option<&Content>) -> Result<(), StoreError> {
        let Self { mut found, index_found, index_expected } = self;
        if index_found != index_expected {
            let (found, expected) = (index_found.keys_count, index_expected.keys_count);
            return Err(StoreError::Damaged(format!(
                "its indexes have {found} keys and do not fit its links ({expected})"
            )));
        }
        let Some(recorded) = recorded else { return Ok(()) };
        found.is_complete = recorded.is_complete;
        if found == *recorded {
            return Ok(());
        }
        let (found, recorded) = (found.entries_count, recorded.entries_count);
        Err(StoreError::Damaged(format!("entries are missing or old: {found} were found, {recorded} were written")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_value_or_key_is_noticed() {
        let value = seal(b"la", b"payload");
        assert_eq!(unseal(b"la", &value).unwrap(), b"payload");
        assert!(unseal(b"lb", &value).is_err() && unseal(b"la", &value[..7]).is_err());
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(unseal(b"la", &changed).is_err(), "byte {at}");
        }
    }

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
            entries.iter().try_for_each(|(key, value)| scan.take(key, value, true))?;
            scan.end(Some(&written))
        };
        assert!(scan(&[(b"ia", &one), (b"ib", &other)]).is_ok());
        assert!(scan(&[(b"ia", &one)]).is_err());
        assert!(scan(&[(b"ia", &one), (b"ib", &old)]).is_err());
        assert!(scan(&[(b"ia", &one), (b"ib", &other), (b"sv", &[])]).is_err(), "an index key without a link");
        assert!(scan(&[(b"ia", &one), (b"ib", &other), (b"x", &[])]).is_err(), "an unknown key");
    }
}

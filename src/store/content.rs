//! Checksums: one for each value, and a sum over all values of the store.
//!
//! A checksum of a value shows that its bytes are those that were written. It cannot show that the value is the newest one, or that no value
//! is missing: after a damage, sled may return an old page, or none. The sum over all checksums shows that. Every commit writes it together
//! with its other changes, and a scan of the store (`scan.rs`) compares it with the values that it finds.

use sha2::{Digest, Sha256};

use super::StoreError;
use super::counts::StateCounts;
use super::format::CONTENT_KEY;
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

/// What the store has: all entries except the format, this record itself, and the indexes. A scan (`scan.rs`) compares it with the entries.
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
    /// The number of links in each state.
    pub(super) by_state: StateCounts,
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

    /// Adds the content of other entries.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the sum of two counts is too large.
    pub(super) fn join(&mut self, other: &Self) -> Result<(), StoreError> {
        self.entries_count = self.entries_count.wrapping_add(other.entries_count);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.sum = self.sum.wrapping_add(other.sum);
        let (links_count, links_sum) = (other.links.links_count, other.links.sum());
        let links_count = self.links.links_count.wrapping_add(links_count);
        self.links = LinksDigest::of_parts(links_count, self.links.sum().wrapping_add(links_sum));
        self.by_state.join(&other.by_state)
    }

    /// The value at [`CONTENT_KEY`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { entries_count, bytes, sum, links, by_state, is_complete } = *self;
        let mut payload = Vec::with_capacity(41 + StateCounts::LENGTH);
        for number in [entries_count, bytes, sum, links.links_count, links.sum()] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        payload.extend_from_slice(&by_state.encode());
        payload.push(u8::from(is_complete));
        seal(CONTENT_KEY, &payload)
    }

    /// # Errors
    /// [`StoreError::Damaged`] if the value is not a sealed content.
    pub(super) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let (content, rest) = Self::decode_sums(value)?;
        let (by_state, rest) = StateCounts::decode(rest).ok_or_else(Self::of_another_length)?;
        let [is_complete] = *rest else { return Err(Self::of_another_length()) };
        Ok(Self { by_state, is_complete: is_complete != 0, ..content })
    }

    /// The content of a store of format 3, which has no counts.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(super) fn decode_legacy(value: &[u8]) -> Result<Self, StoreError> {
        let (content, rest) = Self::decode_sums(value)?;
        let [is_complete] = *rest else { return Err(Self::of_another_length()) };
        Ok(Self { is_complete: is_complete != 0, ..content })
    }

    /// The error for a store without this record.
    pub(super) fn missing() -> StoreError {
        StoreError::Damaged("its record of its content is missing".to_owned())
    }

    fn of_another_length() -> StoreError {
        StoreError::Damaged("its record of its content has another length".to_owned())
    }

    /// The numbers that every format has, and the rest of the value.
    fn decode_sums(value: &[u8]) -> Result<(Self, &[u8]), StoreError> {
        let payload = unseal(CONTENT_KEY, value)?;
        let damaged = Self::of_another_length;
        let (entries_count, rest) = payload.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (bytes, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (sum, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (links_count, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (links_sum, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let numbers = [entries_count, bytes, sum, links_count, links_sum];
        let [entries_count, bytes, sum, links_count, links_sum] = numbers.map(|number| u64::from_be_bytes(*number));
        let links = LinksDigest::of_parts(links_count, links_sum);
        Ok((Self { entries_count, bytes, sum, links, ..Self::default() }, rest))
    }
}

fn sealed_checksum(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |sealed| u64::from_be_bytes(*sealed))
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
}

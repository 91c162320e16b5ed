//! The numbers of links in each state: of the whole store, and of each institution. Every commit changes them together with its links.

use std::collections::BTreeMap;

use strum::VariantArray;

use super::StoreError;
use super::content::unseal;
use super::format;
use crate::link::StateName;

const STATES: usize = StateName::VARIANTS.len();

/// The number of links in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateCounts([u64; STATES]);

impl StateCounts {
    /// The length of encoded counts, in bytes.
    pub(super) const LENGTH: usize = 8 * STATES;

    /// Adds links of a state, or removes them.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the count would become negative, so earlier counts or links were lost.
    pub(super) fn add(&mut self, state: StateName, difference: i64) -> Result<(), StoreError> {
        let count = &mut self.0[usize::from(format::state_byte(state))];
        *count = count.checked_add_signed(difference).ok_or_else(wrong)?;
        Ok(())
    }

    /// Adds other counts.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a sum is too large.
    pub(super) fn join(&mut self, other: &Self) -> Result<(), StoreError> {
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count = count.checked_add(other).ok_or_else(wrong)?;
        }
        Ok(())
    }

    /// The number of links in all states.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|count| count.to_be_bytes()).collect()
    }

    /// The counts at the beginning of some bytes, and the rest of the bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (counts, rest) = bytes.split_first_chunk::<{ Self::LENGTH }>()?;
        let (counts, _) = counts.as_chunks::<8>();
        Some((Self(std::array::from_fn(|n| u64::from_be_bytes(counts[n]))), rest))
    }

    pub(super) fn by_state(&self) -> BTreeMap<StateName, u64> {
        StateName::VARIANTS.iter().map(|&state| (state, self.0[usize::from(format::state_byte(state))])).collect()
    }
}

fn wrong() -> StoreError {
    StoreError::Damaged("a count of links is wrong".to_owned())
}

/// The name and the counts of an institution. `name` is its key without the prefix.
///
/// # Errors
/// [`StoreError::Damaged`] if they are not as they were written.
pub(super) fn decode_institution<'a>(name: &'a [u8], payload: &[u8]) -> Result<(&'a str, StateCounts), StoreError> {
    let decoded = std::str::from_utf8(name).ok().zip(StateCounts::decode(payload));
    let decoded = decoded.and_then(|(name, (counts, rest))| rest.is_empty().then_some((name, counts)));
    decoded.ok_or_else(|| StoreError::Damaged("the counts of an institution are not readable".to_owned()))
}

/// A key, its value before, and its payload after a commit.
pub(super) type ChangedCounts = (Vec<u8>, Option<Vec<u8>>, Vec<u8>);

/// The changes of the counts of institutions by one commit.
#[derive(Debug, Default)]
pub(super) struct CountChanges(BTreeMap<String, [i64; STATES]>);

impl CountChanges {
    /// Adds links of an institution in a state, or removes them.
    pub(super) fn add(&mut self, institution: &str, state: StateName, difference: i64) {
        if !self.0.contains_key(institution) {
            self.0.insert(institution.to_owned(), [0; STATES]);
        }
        if let Some(counts) = self.0.get_mut(institution) {
            counts[usize::from(format::state_byte(state))] += difference;
        }
    }

    /// The keys of the changed counts, each with the value before and the payload after. `read` reads the current value of a key.
    ///
    /// An institution without links keeps its counts: there are few institutions, and no other entry of the store is ever removed.
    ///
    /// # Errors
    /// The error of `read`, or [`StoreError::Damaged`] if a count would become negative.
    pub(super) fn payloads(
        &self,
        read: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Vec<ChangedCounts>, StoreError> {
        let mut payloads = Vec::with_capacity(self.0.len());
        for (institution, differences) in &self.0 {
            if differences.iter().all(|difference| *difference == 0) {
                continue;
            }
            let key = format::institution_key(institution);
            let before = read(&key)?;
            let mut counts = match &before {
                Some(value) => decode_institution(institution.as_bytes(), unseal(&key, value)?)?.1,
                None => StateCounts::default(),
            };
            for &state in StateName::VARIANTS {
                counts.add(state, differences[usize::from(format::state_byte(state))])?;
            }
            payloads.push((key, before, counts.encode()));
        }
        Ok(payloads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::content::seal;

    #[test]
    fn counts_read_back_and_never_become_negative() {
        let mut counts = StateCounts::default();
        counts.add(StateName::Removed, 3).unwrap();
        counts.add(StateName::Unconfirmed, 1).unwrap();
        let encoded = [&counts.encode()[..], b"rest"].concat();
        assert_eq!(StateCounts::decode(&encoded), Some((counts, &b"rest"[..])));
        assert_eq!((counts.sum(), counts.by_state()[&StateName::Removed]), (4, 3));
        assert!(counts.add(StateName::Valid, -1).is_err());
        assert_eq!(StateCounts::decode(&encoded[..47]), None);
    }

    #[test]
    fn only_changed_counts_are_written() {
        let mut changes = CountChanges::default();
        changes.add("erebor", StateName::Valid, 1);
        changes.add("gringotts", StateName::Valid, 1);
        changes.add("gringotts", StateName::Valid, -1);
        let payloads = changes.payloads(|_| Ok(None)).unwrap();
        assert_eq!(payloads.iter().map(|(key, ..)| key.as_slice()).collect::<Vec<_>>(), [b"nerebor"]);
        let (key, _, payload) = &payloads[0];
        let value = seal(key, payload);
        changes.add("erebor", StateName::Valid, -2);
        changes.add("erebor", StateName::Invalid, 2);
        assert_eq!(changes.payloads(|_| Ok(Some(value.clone()))).unwrap()[0].2.len(), StateCounts::LENGTH);
        assert!(changes.payloads(|_| Ok(None)).is_err(), "the counts are lost");
    }
}

//! The copy of a database of an older format into one of this format.
//!
//! The store can be the only copy of the states: for the upgrade from 0.2 to 0.3 the operator removes the old streams. So a database of an
//! older format is checked like any other one, and it is deleted only when its copy is complete and on the disk.

use super::database::Database;
use super::directories::Root;
use super::each_batch;
use super::rebuild::Rebuild;
use crate::store::content::{Content, unseal};
use crate::store::format::{
    self, CONTENT_KEY, FORMAT_WITHOUT_CHECKSUMS, INCIDENT_PREFIX, LINK_PREFIX, OFFSET_PREFIX, POSITION_KEY, StoredLink,
};
use crate::store::scan::LegacyScan;
use crate::store::{Changes, Put, StoreError};

/// Copies a database of formats 1 to 3 into a new one. The caller deletes the old one.
///
/// # Errors
/// [`StoreError::Damaged`] if the old one is damaged, or the failure of the disk.
pub(super) fn copy(old: &Database, format: u16, root: &Root, cache_bytes: u64) -> Result<Database, StoreError> {
    let is_sealed = format > FORMAT_WITHOUT_CHECKSUMS;
    let content = check(old, is_sealed)?;
    // An older relink wrote the entries in any order; in the order of their new keys they take less of the disk.
    let mut rebuild = Rebuild::of_nothing(root)?;
    copy_entries(old, &mut rebuild, is_sealed)?;
    let copy = rebuild.finish(root, cache_bytes, Some(&content))?;
    tracing::info!(store.format = format, links = content.links.links_count, "copied the store of an older relink");
    Ok(copy)
}

/// Reads all entries, and compares them with the store's own record of its content. Returns the content.
fn check(old: &Database, is_sealed: bool) -> Result<Content, StoreError> {
    old.guarded(|db| {
        let mut scan = LegacyScan::new(is_sealed);
        for entry in db.iter() {
            let (key, value) = entry?;
            scan.take(&key, &value)?;
        }
        if !is_sealed {
            return Ok(scan.end(None)?);
        }
        let recorded = db.get(CONTENT_KEY)?.ok_or_else(Content::missing)?;
        Ok(scan.end(Some(&Content::decode_legacy(&recorded)?))?)
    })
}

/// Copies the entries that are no index. The indexes and the counts follow from the links.
fn copy_entries(old: &Database, copy: &mut Rebuild, is_sealed: bool) -> Result<(), StoreError> {
    let payload = |key: &[u8], value: Vec<u8>| -> Result<Vec<u8>, StoreError> {
        if is_sealed { Ok(unseal(key, &value)?.to_vec()) } else { Ok(value) }
    };
    for prefix in [INCIDENT_PREFIX, OFFSET_PREFIX, POSITION_KEY] {
        each_batch(old, prefix, |entries| {
            entries.into_iter().try_for_each(|(key, value)| {
                let payload = payload(&key, value)?;
                copy.take_other(key, payload)
            })
        })?;
    }
    each_batch(old, LINK_PREFIX, |entries| {
        let put = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = format::parse_legacy_link_id(&key[LINK_PREFIX.len()..]);
            let id = id.ok_or_else(|| format::corrupt(&key, "not a link id"))?;
            let StoredLink { head, record } = format::decode_legacy_link(&key, &payload(&key, value)?)?;
            Ok(Put::of_record(id, head, record))
        };
        let puts = entries.into_iter().map(put).collect::<Result<_, StoreError>>()?;
        copy.take(&Changes { puts, ..Changes::default() })
    })
}

//! Functions for both ordered trees, in memory and of sled: the edits of a commit, and a page of links.

use std::collections::BTreeMap;

use super::content::{Content, seal, unseal};
use super::format::{self, CONTENT_KEY, Head, OFFSET_PREFIX, POSITION_KEY, StoredLink};
use super::{Changes, Page, Position, Put, Query, StoreError, Unreadable};
use crate::contract::{CommittedOffset, IncidentBody};
use crate::link::LinkId;

/// A value to put at a key, or `None` to remove the key.
pub(super) type Edit = (Vec<u8>, Option<Vec<u8>>);

/// The edits of a commit, and the content of the store after them.
#[derive(Debug, Default)]
pub(super) struct Edits {
    pub(super) list: Vec<Edit>,
    pub(super) content: Content,
}

/// The edits of a commit. `content` is the store's content before it; `read` reads the current value of a key.
pub(super) fn edits_of(
    changes: &Changes,
    content: Content,
    read: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Edits, StoreError> {
    let mut edits = Edits { list: Vec::with_capacity(changes.puts.len() * 3 + changes.offsets.len() + 2), content };
    // If a commit has several puts of one link, only the newest counts, so that the index edits match the stored head.
    let mut last: BTreeMap<&LinkId, &Put> = BTreeMap::new();
    for put in &changes.puts {
        let newest = last.entry(&put.id).or_insert(put);
        if put.head.version > newest.head.version {
            *newest = put;
        }
    }
    for (id, put) in last {
        let key = format::link_key(id);
        let value_before = read(&key)?;
        let before = head_of(&key, value_before.as_deref())?;
        // The deadline of an unchanged link may differ, because the policy was changed.
        let newer = |before: Head| before.version < put.head.version;
        let retimed = |before: Head| before.version == put.head.version && before.deadline != put.head.deadline;
        if before.is_some_and(|before| !newer(before) && !retimed(before)) {
            continue;
        }
        edits.index(id, before, put.head);
        edits.put(key, value_before, &format::encode_link(&put.head, &put.record));
    }
    // Of several messages of an institution or a partition, the last one counts.
    let mut values: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for incident in &changes.incidents {
        values.insert(format::incident_key(&incident.institution), encode(incident)?);
    }
    for (partition, offset) in &changes.offsets {
        values.insert(format::offset_key(*partition), encode(offset)?);
    }
    if let Some(position) = &changes.position {
        values.insert(POSITION_KEY.to_vec(), format::encode_position(position));
    }
    for (key, payload) in values {
        let before = read(&key)?;
        if let Some(value) = &before {
            unseal(&key, value)?;
        }
        edits.put(key, before, &payload);
    }
    edits.close();
    Ok(edits)
}

impl Edits {
    /// The edits that copy entries without checksums from another store into an empty one, or over older entries of the same keys.
    /// `read` reads the current value of a key.
    pub(super) fn copying(
        entries: &[(Vec<u8>, Vec<u8>)],
        content: Content,
        read: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut edits = Self { list: Vec::with_capacity(entries.len() * 3 + 1), content };
        for (key, payload) in entries {
            let value_before = read(key)?;
            if let Some(id) = key.strip_prefix(format::LINK_PREFIX).and_then(format::parse_link_id) {
                edits.index(&id, head_of(key, value_before.as_deref())?, format::decode_head(key, payload)?);
            }
            edits.put(key.clone(), value_before, payload);
        }
        edits.close();
        Ok(edits)
    }

    fn index(&mut self, id: &LinkId, before: Option<Head>, after: Head) {
        self.content.links.replace(id, before.map(|before| before.version), after.version);
        if before.map(|before| before.state) != Some(after.state) {
            self.list.extend(before.map(|before| (format::state_key(before.state, id), None)));
            self.list.push((format::state_key(after.state, id), Some(Vec::new())));
        }
        let deadline_before = before.and_then(|before| before.deadline);
        if deadline_before != after.deadline {
            self.list.extend(deadline_before.map(|at| (format::deadline_key(at, id), None)));
            self.list.extend(after.deadline.map(|at| (format::deadline_key(at, id), Some(Vec::new()))));
        }
    }

    fn put(&mut self, key: Vec<u8>, before: Option<Vec<u8>>, payload: &[u8]) {
        let value = seal(&key, payload);
        if let Some(before) = before {
            self.content.remove(&key, &before);
        }
        self.content.add(&key, &value);
        self.list.push((key, Some(value)));
    }

    fn close(&mut self) {
        if !self.list.is_empty() {
            self.list.push((CONTENT_KEY.to_vec(), Some(self.content.encode())));
        }
    }
}

fn head_of(key: &[u8], value: Option<&[u8]>) -> Result<Option<Head>, StoreError> {
    value.map(|value| format::decode_head(key, unseal(key, value)?)).transpose()
}

fn encode<T: serde::Serialize>(body: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(body).map_err(|error| StoreError::Disk(error.to_string()))
}

pub(super) fn decode_incident(key: &[u8], value: &[u8]) -> Result<IncidentBody, StoreError> {
    serde_json::from_slice(unseal(key, value)?).map_err(|error| format::corrupt(key, error.to_string()))
}

pub(super) fn decode_position(value: &[u8]) -> Result<Position, StoreError> {
    format::decode_position(unseal(POSITION_KEY, value)?)
}

pub(super) fn decode_link(key: &[u8], value: &[u8]) -> Result<StoredLink, StoreError> {
    format::decode_link(key, unseal(key, value)?)
}

pub(super) fn decode_offset(key: &[u8], value: &[u8]) -> Result<(u16, CommittedOffset), StoreError> {
    let partition = key.strip_prefix(OFFSET_PREFIX).and_then(|partition| <[u8; 2]>::try_from(partition).ok());
    let partition = partition.ok_or_else(|| format::corrupt(key, "not an offset key"))?;
    let offset =
        serde_json::from_slice(unseal(key, value)?).map_err(|error| format::corrupt(key, error.to_string()))?;
    Ok((u16::from_be_bytes(partition), offset))
}

/// The first key of a page: in the index of a state, or among all links.
pub(super) fn page_start(query: &Query) -> Vec<u8> {
    let mut start = page_prefix(query);
    if let Some(after) = &query.after {
        start.extend_from_slice(after.as_str().as_bytes());
        // The first key after this one.
        start.push(0);
    }
    start
}

fn page_prefix(query: &Query) -> Vec<u8> {
    query.state.map_or_else(|| format::LINK_PREFIX.to_vec(), format::state_prefix)
}

/// Collects a page from ordered keys, starting at [`page_start`]. Unreadable entries are listed separately.
pub(super) fn collect_page(
    query: &Query,
    keys: impl Iterator<Item = Result<Vec<u8>, StoreError>>,
    read: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Page, StoreError> {
    let prefix = page_prefix(query);
    let mut page = Page::default();
    let mut last = None;
    for key in keys {
        let key = key?;
        let Some(id) = key.strip_prefix(&prefix[..]) else { break };
        if page.links.len() == query.limit {
            page.next = last;
            break;
        }
        let link_key = [format::LINK_PREFIX, id].concat();
        let Some(value) = read(&link_key)? else { continue };
        match entry_of(&key, id, &link_key, &value) {
            Ok((id, stored)) => {
                page.links.push(stored);
                page.ids.push(id.clone());
                last = Some(id);
            }
            // Not one record is unreadable, but the whole store is damaged.
            Err(error @ StoreError::Damaged(_)) => return Err(error),
            Err(error) => {
                let key = String::from_utf8_lossy(id).escape_debug().to_string();
                page.unreadable.push(Unreadable { key, problem: error.to_string() });
            }
        }
    }
    Ok(page)
}

/// The link of a key.
fn entry_of(key: &[u8], id: &[u8], link_key: &[u8], value: &[u8]) -> Result<(LinkId, StoredLink), StoreError> {
    let id = format::parse_link_id(id).ok_or_else(|| format::corrupt(key, "not a link id"))?;
    Ok((id, decode_link(link_key, value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::StateName;

    #[test]
    fn an_unreadable_entry_hides_no_other_entry() {
        let head = Head { state: StateName::Valid, partition: 0, version: 1, deadline: None };
        let record = format::encode_link(&head, b"{}");
        let keys: Vec<Vec<u8>> = [&b"la"[..], b"lb", b"l\x1b[2J", b"lc", b"ld"].map(<[u8]>::to_vec).into();
        let read = |key: &[u8]| Ok(Some(seal(key, if key == b"lb" { b"short" } else { &record[..] })));
        let query = Query { limit: 2, ..Query::default() };
        let page = collect_page(&query, keys.into_iter().map(Ok), read).unwrap();
        assert_eq!(page.ids.iter().map(LinkId::as_str).collect::<Vec<_>>(), ["a", "c"]);
        let keys: Vec<_> = page.unreadable.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!((keys, page.next.as_ref().map(LinkId::as_str)), (vec!["b", "\\u{1b}[2J"], Some("c")));
    }
}

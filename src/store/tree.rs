//! Functions for both ordered trees, in memory and of sled: the edits of a commit, and a page of links.

use std::collections::BTreeMap;

use super::content::{Content, seal, unseal};
use super::counts::CountChanges;
use super::format::{self, CONTENT_KEY, Head, OFFSET_PREFIX, POSITION_KEY, StoredLink};
use super::index::{self, Labels, Names, Wanted};
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
    // If there are several puts of one link, only the newest counts, so that the index edits match the stored head.
    let mut last: BTreeMap<&LinkId, &Put> = BTreeMap::new();
    for put in &changes.puts {
        let newest = last.entry(&put.id).or_insert(put);
        // Of two puts of one version, the later one may have another deadline.
        if put.head.version >= newest.head.version {
            *newest = put;
        }
    }
    let mut institutions = CountChanges::default();
    for (id, put) in last {
        let key = format::link_key(id);
        let value_before = read(&key)?;
        let before = value_before.as_deref().map(|value| head_of(&key, value)).transpose()?;
        // The deadline of an unchanged link may differ, because the policy was changed.
        let newer = |before: &Head| before.version < put.head.version;
        let retimed = |before: &Head| before.version == put.head.version && before.deadline != put.head.deadline;
        if before.as_ref().is_some_and(|(before, _)| !newer(before) && !retimed(before)) {
            continue;
        }
        let names = &put.names;
        let labels = Labels::of(names);
        if let Some((head_before, labels_before)) = before
            && labels_before.institution().is_some()
        {
            // The name is in the record; the labels have its hash only.
            let names_before = value_before.as_deref().filter(|_| labels_before.institution != labels.institution);
            let names_before = names_before.map(|value| names_of(&key, value)).transpose()?;
            let institution = names_before.as_ref().unwrap_or(names).institution.as_deref();
            institution.iter().for_each(|name| institutions.add(name, head_before.state, -1));
        }
        names.institution.iter().for_each(|name| institutions.add(name, put.head.state, 1));
        edits.index(id, before.as_ref(), &(put.head, labels))?;
        edits.put(key, value_before, &format::encode_link(&put.head, &labels, &put.record));
    }
    for (key, before, payload) in institutions.payloads(&read)? {
        edits.put(key, before, &payload);
    }
    let mut values = payloads(&changes.incidents, &changes.offsets)?;
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

/// The keys and payloads of incidents and offsets. Of several messages of an institution or a partition, the last one counts.
pub(super) fn payloads(
    incidents: &[IncidentBody],
    offsets: &[(u16, CommittedOffset)],
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    let mut payloads = BTreeMap::new();
    for incident in incidents {
        payloads.insert(format::incident_key(&incident.institution), encode(incident)?);
    }
    for (partition, offset) in offsets {
        payloads.insert(format::offset_key(*partition), encode(offset)?);
    }
    Ok(payloads)
}

impl Edits {
    /// The edits that copy entries without checksums from another store into an empty one, or over older entries of the same keys. The
    /// counts of institutions are copied too. `read` reads the current value of a key.
    pub(super) fn copying(
        entries: &[(Vec<u8>, Vec<u8>)],
        content: Content,
        read: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut edits = Self { list: Vec::with_capacity(entries.len() * 3 + 1), content };
        for (key, payload) in entries {
            let value_before = read(key)?;
            if let Some(id) = key.strip_prefix(format::LINK_PREFIX).and_then(format::parse_link_id) {
                let before = value_before.as_deref().map(|value| head_of(key, value)).transpose()?;
                edits.index(&id, before.as_ref(), &format::decode_head(key, payload)?)?;
            }
            edits.put(key.clone(), value_before, payload);
        }
        edits.close();
        Ok(edits)
    }

    /// Changes the indexes and the counts of the whole store for a link.
    fn index(
        &mut self,
        id: &LinkId,
        before: Option<&(Head, Labels)>,
        after: &(Head, Labels),
    ) -> Result<(), StoreError> {
        let (head, labels) = after;
        self.content.links.replace(id, before.map(|(before, _)| before.version), head.version);
        if let Some((before, _)) = before {
            self.content.by_state.add(before.state, -1)?;
        }
        self.content.by_state.add(head.state, 1)?;
        let indexed = |head: &Head, labels: &Labels| (head.state, head.deadline, *labels);
        let is_same = before.is_some_and(|(before, found)| indexed(before, found) == indexed(head, labels));
        if is_same {
            return Ok(());
        }
        let mut added = index::keys(id, head, labels);
        for key in before.map(|(head, labels)| index::keys(id, head, labels)).unwrap_or_default() {
            match added.iter().position(|added| *added == key) {
                Some(unchanged) => drop(added.swap_remove(unchanged)),
                None => self.list.push((key, None)),
            }
        }
        self.list.extend(added.into_iter().map(|key| (key, Some(Vec::new()))));
        Ok(())
    }

    /// Further edits of a store with this content.
    pub(super) fn resuming(content: Content) -> Self {
        Self { list: Vec::new(), content }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, before: Option<Vec<u8>>, payload: &[u8]) {
        let value = seal(&key, payload);
        if let Some(before) = before {
            self.content.remove(&key, &before);
        }
        self.content.add(&key, &value);
        self.list.push((key, Some(value)));
    }

    fn close(&mut self) {
        if !self.list.is_empty() {
            self.close_always();
        }
    }

    /// Adds the record of the content, which may be the only edit.
    pub(super) fn close_always(&mut self) {
        self.list.push((CONTENT_KEY.to_vec(), Some(self.content.encode())));
    }
}

fn head_of(key: &[u8], value: &[u8]) -> Result<(Head, Labels), StoreError> {
    format::decode_head(key, unseal(key, value)?)
}

fn names_of(key: &[u8], value: &[u8]) -> Result<Names, StoreError> {
    let (stored, _) = decode_link(key, value)?;
    Ok(Names::read(&stored.record))
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

pub(super) fn decode_link(key: &[u8], value: &[u8]) -> Result<(StoredLink, Labels), StoreError> {
    format::decode_link(key, unseal(key, value)?)
}

pub(super) fn decode_offset(key: &[u8], value: &[u8]) -> Result<(u16, CommittedOffset), StoreError> {
    let partition = key.strip_prefix(OFFSET_PREFIX).and_then(|partition| <[u8; 2]>::try_from(partition).ok());
    let partition = partition.ok_or_else(|| format::corrupt(key, "not an offset key"))?;
    let offset =
        serde_json::from_slice(unseal(key, value)?).map_err(|error| format::corrupt(key, error.to_string()))?;
    Ok((u16::from_be_bytes(partition), offset))
}

/// The most ids that a page reads at once. More are needed only if some of them cannot be read.
const IDS_AT_ONCE: usize = 1_001;

/// Collects a page. `ids` gives the next ids of the query after an id, in order, at most that many. Unreadable entries are listed
/// separately.
pub(super) fn collect_page(
    query: &Query,
    wanted: &Wanted,
    ids: impl Fn(Option<&[u8]>, usize) -> Result<Vec<Vec<u8>>, StoreError>,
    read: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Page, StoreError> {
    let mut page = Page::default();
    let mut after = query.after.as_ref().map(format::id_key);
    loop {
        let count = (query.limit - page.links.len()).saturating_add(1).min(IDS_AT_ONCE);
        let mut found = ids(after.as_deref(), count)?;
        for id in &found {
            if page.links.len() == query.limit {
                page.next = page.ids.last().cloned();
                return Ok(page);
            }
            let key = [format::LINK_PREFIX, id].concat();
            let Some(value) = read(&key)? else { continue };
            match entry_of(id, &key, &value) {
                Ok((id, (stored, labels))) if wanted.has(&stored.head, &labels) => {
                    page.links.push(stored);
                    page.ids.push(id);
                }
                Ok(_changed_meanwhile) => {}
                // Not one record is unreadable, but the whole store is damaged.
                Err(error @ StoreError::Damaged(_)) => return Err(error),
                Err(error) => {
                    let key =
                        format::parse_link_id(id).map_or_else(|| id.escape_ascii().to_string(), |id| id.to_string());
                    page.unreadable.push(Unreadable { key, problem: error.to_string() });
                }
            }
        }
        if found.len() < count {
            return Ok(page);
        }
        after = found.pop();
    }
}

/// The link of an id.
fn entry_of(id: &[u8], key: &[u8], value: &[u8]) -> Result<(LinkId, (StoredLink, Labels)), StoreError> {
    let id = format::parse_link_id(id).ok_or_else(|| format::corrupt(key, "not a link id"))?;
    Ok((id, decode_link(key, value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::StateName;

    #[test]
    fn an_unreadable_entry_hides_no_other_entry() {
        let head = Head { state: StateName::Valid, partition: 0, version: 1, deadline: None };
        let record = format::encode_link(&head, &Labels::default(), b"{}");
        let keys: Vec<Vec<u8>> =
            [&b"l\x01a"[..], b"l\x01b", b"l\x01\x1b[2J", b"l\x01c", b"l\x01d"].map(<[u8]>::to_vec).into();
        let read = |key: &[u8]| Ok(Some(seal(key, if key == b"l\x01b" { b"short" } else { &record[..] })));
        let query = Query { limit: 2, ..Query::default() };
        let wanted = Wanted::of(&query);
        let ids = |after: Option<&[u8]>, count| {
            let from = after.map_or(0, |after| keys.iter().position(|key| key[1..] == *after).unwrap() + 1);
            wanted.ids(None, count, |_start| keys[from..].iter().cloned().map(Ok))
        };
        let page = collect_page(&query, &wanted, ids, read).unwrap();
        assert_eq!(page.ids.iter().map(LinkId::as_str).collect::<Vec<_>>(), ["a", "c"]);
        let keys: Vec<_> = page.unreadable.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!((keys, page.next.as_ref().map(LinkId::as_str)), (vec!["b", "\\x01\\x1b[2J"], Some("c")));
    }
}

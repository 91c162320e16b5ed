//! The store in memory: an ordered map with the same keys and values as the tree of sled.
//!
//! Tests and benches of the layers above use it. A test can simulate a crash: [`MemoryStore::durable`] is the content after a crash of the
//! host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::content::Content;
use super::format::{
    self, CONTENT_KEY, DEADLINE_PREFIX, INCIDENT_PREFIX, INSTITUTION_PREFIX, OFFSET_PREFIX, POSITION_KEY, StoredLink,
};
use super::index::Wanted;
use super::tree::{collect_page, decode_incident, decode_link, decode_offset, decode_position, edits_of};
use super::{Changes, CountsOfInstitution, Page, Position, Query, Store, StoreError};
use crate::contract::{CommittedOffset, IncidentBody, LinksDigest};
use crate::link::{LinkId, StateName, Timestamp};

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store in memory. Clones share its content.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    trees: Arc<Mutex<Trees>>,
}

#[derive(Clone, Debug, Default)]
struct Trees {
    applied: Tree,
    checkpointed: Tree,
}

impl Trees {
    fn content(&self) -> Result<Content, StoreError> {
        let content = self.applied.get(CONTENT_KEY).map(|value| Content::decode(value)).transpose()?;
        Ok(content.unwrap_or_default())
    }
}

impl MemoryStore {
    /// A store with the content after a crash of the host: the last checkpoint.
    pub fn durable(&self) -> Self {
        let checkpointed = self.lock().checkpointed.clone();
        Self { trees: Arc::new(Mutex::new(Trees { applied: checkpointed.clone(), checkpointed })) }
    }

    /// An independent store with the same content, all of it checkpointed.
    #[must_use]
    pub fn copy(&self) -> Self {
        let applied = self.lock().applied.clone();
        Self { trees: Arc::new(Mutex::new(Trees { applied: applied.clone(), checkpointed: applied })) }
    }

    fn lock(&self) -> MutexGuard<'_, Trees> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries whose keys begin with `prefix`, in order.
fn below<'a>(tree: &'a Tree, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)> {
    tree.range(prefix.to_vec()..).take_while(move |(key, _)| key.starts_with(prefix))
}

impl Store for MemoryStore {
    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        let key = format::link_key(id);
        let decoded = self.lock().applied.get(&key).map(|value| decode_link(&key, value)).transpose()?;
        Ok(decoded.map(|(stored, _)| stored))
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut trees = self.lock();
        let content = trees.content()?;
        let tree = &mut trees.applied;
        let edits = edits_of(changes, content, |key| Ok(tree.get(key).cloned()))?;
        for (key, value) in edits.list {
            match value {
                Some(value) => tree.insert(key, value),
                None => tree.remove(&key),
            };
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        let mut trees = self.lock();
        trees.checkpointed = trees.applied.clone();
        Ok(())
    }

    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError> {
        *self.lock() = Trees::default();
        Ok(None)
    }

    fn position(&self) -> Result<Option<Position>, StoreError> {
        self.lock().applied.get(POSITION_KEY).map(|value| decode_position(value)).transpose()
    }

    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError> {
        let trees = self.lock();
        below(&trees.applied, OFFSET_PREFIX).map(|(key, value)| decode_offset(key, value)).collect()
    }

    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError> {
        let trees = self.lock();
        below(&trees.applied, INCIDENT_PREFIX).map(|(key, value)| decode_incident(key, value)).collect()
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError> {
        let trees = self.lock();
        let entries = trees.applied.range(DEADLINE_PREFIX.to_vec()..format::deadline_end(now)).take(limit);
        entries.map(|(key, _)| Ok(format::parse_deadline_key(key)?.1)).collect()
    }

    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError> {
        let trees = self.lock();
        let first = trees.applied.range(DEADLINE_PREFIX.to_vec()..).next();
        let first = first.filter(|(key, _)| key.starts_with(DEADLINE_PREFIX));
        first.map(|(key, _)| Ok(format::parse_deadline_key(key)?.0)).transpose()
    }

    fn page(&self, query: &Query) -> Result<Page, StoreError> {
        let trees = self.lock();
        let wanted = Wanted::of(query);
        let scan = |start: Vec<u8>| trees.applied.range(start..).map(|(key, _)| Ok(key.clone()));
        let ids = |after: Option<&[u8]>, count| wanted.ids(after, count, scan);
        collect_page(query, &wanted, ids, |key| Ok(trees.applied.get(key).cloned()))
    }

    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        Ok(self.lock().content()?.by_state.by_state())
    }

    fn count_by_institution(&self, limit: usize) -> Result<Vec<CountsOfInstitution>, StoreError> {
        let trees = self.lock();
        let entries =
            below(&trees.applied, INSTITUTION_PREFIX).map(|(key, value)| CountsOfInstitution::decode(key, value));
        entries.filter_map(Result::transpose).take(limit).collect()
    }

    fn links_digest(&self) -> Result<LinksDigest, StoreError> {
        Ok(self.lock().content()?.links)
    }
}

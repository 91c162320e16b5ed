//! A store in memory of which a test changes single operations.

use std::collections::BTreeMap;
use std::path::PathBuf;

use relink::contract::{CommittedOffset, IncidentBody, LinksDigest};
use relink::link::{LinkId, StateName, Timestamp};
use relink::store::{Changes, CountsOfInstitution, MemoryStore, Page, Position, Query, Store, StoreError, StoredLink};

/// The operations that a test may change. Each default is the operation of the store in memory.
pub(crate) trait Operations: Send + Sync {
    fn get(&self, links: &MemoryStore, id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        links.get(id)
    }

    fn apply(&self, links: &MemoryStore, changes: &Changes) -> Result<(), StoreError> {
        links.apply(changes)
    }

    fn page(&self, links: &MemoryStore, query: &Query) -> Result<Page, StoreError> {
        links.page(query)
    }
}

/// The store.
#[derive(Clone, Default)]
pub(crate) struct ChangedStore<O> {
    pub(crate) links: MemoryStore,
    pub(crate) operations: O,
}

impl<O: Operations> Store for ChangedStore<O> {
    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        self.operations.get(&self.links, id)
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        self.operations.apply(&self.links, changes)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.links.checkpoint()
    }

    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError> {
        self.links.restart_empty()
    }

    fn position(&self) -> Result<Option<Position>, StoreError> {
        self.links.position()
    }

    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError> {
        self.links.offsets()
    }

    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError> {
        self.links.incidents()
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError> {
        self.links.due(now, limit)
    }

    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError> {
        self.links.next_deadline()
    }

    fn page(&self, query: &Query) -> Result<Page, StoreError> {
        self.operations.page(&self.links, query)
    }

    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        self.links.count()
    }

    fn count_by_institution(&self, limit: usize) -> Result<Vec<CountsOfInstitution>, StoreError> {
        self.links.count_by_institution(limit)
    }

    fn links_digest(&self) -> Result<LinksDigest, StoreError> {
        self.links.links_digest()
    }
}

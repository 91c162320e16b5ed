//! States that the output stream has lost in its middle.
//!
//! nats-server drops a message whose checksum is wrong, for example after a bit of its file has changed. If it was the last state of a link,
//! the last message of that subject is an older state, and nothing shows that. So each commit of a node that owns all partitions ends with
//! the digest of all links, and the node compares it with the store after it has caught up.

use crate::contract::{Commit, LinksDigest};
use crate::store::{Put, Query, Store, StoreError, pages};

/// The versions above the found one that are tried. A server that drops one damaged message loses one version.
const VERSIONS_MAX: u64 = 16;

/// The number of links in one page that is read from the store.
const STORE_PAGE: usize = 1_000;

/// The last digest that has been read from the output stream, and the last state. It spans several reads.
#[derive(Debug, Default)]
pub(super) struct Expected {
    digest: Option<(u64, LinksDigest)>,
    last_state: u64,
}

impl Expected {
    /// A state was read at this sequence.
    pub(super) fn state(&mut self, sequence: u64) {
        self.last_state = self.last_state.max(sequence);
    }

    /// The last message of a commit was read at this sequence. Some have no digest, and a body that cannot be read has none either.
    pub(super) fn commit(&mut self, sequence: u64, body: &[u8]) {
        let links = serde_json::from_slice(body).ok().and_then(|Commit { links, .. }| links);
        self.digest = links.map(|links| (sequence, links)).or(self.digest);
    }

    /// The digest that the store must have. `None` if nothing can be compared: a state after the last digest was written by a version of
    /// relink, or by a node, that publishes no digest.
    pub(super) fn digest(&self) -> Option<LinksDigest> {
        self.digest.filter(|(sequence, _)| *sequence > self.last_state).map(|(_, links)| links)
    }
}

/// The link whose last state is lost, if it is only one: its record as it was read, with the version of the lost state, so that the node
/// gives out no version twice.
///
/// # Errors
/// [`StoreError`]: the store cannot be read.
pub(super) fn only_one<S: Store>(
    store: &S,
    found: &LinksDigest,
    expected: &LinksDigest,
) -> Result<Option<Put>, StoreError> {
    for page in pages(store, Query { limit: STORE_PAGE, ..Query::default() }) {
        let page = page?;
        for (id, stored) in page.ids.into_iter().zip(page.links) {
            let (head, version) = (stored.head, stored.head.version);
            let later = version.saturating_add(1)..=version.saturating_add(VERSIONS_MAX);
            let Some(version) = found.version_instead_of(expected, &id, version, later) else { continue };
            let mut record = stored.parse()?;
            record.version = version;
            let record = serde_json::to_vec(&record).expect("a record has string keys and no failing serializers");
            return Ok(Some(Put::of_record(id, crate::store::Head { version, ..head }, record)));
        }
    }
    Ok(None)
}

//! The links that the engine need not read from the store: those of uncommitted plans, and those that were used recently.
//!
//! A webhook seldom comes alone: one outage of a link has about eight inputs within minutes. So a cache saves most reads of the store, and
//! most decoding of records.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use quick_cache::unsync::Cache;

use crate::contract::TraceContext;
use crate::link::{Link, LinkId, Profile};

/// How many links the cache keeps. A link takes about 4 KB when its memory of recent facts is full, so this is at most 64 MB.
const CACHED_MAX: usize = 16_384;

/// A link, and the partition whose fence guards its messages.
#[derive(Clone)]
pub(super) struct LinkEntry {
    pub(super) link: Arc<Link>,
    pub(super) partition: u16,
    /// The trace of the input that began the open episode, if it was recorded.
    pub(super) trace: Option<TraceContext>,
}

/// The overlay and the cache.
pub(super) struct Links {
    /// Links that were changed by plans that are not committed yet.
    overlay: HashMap<LinkId, LinkEntry>,
    /// The links of the overlay by [`keys_of_user`].
    users: HashMap<String, BTreeSet<LinkId>>,
    /// Links as the store has them. A link that is in the overlay too may be older here.
    cache: Cache<LinkId, LinkEntry>,
}

impl Default for Links {
    fn default() -> Self {
        Self { overlay: HashMap::new(), users: HashMap::new(), cache: Cache::new(CACHED_MAX) }
    }
}

impl Links {
    /// The link as of the last plan.
    pub(super) fn get(&self, id: &LinkId) -> Option<&LinkEntry> {
        self.overlay.get(id).or_else(|| self.cache.get(id))
    }

    /// Whether a plan that is not committed has changed the link.
    pub(super) fn is_uncommitted(&self, id: &LinkId) -> bool {
        self.overlay.contains_key(id)
    }

    /// The links that uncommitted plans have changed and that have a key of the user of this profile. The caller compares
    /// them: a link with two equal keys is here twice.
    pub(super) fn uncommitted_of_same_user(&self, profile: &Profile) -> impl Iterator<Item = &Link> {
        let ids = keys_of_user(profile).filter_map(|key| self.users.get(key)).flatten();
        ids.filter_map(|id| Some(&*self.overlay.get(id)?.link))
    }

    /// A plan has changed a link.
    pub(super) fn change(&mut self, entry: LinkEntry) {
        let id = entry.link.id.clone();
        self.remove(&id);
        for key in keys_of_user(&entry.link.profile) {
            self.users.entry(key.to_owned()).or_default().insert(id.clone());
        }
        self.overlay.insert(id, entry);
    }

    /// The store has this link.
    pub(super) fn read(&mut self, entry: LinkEntry) {
        self.cache.insert(entry.link.id.clone(), entry);
    }

    /// This version of a link is committed.
    pub(super) fn record_commit(&mut self, id: &LinkId, version: u64) {
        if self.overlay.get(id).is_some_and(|entry| entry.link.version <= version)
            && let Some(entry) = self.remove(id)
        {
            self.cache.insert(id.clone(), entry);
        }
    }

    fn remove(&mut self, id: &LinkId) -> Option<LinkEntry> {
        let entry = self.overlay.remove(id)?;
        for key in keys_of_user(&entry.link.profile) {
            let Some(ids) = self.users.get_mut(key) else { continue };
            ids.remove(id);
            if ids.is_empty() {
                self.users.remove(key);
            }
        }
        Some(entry)
    }
}

/// The keys by which a link has the same user as another one. One plan may change thousands of links, so a look-up does
/// not compare all of them.
fn keys_of_user(profile: &Profile) -> impl Iterator<Item = &str> {
    [&profile.institution_user_id, &profile.external_id].into_iter().filter_map(|key| key.as_deref())
}

//! What surrounds the links of an answer: the other links of their persons, the newer links that replaced them, and the banks that are down.

use std::collections::BTreeMap;

use super::Server;
use super::problem::Problem;
use crate::contract::{IncidentChange, Record, ShownLink, Surroundings};
use crate::link::{Link, Prompt, Timestamp};
use crate::store::{Store, StoreError, StoredLink, links_of_same_person};

/// Reads the surroundings of links. What is the same for all links is read once.
pub(super) struct SurroundingsReader<'a> {
    store: &'a dyn Store,
    down: Down,
}

/// A link of the store, and what surrounds it.
pub(super) struct Surrounded {
    stored: StoredLink,
    surroundings: Surroundings,
}

impl<'a> SurroundingsReader<'a> {
    pub(super) fn new(store: &'a dyn Store) -> Result<Self, StoreError> {
        Ok(Self { store, down: Down::read(store)? })
    }

    /// A record that cannot be read as a link has no surroundings.
    pub(super) fn of(&self, stored: StoredLink) -> Result<Surrounded, StoreError> {
        let surroundings = stored.readable_link()?.map(|link| self.of_link(&link)).transpose()?;
        Ok(Surrounded { stored, surroundings: surroundings.unwrap_or_default() })
    }

    fn of_link(&self, link: &Link) -> Result<Surroundings, StoreError> {
        let episode = link.state.episode();
        // A message mentions an outage, or the end of a consent.
        let may_be_mentioned = episode.is_some() || link.profile.consent.is_some();
        let others = if may_be_mentioned { links_of_same_person(self.store, link, |_| false)? } else { Vec::new() };
        let successor = episode.and_then(|episode| episode.superseded_by.as_ref());
        let successor = successor.map(|id| self.store.get(id)).transpose()?.flatten();
        let successor = successor.map(|stored| stored.readable_link()).transpose()?.flatten();
        let successor_state = successor.map(|successor| successor.state.name());
        Ok(Surroundings { others, successor_state, down_since: self.down.since(link) })
    }
}

impl Surrounded {
    /// Whether the prompt of the link, which is this one, is postponed, and a message about another link of the person mentions the link.
    pub(super) fn is_mentioned(&self, link: &Link) -> bool {
        let is_postponed = link.awaits_user().is_some_and(|episode| matches!(episode.prompt, Prompt::Postponed { .. }));
        is_postponed && link.last_mention(&self.surroundings.others).is_some()
    }

    pub(super) fn show(&self, server: &Server) -> Result<ShownLink, Problem> {
        Ok(ShownLink::of(public(&self.stored)?, &self.surroundings, &server.policy))
    }
}

/// The record without `recent`, which only relink uses.
fn public(stored: &StoredLink) -> Result<Record, Problem> {
    let mut record = stored.parse().map_err(Problem::internal)?;
    record.recent.0.clear();
    Ok(record)
}

/// The institutions that are down, and since when.
pub(super) struct Down(BTreeMap<String, Timestamp>);

impl Down {
    pub(super) fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let began = store.incidents()?.into_iter().filter(|incident| incident.change == IncidentChange::Began);
        Ok(Self(began.map(|incident| (incident.institution, incident.began_at.0)).collect()))
    }

    /// Since when the institution of the link is down.
    pub(super) fn since(&self, link: &Link) -> Option<Timestamp> {
        self.0.get(link.profile.institution.as_ref()?).copied()
    }
}

//! Reads links by their ids, fifty in each request.
//!
//! If a request fails, its ids are split into halves, so that one link that Belvo cannot return does not fail the
//! other forty-nine. A link that fails alone is skipped and read again later (`deferred`).

use std::collections::BTreeSet;

use uuid::Uuid;

use super::compare::{Known, Read};
use super::deferred::Element;
use super::{Reconciler, SweepError, Swept, with_id};
use crate::belvo::{CallError, IDS_MAX, LinkFilter, Unrelated};
use crate::contract::ReadOutcome;
use crate::link::LinkId;

/// More failures in a row than this mean that Belvo fails, and not a single link: splitting fifty links down to one
/// link takes seven failures.
const FAILURES_MAX: u32 = 8;

impl Reconciler {
    /// Reads these links by id, and publishes the reads that would change them.
    pub(super) async fn read_and_compare(&self, ids: Vec<LinkId>) -> Result<Swept, SweepError> {
        let (mut swept, mut missing, mut answered_count, mut failures) = (Swept::default(), Vec::new(), 0, 0);
        // Belvo refuses the whole request if one id is not a UUID. A repeated id would count as missing the second
        // time.
        let ids: BTreeSet<LinkId> = ids.into_iter().filter(is_belvos).collect();
        let ids: Vec<LinkId> = ids.into_iter().collect();
        let mut chunks: Vec<Vec<LinkId>> = ids.chunks(IDS_MAX).rev().map(<[_]>::to_vec).collect();
        while let Some(chunk) = chunks.pop() {
            // The store is read before the request is sent, so the answer is newer than the record, whatever the
            // clocks show.
            let known = self.known(chunk).await?.into_iter().flatten();
            let (known, gone): (Vec<_>, Vec<_>) =
                known.partition(|known| Self::is_tracked(known.link().state.name(), known.is_known()));
            gone.iter().for_each(|gone| self.clear_deferral(&Element::link(gone.id().clone())));
            if known.is_empty() {
                continue;
            }
            match self.read_by_id(&known).await {
                Ok(found) => {
                    failures = 0;
                    answered_count += known.iter().filter(|known| !known.is_unobserved()).count();
                    swept.read_count += found.len();
                    swept.drifted_count +=
                        self.compare_found(known, found, &mut missing, &mut swept.skipped_count).await?;
                }
                Err(error) => {
                    failures += 1;
                    if failures > FAILURES_MAX || is_about_keys(&error) {
                        return Err(error.into());
                    }
                    swept.skipped_count += self.split(&known, &error, &mut chunks);
                }
            }
        }
        self.assess_missing(answered_count, missing, &mut swept).await?;
        Ok(swept)
    }

    /// The links that Belvo returns for these ids.
    async fn read_by_id(&self, known: &[Known]) -> Result<Vec<(LinkId, Read)>, CallError> {
        let mut wanted: BTreeSet<&LinkId> = known.iter().map(Known::id).collect();
        let mut found = Vec::with_capacity(known.len());
        let mut pages = self.parts.belvo.links(&LinkFilter::Ids(wanted.iter().map(|&id| id.clone()).collect()));
        // Stops when every id was found: a gateway may have dropped the filter, and the list would be that of all
        // links.
        while !wanted.is_empty()
            && let Some(page) = pages.next().await?
        {
            let read_at = self.parts.clock.now().before(page.took);
            let links = self.with_ids(page, with_id);
            for (id, link) in links.into_iter().filter(|(id, _)| wanted.remove(id)) {
                found.push((id, Read { outcome: ReadOutcome::Found { link }, read_at }));
            }
        }
        Ok(found)
    }

    /// Publishes the changes of the links that were found. Returns how many are drift, and adds the others to
    /// `missing`.
    async fn compare_found(
        &self,
        known: Vec<Known>,
        mut found: Vec<(LinkId, Read)>,
        missing: &mut Vec<Known>,
        skipped_count: &mut usize,
    ) -> Result<usize, SweepError> {
        let mut changes = Vec::new();
        for known in known {
            match found.iter().position(|(id, _)| id == known.id()) {
                Some(place) => {
                    let (id, read) = found.swap_remove(place);
                    self.clear_deferral(&Element::link(id));
                    changes.extend(self.compare(&known, read));
                }
                None => missing.push(known),
            }
        }
        self.publish_changes(changes, skipped_count).await
    }

    /// Splits links whose common request failed, or skips the last one. Links that have failed before and are still
    /// deferred are skipped at once. Returns how many were skipped.
    fn split(&self, known: &[Known], error: &CallError, chunks: &mut Vec<Vec<LinkId>>) -> usize {
        let (waiting, rest): (Vec<_>, Vec<_>) =
            known.iter().map(Known::id).cloned().partition(|id| known.len() > 1 && self.is_deferred(id));
        match rest.as_slice() {
            [] => {}
            [one] if waiting.is_empty() => {
                self.skip("belvo", Element::link(one.clone()), error);
                return 1;
            }
            rest if waiting.is_empty() => {
                let (left, right) = rest.split_at(rest.len() / 2);
                chunks.extend([right.to_vec(), left.to_vec()]);
            }
            rest => chunks.push(rest.to_vec()),
        }
        waiting.len()
    }
}

/// Whether Belvo refused relink's keys; then every other request would fail too.
pub(super) const fn is_about_keys(error: &CallError) -> bool {
    matches!(error, CallError::Permanent { class: Some(Unrelated::Keys), .. })
}

/// Whether the id has the form of Belvo's ids. Any program can publish an input with another id.
fn is_belvos(id: &LinkId) -> bool {
    id.as_str().len() == 36 && Uuid::try_parse(id.as_str()).is_ok()
}

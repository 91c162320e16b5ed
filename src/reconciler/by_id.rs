//! Links that are asked for by their ids, fifty at a time.
//!
//! If Belvo does not show one fifty, it is asked for in halves: one link that cannot be shown must not hide the other
//! forty-nine. A link that fails alone is skipped, and tried again later (`put_off`).

use std::collections::BTreeSet;

use uuid::Uuid;

use super::compare::{Known, Read};
use super::put_off::Element;
use super::{Reconciler, SweepError, Swept, with_id};
use crate::belvo::{CallError, IDS_MAX, LinkFilter, Unrelated};
use crate::contract::Outcome;
use crate::link::LinkId;

/// After so many failures in a row it is Belvo that fails, and not a link: the halves of fifty take seven.
const FAILURES_MAX: u32 = 8;

impl Reconciler {
    /// Asks for these links by id, and publishes what would move them.
    pub(super) async fn examine(&self, ids: Vec<LinkId>) -> Result<Swept, SweepError> {
        let (mut swept, mut missing, mut answered_count, mut failures) = (Swept::default(), Vec::new(), 0, 0);
        // Belvo refuses a whole request for one id that is none of its own. A link that is asked for twice would be missing
        // the second time.
        let ids: BTreeSet<LinkId> = ids.into_iter().filter(is_belvos).collect();
        let ids: Vec<LinkId> = ids.into_iter().collect();
        let mut chunks: Vec<Vec<LinkId>> = ids.chunks(IDS_MAX).rev().map(<[_]>::to_vec).collect();
        while let Some(chunk) = chunks.pop() {
            // Read before the question leaves, so that the answer is newer, whatever clocks say.
            let known = self.known(chunk).await?.into_iter().flatten();
            let (known, gone): (Vec<_>, Vec<_>) =
                known.partition(|known| Self::is_of_interest(known.link().state.name(), known.is_known()));
            gone.iter().for_each(|gone| self.looked_at(&Element::link(gone.id().clone())));
            if known.is_empty() {
                continue;
            }
            match self.read_by_id(&known).await {
                Ok(found) => {
                    failures = 0;
                    answered_count += known.iter().filter(|known| !known.is_stranger()).count();
                    swept.read_count += found.len();
                    swept.drifted_count += self.take_in(known, found, &mut missing, &mut swept.skipped_count).await?;
                }
                Err(error) => {
                    failures += 1;
                    if failures > FAILURES_MAX || is_about_keys(&error) {
                        return Err(error.into());
                    }
                    swept.skipped_count += self.part(&known, &error, &mut chunks);
                }
            }
        }
        self.judge_missing(answered_count, missing, &mut swept).await?;
        Ok(swept)
    }

    /// What Belvo lists of these links.
    async fn read_by_id(&self, known: &[Known]) -> Result<Vec<(LinkId, Read)>, CallError> {
        let mut wanted: BTreeSet<&LinkId> = known.iter().map(Known::id).collect();
        let mut found = Vec::with_capacity(known.len());
        let mut pages = self.parts.belvo.links(&LinkFilter::Ids(wanted.iter().map(|&id| id.clone()).collect()));
        // No further than to the last of them: a gateway may have lost the filter on the way.
        while !wanted.is_empty()
            && let Some(page) = pages.next().await?
        {
            let read_at = self.parts.clock.now().before(page.took);
            let links = self.with_ids(page, with_id);
            for (id, link) in links.into_iter().filter(|(id, _)| wanted.remove(id)) {
                found.push((id, Read { outcome: Outcome::Found { link }, read_at }));
            }
        }
        Ok(found)
    }

    /// Publishes what moved of the links that were found; gives how many, and collects those that were not found.
    async fn take_in(
        &self,
        known: Vec<Known>,
        mut found: Vec<(LinkId, Read)>,
        missing: &mut Vec<Known>,
        skipped_count: &mut usize,
    ) -> Result<usize, SweepError> {
        let mut moves = Vec::new();
        for known in known {
            match found.iter().position(|(id, _)| id == known.id()) {
                Some(place) => {
                    let (id, read) = found.swap_remove(place);
                    self.looked_at(&Element::link(id));
                    moves.extend(self.compare(&known, read));
                }
                None => missing.push(known),
            }
        }
        self.report(moves, skipped_count).await
    }

    /// Splits links that could not be read together, or skips the one that is left; gives how many are skipped. Those that
    /// have failed before and still wait are skipped at once.
    fn part(&self, known: &[Known], error: &CallError, chunks: &mut Vec<Vec<LinkId>>) -> usize {
        let (waiting, rest): (Vec<_>, Vec<_>) =
            known.iter().map(Known::id).cloned().partition(|id| known.len() > 1 && self.is_put_off(id));
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

/// Whether an error is about our keys, so that no other question is worth asking.
pub(super) const fn is_about_keys(error: &CallError) -> bool {
    matches!(error, CallError::Permanent { class: Some(Unrelated::Keys), .. })
}

/// Whether Belvo could have given the id: anybody may publish about a link, and call it what they like.
fn is_belvos(id: &LinkId) -> bool {
    id.as_str().len() == 36 && Uuid::try_parse(id.as_str()).is_ok()
}

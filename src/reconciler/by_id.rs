//! Links that are asked for by their ids, fifty at a time.

use uuid::Uuid;

use super::compare::Read;
use super::{Reconciler, SweepError, Swept, with_id};
use crate::belvo::{IDS_MAX, LinkFilter};
use crate::contract::Outcome;
use crate::link::LinkId;

impl Reconciler {
    /// Asks for these links by id, and publishes what would move them.
    pub(super) async fn examine(&self, ids: Vec<LinkId>) -> Result<Swept, SweepError> {
        let (mut swept, mut missing) = (Swept::default(), Vec::new());
        // Belvo refuses a whole request for one id that is none of its own.
        let ids: Vec<LinkId> = ids.into_iter().filter(is_belvos).collect();
        for chunk in ids.chunks(IDS_MAX) {
            // Read before the question leaves, so that the answer is newer, whatever clocks say.
            let known = self.known(chunk.to_vec()).await?;
            let mut found = Vec::new();
            let mut pages = self.parts.belvo.links(&LinkFilter::Ids(chunk.to_vec()));
            while let Some(page) = pages.next().await? {
                let read_at = self.parts.clock.now().before(page.took);
                found.extend(page.items.into_iter().filter_map(with_id).map(|(id, link)| (id, link, read_at)));
            }
            swept.read_count += found.len();
            let mut moves = Vec::new();
            for known in known {
                let place = found.iter().position(|(id, _, _)| id == known.id());
                match place.map(|place| found.swap_remove(place)) {
                    Some((_, link, read_at)) => {
                        let read = Read { outcome: Outcome::Found { link }, read_at };
                        moves.extend(self.compare(&known, read));
                    }
                    None => missing.push(known),
                }
            }
            swept.drifted_count += self.report(moves).await?;
        }
        self.judge_missing(ids.len(), missing, &mut swept).await?;
        Ok(swept)
    }
}

/// Whether Belvo could have given the id: anybody may publish about a link, and call it what they like.
fn is_belvos(id: &LinkId) -> bool {
    id.as_str().len() == 36 && Uuid::try_parse(id.as_str()).is_ok()
}

//! Links that were asked for by id and did not come: a deletion each, or an incident at large.
//!
//! A tombstone is for ever. So many at once are not believed (`belvo::MissingGuard`), nor is any while Belvo knows no
//! link at all, and of the rest each is asked for once more by itself. What is not believed is left as it is, and asked
//! again next time.

use super::compare::{Known, Read};
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{LinkRead, Verdict};
use crate::contract::Outcome;

impl Reconciler {
    pub(super) async fn judge_missing(
        &self,
        asked: usize,
        missing: Vec<Known>,
        swept: &mut Swept,
    ) -> Result<(), SweepError> {
        if missing.is_empty() {
            if asked > 0 {
                metrics::gauge!("relink_missing_held").set(0.0);
            }
            return Ok(());
        }
        let mut verdict = self.parts.guard.judge_pass(asked, missing.len(), self.parts.clock.now());
        if verdict == Verdict::Believable && !self.parts.belvo.knows_any_link().await? {
            verdict = self.parts.guard.judge_emptiness(self.parts.clock.now());
        }
        if let Verdict::Incident { begins } = verdict {
            swept.held_count = missing.len();
            metrics::gauge!("relink_missing_held").set(f64::from(u32::try_from(missing.len()).unwrap_or(u32::MAX)));
            if begins {
                tracing::error!(
                    links.asked_count = asked,
                    links.missing_count = missing.len(),
                    "Belvo does not know many links that relink knows. That is an incident, so none of them counts as \
                     deleted: its sandbox is emptied on the first of each month; or are RELINK_BELVO_URL and the keys \
                     of another environment? If they were deleted, send `forget` for each (POST \
                     /v1/links/{{id}}/commands)"
                );
            }
            return Ok(());
        }
        metrics::gauge!("relink_missing_held").set(0.0);
        let mut moves = Vec::new();
        for known in &missing {
            let asked_at = self.parts.clock.now();
            let outcome = match self.parts.belvo.get_link(known.id()).await? {
                LinkRead::Found(link) => Outcome::Found { link },
                LinkRead::Missing => Outcome::Missing,
            };
            moves.extend(self.compare(known, Read { outcome, read_at: asked_at }));
        }
        swept.drifted_count += self.report(moves).await?;
        Ok(())
    }
}

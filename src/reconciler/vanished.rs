//! Links that were asked for by id and did not come: a deletion each, or an incident at large.
//!
//! A tombstone is for ever. So many at once are not believed (`belvo::MissingGuard`), nor is any while Belvo knows no
//! link at all, and of the rest each is asked for once more by itself. What is not believed is left as it is, and asked
//! again next time. What cannot be asked for is skipped, and tried again later (`put_off`).

use super::compare::{Known, Read};
use super::put_off::Element;
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{CallError, LinkRead, Verdict};
use crate::contract::Outcome;
use crate::metric;

/// After so many failures in a row it is Belvo that fails: the others are put off without a question.
const FAILURES_MAX: u32 = 10;

impl Reconciler {
    /// `answered` known links were asked for by id, and those of them that are `missing` did not come; strangers among the
    /// missing are no sign of anything.
    pub(super) async fn judge_missing(
        &self,
        answered: usize,
        missing: Vec<Known>,
        swept: &mut Swept,
    ) -> Result<(), SweepError> {
        if missing.is_empty() {
            if answered > 0 {
                metrics::gauge!(metric::MISSING_UNCONFIRMED.name).set(0.0);
            }
            return Ok(());
        }
        let known_missing = missing.iter().filter(|known| !known.is_stranger()).count();
        let mut verdict = self.parts.guard.judge_pass(answered, known_missing, self.parts.clock.now());
        if verdict == Verdict::Believable {
            match self.parts.belvo.knows_any_link().await {
                Ok(true) => {}
                Ok(false) => verdict = self.parts.guard.judge_emptiness(self.parts.clock.now()),
                Err(error) => {
                    missing.iter().for_each(|known| self.skip("belvo", Element::link(known.id().clone()), &error));
                    swept.skipped_count += missing.len();
                    return Ok(());
                }
            }
        }
        if let Verdict::Incident { begins } = verdict {
            swept.held_count = missing.len();
            metrics::gauge!(metric::MISSING_UNCONFIRMED.name)
                .set(f64::from(u32::try_from(missing.len()).unwrap_or(u32::MAX)));
            if begins {
                tracing::error!(
                    links.asked_count = answered,
                    links.missing_count = known_missing,
                    "Belvo does not know many links that relink knows. That is an incident, so none of them counts as \
                     deleted: its sandbox is emptied on the first of each month; or are RELINK_BELVO_URL and the keys \
                     of another environment? If they were deleted, send `forget` for each (POST \
                     /v1/links/{{id}}/commands)"
                );
            }
            return Ok(());
        }
        metrics::gauge!(metric::MISSING_UNCONFIRMED.name).set(0.0);
        self.ask_one_by_one(&missing, swept).await
    }

    async fn ask_one_by_one(&self, missing: &[Known], swept: &mut Swept) -> Result<(), SweepError> {
        let (mut moves, mut failures, mut last) = (Vec::new(), 0, None::<CallError>);
        for known in missing {
            let element = Element::link(known.id().clone());
            if let Some(error) = last.as_ref().filter(|_| failures >= FAILURES_MAX) {
                self.skip("belvo", element, error);
                swept.skipped_count += 1;
                continue;
            }
            let asked_at = self.parts.clock.now();
            let outcome = match self.parts.belvo.get_link(known.id()).await {
                Ok(LinkRead::Found(link)) => Outcome::Found { link },
                Ok(LinkRead::Missing) => Outcome::Missing,
                Err(error) => {
                    self.skip("belvo", element, &error);
                    swept.skipped_count += 1;
                    failures += 1;
                    last = Some(error);
                    continue;
                }
            };
            failures = 0;
            self.looked_at(&element);
            moves.extend(self.compare(known, Read { outcome, read_at: asked_at }));
        }
        swept.drifted_count += self.report(moves, &mut swept.skipped_count).await?;
        Ok(())
    }
}

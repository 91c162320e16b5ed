//! Links that were read by id and are missing in the answer: deleted ones, or an incident.
//!
//! A removal is final. So when many links are missing at once (`belvo::MissingGuard`), or when Belvo returns no link
//! at all, none of them counts as deleted. Otherwise each missing link is read once more by itself. Unconfirmed links
//! stay as they are and are read again in the next pass. A link whose read fails is deferred (`deferred`).

use super::compare::{Known, Read};
use super::deferred::Element;
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{Absence, CallError, LinkRead};
use crate::contract::ReadOutcome;
use crate::metric;

/// This many failures in a row mean that Belvo fails, and not a single link: the other links are deferred without a
/// request.
const FAILURES_MAX: u32 = 10;

impl Reconciler {
    /// Decides whether the `missing` links were deleted; `answered` links were read by id. A link that no read has ever
    /// found is no sign of an incident.
    pub(super) async fn assess_missing(
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
        let known_missing = missing.iter().filter(|known| !known.is_unobserved()).count();
        let mut absence = self.parts.guard.assess_pass(answered, known_missing, self.parts.clock.now());
        if absence == Absence::Deletion {
            match self.parts.belvo.knows_any_link().await {
                Ok(true) => {}
                Ok(false) => absence = self.parts.guard.assess_emptiness(self.parts.clock.now()),
                Err(error) => {
                    missing.iter().for_each(|known| self.skip("belvo", Element::link(known.id().clone()), &error));
                    swept.skipped_count += missing.len();
                    return Ok(());
                }
            }
        }
        if let Absence::Incident { begins } = absence {
            swept.unconfirmed_count = missing.len();
            metrics::gauge!(metric::MISSING_UNCONFIRMED.name)
                .set(f64::from(u32::try_from(missing.len()).unwrap_or(u32::MAX)));
            if begins {
                tracing::error!(
                    links.asked_count = answered,
                    links.missing_count = known_missing,
                    "Belvo does not know many links that relink knows. relink treats this as an incident: \
                     none of them counts as deleted. Possible reasons: Belvo empties its sandbox on the first of \
                     each month, or RELINK_BELVO_URL and the keys belong to another environment. If the links \
                     were deleted, send `forget` for each (POST /v1/links/{{id}}/commands)"
                );
            }
            return Ok(());
        }
        metrics::gauge!(metric::MISSING_UNCONFIRMED.name).set(0.0);
        self.read_one_by_one(&missing, swept).await
    }

    async fn read_one_by_one(&self, missing: &[Known], swept: &mut Swept) -> Result<(), SweepError> {
        let (mut changes, mut failures, mut last) = (Vec::new(), 0, None::<CallError>);
        for known in missing {
            let element = Element::link(known.id().clone());
            if let Some(error) = last.as_ref().filter(|_| failures >= FAILURES_MAX) {
                self.skip("belvo", element, error);
                swept.skipped_count += 1;
                continue;
            }
            let asked_at = self.parts.clock.now();
            let outcome = match self.parts.belvo.get_link(known.id()).await {
                Ok(LinkRead::Found(link)) => ReadOutcome::Found { link },
                Ok(LinkRead::Missing) => ReadOutcome::Missing,
                Err(error) => {
                    self.skip("belvo", element, &error);
                    swept.skipped_count += 1;
                    failures += 1;
                    last = Some(error);
                    continue;
                }
            };
            failures = 0;
            self.clear_deferral(&element);
            changes.extend(self.compare(known, Read { outcome, read_at: asked_at }));
        }
        swept.drifted_count += self.publish_changes(changes, &mut swept.skipped_count).await?;
        Ok(())
    }
}

//! Lists all consents (Open Finance Brazil), to find due dates and consents that have ended.
//!
//! Belvo announces the end of a consent only to customers who asked its support for it, and has no webhook for a
//! revoked consent. Without consents, or without the permission to list them, this costs one call in each rotation.

use serde_json::{Map, Value};

use super::compare::Read;
use super::deferred::Element;
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{CallError, Unrelated};
use crate::contract::ReadOutcome;
use crate::link::LinkId;

/// This many failures in a row mean that Belvo fails, and not a single consent: the other consents are deferred without
/// a request.
const FAILURES_MAX: u32 = 10;

impl Reconciler {
    /// Lists all consents at Belvo, and publishes those that would change a link that relink knows.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep_consents(&self) -> Result<Swept, SweepError> {
        let _progress = self.progress.lock().await;
        let step = async {
            match self.list_consents().await {
                Err(SweepError::Belvo(CallError::Permanent { why, class: Some(Unrelated::Permission) })) => {
                    tracing::info!(why, "Belvo's keys may not list consents, so relink does not know their due dates");
                    Ok(Swept::default())
                }
                listed => listed,
            }
        };
        self.timed("consents", step).await
    }

    async fn list_consents(&self) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        let mut pages = self.parts.belvo.consents();
        while let Some(page) = self.next_page(&mut pages, &mut swept).await? {
            let read_at = self.parts.clock.now().before(page.took);
            swept.read_count += page.items.len();
            let consents = self.with_ids(page, with_link);
            let known = self.known(consents.iter().map(|(link, _)| link.clone()).collect()).await?;
            // The survey adopts unknown links, so a consent of an unknown link is ignored here.
            let pairs = consents.into_iter().zip(known).filter_map(|((_, consent), known)| Some((consent, known?)));
            let (mut changes, mut differing) = (Vec::new(), Vec::new());
            for (consent, known) in pairs.filter(|(_, known)| known.is_known()) {
                let is_introduced = known.link().profile.consent.is_some();
                let id = consent.get("id").and_then(Value::as_str).map(str::to_owned);
                let found = self.compare(&known, Read { outcome: ReadOutcome::Consent { consent }, read_at });
                match (found, id) {
                    (Some(_), Some(id)) if is_introduced => differing.push((known.id().clone(), id)),
                    (found, _) => changes.extend(found),
                }
            }
            swept.drifted_count += self.publish_changes(changes, &mut swept.skipped_count).await?;
            // A list takes long, and the user may have renewed meanwhile. So the differing consents are read once
            // more.
            swept.drifted_count += self.read_consents(differing, &mut swept.skipped_count).await?;
        }
        Ok(swept)
    }

    /// Reads these consents one by one, and publishes the reads that would change their links. Returns how many are
    /// drift. A consent that cannot be read is skipped.
    pub(super) async fn read_consents(
        &self,
        consents: Vec<(LinkId, String)>,
        skipped_count: &mut usize,
    ) -> Result<usize, SweepError> {
        let (mut changes, mut failures, mut last) = (Vec::new(), 0, None::<CallError>);
        for (link, id) in consents {
            let element = Element { link: link.clone(), consent: Some(id.clone()) };
            if let Some(error) = last.as_ref().filter(|_| failures >= FAILURES_MAX) {
                self.skip("belvo", element, error);
                *skipped_count += 1;
                continue;
            }
            // The store is read before the request is sent, so the answer is newer than the record, whatever the
            // clocks show.
            let Some(known) = self.known(vec![link.clone()]).await?.into_iter().flatten().next() else { continue };
            if !Self::is_tracked(known.link().state.name(), known.is_known()) {
                self.clear_deferral(&element);
                continue;
            }
            let read_at = self.parts.clock.now();
            match self.parts.belvo.get_consent(&link, &id).await {
                Ok(consent) => {
                    failures = 0;
                    self.clear_deferral(&element);
                    let read = consent.map(|consent| Read { outcome: ReadOutcome::Consent { consent }, read_at });
                    changes.extend(read.and_then(|read| self.compare(&known, read)));
                }
                Err(error) => {
                    self.skip("belvo", element, &error);
                    *skipped_count += 1;
                    failures += 1;
                    last = Some(error);
                }
            }
        }
        self.publish_changes(changes, skipped_count).await
    }
}

/// A consent with the id of its link; `None` if the id is missing or invalid.
fn with_link(consent: Map<String, Value>) -> Option<(LinkId, Map<String, Value>)> {
    let link = consent.get("link_id")?.as_str()?.parse().ok()?;
    Some((link, consent))
}

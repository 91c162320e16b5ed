//! The list of all consents (Open Finance Brazil): due dates, and consents that ended without a word.
//!
//! Belvo announces the end of a consent only to customers who asked its support for it, and has no webhook for one that
//! was revoked. Whoever has no such links, or may not list consents, loses one call in each rotation.

use serde_json::{Map, Value};

use super::compare::Read;
use super::put_off::Element;
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{CallError, Unrelated};
use crate::contract::Outcome;
use crate::link::LinkId;

/// After so many failures in a row it is Belvo that fails: the others are put off without a question.
const FAILURES_MAX: u32 = 10;

impl Reconciler {
    /// Lists every consent of Belvo's, and publishes what is news of a link that relink knows.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep_consents(&self) -> Result<Swept, SweepError> {
        let _progress = self.progress.lock().await;
        let step = async {
            match self.list_consents().await {
                Err(SweepError::Belvo(CallError::Permanent { why, class: Some(Unrelated::Permission) })) => {
                    tracing::info!(why, "consents are not listed for these keys, so none is followed");
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
            // The survey introduces links; a consent without a link that relink knows is nobody's yet.
            let pairs = consents.into_iter().zip(known).filter_map(|((_, consent), known)| Some((consent, known?)));
            let (mut moves, mut suspects) = (Vec::new(), Vec::new());
            for (consent, known) in pairs.filter(|(_, known)| known.is_known()) {
                let is_introduced = known.link().profile.consent.is_some();
                let id = consent.get("id").and_then(Value::as_str).map(str::to_owned);
                let found = self.compare(&known, Read { outcome: Outcome::Consent { consent }, read_at });
                match (found, id) {
                    (Some(_), Some(id)) if is_introduced => suspects.push((known.id().clone(), id)),
                    (found, _) => moves.extend(found),
                }
            }
            swept.drifted_count += self.report(moves, &mut swept.skipped_count).await?;
            // A list takes long, and the renewal may have come meanwhile: those that disagree are asked for once more.
            swept.drifted_count += self.read_consents(suspects, &mut swept.skipped_count).await?;
        }
        Ok(swept)
    }

    /// Asks for these consents one by one, and publishes what would move their links; gives how many. One that cannot be
    /// read hides no other.
    pub(super) async fn read_consents(
        &self,
        consents: Vec<(LinkId, String)>,
        skipped_count: &mut usize,
    ) -> Result<usize, SweepError> {
        let (mut moves, mut failures, mut last) = (Vec::new(), 0, None::<CallError>);
        for (link, id) in consents {
            let element = Element { link: link.clone(), consent: Some(id.clone()) };
            if let Some(error) = last.as_ref().filter(|_| failures >= FAILURES_MAX) {
                self.skip("belvo", element, error);
                *skipped_count += 1;
                continue;
            }
            // Looked up before the question leaves, so that the answer is newer, whatever clocks say.
            let Some(known) = self.known(vec![link.clone()]).await?.into_iter().flatten().next() else { continue };
            if !Self::is_of_interest(known.link().state.name(), known.is_known()) {
                self.looked_at(&element);
                continue;
            }
            let read_at = self.parts.clock.now();
            match self.parts.belvo.get_consent(&link, &id).await {
                Ok(consent) => {
                    failures = 0;
                    self.looked_at(&element);
                    let read = consent.map(|consent| Read { outcome: Outcome::Consent { consent }, read_at });
                    moves.extend(read.and_then(|read| self.compare(&known, read)));
                }
                Err(error) => {
                    self.skip("belvo", element, &error);
                    *skipped_count += 1;
                    failures += 1;
                    last = Some(error);
                }
            }
        }
        self.report(moves, skipped_count).await
    }
}

/// A consent that names its link.
fn with_link(consent: Map<String, Value>) -> Option<(LinkId, Map<String, Value>)> {
    let link = consent.get("link_id")?.as_str()?.parse().ok()?;
    Some((link, consent))
}

//! The list of all consents (Open Finance Brazil): due dates, and consents that ended without a word.
//!
//! Belvo announces the end of a consent only to customers who asked its support for it, and has no webhook for one that
//! was revoked. Whoever has no such links, or may not list consents, loses one call in each rotation.

use serde_json::{Map, Value};

use super::compare::{Move, Read};
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{CallError, Unrelated};
use crate::contract::Outcome;
use crate::link::LinkId;

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
        while let Some(page) = pages.next().await? {
            let read_at = self.parts.clock.now().before(page.took);
            swept.read_count += page.items.len();
            let consents: Vec<_> = page.items.into_iter().filter_map(with_link).collect();
            let known = self.known(consents.iter().map(|(link, _)| link.clone()).collect()).await?;
            // The survey introduces links; a consent without a link that relink knows is nobody's yet.
            let pairs = consents.into_iter().zip(known).filter(|(_, known)| known.is_known());
            let (mut moves, mut suspects) = (Vec::new(), Vec::new());
            for ((_, consent), known) in pairs {
                let is_introduced = known.link().profile.consent.is_some();
                let id = consent.get("id").and_then(Value::as_str).map(str::to_owned);
                let found = self.compare(&known, Read { outcome: Outcome::Consent { consent }, read_at });
                match (found, id) {
                    (Some(_), Some(id)) if is_introduced => suspects.push((known, id)),
                    (found, _) => moves.extend(found),
                }
            }
            // A list takes long, and the renewal may have come meanwhile: those that disagree are asked for once more.
            for (known, id) in suspects {
                moves.extend(self.read_again(known.id(), &id).await?);
            }
            swept.drifted_count += self.report(moves).await?;
        }
        Ok(swept)
    }

    async fn read_again(&self, link: &LinkId, id: &str) -> Result<Option<Move>, SweepError> {
        // Looked up before the question leaves, so that the answer is newer, whatever clocks say.
        let known = self.known(vec![link.clone()]).await?;
        let read_at = self.parts.clock.now();
        let read = self.parts.belvo.get_consent(link, id).await?;
        let consent = read.map(|consent| Read { outcome: Outcome::Consent { consent }, read_at });
        Ok(known.first().zip(consent).and_then(|(known, read)| self.compare(known, read)))
    }
}

/// A consent that names its link.
fn with_link(consent: Map<String, Value>) -> Option<(LinkId, Map<String, Value>)> {
    let link = consent.get("link_id")?.as_str()?.parse().ok()?;
    Some((link, consent))
}

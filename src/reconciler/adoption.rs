//! Adoption: links that were broken before relink was installed are muted, and released a few at a time.
//!
//! ```text
//!   unknown, broken ─▶ mute, then the observation ─▶ broken, its prompt muted ─▶ unmute, 60 an hour ─▶ one prompt
//! ```
//!
//! When relink is installed, thousands of links may already be broken; adoption keeps their users from being prompted
//! in the same minute. Nothing is stored beside the stream: the `mute` of an adoption has a message id that begins
//! with [`ADOPTION_ID`], and the history of the link contains it. So a restart or a lost store loses nothing, and a link
//! that an operator muted is never unmuted here.

use std::collections::{HashSet, VecDeque};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::compare::Change;
use super::deferred::Element;
use super::{PUBLISHES_MAX, Reconciler, STORE_PAGE, SweepError};
use crate::contract::{ADOPTION_ID, Because, Command, CommandName, HistoryKind, InputKind};
use crate::link::{EventName, LinkId, StateName};
use crate::metric;
use crate::store::{Page, Query};

/// More failed reads of histories in a row than this mean that NATS fails, and not a single history.
const FAILURES_MAX: u32 = 3;

/// The adopted links that this process knows.
#[derive(Default)]
pub(super) struct Adopted {
    /// Links to release, and links that operators muted: the history, which is read at the release, distinguishes them.
    waiting: VecDeque<LinkId>,
    /// Whether the links that earlier processes adopted have been loaded from the store.
    searched: bool,
}

/// The result of an attempt to release one link.
enum Release {
    /// The link was unmuted while broken: its user is prompted now.
    Released,
    /// The link was unmuted without a prompt, or adoption did not mute it.
    NotNeeded,
    /// The observation of the adoption has not been handled yet.
    TooEarly,
}

impl Reconciler {
    /// Publishes the reads of links that relink does not know, with a `mute` first for the broken ones. Returns how
    /// many links were skipped.
    pub(super) async fn adopt(&self, found: Vec<Change>, adopted: &mut Adopted) -> Result<usize, SweepError> {
        let is_broken = |found: &Change| matches!(found.to, StateName::Invalid | StateName::TokenRequired);
        adopted.waiting.extend(found.iter().filter(|found| is_broken(found)).map(|found| found.link.clone()));
        let published = stream::iter(found).map(|found| async move {
            if is_broken(&found) {
                self.command(CommandName::Mute, &found.link, "adopted").await?;
            }
            let published = self.publish(InputKind::Observation, &found.link, found.body, None).await;
            if !self.is_published(&found.link, published)? {
                return Ok(1);
            }
            let state = found.to.as_str();
            metrics::counter!(metric::ADOPTED.name, "institution" => found.institution, "state" => state).increment(1);
            Ok::<_, SweepError>(0)
        });
        published.buffer_unordered(PUBLISHES_MAX).try_fold(0, async |count, skipped| Ok(count + skipped)).await
    }

    /// Releases one adopted link: unmutes it, so that its user is prompted if the link is still broken. Returns
    /// whether there was such a link.
    ///
    /// Links that were repaired meanwhile are unmuted too and do not count, because their users receive no prompt.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn release_adopted(&self) -> Result<bool, SweepError> {
        let mut progress = self.progress.lock().await;
        let adopted = &mut progress.adopted;
        if !adopted.searched {
            let muted = self.find_muted().await?;
            // Those that this process has adopted wait already.
            let known: HashSet<LinkId> = adopted.waiting.iter().cloned().collect();
            adopted.waiting.extend(muted.into_iter().filter(|link| !known.contains(link)));
            adopted.searched = true;
        }
        let (mut released, mut failures) = (false, 0);
        for _ in 0..adopted.waiting.len() {
            let Some(link) = adopted.waiting.pop_front() else { break };
            let release = match self.try_release(&link).await {
                Ok(turn) => turn,
                Err(error) => {
                    // The link goes to the end of the queue, so that its error does not block the links behind it.
                    adopted.waiting.push_back(link.clone());
                    failures += 1;
                    if failures > FAILURES_MAX || !matches!(error, SweepError::History(_)) {
                        return Err(error);
                    }
                    self.skip("history", Element::link(link), &error);
                    continue;
                }
            };
            match release {
                Release::Released => {
                    released = true;
                    break;
                }
                Release::TooEarly => adopted.waiting.push_back(link),
                Release::NotNeeded => {}
            }
        }
        let waiting = u32::try_from(adopted.waiting.len()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::ADOPTIONS_PENDING.name).set(f64::from(waiting));
        Ok(released)
    }

    async fn try_release(&self, link: &LinkId) -> Result<Release, SweepError> {
        let Some(known) = self.known(vec![link.clone()]).await?.into_iter().flatten().next() else {
            return Ok(Release::TooEarly);
        };
        let state = known.link().state.name();
        if !known.is_known() || (state == StateName::Unconfirmed && known.link().muted) {
            return Ok(Release::TooEarly);
        }
        if !known.link().muted || state == StateName::Removed || !self.muted_by_adoption(link).await? {
            return Ok(Release::NotNeeded);
        }
        self.command(CommandName::Unmute, link, "released").await?;
        tracing::info!(link.id = %link, link.state = state.as_str(), "an adopted link is unmuted");
        Ok(if state == StateName::Valid { Release::NotNeeded } else { Release::Released })
    }

    /// Whether the last `mute` or `unmute` of the link came from adoption.
    async fn muted_by_adoption(&self, link: &LinkId) -> Result<bool, SweepError> {
        let history = self.parts.histories.history(link).await?;
        let states = history.entries.into_iter().rev().filter(|entry| entry.kind == HistoryKind::State);
        let because = |mut body: Value| serde_json::from_value::<Because>(body["because"].take()).ok();
        let mute = states.filter_map(|entry| because(entry.body)).find(|because| {
            let event = because.event.as_str();
            event == EventName::Mute.as_str() || event == EventName::Unmute.as_str()
        });
        Ok(mute.is_some_and(|mute| mute.origin.is_adoption()))
    }

    /// The muted links of the store.
    async fn find_muted(&self) -> Result<Vec<LinkId>, SweepError> {
        /// The only field of a record that is needed; the whole record takes ten times as long.
        #[derive(Deserialize)]
        struct Muted {
            #[serde(default)]
            muted: bool,
        }
        let mut muted = Vec::new();
        let take = |page: Page| {
            for (id, stored) in page.ids.into_iter().zip(&page.links) {
                if serde_json::from_slice(&stored.record).is_ok_and(|Muted { muted }| !muted) {
                    continue;
                }
                match stored.parse() {
                    Ok(record) if record.muted && stored.head.state != StateName::Removed => muted.push(id),
                    Ok(_) => {}
                    Err(error) => self.skip_record(id.as_str(), &error),
                }
            }
        };
        self.each_stored_page(Query { limit: STORE_PAGE, ..Query::default() }, take).await?;
        Ok(muted)
    }

    async fn command(&self, command: CommandName, link: &LinkId, reason: &str) -> Result<(), SweepError> {
        let (by, reason) = (Some("reconciler".to_owned()), Some(reason.to_owned()));
        let body = Command { schema_version: None, command, until: None, by, reason };
        let body = serde_json::to_vec(&body).expect("our bodies have string keys and no failing serializers");
        let id = format!("{ADOPTION_ID}{}", Uuid::new_v4());
        Ok(self.publish(InputKind::Command, link, body, Some(id)).await?)
    }
}

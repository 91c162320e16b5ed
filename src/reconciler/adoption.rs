//! Links that were broken before relink came: adopted muted, and released a few at a time.
//!
//! ```text
//!   unheard of, broken ─▶ mute, then the observation ─▶ broken, its prompt held ─▶ unmute, 60 an hour ─▶ the one prompt
//! ```
//!
//! A fleet that relink is put in front of may have thousands of broken links; their users are not all prompted in one
//! minute. Which links are adopted is kept where everything is: the `mute` of an adoption has an id that begins with
//! [`MUTE_ID`], and the link's history names it. So a restart, or a lost store, loses nothing; and what an operator
//! muted is never unmuted here.

use std::collections::VecDeque;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use uuid::Uuid;

use super::compare::Move;
use super::put_off::Element;
use super::{PUBLISHES_MAX, Reconciler, STORE_PAGE, SweepError};
use crate::contract::{Because, Command, CommandName, InputKind};
use crate::link::{EventName, LinkId, StateName};
use crate::metric;
use crate::nats::history::HistoryKind;
use crate::store::{Page, Query};

/// How the ids of an adoption's mutes begin.
const MUTE_ID: &str = "adoption-";

/// So many histories in a row may fail before it is NATS that fails, and not a link.
const FAILURES_MAX: u32 = 3;

/// The adopted links, as far as this process has found them.
#[derive(Default)]
pub(super) struct Adopted {
    /// Links to be released, and others that are muted: which is which is looked up when their turn comes.
    waiting: VecDeque<LinkId>,
    /// Whether the store has been searched for what earlier processes adopted.
    searched: bool,
}

/// What came of a look at one muted link.
enum Turn {
    /// It was unmuted while broken: its user hears of it.
    Released,
    /// It was unmuted, or is none of ours: nobody hears anything.
    Done,
    /// Its observation is still on its way.
    Early,
}

impl Reconciler {
    /// Publishes what was found about links that relink had not heard of; the broken ones are muted first. Gives how many
    /// had to be skipped.
    pub(super) async fn adopt(&self, found: Vec<Move>, adopted: &mut Adopted) -> Result<usize, SweepError> {
        let is_broken = |found: &Move| matches!(found.to, StateName::Invalid | StateName::TokenRequired);
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

    /// Releases one adopted link: unmutes it, so that its user is prompted if it is still broken. Whether there was
    /// one.
    ///
    /// Adopted links that have been repaired meanwhile are unmuted on the way, for nobody hears of that.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn release_adopted(&self) -> Result<bool, SweepError> {
        let mut progress = self.progress.lock().await;
        let adopted = &mut progress.adopted;
        if !adopted.searched {
            adopted.waiting.extend(self.find_muted().await?);
            adopted.searched = true;
        }
        let (mut released, mut failures) = (false, 0);
        for _ in 0..adopted.waiting.len() {
            let Some(link) = adopted.waiting.pop_front() else { break };
            let turn = match self.take_turn(&link).await {
                Ok(turn) => turn,
                Err(error) => {
                    // It goes to the end: whatever is the matter with it must not keep those behind it waiting.
                    adopted.waiting.push_back(link.clone());
                    failures += 1;
                    if failures > FAILURES_MAX || !matches!(error, SweepError::History(_)) {
                        return Err(error);
                    }
                    self.skip("history", Element::link(link), &error);
                    continue;
                }
            };
            match turn {
                Turn::Released => {
                    released = true;
                    break;
                }
                Turn::Early => adopted.waiting.push_back(link),
                Turn::Done => {}
            }
        }
        let waiting = u32::try_from(adopted.waiting.len()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::ADOPTIONS_PENDING.name).set(f64::from(waiting));
        Ok(released)
    }

    async fn take_turn(&self, link: &LinkId) -> Result<Turn, SweepError> {
        let Some(known) = self.known(vec![link.clone()]).await?.into_iter().flatten().next() else {
            return Ok(Turn::Early);
        };
        let state = known.link().state.name();
        if !known.is_known() || (state == StateName::Unconfirmed && known.link().muted) {
            return Ok(Turn::Early);
        }
        if !known.link().muted || state == StateName::Removed || !self.muted_by_adoption(link).await? {
            return Ok(Turn::Done);
        }
        self.command(CommandName::Unmute, link, "released").await?;
        tracing::info!(link.id = %link, link.state = state.as_str(), "an adopted link is released");
        Ok(if state == StateName::Valid { Turn::Done } else { Turn::Released })
    }

    /// Whether the link's last word on muting is ours.
    async fn muted_by_adoption(&self, link: &LinkId) -> Result<bool, SweepError> {
        let history = self.parts.histories.history(link).await?;
        let states = history.entries.into_iter().rev().filter(|entry| entry.kind == HistoryKind::State);
        let because = |mut body: Value| serde_json::from_value::<Because>(body["because"].take()).ok();
        let mute = states.filter_map(|entry| because(entry.body)).find(|because| {
            let event = because.event.as_str();
            event == EventName::Mute.as_str() || event == EventName::Unmute.as_str()
        });
        Ok(mute.and_then(|mute| mute.origin.message_id).is_some_and(|id| id.starts_with(MUTE_ID)))
    }

    /// Every muted link of the store.
    async fn find_muted(&self) -> Result<Vec<LinkId>, SweepError> {
        let mut muted = Vec::new();
        let take = |page: Page| {
            for (id, stored) in page.ids.into_iter().zip(&page.links) {
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
        let id = format!("{MUTE_ID}{}", Uuid::new_v4());
        Ok(self.publish(InputKind::Command, link, body, Some(id)).await?)
    }
}

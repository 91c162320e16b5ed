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
use super::{PUBLISHES_MAX, Reconciler, STORE_PAGE, SweepError};
use crate::contract::{Because, Command, CommandName, InputKind};
use crate::link::{EventName, LinkId, StateName};
use crate::nats::history::HistoryKind;
use crate::store::Query;

/// How the ids of an adoption's mutes begin.
const MUTE_ID: &str = "adoption-";

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
    /// Publishes what was found about links that relink had not heard of; the broken ones are muted first.
    pub(super) async fn adopt(&self, found: Vec<Move>, adopted: &mut Adopted) -> Result<(), SweepError> {
        let is_broken = |found: &Move| matches!(found.to, StateName::Invalid | StateName::TokenRequired);
        adopted.waiting.extend(found.iter().filter(|found| is_broken(found)).map(|found| found.link.clone()));
        let published = stream::iter(found).map(|found| async move {
            if is_broken(&found) {
                self.command(CommandName::Mute, &found.link, "adopted").await?;
            }
            self.publish(InputKind::Observation, &found.link, found.body, None).await?;
            let state = found.to.as_str();
            metrics::counter!("relink_adopted_total", "institution" => found.institution, "state" => state)
                .increment(1);
            Ok::<_, SweepError>(())
        });
        published.buffer_unordered(PUBLISHES_MAX).try_collect::<()>().await?;
        Ok(())
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
        let mut released = false;
        for _ in 0..adopted.waiting.len() {
            let Some(link) = adopted.waiting.front().cloned() else { break };
            let turn = self.take_turn(&link).await?;
            adopted.waiting.pop_front();
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
        metrics::gauge!("relink_adopted_waiting").set(f64::from(waiting));
        Ok(released)
    }

    async fn take_turn(&self, link: &LinkId) -> Result<Turn, SweepError> {
        let known = self.known(vec![link.clone()]).await?.remove(0);
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
        self.ask_store(|store| {
            let (mut muted, mut query) = (Vec::new(), Query { limit: STORE_PAGE, ..Query::default() });
            loop {
                let page = store.page(&query)?;
                for stored in page.links.iter().filter(|stored| stored.head.state != StateName::Removed) {
                    let record = stored.parse()?;
                    if record.muted {
                        muted.push(record.link()?.id);
                    }
                }
                query.after = page.next;
                if query.after.is_none() {
                    return Ok(muted);
                }
            }
        })
        .await
    }

    async fn command(&self, command: CommandName, link: &LinkId, reason: &str) -> Result<(), SweepError> {
        let (by, reason) = (Some("reconciler".to_owned()), Some(reason.to_owned()));
        let body = Command { schema_version: None, command, until: None, by, reason };
        let body = serde_json::to_vec(&body).expect("our bodies have string keys and no failing serializers");
        let id = format!("{MUTE_ID}{}", Uuid::new_v4());
        Ok(self.publish(InputKind::Command, link, body, Some(id)).await?)
    }
}

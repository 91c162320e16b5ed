//! Corrects links and institutions whose times lie in the future, because the clock of the NATS server had been ahead.
//!
//! Such links are found in two ways. A step that lies in the future is noticed at once. Steps of an earlier process, and
//! steps that were not in the future by a clock that was wrong itself, are found by a pass over all links, which begins
//! with the process and whenever a clock has been set back.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::Deserialize;

use super::{Engine, Item, Plan, STORE_PAGE};
use crate::contract::{At, Because, Origin};
use crate::link::{CLOCK_AHEAD_MAX, Event, Link, LinkId, Step, Timestamp, correct_times};
use crate::store::{Query, Store, StoreError};

/// The pause between two pages of the pass, so that it takes little time from the inputs.
const PAGE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Corrections {
    /// The latest time that it may be now; `None` while a jump of a clock is not confirmed, and then nothing is corrected.
    latest_now: Option<Timestamp>,
    /// Whether the institutions have to be corrected.
    are_institutions_ahead: bool,
    /// Links that may have to be corrected.
    ahead: BTreeSet<LinkId>,
    /// The pass over all links: the last link that was read, and when the next page is due. `None`: the pass is complete.
    pass: Option<(Option<LinkId>, Option<Timestamp>)>,
}

impl Default for Corrections {
    fn default() -> Self {
        Self { latest_now: None, are_institutions_ahead: true, ahead: BTreeSet::new(), pass: Some((None, None)) }
    }
}

impl<S: Store> Engine<S> {
    /// Sets the latest time that it may be now. `None`: a jump of a clock is not confirmed, and no link is corrected.
    pub const fn set_latest_now(&mut self, latest_now: Option<Timestamp>) {
        self.corrections.latest_now = latest_now;
    }

    /// Corrects the institutions, and begins a pass over all links: a clock was ahead, and is not any more.
    pub fn check_all_times(&mut self) {
        self.corrections.pass = Some((None, None));
        self.corrections.are_institutions_ahead = true;
    }

    /// Notes a link whose step lies in the future.
    pub(super) fn note_time(&mut self, step: &Step, now: Timestamp) {
        if step.at > now.after(CLOCK_AHEAD_MAX) {
            self.corrections.ahead.insert(step.link.id.clone());
        }
    }

    /// Plans the corrections of at most `max` links.
    pub(super) fn plan_corrections(&mut self, max: usize, plan: &mut Plan) -> Result<(), StoreError> {
        let Some(now) = self.corrections.latest_now else { return Ok(()) };
        if std::mem::take(&mut self.corrections.are_institutions_ahead) {
            self.institutions.correct_times(now.after(CLOCK_AHEAD_MAX));
        }
        self.read_page(now)?;
        for _ in 0..max {
            let Some(id) = self.corrections.ahead.pop_first() else { break };
            let entry = match self.load(&id) {
                Ok(entry) => entry,
                // The engine reports it with the next message of the link.
                Err(error) if error.is_of_one_record() => continue,
                Err(error) => return Err(error),
            };
            let Some(entry) = entry else { continue };
            let Some(partition) = self.partition_of(entry.partition) else { continue };
            if let Some(step) = self.corrected(&entry.link, now) {
                plan.tally.add("timer", "times_corrected");
                let because = Because::of(&step, &Event::DeadlinePassed.into(), Origin::timer(now));
                plan.add_item(|| Item::Timer(id));
                self.take_step(&entry, step, partition, because, now, plan);
            }
        }
        Ok(())
    }

    /// A bug that panics must not end the process: the link would be corrected again at every start.
    fn corrected(&self, link: &Link, now: Timestamp) -> Option<Step> {
        catch_unwind(AssertUnwindSafe(|| correct_times(link, now, &self.policy))).ok().flatten()
    }

    /// Reads the next page of the pass, if it is due.
    fn read_page(&mut self, now: Timestamp) -> Result<(), StoreError> {
        /// The only field of a record that is needed.
        #[derive(Deserialize)]
        struct Updated {
            updated_at: At,
        }
        let Some((after, due_at)) = &self.corrections.pass else { return Ok(()) };
        // A due time that is far ahead was set by a clock that was ahead.
        let is_due = due_at.is_none_or(|at| at <= now || at > now.after(PAGE_EVERY));
        if !is_due {
            return Ok(());
        }
        let page = self.store.page(&Query { after: after.clone(), limit: STORE_PAGE, ..Query::default() })?;
        for (id, stored) in page.ids.into_iter().zip(&page.links) {
            let updated = serde_json::from_slice(&stored.record).ok();
            if updated.is_some_and(|Updated { updated_at: At(at) }| at > now.after(CLOCK_AHEAD_MAX)) {
                self.corrections.ahead.insert(id);
            }
        }
        self.corrections.pass = page.next.map(|next| (Some(next), Some(now.after(PAGE_EVERY))));
        Ok(())
    }
}

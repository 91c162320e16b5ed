//! What the steps of a commit did, as numbers: for the metrics and for `GET /v1/activity`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contract::NoticeName;
use crate::link::{Creation, Episode, Link, Notice, StateName, Step, Timestamp};

/// A refresh of a link leads to several webhooks within a few seconds, one for each resource.
const ONE_REFRESH: Duration = Duration::from_secs(60);

/// Counts of a commit, or of several.
///
/// In observe mode a notice counts as if it was published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// The time of the latest step; `None` without any step.
    pub at: Option<Timestamp>,
    /// The number of transitions between two different states.
    pub transitions: BTreeMap<(StateName, StateName), u64>,
    /// The number of outages that began.
    pub outages_count: u64,
    /// The number of notices of each type.
    pub notices: BTreeMap<NoticeName, u64>,
    /// The number of messages that asked a user for a repair: 0 is the prompt, 1 the first reminder.
    pub prompts: BTreeMap<u32, u64>,
    /// How long each outage may have gone unnoticed: from the last proof that the link worked to the event that began the outage.
    pub detected_after: Vec<Duration>,
    /// How old the data of a link was when newer data arrived. The webhooks of one refresh count once.
    pub data_age: Vec<Duration>,
    /// How long each outage had lasted when its prompt was published.
    pub prompted_after: Vec<Duration>,
    /// How long each outage lasted that ended with a proof that the link works.
    pub repaired_after: Vec<Duration>,
    /// The number of prompts that were deferred because of an incident.
    pub prompts_deferred_count: u64,
    /// What became of creations that were reported as not finished.
    pub creations: Creations,
}

/// The creations of links that were not finished at once: the funnel of the connection attempts that relink knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creations {
    /// Creations that were reported as not finished.
    pub begun: u64,
    /// Of these: creations that were finished later.
    pub finished: u64,
    /// Of these: creations with the notice `creation_unfinished`. They may still be finished or removed.
    pub unfinished: u64,
    /// Of these: links that were removed and have never worked.
    pub removed: u64,
}

impl Activity {
    /// Counts what a step changes. `before` is the link before it.
    pub(super) fn count_step(&mut self, before: &Link, step: &Step) {
        self.at = self.at.max(Some(step.at));
        let to = step.link.state.name();
        if step.from != to {
            *self.transitions.entry((step.from, to)).or_default() += 1;
        }
        let outages_count = step.link.episodes_count.saturating_sub(before.episodes_count);
        self.outages_count += u64::from(outages_count);
        if outages_count > 0 {
            self.detected_after
                .extend(before.recovered_at.max(before.data_at).map(|worked_at| step.at.since(worked_at)));
        }
        if let (Some(before), Some(after)) = (before.data_at, step.link.data_at) {
            self.data_age.extend(Some(after.since(before)).filter(|age| *age >= ONE_REFRESH));
        }
        self.creations.count(before, step);
    }

    /// Counts a notice of a step, and how long the outage has lasted.
    pub(super) fn count_notice(&mut self, name: NoticeName, notice: &Notice, episode: Option<&Episode>, at: Timestamp) {
        *self.notices.entry(name).or_default() += 1;
        let lasted = episode.map(|episode| at.since(episode.opened_at));
        match notice {
            Notice::UpdateRequired => {
                *self.prompts.entry(0).or_default() += 1;
                self.prompted_after.extend(lasted);
            }
            Notice::Reminder { number } => *self.prompts.entry(*number).or_default() += 1,
            Notice::Recovered { .. } => self.repaired_after.extend(lasted),
            _ => {}
        }
    }

    /// Adds the counts of another commit, without its lists of times.
    pub fn add(&mut self, other: &Self) {
        self.at = self.at.max(other.at);
        other.transitions.iter().for_each(|(key, count)| *self.transitions.entry(*key).or_default() += count);
        self.outages_count += other.outages_count;
        other.notices.iter().for_each(|(key, count)| *self.notices.entry(*key).or_default() += count);
        other.prompts.iter().for_each(|(key, count)| *self.prompts.entry(*key).or_default() += count);
        self.prompts_deferred_count += other.prompts_deferred_count;
        let Creations { begun, finished, unfinished, removed } = other.creations;
        self.creations.begun += begun;
        self.creations.finished += finished;
        self.creations.unfinished += unfinished;
        self.creations.removed += removed;
    }
}

impl Creations {
    fn count(&mut self, before: &Link, step: &Step) {
        let was_reported = before.creation != Creation::NotReported;
        let after = &step.link;
        self.begun += u64::from(!was_reported && after.creation != Creation::NotReported);
        self.unfinished += u64::from(before.creation != after.creation && after.creation == Creation::Announced);
        match after.state.name() {
            StateName::Unconfirmed => {}
            StateName::Removed => self.removed += u64::from(was_reported),
            StateName::Valid | StateName::Invalid | StateName::TokenRequired | StateName::Updating => {
                self.finished += u64::from(was_reported);
            }
        }
    }
}

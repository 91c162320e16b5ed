//! Checks at the end of a run that every wait of a link has ended. Written without the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Checked;
use super::link::LinkChecker;
use crate::link::{Link, LinkId, Prompt, State, Timestamp, UpdatePhase};

/// How late a timer may be without being forgotten.
const LATE: Duration = Duration::from_secs(30);

impl LinkChecker {
    /// Checks that no user waits for a message, and that no link waits for a time that has passed, but those that are `set_aside`.
    pub(super) fn check_waits(&self, now: Timestamp, set_aside: &BTreeSet<String>) -> Checked {
        let waits = |link: &&Link| !set_aside.contains(link.id.as_str()) && waits_for_ever(&link.state, now);
        if let Some(link) = self.links.values().find(waits) {
            return Err(format!("{} waits for ever", link.id));
        }
        // That the institution works again comes with a prompt that waits for the turn of its user.
        let is_told_later = |link: &LinkId| {
            let episode = self.links.get(link).and_then(|link| link.state.episode());
            episode.is_some_and(|episode| matches!(episode.prompt, Prompt::Postponed { .. }))
        };
        let forgotten = |link: &&LinkId| !set_aside.contains(link.as_str()) && !is_told_later(link);
        self.announced_down
            .keys()
            .find(forgotten)
            .map_or(Ok(()), |link| Err(format!("the user of {link} gets no notice that the institution works again")))
    }
}

fn waits_for_ever(state: &State, now: Timestamp) -> bool {
    let until = match state {
        State::Invalid { episode } | State::TokenRequired { episode } => match episode.prompt {
            // All outages are over.
            Prompt::Deferred { .. } => return true,
            Prompt::Postponed { until } | Prompt::Unidentified { until } => until,
            Prompt::Sent | Prompt::Muted => return false,
        },
        State::Updating {
            phase: UpdatePhase::WithUser { until, .. } | UpdatePhase::Verifying { until, .. }, ..
        } => *until,
        State::Valid { suspicion: Some(suspicion) } => suspicion.until,
        State::Valid { suspicion: None } | State::Unconfirmed | State::Removed => return false,
    };
    until.after(LATE) < now
}

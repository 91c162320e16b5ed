//! Checks at the end of a run that every wait of a link has ended. Written without the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Checked;
use super::link::LinkChecker;
use crate::link::{Link, Prompt, State, Timestamp, UpdatePhase};

/// How late a timer may be without being forgotten.
const LATE: Duration = Duration::from_secs(30);

impl LinkChecker {
    /// Checks that no user waits for a message, and that no link waits for a time that has passed, but those that are `set_aside`.
    pub(super) fn check_waits(&self, now: Timestamp, set_aside: &BTreeSet<String>) -> Checked {
        if let Some(link) = self.announced_down.keys().find(|link| !set_aside.contains(link.as_str())) {
            return Err(format!("the user of {link} gets no notice that the institution works again"));
        }
        let waits = |link: &&Link| !set_aside.contains(link.id.as_str()) && waits_for_ever(&link.state, now);
        self.links.values().find(waits).map_or(Ok(()), |link| Err(format!("{} waits for ever", link.id)))
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

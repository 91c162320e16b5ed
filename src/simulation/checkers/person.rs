//! Checks what a person gets: at most one message within the reminder pause, none in the widget, none before Belvo has answered about the
//! other broken links, and no broken link is dropped. Written without the machine.

use std::collections::{BTreeMap, BTreeSet};

use super::Checked;
use crate::contract::AlsoBroken;
use crate::link::{Link, LinkId, PERSON_LINKS_MAX, Policy, Prompt, State, Timestamp, UpdatePhase, succeeds};

/// The messages to persons, according to the output stream.
#[derive(Default)]
pub(super) struct PersonChecker {
    /// The last message about each link.
    messages: BTreeMap<LinkId, Timestamp>,
    /// The episodes that a message was about, or that a message about another link mentioned.
    notified: BTreeSet<(LinkId, u32)>,
}

impl PersonChecker {
    /// The times of a link were corrected.
    pub(super) fn times_corrected(&mut self, link: &LinkId, at: Timestamp) {
        self.messages.entry(link.clone()).and_modify(|message| *message = (*message).min(at));
    }

    /// Checks an `institution_restored` that asks the user, and that mentions these links. It was promised, so it does not wait for the pause,
    /// but for the answers about the other broken links.
    pub(super) fn check_restoration(
        &mut self,
        after: &Link,
        at: Timestamp,
        also: &[AlsoBroken],
        (links, down): (&BTreeMap<LinkId, Link>, &BTreeSet<String>),
        policy: &Policy,
    ) -> Checked {
        let family = family_of(after, links, policy);
        if let Some(undecided) = repairable(&family, down, policy).find(|link| is_undecided(link)) {
            return Err(format!("asks the user, and Belvo has not answered yet about {}", undecided.id));
        }
        let outages = also.iter().filter_map(|other| Some((other.link_id.parse().ok()?, other.episode)));
        self.notified.extend(outages);
        self.messages.insert(after.id.clone(), at);
        Ok(())
    }

    /// Checks a state, and the message of the same step: `also` has the other links that it mentions; `None` if there is no message.
    pub(super) fn check(
        &mut self,
        after: &Link,
        at: Timestamp,
        also: Option<&[AlsoBroken]>,
        (links, down): (&BTreeMap<LinkId, Link>, &BTreeSet<String>),
        policy: &Policy,
    ) -> Checked {
        let number = after.state.episode().map(|episode| episode.number.0);
        if let Some(also) = also {
            let family = family_of(after, links, policy);
            let pause = policy.settings().reminder_pause;
            let ids = family.iter().map(|link| &link.id).chain([&after.id]);
            let last = ids.filter_map(|id| self.messages.get(id)).max();
            if let Some(last) = last.filter(|last| at < last.after(pause)) {
                return Err(format!("sends a message to a person who got one at {last}"));
            }
            // A widget keeps back a prompt for a pause at most.
            let is_first = after.state.episode().is_some_and(|episode| episode.reminders_count == 0);
            let is_late = after.state.episode().is_some_and(|episode| at >= episode.opened_at.after(pause));
            let repaired = family.iter().find(|link| is_first && !is_late && is_in_widget(link, at));
            if let Some(repaired) = repaired {
                return Err(format!("sends a prompt to a person who is repairing {}", repaired.id));
            }
            let repairable = repairable(&family, down, policy);
            // In an incident only an operator lets a prompt pass, and decides for the user.
            let may_wait = is_first && !is_late && is_up(after, down);
            let undecided = repairable.clone().find(|link| may_wait && is_undecided(link));
            if let Some(undecided) = undecided {
                return Err(format!("sends a prompt, and Belvo has not answered yet about {}", undecided.id));
            }
            let expected: BTreeSet<_> = repairable.filter_map(|link| waits(link, at)).collect();
            let found: BTreeSet<_> = also.iter().map(|other| (other.link_id.clone(), other.episode)).collect();
            if found != expected {
                return Err(format!("mentions {found:?} in its message, and {expected:?} wait"));
            }
            self.messages.insert(after.id.clone(), at);
            self.notified.extend(number.map(|number| (after.id.clone(), number)));
            let mentioned = found.into_iter().filter_map(|(id, number)| Some((id.parse().ok()?, number)));
            self.notified.extend(mentioned);
        }
        let counts = after.state.episode().is_some_and(|episode| episode.prompt == Prompt::Sent);
        match number.filter(|number| counts && !self.notified.contains(&(after.id.clone(), *number))) {
            Some(number) => Err(format!("counts episode {number} as prompted, and no message mentioned it")),
            None => Ok(()),
        }
    }
}

/// The other links of the person.
fn family_of<'a>(link: &Link, links: &'a BTreeMap<LinkId, Link>, policy: &Policy) -> Vec<&'a Link> {
    let person = &link.profile.external_id;
    let is_person = policy.settings().per_person && person.as_ref().is_some_and(|person| !person.trim().is_empty());
    let others = links.values().filter(|other| other.id != link.id && other.profile.external_id == *person);
    let others: Vec<&Link> = others.filter(|_| is_person).collect();
    if others.len() < PERSON_LINKS_MAX { others } else { Vec::new() }
}

/// The links that may be mentioned: their banks are up, and no newer link has replaced them.
fn repairable<'a>(
    family: &'a [&'a Link],
    down: &'a BTreeSet<String>,
    policy: &'a Policy,
) -> impl Iterator<Item = &'a Link> + Clone {
    let is_replaced = move |old: &Link| family.iter().any(|new| succeeds(new, old, policy));
    family.iter().copied().filter(move |link| is_up(link, down) && !is_replaced(link))
}

fn is_up(link: &Link, down: &BTreeSet<String>) -> bool {
    link.profile.institution.as_ref().is_none_or(|name| !down.contains(name))
}

/// Whether the person holds a widget token for the link.
fn is_in_widget(link: &Link, at: Timestamp) -> bool {
    let in_attempt =
        matches!(link.state, State::Updating { phase: UpdatePhase::WithUser { until, .. }, .. } if at < until);
    in_attempt || link.widget_until.is_some_and(|until| at < until)
}

/// Whether the prompt of the link waits for an answer of Belvo.
fn is_undecided(link: &Link) -> bool {
    let (State::Invalid { episode } | State::TokenRequired { episode }) = &link.state else { return false };
    let is_undecided = matches!(episode.prompt, Prompt::Deferred { .. } | Prompt::Unidentified { .. });
    is_undecided && !link.muted && episode.superseded_by.is_none() && episode.cause.user_can_act()
}

/// The link and its episode, if its user has to be asked now and nothing keeps that back but the pause or the hour.
fn waits(link: &Link, at: Timestamp) -> Option<(String, u32)> {
    let (State::Invalid { episode } | State::TokenRequired { episode }) = &link.state else { return None };
    let is_due = match episode.prompt {
        Prompt::Sent => link.snoozed_until.is_none_or(|until| until <= at),
        Prompt::Postponed { .. } => true,
        Prompt::Muted | Prompt::Deferred { .. } | Prompt::Unidentified { .. } => false,
    };
    let is_asked = is_due && !link.muted && episode.superseded_by.is_none() && episode.cause.user_can_act();
    is_asked.then(|| (link.id.to_string(), episode.number.0))
}

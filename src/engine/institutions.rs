//! The state of every institution: operational, degraded or down. While an institution is down, prompts of its links are deferred.
//!
//! `institution` has the machine. This file gives it the evidence that the engine sees: outage errors in the inputs, incidents of links
//! ([`super::incident`]) and reports of the status page; and it makes a message of each change. The last message of each institution is
//! durable.
//!
//! **After a restart** the state of each institution is known from its last message, with the one cause that the message names. Outage errors
//! within the window, other evidence of the status page, and links that have recovered are forgotten: a state may change late, and the
//! counts of a running incident may be too small. A state with the cause `outage_errors` lasts up to one window longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::STORE_PAGE;
use super::incident::{Began, Incidents, Opening};
use crate::contract::{At, BadRecord, IncidentBecause, IncidentBody, IncidentChange, Origin};
use crate::institution::{Cause, Change, Evidence, Institution, PageStatus, Settings, State};
use crate::link::{Link, LinkId, Policy, Prompt, StateName, Timestamp};
use crate::store::{Query, Store, StoreError, pages};

/// Institutions, by Belvo's name.
pub(super) struct Institutions {
    incidents: Incidents,
    settings: Settings,
    known: BTreeMap<String, Known>,
    /// Institutions whose change by time cannot be committed.
    skipped: BTreeSet<String>,
}

/// One institution.
#[derive(Default)]
struct Known {
    machine: Institution,
    /// What the next messages say of the state; only while the institution is degraded or down.
    course: Course,
    /// When the state changed last.
    changed_at: Option<Timestamp>,
}

/// An incident, or trouble, from its beginning.
#[derive(Clone, Copy, Default)]
struct Course {
    began_at: Timestamp,
    threshold: u64,
    links_count: u64,
    deferred_count: u64,
}

/// A piece of evidence, and the input that it is from.
struct Seen<'a> {
    institution: &'a str,
    evidence: Evidence<'a>,
    /// The time of the evidence.
    at: Timestamp,
    /// When it was received.
    received_at: Timestamp,
    /// When it is planned.
    now: Timestamp,
    because: IncidentBecause,
    began: Option<Began>,
}

impl Institutions {
    /// Starts from the last message of each institution. [`Institutions::remember`] adds the open episodes.
    pub(super) fn of(policy: &Policy, latest: Vec<IncidentBody>) -> Self {
        let settings = policy.settings();
        let links = usize::try_from(settings.outage_links).unwrap_or(usize::MAX);
        let settings = Settings { links, window: settings.incident_window };
        let mut incidents = Incidents::of(policy);
        let mut known = BTreeMap::new();
        for body in latest {
            let (state, cause) = (body.change.state(), Cause::from(body.cause));
            if state == State::Down && cause == Cause::FailingLinks {
                incidents.resume(&body.institution, body.began_at.0, body.threshold);
            }
            let course = Course {
                began_at: body.began_at.0,
                threshold: body.threshold,
                links_count: body.links_count,
                deferred_count: 0,
            };
            let machine = Institution::restored(state, cause, body.began_at.0);
            known.insert(body.institution, Known { machine, course, changed_at: Some(body.at.0) });
        }
        Self { incidents, settings, known, skipped: BTreeSet::new() }
    }

    /// Counts an episode that was opened before this process started.
    pub(super) fn remember(&mut self, opening: &Opening<'_>) {
        self.incidents.remember(opening);
        if let Some(known) = self.known.get_mut(opening.institution)
            && opening.at > known.course.began_at
        {
            known.count(opening);
        }
    }

    /// Since when the institution is down. `None` if it is not, or is unknown.
    pub(super) fn down_since(&self, institution: Option<&str>) -> Option<Timestamp> {
        let known = institution.and_then(|name| self.known.get(name))?;
        (known.machine.state() == State::Down).then_some(known.course.began_at)
    }

    /// How many institutions are down.
    pub(super) fn count_down(&self) -> usize {
        self.known.values().filter(|known| known.machine.state() == State::Down).count()
    }

    /// Counts an opening that is planned at `now`. Returns the messages to publish: none, or that an incident begins.
    pub(super) fn opened(&mut self, opening: &Opening<'_>, origin: &Origin, now: Timestamp) -> Vec<IncidentBody> {
        if let Some(known) = self.known.get_mut(opening.institution) {
            known.count(opening);
        }
        let began = self.incidents.opened(opening, now);
        if !self.incidents.goes_on(opening.institution) {
            return Vec::new();
        }
        let because = IncidentBecause { link_id: Some(opening.link.to_string()), origin: origin.clone() };
        let (institution, at) = (opening.institution, opening.at);
        self.observe(Seen { institution, evidence: Evidence::Incident(true), at, received_at: at, now, because, began })
    }

    /// Belvo has answered a call about this link with an outage error. Returns the messages to publish.
    pub(super) fn outage_error(
        &mut self,
        institution: &str,
        link: &LinkId,
        origin: &Origin,
        now: Timestamp,
    ) -> Vec<IncidentBody> {
        let because = IncidentBecause { link_id: Some(link.to_string()), origin: origin.clone() };
        let (evidence, at) = (Evidence::OutageError(link), origin.received_at.0);
        self.observe(Seen { institution, evidence, at, received_at: at, now, because, began: None })
    }

    /// Belvo's status page has reported this at `at`. Returns the messages to publish.
    pub(super) fn status_page(
        &mut self,
        institution: &str,
        status: PageStatus,
        at: Timestamp,
        origin: &Origin,
        now: Timestamp,
    ) -> Vec<IncidentBody> {
        let because = IncidentBecause { link_id: None, origin: origin.clone() };
        let (evidence, received_at) = (Evidence::Page(status), origin.received_at.0);
        self.observe(Seen { institution, evidence, at, received_at, now, because, began: None })
    }

    /// Changes the states of at most `limit` institutions whose evidence has ended at `now`. Returns the messages to
    /// publish.
    pub(super) fn pass_time(&mut self, now: Timestamp, limit: usize) -> Vec<Vec<IncidentBody>> {
        let mut changed = Vec::new();
        for (name, known) in &mut self.known {
            if changed.len() == limit {
                break;
            }
            if known.machine.state() == State::Operational || self.skipped.contains(name) {
                continue;
            }
            // An incident that has ended must not begin an outage anew when the status page stops to count at the same time.
            let changes = if self.incidents.end(name, now) {
                known.machine.observe(Evidence::Incident(false), now, now, &self.settings)
            } else {
                known.machine.pass_time(now, &self.settings)
            };
            let because = IncidentBecause { link_id: None, origin: Origin::timer(now) };
            let bodies = known.bodies(name, &changes, now, None, &because, &self.settings);
            changed.extend((!bodies.is_empty()).then_some(bodies));
        }
        changed
    }

    /// Corrects times that lie after `now`, the latest time that it may be: the clock of the NATS server had been ahead, and an outage of
    /// that time would last until then. The times of the messages stay, and increase.
    pub(super) fn correct_times(&mut self, now: Timestamp) {
        self.incidents.correct_times(now);
        for known in self.known.values_mut() {
            known.machine.correct_times(now, &self.settings);
        }
    }

    /// When the next state ends if there is no new evidence.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let ends = self
            .known
            .iter()
            .filter(|(name, known)| known.machine.state() != State::Operational && !self.skipped.contains(*name));
        ends.flat_map(|(name, known)| [known.machine.deadline(&self.settings), self.incidents.ends_at(name)])
            .flatten()
            .min()
    }

    /// No longer publishes changes by time for these institutions.
    pub(super) fn skip(&mut self, institutions: BTreeSet<String>) {
        self.skipped.extend(institutions);
    }

    /// Takes the institutions whose changes by time are not published.
    pub(super) fn take_skipped(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.skipped)
    }

    fn observe(&mut self, seen: Seen<'_>) -> Vec<IncidentBody> {
        let Seen { institution, evidence, at, received_at, now, because, began } = seen;
        let known = self.known.entry(institution.to_owned()).or_default();
        let changes = known.machine.observe(evidence, at, now, &self.settings);
        let bodies = known.bodies(institution, &changes, received_at, began.as_ref(), &because, &self.settings);
        // An operational institution without evidence needs no memory, unless its last change may be repeated at the same time.
        if known.changed_at.is_none() && known.machine.is_forgotten() {
            self.known.remove(institution);
        }
        bodies
    }
}

impl Known {
    /// Counts an episode that was opened while the institution is degraded or down.
    fn count(&mut self, opening: &Opening<'_>) {
        if self.machine.state() != State::Operational {
            self.course.links_count += 1;
            self.course.deferred_count += u64::from(opening.is_deferred);
        }
    }

    /// The messages about these changes.
    fn bodies(
        &mut self,
        institution: &str,
        changes: &[Change],
        at: Timestamp,
        began: Option<&Began>,
        because: &IncidentBecause,
        settings: &Settings,
    ) -> Vec<IncidentBody> {
        let mut bodies = Vec::new();
        for change in changes {
            // Evidence in a backlog may be older than the last change, and two incidents must not have the same start.
            let after_last = self.changed_at.map(|last| last.after(Duration::from_millis(1)));
            let at = after_last.map_or(at, |after| after.max(at));
            self.changed_at = Some(at);
            let word = match (change.from, change.to) {
                (_, State::Down) => IncidentChange::Began,
                (_, State::Degraded) => IncidentChange::Degraded,
                (State::Down, State::Operational) => IncidentChange::Ended,
                (State::Degraded | State::Operational, State::Operational) => IncidentChange::Recovered,
            };
            if change.to != State::Operational {
                self.course = Course::of(change, at, began, settings);
            }
            let Course { began_at, threshold, links_count, deferred_count } = self.course;
            bodies.push(IncidentBody {
                change: word,
                cause: change.cause.into(),
                institution: institution.to_owned(),
                at: At(at),
                began_at: At(began_at),
                links_count,
                deferred_count,
                threshold,
                window_seconds: settings.window.as_secs(),
                because: because.clone(),
            });
        }
        bodies
    }
}

impl Course {
    fn of(change: &Change, began_at: Timestamp, began: Option<&Began>, settings: &Settings) -> Self {
        let (links_count, threshold) = match change.cause {
            // Only the opening that began the incident leads here, unless the incident has lasted for a day without an opening.
            Cause::FailingLinks => began.map_or((0, 0), |began| (began.links_count, began.threshold)),
            Cause::OutageErrors => (change.error_links as u64, settings.links as u64),
            Cause::StatusPage => (0, 0),
        };
        Self { began_at, threshold, links_count, deferred_count: 0 }
    }
}

/// The open episode of the link, if it counts for an incident: it has a prompt, and a failing institution can be its
/// cause. A muted or superseded link does not count. Links that were broken before relink was installed are adopted as muted.
pub(super) fn opening_of(link: &Link) -> Option<Opening<'_>> {
    let institution = link.profile.institution.as_deref()?;
    let episode = link.state.episode().filter(|episode| episode.cause.may_be_institution_wide())?;
    if episode.superseded_by.is_some() {
        return None;
    }
    let is_deferred = match episode.prompt {
        Prompt::Sent | Prompt::Postponed { .. } | Prompt::Unidentified { .. } => false,
        Prompt::Deferred { .. } => true,
        Prompt::Muted => return None,
    };
    Some(Opening { institution, link: &link.id, at: episode.opened_at, is_deferred })
}

/// Rebuilds the institutions from the store. The head of this file describes which evidence is lost.
pub(super) fn institutions_of<S: Store>(store: &S, policy: &Policy) -> Result<Institutions, StoreError> {
    let mut institutions = Institutions::of(policy, store.incidents()?);
    for state in [StateName::Invalid, StateName::TokenRequired, StateName::Updating] {
        for page in pages(store, Query { state: Some(state), limit: STORE_PAGE, ..Query::default() }) {
            let page = page?;
            for (id, stored) in page.ids.iter().zip(&page.links) {
                match stored.link() {
                    Ok(link) => opening_of(&link).iter().for_each(|opening| institutions.remember(opening)),
                    Err(error @ StoreError::Record(BadRecord::FutureVersion { .. })) => return Err(error),
                    // The link is missing from a count. The messages of the link are dead-lettered when they arrive.
                    Err(error) => tracing::error!(link.id = %id, %error, "a record cannot be read and is not counted"),
                }
            }
        }
    }
    Ok(institutions)
}

#[cfg(test)]
mod tests;

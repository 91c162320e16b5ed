//! Checks the messages about one link: they follow from its inputs, and obey the rules that users rely on.
//!
//! The rules are written without the machine, so that they find its bugs too. Then `machine` compares the state with the one that the
//! machine leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::super::bug_injector::Bug;
use super::Checked;
use super::machine::Transition;
use super::person::PersonChecker;
use crate::contract::{
    Action, AlsoBroken, JobName, NoticeBody, NoticeContent, NoticeName, Origin, Record, RefusedBody,
};
use crate::link::table::MOVES;
use crate::link::{
    Cause, Episode, Event, EventName, Input, InstitutionNotices, Link, LinkId, Policy, Prompt, State, StateName,
    Supersede, Timestamp, correct_times, step,
};

/// The links according to the output stream.
#[derive(Default)]
pub(super) struct LinkChecker {
    pub(super) links: BTreeMap<LinkId, Link>,
    /// The injected bug is one of the machine: then a comparison with the machine shows nothing.
    is_machine_wrong: bool,
    /// The episodes with a prompt.
    prompted: BTreeSet<(LinkId, u32)>,
    /// The announced due dates of consents, with their rungs.
    announced: BTreeSet<(LinkId, Timestamp, Option<Duration>)>,
    persons: PersonChecker,
    /// The links whose unfinished creation was announced.
    unfinished: BTreeSet<LinkId>,
    /// The superseded episodes, without those that an operator has reversed.
    superseded: BTreeSet<(LinkId, u32)>,
    /// The institutions that are down, by the messages so far.
    pub(super) down: BTreeSet<String>,
    /// Links whose users know that their institution is down, and since when.
    pub(super) announced_down: BTreeMap<LinkId, Timestamp>,
    /// The announced outages of each link.
    outages: BTreeSet<(LinkId, Timestamp)>,
    /// The link of the last state, if that state opened an episode, or showed the institution of an open one.
    opened_last: Option<LinkId>,
}

/// Notices and jobs whose state has not been published yet.
#[derive(Default)]
pub(super) struct PendingEffects {
    pub(super) all: Vec<(EffectName, LinkId, String)>,
    /// The other links that the message to the user mentions, if there is one.
    also: Option<Vec<AlsoBroken>>,
    /// The other links that the end of an outage mentions. It asks the user, but it was promised, so it waits for no pause.
    also_at_restoration: Option<Vec<AlsoBroken>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EffectName {
    Notice(NoticeName),
    Job(JobName),
}

impl PendingEffects {
    pub(super) fn notice(&mut self, name: NoticeName, link: &LinkId, id: &str, notice: NoticeBody) {
        self.all.push((EffectName::Notice(name), link.clone(), id.to_owned()));
        if matches!(name, NoticeName::UpdateRequired | NoticeName::Reminder | NoticeName::ConsentExpiring) {
            self.also = Some(notice.also_broken);
        } else if name == NoticeName::InstitutionRestored {
            let asks =
                matches!(notice.content, NoticeContent::InstitutionRestored { action, .. } if action != Action::None);
            self.also_at_restoration = asks.then_some(notice.also_broken);
        }
    }

    pub(super) fn job(&mut self, name: JobName, link: &LinkId, id: &str) {
        self.all.push((EffectName::Job(name), link.clone(), id.to_owned()));
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.also = None;
        self.also_at_restoration = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn has(&self, name: NoticeName) -> bool {
        self.all.iter().any(|(effect_name, ..)| *effect_name == EffectName::Notice(name))
    }
}

impl fmt::Display for PendingEffects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.all.iter().map(|(_, _, id)| id.as_str()).collect();
        f.write_str(&ids.join(", "))
    }
}

impl LinkChecker {
    /// A checker of nodes with this bug.
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self { is_machine_wrong: bug.is_some_and(|bug| bug.rule().is_some()), ..Self::default() }
    }

    pub(super) fn link(&self, id: &LinkId) -> Option<&Link> {
        self.links.get(id)
    }

    pub(super) fn opened_last(&self) -> Option<&LinkId> {
        self.opened_last.as_ref()
    }

    /// Checks a notice when it is published, before the state that lists it: an unfinished creation is announced once, and only while the
    /// link has never worked.
    pub(super) fn check_notice(&mut self, name: NoticeName, id: &LinkId) -> Checked {
        if name != NoticeName::CreationUnfinished {
            return Ok(());
        }
        if self.links.get(id).is_none_or(|link| link.state != State::Unconfirmed) {
            return Err(format!("an unfinished creation is announced of {id}, whose creation was finished"));
        }
        let is_new = self.unfinished.insert(id.clone());
        if is_new { Ok(()) } else { Err(format!("the unfinished creation of {id} is announced twice")) }
    }

    /// Checks a state and the effects directly before it.
    pub(super) fn take(
        &mut self,
        id: &LinkId,
        record: &Record,
        received: Option<&Input>,
        incident: Option<Timestamp>,
        effects: &PendingEffects,
        policy: &Policy,
    ) -> Checked {
        let origin = &record.because.origin;
        let before = self.links.get(id).cloned().unwrap_or_else(|| Link::unknown(id.clone(), origin.received_at.0));
        let after = record.link().map_err(|error| format!("{id}: {error}"))?;
        let which = format!("{id}.{}", record.version);
        if record.version != before.version + 1 {
            return Err(format!("{which} follows version {}", before.version));
        }
        if record.because.times_corrected {
            let due = correct_times(&before, record.because.at.0, policy);
            if due.is_none_or(|step| step.link != after) || !effects.is_empty() {
                return Err(format!("{which}: a correction of its times that was not due, or changes something else"));
            }
            self.links.insert(id.clone(), after);
            self.persons.times_corrected(id, record.because.at.0);
            return Ok(());
        }
        let at = record.because.at.0;
        if record.because.incident != incident.is_some() {
            return Err(format!(
                "{which}: its incident flag is {}, and that of the stream {}",
                record.because.incident,
                incident.is_some()
            ));
        }
        let input = input_of(&which, received, origin)?;
        // The rules come first, so that a violated one is reported by its name.
        self.check_rules(&which, &before, &after, input.event.name(), record, effects, policy)?;
        self.check_outage(&which, &before, &after, input.event.name(), incident, effects, policy)?;
        if let Some(also) = &effects.also_at_restoration {
            let checked = self.persons.check_restoration(&after, at, also, (&self.links, &self.down), policy);
            checked.map_err(|problem| format!("{which} {problem}"))?;
        }
        let checked = self.persons.check(&after, at, effects.also.as_deref(), (&self.links, &self.down), policy);
        checked.map_err(|problem| format!("{which} {problem}"))?;
        if !self.is_machine_wrong {
            let transition = Transition { which: &which, before: &before, after: &after, record, effects };
            self.compare_with_machine(&transition, Input { incident, ..input }, policy)?;
        }
        let is_named = before.profile.institution.is_none() && after.profile.institution.is_some();
        self.opened_last = (is_named || after.episodes_count > before.episodes_count).then(|| id.clone());
        self.links.insert(id.clone(), after);
        Ok(())
    }

    /// Checks at the end that no link is asked about whose successor works.
    pub(super) fn check_superseded(&self, policy: &Policy) -> Checked {
        for link in self.links.values() {
            // The user of a muted link is not asked. After the mute, the successor is found before the first message.
            let may_ask = |episode: &&Episode| episode.superseded_by.is_none() && episode.prompt != Prompt::Muted;
            let Some(episode) = link.state.episode().filter(may_ask) else { continue };
            let successor = self.links.values().find(|other| is_successor(other, link, policy));
            // An operator has rejected one of them, and the other is found before the next message to the user.
            if let Some(successor) = successor.filter(|_| link.not_superseded_by.is_empty()) {
                let number = episode.number.0;
                let prompt = episode.prompt;
                return Err(format!(
                    "episode {number} of {} is open ({prompt:?}), although {} works",
                    link.id, successor.id
                ));
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "all facts about one transition")]
    fn check_rules(
        &mut self,
        which: &str,
        before: &Link,
        after: &Link,
        event: EventName,
        record: &Record,
        effects: &PendingEffects,
        policy: &Policy,
    ) -> Checked {
        let (from, to) = (before.state.name(), after.state.name());
        let is_legal = MOVES.iter().any(|row| row.from == from && row.on == event && row.to.contains(&to));
        let is_due = event != EventName::DeadlinePassed
            || before.deadline(policy).is_some_and(|at| at <= record.because.origin.received_at.0);
        let episode = after.state.episode().or(before.state.episode());
        let number = episode.map_or(0, |episode| episode.number.0);
        let prompts = effects
            .all
            .iter()
            .filter(|(effect_name, ..)| *effect_name == EffectName::Notice(NoticeName::UpdateRequired))
            .count();
        let is_new_prompt = prompts == 0 || self.prompted.insert((after.id.clone(), number));
        let reminded = effects.has(NoticeName::Reminder);
        let ladder = &policy.settings().reminders;
        let is_on_ladder = episode.is_some_and(|episode| {
            let step = ladder.get((episode.reminders_count as usize).wrapping_sub(1));
            let is_prompted = episode.prompt == Prompt::Sent;
            is_prompted && step.is_some_and(|step| episode.opened_at.after(*step) <= record.because.at.0)
        });
        let is_broken = |state: &State| state.episode().is_some();
        let consent = after.profile.consent.as_ref();
        let due_at = consent.and_then(|consent| consent.due.at());
        let is_announced = effects.has(NoticeName::ConsentExpiring);
        let of_rung = due_at.filter(|_| is_announced).zip(consent).map(|(due_at, consent)| (due_at, consent.rung));
        let is_new_rung = of_rung.is_none_or(|(due_at, rung)| self.announced.insert((after.id.clone(), due_at, rung)));
        let is_marked = after.state.episode().is_some_and(|episode| episode.superseded_by.is_some());
        let asks = prompts > 0 || reminded;
        let has_successor = asks && self.links.values().any(|other| is_successor(other, after, policy));
        if event == EventName::Unsupersede {
            self.superseded.remove(&(after.id.clone(), number));
        }
        // A link that was never read is asked about first. The timer ends that wait, and a read may have no institution.
        let is_read =
            matches!(event, EventName::ObservedValid | EventName::ObservedInvalid | EventName::ObservedTokenRequired);
        let is_named = !policy.settings().can_verify
            || after.profile.institution.is_some()
            || is_read
            || event == EventName::DeadlinePassed;
        let is_superseded = effects.has(NoticeName::Superseded);
        let is_new_mark = !is_superseded || self.superseded.insert((after.id.clone(), number));
        // Between two attempts, the message says that the first one has failed.
        let is_repairing = to == StateName::Updating && !effects.has(NoticeName::UpdateFailed);
        let rules = [
            (!asks || !is_marked, "asks the user of a superseded link"),
            (!has_successor, "asks a user who has connected the bank anew"),
            (!asks || !is_repairing, "asks a user who is repairing the link"),
            (!asks || is_broken(&after.state), "asks the user of a link that is not broken"),
            (!asks || !after.muted, "asks the user of a muted link"),
            (is_new_mark, "supersedes an episode twice"),
            (is_legal, "is not in the transition table"),
            (is_due, "is a timer before its deadline"),
            (prompts < 2 && is_new_prompt, "prompts twice in one episode"),
            (prompts == 0 || is_named, "prompts before Belvo was asked whose link it is"),
            (!reminded || is_on_ladder, "sends a reminder outside the reminder ladder"),
            (is_new_rung, "announces the end of a consent twice for one step of the ladder"),
            (
                !is_announced || due_at.is_none_or(|due_at| record.because.at.0 < due_at),
                "announces the end of a consent after its date",
            ),
            (
                policy.settings().quiet_hours.is_none() || !(asks || is_announced) || !is_quiet(record.because.at.0),
                "sends a message to a user in quiet hours",
            ),
            (
                from != StateName::Updating || to == StateName::Updating || attempt_ends_well(to, effects),
                "ends an update without proof, failure or removal",
            ),
            (
                !is_broken(&before.state) || to != StateName::Valid || effects.has(NoticeName::Recovered),
                "recovers without a notice",
            ),
            (
                is_broken(&before.state) || !is_broken(&after.state) || is_opened(before, after),
                "breaks without a new episode",
            ),
            (after.updated_at >= before.updated_at, "has an earlier time than the state before"),
        ];
        let broken = rules.into_iter().find(|(holds, _)| !holds);
        broken.map_or(Ok(()), |(_, problem)| Err(format!("{which} ({from} to {to} on {}) {problem}", event.as_str())))
    }

    /// Checks the notices about the institution, and that nobody is asked for anything while it is down, unless an operator wants it.
    #[expect(clippy::too_many_arguments, reason = "all facts about one transition")]
    fn check_outage(
        &mut self,
        which: &str,
        before: &Link,
        link: &Link,
        event: EventName,
        down_since: Option<Timestamp>,
        effects: &PendingEffects,
        policy: &Policy,
    ) -> Checked {
        let is_asked = effects.has(NoticeName::UpdateRequired) || effects.has(NoticeName::Reminder);
        let cause = link.state.episode().map(|episode| episode.cause);
        let is_in_vain = matches!(cause, Some(Cause::Credentials | Cause::Token | Cause::AccountBlocked));
        // A released prompt may still wait for quiet hours or for the pause of the person.
        let is_released =
            event == EventName::Release || before.state.episode().is_some_and(|episode| episode.is_released);
        if is_asked && is_in_vain && down_since.is_some() && !is_released {
            return Err(format!("{which} asks a user for a repair while the institution is down"));
        }
        if effects.has(NoticeName::InstitutionRestored) && self.announced_down.remove(&link.id).is_none() {
            return Err(format!("{which}: an institution is restored, but that it was down was not announced"));
        }
        if effects.has(NoticeName::InstitutionDown) {
            let is_new = down_since.is_some_and(|since| {
                self.outages.insert((link.id.clone(), since))
                    && self.announced_down.insert(link.id.clone(), since).is_none()
            });
            if !is_new || link.muted {
                return Err(format!("{which}: an institution is announced as down without reason, or twice"));
            }
        }
        let is_superseded = link.state.episode().is_some_and(|episode| episode.superseded_by.is_some());
        // A user who begins a repair in the outage learns of it, unless the last outage is not over for the link.
        let is_updating = |link: &Link| matches!(link.state, State::Updating { .. });
        let is_silent = link.muted || is_superseded || self.announced_down.contains_key(&link.id);
        let is_met = !is_updating(before) && is_updating(link) && !is_silent;
        let is_unmet = down_since.is_some_and(|since| !self.outages.contains(&(link.id.clone(), since)));
        if is_met && is_unmet && policy.settings().institution_notices != InstitutionNotices::Off {
            return Err(format!("{which}: the link has met an outage, and that is not announced"));
        }
        if link.muted || is_superseded || link.state == State::Removed {
            self.announced_down.remove(&link.id);
        }
        Ok(())
    }

    /// Checks that a link which has met an outage is not left out.
    pub(super) fn check_unmet(
        &self,
        id: &LinkId,
        body: &RefusedBody,
        met: &Input,
        incident: Option<Timestamp>,
        policy: &Policy,
    ) -> Checked {
        let Some(link) = self.links.get(id).filter(|_| incident.is_some()) else { return Ok(()) };
        let is_off = policy.settings().institution_notices == InstitutionNotices::Off;
        match step(link, &Input { incident, ..met.clone() }, body.origin.received_at.0, policy) {
            Ok(_) if !is_off => {
                Err(format!("{id}.{}: the link has met an outage, and that is not announced", link.version))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Checks a refusal: the machine must refuse the same input for the same reason.
    pub(super) fn refuse(
        &self,
        id: &LinkId,
        body: &RefusedBody,
        received: Option<&Input>,
        incident: Option<Timestamp>,
        policy: &Policy,
    ) -> Checked {
        if self.is_machine_wrong {
            return Ok(());
        }
        let received_at = body.origin.received_at.0;
        let unknown = Link::unknown(id.clone(), received_at);
        let link = self.links.get(id).unwrap_or(&unknown);
        let Some(received) = received else {
            return if body.event.is_none() {
                Ok(())
            } else {
                Err(format!("{id}: a refusal names an event that its input does not have"))
            };
        };
        match step(link, &Input { incident, ..received.clone() }, received_at, policy) {
            Err(refusal) if refusal.as_str() == body.reason => Ok(()),
            Err(refusal) => {
                Err(format!("{id}: refused as {}, but the machine refuses it as {}", body.reason, refusal.as_str()))
            }
            Ok(_) => Err(format!("{id}.{}: refused as {}, but the machine accepts it", link.version, body.reason)),
        }
    }
}

/// The event of a state that this input, or a timer, has led to.
fn input_of(which: &str, received: Option<&Input>, origin: &Origin) -> Result<Input, String> {
    match (received, origin.input_sequence) {
        (Some(received), _) => Ok(received.clone()),
        (None, None) => Ok(Event::DeadlinePassed.into()),
        (None, Some(sequence)) => Err(format!("{which}: input {sequence} is not an event, but changed the link")),
    }
}

/// Whether the time is in the quiet hours ([`super::quiet_hours`]) of Mexico City, which is six hours behind UTC all year.
fn is_quiet(at: Timestamp) -> bool {
    let minute = (at.as_millis().div_euclid(60_000) - 6 * 60).rem_euclid(24 * 60);
    (8 * 60 + 13..8 * 60 + 15).contains(&minute)
}

/// Whether `other` is a newer working link of the same user, which no operator has rejected.
pub(super) fn is_successor(other: &Link, link: &Link, policy: &Policy) -> bool {
    let (new, old) = (&other.profile, &link.profile);
    policy.settings().supersede != Supersede::Never
        && other.id != link.id
        && other.state == State::Valid { suspicion: None }
        && new.created_at > old.created_at
        && old.created_at.is_some()
        && old.institution.is_some()
        && (&new.institution, &new.institution_user_id) == (&old.institution, &old.institution_user_id)
        && old.institution_user_id.is_some()
        && !link.not_superseded_by.contains(&other.id)
}

fn attempt_ends_well(to: StateName, effects: &PendingEffects) -> bool {
    match to {
        StateName::Valid => effects.has(NoticeName::Recovered),
        StateName::Invalid | StateName::TokenRequired => {
            effects.has(NoticeName::UpdateFailed) || effects.has(NoticeName::Superseded)
        }
        StateName::Removed => effects.has(NoticeName::Removed),
        StateName::Unconfirmed | StateName::Updating => false,
    }
}

fn is_opened(before: &Link, after: &Link) -> bool {
    let number = after.state.episode().map(|episode| episode.number.0);
    after.episodes_count == before.episodes_count + 1 && number == Some(after.episodes_count)
}

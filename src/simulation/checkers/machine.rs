//! Compares each state with the machine: [`step`] on the same input, with the circumstances that the stream shows, must give the same state
//! and the same effects.

use super::Checked;
use super::link::{EffectName, LinkChecker, PendingEffects, is_successor};
use crate::contract::{JobName, NoticeName, PersonRecord, Record};
use crate::link::{Effect, Input, Job, Link, LinkId, Notice, Person, Policy, Step, Timestamp, step};

/// A state on the output stream, and what was published with it.
pub(super) struct Transition<'a> {
    /// The link and the version, for the log.
    pub(super) which: &'a str,
    pub(super) before: &'a Link,
    pub(super) after: &'a Link,
    pub(super) record: &'a Record,
    pub(super) effects: &'a PendingEffects,
}

impl LinkChecker {
    /// Compares a state and its effects with those that the machine leads to. `input` has the incident already.
    pub(super) fn compare_with_machine(
        &self,
        transition: &Transition<'_>,
        mut input: Input,
        policy: &Policy,
    ) -> Checked {
        let Transition { which, before, after, record, effects } = *transition;
        let at = record.because.origin.received_at.0;
        let successor = self.successor_of(before, &input, at, policy);
        if record.because.successor_id.as_deref() != successor.as_ref().map(LinkId::as_str) {
            let (noted, known) = (&record.because.successor_id, &successor);
            return Err(format!("{which}: its successor is {noted:?}, and that of the stream {known:?}"));
        }
        input.successor = successor;
        let message = step(before, &input, at, policy).ok().filter(Step::has_message);
        let is_down = |institution: Option<&str>| institution.is_some_and(|name| self.down.contains(name));
        let person = message.and_then(|step| Person::of(&step.link, self.links.values(), is_down, step.at, policy));
        input.person = person.map(Box::new);
        if record.because.person != input.person.as_deref().map(PersonRecord::of) {
            let (noted, known) = (&record.because.person, &input.person);
            return Err(format!("{which}: its person is {noted:?}, and that of the stream {known:?}"));
        }
        let step = step(before, &input, at, policy);
        let step =
            step.map_err(|refusal| format!("{which}: the machine refuses {}: {refusal}", input.event.name().as_str()))?;
        if step.link != *after {
            return Err(format!("{which}: {} leads to another state", input.event.name().as_str()));
        }
        let due: Vec<EffectName> = step.effects.iter().map(effect_name).collect();
        let ids: Vec<&String> = effects.all.iter().map(|(_, _, id)| id).collect();
        let is_complete = effects.all.iter().map(|(effect_name, ..)| *effect_name).eq(due.iter().copied());
        let is_of_link = effects.all.iter().all(|(_, link, _)| *link == after.id);
        if !is_complete || !is_of_link || !record.sent.iter().eq(ids) {
            return Err(format!("{which}: the published effects are {effects}, and the required ones {due:?}"));
        }
        Ok(())
    }

    /// The newest successor of a link, if one has to be known for this input.
    fn successor_of(&self, before: &Link, input: &Input, at: Timestamp, policy: &Policy) -> Option<LinkId> {
        let step = step(before, input, at, policy).ok().filter(|step| step.may_have_successor(before))?;
        let successors = self.links.values().filter(|other| is_successor(other, &step.link, policy));
        successors.max_by_key(|other| other.profile.created_at).map(|other| other.id.clone())
    }
}

fn effect_name(effect: &Effect) -> EffectName {
    match effect {
        Effect::Job(Job::Verify { .. }) => EffectName::Job(JobName::Verify),
        Effect::Job(Job::Refresh { .. }) => EffectName::Job(JobName::Refresh),
        Effect::Job(Job::FindSuperseded) => EffectName::Job(JobName::FindSuperseded),
        Effect::Job(Job::ReadSuccessor { .. }) => EffectName::Job(JobName::ReadSuccessor),
        Effect::Notice { notice, .. } => EffectName::Notice(match notice {
            Notice::UpdateRequired => NoticeName::UpdateRequired,
            Notice::Reminder { .. } => NoticeName::Reminder,
            Notice::UpdateStarted => NoticeName::UpdateStarted,
            Notice::UpdateFailed { .. } => NoticeName::UpdateFailed,
            Notice::Superseded { .. } => NoticeName::Superseded,
            Notice::Recovered { .. } => NoticeName::Recovered,
            Notice::RefreshDue { .. } => NoticeName::RefreshDue,
            Notice::DataAvailable(_) => NoticeName::DataAvailable,
            Notice::Refreshed { .. } => NoticeName::Refreshed,
            Notice::ConsentExpiring { .. } => NoticeName::ConsentExpiring,
            Notice::CreationUnfinished { .. } => NoticeName::CreationUnfinished,
            Notice::Stale { .. } => NoticeName::Stale,
            Notice::InstitutionDown { .. } => NoticeName::InstitutionDown,
            Notice::InstitutionRestored { .. } => NoticeName::InstitutionRestored,
            Notice::Removed { .. } => NoticeName::Removed,
        }),
    }
}

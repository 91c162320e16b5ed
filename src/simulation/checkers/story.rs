//! What is told of one link: it follows from what was heard, and keeps the rules that users rely on.
//!
//! The first is the machine's own word ([`step`] on the same input gives the same state); the others are said once more, without it, so
//! that a mistake in the machine shows too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Checked;
use crate::contract::{JobName, NoticeName, Record, RefusedBody};
use crate::link::table::MOVES;
use crate::link::{Effect, Event, EventName, Input, Job, Link, LinkId, Notice, Policy, Prompt, State, StateName, step};

/// The links as the stream tells of them.
#[derive(Default)]
pub(super) struct Stories {
    pub(super) links: BTreeMap<LinkId, Link>,
    /// The outages that were prompted.
    prompted: BTreeSet<(LinkId, u32)>,
    /// The link whose state was the last, if it opened an outage.
    opened_last: Option<LinkId>,
}

/// Notices and jobs that were said and whose state has not come yet.
#[derive(Default)]
pub(super) struct Said(Vec<(What, LinkId, String)>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Notice(NoticeName),
    Job(JobName),
}

impl Said {
    pub(super) fn notice(&mut self, name: NoticeName, link: &LinkId, id: &str) {
        self.0.push((What::Notice(name), link.clone(), id.to_owned()));
    }

    pub(super) fn job(&mut self, name: JobName, link: &LinkId, id: &str) {
        self.0.push((What::Job(name), link.clone(), id.to_owned()));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, name: NoticeName) -> bool {
        self.0.iter().any(|(what, ..)| *what == What::Notice(name))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|(_, _, id)| id.as_str()).collect();
        f.write_str(&ids.join(", "))
    }
}

impl Stories {
    pub(super) fn link(&self, id: &LinkId) -> Option<&Link> {
        self.links.get(id)
    }

    pub(super) fn opened_last(&self) -> Option<&LinkId> {
        self.opened_last.as_ref()
    }

    /// A state, and what was said right before it.
    pub(super) fn take(
        &mut self,
        id: &LinkId,
        record: &Record,
        heard: Option<&Input>,
        incident: bool,
        said: &Said,
        policy: &Policy,
    ) -> Checked {
        let origin = &record.because.origin;
        let before = self.links.get(id).cloned().unwrap_or_else(|| Link::unknown(id.clone(), origin.received_at.0));
        let after = record.link().map_err(|error| format!("{id}: {error}"))?;
        let which = format!("{id}.{}", record.version);
        if record.version != before.version + 1 {
            return Err(format!("{which} follows version {}", before.version));
        }
        let mut input = match (heard, origin.input_sequence) {
            (Some(heard), _) => heard.clone(),
            (None, None) => Event::DeadlinePassed.into(),
            (None, Some(sequence)) => return Err(format!("{which}: input {sequence} is no event, and moved the link")),
        };
        input.incident = incident;
        if record.because.incident != incident {
            return Err(format!("{which}: it says incident {}, the stream says {incident}", record.because.incident));
        }
        let step = step(&before, &input, origin.received_at.0, policy);
        let step =
            step.map_err(|refusal| format!("{which}: the machine refuses {}: {refusal}", input.event.name().as_str()))?;
        if step.link != after {
            return Err(format!("{which}: {} leads to another state", input.event.name().as_str()));
        }
        let due: Vec<What> = step.effects.iter().map(what).collect();
        let ids: Vec<&String> = said.0.iter().map(|(_, _, id)| id).collect();
        let is_said = said.0.iter().map(|(what, ..)| *what).eq(due.iter().copied());
        let is_of_link = said.0.iter().all(|(_, link, _)| link == id);
        if !is_said || !is_of_link || !record.sent.iter().eq(ids) {
            return Err(format!("{which}: {said} was said, and {due:?} is due"));
        }
        self.check_rules(&which, &before, &after, input.event.name(), record, said, policy)?;
        self.opened_last = (after.episodes_count > before.episodes_count).then(|| id.clone());
        self.links.insert(id.clone(), after);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "everything that is known of one transition")]
    fn check_rules(
        &mut self,
        which: &str,
        before: &Link,
        after: &Link,
        event: EventName,
        record: &Record,
        said: &Said,
        policy: &Policy,
    ) -> Checked {
        let (from, to) = (before.state.name(), after.state.name());
        let is_legal = MOVES.iter().any(|row| row.from == from && row.on == event && row.to.contains(&to));
        let is_due = event != EventName::DeadlinePassed
            || before.deadline(policy).is_some_and(|at| at <= record.because.origin.received_at.0);
        let episode = after.state.episode().or(before.state.episode());
        let number = episode.map_or(0, |episode| episode.number.0);
        let prompts = said.0.iter().filter(|(what, ..)| *what == What::Notice(NoticeName::UpdateRequired)).count();
        let is_new_prompt = prompts == 0 || self.prompted.insert((after.id.clone(), number));
        let reminded = said.has(NoticeName::Reminder);
        let ladder = &policy.settings().reminders;
        let is_on_ladder = episode.is_some_and(|episode| {
            let step = ladder.get((episode.reminders_count as usize).wrapping_sub(1));
            let is_prompted = episode.prompt == Prompt::Sent;
            is_prompted && step.is_some_and(|step| episode.opened_at.after(*step) <= record.because.at.0)
        });
        let is_broken = |state: &State| state.episode().is_some();
        let rules = [
            (is_legal, "is no row of the table"),
            (is_due, "comes before its time"),
            (prompts < 2 && is_new_prompt, "prompts for an outage that was prompted"),
            (prompts == 0 || (is_broken(&after.state) && !after.muted), "prompts where nothing is to be done"),
            (!reminded || is_on_ladder, "reminds off the ladder"),
            (
                from != StateName::Updating || to == StateName::Updating || attempt_ends_well(to, said),
                "ends an update without proof, failure or removal",
            ),
            (
                !is_broken(&before.state) || to != StateName::Valid || said.has(NoticeName::Recovered),
                "recovers without a word",
            ),
            (
                is_broken(&before.state) || !is_broken(&after.state) || is_opened(before, after),
                "breaks without a new outage",
            ),
            (after.updated_at >= before.updated_at, "goes back in time"),
        ];
        let broken = rules.into_iter().find(|(holds, _)| !holds);
        broken.map_or(Ok(()), |(_, problem)| Err(format!("{which} ({from} to {to} on {}) {problem}", event.as_str())))
    }

    /// A refusal: nothing has changed.
    pub(super) fn refuse(
        &self,
        id: &LinkId,
        body: &RefusedBody,
        heard: Option<&Input>,
        incident: bool,
        policy: &Policy,
    ) -> Checked {
        let received_at = body.origin.received_at.0;
        let unheard_of = Link::unknown(id.clone(), received_at);
        let link = self.links.get(id).unwrap_or(&unheard_of);
        let Some(heard) = heard else {
            return if body.event.is_none() { Ok(()) } else { Err(format!("{id}: a remark names an event")) };
        };
        match step(link, &Input { incident, ..heard.clone() }, received_at, policy) {
            Err(refusal) if refusal.as_str() == body.reason => Ok(()),
            Err(refusal) => Err(format!("{id}: refused as {}, and the machine says {}", body.reason, refusal.as_str())),
            Ok(_) => Err(format!("{id}.{}: refused as {}, and the machine takes it", link.version, body.reason)),
        }
    }
}

fn attempt_ends_well(to: StateName, said: &Said) -> bool {
    match to {
        StateName::Valid => said.has(NoticeName::Recovered),
        StateName::Invalid | StateName::TokenRequired => said.has(NoticeName::UpdateFailed),
        StateName::Removed => said.has(NoticeName::Removed),
        StateName::Unconfirmed | StateName::Updating => false,
    }
}

fn is_opened(before: &Link, after: &Link) -> bool {
    let number = after.state.episode().map(|episode| episode.number.0);
    after.episodes_count == before.episodes_count + 1 && number == Some(after.episodes_count)
}

fn what(effect: &Effect) -> What {
    match effect {
        Effect::Job(Job::Verify { .. }) => What::Job(JobName::Verify),
        Effect::Job(Job::Refresh { .. }) => What::Job(JobName::Refresh),
        Effect::Notice { notice, .. } => What::Notice(match notice {
            Notice::UpdateRequired => NoticeName::UpdateRequired,
            Notice::Reminder { .. } => NoticeName::Reminder,
            Notice::UpdateStarted => NoticeName::UpdateStarted,
            Notice::UpdateFailed { .. } => NoticeName::UpdateFailed,
            Notice::Recovered { .. } => NoticeName::Recovered,
            Notice::RefreshDue { .. } => NoticeName::RefreshDue,
            Notice::DataAvailable(_) => NoticeName::DataAvailable,
            Notice::Refreshed { .. } => NoticeName::Refreshed,
            Notice::ConsentExpiring { .. } => NoticeName::ConsentExpiring,
            Notice::Stale { .. } => NoticeName::Stale,
            Notice::Removed { .. } => NoticeName::Removed,
        }),
    }
}

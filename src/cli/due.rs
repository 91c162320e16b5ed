//! What happens next with a link, as plain sentences.

use super::beside::Beside;
use super::sentences::{at, span, word_of};
use crate::contract::{
    At, AttemptEndWord, DueOfLink, DueWord, HeldWord, Mention, PromptWord, Record, StateWord, UpdatePhaseWord,
};
use crate::link::{Cause, Timestamp};
use crate::printable::printable;
use crate::wording::of_cause;

/// What is known besides the record of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around {
    /// relink only records the messages to users.
    pub(super) observes: bool,
    /// Whether the institution of the link is down now. `None`: not known.
    pub(super) bank_is_down: Option<bool>,
    /// relink itself has muted the link, when it adopted it.
    pub(super) is_adopted: bool,
    /// A message about another link of the person mentioned this link. It counts as the prompt of the outage, or as a reminder that is due
    /// before this time.
    pub(super) mention_counts_until: Option<Timestamp>,
    /// The newer link that replaced this one, if that is known.
    pub(super) successor: Option<SuccessorNow>,
}

/// The state of the newer link that replaced another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SuccessorNow {
    /// relink has no record of it: an application named it.
    Unknown,
    /// It is in this state.
    Is(StateWord),
}

impl Around {
    /// With what stands beside the record of the link. `mention` is its mention, if that has not counted yet.
    pub(super) fn with(self, beside: &Beside, mention: Option<&Mention>) -> Self {
        let mention_counts_until = mention.and_then(|mention| mention.counts_until).map(|until| until.0);
        let successor = beside.successor.as_ref();
        let successor = successor.map(|one| one.state.map_or(SuccessorNow::Unknown, SuccessorNow::Is));
        Self { mention_counts_until, successor, ..self }
    }
}

/// What relink waits for. `due` is what is due for the link, the next first. For a postponed message, `because` of the record is best the
/// transition that postponed it, because that one has what is known of the person.
pub(super) fn next_steps(record: &Record, due: &[DueOfLink], around: Around, now: Timestamp) -> Vec<String> {
    let mut steps = match record.state {
        StateWord::Removed => vec!["Nothing happens any more.".to_owned()],
        StateWord::Unconfirmed => vec![of_unconfirmed(record, time_of(due, DueWord::Creation), now)],
        StateWord::Valid => of_valid(record, due, around, now),
        StateWord::Invalid | StateWord::TokenRequired => of_broken(record, due, around, now),
        StateWord::Updating => of_updating(record, due, around, now),
    };
    if record.muted && record.state != StateWord::Removed {
        let end = if around.is_adopted {
            "relink releases it itself, at most RELINK_ADOPTION_PER_HOUR links an hour (0: only `relink unmute` does)"
        } else {
            "its user is neither prompted nor reminded until `relink unmute`"
        };
        steps.push(format!("The link is muted: {end}."));
    }
    if let Some(until) = record.snoozed_until.filter(|until| until.0 > now && record.state != StateWord::Removed) {
        // After the last reminder of an outage, there is none to postpone.
        let is_last = record.episode.as_ref().is_some_and(|last| last.prompt_sent && last.next_reminder_at.is_none());
        let none = if is_last { "; there is none left in this outage" } else { "" };
        steps.push(format!(
            "An operator postponed the reminders (`relink snooze`): none is sent before {}{none}.",
            at(until.0, now)
        ));
    }
    if around.observes {
        steps.push("relink only observes: messages to the user are recorded, and not sent.".to_owned());
    }
    steps
}

/// What happens next, in some words for a table. `due` is what is due for the link.
pub(super) fn next_in_short(record: &Record, due: &[DueOfLink], around: Around, now: Timestamp) -> String {
    let within = |time: Timestamp| {
        let millis = time.as_millis().saturating_sub(now.as_millis());
        if millis > 0 { format!("in {}", span(millis)) } else { "now".to_owned() }
    };
    let is_broken = matches!(record.state, StateWord::Invalid | StateWord::TokenRequired);
    let episode = record.episode.as_ref().filter(|_| is_broken);
    let Some(episode) = episode else {
        return match (&record.update, &record.suspicion, &record.refresh) {
            (Some(update), _, _) if update.phase == UpdatePhaseWord::WithUser => {
                format!("the attempt ends {}", within(update.until.0))
            }
            (Some(_), _, _) => "proof of the repair".to_owned(),
            (None, Some(_), _) => "a report is verified".to_owned(),
            (None, None, Some(_)) => "missing data".to_owned(),
            (None, None, None) if record.state == StateWord::Removed => "-".to_owned(),
            (None, None, None) if record.muted => "muted".to_owned(),
            (None, None, None) => next_consent_end(record, now)
                .filter(|_| record.state == StateWord::Valid)
                .map_or_else(|| "-".to_owned(), |end| format!("the consent ends {}", within(end))),
        };
    };
    if episode.superseded_by.is_some() {
        return "no message: replaced by a newer link".to_owned();
    }
    if record.muted {
        return "no message: muted".to_owned();
    }
    let what = match episode.prompt {
        Some(PromptWord::Muted) => "prompt, if the attempt fails".to_owned(),
        Some(PromptWord::Postponed) if around.mention_counts_until.is_some() => {
            "no prompt of its own: mentioned".to_owned()
        }
        Some(word @ (PromptWord::Deferred | PromptWord::Postponed | PromptWord::Unidentified)) => {
            let until = episode.prompt_deferred_until.map_or_else(|| "?".to_owned(), |until| within(until.0));
            let what = match (word, around.bank_is_down) {
                (PromptWord::Deferred, Some(false)) => "check after the incident",
                (PromptWord::Deferred, _) => "check of the incident",
                (_, Some(true)) if !episode.prompt_released => "prompt, if the bank is up,",
                (PromptWord::Postponed, _) if record.because.held == Some(HeldWord::OtherAnswer) => {
                    "prompt, if Belvo has answered,"
                }
                _ => "prompt",
            };
            format!("{what} {until}")
        }
        Some(PromptWord::Sent) | None => {
            let number = episode.reminders_count.saturating_add(1);
            match reminder_at(record, time_of(due, DueWord::Reminder)) {
                Some(due_at) if counts_as_reminder(around, due_at) => format!("no reminder {number}: mentioned"),
                Some(due_at)
                    if around.bank_is_down == Some(true) && record.snoozed_until.is_none_or(|until| until.0 <= now) =>
                {
                    format!("reminder {number}, if the bank is up, {}", within(due_at))
                }
                Some(due_at) => format!("reminder {number} {}", within(due_at)),
                None => "no reminder".to_owned(),
            }
        }
    };
    if around.observes { format!("{what}, recorded only") } else { what }
}

fn of_unconfirmed(record: &Record, due_at: Option<Timestamp>, now: Timestamp) -> String {
    match due_at {
        Some(due_at) if record.unfinished_probed_until.is_some() => format!(
            "relink has asked Belvo whether the creation of the link is finished now. It publishes `creation_unfinished` when Belvo says \
             that it is not, and at the latest at {}.",
            at(due_at, now)
        ),
        Some(due_at) => format!(
            "If the creation of the link is not finished by {}, relink publishes `creation_unfinished` for your application, once.",
            at(due_at, now)
        ),
        None if record.unfinished_announced => {
            "Nothing is due. Your application was notified that the creation of the link is not finished, or its user has connected the bank anew.".to_owned()
        }
        None => "Nothing is due. relink waits for the first message that shows whether the link works.".to_owned(),
    }
}

fn of_valid(record: &Record, due: &[DueOfLink], around: Around, now: Timestamp) -> Vec<String> {
    let mut steps = Vec::new();
    if let Some(suspicion) = &record.suspicion {
        steps.push(format!(
            "relink verifies a report that {}. If nothing refutes the report until {}, the link counts as broken, and its user is prompted.",
            of_cause(suspicion.cause.into()),
            at(suspicion.until.0, now)
        ));
    }
    if let Some(refresh) = &record.refresh {
        steps.push(format!(
            "The data of the outage is awaited until {}.{}",
            at(refresh.until.0, now),
            if around.observes { "" } else { " Then relink asks Belvo for it, or publishes `refreshed` without it." }
        ));
    }
    if let Some(until) = record.stale_probed_until {
        steps.push(format!("Data is overdue. If none arrives until {}, relink publishes `stale`.", at(until.0, now)));
    }
    let ends_at = next_consent_end(record, now);
    let is_announced =
        ends_at.is_some() && record.consent.as_ref().is_some_and(|consent| consent.announced_for == ends_at.map(At));
    if let Some(ends_at) = ends_at {
        let announced = match (is_announced, around.observes) {
            (false, _) => "",
            (true, false) => " The user was asked to renew it.",
            (true, true) => " relink recorded the notice about it.",
        };
        steps.push(format!("The consent ends at {}.{announced}", at(ends_at, now)));
    }
    for due in due {
        let time = at(due.at.0, now);
        match due.what {
            DueWord::ConsentNotice if around.observes => steps.push(format!(
                "At {time} relink records the notice that the consent ends soon. The user does not get it, because relink only observes."
            )),
            DueWord::ConsentNotice => {
                let again = if is_announced { "again " } else { "" };
                let bank = if around.bank_is_down == Some(true) {
                    " The institution is down now: if it is still down then, the notice waits."
                } else {
                    ""
                };
                steps.push(format!(
                    "At {time} the user is {again}asked to renew the consent, unless it is renewed before.{bank}"
                ));
            }
            DueWord::Data if record.stale_probed_until.is_none() => {
                steps.push(format!("At {time} relink asks Belvo about the link, if no data has arrived until then."));
            }
            DueWord::Incident => steps.push(incident_check(&time, around)),
            // The report, the data of the outage, stale data and the end of the consent are above.
            DueWord::Report | DueWord::Answer | DueWord::Refresh | DueWord::Data | DueWord::ConsentEnd => {}
            // Nothing of this is due for a link that works.
            DueWord::Creation | DueWord::Prompt | DueWord::Reminder | DueWord::Attempt => {}
        }
    }
    if steps.is_empty() {
        steps.push("Nothing is due. relink waits for the next message about the link.".to_owned());
    }
    steps
}

/// When the consent ends, if that is in the future.
fn next_consent_end(record: &Record, now: Timestamp) -> Option<Timestamp> {
    record.consent.as_ref()?.due_at.map(|At(at)| at).filter(|end| *end > now)
}

fn of_broken(record: &Record, due: &[DueOfLink], around: Around, now: Timestamp) -> Vec<String> {
    let Some(episode) = &record.episode else { return Vec::new() };
    if let Some(by) = &episode.superseded_by {
        return vec![of_superseded(&printable(by), around.successor)];
    }
    let can_repair = Cause::from(episode.cause).user_can_act();
    let step = match unsent_prompt(record, around, now) {
        Some(why) => why,
        None if !can_repair => "No reminder is due, because the user cannot repair this link.".to_owned(),
        None => reminder(record, episode.reminders_count, time_of(due, DueWord::Reminder), around, now),
    };
    let incident = time_of(due, DueWord::Incident).map(|time| incident_check(&at(time, now), around));
    let any_time = can_repair.then(|| match around.bank_is_down {
        Some(true) => "The institution is down, so the user can repair the link only when it works again.".to_owned(),
        Some(false) | None => "The user may repair the link at any time, without waiting for a message.".to_owned(),
    });
    let named = episode.successor_named.as_ref().map(|named| of_named_link(&printable(named)));
    any_time.into_iter().chain([step]).chain(incident).chain(named).collect()
}

/// What a success callback that named another link has led to, if it has not led to the end of the messages.
fn of_named_link(named: &str) -> String {
    format!(
        "A success of the widget named the link {named}, which has not replaced this one. relink reads a named link from Belvo. It replaces \
         this one if it works and is at the same institution, and if neither its user nor its age contradicts that."
    )
}

/// Why nobody is asked about a link that the newer link `by` replaced.
fn of_superseded(by: &str, successor: Option<SuccessorNow>) -> String {
    let now = match successor {
        None => String::new(),
        Some(SuccessorNow::Unknown) => " Your application named that link, and relink does not know it.".to_owned(),
        Some(SuccessorNow::Is(StateWord::Valid)) => " That link works.".to_owned(),
        Some(SuccessorNow::Is(StateWord::Removed)) => {
            " That link is removed now, so the user is asked about neither of them.".to_owned()
        }
        Some(SuccessorNow::Is(StateWord::Updating)) => " That link is broken too, and its repair has begun.".to_owned(),
        Some(SuccessorNow::Is(state @ (StateWord::Invalid | StateWord::TokenRequired | StateWord::Unconfirmed))) => {
            format!(" That link is {} now; `relink show {by}` has what happens with it.", word_of(state))
        }
    };
    format!(
        "The user is neither prompted nor reminded about this link, because the newer link {by} of the same user replaced it.{now} \
         `relink unsupersede` reverses this."
    )
}

/// When this is due for the link, if it is. Another thing may be due before.
fn time_of(due: &[DueOfLink], what: DueWord) -> Option<Timestamp> {
    due.iter().find(|due| due.what == what).map(|due| due.at.0)
}

fn incident_check(time: &str, around: Around) -> String {
    match around.bank_is_down {
        Some(false) => format!(
            "Your application was notified that the institution was down. It works again: relink publishes `institution_restored` at {time}, \
             or when the quiet hours end after that."
        ),
        Some(true) | None => format!(
            "Your application was notified that the institution is down. At {time} relink looks whether it works again."
        ),
    }
}

/// What still keeps back a prompt that nothing else does.
const NOT_AT_ANY_TIME: &str = ", but not in quiet hours, and not within the pause after another message to the person";

/// Why the user of a broken link was not prompted, and what ends this; `None` if the prompt is sent, or nobody is to be prompted.
fn unsent_prompt(record: &Record, around: Around, now: Timestamp) -> Option<String> {
    let is_broken = matches!(record.state, StateWord::Invalid | StateWord::TokenRequired);
    let episode = record.episode.as_ref().filter(|episode| is_broken && episode.superseded_by.is_none())?;
    let until = || episode.prompt_deferred_until.map_or_else(|| "?".to_owned(), |until| at(until.0, now));
    let published = if around.observes { "recorded" } else { "published" };
    let what = match (episode.prompt?, episode.prompt_asked_at) {
        (PromptWord::Sent, _) => return None,
        // The mute is what keeps the prompt back, whatever else would.
        _ if record.muted => String::new(),
        (PromptWord::Muted, _) => format!(
            ", because the user was in the widget already when the outage became known. The prompt is {published} if that attempt fails"
        ),
        (PromptWord::Deferred, None) if around.bank_is_down == Some(false) => format!(
            ", because the institution had an incident. It is over: relink looks at that at {}, and then asks Belvo whether the link works \
             again. The prompt is {published} if the link is still broken{NOT_AT_ANY_TIME}",
            until()
        ),
        (PromptWord::Deferred, None) => format!(
            ", because the institution has an incident: many of its links failed together, or the institution is down. relink checks \
             again at {}. `relink release` ends this wait: then the prompt is {published}{NOT_AT_ANY_TIME}",
            until()
        ),
        (PromptWord::Deferred, Some(asked_at)) => format!(
            ". After the incident of the institution, relink asked Belvo at {} whether the link works again; it waits for the answer \
             until {}. The prompt is {published} if the link is still broken{NOT_AT_ANY_TIME}",
            asked_at.0,
            until()
        ),
        (PromptWord::Postponed, _) if around.mention_counts_until.is_some() => {
            return Some(format!(
                "The user gets no prompt of its own about this link: the message about another link, which mentioned this one, counts as it. \
                 relink notes this at {}, and the first reminder follows.",
                until()
            ));
        }
        (PromptWord::Postponed, _) if around.bank_is_down == Some(true) && !episode.prompt_released => format!(
            ": {}. The wait ends at {}. The institution is down now: if it is still down then, the prompt waits for it. `relink release` \
             ends that second wait",
            reason_of_wait(record),
            until()
        ),
        (PromptWord::Postponed, _) if record.because.held == Some(HeldWord::OtherAnswer) => format!(
            ": {}. relink looks again at {}. The prompt is {published} then, if Belvo has answered; it waits for the reminder pause at most",
            reason_of_wait(record),
            until()
        ),
        (PromptWord::Postponed, _) => format!(
            ": {}. The prompt is {published} at {}, if the link is still broken and no message about another link mentions it before. \
             `relink release` does not shorten this wait",
            reason_of_wait(record),
            until()
        ),
        (PromptWord::Unidentified, _) => format!(
            ", because relink has never read the link and asks Belvo whose link it is. The prompt is {published} with the answer, if the \
             link is still broken, and at the latest at {}",
            until()
        ),
    };
    Some(format!("The user has not been prompted{what}."))
}

/// Why the user may get no message now. `because` of the record is the transition that began the wait, unless that one is not in the history.
fn reason_of_wait(record: &Record) -> String {
    let person = record.because.person.as_ref();
    let pause = "gets no other one within the reminder pause";
    match record.because.held {
        Some(HeldWord::QuietHours) => "it is a part of the day without messages (quiet hours)".to_owned(),
        Some(HeldWord::InWidget) => match person.and_then(|person| person.in_widget.as_ref()) {
            Some(widget) => format!("the same person is repairing the link {}", printable(&widget.link_id)),
            None => "the user holds a widget token for this link".to_owned(),
        },
        Some(HeldWord::OtherAnswer) => {
            let other = person.and_then(|person| person.undecided.as_ref());
            let other = other
                .map_or_else(|| "another link".to_owned(), |other| format!("the link {}", printable(&other.link_id)));
            format!(
                "{other} of the same person is broken, and relink asks Belvo first whether that one works again, so that one message is about both"
            )
        }
        Some(HeldWord::Pause) => {
            let other = person.and_then(|person| person.last_message.as_ref());
            let other = other.filter(|other| record.messaged.as_ref().is_none_or(|own| own.at < other.at));
            match (other, &record.messaged) {
                (Some(other), _) => {
                    let link = printable(&other.link_id);
                    format!("the same person got a message about the link {link} at {}, and {pause}", other.at.0)
                }
                (None, Some(own)) => format!("the user got a message about this link at {}, and {pause}", own.at.0),
                (None, None) => format!("the person got a message a short time before, and {pause}"),
            }
        }
        Some(_) | None => {
            "the person got a message a short time before, or it is a part of the day without messages (quiet hours)"
                .to_owned()
        }
    }
}

/// When the next reminder is due, if there is one. `due_at` is when relink looks next at that.
fn reminder_at(record: &Record, due_at: Option<Timestamp>) -> Option<Timestamp> {
    // The link may be due before its reminder, for another reason. Quiet hours make it due later.
    let own = record.episode.as_ref().and_then(|episode| episode.next_reminder_at).map(|at| at.0);
    let latest = [own, record.snoozed_until.map(|until| until.0)].into_iter().flatten().max();
    due_at.map(|due_at| latest.map_or(due_at, |latest| latest.max(due_at)))
}

/// Whether a mention of the link counts as the reminder that is due at this time.
fn counts_as_reminder(around: Around, due_at: Timestamp) -> bool {
    around.mention_counts_until.is_some_and(|until| due_at < until)
}

fn reminder(record: &Record, sent_count: u32, due_at: Option<Timestamp>, around: Around, now: Timestamp) -> String {
    let Some(due_at) = reminder_at(record, due_at) else {
        let has_next = record.episode.as_ref().is_some_and(|episode| episode.next_reminder_at.is_some());
        return if record.muted && has_next {
            "No reminder is due, because the link is muted. relink waits until the user repairs the link.".to_owned()
        } else {
            "No reminder is due any more. relink waits until the user repairs the link.".to_owned()
        };
    };
    let snoozed = record.snoozed_until.filter(|until| until.0 >= due_at);
    let because = if snoozed.is_some() { " (an operator postponed it until then)" } else { "" };
    let first = if record.episode.as_ref().is_some_and(|episode| episode.refused_at.is_some()) {
        " Before it, relink may ask Belvo for a login, to find out whether the link works again."
    } else {
        ""
    };
    let number = sent_count.saturating_add(1);
    if counts_as_reminder(around, due_at) {
        return format!(
            "Reminder {number} is due at {}, and is not sent: the message about another link, which mentioned this one, counts as it.",
            at(due_at, now)
        );
    }
    let due_at = at(due_at, now);
    let waits_since =
        record.episode.as_ref().and_then(|episode| episode.reminder_waits_since).filter(|_| snoozed.is_none());
    let is_reason = matches!(
        record.because.held,
        Some(HeldWord::QuietHours | HeldWord::InWidget | HeldWord::Pause | HeldWord::OtherAnswer)
    );
    let reason = if is_reason && around.bank_is_down != Some(true) {
        format!(" It waits: {}.", reason_of_wait(record))
    } else {
        String::new()
    };
    let waits = waits_since
        .map_or_else(String::new, |since| format!("Reminder {number} has been due since {}.{reason} ", since.0));
    if around.bank_is_down == Some(true) {
        return if waits.is_empty() {
            format!(
                "Reminder {number} is due at {due_at}{because}. The institution is down now: if it is still down then, the reminder waits.{first}"
            )
        } else {
            format!("{waits}It waits, because the institution is down: relink looks again at {due_at}.{first}")
        };
    }
    let may_be_down = record.because.incident && around.bank_is_down.is_none();
    let incident = if may_be_down { " While the incident of the institution goes on, reminders wait." } else { "" };
    let first = format!("{incident}{first}");
    if around.observes {
        return format!(
            "{waits}relink records reminder {number} at {due_at}{because}, unless the link works again before. The user does not get it, because \
             relink only observes.{first}"
        );
    }
    let other = if record.external_id.is_some() { ", or the user gets another message" } else { "" };
    format!(
        "{waits}The user gets reminder {number} at {due_at}{because}, unless the link works again{other} before.{first}"
    )
}

fn of_updating(record: &Record, due: &[DueOfLink], around: Around, now: Timestamp) -> Vec<String> {
    let Some(update) = &record.update else { return Vec::new() };
    let until = at(update.until.0, now);
    let bank = (around.bank_is_down == Some(true)).then(|| "The institution is down now.".to_owned());
    let step = match update.phase {
        UpdatePhaseWord::WithUser => {
            format!("The user may finish the repair until {until}. If no result arrives by then, the attempt is over.")
        }
        UpdatePhaseWord::Verifying => {
            let end = match update.after {
                Some(AttemptEndWord::Claimed) => "A success was reported.",
                Some(AttemptEndWord::Abandoned) => "The user closed the widget, or the widget reported an error.",
                Some(AttemptEndWord::TimedOut) | None => "The attempt had no result in time.",
            };
            let so_far = match update.asked_count.unwrap_or(1) {
                0 | 1 => String::new(),
                count => format!(" (request {count}: no proof came so far)"),
            };
            format!(
                "{end} relink asks Belvo whether the link works{so_far}. If no proof comes until {until}, it asks again, or the attempt has \
                 failed. `recovered` is published only with that proof."
            )
        }
    };
    let incident = time_of(due, DueWord::Incident).map(|time| incident_check(&at(time, now), around));
    bank.into_iter().chain([step]).chain(incident).collect()
}

#[cfg(test)]
mod tests;

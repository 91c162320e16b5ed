//! `relink why`: formats the history of a link for people.
//!
//! Ids, names and messages in the answers come from outside, so every text is made printable first.

use anstyle::AnsiColor;
use anyhow::bail;
use serde_json::Value;

use super::beside::Beside;
use super::client::{History, LastState};
use super::due::{Around, next_steps};
use super::held::{counts_mention, of_missing_answer, of_moved_reminder, of_omission};
use super::links::headline;
use super::outages::{last_outage, open_outage};
use super::output::{BOLD, DIM, colour_of, line};
use super::refusals::of_refused;
use super::sentences::{
    at, commanded_by, in_quotes, of_job, of_mention, of_notice, of_observed, of_transition, word_of,
};
use crate::contract::{
    At, Because, HistoryEntry, HistoryKind, Mention, Origin, OriginKind, PromptWord, Record, StateWord,
};
use crate::link::Timestamp;
use crate::printable::{printable, printable_json};
use crate::wording::of_state;

/// What is known besides the history.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// What stands beside the record of the link.
    pub(super) beside: Beside,
    /// The state of relink and of the institution. Whether relink has muted the link, the history shows.
    pub(super) around: Around,
    /// The history cannot be read now, so it has the last state only.
    pub(super) has_no_history: bool,
}

/// The history of a link. `message` is the id of a message to mark.
pub(super) fn show(history: &History, message: Option<&str>, known: &Known, now: Timestamp) -> anyhow::Result<String> {
    let begins_late = begins_late(history);
    show_part(history, message, known, now, begins_late)
}

fn show_part(
    history: &History,
    message: Option<&str>,
    known: &Known,
    now: Timestamp,
    begins_late: bool,
) -> anyhow::Result<String> {
    // The id is compared in its printable form, like the ids of the history.
    let (history, message) = (&printable_history(history), message.map(printable));
    let message = message.as_deref();
    let mentioned = message.map(|id| history.entries.iter().find(|entry| mentions(entry, id)));
    if let (Some(None), Some(id)) = (mentioned, message) {
        bail!(
            "the history of the link {} does not contain the message {id}: it was never there, or has been deleted; to see the history, \
             give only the link id",
            history.link_id
        );
    }
    let mut text = String::new();
    let newest = history.entries.iter().rev().find(|entry| entry.kind == HistoryKind::State);
    summary(&mut text, history, newest, known, now);
    if let (Some(id), Some(Some(entry))) = (message, mentioned) {
        line(&mut text, format_args!("\n{BOLD}The message {id}{BOLD:#}"));
        about_message(&mut text, entry, id);
    }
    line(&mut text, format_args!("\n{BOLD}What happened, the oldest first{BOLD:#}"));
    if history.truncated {
        line(&mut text, format_args!("{DIM}  (the history is too long; this is its newest part){DIM:#}"));
    }
    if history.unreadable_count > 0 {
        let count = history.unreadable_count;
        line(
            &mut text,
            format_args!("{DIM}  (entries in a format that this version of relink cannot read: {count}){DIM:#}"),
        );
    }
    if begins_late {
        line(&mut text, format_args!("{DIM}  (earlier entries have been deleted){DIM:#}"));
    }
    let mut before = &Value::Null;
    for entry in states_first(&history.entries) {
        let is_marked = message.is_some_and(|id| mentions(entry, id));
        write_entry(&mut text, entry, before, is_marked);
        if entry.kind == HistoryKind::State {
            before = &entry.body;
        }
    }
    let was_unconfirmed = |because: Because| because.from == StateWord::Unconfirmed;
    if history.entries.iter().filter_map(because).any(was_unconfirmed) {
        let what = "nothing had shown yet whether the link works, or that its creation was finished";
        line(&mut text, format_args!("{DIM}  (unconfirmed: {what}){DIM:#}"));
    }
    Ok(text)
}

/// Whether the stream has deleted the first states of the link.
fn begins_late(history: &History) -> bool {
    let mut states = history.entries.iter().filter(|entry| entry.kind == HistoryKind::State);
    !history.truncated && states.next().is_some_and(|first| first.body["version"].as_u64() > Some(1))
}

/// The last state of a link, without the history, which relink cannot read now.
pub(super) fn show_last_state(last: LastState, around: Around, now: Timestamp) -> anyhow::Result<String> {
    let as_of = last.as_of.as_deref().map_or_else(|| "?".to_owned(), printable);
    let note = format!(
        "relink cannot read the history from NATS now; this is the last state that it has in its store, as of {as_of}\n\n"
    );
    let known = Known { beside: last.beside, around, has_no_history: true };
    Ok(note + &show_part(&last.history, None, &known, now, false)?)
}

/// The history with every text made printable.
pub(super) fn printable_history(history: &History) -> History {
    let entry = |entry: &HistoryEntry| HistoryEntry {
        name: entry.name.as_deref().map(printable),
        message_id: entry.message_id.as_deref().map(printable),
        body: printable_json(&entry.body),
        ..entry.clone()
    };
    History { link_id: printable(&history.link_id), entries: history.entries.iter().map(entry).collect(), ..*history }
}

/// Moves each state before the messages of its commit. On the stream a state comes after them, but readers expect the
/// transition first.
fn states_first(entries: &[HistoryEntry]) -> Vec<&HistoryEntry> {
    let (mut ordered, mut pending) = (Vec::new(), Vec::new());
    for entry in entries {
        if entry.kind != HistoryKind::State {
            pending.push(entry);
            continue;
        }
        let sent = entry.body["sent"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_this_commit =
            |pending: &&HistoryEntry| sent.iter().any(|id| id.as_str() == pending.message_id.as_deref());
        let (of_this_commit, earlier): (Vec<_>, Vec<_>) =
            std::mem::take(&mut pending).into_iter().partition(of_this_commit);
        ordered.extend(earlier);
        ordered.push(entry);
        ordered.extend(of_this_commit);
    }
    ordered.extend(pending);
    ordered
}

fn mentions(entry: &HistoryEntry, id: &str) -> bool {
    entry.message_id.as_deref() == Some(id)
        || because(entry).is_some_and(|because| because.origin.message_id.as_deref() == Some(id))
}

/// The state of the link, its outage, the messages to its user, and what happens next.
fn summary(text: &mut String, history: &History, newest: Option<&HistoryEntry>, known: &Known, now: Timestamp) {
    let Some(newest) = newest else {
        return line(
            text,
            format_args!(
                "{BOLD}{}{BOLD:#}: relink has received messages about it, and none of them has changed it",
                history.link_id
            ),
        );
    };
    let Ok(mut record) = serde_json::from_value::<Record>(newest.body.clone()) else {
        let state = newest.body["state"].as_str().unwrap_or("?");
        return line(
            text,
            format_args!("{BOLD}{}{BOLD:#} is {state}; this version of relink cannot read its state", history.link_id),
        );
    };
    headline(text, &record);
    line(text, format_args!("{}", of_state(record.state)));
    match &record.episode {
        Some(episode) => open_outage(text, history, episode, known, now),
        None => last_outage(text, history, now),
    }
    let mention = known.beside.mention.as_ref().filter(|mention| !has_counted(&history.entries, mention));
    if let Some(mention) = mention {
        line(text, format_args!("  {}", of_mention(mention, now)));
    }
    line(text, format_args!("\n{BOLD}What happens next{BOLD:#}"));
    let is_snoozed = record.snoozed_until.is_some_and(|until| until.0 > now);
    let muted = last_command(&history.entries, "mute").filter(|_| record.muted);
    let around =
        Around { is_adopted: muted.as_ref().is_some_and(|command| command.origin.is_adoption()), ..known.around }
            .with(&known.beside, mention);
    if let Some(began) = began_wait(&history.entries, &record) {
        record.because = began;
    }
    for step in next_steps(&record, &known.beside.due, around, now) {
        line(text, format_args!("  {step}"));
    }
    let snoozed = last_command(&history.entries, "snooze").filter(|_| is_snoozed);
    for given in [muted, snoozed].into_iter().flatten().filter(|_| record.state != StateWord::Removed) {
        let command = commanded_by(&given.origin, &given.event);
        line(text, format_args!("  Who did that, at {}: {command}", at(given.at.0, now)));
    }
}

/// Whether one of the entries has counted this mention as a message about the link.
pub(super) fn has_counted(entries: &[HistoryEntry], mention: &Mention) -> bool {
    entries.iter().any(|entry| is_of_mention(entry, mention))
}

fn is_of_mention(entry: &HistoryEntry, mention: &Mention) -> bool {
    let Some(because) = because(entry).filter(counts_mention) else { return false };
    let last = because.person.as_ref().and_then(|person| person.last_message.as_ref());
    let last = last.filter(|last| last.mentioned.is_some());
    last.is_some_and(|last| last.at == mention.at && last.link_id == mention.link_id)
}

/// The transition that postponed the prompt of this record, or its overdue reminder, to its present time. Later ones, such as a command, say
/// nothing about the reason.
pub(super) fn began_wait(entries: &[HistoryEntry], record: &Record) -> Option<Because> {
    let wait_of = |record: &Record| {
        let episode = record.episode.as_ref()?;
        let until = match episode.reminder_waits_since {
            Some(_) => episode.next_reminder_at?,
            None => episode.prompt_deferred_until.filter(|_| episode.prompt == Some(PromptWord::Postponed))?,
        };
        Some((episode.number, until))
    };
    let wait = wait_of(record)?;
    let states = entries.iter().rev().filter(|entry| entry.kind == HistoryKind::State);
    let records = states.map_while(|entry| serde_json::from_value::<Record>(entry.body.clone()).ok());
    records.take_while(|earlier| wait_of(earlier) == Some(wait)).last().map(|earlier| earlier.because)
}

/// The last accepted command of this name.
pub(super) fn last_command(entries: &[HistoryEntry], name: &str) -> Option<Because> {
    let states = entries.iter().rev().filter(|entry| entry.kind == HistoryKind::State);
    states.filter_map(because).find(|because| because.event == name)
}

/// Why the message exists.
fn about_message(text: &mut String, entry: &HistoryEntry, id: &str) {
    let because = because(entry);
    if entry.message_id.as_deref() != Some(id) {
        let result = match entry.kind {
            HistoryKind::Refused => "It changed nothing; the reason is below.",
            HistoryKind::State | HistoryKind::Notice | HistoryKind::Observed | HistoryKind::Job => {
                "It changed the link, as shown below."
            }
        };
        return line(text, format_args!("  relink received this message. {result}"));
    }
    let name = entry.name.as_deref().unwrap_or("?");
    match entry.kind {
        HistoryKind::Notice => line(text, format_args!("  With it, relink {}.", of_notice(name, &entry.body))),
        HistoryKind::Observed => line(text, format_args!("  With it, relink {}.", of_observed(name, &entry.body))),
        HistoryKind::Job => line(text, format_args!("  With it, relink {}.", of_job(name, &entry.body))),
        HistoryKind::State => line(text, format_args!("  It is the state of the link after a change.")),
        HistoryKind::Refused => line(text, format_args!("  It is the record of an input that changed nothing.")),
    }
    if let Some(because) = because {
        line(text, format_args!("  The reason, at {}: {}", because.at.0, of_transition(&because)));
        line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&because.origin)));
    }
}

/// Writes one entry. `before` is the state before it.
fn write_entry(text: &mut String, entry: &HistoryEntry, before: &Value, is_marked: bool) {
    let mark = if is_marked { "▶" } else { " " };
    let id = entry.message_id.as_deref().map(|id| format!("  {DIM}{id}{DIM:#}")).unwrap_or_default();
    let name = entry.name.as_deref().unwrap_or("?");
    match entry.kind {
        HistoryKind::State => match because(entry) {
            Some(because) => write_transition(text, mark, &because, (before, &entry.body)),
            None => line(
                text,
                format_args!(
                    "{mark} {}  {BOLD}a state that this version of relink cannot read{BOLD:#}{id}",
                    entry.stored_at.0
                ),
            ),
        },
        HistoryKind::Notice | HistoryKind::Observed => {
            let style = AnsiColor::Yellow.on_default();
            let is_sent = entry.kind == HistoryKind::Notice;
            let what = if is_sent { of_notice(name, &entry.body) } else { of_observed(name, &entry.body) };
            line(text, format_args!("{mark}       relink {what}  {style}{name}{style:#}{id}"));
        }
        HistoryKind::Job => {
            let style = AnsiColor::Cyan.on_default();
            let what = of_job(name, &entry.body);
            line(text, format_args!("{mark}       relink {what}  {style}{name}{style:#}{id}"));
        }
        HistoryKind::Refused => {
            line(text, format_args!("{mark} {}  nothing changed", entry.stored_at.0));
            line(text, format_args!("        {}{id}", of_refused(&entry.body)));
            let origin = serde_json::from_value::<Origin>(entry.body["origin"].clone()).ok();
            if let Some(origin) = origin {
                write_evidence(text, &origin);
            }
        }
    }
}

fn write_transition(text: &mut String, mark: &str, because: &Because, (before, state): (&Value, &Value)) {
    let (from, to) = (word_of(because.from), word_of(because.to));
    let colour = colour_of(to);
    let arrow =
        if from == to { format!("stays {colour}{to}{colour:#}") } else { format!("{from} → {colour}{to}{colour:#}") };
    let during = if because.incident { "  (during an incident of the institution)" } else { "" };
    let beside = because.successor_id.as_ref().map(|id| format!("  (the newer link {id} of the same user was known)"));
    let beside = beside.unwrap_or_default();
    let event = &because.event;
    line(text, format_args!("{mark} {}  {BOLD}{arrow}{BOLD:#}{DIM}{during}{beside}{DIM:#}", because.at.0));
    let until = state["snoozed_until"].as_str().filter(|_| event == "snooze");
    let until = until.map(|until| format!(" The time: {until}.")).unwrap_or_default();
    line(text, format_args!("        {}{until}  {DIM}{event}{DIM:#}", of_transition(because)));
    let sentences = [
        of_missing_answer(because, before, state),
        of_omission(because, state),
        of_moved_reminder(because, before, state),
    ];
    for why in sentences.into_iter().flatten() {
        line(text, format_args!("        {why}"));
    }
    write_evidence(text, &because.origin);
}

fn write_evidence(text: &mut String, origin: &Origin) {
    line(text, format_args!("        {DIM}evidence: {}{DIM:#}", evidence(origin)));
    if !origin.unreadable_fields.is_empty() {
        let fields = origin.unreadable_fields.join(", ");
        line(text, format_args!("        {DIM}unreadable fields: {}{DIM:#}", printable(&fields)));
    }
}

/// Where a report can be found.
pub(super) fn evidence(origin: &Origin) -> String {
    let source = match origin.kind {
        OriginKind::Webhook => "a webhook",
        OriginKind::ApiError => "an API error",
        OriginKind::Widget => "an event of the widget",
        OriginKind::Observation => "an observation",
        OriginKind::Command => "a command",
        OriginKind::InstitutionStatus => "a webhook of the status page",
        OriginKind::Timer => "a timer",
    };
    let input =
        origin.input_sequence.map(|sequence| format!(" as number {sequence} of the input stream")).unwrap_or_default();
    let id = origin.message_id.as_deref().map(|id| format!(", message {}", printable(id))).unwrap_or_default();
    let verb = if origin.kind == OriginKind::Timer { "at" } else { "stored" };
    // The sentence of a command names its token. A webhook has one only if a dead letter was replayed with it.
    let token = origin.token.as_deref().filter(|_| origin.kind != OriginKind::Command).map(|token| {
        let verb = if origin.kind == OriginKind::Webhook { "replayed" } else { "sent" };
        format!(", {verb} with the API token {}", in_quotes(&printable(token)))
    });
    let waited = origin.accepted_at.map(|At(at)| format!(", accepted by relink at {at} and kept until NATS took it"));
    let (waited, token) = (waited.unwrap_or_default(), token.unwrap_or_default());
    format!("{source}, {verb} {}{input}{id}{waited}{token}", origin.received_at.0)
}

/// When a state began to count, or a message was emitted: the time of the transition.
pub(super) fn time_of(entry: &HistoryEntry) -> Timestamp {
    because(entry).map_or(entry.stored_at.0, |because| because.at.0)
}

pub(super) fn because(entry: &HistoryEntry) -> Option<Because> {
    serde_json::from_value(entry.body["because"].clone()).ok()
}

#[cfg(test)]
pub(super) mod tests;

//! `relink why`: formats the history of a link for people.
//!
//! Ids, names and messages in the answers come from outside, so every text is made printable first.

use anstyle::AnsiColor;
use anyhow::bail;
use serde_json::Value;

use super::client::{History, LastState};
use super::due::{Around, next_steps};
use super::links::headline;
use super::outages::{last_outage, open_outage};
use super::output::{BOLD, DIM, colour_of, line};
use super::refusals::of_refused;
use super::sentences::{at, in_quotes, of_job, of_notice, of_observed, of_person, of_transition, word_of};
use crate::contract::{
    Because, DueOfLink, HistoryEntry, HistoryKind, Origin, OriginKind, PromptWord, Record, StateWord,
};
use crate::link::Timestamp;
use crate::printable::{printable, printable_json};
use crate::wording::of_state;

/// What is known besides the history.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known<'a> {
    /// What is due for the link, the next first.
    pub(super) due: &'a [DueOfLink],
    /// The state of relink and of the institution. Whether relink has muted the link, the history shows.
    pub(super) around: Around,
    /// The history cannot be read now, so it has the last state only.
    pub(super) has_no_history: bool,
}

/// The history of a link. `message` is the id of a message to mark.
pub(super) fn show(
    history: &History,
    message: Option<&str>,
    known: Known<'_>,
    now: Timestamp,
) -> anyhow::Result<String> {
    let begins_late = begins_late(history);
    show_part(history, message, known, now, begins_late)
}

fn show_part(
    history: &History,
    message: Option<&str>,
    known: Known<'_>,
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
    for entry in states_first(&history.entries) {
        let is_marked = message.is_some_and(|id| mentions(entry, id));
        write_entry(&mut text, entry, is_marked);
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
pub(super) fn show_last_state(last: &LastState, around: Around, now: Timestamp) -> anyhow::Result<String> {
    let as_of = last.as_of.as_deref().map_or_else(|| "?".to_owned(), printable);
    let note = format!(
        "relink cannot read the history from NATS now; this is the last state that it has in its store, as of {as_of}\n\n"
    );
    Ok(note + &show_part(&last.history, None, Known { due: &last.due, around, has_no_history: true }, now, false)?)
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
fn summary(text: &mut String, history: &History, newest: Option<&HistoryEntry>, known: Known<'_>, now: Timestamp) {
    let Some(newest) = newest else {
        return line(
            text,
            format_args!(
                "{BOLD}{}{BOLD:#}: relink has received messages about it, and none of them has changed it",
                history.link_id
            ),
        );
    };
    let Ok(record) = serde_json::from_value::<Record>(newest.body.clone()) else {
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
    line(text, format_args!("\n{BOLD}What happens next{BOLD:#}"));
    let is_snoozed = record.snoozed_until.is_some_and(|until| until.0 > now);
    let muted = last_command(&history.entries, "mute").filter(|_| record.muted);
    let around =
        Around { is_adopted: muted.as_ref().is_some_and(|command| command.origin.is_adoption()), ..known.around };
    let began_wait = began_wait(&history.entries, &record);
    let record = Record { because: began_wait.unwrap_or_else(|| record.because.clone()), ..record };
    for step in next_steps(&record, known.due, around, now) {
        line(text, format_args!("  {step}"));
    }
    let snoozed = last_command(&history.entries, "snooze").filter(|_| is_snoozed);
    for given in [muted, snoozed].into_iter().flatten().filter(|_| record.state != StateWord::Removed) {
        line(text, format_args!("  At {}: {}", at(given.at.0, now), of_transition(&given)));
    }
}

/// The transition that postponed the prompt of this record to its present time. Later ones, such as a command, say nothing about the reason.
fn began_wait(entries: &[HistoryEntry], record: &Record) -> Option<Because> {
    let wait_of = |record: &Record| {
        let episode = record.episode.as_ref().filter(|episode| episode.prompt == Some(PromptWord::Postponed))?;
        Some((episode.number, episode.prompt_deferred_until?))
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
        let reason = match name {
            "reminder" if because.origin.kind == OriginKind::Timer => {
                "The link is still broken, and the time of this reminder has come.".to_owned()
            }
            _ => of_transition(&because),
        };
        line(text, format_args!("  The reason, at {}: {reason}", because.at.0));
        line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&because.origin)));
    }
}

fn write_entry(text: &mut String, entry: &HistoryEntry, is_marked: bool) {
    let mark = if is_marked { "▶" } else { " " };
    let id = entry.message_id.as_deref().map(|id| format!("  {DIM}{id}{DIM:#}")).unwrap_or_default();
    let name = entry.name.as_deref().unwrap_or("?");
    match entry.kind {
        HistoryKind::State => match because(entry) {
            Some(because) => write_transition(text, mark, &because, &entry.body),
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

fn write_transition(text: &mut String, mark: &str, because: &Because, state: &Value) {
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
    if let Some(why) = of_person(because, state) {
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
    format!("{source}, {verb} {}{input}{id}{}", origin.received_at.0, token.unwrap_or_default())
}

pub(super) fn because(entry: &HistoryEntry) -> Option<Because> {
    serde_json::from_value(entry.body["because"].clone()).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::super::output::tests::{HOSTILE, is_safe};
    use super::*;
    use crate::contract::{At, DueWord};

    const NOW: Timestamp = Timestamp::from_millis(1_700_090_000_000);

    /// A link that broke, whose user was prompted and reminded, and has not repaired it.
    pub(in crate::cli) fn outage() -> History {
        let link = "16f68516-bcbc-4cf7-b815-c500d4204e28";
        let origin = |kind: &str, id: &str| {
            json!({"kind": kind, "input_sequence": 7, "message_id": id,
            "received_at": "2023-11-14T22:13:20.000Z"})
        };
        let because = |event: &str, from: &str, to: &str, kind: &str| {
            json!({"event": event, "from": from, "to": to,
            "at": "2023-11-14T22:13:20.000Z", "origin": origin(kind, "w-1")})
        };
        let cases = super::super::cases_for_tests();
        let state = |index: usize, because: Value, sent: &[&str]| {
            let (name, fields) = &cases[index];
            let mut record = super::super::record_for_tests(name, fields.clone());
            (record["because"], record["sent"]) = (because, json!(sent));
            record
        };
        let notice = |extra: Value| {
            let mut body = json!({"action": "update_credentials", "episode": {"number": 1},
                "because": because("credentials_rejected", "valid", "invalid", "webhook")});
            if let (Some(body), Some(extra)) = (body.as_object_mut(), extra.as_object()) {
                body.extend(extra.clone());
            }
            body
        };
        let refused = json!({"event": "observed_valid", "reason": "outdated",
            "detail": "the event is older than the knowledge that it contradicts", "origin": origin("observation", "o-1")});
        let entries = [
            ("state", None, "1.0", state(1, because("data_arrived", "unconfirmed", "valid", "webhook"), &[])),
            ("notice", Some("update_required"), "2.1", notice(json!({}))),
            ("job", Some("verify"), "2.2", json!({})),
            (
                "state",
                None,
                "2.0",
                state(4, because("credentials_rejected", "valid", "invalid", "webhook"), &["2.1", "2.2"]),
            ),
            ("refused", None, "r", refused),
            ("notice", Some("reminder"), "3.1", notice(json!({"number": 1}))),
            ("state", None, "3.0", state(4, because("deadline_passed", "invalid", "invalid", "timer"), &["3.1"])),
        ];
        let mut sequence = 0;
        let entries = entries.map(|(kind, name, id, mut body)| {
            sequence += 1;
            // The number of the change, its time, and the number of the input that led to it.
            let (version, at, input) = match id.split('.').next() {
                Some("1") => (1, "2023-11-14T20:00:00.000Z", Some(6)),
                Some("2") => (2, "2023-11-14T22:13:20.000Z", Some(7)),
                Some("3") => (3, "2023-11-15T22:13:20.000Z", None),
                _ => (2, "2023-11-14T22:13:40.000Z", Some(8)),
            };
            for path in ["/because/at", "/because/origin/received_at", "/origin/received_at"] {
                if let Some(time) = body.pointer_mut(path) {
                    *time = json!(at);
                }
            }
            if kind == "state" {
                body["version"] = json!(version);
                body["because"]["origin"]["input_sequence"] = json!(input);
                if input.is_none() {
                    body["because"]["origin"]["message_id"] = Value::Null;
                }
            }
            if let Some(attempts) = body.pointer_mut("/episode/attempts_count") {
                *attempts = json!(0);
            }
            let entry = json!({"kind": kind, "type": name, "message_id": id, "sequence": sequence,
                "stored_at": at, "body": body});
            serde_json::from_value::<HistoryEntry>(entry).unwrap()
        });
        History { link_id: link.to_owned(), entries: entries.into(), truncated: false, unreadable_count: 0 }
    }

    #[test]
    fn a_history_answers_five_questions() {
        // Why did the user get this message? Who reported the link as broken? When? Was the user prompted twice? What happens next?
        let due = [DueOfLink { at: At(Timestamp::from_millis(1_700_176_400_000)), what: DueWord::Reminder }];
        let text = show(&outage(), Some("2.1"), Known { due: &due, ..Known::default() }, NOW).unwrap();
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn a_snooze_has_its_end() {
        let mut history = outage();
        let last = &mut history.entries.last_mut().unwrap().body;
        (last["because"]["event"], last["because"]["origin"]["kind"]) = (json!("snooze"), json!("command"));
        last["snoozed_until"] = json!("2023-12-01T00:00:00.000Z");
        let text = show(&history, None, Known::default(), NOW).unwrap();
        assert!(text.contains("no reminders before a given time. The time: 2023-12-01T00:00:00.000Z."), "{text}");
    }

    #[test]
    fn a_command_does_not_hide_why_the_prompt_waits() {
        let mut history = outage();
        let postponed = |because: Value| {
            let episode = super::super::cases_for_tests().into_iter().map(|(_, fields)| fields["episode"].clone());
            let episode = episode.into_iter().find(|episode| episode["prompt"] == "postponed").unwrap();
            super::super::record_for_tests("invalid", json!({"episode": episode, "because": because}))
        };
        let at = "2023-11-14T22:13:20.000Z";
        let origin = json!({"kind": "webhook", "received_at": at});
        let last = json!({"link_id": "7d3a1c52-5b0e-4f6c-9a55-0c2f6f1f3f10", "at": at});
        let began = json!({"event": "credentials_rejected", "from": "valid", "to": "invalid", "at": at, "origin": origin,
            "person": {"last_message": last}});
        let command = json!({"event": "snooze", "from": "invalid", "to": "invalid", "at": "2023-11-14T23:00:00.000Z",
            "origin": {"kind": "command", "received_at": at}});
        let states = [postponed(began), postponed(command)];
        history.entries.retain(|entry| entry.kind == HistoryKind::State);
        history.entries.truncate(2);
        for (entry, state) in history.entries.iter_mut().zip(states) {
            entry.body = state;
        }
        let text = show(&history, None, Known::default(), NOW).unwrap();
        let next = text.split_once("What happens next").unwrap().1;
        assert!(
            next.contains("the same person got a message about the link 7d3a1c52") && !next.contains("quiet hours"),
            "{next}"
        );
    }

    #[test]
    fn the_summary_names_who_has_muted_the_link() {
        let mut history = outage();
        let last = &mut history.entries.last_mut().unwrap().body;
        (last["because"]["event"], last["because"]["origin"]["kind"]) = (json!("mute"), json!("command"));
        (last["because"]["origin"]["by"], last["muted"]) = (json!("ana"), json!(true));
        let text = show(&history, None, Known::default(), NOW).unwrap();
        let (summary, _) = text.split_once("What happened, the oldest first").unwrap();
        assert!(summary.contains("The operator \"ana\" gave the command `mute`"), "{summary}");
    }

    #[test]
    fn a_history_contains_no_forged_output() {
        let at = "2026-11-23T00:46:06.207Z";
        let origin = json!({"kind": "webhook", "message_id": HOSTILE, "received_at": at});
        let because = json!({"event": HOSTILE, "from": "unconfirmed", "to": "unconfirmed", "at": at, "origin": origin});
        let episode = json!({"id": HOSTILE, "cause": HOSTILE, "opened_at": HOSTILE, "prompt": "deferred",
            "prompt_asked_at": HOSTILE, "prompt_deferred_until": HOSTILE});
        let mut superseded = episode.clone();
        superseded["superseded_by"] = HOSTILE.into();
        let state = json!({"state": HOSTILE, "since": HOSTILE, "institution": HOSTILE, "external_id": HOSTILE, "version": 2,
            "episode": episode, "because": because, "sent": [HOSTILE]});
        let mut beside = state.clone();
        beside["episode"] = superseded;
        beside["because"]["successor_id"] = HOSTILE.into();
        let notice = json!({"action": HOSTILE, "attempt": HOSTILE, "proof": HOSTILE, "by": HOSTILE, "resource": HOSTILE, "kind": HOSTILE,
            "reason": HOSTILE, "why": HOSTILE});
        let refused = json!({"event": HOSTILE, "detail": HOSTILE, "origin": origin});
        let entry = |kind: &str, body: &Value| {
            let entry = json!({"kind": kind, "type": HOSTILE, "message_id": HOSTILE, "sequence": 1, "stored_at": at,
                "body": body});
            serde_json::from_value::<HistoryEntry>(entry).unwrap()
        };
        let bodies = [
            ("state", &state),
            ("state", &beside),
            ("notice", &notice),
            ("observed", &notice),
            ("job", &notice),
            ("refused", &refused),
            ("state", &notice),
        ];
        let entries = bodies.map(|(kind, body)| entry(kind, body)).into();
        let mut history = History { link_id: HOSTILE.to_owned(), entries, truncated: true, unreadable_count: 1 };
        let text = show(&history, Some(HOSTILE), Known::default(), NOW).unwrap();
        assert!(is_safe(&text), "{text:?}");
        assert!(text.contains("\\u{1b}[2J") && text.contains('é') && text.contains('▶'), "{text}");
        assert!(is_safe(&show(&history, Some("\u{1b}other"), Known::default(), NOW).unwrap_err().to_string()));
        for count in [5, 2, 1, 0] {
            history.entries.truncate(count);
            let text = show(&history, None, Known::default(), NOW).unwrap();
            assert!(is_safe(&text), "{text:?}");
        }
    }
}

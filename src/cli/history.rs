//! Formats the answers of a running relink for people: the history of a link, and dead letters. Colours are removed
//! where they are not wanted.
//!
//! Ids, names and messages in the answers come from outside, so every text is made printable first.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use anyhow::bail;
use serde_json::Value;

use super::client::{History, LastState};
use crate::contract::{Because, Origin, OriginKind};
use crate::nats::history::{HistoryEntry, HistoryKind};
use crate::printable::{escaped, printable, printable_json, printable_lines};

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// The history of a link. `message` is the id of a message to mark.
pub(super) fn show(history: &History, message: Option<&str>) -> anyhow::Result<String> {
    // The id is compared in its printable form, like the ids of the history.
    let (history, message) = (&printable_history(history), message.map(printable));
    let message = message.as_deref();
    if let Some(id) = message
        && !history.entries.iter().any(|entry| mentions(entry, id))
    {
        bail!(
            "the history of the link {} does not contain the message {id} any more; to see the history, give only the link id",
            history.link_id
        );
    }
    let mut text = String::new();
    let newest = history.entries.iter().rev().find(|entry| entry.kind == HistoryKind::State);
    headline(&mut text, history, newest);
    if history.truncated {
        line(&mut text, format_args!("{DIM}(the history is too long; this is its newest part){DIM:#}"));
    }
    if history.unreadable_count > 0 {
        let count = history.unreadable_count;
        line(
            &mut text,
            format_args!("{DIM}({count} entries have a format that this version of relink cannot read){DIM:#}"),
        );
    }
    let begins_late = !history.truncated
        && history
            .entries
            .iter()
            .find(|entry| entry.kind == HistoryKind::State)
            .is_some_and(|first| first.body["version"].as_u64() > Some(1));
    if begins_late {
        line(&mut text, format_args!("{DIM}(earlier entries have been deleted){DIM:#}"));
    }
    for entry in states_first(&history.entries) {
        let is_marked = message.is_some_and(|id| entry.message_id.as_deref() == Some(id));
        write_entry(&mut text, entry, is_marked);
    }
    Ok(text)
}

/// The last state of a link, without the history, which relink cannot read now.
pub(super) fn show_last_state(last: &LastState) -> anyhow::Result<String> {
    let as_of = last.as_of.as_deref().map_or_else(|| "?".to_owned(), printable);
    let note = format!(
        "relink cannot read the history from NATS now; this is the last state that it has in its store, as of {as_of}\n\n"
    );
    Ok(note + &show(&last.history, None)?)
}

/// The history with every text made printable.
fn printable_history(history: &History) -> History {
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

fn headline(text: &mut String, history: &History, newest: Option<&HistoryEntry>) {
    let Some(newest) = newest else {
        line(
            text,
            format_args!(
                "{BOLD}{}{BOLD:#}: relink has received messages about it, and none of them has changed it",
                history.link_id
            ),
        );
        return;
    };
    let state = newest.body["state"].as_str().unwrap_or("?");
    let colour = colour_of(state);
    let mut of = Vec::new();
    for (preposition, key) in [("at", "institution"), ("of", "external_id")] {
        of.extend(newest.body[key].as_str().map(|value| format!(" {preposition} {value}")));
    }
    let since = newest.body["since"].as_str().unwrap_or("?");
    line(
        text,
        format_args!("{BOLD}{}{BOLD:#}{} is {colour}{state}{colour:#} since {since}", history.link_id, of.concat()),
    );
    if let Some(cause) = newest.body["episode"]["cause"].as_str() {
        let (opened, id) = (&newest.body["episode"]["opened_at"], &newest.body["episode"]["id"]);
        let (opened, id) = (opened.as_str().unwrap_or("?"), id.as_str().unwrap_or("?"));
        line(text, format_args!("  broken by {cause} since {opened}, episode {id}"));
        if let Some(why) = why_no_prompt(&newest.body["episode"]) {
            line(text, format_args!("  {why}"));
        }
    }
    text.push('\n');
}

/// Why the user of a broken link has not been prompted; `None` if the prompt was published or is not due.
fn why_no_prompt(episode: &Value) -> Option<String> {
    let time = |key: &str| episode[key].as_str().unwrap_or("?");
    if let Some(by) = episode["superseded_by"].as_str() {
        return Some(format!(
            "its user is not asked any more: the link {by} of the same user works (`unsupersede` reverses this)"
        ));
    }
    let until = episode["prompt_deferred_until"].as_str().unwrap_or_else(|| time("prompt_waits_until"));
    match (episode["prompt"].as_str()?, &episode["prompt_asked_at"]) {
        ("muted" | "held", _) => Some("its user has not been prompted: the link is muted".to_owned()),
        ("deferred" | "waiting", Value::Null) => Some(format!(
            "its user has not been prompted because of an incident of the institution; the next check is at {until}"
        )),
        ("deferred" | "waiting", _) => Some(format!(
            "its user has not been prompted: relink requested a verify job at {} and waits for its answer until {until}",
            time("prompt_asked_at")
        )),
        _ => None,
    }
}

fn write_entry(text: &mut String, entry: &HistoryEntry, is_marked: bool) {
    let mark = if is_marked { "▶" } else { " " };
    let id = entry.message_id.as_deref().map(|id| format!("  {DIM}{id}{DIM:#}")).unwrap_or_default();
    match entry.kind {
        HistoryKind::State => match because(entry) {
            Some(because) => write_transition(text, mark, &because),
            None => line(
                text,
                format_args!(
                    "{mark} {}  {BOLD}a state that this version of relink cannot read{BOLD:#}{id}",
                    entry.stored_at.0
                ),
            ),
        },
        HistoryKind::Notice => {
            let style = AnsiColor::Yellow.on_default();
            let name = entry.name.as_deref().unwrap_or("?");
            line(
                text,
                format_args!("{mark}       published notice: {style}{name}{style:#}{}{id}", details_of(&entry.body)),
            );
        }
        HistoryKind::Job => {
            let style = AnsiColor::Cyan.on_default();
            let name = entry.name.as_deref().unwrap_or("?");
            line(text, format_args!("{mark}       requested job: {style}{name}{style:#}{id}"));
        }
        HistoryKind::Refused => {
            let what = entry.body["event"].as_str().unwrap_or("a message");
            let detail = entry.body["detail"].as_str().unwrap_or("?");
            line(text, format_args!("{mark} {}  {DIM}refused {what}: {detail}{DIM:#}{id}", entry.stored_at.0));
            if let Ok(origin) = serde_json::from_value::<Origin>(entry.body["origin"].clone()) {
                write_origin(text, &origin);
            }
        }
    }
}

fn write_transition(text: &mut String, mark: &str, because: &Because) {
    let word =
        |state| serde_json::to_value(state).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default();
    let (from, to) = (word(because.from), word(because.to));
    let colour = colour_of(&to);
    let arrow =
        if from == to { format!("stays {colour}{to}{colour:#}") } else { format!("{from} → {colour}{to}{colour:#}") };
    let during = if because.incident { "  (during an incident of the institution)" } else { "" };
    let beside = because.successor_id.as_ref().map(|id| format!("  (the link {id} of the same user works)"));
    let beside = beside.unwrap_or_default();
    line(
        text,
        format_args!("{mark} {}  {BOLD}{}{BOLD:#}  {arrow}{DIM}{during}{beside}{DIM:#}", because.at.0, because.event),
    );
    write_origin(text, &because.origin);
}

fn write_origin(text: &mut String, origin: &Origin) {
    let source = match origin.kind {
        OriginKind::Webhook => "a webhook",
        OriginKind::ApiError => "an API error",
        OriginKind::Widget => "an event of the widget",
        OriginKind::Observation => "an observation",
        OriginKind::Command => "a command",
        OriginKind::Timer => "a timer",
    };
    let input = origin.input_sequence.map(|sequence| format!(", input {sequence}")).unwrap_or_default();
    let id = origin.message_id.as_deref().map(|id| format!(", message {id}")).unwrap_or_default();
    line(text, format_args!("        {DIM}because of {source}, received {}{input}{id}{DIM:#}", origin.received_at.0));
    if !origin.unreadable_fields.is_empty() {
        let fields = origin.unreadable_fields.join(", ");
        line(text, format_args!("        {DIM}unreadable fields: {}{DIM:#}", fields.escape_debug()));
    }
}

fn because(entry: &HistoryEntry) -> Option<Because> {
    serde_json::from_value(entry.body["because"].clone()).ok()
}

/// The most important fields of a notice.
fn details_of(body: &Value) -> String {
    let fields = ["action", "number", "attempt", "proof", "by", "resource", "kind", "reason", "why"];
    let details = fields.into_iter().filter_map(|field| {
        let value = &body[field];
        let text = value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()));
        text.map(|text| format!("{field} {text}"))
    });
    let details: Vec<_> = details.collect();
    if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) }
}

fn colour_of(state: &str) -> Style {
    match state {
        "valid" => AnsiColor::Green.on_default(),
        "invalid" | "token_required" => AnsiColor::Red.on_default(),
        "updating" => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}

/// The list of dead letters, one line each.
pub(super) fn dead_letters(letters: &[Value]) -> String {
    if letters.is_empty() {
        return "there are no dead letters\n".to_owned();
    }
    let mut text = String::new();
    for letter in letters {
        let field = |name: &str| printable(letter[name].as_str().unwrap_or("?"));
        let (at, reason, subject, detail) = (field("at"), field("reason"), field("subject"), field("detail"));
        let sequence = letter["sequence"].as_u64().map_or_else(|| "?".to_owned(), |sequence| sequence.to_string());
        line(
            &mut text,
            format_args!("{BOLD}{sequence:>6}{BOLD:#}  {at}  {reason:<15} {subject}  {DIM}{detail}{DIM:#}"),
        );
    }
    text
}

/// One dead letter with its payload.
pub(super) fn dead_letter(letter: &Value) -> String {
    let mut text = String::new();
    let Value::Object(fields) = letter else { return text };
    for (name, value) in fields.iter().filter(|(name, value)| !name.starts_with("payload") && !value.is_null()) {
        let value = value.as_str().map_or_else(|| printable_json(value).to_string(), printable);
        line(&mut text, format_args!("{DIM}{:<15}{DIM:#} {value}", printable(name)));
    }
    if let Some(payload) = letter["payload"].as_str() {
        // Unchanged, except characters that a terminal interprets. The HTTP API returns the exact bytes.
        let shown = escaped(payload, &['\n', '\t'], &|_| char::REPLACEMENT_CHARACTER.to_string());
        line(&mut text, format_args!("\n{shown}"));
    } else if let Some(payload) = letter["payload_base64"].as_str() {
        line(&mut text, format_args!("\n{DIM}not text, shown in base64:{DIM:#}\n{}", printable_lines(payload)));
    }
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "{content}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A text that tries to forge output on a terminal.
    const HOSTILE: &str =
        "x\n  2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}é";

    const DANGEROUS: [char; 8] = ['\r', '\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}'];

    /// Whether the text contains no dangerous character and no forged line.
    fn is_safe(text: &str) -> bool {
        let mut plain = text.to_owned();
        for style in [DIM, BOLD, AnsiColor::Yellow.on_default(), AnsiColor::Cyan.on_default()] {
            plain = plain.replace(&style.render().to_string(), "").replace(&style.render_reset().to_string(), "");
        }
        let is_forged = |line: &str| line.trim_start().starts_with("2026-01-01");
        !plain.contains(DANGEROUS) && !plain.lines().any(is_forged)
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
            ("job", &notice),
            ("refused", &refused),
            ("state", &notice),
        ];
        let entries = bodies.map(|(kind, body)| entry(kind, body)).into();
        let mut history = History { link_id: HOSTILE.to_owned(), entries, truncated: true, unreadable_count: 1 };
        let text = show(&history, Some(HOSTILE)).unwrap();
        assert!(is_safe(&text), "{text:?}");
        assert!(text.contains("\\u{1b}[2J") && text.contains('é') && text.contains('▶'), "{text}");
        assert!(is_safe(&show(&history, Some("\u{1b}other")).unwrap_err().to_string()));
        for count in [5, 2, 1, 0] {
            history.entries.truncate(count);
            let text = show(&history, None).unwrap();
            assert!(is_safe(&text), "{text:?}");
        }
    }

    #[test]
    fn a_dead_letter_contains_no_forged_output() {
        let letter = json!({"sequence": 7, "at": HOSTILE, "reason": HOSTILE, "subject": HOSTILE, "detail": HOSTILE,
            "headers": {HOSTILE: HOSTILE}, HOSTILE: HOSTILE, "payload": HOSTILE});
        let odd = json!({"sequence": HOSTILE, "payload_base64": "eA=="});
        for text in [dead_letters(&[letter.clone(), odd.clone(), json!(null)]), dead_letter(&odd)] {
            assert!(is_safe(&text), "{text:?}");
        }
        // The line breaks of a payload are kept.
        let text = dead_letter(&letter);
        let body = text.replace(&DIM.render().to_string(), "").replace(&DIM.render_reset().to_string(), "");
        assert!(body.contains("\\u{1b}[2J") && !body.contains(DANGEROUS), "{text:?}");
    }
}

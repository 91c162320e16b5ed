//! Tells what a running relink said, for people: the story of a link, and dead letters. Colours are stripped where
//! unwanted.
//!
//! Ids, names and messages in it come from outside: every text is made printable before anything is told of it.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use anyhow::bail;
use serde_json::Value;

use super::ask::History;
use crate::contract::{Because, Origin, OriginKind};
use crate::nats::history::{HistoryEntry, HistoryKind};
use crate::printable::{escaped, printable, printable_json, printable_lines};

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// The story of a link, with one message of it pointed at.
pub(super) fn tell(history: &History, message: Option<&str>) -> anyhow::Result<String> {
    // Ids are looked for as they are shown.
    let (history, message) = (&shown(history), message.map(printable));
    let message = message.as_deref();
    if let Some(id) = message
        && !history.entries.iter().any(|entry| mentions(entry, id))
    {
        bail!(
            "relink knows the link {} and has no message {id} of it any more; leave out what is behind the first dot",
            history.link_id
        );
    }
    let mut story = String::new();
    let newest = history.entries.iter().rev().find(|entry| entry.kind == HistoryKind::State);
    headline(&mut story, history, newest);
    if history.truncated {
        line(&mut story, format_args!("{DIM}(only the oldest part of it fits here){DIM:#}"));
    }
    if history.unreadable_count > 0 {
        let count = history.unreadable_count;
        line(
            &mut story,
            format_args!("{DIM}({count} entries of it are of a kind that this relink cannot read){DIM:#}"),
        );
    }
    let begins_late = history
        .entries
        .iter()
        .find(|entry| entry.kind == HistoryKind::State)
        .is_some_and(|first| first.body["version"].as_u64() > Some(1));
    if begins_late {
        line(&mut story, format_args!("{DIM}(what was before is no longer kept){DIM:#}"));
    }
    for entry in in_telling_order(&history.entries) {
        let pointed_at = message.is_some_and(|id| entry.message_id.as_deref() == Some(id));
        tell_entry(&mut story, entry, pointed_at);
    }
    Ok(story)
}

/// The history with every text in it made printable.
fn shown(history: &History) -> History {
    let entry = |entry: &HistoryEntry| HistoryEntry {
        name: entry.name.as_deref().map(printable),
        message_id: entry.message_id.as_deref().map(printable),
        body: printable_json(&entry.body),
        ..entry.clone()
    };
    History { link_id: printable(&history.link_id), entries: history.entries.iter().map(entry).collect(), ..*history }
}

/// A commit holds what it says before the state that says it; people want to hear of the move first.
fn in_telling_order(entries: &[HistoryEntry]) -> Vec<&HistoryEntry> {
    let (mut told, mut held) = (Vec::new(), Vec::new());
    for entry in entries {
        if entry.kind != HistoryKind::State {
            held.push(entry);
            continue;
        }
        let sent = entry.body["sent"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_this_move = |held: &&HistoryEntry| sent.iter().any(|id| id.as_str() == held.message_id.as_deref());
        let (of_this_move, earlier): (Vec<_>, Vec<_>) = std::mem::take(&mut held).into_iter().partition(of_this_move);
        told.extend(earlier);
        told.push(entry);
        told.extend(of_this_move);
    }
    told.extend(held);
    told
}

fn mentions(entry: &HistoryEntry, id: &str) -> bool {
    entry.message_id.as_deref() == Some(id)
        || because(entry).is_some_and(|because| because.origin.message_id.as_deref() == Some(id))
}

fn headline(story: &mut String, history: &History, newest: Option<&HistoryEntry>) {
    let Some(newest) = newest else {
        line(
            story,
            format_args!("{BOLD}{}{BOLD:#}: relink has heard of it, and nothing has changed it", history.link_id),
        );
        return;
    };
    let state = newest.body["state"].as_str().unwrap_or("?");
    let colour = colour_of(state);
    let mut of = Vec::new();
    for (word, key) in [("at", "institution"), ("of", "external_id")] {
        of.extend(newest.body[key].as_str().map(|value| format!(" {word} {value}")));
    }
    let since = newest.body["since"].as_str().unwrap_or("?");
    line(
        story,
        format_args!("{BOLD}{}{BOLD:#}{} is {colour}{state}{colour:#} since {since}", history.link_id, of.concat()),
    );
    if let Some(cause) = newest.body["episode"]["cause"].as_str() {
        let (opened, id) = (&newest.body["episode"]["opened_at"], &newest.body["episode"]["id"]);
        let (opened, id) = (opened.as_str().unwrap_or("?"), id.as_str().unwrap_or("?"));
        line(story, format_args!("  broken by {cause} since {opened}, episode {id}"));
        if let Some(why) = why_nobody_was_asked(&newest.body["episode"]) {
            line(story, format_args!("  {why}"));
        }
    }
    story.push('\n');
}

/// Why the user of a broken link has had no message, if that is so.
fn why_nobody_was_asked(episode: &Value) -> Option<String> {
    let time = |key: &str| episode[key].as_str().unwrap_or("?");
    match (episode["prompt"].as_str()?, &episode["prompt_asked_at"]) {
        ("held", _) => Some("its user has not been asked: the link is muted".to_owned()),
        ("waiting", Value::Null) => Some(format!(
            "its user has not been asked: many links of the institution failed together; looked at again {}",
            time("prompt_waits_until")
        )),
        ("waiting", _) => Some(format!(
            "its user has not been asked: Belvo was asked {} whether it works again, and has until {}",
            time("prompt_asked_at"),
            time("prompt_waits_until")
        )),
        _ => None,
    }
}

fn tell_entry(story: &mut String, entry: &HistoryEntry, pointed_at: bool) {
    let mark = if pointed_at { "▶" } else { " " };
    let id = entry.message_id.as_deref().map(|id| format!("  {DIM}{id}{DIM:#}")).unwrap_or_default();
    match entry.kind {
        HistoryKind::State => match because(entry) {
            Some(because) => tell_transition(story, mark, &because),
            None => line(
                story,
                format_args!("{mark} {}  {BOLD}a state this relink cannot read{BOLD:#}{id}", entry.stored_at.0),
            ),
        },
        HistoryKind::Notice => {
            let style = AnsiColor::Yellow.on_default();
            let name = entry.name.as_deref().unwrap_or("?");
            line(story, format_args!("{mark}       told everyone: {style}{name}{style:#}{}{id}", news_of(&entry.body)));
        }
        HistoryKind::Job => {
            let style = AnsiColor::Cyan.on_default();
            let name = entry.name.as_deref().unwrap_or("?");
            line(story, format_args!("{mark}       asks Belvo: {style}{name}{style:#}{id}"));
        }
        HistoryKind::Refused => {
            let what = entry.body["event"].as_str().unwrap_or("a message");
            let detail = entry.body["detail"].as_str().unwrap_or("?");
            line(story, format_args!("{mark} {}  {DIM}ignored {what}: {detail}{DIM:#}{id}", entry.stored_at.0));
            if let Ok(origin) = serde_json::from_value::<Origin>(entry.body["origin"].clone()) {
                tell_origin(story, &origin);
            }
        }
    }
}

fn tell_transition(story: &mut String, mark: &str, because: &Because) {
    let word =
        |state| serde_json::to_value(state).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default();
    let (from, to) = (word(because.from), word(because.to));
    let colour = colour_of(&to);
    let arrow =
        if from == to { format!("stays {colour}{to}{colour:#}") } else { format!("{from} → {colour}{to}{colour:#}") };
    let during = if because.incident { "  (many links of its institution were failing)" } else { "" };
    line(story, format_args!("{mark} {}  {BOLD}{}{BOLD:#}  {arrow}{DIM}{during}{DIM:#}", because.at.0, because.event));
    tell_origin(story, &because.origin);
}

fn tell_origin(story: &mut String, origin: &Origin) {
    let door = match origin.kind {
        OriginKind::Webhook => "a webhook of Belvo's",
        OriginKind::ApiError => "an error of Belvo's API",
        OriginKind::Widget => "the widget",
        OriginKind::Observation => "a read of the link",
        OriginKind::Command => "an operator",
        OriginKind::Timer => "a deadline of relink's own",
    };
    let input = origin.input_sequence.map(|sequence| format!(", input {sequence}")).unwrap_or_default();
    let id = origin.message_id.as_deref().map(|id| format!(", message {id}")).unwrap_or_default();
    line(story, format_args!("        {DIM}because of {door}, heard {}{input}{id}{DIM:#}", origin.heard_at.0));
    if !origin.unread.is_empty() {
        let fields = origin.unread.join(", ");
        line(story, format_args!("        {DIM}it could not be read in: {}{DIM:#}", fields.escape_debug()));
    }
}

fn because(entry: &HistoryEntry) -> Option<Because> {
    serde_json::from_value(entry.body["because"].clone()).ok()
}

/// What a notice says beside its name, in a word or two.
fn news_of(body: &Value) -> String {
    let words = ["action", "number", "attempt", "proof", "by", "resource", "kind", "why"];
    let said = words.into_iter().filter_map(|word| {
        let value = &body[word];
        let text = value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()));
        text.map(|text| format!("{word} {text}"))
    });
    let said: Vec<_> = said.collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

fn colour_of(state: &str) -> Style {
    match state {
        "valid" => AnsiColor::Green.on_default(),
        "invalid" | "token_required" => AnsiColor::Red.on_default(),
        "updating" => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}

/// Dead letters, a line each.
pub(super) fn letters(letters: &[Value]) -> String {
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

/// One dead letter, with its bytes.
pub(super) fn letter(letter: &Value) -> String {
    let mut text = String::new();
    let Value::Object(fields) = letter else { return text };
    for (name, value) in fields.iter().filter(|(name, value)| !name.starts_with("payload") && !value.is_null()) {
        let value = value.as_str().map_or_else(|| printable_json(value).to_string(), printable);
        line(&mut text, format_args!("{DIM}{:<15}{DIM:#} {value}", printable(name)));
    }
    if let Some(payload) = letter["payload"].as_str() {
        // As it came but for what a terminal would obey: JSON has the exact bytes.
        let shown = escaped(payload, &['\n', '\t'], &|_| char::REPLACEMENT_CHARACTER.to_string());
        line(&mut text, format_args!("\n{shown}"));
    } else if let Some(payload) = letter["payload_base64"].as_str() {
        line(&mut text, format_args!("\n{DIM}not text; in base64:{DIM:#}\n{}", printable_lines(payload)));
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

    /// What a stranger would like a terminal to do.
    const EVIL: &str =
        "x\n  2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}é";

    const DANGEROUS: [char; 8] = ['\r', '\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}'];

    /// Whether only our own styles and line breaks are in it.
    fn is_tame(text: &str) -> bool {
        let mut plain = text.to_owned();
        for style in [DIM, BOLD, AnsiColor::Yellow.on_default(), AnsiColor::Cyan.on_default()] {
            plain = plain.replace(&style.render().to_string(), "").replace(&style.render_reset().to_string(), "");
        }
        let is_forged = |line: &str| line.trim_start().starts_with("2026-01-01");
        !plain.contains(DANGEROUS) && !plain.lines().any(is_forged)
    }

    #[test]
    fn a_story_is_told_by_us_alone() {
        let at = "2026-11-23T00:46:06.207Z";
        let origin = json!({"kind": "webhook", "message_id": EVIL, "heard_at": at});
        let because = json!({"event": EVIL, "from": "unconfirmed", "to": "unconfirmed", "at": at, "origin": origin});
        let episode = json!({"id": EVIL, "cause": EVIL, "opened_at": EVIL, "prompt": "waiting",
            "prompt_asked_at": EVIL, "prompt_waits_until": EVIL});
        let state = json!({"state": EVIL, "since": EVIL, "institution": EVIL, "external_id": EVIL, "version": 2,
            "episode": episode, "because": because, "sent": [EVIL]});
        let news = json!({"action": EVIL, "attempt": EVIL, "proof": EVIL, "by": EVIL, "resource": EVIL, "kind": EVIL,
            "why": EVIL});
        let refused = json!({"event": EVIL, "detail": EVIL, "origin": origin});
        let entry = |kind: &str, body: &Value| {
            let entry = json!({"kind": kind, "type": EVIL, "message_id": EVIL, "sequence": 1, "stored_at": at,
                "body": body});
            serde_json::from_value::<HistoryEntry>(entry).unwrap()
        };
        let said = [("state", &state), ("notice", &news), ("job", &news), ("refused", &refused), ("state", &news)];
        let entries = said.map(|(kind, body)| entry(kind, body)).into();
        let mut history = History { link_id: EVIL.to_owned(), entries, truncated: true, unreadable_count: 1 };
        let story = tell(&history, Some(EVIL)).unwrap();
        assert!(is_tame(&story), "{story:?}");
        assert!(story.contains("\\u{1b}[2J") && story.contains('é') && story.contains('▶'), "{story}");
        assert!(is_tame(&tell(&history, Some("\u{1b}other")).unwrap_err().to_string()));
        for count in [4, 1, 0] {
            history.entries.truncate(count);
            let story = tell(&history, None).unwrap();
            assert!(is_tame(&story), "{story:?}");
        }
    }

    #[test]
    fn letters_are_shown_by_us_alone() {
        let letter = json!({"sequence": 7, "at": EVIL, "reason": EVIL, "subject": EVIL, "detail": EVIL,
            "headers": {EVIL: EVIL}, EVIL: EVIL, "payload": EVIL});
        let odd = json!({"sequence": EVIL, "payload_base64": "eA=="});
        for text in [letters(&[letter.clone(), odd.clone(), json!(null)]), self::letter(&odd)] {
            assert!(is_tame(&text), "{text:?}");
        }
        // A body keeps its lines: whoever asks for it wants to read it.
        let text = self::letter(&letter);
        let body = text.replace(&DIM.render().to_string(), "").replace(&DIM.render_reset().to_string(), "");
        assert!(body.contains("\\u{1b}[2J") && !body.contains(DANGEROUS), "{text:?}");
    }
}

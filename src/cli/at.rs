//! `relink at LINK TIME`: the state of a link at a time, and why, in plain sentences. It follows from the history of the link.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::client::{History, RelinkArgs, RunningRelink};
use super::held::of_omission;
use super::history::{because, began_wait, evidence, printable_history, time_of};
use super::links::headline_at;
use super::moment::Moment;
use super::outages::{beginning, messages_to_user};
use super::output::{BOLD, DIM, line, print, print_json};
use super::sentences::{at, of_transition, word_of};
use crate::clock;
use crate::contract::{Because, HistoryEntry, HistoryKind, PromptWord, Record};
use crate::link::{LinkId, Timestamp};
use crate::wording::of_state;

pub(super) const EXAMPLES: &str = "\
Examples:
  relink at 16f68516-bcbc-4cf7-b815-c500d4204e28 2026-11-20T10:00:00Z
  relink at 16f68516-bcbc-4cf7-b815-c500d4204e28 3days
                                       three days ago
TIME is a time with its offset, a date (its begin in UTC), or how long ago. The times are those of `relink why`.";

#[derive(Args, Debug)]
pub(super) struct AtArgs {
    /// Belvo's id of the link
    #[arg(value_name = "LINK")]
    link: LinkId,
    /// A time, a date, or how long ago
    #[arg(value_name = "TIME", value_parser = Moment::parse)]
    time: Moment,
    #[command(flatten)]
    relink: RelinkArgs,
}

pub(super) async fn run(args: AtArgs) -> anyhow::Result<ExitCode> {
    let time = args.time.time();
    let relink = RunningRelink::of(args.relink)?;
    let history = relink.history(args.link.as_str()).await?;
    let now = clock::now();
    if relink.json { print_json(&as_json(&history, time, now)) } else { print(&shown(&history, time, now)) }
}

/// What the history says of a time.
enum Found<'a> {
    /// The state at the time, all states up to it, and the next one.
    Known { state: &'a HistoryEntry, earlier: Vec<&'a HistoryEntry>, next: Option<&'a HistoryEntry> },
    /// The time is before the first state: relink did not know the link yet.
    NotYet { first_at: Timestamp },
    /// The time is before the first state that is left.
    Deleted { first_at: Timestamp },
    /// There is no state at all.
    NoState,
}

fn find(history: &History, time: Timestamp) -> Found<'_> {
    let states: Vec<&HistoryEntry> = history.entries.iter().filter(|entry| entry.kind == HistoryKind::State).collect();
    let Some(first) = states.first() else { return Found::NoState };
    let first_at = time_of(first);
    // The order of the stream decides: a corrected clock can have given a later state an earlier time.
    let Some(found) = states.iter().rposition(|entry| time_of(entry) <= time) else {
        let is_first = !history.truncated && first.body["version"].as_u64() == Some(1);
        return if is_first { Found::NotYet { first_at } } else { Found::Deleted { first_at } };
    };
    Found::Known { state: states[found], earlier: states[..=found].to_vec(), next: states.get(found + 1).copied() }
}

fn as_json(history: &History, time: Timestamp, now: Timestamp) -> Value {
    let change = |entry: &HistoryEntry| {
        let of = &entry.body["because"];
        json!({"at": of["at"], "event": of["event"], "from": of["from"], "to": of["to"], "version": entry.body["version"]})
    };
    let (state, next, unknown_because) = match find(history, time) {
        Found::Known { state, next, .. } => (Some(&state.body), next.map(change), None),
        Found::NotYet { .. } => (None, None, Some("before_the_first_message")),
        Found::Deleted { .. } => (None, None, Some("deleted_from_the_history")),
        Found::NoState => (None, None, Some("no_state")),
    };
    json!({"link_id": history.link_id, "at": time.to_string(), "is_future": time > now, "state": state, "next_change": next,
        "unknown_because": unknown_because})
}

fn shown(history: &History, time: Timestamp, now: Timestamp) -> String {
    let history = &printable_history(history);
    let mut text = String::new();
    let (link, asked) = (&history.link_id, at(time, now));
    if time > now {
        line(&mut text, format_args!("{asked} is in the future. `relink show` has what happens next.\n"));
    }
    match find(history, time) {
        Found::Known { state, earlier, next } => known(&mut text, history, &(state, earlier, next), time, now),
        Found::NotYet { first_at } => line(
            &mut text,
            format_args!(
                "At {asked} relink did not know the link {link} yet. It became known at {}.",
                at(first_at, now)
            ),
        ),
        Found::Deleted { first_at } => line(
            &mut text,
            format_args!(
                "The state of the link {link} at {asked} is not known any more. Its history begins at {}: the stream keeps the newest \
                 messages only (RELINK_HISTORY).",
                at(first_at, now)
            ),
        ),
        Found::NoState => line(
            &mut text,
            format_args!("relink has received messages about the link {link}, and none of them has changed it."),
        ),
    }
    text
}

type Known<'a> = (&'a HistoryEntry, Vec<&'a HistoryEntry>, Option<&'a HistoryEntry>);

fn known(text: &mut String, history: &History, (state, earlier, next): &Known<'_>, time: Timestamp, now: Timestamp) {
    let Ok(record) = serde_json::from_value::<Record>(state.body.clone()) else {
        return line(
            text,
            format_args!("This version of relink cannot read the state of the link at {}.", at(time, now)),
        );
    };
    let (when, verb) = if time > now { ("Now:".to_owned(), "is") } else { (format!("At {}:", at(time, now)), "was") };
    line(text, format_args!("{when}"));
    headline_at(text, &record, verb);
    line(text, format_args!("{DIM}{}: {}{DIM:#}", word_of(record.state), of_state(record.state)));
    why(text, &record, earlier, now);
    if let Some(episode) = &record.episode {
        let until_then = history.entries.iter().filter(|entry| entry.sequence <= state.sequence);
        let until_then =
            History { link_id: history.link_id.clone(), entries: until_then.cloned().collect(), ..*history };
        line(text, format_args!("\n{BOLD}The outage{BOLD:#}  {DIM}{}{DIM:#}", episode.id));
        beginning(text, &until_then, (episode.number, episode.opened_at.0, episode.cause), true, now);
        messages_to_user(text, &until_then, episode.number);
        let waiting = match (episode.prompt, &episode.superseded_by) {
            (Some(PromptWord::Muted), _) if record.muted => Some("the link was muted"),
            (Some(PromptWord::Muted), Some(_)) => Some("the user had connected the bank anew"),
            (prompt, _) => prompt.and_then(of_waiting),
        };
        let began = began_wait(&until_then.entries, &record).filter(|began| began.held.is_some());
        match (began.and_then(|began| of_omission(&began, &state.body)), waiting) {
            (Some(reason), _) if episode.prompt == Some(PromptWord::Sent) => {
                line(text, format_args!("  A reminder was overdue. {reason}"));
            }
            (Some(reason), _) => line(text, format_args!("  The prompt had not been published. {reason}")),
            (None, Some(reason)) => line(text, format_args!("  The prompt had not been published: {reason}.")),
            (None, None) => {}
        }
    }
    if record.muted {
        line(
            text,
            format_args!("The link was muted then. Since the mute, its user had got neither a prompt nor a reminder."),
        );
    }
    if let Some(until) = record.snoozed_until.filter(|until| until.0 > time) {
        line(
            text,
            format_args!("An operator had postponed the reminders (`relink snooze`) until {}.", at(until.0, now)),
        );
    }
    if time > now {
        return;
    }
    line(text, format_args!("\n{BOLD}What happened next{BOLD:#}"));
    match next.map(|next| (time_of(next), because(next))) {
        None => line(text, format_args!("  Nothing until now: this is still the state of the link.")),
        Some((_, Some(because))) => line(text, format_args!("  {}", change(&because, now))),
        Some((next_at, None)) => {
            line(text, format_args!("  A change at {}, which this version cannot read.", at(next_at, now)))
        }
    }
}

/// How the link came into the state, and what changed it last.
fn why(text: &mut String, record: &Record, earlier: &[&HistoryEntry], now: Timestamp) {
    let all: Vec<Because> = earlier.iter().filter_map(|entry| because(entry)).collect();
    let is_entry = |because: &&Because| because.at == record.since && because.to == record.state;
    // Several changes may have one time. The one into the state comes from another state, unless it is the first one of the link.
    let entered = all.iter().rfind(|because| is_entry(because) && because.from != because.to);
    let entered = entered.or_else(|| all.iter().find(is_entry));
    line(text, format_args!("\n{BOLD}Why{BOLD:#}"));
    match entered {
        Some(because) => {
            line(text, format_args!("  {}", change(because, now)));
            line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&because.origin)));
        }
        None => line(text, format_args!("  {DIM}the change into this state is not in the history any more{DIM:#}")),
    }
    if let Some(last) = all.last().filter(|last| entered.is_none_or(|entered| *last != entered)) {
        line(text, format_args!("  The last event before that time: {}", change(last, now)));
        line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&last.origin)));
    }
}

/// A transition as a sentence with its time.
fn change(because: &Because, now: Timestamp) -> String {
    let (from, to) = (word_of(because.from), word_of(because.to));
    let what = if from == to { format!("stayed {to}") } else { format!("{from} → {to}") };
    format!("{}, {what}. {}", at(because.at.0, now), of_transition(because))
}

/// Why a prompt had not been published; `None` if it had.
const fn of_waiting(prompt: PromptWord) -> Option<&'static str> {
    match prompt {
        PromptWord::Sent => None,
        PromptWord::Muted => {
            Some("its user was in the widget when the outage became known, or the link had been muted before")
        }
        PromptWord::Deferred => Some("the institution had an incident"),
        PromptWord::Postponed => {
            Some("the person had got a message a short time before, or it was a part of the day without messages")
        }
        PromptWord::Unidentified => Some("relink had never read the link, and asked Belvo whose link it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::outage;
    use super::super::output::tests::{HOSTILE, is_safe};
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_090_000_000);

    #[test]
    fn each_time_has_its_state_and_its_reason() {
        let history = outage();
        let states: Vec<Timestamp> =
            history.entries.iter().filter(|entry| entry.kind == HistoryKind::State).map(time_of).collect();
        let (first, last) = (states[0], states[states.len() - 1]);
        let millis = |time: Timestamp, by: i64| Timestamp::from_millis(time.as_millis() + by);
        let mut all = String::new();
        for time in [millis(first, -1), first, millis(last, -1), last, millis(NOW, 60_000)] {
            all += &shown(&history, time, NOW);
            all += "\n";
        }
        assert!(is_safe(&all), "{all:?}");
        insta::assert_snapshot!(anstream::adapter::strip_str(&all).to_string());
        let json = as_json(&history, millis(first, -1), NOW);
        assert_eq!((&json["state"], &json["unknown_because"]), (&Value::Null, &json!("before_the_first_message")));
        let json = as_json(&history, last, NOW);
        assert_eq!(
            (&json["state"], &json["next_change"]),
            (&history.entries.iter().rfind(|entry| entry.kind == HistoryKind::State).unwrap().body, &Value::Null)
        );
    }

    #[test]
    fn a_snooze_has_its_end() {
        let mut history = outage();
        let last = history.entries.iter_mut().rfind(|entry| entry.kind == HistoryKind::State).unwrap();
        last.body["snoozed_until"] = json!("2023-12-01T00:00:00.000Z");
        let text = shown(&history, time_of(history.entries.last().unwrap()), NOW);
        assert!(text.contains("`relink snooze`) until 2023-12-01T00:00:00.000Z"), "{text}");
    }

    #[test]
    fn a_history_without_its_begin_says_so() {
        let mut history = outage();
        let before = Timestamp::from_millis(0);
        history.truncated = true;
        assert!(shown(&history, before, NOW).contains("is not known any more"));
        history.truncated = false;
        let first = history.entries.iter().position(|entry| entry.kind == HistoryKind::State).unwrap();
        history.entries[first].body["version"] = json!(7);
        assert!(shown(&history, before, NOW).contains("is not known any more"));
        history.entries.clear();
        history.link_id = HOSTILE.to_owned();
        let text = shown(&history, before, NOW);
        assert!(text.contains("none of them has changed it") && is_safe(&text), "{text:?}");
    }
}

//! The outages of a link, for `relink why` and `relink at`: nobody should have to read the whole history for them.

use std::collections::BTreeMap;

use super::client::History;
use super::held::{PROMPT, REMINDER, counts_mention, what_was_due};
use super::history::{Known, because, evidence, time_of};
use super::output::{BOLD, DIM, line};
use super::sentences::{at, of_action, of_notice, of_transition};
use crate::contract::{At, Because, CauseWord, EpisodeRecord, EpisodeSummary, HistoryEntry, HistoryKind, NeedRecord};
use crate::link::Timestamp;
use crate::printable::{counted, printable};
use crate::wording::of_cause;

/// Writes the outage that goes on.
pub(super) fn open_outage(
    text: &mut String,
    history: &History,
    episode: &EpisodeRecord,
    known: &Known,
    now: Timestamp,
) {
    line(text, format_args!("\n{BOLD}The outage{BOLD:#}  {DIM}{}{DIM:#}", episode.id));
    beginning(text, history, (episode.number, episode.opened_at.0, episode.cause), !known.has_no_history, now);
    if known.has_no_history {
        line(text, format_args!("  {}", messages_without_history(episode, known.around.observes)));
    } else {
        messages_to_user(text, history, episode.number);
    }
    if episode.attempts_count > 0 {
        line(text, format_args!("  Attempts of the user to repair the link: {}.", episode.attempts_count));
    }
}

/// The messages to the user about an outage, when the history cannot be read. The state counts a recorded prompt and a mention in a message
/// about another link as sent; only the history knows which it was.
pub(super) fn messages_without_history(episode: &EpisodeRecord, observes: bool) -> String {
    let unread = "the history, which has the messages, cannot be read now";
    if !episode.prompt_sent {
        return format!("The user has not been prompted; {unread}.");
    }
    let reminders = counted(episode.reminders_count as usize, "reminder");
    if observes {
        format!("The prompt of this outage and {reminders} were sent, or only recorded (observe mode); {unread}.")
    } else {
        format!(
            "The user was prompted, and got {reminders}, by messages about this link or about another one; {unread}."
        )
    }
}

/// Writes when an outage began, who reported it, and its cause. Later evidence may have changed the cause: then both are written. A history
/// that cannot be read now is not whole.
pub(super) fn beginning(
    text: &mut String,
    history: &History,
    (number, opened_at, cause): (u32, Timestamp, CauseWord),
    is_whole: bool,
    now: Timestamp,
) {
    // The prompt has the same reason as the state of its step, and may be in the history when the state is not any more.
    let is_of_episode = |entry: &&HistoryEntry| {
        matches!(entry.kind, HistoryKind::State | HistoryKind::Notice)
            && entry.body["episode"]["number"].as_u64() == Some(u64::from(number))
    };
    let began_at = at(opened_at, now);
    let changes = history.entries.iter().filter(is_of_episode);
    let mut changes = changes.filter_map(|entry| Some((because(entry)?, cause_in(entry)?)));
    let Some((opened, first)) = changes.find(|(because, _)| because.at.0 == opened_at) else {
        line(text, format_args!("  It began at {began_at}. What is wrong: {}.", of_cause(cause.into())));
        if is_whole {
            line(text, format_args!("  {DIM}the message that reported it is not in the history any more{DIM:#}"));
        }
        return;
    };
    if let Some(reported) = suspicion_before(history, &opened) {
        line(text, format_args!("  First report, at {}: {}", at(reported.at.0, now), of_transition(&reported)));
        line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&reported.origin)));
    }
    line(text, format_args!("  It began at {began_at}: {}", of_transition(&opened)));
    line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&opened.origin)));
    if first == cause {
        return;
    }
    // The last change of the cause: what it was in between is in the history.
    let mut changed = None;
    let mut last = first;
    for (because, next) in changes {
        if next != last {
            changed = Some(because);
        }
        last = next;
    }
    match changed.filter(|_| last == cause) {
        Some(because) => {
            line(text, format_args!("  Since {}: {}", at(because.at.0, now), of_transition(&because)));
            line(text, format_args!("  {DIM}evidence: {}{DIM:#}", evidence(&because.origin)));
        }
        None => line(text, format_args!("  What is wrong since then: {}.", of_cause(cause.into()))),
    }
}

/// The report that relink verified first, and that the transition `opened` has confirmed: soon after a repair a report may be a late one.
fn suspicion_before(history: &History, opened: &Because) -> Option<Because> {
    let states = history.entries.iter().filter(|entry| entry.kind == HistoryKind::State);
    let before = states.take_while(|entry| because(entry).is_none_or(|because| because.at < opened.at));
    let before: Vec<_> = before.collect();
    let suspected = before.iter().rev().take_while(|entry| entry.body["suspicion"].is_object());
    suspected.last().and_then(|entry| because(entry))
}

fn cause_in(state: &HistoryEntry) -> Option<CauseWord> {
    serde_json::from_value(state.body["episode"]["cause"].clone()).ok()
}

/// Writes when the last outage began and ended, the messages to the user, and whether data is still missing. Nothing if the history has no
/// outage that has ended.
pub(super) fn last_outage(text: &mut String, history: &History, now: Timestamp) {
    let is_notice = |entry: &&HistoryEntry| matches!(entry.kind, HistoryKind::Notice | HistoryKind::Observed);
    let notices = || history.entries.iter().filter(is_notice);
    // The removal of a link ends its open outage.
    let ends = |entry: &HistoryEntry| matches!(entry.name.as_deref(), Some("recovered" | "removed"));
    let of = |entry: &HistoryEntry| serde_json::from_value::<EpisodeSummary>(entry.body["episode"].clone()).ok();
    let Some((ended, episode)) =
        notices().rev().filter(|entry| ends(entry)).find_map(|entry| Some((entry, of(entry)?)))
    else {
        return;
    };
    line(text, format_args!("\n{BOLD}The last outage, which is over{BOLD:#}  {DIM}{}{DIM:#}", printable(&episode.id)));
    beginning(text, history, (episode.number, episode.opened_at.0, episode.cause), true, now);
    messages_to_user(text, history, episode.number);
    if episode.attempts_count > 0 {
        line(text, format_args!("  Attempts of the user to repair the link: {}.", episode.attempts_count));
    }
    line(
        text,
        format_args!(
            "  It ended at {}: relink {}.",
            at(time_of(ended), now),
            of_notice(ended.name.as_deref().unwrap_or("?"), &ended.body)
        ),
    );
    let later =
        |name: &str| notices().rfind(|entry| entry.sequence >= ended.sequence && entry.name.as_deref() == Some(name));
    let Some(due) = later("refresh_due") else { return };
    let arrived = match later("refreshed") {
        Some(arrived) => format!("It has arrived at Belvo, at {}.", at(time_of(arrived), now)),
        None => "It has not arrived at Belvo yet.".to_owned(),
    };
    let gap = |end: &str| due.body["gap"][end].as_str().map(printable);
    let to = gap("to").unwrap_or_else(|| "?".to_owned());
    let missing = match gap("from") {
        Some(from) => format!("The data from {from} to {to} had to be fetched."),
        None => format!("All data up to {to} had to be fetched, because relink knew of none from before the outage."),
    };
    line(text, format_args!("  {missing} {arrived}"));
}

/// The messages about other links of the user that counted as a prompt or a reminder of this episode: the time, the link, and as what.
fn mentions_of(history: &History, episode: u32) -> BTreeMap<(At, String), &'static str> {
    let mut found = BTreeMap::new();
    for entry in history.entries.iter().filter(|entry| entry.kind == HistoryKind::State) {
        let Some(because) = because(entry) else { continue };
        let last = because.person.as_ref().and_then(|person| person.last_message.as_ref());
        let is_of_episode = |need: &NeedRecord| need.episode == Some(episode);
        let last = last.filter(|last| last.mentioned.as_ref().is_some_and(is_of_episode));
        if let Some(last) = last.filter(|_| counts_mention(&because)) {
            found.insert((last.at, printable(&last.link_id)), what_was_due(&because));
        }
    }
    found
}

/// The prompt and the reminders of an episode.
pub(super) fn messages_to_user(text: &mut String, history: &History, episode: u32) {
    let of_episode = |entry: &&HistoryEntry| entry.body["episode"]["number"].as_u64() == Some(u64::from(episode));
    let of_kind = |kind: HistoryKind, name: &str| -> Vec<&HistoryEntry> {
        let named = |entry: &&HistoryEntry| entry.kind == kind && entry.name.as_deref() == Some(name);
        history.entries.iter().filter(named).filter(of_episode).collect()
    };
    let times = |entries: &[&HistoryEntry]| {
        entries.iter().map(|entry| time_of(entry).to_string()).collect::<Vec<_>>().join(", ")
    };
    let asked = |entry: &HistoryEntry| of_action(entry.body["action"].as_str().unwrap_or("?")).to_owned();
    let named = |name: &str| of_kind(HistoryKind::Notice, name);
    let (prompts, reminders) = (named("update_required"), named("reminder"));
    let observed = of_kind(HistoryKind::Observed, "update_required");
    for entry in &observed {
        let at = time_of(entry);
        line(text, format_args!("  relink would have prompted the user at {at}: {}; it only observed.", asked(entry)));
    }
    let mentions = mentions_of(history, episode);
    let is_mention = |what: &str| mentions.values().any(|counts_as| *counts_as == what);
    match prompts.as_slice() {
        [] if !observed.is_empty() || is_mention(PROMPT) => {}
        [] => line(text, format_args!("  The history has no prompt to the user for this outage.")),
        [once] => line(text, format_args!("  The user was prompted once, at {}: {}.", time_of(once), asked(once))),
        [.., last] => {
            let (count, times) = (prompts.len(), times(&prompts));
            line(text, format_args!("  The user was prompted {count} times, at {times}: {}.", asked(last)));
        }
    }
    for ((At(at), other), what) in &mentions {
        line(
            text,
            format_args!(
                "  The message to the same user about the link {other} at {at} mentioned this link, and counts as {what}."
            ),
        );
    }
    let Some(last) = reminders.last() else {
        if observed.is_empty() && !is_mention(REMINDER) {
            line(text, format_args!("  The user has not been reminded."));
        }
        return;
    };
    // A reminder asks for what is wrong then, which may be another thing than in the prompt.
    let is_other = prompts.last().is_none_or(|prompt| prompt.body["action"] != last.body["action"]);
    let other = if is_other { format!("; the last one: {}", asked(last)) } else { String::new() };
    line(text, format_args!("  Reminders to the user: {}, at {}{other}.", reminders.len(), times(&reminders)));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_090_000_000);

    fn notice(sequence: u64, name: &str, at: &str, fields: Value) -> HistoryEntry {
        let mut body = json!({"episode": {"id": "a-e1", "number": 1, "cause": "credentials", "opened_at": "2023-11-14T22:13:20.000Z",
            "prompts_count": 1, "attempts_count": 2}});
        if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
            body.extend(fields);
        }
        let entry = json!({"kind": "notice", "type": name, "message_id": "m", "sequence": sequence, "stored_at": at, "body": body});
        serde_json::from_value(entry).unwrap()
    }

    #[test]
    fn reminders_after_observe_mode_and_mentions_in_other_messages_are_shown() {
        let shown = |entries: Vec<HistoryEntry>| {
            let history = History { link_id: "a".to_owned(), entries, truncated: false, unreadable_count: 0 };
            let mut text = String::new();
            messages_to_user(&mut text, &history, 1);
            text
        };
        let action = json!({"action": "update_credentials"});
        let mut recorded = notice(1, "update_required", "2023-11-14T22:13:20.000Z", action.clone());
        recorded.kind = HistoryKind::Observed;
        let reminder = notice(2, "reminder", "2023-11-15T22:13:20.000Z", action.clone());
        assert!(!shown(vec![recorded.clone()]).contains("remind"));
        let text = shown(vec![recorded, reminder]);
        assert!(text.contains("it only observed") && text.contains("Reminders to the user: 1"), "{text}");

        let prompt = notice(1, "update_required", "2023-11-14T22:13:20.000Z", action);
        let last = json!({"link_id": "b", "at": "2023-11-15T22:13:20.000Z", "mentioned": {"episode": 1}});
        let because = json!({"event": "deadline_passed", "from": "invalid", "to": "invalid", "at": "2023-11-15T22:14:00.000Z",
            "due": "reminder", "held": "mentioned", "origin": {"kind": "timer", "received_at": "2023-11-15T22:14:00.000Z"},
            "person": {"last_message": last}});
        let mut state = notice(2, "", "2023-11-15T22:14:00.000Z", json!({"because": because}));
        state.kind = HistoryKind::State;
        let text = shown(vec![prompt, state]);
        let mention = "about the link b at 2023-11-15T22:13:20.000Z mentioned this link, and counts as the reminder.";
        assert!(text.contains(mention), "{text}");
        assert!(!text.contains("not been reminded"), "{text}");
    }

    #[test]
    fn an_outage_that_is_over_is_shown_in_one_place() {
        let mut history =
            History { link_id: "a".to_owned(), entries: Vec::new(), truncated: false, unreadable_count: 0 };
        let shown = |history: &History| {
            let mut text = String::new();
            last_outage(&mut text, history, NOW);
            anstream::adapter::strip_str(&text).to_string()
        };
        history.entries.push(notice(
            1,
            "update_required",
            "2023-11-14T22:13:20.000Z",
            json!({"action": "update_credentials"}),
        ));
        assert_eq!(shown(&history), "", "it is not over");
        history.entries.push(notice(2, "recovered", "2023-11-15T22:13:20.000Z", json!({"proof": "observed"})));
        let gap = json!({"gap": {"from": "2023-11-13T00:00:00.000Z", "to": "2023-11-15T22:13:20.000Z"}, "by": "belvo"});
        history.entries.push(notice(3, "refresh_due", "2023-11-15T22:13:20.000Z", gap));
        let text = shown(&history);
        assert!(text.contains("the institution refuses the stored credentials"), "{text}");
        assert!(text.contains("The user was prompted once") && text.contains("repair the link: 2."), "{text}");
        assert!(
            text.contains("Belvo's status of the link shows it") && text.contains("not arrived at Belvo yet"),
            "{text}"
        );
        history.entries.push(notice(4, "refreshed", "2023-11-15T23:00:00.000Z", json!({})));
        assert!(
            shown(&history).contains("It has arrived at Belvo, at 2023-11-15T23:00:00.000Z"),
            "{}",
            shown(&history)
        );
        insta::assert_snapshot!(shown(&history));
        history.entries[2].body["gap"]["from"] = Value::Null;
        let text = shown(&history);
        assert!(text.contains("All data up to 2023-11-15T22:13:20.000Z had to be fetched"), "{text}");
    }

    fn summary_of(history: &History) -> String {
        let text = super::super::history::show(history, None, &Known::default(), NOW).unwrap();
        anstream::adapter::strip_str(&text).to_string().split("What happens next").next().unwrap().to_owned()
    }

    /// The removal of a link ends its outage, also if an earlier one ended by a recovery.
    #[test]
    fn the_last_outage_of_a_removed_link_is_the_one_that_the_removal_ended() {
        let mut history = super::super::history::tests::outage();
        let mut removed = history.entries.last().unwrap().clone();
        let episode = json!({"id": "a-e1", "number": 1, "cause": "credentials", "opened_at": "2023-11-14T22:13:20.000Z",
            "prompts_count": 2, "attempts_count": 0});
        let mut earlier = episode.clone();
        (earlier["number"], earlier["id"]) = (json!(0), json!("a-e0"));
        let ended = |name: &str, episode: Value, more: Value| {
            notice(90, name, "2023-11-15T22:13:20.000Z", {
                let mut body = more;
                body["episode"] = episode;
                body
            })
        };
        (removed.body["state"], removed.body["episode"], removed.sequence) = (json!("removed"), Value::Null, 91);
        history.entries.insert(0, ended("recovered", earlier, json!({"proof": "observed"})));
        history.entries.push(ended("removed", episode, json!({"reason": "forgotten"})));
        history.entries.push(removed);
        let text = summary_of(&history);
        assert!(text.contains("a-e1") && text.contains("the link is removed: an operator removed it"), "{text}");
        assert!(text.contains("The user was prompted once") && text.contains("Reminders to the user: 1"), "{text}");
    }

    /// Soon after a repair a report is verified first, and the state is changed by the answer.
    #[test]
    fn an_outage_that_relink_has_verified_has_the_report_before_it() {
        let mut history = super::super::history::tests::outage();
        let opened = history
            .entries
            .iter()
            .position(|entry| entry.body["because"]["to"] == "invalid" && entry.kind == HistoryKind::State);
        let opened = opened.unwrap();
        let mut suspected = history.entries[opened].clone();
        suspected.body["suspicion"] = json!({"cause": "credentials"});
        suspected.body["episode"] = Value::Null;
        suspected.body["because"]["at"] = json!("2023-11-14T22:13:00.000Z");
        suspected.body["because"]["origin"]["message_id"] = json!("w-0");
        let because = &mut history.entries[opened].body["because"];
        (because["event"], because["origin"]["kind"]) = (json!("observed_invalid"), json!("observation"));
        history.entries.insert(opened, suspected);
        let text = summary_of(&history);
        assert!(text.contains("First report, at 2023-11-14T22:13:00.000Z") && text.contains("message w-0"), "{text}");
        assert!(text.contains("relink read the link from Belvo: its status there is `invalid`"), "{text}");
        // The prompt has the reason too, if the state is not in the history any more.
        let prompt = history.entries.iter_mut().find(|entry| entry.name.as_deref() == Some("update_required")).unwrap();
        prompt.body["episode"]["cause"] = json!("credentials");
        history.entries.retain(|entry| entry.kind != HistoryKind::State || entry.body["version"] != 2);
        assert!(
            summary_of(&history)
                .contains("It began at 2023-11-14T22:13:20.000Z (25 h ago): Belvo reported in a webhook")
        );
    }

    /// The cause of the beginning is the one that was reported then.
    #[test]
    fn a_cause_that_has_changed_is_shown_with_both_reports() {
        let mut history = super::super::history::tests::outage();
        let last = history.entries.last_mut().unwrap();
        (last.body["episode"]["cause"], last.body["state"]) = (json!("token"), json!("token_required"));
        last.body["because"]["event"] = json!("token_requested");
        last.body["because"]["origin"] = json!({"kind": "api_error", "message_id": "e-1", "token": "app",
            "received_at": "2023-11-15T22:13:20.000Z"});
        last.body["because"]["to"] = json!("token_required");
        let text = super::super::history::show(&history, None, &Known::default(), NOW).unwrap();
        let text = anstream::adapter::strip_str(&text).to_string();
        let outage = text.split("What happens next").next().unwrap();
        insta::assert_snapshot!(outage);
        let (_, after) = outage.split_once("It began at").unwrap();
        let (beginning, since) = after.split_once("Since 2023-11-15").unwrap();
        assert!(beginning.contains("refuses the stored credentials") && beginning.contains("message w-1"), "{outage}");
        assert!(since.contains("requires a new MFA token") && since.contains("message e-1"), "{outage}");
        assert!(since.contains("sent with the API token \"app\""), "{outage}");
    }
}

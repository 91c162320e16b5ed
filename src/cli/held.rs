//! Why a message to the user was not sent, and other things that a transition did not do, as plain sentences.

use serde_json::Value;

use crate::contract::{At, Because, DueWord, HeldWord, StateWord};
use crate::link::{EventName, Timestamp};
use crate::printable::printable;

/// What a message about another link may count as.
pub(super) const PROMPT: &str = "the prompt";
pub(super) const REMINDER: &str = "the reminder";

/// What the transition did not do, and why, as a sentence. `None`: there is nothing to say. `state` is the state after it.
pub(super) fn of_omission(because: &Because, state: &Value) -> Option<String> {
    let is_broken = matches!(because.to, StateWord::Invalid | StateWord::TokenRequired | StateWord::Updating);
    let was_broken = !matches!(because.from, StateWord::Valid | StateWord::Unconfirmed);
    if is_broken && was_broken && because.event == EventName::DataArrived.as_str() {
        return Some("This does not show that the link works again: the data may be older than the outage.".to_owned());
    }
    let message = because.held.map(|held| of_held(held, because, state));
    let notice = because.outage_notice_at.map(|At(until)| of_outage_notice(until, state));
    let sentences: Vec<_> = message.into_iter().chain(notice).collect();
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

/// What quiet hours do to the notices about an outage of the institution.
fn of_outage_notice(until: Timestamp, state: &Value) -> String {
    let quiet = "It was a part of the day without messages (quiet hours)";
    if state["institution_outage"]["check_at"].is_string() {
        format!("{quiet}, so `institution_restored` waits until {until}.")
    } else {
        format!("{quiet}, so relink does not publish `institution_down` for this link before {until}.")
    }
}

/// What the transition did to a reminder that it neither sent nor held, as a sentence: a failed attempt and `unmute` postpone it.
pub(super) fn of_moved_reminder(because: &Because, before: &Value, state: &Value) -> Option<String> {
    let [earlier, episode] = [before, state].map(|state| &state["episode"]);
    let is_same = ["number", "reminders_count", "prompt_sent"].iter().all(|field| earlier[field] == episode[field]);
    let (from, to) = (earlier["next_reminder_at"].as_str()?, episode["next_reminder_at"].as_str()?);
    // Before the prompt, and in a snooze that lasts longer, nobody gets a reminder at these times, nor in a mute or for a link that a newer
    // one has replaced. Times have one form, so texts compare.
    let is_expected = episode["prompt_sent"] == true
        && state["muted"] != true
        && episode["superseded_by"].is_null()
        && *because.at.0.to_string() < *to
        && state["snoozed_until"].as_str().is_none_or(|until| until < to);
    let is_moved = is_same && is_expected && because.held.is_none() && from != to;
    is_moved.then(|| format!("The next reminder is moved to {to}; it was due at {from}."))
}

/// That Belvo has not answered in time, so that the prompt does not wait any more.
pub(super) fn of_missing_answer(because: &Because, before: &Value, state: &Value) -> Option<String> {
    let [earlier, episode] = [before, state].map(|state| &state["episode"]);
    let asked_at = earlier["prompt_asked_at"].as_str().filter(|_| because.due == Some(DueWord::Prompt))?;
    // In another incident, the prompt waits for its end.
    let is_answered = episode["prompt_asked_at"].is_string() || episode["prompt"] == "deferred";
    let is_over = earlier["number"] == episode["number"] && !is_answered;
    is_over.then(|| {
        format!("Belvo, asked at {asked_at}, has not answered whether the link works again, so it counts as broken.")
    })
}

fn of_held(held: HeldWord, because: &Because, state: &Value) -> String {
    let what = what_was_due(because);
    let until = match because.to {
        StateWord::Valid => &state["consent"]["postponed_until"],
        _ if because.due == Some(DueWord::Reminder) => &state["episode"]["next_reminder_at"],
        _ => &state["episode"]["prompt_deferred_until"],
    };
    let until = until.as_str().unwrap_or("?");
    let person = because.person.as_ref();
    let last = person.and_then(|person| person.last_message.as_ref());
    match held {
        HeldWord::Incident => format!("The institution has an incident, so {what} waits, until a check at {until}."),
        HeldWord::Answer => format!("Before {what}, relink asks Belvo whether the link works again."),
        HeldWord::Unidentified => format!(
            "relink has never read the link, so before {what} it asks Belvo whose link it is, until {until} at most."
        ),
        HeldWord::QuietHours => {
            format!("It was a part of the day without messages (quiet hours), so {what} waits until {until}.")
        }
        HeldWord::Pause => {
            let own_at = state["messaged"]["at"].as_str();
            let last = last.filter(|last| own_at.is_none_or(|own_at| *last.at.0.to_string() > *own_at));
            let message = match (last, own_at) {
                (Some(last), _) => {
                    format!(
                        "The same person got a message about the link {} at {}",
                        printable(&last.link_id),
                        last.at.0
                    )
                }
                (None, Some(own_at)) => format!("The user got a message about this link at {own_at}"),
                (None, None) => "The person got a message a short time before".to_owned(),
            };
            format!("{message}, so {what} waits for the end of the reminder pause, until {until}.")
        }
        HeldWord::InWidget => match person.and_then(|person| person.in_widget.as_ref()) {
            Some(widget) => format!(
                "The same person is repairing the link {} (the widget token expires at {}), so {what} waits until {until}.",
                printable(&widget.link_id),
                widget.until.0
            ),
            None => format!("The user is in the widget already, so {what} waits for the end of that attempt."),
        },
        HeldWord::OtherAnswer => {
            // What waits is a prompt that was not sent, a reminder, or the notice that the bank works again.
            let check_at = state["institution_outage"]["check_at"].as_str();
            let is_restored = state["episode"]["prompt_sent"] == true && because.due != Some(DueWord::Reminder);
            let (what, until) = match check_at.filter(|_| is_restored) {
                Some(check_at) => ("`institution_restored`", check_at),
                None => (what, until),
            };
            format!("{}, so {what} waits until {until}: one message is to be about both links.", of_undecided(because))
        }
        HeldWord::Muted => format!("The link is muted, so {what} waits for `unmute`."),
        HeldWord::Superseded => format!("A newer link of the same user works, so {what} is not sent."),
        HeldWord::Mentioned => match last {
            Some(last) => format!(
                "The message to the same person about the link {} at {} mentioned this link. It counts as {what}, so no other one is sent.",
                printable(&last.link_id),
                last.at.0
            ),
            None => format!("The last message to the person mentioned this link. It counts as {what}."),
        },
    }
}

/// That another link of the person has to be answered first, as the beginning of a sentence.
fn of_undecided(because: &Because) -> String {
    let undecided = because.person.as_ref().and_then(|person| person.undecided.as_ref());
    let other =
        undecided.map_or_else(|| "another link".to_owned(), |other| format!("the link {}", printable(&other.link_id)));
    format!(
        "The same person also has {other}, which is broken, and relink asks Belvo first whether that one works again"
    )
}

/// The message to the user that was due: as what a message about another link counts, if the transition has counted it.
pub(super) fn what_was_due(because: &Because) -> &'static str {
    match because.due {
        Some(DueWord::Reminder) => REMINDER,
        Some(_) | None if because.to == StateWord::Valid => "the notice that the consent ends soon",
        Some(_) | None => PROMPT,
    }
}

/// Whether the transition has counted a message about another link as one about this link.
pub(super) fn counts_mention(because: &Because) -> bool {
    because.held == Some(HeldWord::Mentioned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn because(fields: Value) -> Because {
        let mut because = json!({"event": "deadline_passed", "from": "invalid", "to": "invalid", "at": "2023-11-15T22:14:00.000Z",
            "due": "reminder", "origin": {"kind": "timer", "received_at": "2023-11-15T22:14:00.000Z"}});
        because.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(because).unwrap()
    }

    #[test]
    fn each_reason_has_its_sentence() {
        let state = json!({"episode": {"next_reminder_at": "2023-11-16T08:00:00.000Z", "prompt_deferred_until": "2023-11-15T22:24:00.000Z"},
            "consent": {"postponed_until": "2023-11-17T08:00:00.000Z"}, "messaged": {"at": "2023-11-15T20:00:00.000Z"}});
        let words = [
            "incident",
            "answer",
            "unidentified",
            "pause",
            "quiet_hours",
            "in_widget",
            "other_answer",
            "muted",
            "superseded",
            "mentioned",
        ];
        let other = json!({"last_message": {"link_id": "b", "at": "2023-11-15T21:00:00.000Z"}});
        let mut all = String::new();
        for word in words {
            for more in [
                json!({}),
                json!({"due": "prompt"}),
                json!({"to": "valid", "due": "consent_notice"}),
                json!({"person": other}),
            ] {
                let mut fields = more;
                fields["held"] = json!(word);
                all += &format!("{}\n", of_omission(&because(fields), &state).unwrap());
            }
        }
        for more in [json!({}), json!({"held": "answer"})] {
            let mut fields = more;
            fields["outage_notice_at"] = json!("2023-11-16T08:00:00.000Z");
            all += &format!("{}\n", of_omission(&because(fields.clone()), &state).unwrap());
            let announced = json!({"institution_outage": {"check_at": "2023-11-16T08:00:00.000Z"}});
            all += &format!("{}\n", of_omission(&because(fields), &announced).unwrap());
        }
        insta::assert_snapshot!(all);
        assert_eq!(of_omission(&because(json!({})), &state), None, "it was sent");
    }

    #[test]
    fn a_reminder_that_an_attempt_has_moved_has_a_sentence_and_one_that_was_sent_has_none() {
        let state = |next: Option<&str>, count| json!({"episode": {"number": 1, "prompt_sent": true, "reminders_count": count, "next_reminder_at": next}});
        let failed = because(json!({"event": "update_abandoned", "due": null}));
        let (first, second) = ("2023-11-16T08:00:00.000Z", "2023-11-17T08:00:00.000Z");
        let text = of_moved_reminder(&failed, &state(Some(first), 0), &state(Some(second), 0)).unwrap();
        assert_eq!(text, format!("The next reminder is moved to {second}; it was due at {first}."));
        for (before, after) in [
            (state(Some(first), 0), state(Some(first), 0)),
            (state(Some(first), 0), state(Some(second), 1)),
            (state(None, 0), state(Some(second), 0)),
            (json!({}), state(Some(second), 0)),
        ] {
            assert_eq!(of_moved_reminder(&failed, &before, &after), None, "{before} {after}");
        }
        for (field, value) in [
            ("prompt_sent", json!(false)),
            ("superseded_by", json!("b")),
            ("muted", json!(true)),
            ("snoozed_until", json!("2023-12-01T00:00:00.000Z")),
        ] {
            let with = |mut state: Value| {
                let is_of_episode = ["prompt_sent", "superseded_by"].contains(&field);
                let at = if is_of_episode { &mut state["episode"] } else { &mut state };
                at[field] = value.clone();
                state
            };
            let moved = of_moved_reminder(&failed, &with(state(Some(first), 0)), &with(state(Some(second), 0)));
            assert_eq!(moved, None, "{field}");
        }
        let late = because(json!({"at": "2023-11-18T08:00:00.000Z"}));
        assert_eq!(of_moved_reminder(&late, &state(Some(first), 0), &state(Some(second), 0)), None, "it has passed");
        let waits = because(json!({"held": "quiet_hours"}));
        assert_eq!(of_moved_reminder(&waits, &state(Some(first), 0), &state(Some(second), 0)), None, "it has its own");
    }

    #[test]
    fn an_answer_that_did_not_come_is_named() {
        let asked = json!({"episode": {"number": 1, "prompt_asked_at": "2023-11-15T22:14:00.000Z"}});
        let prompted = json!({"episode": {"number": 1}});
        let timed_out = because(json!({"due": "prompt"}));
        let text = of_missing_answer(&timed_out, &asked, &prompted).unwrap();
        assert!(text.contains("asked at 2023-11-15T22:14:00.000Z, has not answered"), "{text}");
        assert_eq!(of_missing_answer(&timed_out, &prompted, &prompted), None);
        let deferred = json!({"episode": {"number": 1, "prompt": "deferred"}});
        for again in [&asked, &deferred] {
            assert_eq!(of_missing_answer(&timed_out, &asked, again), None, "it waits again");
        }
        let answered = because(json!({"event": "observed_invalid", "due": null}));
        assert_eq!(of_missing_answer(&answered, &asked, &prompted), None);
    }

    #[test]
    fn data_in_an_outage_shows_nothing_about_the_link() {
        let text = of_omission(&because(json!({"event": "data_arrived", "due": null})), &json!({})).unwrap();
        assert!(text.contains("the data may be older than the outage"), "{text}");
        for first in [json!({"event": "data_arrived", "from": "valid", "to": "valid"}), json!({"event": "mute"})] {
            assert_eq!(of_omission(&because(first), &json!({})), None);
        }
    }
}

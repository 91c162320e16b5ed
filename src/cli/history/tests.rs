//! The texts of `relink why`.

use serde_json::{Value, json};

use super::super::output::tests::{HOSTILE, is_safe};
use super::*;
use crate::contract::{At, DueOfLink, DueWord};

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
                body["because"]["due"] = json!("reminder");
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
    let due = vec![DueOfLink { at: At(Timestamp::from_millis(1_700_176_400_000)), what: DueWord::Reminder }];
    let known = Known { beside: Beside { due, ..Beside::default() }, ..Known::default() };
    let text = show(&outage(), Some("2.1"), &known, NOW).unwrap();
    insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
}

#[test]
fn a_transition_says_what_it_did_not_do_and_why() {
    let shown = |because: Value, episode: Value| {
        let mut history = outage();
        let body = &mut history.entries.last_mut().unwrap().body;
        body["because"].as_object_mut().unwrap().extend(because.as_object().unwrap().clone());
        body["episode"].as_object_mut().unwrap().extend(episode.as_object().unwrap().clone());
        let due = vec![DueOfLink { at: At(NOW), what: DueWord::Reminder }];
        let known = Known { beside: Beside { due, ..Beside::default() }, ..Known::default() };
        show(&history, None, &known, NOW).unwrap()
    };
    let data = shown(json!({"event": "data_arrived"}), json!({}));
    assert!(data.contains("does not show that the link works again: the data may be older than the outage"), "{data}");
    let until = "2023-11-16T01:13:20.000Z";
    let waits = json!({"reminder_waits_since": "2023-11-15T22:13:20.000Z", "next_reminder_at": until});
    let reminder = shown(json!({"due": "reminder", "held": "incident"}), waits);
    assert!(reminder.contains(&format!("so the reminder waits, until a check at {until}")), "{reminder}");
    assert!(reminder.contains("Reminder 2 has been due since 2023-11-15T22:13:20.000Z. "), "{reminder}");
    let deferred = json!({"prompt": "deferred", "prompt_deferred_until": until});
    let prompt = shown(json!({"due": "prompt", "held": "incident"}), deferred.clone());

    assert!(prompt.contains(&format!("so the prompt waits, until a check at {until}")), "{prompt}");
    let command = shown(json!({"event": "mute", "due": null}), deferred);
    assert!(!command.contains("so the prompt waits"), "the wait is older: {command}");
}

#[test]
fn a_snooze_has_its_end() {
    let mut history = outage();
    let last = &mut history.entries.last_mut().unwrap().body;
    (last["because"]["event"], last["because"]["origin"]["kind"]) = (json!("snooze"), json!("command"));
    last["snoozed_until"] = json!("2023-12-01T00:00:00.000Z");
    let text = show(&history, None, &Known::default(), NOW).unwrap();
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
        "held": "pause", "person": {"last_message": last}});
    let command = json!({"event": "snooze", "from": "invalid", "to": "invalid", "at": "2023-11-14T23:00:00.000Z",
        "origin": {"kind": "command", "received_at": at}});
    let states = [postponed(began), postponed(command)];
    history.entries.retain(|entry| entry.kind == HistoryKind::State);
    history.entries.truncate(2);
    for (entry, state) in history.entries.iter_mut().zip(states) {
        entry.body = state;
    }
    let text = show(&history, None, &Known::default(), NOW).unwrap();
    let next = text.split_once("What happens next").unwrap().1;
    assert!(
        next.contains("the same person got a message about the link 7d3a1c52") && !next.contains("quiet hours"),
        "{next}"
    );
}

#[test]
fn the_evidence_says_that_a_message_waited_for_nats() {
    let at = |text: &str| At(text.parse().unwrap());
    let mut origin = Origin::timer(at("2026-11-28T13:00:00Z").0);
    origin.kind = OriginKind::Webhook;
    assert_eq!(evidence(&origin), "a webhook, stored 2026-11-28T13:00:00.000Z");
    origin.accepted_at = Some(at("2026-11-28T10:00:00Z"));
    let waited = "a webhook, stored 2026-11-28T13:00:00.000Z, accepted by relink at 2026-11-28T10:00:00.000Z and kept until NATS took it";
    assert_eq!(evidence(&origin), waited);
}

#[test]
fn the_summary_names_who_has_muted_the_link() {
    let mut history = outage();
    let last = &mut history.entries.last_mut().unwrap().body;
    (last["because"]["event"], last["because"]["origin"]["kind"]) = (json!("mute"), json!("command"));
    (last["because"]["origin"]["by"], last["muted"]) = (json!("ana"), json!(true));
    let text = show(&history, None, &Known::default(), NOW).unwrap();
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
    let text = show(&history, Some(HOSTILE), &Known::default(), NOW).unwrap();
    assert!(is_safe(&text), "{text:?}");
    assert!(text.contains("\\u{1b}[2J") && text.contains('é') && text.contains('▶'), "{text}");
    assert!(is_safe(&show(&history, Some("\u{1b}other"), &Known::default(), NOW).unwrap_err().to_string()));
    for count in [5, 2, 1, 0] {
        history.entries.truncate(count);
        let text = show(&history, None, &Known::default(), NOW).unwrap();
        assert!(is_safe(&text), "{text:?}");
    }
}

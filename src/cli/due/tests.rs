//! Tests of what happens next with a link.

use std::time::Duration;

use serde_json::json;

use super::super::{cases_for_tests, record_for_tests};
use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_090_000_000);

/// What happens next with a link in this case of [`cases_for_tests`], whose record has these fields too.
fn steps(prompt: &str, more: serde_json::Value, around: Around) -> String {
    let cases = cases_for_tests();
    let (state, mut fields) = cases.into_iter().find(|(_, fields)| fields["episode"]["prompt"] == prompt).unwrap();
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let due: Vec<DueOfLink> = serde_json::from_value(fields["due"].clone()).unwrap();
    let record = serde_json::from_value(record_for_tests(state, fields)).unwrap();
    next_steps(&record, &due, around, NOW).join("\n") + "\n" + &next_in_short(&record, &due, around, NOW)
}

#[test]
fn a_reminder_waits_for_a_bank_that_is_down_now_and_for_no_other() {
    let bank = |is_down| Around { bank_is_down: Some(is_down), ..Around::default() };
    let down = steps("sent", json!({}), bank(true));
    assert!(
        down.contains("if it is still down then, the reminder waits")
            && down.ends_with("reminder 2, if the bank is up, in 47 h"),
        "{down}"
    );
    let up = steps("sent", json!({}), bank(false));
    assert!(up.contains("The user gets reminder 2 at") && !up.contains("incident"), "{up}");
    assert!(steps("deferred", json!({}), bank(true)).contains("the institution has an incident"));
    let over = steps("deferred", json!({}), bank(false));
    assert!(over.contains("had an incident. It is over") && over.contains("check after the incident"), "{over}");
}

/// The next thing that is due for a link may be another one: here, the check of the incident.
#[test]
fn an_attempt_ends_with_its_token_although_the_incident_is_checked_before() {
    let (soon, end) = (At(NOW.after(Duration::from_secs(10))), At(NOW.after(Duration::from_secs(600))));
    let update = json!({"phase": "with_user", "until": end, "started_at": NOW.to_string()});
    let record = serde_json::from_value(record_for_tests("updating", json!({"update": update}))).unwrap();
    let due = [DueOfLink { at: soon, what: DueWord::Incident }, DueOfLink { at: end, what: DueWord::Attempt }];
    let around = Around { bank_is_down: Some(true), ..Around::default() };
    let text = next_steps(&record, &due, around, NOW).join(" ");
    assert!(text.contains(&format!("finish the repair until {}", end.0)), "{text}");
    assert!(text.starts_with("The institution is down now."), "{text}");
}

#[test]
fn a_prompt_that_waits_for_its_time_waits_for_a_bank_that_is_down_too() {
    let around = Around { bank_is_down: Some(true), ..Around::default() };
    let text = steps("postponed", json!({}), around);
    assert!(text.contains("if it is still down then, the prompt waits for it."), "{text}");
    assert!(text.ends_with("prompt, if the bank is up, in 2 h") && !text.contains("is published"), "{text}");
}

#[test]
fn an_overdue_reminder_has_the_reason_of_its_wait() {
    let episode = |fields: &serde_json::Value| {
        let mut episode = cases_for_tests()
            .into_iter()
            .find(|(_, fields)| fields["episode"]["prompt"] == "sent")
            .map(|(_, fields)| fields["episode"].clone())
            .unwrap();
        episode.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        episode
    };
    let at = "2023-11-15T20:00:00.000Z";
    let because = |held: &str, person: serde_json::Value| {
        json!({"event": "deadline_passed", "from": "invalid", "to": "invalid", "at": at, "due": "reminder", "held": held,
            "person": person, "origin": {"kind": "timer", "received_at": at}})
    };
    let overdue = episode(&json!({"reminder_waits_since": at}));
    let widget = json!({"in_widget": {"link_id": "b", "until": "2023-11-16T01:13:20.000Z"}});
    for (held, person, reason) in [
        ("in_widget", widget, "It waits: the same person is repairing the link b."),
        ("quiet_hours", json!({}), "It waits: it is a part of the day without messages (quiet hours)."),
        ("pause", json!({}), "It waits: the person got a message a short time before"),
    ] {
        let more = json!({"episode": overdue, "because": because(held, person)});
        let text = steps("sent", more.clone(), Around::default());
        assert!(text.contains(&format!("Reminder 2 has been due since {at}. {reason}")), "{text}");
        let bank = Around { bank_is_down: Some(true), ..Around::default() };
        let text = steps("sent", more, bank);
        assert!(text.contains("It waits, because the institution is down") && !text.contains(reason), "{text}");
    }
}

#[test]
fn a_reminder_that_a_mention_replaces_is_not_announced() {
    let mention = |counts_until: &str| {
        serde_json::from_value(json!({"at": "2023-11-15T22:00:00.000Z", "link_id": "b", "counts_until": counts_until}))
            .unwrap()
    };
    // The reminder is due at 22:13:20 on the 17th.
    for (until, is_replaced) in [("2023-11-17T22:13:21.000Z", true), ("2023-11-17T22:13:20.000Z", false)] {
        let text = steps("sent", json!({}), Around::default().with(&Beside::default(), Some(&mention(until))));
        assert_eq!(text.contains("and is not sent: the message about another link"), is_replaced, "{text}");
        assert_eq!(text.contains("The user gets reminder 2"), !is_replaced, "{text}");
    }
}

#[test]
fn a_prompt_that_a_mention_replaces_is_not_announced() {
    let mention = serde_json::from_value(
        json!({"at": "2023-11-15T22:00:00.000Z", "link_id": "b", "counts_until": "2023-11-16T00:00:00.000Z"}),
    );
    let around = Around::default().with(&Beside::default(), Some(&mention.unwrap()));
    let text = steps("postponed", json!({}), around);
    assert!(text.contains("The user gets no prompt of its own") && !text.contains("is published"), "{text}");
    assert!(text.ends_with("\nno prompt of its own: mentioned"), "{text}");
}

#[test]
fn a_table_has_the_time_at_which_relink_acts() {
    // In quiet hours a reminder is due later than the policy says, which is in 47 hours.
    let due = json!([{"at": "2023-11-18T08:00:00.000Z", "what": "reminder"}]);
    let text = steps("sent", json!({"due": due}), Around::default());
    assert!(text.ends_with("\nreminder 2 in 2 days"), "{text}");
}

#[test]
fn a_replaced_link_has_the_state_of_the_newer_one() {
    let (state, fields) =
        cases_for_tests().into_iter().find(|(_, fields)| !fields["episode"]["superseded_by"].is_null()).unwrap();
    let record = serde_json::from_value(record_for_tests(state, fields)).unwrap();
    let steps = |state: Option<&str>| {
        let successor = json!({"link_id": "b", "state": state});
        let beside = Beside::of(&json!({"successor": successor}));
        next_steps(&record, &[], Around::default().with(&beside, None), NOW).join("\n")
    };
    for (state, words) in [
        (Some("valid"), "replaced it. That link works."),
        (Some("invalid"), "That link is invalid now"),
        (Some("updating"), "its repair has begun"),
        (Some("removed"), "the user is asked about neither of them"),
        (None, "relink does not know it"),
    ] {
        let text = steps(state);
        assert!(text.contains(words) && text.contains("works") == (state == Some("valid")), "{text}");
    }
}

#[test]
fn a_notice_about_a_consent_waits_for_a_bank_that_is_down() {
    let end = "2023-11-20T00:00:00.000Z";
    let record = record_for_tests("valid", json!({"consent": {"due_at": end, "announced": false}}));
    let due = [DueOfLink { at: At(NOW.after(Duration::from_secs(60))), what: DueWord::ConsentNotice }];
    for (bank_is_down, waits) in [(Some(true), true), (Some(false), false), (None, false)] {
        let around = Around { bank_is_down, ..Around::default() };
        let text = next_steps(&serde_json::from_value(record.clone()).unwrap(), &due, around, NOW).join(" ");
        assert_eq!(text.contains("if it is still down then, the notice waits"), waits, "{text}");
    }
}

#[test]
fn a_released_prompt_does_not_wait_for_a_bank_that_is_down() {
    let bank = Around { bank_is_down: Some(true), ..Around::default() };
    let episode = |is_released: bool| {
        let (_, fields) =
            cases_for_tests().into_iter().find(|(_, fields)| fields["episode"]["prompt"] == "postponed").unwrap();
        let mut episode = fields["episode"].clone();
        episode["prompt_released"] = is_released.into();
        json!({"episode": episode})
    };
    let text = steps("postponed", episode(true), bank);
    assert!(text.contains("The prompt is published at") && text.ends_with("\nprompt in 2 h"), "{text}");
    let text = steps("postponed", episode(false), bank);
    assert!(text.contains("`relink release` ends that second wait"), "{text}");
}

#[test]
fn a_snooze_after_the_last_reminder_announces_none() {
    let (_, fields) = cases_for_tests().into_iter().find(|(_, fields)| fields["episode"]["prompt"] == "sent").unwrap();
    let mut episode = fields["episode"].clone();
    episode["next_reminder_at"] = serde_json::Value::Null;
    let more = json!({"episode": episode, "snoozed_until": "2023-12-01T00:00:00.000Z", "muted": true, "due": []});
    let text = steps("sent", more, Around::default());
    assert!(
        text.contains("No reminder is due any more.") && text.contains("there is none left in this outage"),
        "{text}"
    );
}

#[test]
fn a_bank_that_works_again_is_not_said_to_be_checked() {
    for (bank_is_down, words) in [(None, "looks whether it works again"), (Some(false), "or when the quiet hours end")]
    {
        let around = Around { bank_is_down, ..Around::default() };
        let text = incident_check("2023-11-16T08:00:00.000Z", around);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_muted_link_has_one_reason_and_an_adopted_one_is_released() {
    for prompt in ["postponed", "deferred", "muted"] {
        let muted = steps(prompt, json!({"muted": true}), Around::default());
        assert!(muted.contains("The user has not been prompted.\n"), "{muted}");
        assert!(!muted.contains("is published") && muted.contains("until `relink unmute`"), "{muted}");
    }
    let adopted = Around { is_adopted: true, ..Around::default() };
    assert!(steps("muted", json!({}), adopted).contains("relink releases it itself"));
}

#[test]
fn a_consent_has_its_end_and_whether_the_user_was_asked() {
    let of = |announced_for: Option<&str>| {
        let end = "2023-11-20T00:00:00.000Z";
        let consent = json!({"due_at": end, "announced": announced_for.is_some(), "announced_for": announced_for});
        let record = serde_json::from_value(record_for_tests("valid", json!({"consent": consent}))).unwrap();
        let due = [DueOfLink { at: At(NOW.after(Duration::from_secs(86_400))), what: DueWord::ConsentNotice }];
        next_steps(&record, &due, Around::default(), NOW).join("\n")
    };
    let first = of(None);
    assert!(
        first.starts_with("The consent ends at 2023-11-20T00:00:00.000Z") && !first.contains("was asked"),
        "{first}"
    );
    assert!(first.contains("2023-11-16T23:13:20.000Z (in 24 h) the user is asked to renew"), "{first}");
    let next = of(Some("2023-11-20T00:00:00.000Z"));
    assert!(
        next.contains("The user was asked to renew it.") && next.contains("the user is again asked to renew"),
        "{next}"
    );
}

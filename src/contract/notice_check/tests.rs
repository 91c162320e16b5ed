//! Whom a notice is about, after much may have happened.

use serde_json::{Value, json};

use super::*;

const NOTICE_AT: &str = "2026-11-27T10:00:01.000Z";
const LATER: &str = "2026-11-27T10:00:03.000Z";
const ENDS_AT: &str = "2026-12-05T00:00:00.000Z";

/// A link in outage 1, with these fields.
fn broken(id: &str, fields: Value) -> ShownLink {
    let episode = json!({"id": format!("{id}-e1"), "number": 1, "cause": "token", "opened_at": NOTICE_AT, "prompt_sent": true,
        "prompt": "sent", "reminders_count": 0, "next_reminder_at": null, "attempts_count": 0});
    let origin = json!({"kind": "webhook", "message_id": "w", "input_sequence": 7, "received_at": NOTICE_AT});
    let because =
        json!({"event": "token_requested", "from": "valid", "to": "invalid", "at": NOTICE_AT, "origin": origin});
    let mut record = json!({"schema_version": 1, "link_id": id, "partition": 0, "version": 2, "state": "token_required",
        "since": NOTICE_AT, "updated_at": NOTICE_AT, "external_id": null, "institution": null, "episode": episode,
        "episodes_count": 1, "data_at": null, "because": because, "messaged": {"at": NOTICE_AT}});
    merge(&mut record, fields);
    let record = serde_json::from_value(record).unwrap();
    let (due, due_at) = (Vec::new(), None);
    ShownLink { record, due_at, due, last_mention: None, successor: None, institution_down_since: None }
}

fn merge(value: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { return *value = fields };
    for (name, field) in fields {
        match value.get_mut(&name).filter(|old| old.is_object()) {
            Some(old) => merge(old, field),
            None => value[name] = field,
        }
    }
}

fn works(id: &str, fields: Value) -> ShownLink {
    let mut all = json!({"state": "valid", "episode": null});
    merge(&mut all, fields);
    broken(id, all)
}

fn notice(fields: Value) -> NoticeToCheck {
    let mut notice = json!({"type": "update_required", "link_id": "own", "external_id": null, "institution": null,
        "action": "provide_token", "episode": {"number": 1}, "because": {"at": NOTICE_AT}});
    merge(&mut notice, fields);
    serde_json::from_value(notice).unwrap()
}

fn check(notice: &NoticeToCheck, links: Vec<ShownLink>) -> CheckedNotice {
    let links = links.into_iter().map(|link| (link.record.link_id.clone(), link)).collect();
    notice.check(&links, LATER.parse().unwrap(), Duration::from_secs(600))
}

/// Why the link of a prompt is left out.
fn reason(link: ShownLink) -> Option<LeftOutWord> {
    let checked = check(&notice(json!({})), vec![link]);
    assert_eq!(checked.links.len() + checked.left_out.len(), 1, "{checked:?}");
    checked.left_out.first().map(|left_out| left_out.reason)
}

#[test]
fn a_link_that_still_needs_its_user_is_asked_for() {
    let notice = notice(json!({"institution": "erebor_mx_retail", "repair_url": "https://relink.example/repair/x"}));
    let checked = check(&notice, vec![broken("own", json!({}))]);
    let expected = json!({"links": [{"link_id": "own", "institution": "erebor_mx_retail", "action": "provide_token",
        "repair_url": "https://relink.example/repair/x"}], "left_out": []});
    assert_eq!(serde_json::to_value(checked).unwrap(), expected);
}

#[test]
fn a_link_that_needs_its_user_no_more_is_left_out_with_the_reason() {
    let mut mentioned = broken("own", json!({}));
    mentioned.last_mention =
        serde_json::from_value(json!({"at": LATER, "link_id": "other", "counts_until": LATER})).unwrap();
    for (link, expected) in [
        (works("own", json!({})), LeftOutWord::Repaired),
        (broken("own", json!({"episode": {"number": 2}})), LeftOutWord::Repaired),
        (broken("own", json!({"episode": {"superseded_by": "newer"}})), LeftOutWord::Superseded),
        (broken("own", json!({"state": "updating"})), LeftOutWord::Updating),
        (broken("own", json!({"muted": true})), LeftOutWord::Muted),
        (works("own", json!({"state": "removed"})), LeftOutWord::Removed),
        (broken("own", json!({"messaged": {"at": LATER}})), LeftOutWord::NewerMessage),
        (mentioned, LeftOutWord::NewerMessage),
    ] {
        assert_eq!(reason(link), Some(expected));
    }
    let checked = check(&notice(json!({})), Vec::new());
    assert_eq!(checked.left_out[0].reason, LeftOutWord::Unknown);
}

#[test]
fn each_link_of_a_notice_is_checked_for_itself() {
    let broken_too = |id: &str| json!({"link_id": id, "institution": null, "episode": 1, "action": "provide_token"});
    let notice = notice(json!({"also_broken": [broken_too("second"), broken_too("third"), broken_too("fourth")]}));
    let links = vec![
        works("own", json!({})),
        broken("second", json!({})),
        works("third", json!({})),
        broken("fourth", json!({"episode": {"number": 2}})),
    ];
    let checked = check(&notice, links);
    let ids: Vec<_> = checked.links.iter().map(|link| link.link_id.as_str()).collect();
    assert_eq!((ids, checked.left_out.len()), (vec!["second"], 3));
}

#[test]
fn links_of_a_newer_message_about_the_link_are_in_that_one() {
    let broken_too = |id: &str| json!({"link_id": id, "institution": null, "episode": 1, "action": "provide_token"});
    let notice = notice(json!({"also_broken": [broken_too("named"), broken_too("unnamed")]}));
    let need = json!({"episode": 1, "cause": "token"});
    let mentioned = json!([{"link_id": "named", "institution": null, "need": need}]);
    let links = vec![
        broken("own", json!({"messaged": {"at": LATER, "mentioned": mentioned}})),
        broken("named", json!({})),
        broken("unnamed", json!({})),
    ];
    let ids: Vec<_> = check(&notice, links).links.into_iter().map(|link| link.link_id).collect();
    assert_eq!(ids, ["unnamed"]);
}

#[test]
fn a_consent_is_announced_until_it_is_renewed_or_ends() {
    let ending = |id: &str| json!({"link_id": id, "institution": null, "due_at": ENDS_AT});
    let notice =
        notice(json!({"type": "consent_expiring", "action": "renew_consent", "episode": null, "due_at": ENDS_AT,
        "also_ending": [ending("renewed"), ending("ended")]}));
    let links = vec![
        works("own", json!({"consent": {"due_at": ENDS_AT, "announced": true}})),
        works("renewed", json!({"consent": {"due_at": "2027-12-01T00:00:00.000Z", "announced": false}})),
        broken("ended", json!({"consent": {"due_at": ENDS_AT, "announced": true}})),
    ];
    let checked = check(&notice, links);
    assert_eq!(serde_json::to_value(&checked.links).unwrap()[0]["due_at"], ENDS_AT);
    let reasons: Vec<_> = checked.left_out.iter().map(|left_out| left_out.reason).collect();
    assert_eq!((checked.links.len(), reasons), (1, vec![LeftOutWord::Renewed, LeftOutWord::Broken]));
}

#[test]
fn a_notice_that_asks_for_nothing_leads_to_no_message() {
    for fields in [json!({"action": "none"}), json!({"action": null, "type": "recovered"})] {
        let checked = check(&notice(fields), vec![broken("own", json!({}))]);
        assert_eq!(checked.left_out[0].reason, LeftOutWord::NothingToDo);
    }
}

#[test]
fn a_reminder_of_a_snoozed_link_is_left_out_and_its_prompt_is_not() {
    let snoozed = || broken("own", json!({"snoozed_until": "2026-11-28T00:00:00.000Z"}));
    assert_eq!(reason(snoozed()), None);
    let reminder = notice(json!({"type": "reminder"}));
    assert_eq!(check(&reminder, vec![snoozed()]).left_out[0].reason, LeftOutWord::Snoozed);
    let over = broken("own", json!({"snoozed_until": NOTICE_AT}));
    assert_eq!(check(&reminder, vec![over]).links.len(), 1);
}

/// A notice that has waited for a bank is not followed by another message about the same link some seconds later.
#[test]
fn a_notice_is_left_out_if_the_next_message_is_due_already() {
    for fields in [
        json!({"episode": {"reminder_waits_since": NOTICE_AT}}),
        json!({"institution_outage": {"began_at": NOTICE_AT, "check_at": LATER}}),
    ] {
        let mut link = broken("own", fields);
        assert_eq!(reason(link.clone()), Some(LeftOutWord::NewerMessage));
        link.institution_down_since = serde_json::from_value(json!(NOTICE_AT)).unwrap();
        assert_eq!(reason(link.clone()), None, "while the bank is down, this notice waits too");
        // A mention counts as the message that would follow.
        link.institution_down_since = None;
        let other = json!({"link_id": "own", "institution": null, "episode": 1, "action": "provide_token"});
        let checked = check(&notice(json!({"link_id": "first", "also_broken": [other]})), vec![link]);
        assert_eq!(checked.links.len(), 1, "{checked:?}");
    }
}

#[test]
fn a_link_at_a_bank_that_is_down_keeps_no_other_link_back() {
    let other = json!({"link_id": "other", "institution": null, "episode": 1, "action": "provide_token"});
    let notice = notice(json!({"also_broken": [other]}));
    let mut own = broken("own", json!({}));
    own.institution_down_since = serde_json::from_value(json!(LATER)).unwrap();
    let checked = check(&notice, vec![own, broken("other", json!({}))]);
    assert_eq!((checked.links[0].link_id.as_str(), checked.check_again_secs), ("other", None));
    assert_eq!(checked.left_out, [LeftOut { link_id: "own".to_owned(), reason: LeftOutWord::BankIsDown }]);
}

#[test]
fn a_bank_that_is_down_keeps_the_whole_message_back() {
    let mut link = broken("own", json!({}));
    link.institution_down_since = serde_json::from_value(json!(LATER)).unwrap();
    let checked = check(&notice(json!({})), vec![link.clone()]);
    assert_eq!((checked.links.len(), checked.check_again_secs), (1, Some(600)));
    let mut released = link.clone();
    released.record = broken("own", json!({"episode": {"prompt_released": true}})).record;
    assert_eq!(check(&notice(json!({})), vec![released]).check_again_secs, None, "an operator has decided");
    // Nobody is asked about a link that works again.
    link.record = works("own", json!({})).record;
    assert_eq!(check(&notice(json!({})), vec![link]).check_again_secs, None);
}

//! Tests of the funnel and of its outputs.

use serde_json::{Value, json};

use super::funnel::{Range, Reading};
use super::report::Report;
use super::{Group, Timestamp};
use crate::cli::output::tests::{HOSTILE, is_safe};

const START: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

fn at(minute: i64) -> String {
    Timestamp::from_millis(START + minute * MINUTE).to_string()
}

fn range() -> Range {
    Range { since: Timestamp::from_millis(START), until: Timestamp::from_millis(START + 100_000 * MINUTE) }
}

/// A notice about the outage `number` of a link, which began at the minute `opened`.
fn notice(name: &str, link: &str, (opened, cause): (i64, &str), minute: i64, fields: Value) -> Value {
    let mut body = json!({"institution": "erebor", "because": {"at": at(minute)},
        "episode": {"number": 1, "cause": cause, "opened_at": at(opened), "prompts_count": 0}});
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    json!({"kind": "notice", "type": name, "link_id": link, "stored_at": at(minute), "body": body})
}

/// Four outages: one repaired after the prompt, one after the second reminder, one that is open, one that recovered before its prompt.
fn reading() -> Reading {
    let mut reading = Reading::default();
    let (a, b, d) = ((0, "credentials"), (0, "token"), (20, "credentials"));
    let of = |number: u32| json!({"number": number});
    let refreshed = |name: &str, minute: i64, to: i64| {
        notice(name, "a", a, minute, json!({"episode": null, "gap": {"from": null, "to": at(to)}}))
    };
    for event in [
        notice("update_required", "a", a, 1, json!({})),
        notice("update_required", "b", b, 2, json!({"also_broken": [{"link_id": "c", "episode": 1}]})),
        notice("update_started", "a", a, 11, json!({})),
        notice("recovered", "a", a, 12, json!({})),
        refreshed("refreshed", 42, 12),
        notice("recovered", "d", d, 25, json!({"institution": "gotham"})),
        notice("reminder", "b", b, 1_442, of(1)),
        notice("reminder", "b", b, 2_882, of(2)),
        notice("update_started", "b", b, 2_900, json!({})),
        notice("update_started", "b", b, 2_950, json!({})),
        notice("recovered", "b", b, 2_960, json!({})),
        // Of an outage whose recovery the stream no longer has.
        refreshed("refreshed", 99, 7),
        notice("creation_unfinished", "x", a, 50, json!({"episode": null})),
        notice("creation_unfinished", "y", a, 50, json!({"episode": null, "institution": "itau"})),
    ] {
        reading.take_event(&event);
    }
    let open = json!({"number": 1, "cause": "token", "opened_at": at(10), "prompt_sent": true});
    reading.take_link(&json!({"link_id": "c", "state": "token_required", "institution": "gotham", "episode": open}));
    reading.take_link(&json!({"link_id": "x", "state": "unconfirmed", "institution": "erebor", "episode": null}));
    reading
}

#[test]
fn the_funnel_counts_stages_and_times() {
    let report = Report::of(&reading(), range(), None, &Group::ALL).json();
    let stage = |of: &Value, name: &str| {
        let stage = of["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).unwrap().clone();
        (stage["outages_count"].as_u64(), stage["seconds_p50"].as_f64(), stage["seconds_p90"].as_f64())
    };
    let minutes = |minutes: i64| Some((minutes * 60) as f64);
    let total = &report["total"];
    assert_eq!(stage(total, "detected"), (Some(4), None, None));
    // c was mentioned in the message about b before it was detected: it counts, without a time.
    assert_eq!(stage(total, "prompted"), (Some(3), minutes(1), minutes(2)));
    assert_eq!(stage(total, "opened"), (None, None, None));
    assert_eq!(stage(total, "updating"), (Some(2), minutes(10), minutes(2_898)));
    assert_eq!(stage(total, "recovered"), (Some(3), minutes(1), minutes(60)));
    assert_eq!(stage(total, "refreshed"), (Some(1), minutes(30), minutes(30)));
    assert_eq!(total["detected_to_recovered"]["seconds_p50"], 12.0 * 60.0);
    assert_eq!((&report["still_broken_count"], &total["creations_unfinished_count"]), (&json!(1), &json!(2)));
    assert_eq!(report["creations_still_unfinished_count"], 1);
    let steps: Vec<_> = report["by_reminder_step"].as_array().unwrap().iter().collect();
    let of_step = |at: usize| {
        let count = |name| stage(steps[at], name).0.unwrap();
        (steps[at]["reminder_step"].as_str().unwrap(), count("detected"), count("updating"), count("recovered"))
    };
    assert_eq!(of_step(0), ("before the prompt", 1, 0, 1));
    assert_eq!(of_step(1), ("prompt", 3, 1, 1));
    assert_eq!(of_step(2), ("reminder 1", 1, 0, 0));
    assert_eq!(of_step(3), ("reminder 2", 1, 1, 1));
    assert_eq!(stage(steps[3], "updating").1, minutes(18), "from the reminder, not from the prompt");
}

#[test]
fn a_range_and_an_institution_select_outages_by_their_detection() {
    let counts = |range: Range, institution: Option<&str>| {
        let report = Report::of(&reading(), range, institution, &[Group::Institution]).json();
        let rows = report["by_institution"].as_array().unwrap().iter().map(|row| row["institution"].clone());
        (report["total"]["stages"][0]["outages_count"].as_u64().unwrap(), rows.collect::<Vec<_>>())
    };
    assert_eq!(counts(range(), Some("gotham")), (2, vec![json!("gotham")]));
    let late = Range { since: Timestamp::from_millis(START + 5 * MINUTE), ..range() };
    assert_eq!(counts(late, None), (2, vec![json!("gotham"), json!("erebor"), json!("itau")]));
    let early = Range { until: Timestamp::from_millis(START), ..range() };
    assert_eq!(counts(early, None), (0, vec![]));
}

#[test]
fn the_outputs_are_readable() {
    let report = Report::of(&reading(), range(), None, &Group::ALL);
    let tables = anstream::adapter::strip_str(&report.tables(Some(100))).to_string();
    assert!(tables.lines().all(|line| line.chars().count() <= 100), "{tables}");
    insta::assert_snapshot!(tables);
    insta::assert_snapshot!(report.csv().unwrap());
}

#[test]
fn a_text_from_outside_forges_no_line() {
    let mut reading = reading();
    reading.take_event(&json!(HOSTILE));
    let fields = json!({"institution": HOSTILE});
    reading.take_event(&notice("recovered", HOSTILE, (0, HOSTILE), 5, fields));
    let report = Report::of(&reading, range(), Some(HOSTILE), &Group::ALL);
    for text in [report.tables(None), report.csv().unwrap()] {
        assert!(is_safe(&text), "{text:?}");
    }
}

#[test]
fn a_link_that_an_operator_has_unsuperseded_is_still_broken() {
    let of = |superseded_by: Value| {
        let mut reading = Reading::default();
        let outage = (0, "credentials");
        for event in [
            notice("update_required", "a", outage, 1, json!({})),
            notice("superseded", "a", outage, 2, json!({"superseded_by": "b"})),
        ] {
            reading.take_event(&event);
        }
        let episode = json!({"number": 1, "cause": "credentials", "opened_at": at(0), "prompt_sent": true,
            "superseded_by": superseded_by});
        reading.take_link(&json!({"link_id": "a", "state": "invalid", "institution": "erebor", "episode": episode}));
        let report = Report::of(&reading, range(), None, &[]).json();
        (report["still_broken_count"].clone(), report["superseded_count"].clone())
    };
    let mut reading = Reading::default();
    for event in [
        notice("superseded", "a", (0, "credentials"), 2, json!({"superseded_by": "b"})),
        notice("recovered", "a", (0, "credentials"), 3, json!({})),
    ] {
        reading.take_event(&event);
    }
    let report = Report::of(&reading, range(), None, &[]).json();
    assert_eq!((&report["still_broken_count"], &report["superseded_count"]), (&json!(0), &json!(0)), "it is repaired");
    assert_eq!(of(json!("b")), (json!(0), json!(1)));
    assert_eq!(of(Value::Null), (json!(1), json!(0)));
}

//! The bodies that relink defines, in the forms that publishers write.

use super::*;

fn at_of(kind: InputKind, body: &Value) -> String {
    match translate(kind, &link(), body.to_string().as_bytes(), now()) {
        Err(Undecodable::WrongShape { at, .. }) => at,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn an_event_is_known_by_each_of_its_names() {
    let abandoned = Said::Event(Event::UpdateAbandoned);
    let claimed = Said::Event(Event::UpdateClaimed);
    for (body, expected) in [
        (json!({"event": "SUCCESS"}), claimed.clone()),
        (json!({"event": "onSuccess", "link": LINK.to_uppercase()}), claimed.clone()),
        (json!({"eventName": "Success"}), claimed.clone()),
        (json!({"event": " exit "}), abandoned.clone()),
        (json!({"event_name": "EXIT", "event": null}), abandoned.clone()),
        // The messages that the widget itself posts.
        (
            json!({"eventName": "ERROR", "request_id": "x", "meta_data": {"error_code": "login_error", "timestamp": 7}}),
            Said::Not(Unrelated::InWidget),
        ),
        (
            json!({"eventName": "PAGE_LOAD", "metadata": {"page": "/institution_list", "from": "/consent"}}),
            Said::Not(Unrelated::InWidget),
        ),
        (json!({"event": "exit", "meta_data": {}, "metadata": {}}), abandoned.clone()),
        // Fields on which the meaning does not depend.
        (json!({"event": "exit", "last_encountered_error": "institution_down"}), abandoned.clone()),
        (json!({"event": "exit", "last_encountered_error": ["x"], "meta_data": 7}), abandoned.clone()),
        (
            json!({"event": "error", "error": {"code": "x"}, "error_message": {}, "meta_data": "x"}),
            Said::Not(Unrelated::InWidget),
        ),
        (json!({"event": "success", "link": LINK, "institution": {"name": "x"}}), claimed.clone()),
        (json!({"event": "success", "link": {"id": 7}, "institution": []}), claimed),
    ] {
        check(InputKind::Widget, &body, Ok(expected));
    }
    let lasts =
        |seconds: Value| input(InputKind::Widget, &json!({"event": "started", "expires_in_seconds": seconds})).event;
    let until = |seconds| Event::UpdateStarted { until: now().after(Duration::from_secs(seconds)) };
    for (said, seconds) in [(json!("60"), 60), (json!(-1), 600), (Value::Null, 600), (json!(1e300), 24 * 3600)] {
        assert_eq!(lasts(said.clone()), until(seconds), "{said}");
    }
    for body in
        [json!({}), json!({"event": null}), json!({"event": "danced"}), json!({"event": 7}), json!({"event": {}})]
    {
        assert_eq!(at_of(InputKind::Widget, &body), "$.event", "{body}");
    }
}

#[test]
fn a_missing_required_field_is_named() {
    let at = "2026-11-22T10:15:00Z";
    for (kind, body, place) in [
        (InputKind::Observation, json!({"observed_at": at}), "$.outcome"),
        (InputKind::Observation, json!({"observed_at": at, "outcome": "danced"}), "$.outcome"),
        (InputKind::Observation, json!({"observed_at": at, "outcome": 7}), "$.outcome"),
        (InputKind::Observation, json!({"outcome": "missing"}), "$.observed_at"),
        (InputKind::Observation, json!({"observed_at": "soon", "outcome": "missing"}), "$.observed_at"),
        (InputKind::Observation, json!({"observed_at": 7, "outcome": "missing"}), "$.observed_at"),
        (InputKind::Observation, json!({"observed_at": at, "outcome": "found"}), "$.link"),
        (InputKind::Observation, json!({"observed_at": at, "outcome": "found", "link": "x"}), "$.link"),
        (InputKind::Observation, json!({"observed_at": at, "outcome": "consent", "consent": []}), "$.consent"),
        (InputKind::Command, json!({}), "$.command"),
        (InputKind::Command, json!({"command": "explode"}), "$.command"),
        (InputKind::Command, json!({"command": ["mute"]}), "$.command"),
        (InputKind::Command, json!({"command": "snooze", "until": "soon"}), "$.until"),
        (InputKind::Command, json!({"command": "snooze", "until": 7}), "$.until"),
    ] {
        assert_eq!(at_of(kind, &body), place, "{body}");
    }
}

#[test]
fn other_fields_never_make_a_message_unreadable() {
    let at = "2026-11-22T10:15:00Z";
    for source in [json!("cron job"), json!({"name": "x"}), Value::Null, json!(7)] {
        let seen = json!({"observed_at": at, "source": source, "outcome": "missing", "schema_version": "1"});
        check(InputKind::Observation, &seen, Ok(Said::Event(Event::ObservedMissing)));
    }
    let accepted =
        json!({"observed_at": at, "outcome": "refresh_accepted", "request_id": {"x": 1}, "schema_version": {}});
    check(InputKind::Observation, &accepted, Ok(Said::Event(Event::RefreshAccepted)));
    let muted = json!({"command": "mute", "by": {"name": "ana"}, "reason": 7, "until": "soon", "schema_version": true});
    check(InputKind::Command, &muted, Ok(Said::Event(Event::Command(Command::Mute))));
    for newer in [json!(2), json!("2")] {
        let future = Undecodable::FutureVersion { found: 2, known: 1 };
        check(InputKind::Command, &json!({"command": "mute", "schema_version": newer}), Err(future));
    }
    let listed: Vec<_> = (0..10_000).map(|n| format!("RESOURCE_{n}")).collect();
    let seen = json!({"observed_at": at, "outcome": "found", "link": {"id": LINK, "status": "valid", "fetch_resources": listed}});
    assert_eq!(input(InputKind::Observation, &seen).profile.fetch_resources.len(), 64);
}

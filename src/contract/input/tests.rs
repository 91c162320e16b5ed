//! The public schemas describe bodies that the readers accept.

use schemars::{Schema, schema_for};
use serde_json::json;
use strum::VariantArray;

use super::*;

fn schema(kind: InputKind) -> Schema {
    match kind {
        InputKind::Webhook => schema_for!(Webhook),
        InputKind::ApiError => schema_for!(ApiError),
        InputKind::Widget => schema_for!(Widget),
        InputKind::Observation => schema_for!(Observation),
        InputKind::Command => schema_for!(Command),
        InputKind::InstitutionStatus => schema_for!(InstitutionStatus),
    }
}

fn reads(kind: InputKind, body: &Value) -> bool {
    let body = body.clone();
    match kind {
        InputKind::Webhook => serde_json::from_value::<Webhook>(body).is_ok(),
        InputKind::ApiError => serde_json::from_value::<ApiError>(body).is_ok(),
        InputKind::Widget => serde_json::from_value::<Widget>(body).is_ok(),
        InputKind::Observation => serde_json::from_value::<Observation>(body).is_ok(),
        InputKind::Command => serde_json::from_value::<Command>(body).is_ok(),
        // serde reads a list as an object whose fields are all optional.
        InputKind::InstitutionStatus if body.is_object() => serde_json::from_value::<InstitutionStatus>(body)
            .is_ok_and(|status| status.incident.is_some() || status.component.is_some()),
        InputKind::InstitutionStatus => false,
    }
}

fn check(kind: InputKind, body: &Value, good: bool) {
    check_each(kind, body, good, good);
}

fn check_each(kind: InputKind, body: &Value, good: bool, read: bool) {
    let valid = jsonschema::is_valid(&schema(kind).to_value(), body);
    assert_eq!((valid, reads(kind, body)), (good, read), "schema and reader of {kind} for {body}");
}

#[test]
fn every_example_is_what_its_schema_describes() {
    for &kind in InputKind::VARIANTS {
        check(kind, &kind.example(), true);
        check(kind, &json!([]), false);
        check(kind, &json!({}), false);
        let mut newer = kind.example();
        newer["a_field_of_the_future"] = json!({"x": 1});
        check(kind, &newer, true);
    }
}

#[test]
fn other_accepted_shapes() {
    let at = "2026-11-22T10:15:00Z";
    for (kind, body, good) in [
        (InputKind::Widget, json!({"event": "started"}), true),
        (InputKind::Widget, json!({"event": "updated"}), true),
        (InputKind::Widget, json!({"event": "exit", "last_encountered_error": null, "meta_data": {"step": "x"}}), true),
        (InputKind::Widget, json!({"event": "error", "error": "ACCESS_TOKEN_NOT_VALID"}), true),
        (InputKind::Widget, json!({"event": "vanished"}), false),
        (InputKind::Observation, json!({"observed_at": at, "source": "app", "outcome": "missing"}), true),
        (InputKind::Observation, json!({"observed_at": at, "source": "app", "outcome": "refresh_accepted"}), true),
        (InputKind::Observation, json!({"observed_at": at, "source": "app", "outcome": "found"}), false),
        (InputKind::Observation, json!({"observed_at": at, "outcome": "missing"}), true),
        (InputKind::Observation, json!({"observed_at": at, "source": "app"}), false),
        (InputKind::Observation, json!({"observed_at": 7, "source": "app", "outcome": "missing"}), false),
        (InputKind::Command, json!({"command": "mute", "until": null}), true),
        (InputKind::Command, json!({"command": "explode"}), false),
        (InputKind::ApiError, json!({"http_status": 400, "method": "GET", "path": "/"}), true),
        (InputKind::ApiError, json!({"http_status": 400, "path": "/"}), true),
        (InputKind::ApiError, json!({"http_status": 400, "method": "GET"}), false),
    ] {
        check(kind, &body, good);
    }
}

/// A schema describes what to send. The readers accept more in fields on which no decision depends.
#[test]
fn a_wrong_optional_field_is_no_reason_to_refuse() {
    let at = "2026-11-22T10:15:00Z";
    for odd in [json!({"name": "x"}), json!(["x"]), json!(7), json!(-1.5), json!(true), json!("x".repeat(100_000))] {
        for (kind, fields, base) in [
            (InputKind::Widget, &["expires_in_seconds"][..], json!({"event": "started"})),
            (InputKind::Widget, &["link", "institution"], json!({"event": "success"})),
            (
                InputKind::Widget,
                &[
                    "last_encountered_error",
                    "last_encountered_error_code",
                    "last_encountered_error_message",
                    "meta_data",
                    "meta_data_institution_name",
                    "meta_data_step",
                ],
                json!({"event": "exit"}),
            ),
            (InputKind::Widget, &["error", "error_message", "request_id", "meta_data"], json!({"event": "error"})),
            (InputKind::Widget, &["warning", "warning_message"], json!({"event": "warning"})),
            (
                InputKind::Observation,
                &["schema_version", "source", "request_id"],
                json!({"observed_at": at, "outcome": "refresh_accepted"}),
            ),
            (InputKind::Command, &["schema_version", "by", "reason"], json!({"command": "mute"})),
        ] {
            for field in fields {
                let mut body = base.clone();
                body[*field] = odd.clone();
                assert!(
                    reads(kind, &body),
                    "{kind}: {field} is {}",
                    odd.to_string().chars().take(40).collect::<String>()
                );
                body[*field] = Value::Null;
                assert!(reads(kind, &body), "{kind}: {field} is null");
            }
        }
    }
    let lasts = |seconds: Value| {
        let body = json!({"event": "started", "expires_in_seconds": seconds});
        match serde_json::from_value(body).unwrap() {
            Widget::Started { expires_in_seconds } => expires_in_seconds,
            _other => panic!("another event"),
        }
    };
    for (said, seconds) in [
        (json!(60), 60),
        (json!("60"), 60),
        (json!(" 60.5 "), 60),
        (json!(1e300), u64::MAX),
        (json!(0), WIDGET_TOKEN_SECONDS),
        (json!(-1), WIDGET_TOKEN_SECONDS),
        (json!("soon"), WIDGET_TOKEN_SECONDS),
        (json!("NaN"), WIDGET_TOKEN_SECONDS),
        (Value::Null, WIDGET_TOKEN_SECONDS),
    ] {
        assert_eq!(lasts(said.clone()), seconds, "{said}");
    }
    let exit = |last: Value| match serde_json::from_value(json!({"event": "exit", "last_encountered_error": last}))
        .unwrap()
    {
        Widget::Exit { last_encountered_error, .. } => last_encountered_error.map(|error| (error.code, error.message)),
        _other => panic!("another event"),
    };
    assert_eq!(exit(json!("institution_down")), Some((Some("institution_down".into()), None)));
    assert_eq!(exit(json!({"code": 7, "message": ["x"]})), Some((Some("7".into()), None)));
    assert_eq!(exit(json!([])), None);
    // The schema still refuses the body.
    check_each(InputKind::Widget, &json!({"event": "started", "expires_in_seconds": -1}), false, true);
    check_each(InputKind::Widget, &json!({"event": "exit", "last_encountered_error": "x"}), false, true);
}

#[test]
fn kinds_are_spelt_as_in_subjects() {
    for &kind in InputKind::VARIANTS {
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    assert_eq!("Webhook".parse::<InputKind>(), Err(NotAnInputKind));
}

#[test]
fn an_error_body_is_not_debugged() {
    let error: ApiError = serde_json::from_value(ApiError::example()).unwrap();
    assert_eq!(format!("{error:?}"), r#"ApiError { http_status: 428, method: "POST", .. }"#);
}

#[test]
fn written_bodies_can_be_read() {
    let observation: Observation = serde_json::from_value(Observation::example()).unwrap();
    let mut expected = Observation::example();
    expected["observed_at"] = json!("2026-11-22T10:15:00.000Z");
    assert_eq!(serde_json::to_value(observation).unwrap(), expected);
    let error: ApiError = serde_json::from_value(ApiError::example()).unwrap();
    assert_eq!(serde_json::to_value(error).unwrap(), ApiError::example());
}

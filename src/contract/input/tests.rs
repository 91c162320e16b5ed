//! The public schemas say what the readers accept.

use schemars::{Schema, schema_for};
use serde_json::json;

use super::*;

fn schema(kind: InputKind) -> Schema {
    match kind {
        InputKind::Webhook => schema_for!(Webhook),
        InputKind::ApiError => schema_for!(ApiError),
        InputKind::Widget => schema_for!(Widget),
        InputKind::Observation => schema_for!(Observation),
        InputKind::Command => schema_for!(Command),
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
    }
}

fn check(kind: InputKind, body: &Value, good: bool) {
    let valid = jsonschema::is_valid(&schema(kind).to_value(), body);
    assert_eq!((valid, reads(kind, body)), (good, good), "schema and reader of {kind} for {body}");
}

#[test]
fn every_example_is_what_its_schema_describes() {
    for kind in InputKind::ALL {
        check(kind, &kind.example(), true);
        check(kind, &json!([]), false);
        check(kind, &json!({}), false);
        let mut newer = kind.example();
        newer["a_field_of_the_future"] = json!({"x": 1});
        check(kind, &newer, true);
    }
}

#[test]
fn the_shapes_between() {
    let at = "2026-11-22T10:15:00Z";
    for (kind, body, good) in [
        (InputKind::Widget, json!({"event": "started"}), true),
        (InputKind::Widget, json!({"event": "updated"}), true),
        (InputKind::Widget, json!({"event": "exit", "last_encountered_error": null, "meta_data": {"step": "x"}}), true),
        (InputKind::Widget, json!({"event": "error", "error": "ACCESS_TOKEN_NOT_VALID"}), true),
        (InputKind::Widget, json!({"event": "started", "expires_in_seconds": -1}), false),
        (InputKind::Widget, json!({"event": "vanished"}), false),
        (InputKind::Observation, json!({"observed_at": at, "source": "app", "outcome": "missing"}), true),
        (InputKind::Observation, json!({"observed_at": at, "source": "app", "outcome": "refresh_accepted"}), true),
        (InputKind::Observation, json!({"observed_at": at, "source": "app", "outcome": "found"}), false),
        (InputKind::Observation, json!({"observed_at": at, "source": "app"}), false),
        (InputKind::Observation, json!({"observed_at": 7, "source": "app", "outcome": "missing"}), false),
        (InputKind::Command, json!({"command": "mute", "until": null}), true),
        (InputKind::Command, json!({"command": "explode"}), false),
        (InputKind::ApiError, json!({"http_status": 400, "method": "GET", "path": "/"}), true),
        (InputKind::ApiError, json!({"http_status": 400, "method": "GET"}), false),
    ] {
        check(kind, &body, good);
    }
}

#[test]
fn kinds_are_spelt_as_in_subjects() {
    for kind in InputKind::ALL {
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
fn what_is_written_can_be_read() {
    let observation: Observation = serde_json::from_value(Observation::example()).unwrap();
    let mut expected = Observation::example();
    expected["observed_at"] = json!("2026-11-22T10:15:00.000Z");
    assert_eq!(serde_json::to_value(observation).unwrap(), expected);
    let error: ApiError = serde_json::from_value(ApiError::example()).unwrap();
    assert_eq!(serde_json::to_value(error).unwrap(), ApiError::example());
}

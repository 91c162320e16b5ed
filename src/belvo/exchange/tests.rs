//! What is reported for each kind of answer.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::belvo::{Meaning, translate};
use crate::link::Event;

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
const SESSION: &str = "2675b703b9d4451f8d4861a3eee54449";

/// A call, and its answer.
struct Call<'a>(&'a str, &'a str, Value, u16, Value);

impl Call<'_> {
    fn report(&self) -> Option<ExchangeReport> {
        let Self(method, target, request, status, answer) = self;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let text = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
        Exchange {
            concern: Concern::of(method, path, *status)?,
            method,
            path,
            query,
            request: text(request).as_bytes(),
            status: *status,
            answer: text(answer).as_bytes(),
            answered_at: Timestamp::from_millis(1_790_000_000_000),
        }
        .report()
    }

    /// The kind, the link, and the event that the engine makes of the report.
    fn event(&self) -> Option<(InputKind, String, Event)> {
        let ExchangeReport { kind, link, body } = self.report()?;
        let link = link.expect("a link");
        match translate(kind, &link, &body, Timestamp::default()).expect("readable") {
            Meaning::Event(input) => Some((kind, link.to_string(), input.event)),
            other => panic!("{other:?}"),
        }
    }
}

fn of_link(rest: &str) -> String {
    format!("/api/links/{LINK}/{rest}")
}

fn error(code: &str, message: &str) -> Value {
    json!([{"code": code, "message": message, "request_id": "3e7b283c6efa449c9c028a16b5c249fd"}])
}

fn token_required() -> Value {
    json!([{"code": "token_required", "message": "A MFA token is required by the institution to login", "session": SESSION,
        "request_id": "8c7b283c6efa449c9c028a16b5c249fa", "expiry": 9600, "link": LINK,
        "token_generation_data": {"instructions": "x", "type": "numeric", "value": "51248120"}}])
}

#[test]
fn the_link_is_found_in_the_path_the_body_and_the_query() {
    let invalid = || error("invalid_link", "The link has been invalidated");
    for call in [
        Call("POST", &of_link("refresh/"), Value::Null, 400, invalid()),
        Call("POST", "/api/transactions/", json!({"link": LINK, "date_from": "2024-01-01"}), 400, invalid()),
        Call("POST", "/api/br/employments/", json!({"link": LINK.to_uppercase()}), 400, invalid()),
        Call("GET", &format!("/api/accounts/?page=1&link={LINK}"), Value::Null, 400, invalid()),
    ] {
        let (kind, link, event) = call.event().unwrap();
        assert_eq!((kind, link.as_str()), (InputKind::ApiError, LINK), "{}", call.1);
        assert!(matches!(event, Event::Broken(_)), "{event:?}");
        let body: Value = serde_json::from_slice(&call.report().unwrap().body).unwrap();
        let path = call.1.split('?').next();
        assert_eq!((body["method"].as_str(), body["path"].as_str()), (Some(call.0), path));
        assert_eq!((&body["http_status"], &body["link_id"], &body["body"]), (&json!(400), &json!(LINK), &invalid()));
    }
}

#[test]
fn a_428_names_its_link_and_its_session_is_removed() {
    let create = Call("POST", "/api/links/", json!({"institution": "heimdall_mx_retail"}), 428, token_required());
    assert_eq!(create.event(), Some((InputKind::ApiError, LINK.into(), Event::CreationUnfinished)));
    let fetch = Call("POST", "/api/accounts/", json!({"link": LINK}), 428, token_required());
    let (_, link, event) = fetch.event().unwrap();
    let Event::Broken(breakage) = event else { panic!("{event:?}") };
    assert!(link == LINK && breakage.session.is_some() && !breakage.during_update);
    let repair = Call("PUT", &of_link(""), json!({"password": "hunter22"}), 428, token_required());
    assert!(matches!(repair.event().unwrap().2, Event::Broken(breakage) if breakage.during_update));
    for call in [create, fetch, repair] {
        let body = String::from_utf8(call.report().unwrap().body).unwrap();
        assert!(!body.contains(SESSION) && !body.contains("51248120") && body.contains("9600"), "{body}");
    }
    // The status is enough if the body is not known.
    let unread = Call("POST", "/api/accounts/", json!({"link": LINK}), 428, Value::Null);
    assert!(matches!(unread.event().unwrap().2, Event::Broken(_)));
}

#[test]
fn the_successes_that_concern_a_link() {
    let valid = json!({"id": LINK, "status": "valid"});
    let updated = Some((InputKind::Widget, LINK.to_owned(), Event::UpdateClaimed));
    let resume = json!({"session": SESSION, "token": "1234ab", "link": LINK});
    let on_link = of_link("");
    for (call, expected) in [
        (Call("PUT", &on_link, json!({"password": "x"}), 200, valid.clone()), updated.clone()),
        (Call("PATCH", &on_link, json!({"access_mode": "single"}), 200, valid.clone()), updated.clone()),
        (Call("PATCH", "/api/links/", resume.clone(), 200, valid.clone()), updated.clone()),
        (Call("PATCH", "/api/links/", resume.clone(), 201, Value::Null), updated.clone()),
        (Call("PATCH", "/api/accounts/", resume.clone(), 200, json!([])), updated),
        // The access mode of a broken link was changed.
        (
            Call("PATCH", &on_link, json!({"access_mode": "single"}), 200, json!({"id": LINK, "status": "invalid"})),
            None,
        ),
        // The result is not known yet.
        (Call("PATCH", "/api/accounts/", resume, 202, json!({"request_id": "x"})), None),
        (Call("GET", &on_link, Value::Null, 200, valid.clone()), None),
        // An asynchronous deletion is not done yet, and the data of a link is not the link.
        (Call("DELETE", &on_link, Value::Null, 202, json!({"request_id": "x"})), None),
        (Call("DELETE", &format!("/api/accounts/{LINK}/"), Value::Null, 204, Value::Null), None),
        (Call("DELETE", &of_link("refresh/"), Value::Null, 204, Value::Null), None),
        (Call("POST", "/api/links/", json!({"institution": "x"}), 201, valid), None),
        (Call("POST", "/api/accounts/", json!({"link": LINK}), 201, json!([])), None),
        (Call("GET", "/api/links/", Value::Null, 302, Value::Null), None),
        (Call("PATCH", "/payments/br/payment-intents/1/", json!({"link": LINK}), 200, json!({})), None),
    ] {
        assert_eq!(call.event(), expected, "{} {} {}", call.0, call.1, call.3);
    }
    for target in [on_link.clone(), format!("{on_link}?x=1"), on_link.trim_end_matches('/').to_owned()] {
        let deleted = Call("DELETE", &target, Value::Null, 204, Value::Null);
        assert_eq!(deleted.event(), Some((InputKind::Observation, LINK.into(), Event::ObservedMissing)), "{target}");
    }
    let refresh = of_link("refresh/");
    let accepted = Call("POST", &refresh, json!({}), 202, json!({"request_id": "0a9c5bd1d6d84a2a9c7c1c5b6f9d2e41"}));
    assert_eq!(accepted.event(), Some((InputKind::Observation, LINK.into(), Event::RefreshAccepted)));
    let body: Value = serde_json::from_slice(&accepted.report().unwrap().body).unwrap();
    assert_eq!(body["request_id"], "0a9c5bd1d6d84a2a9c7c1c5b6f9d2e41");
    assert_eq!(body["source"], "app");
}

#[test]
fn a_token_for_update_mode_starts_an_attempt_and_is_not_read() {
    let keys = json!({"id": "the-id", "password": "the-password", "link_id": LINK});
    let answer = json!({"access": "eyJ0", "refresh": "eyJ1"});
    let minted = Call("POST", "/api/token/", keys, 200, answer.clone());
    let (kind, link, event) = minted.event().unwrap();
    assert_eq!((kind, link.as_str()), (InputKind::Widget, LINK));
    assert!(matches!(event, Event::UpdateStarted { .. }));
    assert_eq!(minted.report().unwrap().body, br#"{"event":"started"}"#);
    let for_creation = Call("POST", "/api/token/", json!({"id": "the-id", "password": "the-password"}), 200, answer);
    assert_eq!(for_creation.report(), None);
    assert!(!Concern::TokenMinted.reads_answer() && !Concern::SessionResumed.reads_answer());
}

#[test]
fn an_error_without_a_link_names_none() {
    let missing = || json!([{"code": "not_found", "message": "Not found", "request_id": "x"}]);
    for call in [
        Call("GET", "/api/accounts/7/", Value::Null, 404, missing()),
        // The caller has no id.
        Call("GET", "/api/links/undefined/", Value::Null, 404, missing()),
        Call("POST", "/api/accounts/", json!({"link": "undefined"}), 404, missing()),
        Call("POST", "/api/accounts/", json!([LINK]), 404, missing()),
        Call("POST", "/api/accounts/", json!({"link": [LINK]}), 404, missing()),
    ] {
        let report = call.report().unwrap();
        assert_eq!((report.kind, report.link), (InputKind::ApiError, None), "{}", call.1);
    }
}

#[test]
fn the_secrets_of_a_request_that_an_error_quotes_are_removed() {
    let request = json!({"link": LINK, "password": "hunter22", "token": "998877", "session": SESSION, "id": "the-id",
        "institution": "erebor_mx_retail"});
    let quoting = json!([{"code": "invalid", "message": format!("`hunter22` and 998877 of {SESSION} are not valid"),
        "request_id": "998877aabbcc", "hunter22": ["hunter22"], "detail": {"was": "x998877x"}}]);
    let call = Call("PUT", &of_link(""), request, 400, quoting);
    let body = String::from_utf8(call.report().unwrap().body).unwrap();
    assert!(!body.contains("hunter22") && !body.contains(SESSION) && !body.contains("x998877x"), "{body}");
    assert!(body.contains("`removed` and removed of removed") && body.contains("998877aabbcc"), "{body}");
}

#[test]
fn every_documented_path_is_of_the_api() {
    for path in ["/api/", "/api/links/", "/api/cl/debt-reports/7/", "/api/links", "/payments/br/token/"] {
        assert!(is_path_of_api(path), "{path}");
    }
    for path in
        ["", "/", "api/links/", "//api/links/", "/api/br/", "/api/br/unknown/", "/sandbox/links/", "/api/links/%41/"]
    {
        assert!(!is_path_of_api(path), "{path}");
    }
}

proptest! {
    #[test]
    fn no_answer_panics_and_no_report_has_the_password(
        status in 100_u16..600,
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE"]),
        path in prop::sample::select(vec!["/api/links/", "/api/token/", "/api/accounts/", "/api/links/16f68516-bcbc-4cf7-b815-c500d4204e28/"]),
        answer in "[\\[{\":,}\\]a-z hunter0-9]{0,40}(hunter22)?[\\]}\"]{0,3}",
    ) {
        if let Some(concern) = Concern::of(method, path, status) {
            let request = json!({"link": LINK, "password": "hunter22"}).to_string();
            let exchange = Exchange { concern, method, path, query: "", request: request.as_bytes(), status,
                answer: answer.as_bytes(), answered_at: Timestamp::default() };
            if let Some(report) = exchange.report() {
                prop_assert!(!String::from_utf8_lossy(&report.body).contains("hunter22"));
            }
        }
    }
}

//! The reports of an application: API errors, callbacks of the widget, commands.

use relink::contract::{ApiError, Command, Widget};
use reqwest::Method;
use serde_json::{Value, json};

use crate::bench::{API_TOKEN, Bench, LINK, answer};

fn error(http_status: u16, method: &str, path: &str, body: Value) -> Value {
    json!({"http_status": http_status, "method": method, "path": path, "body": body})
}

fn codes(code: &str, message: &str) -> Value {
    json!([{"code": code, "message": message, "request_id": "3e7b283c6efa449c9c028a16b5c249fd"}])
}

#[tokio::test]
async fn the_link_of_an_api_error_is_found() {
    let bench = Bench::new().await;
    let invalid = || codes("invalid_link", "The link has been invalidated");
    let mut with_link_id = error(400, "POST", "/api/transactions/", invalid());
    with_link_id["link_id"] = LINK.into();
    let mut in_body = invalid();
    in_body[0]["link"] = LINK.into();
    let bodies = [
        with_link_id,
        error(428, "POST", "/api/accounts/", in_body),
        error(400, "POST", &format!("/api/links/{LINK}/refresh/"), invalid()),
        error(400, "GET", &format!("https://sandbox.belvo.com/api/accounts/?link={LINK}"), invalid()),
    ];
    let mut message_ids = Vec::new();
    for (at, body) in bodies.iter().enumerate() {
        let answer = bench.post("/v1/api-errors", body).await;
        assert_eq!((answer.status, &answer.body["link_id"]), (202, &json!(LINK)), "{body}");
        assert_eq!(answer.body["sequence"], at + 1);
        message_ids.push(answer.body["message_id"].as_str().expect("an id").to_owned());
    }
    let stored = bench.inputs().await;
    let published: Vec<_> = stored.iter().map(|(_, headers, _)| headers.get("ce-id").unwrap().to_string()).collect();
    assert_eq!(published, message_ids);
    for ((subject, headers, stored), sent) in stored.iter().zip(&bodies) {
        assert_eq!(subject, &format!("belvo.api_error.{LINK}"));
        assert_eq!(&serde_json::from_slice::<Value>(stored).unwrap(), sent);
        assert_eq!(headers.get("ce-type").unwrap().as_str(), "belvo.api_error");
    }
    assert_eq!(stored.len(), bodies.len());
}

#[tokio::test]
async fn the_session_of_a_428_is_not_stored() {
    let bench = Bench::new().await;
    let mut body = codes("token_required", "A MFA token is required by the institution to login");
    body[0]["session"] = "2675b703b9d4451f8d4861a3eee54449".into();
    body[0]["expiry"] = 9600.into();
    body[0]["link"] = LINK.into();
    body[0]["token_generation_data"] = json!({"instructions": "x", "value": "12345"});
    assert_eq!(bench.post("/v1/api-errors", error(428, "POST", "/api/accounts/", body)).await.status, 202);
    let stored: Value = serde_json::from_slice(&bench.inputs().await[0].2).unwrap();
    let kept = &stored["body"][0];
    assert_eq!((&kept["session"], &kept["expiry"]), (&json!("removed"), &json!(9600)), "the expiry must be kept");
    assert!(kept.get("token_generation_data").is_none());
}

#[tokio::test]
async fn the_session_and_the_token_data_are_not_stored() {
    let bench = Bench::new().await;
    let mut token_required = codes("token_required", "A MFA token is required by the institution to login");
    token_required[0]["session"] = "2675b703b9d4451f8d4861a3eee54449".into();
    token_required[0]["expiry"] = 9600.into();
    token_required[0]["link"] = LINK.into();
    token_required[0]["token_generation_data"] = json!({"type": "numeric", "value": "51248120"});
    let answer = bench.post("/v1/api-errors", error(428, "POST", "/api/accounts/", token_required)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let stored = String::from_utf8_lossy(&bench.inputs().await[0].2).into_owned();
    assert!(!stored.contains("2675b703") && !stored.contains("51248120"), "{stored}");
    assert!(stored.contains("9600"), "{stored}");
}

#[tokio::test]
async fn an_error_is_readable_in_every_wrapping_and_its_session_is_not_stored() {
    let bench = Bench::new().await;
    let mut body = codes("token_required", "A MFA token is required by the institution to login");
    body[0]["session"] = "2675b703b9d4451f8d4861a3eee54449".into();
    body[0]["expiry"] = 9600.into();
    body[0]["link"] = LINK.into();
    body[0]["tokenGenerationData"] = json!({"type": "numeric", "value": "51248120"});
    let as_text = Value::from(body.to_string());
    let wrappings = [
        body.clone(),
        as_text.clone(),
        Value::from(as_text.to_string()),
        json!({"statusCode": 428, "detail": body}),
        json!([body]),
        json!({"errors": body}),
        json!({"response": {"status": 428, "data": as_text}, "config": {"headers": {"Authorization": "Basic 51248120"}}}),
        Value::from(format!("RequestError: {body}")),
    ];
    for body in &wrappings {
        let answer = bench.post("/v1/api-errors", error(428, "POST", "/api/accounts/", body.clone())).await;
        assert_eq!((answer.status, &answer.body["link_id"]), (202, &json!(LINK)), "{body}: {}", answer.text);
    }
    // An encoding in which a search for the bytes of a name fails.
    let report = error(428, "POST", "/api/accounts/", body.clone()).to_string();
    let utf16: Vec<u8> = report.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let request = bench.request(Method::POST, "/v1/api-errors").bearer_auth(API_TOKEN);
    assert_eq!(answer(request.header("content-type", "application/json").body(utf16)).await.status, 202);
    let stored = bench.inputs().await;
    assert_eq!(stored.len(), wrappings.len() + 1);
    for (_, _, stored) in stored {
        let stored = String::from_utf8(stored.to_vec()).unwrap();
        assert!(!stored.contains("2675b703") && !stored.contains("51248120"), "{stored}");
        assert!(stored.contains("9600") && stored.contains("token_required"), "{stored}");
    }
    // Other reports may contain a session too.
    let exit = json!({"event": "exit", "meta_data": {"session": "2675b703b9d4451f8d4861a3eee54449"}});
    assert_eq!(bench.post(&format!("/v1/links/{LINK}/widget"), exit).await.status, 202);
    let (_, _, stored) = bench.inputs().await.pop().unwrap();
    assert!(!String::from_utf8_lossy(&stored).contains("2675b703"));
}

#[tokio::test]
async fn a_report_without_a_secret_is_stored_byte_for_byte() {
    let bench = Bench::new().await;
    let body = format!(
        r#"{{"path": "/api/links/{LINK}/refresh/", "status": "400", "body":  "[{{\"code\": \"brand_new\"}}]" }}"#
    );
    assert_eq!(bench.post("/v1/api-errors", &body).await.status, 202, "an unknown code must be accepted");
    assert_eq!(bench.inputs().await[0].2, body);
}

#[tokio::test]
async fn an_error_without_a_code_is_refused_and_the_answer_names_the_fields() {
    let bench = Bench::new().await;
    for body in [json!("<html>502</html>"), json!([]), Value::Null, json!({"ok": false})] {
        for link_id in [Value::Null, json!(LINK)] {
            let mut report = error(400, "POST", "/api/accounts/", body.clone());
            report["link_id"] = link_id;
            let answer = bench.post("/v1/api-errors", &report).await;
            let problem = answer.problem(422, "wrong-shape");
            assert_eq!(problem["at"], "/body");
            let detail = problem["detail"].as_str().unwrap();
            assert!(["`code`", "`detail`", "`errors`"].iter().all(|word| detail.contains(word)), "{detail}");
        }
    }
    assert!(bench.inputs().await.is_empty() && bench.dead_letters().await.is_empty());
}

#[tokio::test]
async fn an_error_about_the_keys_needs_no_link() {
    let bench = Bench::new().await;
    let body = error(401, "GET", "/api/accounts/", codes("authentication_failed", "Invalid Secret Keys"));
    let answer = bench.post("/v1/api-errors", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["link_id"], Value::Null);
    assert_eq!(answer.body["meaning"], json!({"class": "keys", "code": "authentication_failed"}));
    assert!(bench.inputs().await.is_empty());
}

#[tokio::test]
async fn an_error_without_a_link_is_refused_and_the_answer_names_the_places() {
    let bench = Bench::new().await;
    for body in [
        error(400, "POST", "/api/accounts/", codes("invalid_link", "The link has been invalidated")),
        error(418, "POST", "/api/accounts/", codes("teapot", "an unknown code")),
    ] {
        let answer = bench.post("/v1/api-errors", body).await;
        let problem = answer.problem(422, "no-link");
        assert_eq!(problem["at"], "/link_id");
        let detail = problem["detail"].as_str().unwrap();
        assert!(["`link_id`", "`body`", "`path`", "query"].iter().all(|place| detail.contains(place)), "{detail}");
    }
}

#[tokio::test]
async fn the_examples_of_the_schemas_are_accepted() {
    let bench = Bench::new().await;
    assert_eq!(bench.post("/v1/api-errors", ApiError::example()).await.status, 202);
    assert_eq!(bench.post(&format!("/v1/links/{LINK}/widget"), Widget::example()).await.status, 202);
    let commands = format!("/v1/links/{LINK}/commands");
    assert_eq!(bench.post(&commands, Command::example()).await.status, 202);
    for command in ["mute", "unmute", "verify", "forget"] {
        let answer = bench.post(&commands, json!({"command": command})).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    let subjects: Vec<_> = bench.inputs().await.into_iter().map(|(subject, ..)| subject).collect();
    assert_eq!(subjects[1..3], [format!("belvo.widget.{LINK}"), format!("belvo.command.{LINK}")]);
}

#[tokio::test]
async fn every_callback_of_the_widget_is_accepted() {
    let bench = Bench::new().await;
    let path = format!("/v1/links/{LINK}/widget");
    for body in [
        json!({"event": "started"}),
        json!({"event": "started", "expires_in_seconds": 600}),
        json!({"event": "success", "link": LINK, "institution": "erebor_mx_retail"}),
        json!({"event": "exit", "last_encountered_error": {"code": "login_error", "message": "x"},
            "meta_data": {"step": "abandon-survey"}}),
        json!({"event": "exit", "last_encountered_error_code": "institution_down", "meta_data_step": "x"}),
        json!({"event": "error", "error": "ACCESS_TOKEN_NOT_VALID", "error_message": "x"}),
        json!({"event": "updated"}),
        json!({"event": "warning", "warning": "institution_disabled"}),
        // Forms that devices send.
        json!({"event": "exit", "last_encountered_error": "institution_down"}),
        json!({"event": "error", "error": {"code": "x"}}),
        json!({"event": "success", "link": LINK, "institution": {"name": "x"}}),
        json!({"event": "success", "institution": "x".repeat(900_000)}),
        json!({"event": "started", "expires_in_seconds": "600"}),
        json!({"eventName": "ERROR", "request_id": "x", "meta_data": {"error_code": "login_error"}}),
        json!({"eventName": "PAGE_LOAD", "metadata": {"page": "x"}}),
    ] {
        let answer = bench.post(&path, &body).await;
        assert_eq!(answer.status, 202, "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_refused_with_the_place_of_the_error() {
    let bench = Bench::new().await;
    let (errors, widget, commands) =
        ("/v1/api-errors".to_owned(), format!("/v1/links/{LINK}/widget"), format!("/v1/links/{LINK}/commands"));
    let future = json!({"schema_version": 99, "command": "mute"}).to_string();
    let cases: [(&str, &str, u16, &str, Option<&str>); 15] = [
        (&errors, "", 400, "not-json", None),
        (&errors, "{", 400, "not-json", None),
        (&errors, "[]", 422, "wrong-shape", Some("")),
        (&errors, r#"{"method": "GET", "path": "/"}"#, 422, "wrong-shape", Some("/http_status")),
        (&errors, r#"{"http_status": 400, "method": "GET"}"#, 422, "wrong-shape", Some("/path")),
        (&errors, r#"{"http_status": 400, "path": "/api/links/"}"#, 422, "wrong-shape", Some("/method")),
        (&errors, r#"{"http_status": "x", "method": "GET", "path": "/"}"#, 422, "wrong-shape", Some("/http_status")),
        (&errors, r#"{"http_status": 200, "method": "GET", "path": "/"}"#, 422, "wrong-shape", Some("/http_status")),
        (&widget, r#"{"event": "danced"}"#, 422, "wrong-shape", Some("/event")),
        (&widget, "{}", 422, "wrong-shape", Some("/event")),
        (&commands, "{}", 422, "wrong-shape", Some("/command")),
        (&commands, r#"{"command": "explode"}"#, 422, "wrong-shape", Some("/command")),
        (&commands, r#"{"command": "snooze"}"#, 422, "wrong-shape", Some("/until")),
        (
            &commands,
            &format!(r#"{{"command": "mute", "reason": "{}"}}"#, "x".repeat(1025)),
            422,
            "wrong-shape",
            Some("/reason"),
        ),
        (&commands, &future, 422, "wrong-shape", Some("/schema_version")),
    ];
    for (path, body, status, slug, at) in cases {
        let answer = bench.post(path, body).await;
        let problem = answer.problem(status, slug);
        assert_eq!(problem.get("at").and_then(Value::as_str), at, "{body}: {}", answer.text);
    }
    bench.post("/v1/links/a.b/widget", r#"{"event": "started"}"#).await.problem(400, "bad-parameter");
    bench.post("/v1/links/%2A/commands", r#"{"command": "mute"}"#).await.problem(400, "bad-parameter");
    assert!(bench.inputs().await.is_empty() && bench.dead_letters().await.is_empty());
}

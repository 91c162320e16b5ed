//! Errors in the wrappers of clients, and webhooks that contain an error. An error has the same meaning in every
//! wrapper.

use super::*;

const SESSION: &str = "2675b703b9d4451f8d4861a3eee54449";

fn token_required() -> Value {
    json!([{"code": "token_required", "message": "A MFA token is required by the institution to login",
        "request_id": "8c7b283c6efa449c9c028a16b5c249fa", "session": SESSION, "expiry": 9600, "link": LINK}])
}

fn report(status: u16, body: Value) -> Value {
    json!({"http_status": status, "method": "POST", "path": "/api/transactions/", "link_id": LINK, "body": body})
}

/// All known wrappers of a body.
fn passed_on(body: &Value) -> Vec<Value> {
    let status = 428;
    let as_text = Value::from(body.to_string());
    let axios = json!({"message": "Request failed with status code 428", "name": "AxiosError", "code": "ERR_BAD_REQUEST",
        "config": {"url": "/api/transactions/", "data": "{\"code\": \"invalid_link\"}"}, "response": {"status": status, "data": body}});
    vec![
        body.clone(),
        as_text.clone(),
        Value::from(as_text.to_string()),
        json!([body]),
        json!([[[body]]]),
        body[0].clone(),
        json!({"statusCode": status, "detail": body}),
        json!({"status_code": status, "detail": as_text}),
        json!({"errors": body}),
        json!({"error": body[0]}),
        json!({"error": {"message": "428 Precondition Required", "errors": body}}),
        json!({"response": {"data": body}}),
        json!({"response": {"data": {"detail": as_text}}}),
        axios.clone(),
        Value::from(axios.to_string()),
        Value::from(format!("RequestError: 428 {body} at index.js:7")),
        Value::from(format!("\"POST\" [428] {body}")),
        json!({"statusCode": 428, "error": "Precondition Required", "message": as_text}),
    ]
}

#[test]
fn an_error_is_found_in_every_wrapper() {
    let asked = Said::Event(Event::Broken(Breakage { session: session(9600), ..Breakage::of(Cause::Token) }));
    for body in passed_on(&token_required()) {
        check(InputKind::ApiError, &report(428, body.clone()), Ok(asked.clone()));
        let key = input(InputKind::ApiError, &report(428, body.clone())).key;
        assert_eq!(key, input(InputKind::ApiError, &report(428, token_required())).key, "one fact: {body}");
        // Without `link_id` the link is taken from the body.
        let mut unnamed = report(428, body);
        unnamed.as_object_mut().unwrap().remove("link_id");
        assert_eq!(link_of_api_error(unnamed.to_string().as_bytes()), Some(link()), "{unnamed}");
    }
    for body in passed_on(&json!([{"code": "invalid_link", "message": "x"}])) {
        check(InputKind::ApiError, &report(400, body), Ok(broken(Cause::Credentials)));
    }
    // The text of a wrapper has no meaning; a code of Belvo in it has.
    let inside = json!([{"code": "institution_down"}]);
    let says = |code: &str| report(400, json!({"code": code, "message": "x", "errors": inside}));
    check(InputKind::ApiError, &says("BAD_REQUEST"), Ok(Said::Not(Unrelated::InstitutionDown)));
    check(InputKind::ApiError, &says("invalid_link"), Ok(broken(Cause::Credentials)));
}

#[test]
fn the_answer_may_be_beside_the_fields_of_the_request() {
    let at = |fields: Value| {
        let mut report = json!({"http_status": 400, "method": "POST", "url": "/api/transactions/", "link": LINK});
        report.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        report
    };
    let body = json!([{"code": "invalid_link"}]);
    for fields in [
        json!({"detail": body}),
        json!({"errors": body, "body": null}),
        json!({"response": {"data": body}}),
        json!({"code": "invalid_link", "message": "x"}),
    ] {
        check(InputKind::ApiError, &at(fields), Ok(broken(Cause::Credentials)));
    }
}

#[test]
fn the_outermost_status_counts() {
    let body = token_required();
    let base = json!({"method": "POST", "path": "/api/transactions/", "link_id": LINK, "body": body});
    let with = |name: &str, value: Value| {
        let mut report = base.clone();
        report[name] = value;
        report
    };
    let asked = Said::Event(Event::Broken(Breakage { session: session(9600), ..Breakage::of(Cause::Token) }));
    for name in ["http_status", "status", "statusCode", "status_code", "httpStatus"] {
        for value in [json!(428), json!("428"), json!(428.0)] {
            check(InputKind::ApiError, &with(name, value), Ok(asked.clone()));
        }
    }
    for body in [json!({"statusCode": 428, "detail": body}), json!({"response": {"status": "428", "data": body}})] {
        check(InputKind::ApiError, &with("body", body.clone()), Ok(asked.clone()));
        let mut outer = with("body", body);
        outer["http_status"] = json!(503);
        check(InputKind::ApiError, &outer, Ok(Said::Not(Unrelated::Outage)));
    }
    for wrong in [json!("teapot"), json!(200), json!(428.5), json!({})] {
        let expected = Undecodable::shape("$.http_status", "expected the status of an error, 400 to 599");
        check(InputKind::ApiError, &with("http_status", wrong), Err(expected));
    }
    let missing = translate(InputKind::ApiError, &link(), base.to_string().as_bytes(), now()).unwrap_err();
    assert!(
        matches!(&missing, Undecodable::WrongShape { at, problem } if at == "$.http_status" && problem.contains("`body`"))
    );
}

#[test]
fn the_required_fields_of_a_report() {
    let at = |report: Value| match translate(InputKind::ApiError, &link(), report.to_string().as_bytes(), now()) {
        Err(Undecodable::WrongShape { at, .. }) => at,
        other => panic!("{report}: {other:?}"),
    };
    let body = json!([{"code": "invalid_link"}]);
    assert_eq!(at(json!({"http_status": 400, "method": "POST", "body": body})), "$.path");
    assert_eq!(at(json!([body])), "$");
    // The method is required only if the meaning depends on it.
    for (path, needed) in [
        ("/api/links/", true),
        ("/belvo/API/links", true),
        (&format!("/api/links/{LINK}/"), true),
        (&format!("/api/links/{LINK}/refresh/"), false),
        ("/api/transactions/", false),
    ] {
        let report = json!({"http_status": 400, "path": path, "body": body});
        if needed {
            assert_eq!(at(report), "$.method", "{path}");
        } else {
            check(InputKind::ApiError, &report, Ok(broken(Cause::Credentials)));
        }
    }
}

#[test]
fn a_report_without_an_error_is_refused() {
    let deep = (0..40).fold(json!([{"code": "invalid_link"}]), |body, _| json!([body]));
    for body in [json!([]), Value::Null, json!("<html>"), json!("[{"), json!({"ok": false}), json!([[], {}, 7]), deep] {
        let error = translate(InputKind::ApiError, &link(), report(400, body.clone()).to_string().as_bytes(), now());
        let Err(Undecodable::WrongShape { at, problem }) = error else { panic!("{body}: {error:?}") };
        assert_eq!(at, "$.body");
        assert!(["`code`", "`detail`", "JSON"].iter().all(|word| problem.contains(word)), "{problem}");
    }
    // The search in a body of any size is limited.
    let wide = Value::from(vec![json!({"x": [[], {}]}); 20_000]);
    assert!(translate(InputKind::ApiError, &link(), report(400, wide).to_string().as_bytes(), now()).is_err());
    let long = Value::from(vec![json!({"code": "required"}); 20_000]);
    check(InputKind::ApiError, &report(400, long), Ok(Said::Not(Unrelated::Request)));
}

#[test]
fn a_missing_link_in_other_wordings() {
    let gone = |status: u16, method: &str, path: &str, body: Value| json!({"http_status": status, "method": method, "path": path, "link_id": LINK, "body": body});
    let missing = Said::Event(Event::MissingReported);
    let own = format!("/belvo-proxy/api/links/{LINK}/");
    for body in [
        json!([{"code": "not_found", "message": "Not found"}]),
        json!({"detail": "Not found."}),
        json!({"detail": "No Link matches the given query."}),
        json!({"message": "Link does not exist"}),
        json!("{\"detail\": \"Not found.\"}"),
        json!("<html><title>404</title></html>"),
        json!(""),
        json!([]),
        Value::Null,
    ] {
        for path in [own.as_str(), "/api/transactions/", "/accounts/"] {
            check(InputKind::ApiError, &gone(404, "GET", path, body.clone()), Ok(missing.clone()));
            check(InputKind::ApiError, &gone(410, "GET", path, body.clone()), Ok(missing.clone()));
        }
    }
    check(InputKind::ApiError, &gone(410, "DELETE", &own, json!([{"code": "gone"}])), Ok(missing));
    // An unknown code has no meaning, and a path that is not one of Belvo's API says nothing about a link.
    let odd = gone(404, "GET", &own, json!([{"code": "moved"}]));
    check(InputKind::ApiError, &odd, Ok(Said::Unknown("api_error 404 moved".into())));
    let elsewhere = gone(404, "GET", "/v1/users/7", json!({"detail": "no such user"}));
    check(InputKind::ApiError, &elsewhere, Ok(Said::Unknown("api_error 404 without_code".into())));
    let page = gone(404, "GET", "/v1/users/7", json!("<html>"));
    assert!(translate(InputKind::ApiError, &link(), page.to_string().as_bytes(), now()).is_err());
}

#[test]
fn an_error_in_a_webhook_refines_the_cause() {
    const LOCKED: &str = "The user account is locked, user needs to contact the institution to unlock it";
    const FORBIDDEN: &str = "The user account access was forbidden by the institution";
    const UNSUPPORTED: &str = "A MFA token is required by the institution, but it's not supported yet by Belvo.";
    const WANTED: &str = "A MFA token is required by the institution to login";
    const REFUSED: &str = "Invalid credentials provided to login to the institution";
    const UNEXPECTED: &str =
        "Impossible to login, something unexpected happened while logging into the institution. Try again later.";
    let webhook = |code: &str, data: Value| json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": code, "link_id": LINK, "data": data});
    // The code decides if the message is unknown.
    for (message, of_credentials, of_token) in [
        (LOCKED, Cause::AccountBlocked, Cause::AccountBlocked),
        (FORBIDDEN, Cause::AccountBlocked, Cause::AccountBlocked),
        (UNSUPPORTED, Cause::Unsupported, Cause::Unsupported),
        (WANTED, Cause::Token, Cause::Token),
        // Of the code of the webhook and the message, the token counts.
        (REFUSED, Cause::Credentials, Cause::Token),
        (UNEXPECTED, Cause::Credentials, Cause::Token),
        ("The stars are not right", Cause::Credentials, Cause::Token),
        ("", Cause::Credentials, Cause::Token),
    ] {
        for data in [
            json!({"error_code": "login_error", "error_message": message, "status": 400}),
            json!({"errorCode": "login_error", "errorMessage": message.to_uppercase()}),
            json!({"code": "login_error", "message": message}),
            json!({"error": {"code": "login_error", "message": message}}),
            json!({"error": "login_error", "error_message": message}),
            json!({"errors": [{"code": "login_error", "message": message}]}),
            json!([{"code": "login_error", "message": message}]),
            json!({"error_message": message}),
            json!({"error": message}),
            json!({"detail": message}),
            Value::from(json!({"error_message": message}).to_string()),
        ] {
            let of = |code| webhook(code, data.clone());
            check(InputKind::Webhook, &of("invalid_credentials"), Ok(broken(of_credentials)));
            check(InputKind::Webhook, &of("token_required"), Ok(broken(of_token)));
        }
    }
    for (code, cause) in [
        ("token_required", Cause::Token),
        ("TOKEN_REQUIRED", Cause::Token),
        ("activation_required", Cause::AccountBlocked),
        ("expired_credentials", Cause::Credentials),
        ("brand_new", Cause::Credentials),
        ("institution_down", Cause::Credentials),
        ("*", Cause::Credentials),
    ] {
        check(InputKind::Webhook, &webhook("invalid_credentials", json!({"error_code": code})), Ok(broken(cause)));
    }
    let several =
        json!({"errors": [{"code": "login_error", "message": REFUSED}, {"code": "login_error", "message": LOCKED}]});
    check(InputKind::Webhook, &webhook("invalid_credentials", several), Ok(broken(Cause::AccountBlocked)));
    // A consent has no login that could be refused.
    let mut consent = webhook("openfinance_consent_expired", json!({"error_message": LOCKED}));
    consent["webhook_type"] = json!("CONSENT");
    check(InputKind::Webhook, &consent, Ok(broken(Cause::ConsentEnded)));
}

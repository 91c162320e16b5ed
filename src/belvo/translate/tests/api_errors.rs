//! Documented API errors, and their meaning for different calls.

use super::*;

const USE: (&str, &str) = ("POST", "/api/transactions/");
const CREATE: (&str, &str) = ("POST", "/api/links/");
const RESUME: (&str, &str) = ("PATCH", "/api/links/");
const REPAIR: (&str, &str) = ("PUT", "/api/links/16f68516-bcbc-4cf7-b815-c500d4204e28/");

fn error(status: u16, (method, path): (&str, &str), body: Value) -> Value {
    json!({"http_status": status, "method": method, "path": path, "link_id": LINK, "body": body})
}

fn one(status: u16, call: (&str, &str), code: &str, message: &str) -> Value {
    error(status, call, json!([{"code": code, "message": message, "request_id": "3e7b283c6efa449c9c028a16b5c249fd"}]))
}

fn during_update(cause: Cause, session: Option<Session>) -> Said {
    Said::Event(Event::Broken(Breakage { session, during_update: true, ..Breakage::of(cause) }))
}

/// One refused login, which Belvo's status may not show.
fn refused_login(cause: Cause) -> Said {
    Said::Event(Event::Broken(Breakage { refused_login: true, ..Breakage::of(cause) }))
}

#[test]
fn every_row_of_the_error_table() {
    for &(http, row_code, words, _, says) in ERRORS {
        let (status, code) = match (http, row_code) {
            (Http::Is(status), ANY) => (status, "whatever"),
            (Http::Is(status), code) => (status, code),
            (Http::Server, _) => (502, "unexpected_error"),
        };
        check(InputKind::ApiError, &one(status, USE, code, words), Ok(in_use(says)));
    }
    for &(words, _, says) in MESSAGES {
        check(InputKind::ApiError, &one(400, USE, LOGIN_ERROR, words), Ok(in_use(says)));
        check(InputKind::ApiError, &error(400, USE, json!({"detail": words})), Ok(in_use(says)));
    }
}

/// The meaning of a row in the answer to a call that uses the link.
fn in_use(class: ErrorClass) -> Said {
    match class {
        ErrorClass::Breaks(cause) => broken(cause),
        ErrorClass::Refuses(cause) => refused_login(cause),
        ErrorClass::RequiresToken => broken(Cause::Token),
        ErrorClass::Unfinished => Said::Event(Event::CreationUnfinished),
        ErrorClass::SessionOver => Said::Event(Event::SessionExpired),
        ErrorClass::Missing => Said::Event(Event::MissingReported),
        ErrorClass::QuotaUsedUp => Said::Event(Event::QuotaReached { of_refresh: false }),
        ErrorClass::Unrelated(unrelated) => Said::Not(unrelated),
    }
}

#[test]
fn login_error_is_decided_by_its_message() {
    for (message, expected) in [
        ("Invalid credentials provided to login to the institution", refused_login(Cause::Credentials)),
        ("Login not attempted due to invalid credentials", refused_login(Cause::Credentials)),
        ("Missing credentials to login to the institution", refused_login(Cause::Credentials)),
        (
            "The user account is locked, user needs to contact the institution to unlock it",
            refused_login(Cause::AccountBlocked),
        ),
        ("The user account access was forbidden by the institution", refused_login(Cause::AccountBlocked)),
        (
            "A MFA token is required by the institution, but it’s not supported yet by Belvo.",
            refused_login(Cause::Unsupported),
        ),
        (
            "Impossible to login, something unexpected happened while logging into the institution. Try again later.",
            Said::Not(Unrelated::Outage),
        ),
        ("A MFA token is required by the institution to login", broken(Cause::Token)),
        ("Invalid credentials_storage", Said::Unknown("api_error 400 login_error".into())),
        ("The stars are not right", Said::Unknown("api_error 400 login_error".into())),
    ] {
        check(InputKind::ApiError, &one(400, USE, "login_error", message), Ok(expected));
    }
}

#[test]
fn a_refused_login_depends_on_the_call() {
    let refused = |call| one(400, call, "login_error", "Invalid credentials provided to login to the institution");
    check(InputKind::ApiError, &refused(CREATE), Ok(Said::Not(Unrelated::Creation)));
    check(InputKind::ApiError, &refused(RESUME), Ok(during_update(Cause::Credentials, None)));
    check(InputKind::ApiError, &refused(REPAIR), Ok(during_update(Cause::Credentials, None)));
    check(InputKind::ApiError, &refused(USE), Ok(refused_login(Cause::Credentials)));
}

/// The institution Heimdall of Belvo's sandbox requires an MFA token for every login.
#[test]
fn an_institution_that_always_requires_a_token() {
    let wants = |call, expiry: Value| {
        let body = json!([{"code": "token_required", "message": "A MFA token is required by the institution to login",
            "request_id": "8c7b283c6efa449c9c028a16b5c249fa", "session": "2675b703b9d4451f8d4861a3eee54449", "expiry": expiry,
            "link": LINK, "token_generation_data": {"instructions": "x", "type": "numeric", "value": "12345"}}]);
        error(428, call, body)
    };
    let in_use = |session| Said::Event(Event::Broken(Breakage { session, ..Breakage::of(Cause::Token) }));
    check(InputKind::ApiError, &wants(CREATE, json!(9600)), Ok(Said::Event(Event::CreationUnfinished)));
    check(InputKind::ApiError, &wants(RESUME, json!(9600)), Ok(during_update(Cause::Token, session(9600))));
    check(InputKind::ApiError, &wants(REPAIR, json!(9600)), Ok(during_update(Cause::Token, session(9600))));
    for (expiry, session) in [
        (json!(9600), session(9600)),
        (json!("60"), session(60)),
        (json!(u64::MAX), session(24 * 3600)),
        (json!(0), None),
        (json!(-5), None),
        (Value::Null, None),
    ] {
        check(InputKind::ApiError, &wants(USE, expiry), Ok(in_use(session)));
    }
    // The object without `code` of the old support page, and no body.
    let old = json!({"detail": "Token Required", "session": "2675b703b9d4451f8d4861a3eee54449", "expiry": 9600, "link": LINK});
    check(InputKind::ApiError, &error(428, USE, old), Ok(in_use(session(9600))));
    check(InputKind::ApiError, &error(428, USE, Value::Null), Ok(in_use(None)));
    // Not every 428 requires a token.
    check(InputKind::ApiError, &one(428, USE, "activation_required", ""), Ok(refused_login(Cause::AccountBlocked)));
    check(InputKind::ApiError, &one(428, CREATE, "activation_required", ""), Ok(Said::Not(Unrelated::Creation)));
}

#[test]
fn of_several_errors_the_highest_rank_counts() {
    let several = |codes: &[&str]| {
        let item = |code: &&str| json!({"code": code, "message": "This field is required."});
        error(400, USE, codes.iter().map(item).collect())
    };
    let unknown = Said::Unknown("api_error 400 brand_new".into());
    for (codes, expected) in [
        (&["required", "invalid_link"][..], broken(Cause::Credentials)),
        (&["invalid_link", "required", "brand_new"], broken(Cause::Credentials)),
        (&["invalid_link", "unconfirmed_link"], Said::Event(Event::CreationUnfinished)),
        (&["required", "institution_down"], Said::Not(Unrelated::InstitutionDown)),
        (&["required", "brand_new"], unknown),
    ] {
        check(InputKind::ApiError, &several(codes), Ok(expected));
    }
}

#[test]
fn bodies_that_are_not_errors_of_belvo() {
    for (status, body, expected) in [
        (403, json!("<html><head><title>403 Forbidden</title></head></html>"), Said::Not(Unrelated::RateLimit)),
        (401, json!({"detail": "Invalid Secret Keys"}), Said::Not(Unrelated::Keys)),
        (404, json!({"detail": "Not found."}), Said::Event(Event::MissingReported)),
        (400, json!([{"field": "x", "terminal_id": [{"code": "invalid"}]}]), Said::Not(Unrelated::Request)),
        (400, json!({"detail": "The stars are not right"}), Said::Unknown("api_error 400 without_code".into())),
        (418, json!({"error": "teapot"}), Said::Unknown("api_error 418 teapot".into())),
        (504, Value::Null, Said::Not(Unrelated::Outage)),
        (429, json!("slow down"), Said::Not(Unrelated::RateLimit)),
    ] {
        check(InputKind::ApiError, &error(status, USE, body), Ok(expected));
    }
}

#[test]
fn the_key_of_an_api_error() {
    let key = |body: &Value| input(InputKind::ApiError, body).key;
    let first = one(400, USE, "invalid_link", "");
    assert!(key(&first).is_some());
    assert_eq!(key(&first), key(&first.clone()));
    assert_ne!(key(&first), key(&one(400, USE, "invalid_link", "again")));
    assert_ne!(key(&first), key(&one(400, REPAIR, "invalid_link", "")));
    assert_ne!(key(&first), key(&one(404, USE, "not_found", "")));
    let mut outside = error(400, USE, json!([{"code": "invalid_link"}]));
    assert_eq!(key(&outside), None);
    outside["request_id"] = json!("3e7b283c-6efa-449c-9c02-8a16b5c249fd");
    assert_eq!(key(&outside), key(&first));
}

#[test]
fn errors_about_another_link_or_of_another_shape() {
    let other: LinkId = "30cb4806-6e00-48a4-91c9-ca55968576c8".parse().unwrap();
    let mismatch = Err(Undecodable::LinkMismatch { expected: link(), found: other.clone() });
    let named = json!([{"code": "token_required", "link": other.as_str()}]);
    check(InputKind::ApiError, &error(428, USE, named), mismatch.clone());
    let path = format!("/api/links/{other}/refresh/");
    check(InputKind::ApiError, &one(400, ("POST", &path), "invalid_link", ""), mismatch);

    let status = Err(Undecodable::shape("$.http_status", "expected the status of an error, 400 to 599"));
    for wrong in [200, 0, 600] {
        check(InputKind::ApiError, &error(wrong, USE, Value::Null), status.clone());
    }
    let aliased = json!({"status": 400, "method": "GET", "path": "/x", "body": [{"code": "invalid_link"}], "new": 1});
    check(InputKind::ApiError, &aliased, Ok(broken(Cause::Credentials)));
}

//! Belvo's HTTP API: authentication, lists, checks of requests, and every error.

use std::time::Duration;

use belvo_sandbox::{AccessMode, ApiFault, LinkStatus, Login, NewFleetLink};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{Fixture, RECURRENT, codes};

#[tokio::test]
async fn wrong_secrets_are_refused() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/api/").await.0, 200);
    let url = format!("{}/api/links/", fixture.sandbox.url());
    for request in [fixture.client.get(&url), fixture.client.get(&url).basic_auth("sandbox", Some("nope"))] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body[0]["code"], "authentication_failed");
    }
    assert_eq!(fixture.refused(Method::GET, "/api/nothing/", Value::Null).await.1["code"], "not_found");
    assert_eq!(fixture.refused(Method::DELETE, "/api/links/", Value::Null).await.0, 405);
    assert_eq!(fixture.get("/api/institutions/").await.1["count"], 6);
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let fixture = Fixture::new().await;
    for number in 0..25 {
        let institution = if number % 2 == 0 { "erebor_mx_retail" } else { "gringotts_co_retail" };
        let link = fixture.control.add_link(institution, RECURRENT, Some(&format!("user-{number}"))).unwrap();
        if number % 5 == 0 {
            fixture.control.set_status(link, LinkStatus::Invalid).unwrap();
        }
    }
    let mut path = "/api/links/?page_size=10".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, body) = fixture.get(&path).await;
        assert_eq!((status, &body["count"]), (200, &json!(25)));
        seen.extend(body["results"].as_array().unwrap().iter().map(|link| link["id"].clone()));
        let Some(next) = body["next"].as_str() else { break };
        assert!(next.starts_with(&fixture.sandbox.url()), "{next}");
        path = next.to_owned();
    }
    seen.dedup();
    assert_eq!(seen.len(), 25);

    let count = async |query: &str| fixture.get(&format!("/api/links/?{query}")).await.1["count"].as_u64().unwrap();
    assert_eq!(count("status__in=invalid,token_required,unconfirmed").await, 5);
    assert_eq!(count("status__in=invalid%2Ctoken_required").await, 5);
    assert_eq!(count("institution=gringotts_co_retail&status=valid").await, 10);
    assert_eq!(count("external_id=user-7").await, 1);
    assert_eq!(count("access_mode=single").await, 0);
    assert_eq!(count("created_at__lt=2020-01-01").await, 0);
    assert_eq!(count("created_at__range=2020-01-01,2999-01-01").await, 25);
    assert_eq!(count(&format!("id__in={},{}", seen[0].as_str().unwrap(), Uuid::nil())).await, 1);
    let (one, other) = (seen[0].as_str().unwrap(), seen[1].as_str().unwrap());
    assert_eq!(count(&format!("id__in={one},{other}&id={one}")).await, 1);
    assert_eq!(count(&format!("id__in={one}&id={other}")).await, 0);
    assert_eq!(count("id=no-id").await, 0);
    let (_, two) = fixture.get(&format!("/api/links/?id__in={other},{one}")).await;
    assert_eq!((&two["results"][0]["id"], &two["results"][1]["id"]), (&json!(one), &json!(other)), "the newest first");
    let by = two["results"][0]["created_by"].as_str().unwrap();
    assert_eq!((count(&format!("created_by__not_in={by}")).await, count("created_by__not_in=else").await), (0, 25));
    assert_eq!(count("page_size=5000&no_such_filter=1").await, 25);
    assert_eq!(fixture.refused(Method::GET, "/api/links/?status=sad", Value::Null).await.1["code"], "invalid_choice");
    assert_eq!(fixture.refused(Method::GET, "/api/links/?page=9", Value::Null).await.0, 404);
    let some = fixture.get("/api/links/?page_size=1&fields=id,status").await.1;
    assert_eq!(some["results"][0].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_registration_is_checked_field_by_field() {
    let fixture = Fixture::new().await;
    let (status, errors) =
        fixture.post("/api/links/", json!({"institution": "narnia", "access_mode": "Australia"})).await;
    assert_eq!(status, 400);
    let found: Vec<_> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["field"].as_str().unwrap(), error["code"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("institution", "does_not_exist"),
            ("username", "required"),
            ("password", "required"),
            ("access_mode", "invalid_choice")
        ]
    );
    let register = |extra: Value| {
        let mut body = json!({"institution": "erebor_mx_retail", "username": "u", "password": "p"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let refused = async |extra: Value| {
        fixture.refused(Method::POST, "/api/links/", register(extra)).await.1["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(json!({"password": "wrong"})).await, "login_error");
    assert_eq!(refused(json!({"stale_in": "a year"})).await, "invalid");
    assert_eq!(refused(json!({"username": ""})).await, "blank");
    assert_eq!(refused(json!({"username": null})).await, "null");
    assert_eq!(
        refused(json!({"access_mode": "recurrent", "credentials_storage": "1d"})).await,
        "invalid_credentials_storage"
    );
    assert_eq!(refused(json!({"credentials_storage": "nostore"})).await, "invalid_fetch_resources");
    assert_eq!(refused(json!({"fetch_resources": "ACCOUNTS"})).await, "not_a_list");
    assert_eq!(refused(json!({"fetch_resources": ["INVOICES"]})).await, "invalid");
    let (status, link) = fixture.post("/api/links/", register(json!({"external_id": "user-1"}))).await;
    assert_eq!(status, 201);
    assert_eq!(
        (&link["status"], &link["access_mode"], &link["credentials_storage"], &link["refresh_rate"]),
        (&json!("valid"), &json!("single"), &json!("365d"), &Value::Null)
    );
    assert_eq!(link["institution_user_id"].as_str().unwrap().len(), 44);

    // A user who connects the same account anew has the key of before; another user or institution has another one.
    let user = async |extra: Value| fixture.post("/api/links/", register(extra)).await.1["institution_user_id"].clone();
    assert_eq!(user(json!({"external_id": "user-2"})).await, link["institution_user_id"]);
    assert_ne!(user(json!({"username": "another"})).await, link["institution_user_id"]);
    assert_ne!(user(json!({"institution": "gringotts_co_retail"})).await, link["institution_user_id"]);
}

#[tokio::test]
async fn data_needs_a_login_and_is_listed_after_it() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", AccessMode::Single, None).unwrap();
    let list = format!("/api/transactions/?link={link}");
    assert_eq!(fixture.get(&list).await.1["count"], 0);
    let (status, error) = fixture.refused(Method::POST, "/api/transactions/", json!({"link": link})).await;
    assert_eq!((status, &error["field"]), (400, &json!("date_from")));
    let (status, items) = fixture.post("/api/transactions/", json!({"link": link, "date_from": "2024-01-01"})).await;
    assert_eq!((status, items.as_array().unwrap().len()), (201, 24));
    assert_eq!(fixture.get(&list).await.1["count"], 24);
    // The filters of data, as Belvo's SDKs send them.
    let all = items.as_array().unwrap();
    let mut days: Vec<&str> = all.iter().map(|item| item["value_date"].as_str().unwrap()).collect();
    days.sort_unstable();
    let (from, to) = (days[4], days[15]);
    let within = |one: &dyn Fn(&str) -> bool| days.iter().filter(|day| one(day)).count();
    for (filter, expected) in [
        (format!("value_date__range={from},{to}"), within(&|day| (from..=to).contains(&day))),
        (format!("value_date__gte={from}"), within(&|day| day >= from)),
        (format!("value_date__lte={to}"), within(&|day| day <= to)),
        (format!("value_date__gt={from}&value_date__lt={to}"), within(&|day| day > from && day < to)),
        (format!("value_date={from}"), within(&|day| day == from)),
        ("type=INFLOW".to_owned(), all.iter().filter(|item| item["type"] == "INFLOW").count()),
        // Unknown filters are ignored, and so is a date that transactions do not have.
        ("colour=red&invoice_date__gte=2999-01-01".to_owned(), 24),
        (format!("link__in={link},{}", Uuid::nil()), 24),
    ] {
        let (_, listed) = fixture.get(&format!("{list}&{filter}&page_size=3&page=1")).await;
        assert_eq!(
            (&listed["count"], listed["results"].as_array().unwrap().len()),
            (&json!(expected), expected.min(3)),
            "{filter}"
        );
    }
    assert!(within(&|day| (from..=to).contains(&day)) < 24);
    let (status, error) = fixture.refused(Method::GET, &format!("{list}&value_date__gte=soon"), Value::Null).await;
    assert_eq!((status, &error["field"]), (400, &json!("value_date__gte")));
    let fiscal = fixture.control.add_link("tatooine_mx_fiscal", AccessMode::Single, None).unwrap();
    assert_eq!(fixture.log_in(fiscal).await.1, "unsupported_operation");
    assert_eq!(fixture.log_in(Uuid::nil()).await.1, "does_not_exist");
}

#[tokio::test]
async fn every_resource_of_an_institution_has_its_calls() {
    let fixture = Fixture::new().await;
    let (_, institutions) = fixture.get("/api/institutions/").await;
    for institution in institutions["results"].as_array().unwrap() {
        let name = institution["name"].as_str().unwrap();
        if name == "heimdall_mx_retail" {
            continue;
        }
        let link = fixture.control.add_link(name, AccessMode::Single, None).unwrap();
        for resource in institution["resources"].as_array().unwrap() {
            let path = format!("/api/{}/", resource.as_str().unwrap().to_lowercase().replace('_', "-"));
            let list = format!("{path}?link={link}");
            assert_eq!(fixture.get(&list).await.1["count"], 0, "{path}");
            let (status, items) = fixture.post(&path, json!({"link": link, "date_from": "2024-01-01"})).await;
            let count = items.as_array().unwrap().len();
            assert!(status == 201 && count > 0, "{path}: {status} {items}");
            let (_, listed) = fixture.get(&list).await;
            assert_eq!(listed["count"], count, "{path}");
            assert_eq!(listed["results"], items, "{path}");
            let ids: std::collections::BTreeSet<_> =
                listed["results"].as_array().unwrap().iter().map(|item| item["id"].as_str()).collect();
            assert_eq!(ids.len(), count, "{path}");
        }
        let lacking = if name == "tatooine_mx_fiscal" { "owners" } else { "invoices" };
        let (_, refused) = fixture.post(&format!("/api/{lacking}/"), json!({"link": link})).await;
        assert_eq!(refused[0]["code"], "unsupported_operation");
        assert_eq!(fixture.get(&format!("/api/{lacking}/?link={link}")).await.1["count"], 0);
    }
}

#[tokio::test]
async fn a_page_over_all_links_has_the_right_items() {
    let fixture = Fixture::new().await;
    for _ in 0..5 {
        fixture.control.create_link("erebor_mx_retail", RECURRENT, None).unwrap();
    }
    let ids = async |path: &str| {
        let (_, body) = fixture.get(path).await;
        assert_eq!(body["count"], 120);
        body["results"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect::<Vec<_>>()
    };
    let all = ids("/api/transactions/?page_size=1000").await;
    assert_eq!(all.len(), 120);
    for page in 1..=4 {
        let some = ids(&format!("/api/transactions/?page_size=35&page={page}")).await;
        assert_eq!(some, all[(page - 1) * 35..(page * 35).min(120)], "page {page}");
    }
}

#[tokio::test]
async fn synchronous_deletions_are_limited_and_asynchronous_ones_send_a_webhook() {
    let mut fixture = Fixture::new().await;
    let links: Vec<Uuid> =
        (0..7).map(|_| fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap()).collect();
    let path = |index: usize| format!("/api/links/{}/", links[index]);
    for index in 0..5 {
        assert_eq!(fixture.call(Method::DELETE, &path(index), Value::Null).await.0, 204);
    }
    assert_eq!(fixture.refused(Method::DELETE, &path(5), Value::Null).await.0, 429);
    fixture.control.advance(Duration::from_secs(60));
    assert_eq!(fixture.call(Method::DELETE, &path(5), Value::Null).await.0, 204);
    assert_eq!(fixture.refused(Method::GET, &path(5), Value::Null).await.0, 404);

    let request = fixture.client.delete(format!("{}{}", fixture.sandbox.url(), path(6)));
    let request = request.basic_auth("sandbox", Some("sandbox")).header("X-Belvo-Request-Mode", "async");
    assert_eq!(request.send().await.unwrap().status(), 202);
    assert_eq!(codes(&fixture.webhooks(1).await), ["LINK/link_deleted"]);
    assert_eq!(fixture.status(links[6]).await, "gone");
}

#[tokio::test]
async fn token_requests_are_checked() {
    let fixture = Fixture::new().await;
    let (status, errors) = fixture.post("/api/token/", json!({})).await;
    assert_eq!((status, errors.as_array().unwrap().len()), (400, 3));
    let body = |password: &str, scopes: &str, link: &str| {
        json!({
            "id": "sandbox", "password": password, "scopes": scopes, "link_id": link,
        })
    };
    let nil = Uuid::nil().to_string();
    let scopes = "read_institutions,write_links";
    for (request, status, code) in [
        (body("nope", scopes, &nil), 401, "authentication_failed"),
        (body("sandbox", "rule_the_world", &nil), 400, "invalid"),
        (body("sandbox", scopes, "not-an-id"), 400, "invalid"),
        (body("sandbox", scopes, &nil), 400, "does_not_exist"),
    ] {
        let (found, error) = fixture.refused(Method::POST, "/api/token/", request).await;
        assert_eq!((found, error["code"].as_str().unwrap()), (status, code));
    }
}

#[tokio::test]
async fn api_faults_are_applied() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    for (code, status) in [
        ("unexpected_error", 500),
        ("institution_down", 400),
        ("too_many_sessions", 400),
        ("session_expired", 400),
        ("consent_without_accounts", 401),
        ("authentication_failed", 401),
        ("access_to_resource_denied", 403),
        ("operational_limits_reached", 400),
    ] {
        fixture.control.fail_api(ApiFault::Error(code.into()), 1, "POST /api/accounts/").unwrap();
        assert_eq!(fixture.get("/api/links/").await.0, 200, "the fault does not apply to this call");
        assert_eq!(fixture.log_in(link).await, (status, code.to_owned()));
        assert_eq!(fixture.log_in(link).await.0, 201);
    }
    fixture.control.fail_api(ApiFault::Timeout(Duration::from_millis(1)), 1, "").unwrap();
    assert_eq!(fixture.log_in(link).await, (408, "request_timeout".into()));
    fixture.control.fail_api(ApiFault::RateLimited(Duration::from_secs(7)), 1, "").unwrap();
    let url = format!("{}/api/links/", fixture.sandbox.url());
    let response = fixture.client.get(url).basic_auth("sandbox", Some("sandbox")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    fixture.control.fail_api(ApiFault::Error("forbidden_html".into()), 1, "").unwrap();
    assert_eq!(fixture.get("/api/links/").await, (403, Value::Null));
    let unknown = fixture.control.fail_api(ApiFault::Error("no_such_code".into()), 1, "").unwrap_err().to_string();
    assert!(unknown.contains("`no_such_code`") && unknown.contains("/sandbox/codes"), "{unknown}");
    assert!(fixture.control.set_login(link, Login::Answers("no_such_code".into())).is_err());
    fixture.control.set_login(link, Login::Answers("too_many_sessions".into())).unwrap();
    assert_eq!(fixture.log_in(link).await.1, "too_many_sessions");
    assert_eq!(fixture.status(link).await, "valid");
}

#[tokio::test]
async fn a_token_fault_applies_to_any_call_that_names_a_link() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    let refresh = format!("/api/links/{link}/refresh/");
    for (path, body) in [("/api/owners/", json!({"link": link})), (refresh.as_str(), Value::Null)] {
        let fault = json!({"kind": "token_required"});
        assert_eq!(fixture.post("/sandbox/faults/api", fault).await.0, 200);
        assert_eq!(fixture.get("/api/links/").await.0, 200, "the fault does not apply to a call that names no link");
        let (status, error) = fixture.refused(Method::POST, path, body).await;
        assert_eq!((status, &error["code"], &error["link"]), (428, &json!("token_required"), &json!(link)));
        let resumed = json!({"session": error["session"], "link": link, "token": "123456"});
        assert_eq!(fixture.call(Method::PATCH, "/api/links/", resumed).await.0, 200);
    }
}

#[tokio::test]
async fn every_listed_code_can_be_set() {
    let fixture = Fixture::new().await;
    for code in fixture.get("/sandbox/codes").await.1.as_array().unwrap() {
        let code = code.as_str().unwrap();
        assert_eq!(fixture.post("/sandbox/faults/api", json!({"kind": code})).await.0, 200, "{code}");
    }
}

#[tokio::test]
async fn every_refusal_is_json() {
    let fixture = Fixture::new().await;
    let (status, error) = fixture.refused(Method::GET, "/api/consents/abc/", Value::Null).await;
    assert_eq!((status, &error["code"]), (404, &json!("not_found")));
    let url = |path: &str| format!("{}{path}", fixture.sandbox.url());
    let id = Uuid::nil();
    for (request, status) in [
        (fixture.client.get(url("/sandbox/links/abc/quotas")), 400),
        (fixture.client.post(url("/sandbox/deliveries/one/replay")), 400),
        (fixture.client.post(url("/sandbox/deliveries/1/replay")).body("{"), 400),
        (fixture.client.get(url("/sandbox/deliveries?after=x")), 400),
        (fixture.client.get(url("/sandbox/deliveries?limit=5&since=1")), 400),
        (fixture.client.post(url("/sandbox/links")).body("{}"), 415),
        (fixture.client.post(url("/sandbox/links")).header("content-type", "application/json").body("{"), 400),
        (fixture.client.post(url("/sandbox/links")).json(&json!({"institution": 1})), 422),
        (fixture.client.post(url(&format!("/sandbox/links/{id}/status"))).json(&json!({"status": "valid"})), 404),
    ] {
        let response = request.send().await.unwrap();
        let (path, found) = (response.url().path().to_owned(), response.status());
        let body: Value = response.json().await.unwrap_or_default();
        assert!(
            found == status && body["error"].as_str().is_some_and(|text| !text.is_empty()),
            "{path}: {found} {body}"
        );
    }
}

#[tokio::test]
async fn a_restarted_sandbox_has_the_links_of_before_and_knows_their_users() {
    let first = Fixture::new().await;
    let name = NewFleetLink { username: Some("maria".into()), ..NewFleetLink::default() };
    let earlier = NewFleetLink { created_at_ms: Some(1_700_000_000_000), ..name.clone() };
    first.control.add_fleet_link(earlier).unwrap();
    first.control.add_fleet_link(name.clone()).unwrap();
    for _ in 0..2 {
        let consent = NewFleetLink { institution: "ofmockbank_br_retail".into(), ..NewFleetLink::default() };
        first.control.add_fleet_link(consent).unwrap();
    }
    let links = first.control.links();
    first.control.expire_consent(links[2]["id"].as_str().unwrap().parse().unwrap()).unwrap();
    let links = first.control.kept_links();
    let (now, access) = (links[1]["created_at"].as_str(), links[1]["last_accessed_at"].as_str());
    assert_eq!(access, now, "nobody has had access to the account in the future");

    let second = Fixture::with(|config| config.seed = 7).await;
    links.iter().for_each(|link| second.control.restore_link(link).unwrap());
    let restored = second.control.kept_links();
    assert_eq!((&links[2]["consent"]["status"], links[3]["consent"].is_object()), (&json!("EXPIRED"), true));
    for field in ["consent", "id", "created_at", "last_accessed_at", "institution_user_id", "external_id", "status"] {
        assert!(links.iter().zip(&restored).all(|(link, again)| link[field] == again[field]), "{field}: {restored:?}");
    }
    let anew = second.control.add_fleet_link(name).unwrap();
    assert_eq!(second.control.link(anew).unwrap()["institution_user_id"], links[0]["institution_user_id"]);
}

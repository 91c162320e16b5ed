//! The life of a link: it breaks, is repaired, refreshed and deleted.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use belvo_sandbox::{AccessMode, LinkStatus, Login, LoginFailure, RefreshOutcome};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{Fixture, RECURRENT, codes};

#[tokio::test]
async fn heimdall_requires_a_token_at_every_login() {
    let mut fixture = Fixture::new().await;
    let body = json!({
        "institution": "heimdall_mx_retail", "username": "mfa_default", "password": "pass_valid",
        "access_mode": "recurrent",
    });
    let (status, error) = fixture.refused(Method::POST, "/api/links/", body).await;
    assert_eq!((status, &error["code"], &error["expiry"]), (428, &json!("token_required"), &json!(9600)));
    assert_eq!(error["token_generation_data"]["expects_user_input"], true);
    let (link, session) = (error["link"].as_str().unwrap(), error["session"].as_str().unwrap());
    let id: Uuid = link.parse().unwrap();
    assert_eq!(fixture.status(id).await, "unconfirmed");
    assert_eq!(fixture.log_in(id).await, (400, "unconfirmed_link".into()));

    let resume = |session: &str, token: &str| json!({"session": session, "link": link, "token": token});
    let (status, error) = fixture.refused(Method::PATCH, "/api/links/", resume(session, "wrong")).await;
    assert_eq!((status, &error["code"]), (428, &json!("token_required")));
    let (status, body) =
        fixture.call(Method::PATCH, "/api/links/", resume(error["session"].as_str().unwrap(), "1234ab")).await;
    assert_eq!((status, &body["status"]), (200, &json!("valid")));
    assert_eq!(fixture.webhooks(3).await.len(), 3);
    let (status, error) = fixture.refused(Method::PATCH, "/api/links/", resume(session, "1234ab")).await;
    assert_eq!((status, &error["code"]), (404, &json!("not_found")));

    // Any POST after the registration, as in Belvo's update mode guide.
    assert_eq!(fixture.log_in(id).await, (428, "token_required".into()));
    assert_eq!(fixture.status(id).await, "token_required");
    let (_, error) = fixture.refused(Method::POST, "/api/owners/", json!({"link": link})).await;
    fixture.control.advance(Duration::from_secs(9_600));
    let session = error["session"].as_str().unwrap();
    let (status, error) = fixture.refused(Method::PATCH, "/api/owners/", resume(session, "1234ab")).await;
    assert_eq!((status, &error["code"]), (400, &json!("session_expired")));
    assert_eq!(fixture.status(id).await, "token_required");
}

#[tokio::test]
async fn a_session_is_resumed_with_its_token_unless_it_expects_none() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    let path = format!("/sandbox/links/{link}/login");
    let asked = async |login: &str| {
        assert_eq!(fixture.post(&path, json!({"login": login})).await.0, 200);
        let (status, error) = fixture.refused(Method::POST, "/api/owners/", json!({"link": link})).await;
        assert_eq!((status, fixture.status(link).await.as_str()), (428, "token_required"));
        let data = &error["token_generation_data"];
        (error["session"].clone(), data["type"].clone(), data["expects_user_input"].clone())
    };
    let (session, kind, expects_input) = asked("token_required").await;
    assert_eq!((kind, expects_input), (json!("numeric"), json!(true)));
    let body = json!({"session": session, "link": link});
    for resource in ["/api/links/", "/api/owners/"] {
        let (status, error) = fixture.refused(Method::PATCH, resource, body.clone()).await;
        assert_eq!((status, &error["code"], &error["field"]), (400, &json!("required"), &json!("token")));
    }
    let mut with_token = body;
    with_token["token"] = json!("123456");
    let (status, error) = fixture.refused(Method::PATCH, "/api/invoices/", with_token.clone()).await;
    assert_eq!((status, &error["code"]), (400, &json!("unsupported_operation")));
    assert_eq!(fixture.status(link).await, "token_required", "the session is still open after these calls");
    let (status, owners) = fixture.call(Method::PATCH, "/api/owners/", with_token).await;
    assert_eq!((status, owners.as_array().map(Vec::len)), (200, Some(1)));

    let (session, kind, expects_input) = asked("qr_required").await;
    assert_eq!((kind, expects_input), (json!("QR"), json!(false)));
    let body = json!({"session": session, "link": link});
    assert_eq!(fixture.call(Method::PATCH, "/api/links/", body).await.0, 200);
    assert_eq!(fixture.status(link).await, "valid");
    assert_eq!(fixture.post(&path, json!({"login": "qr_required"})).await.0, 200);
    let put = json!({"password": "new", "token": "123456"});
    let (status, error) = fixture.refused(Method::PUT, &format!("/api/links/{link}/"), put).await;
    assert_eq!((status, &error["token_generation_data"]["type"]), (428, &json!("QR")));
}

#[tokio::test]
async fn six_failed_logins_make_a_link_invalid() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", AccessMode::Single, None).unwrap();
    fixture.control.set_login(link, Login::Fails(LoginFailure::Unexpected)).unwrap();
    for _ in 0..7 {
        assert_eq!(fixture.log_in(link).await, (400, "login_error".into()));
    }
    assert_eq!(fixture.status(link).await, "valid", "an unexpected error does not count as a refused login");
    fixture.control.set_login(link, Login::Fails(LoginFailure::Locked)).unwrap();
    for attempt in 1..=6 {
        assert_eq!(fixture.status(link).await, "valid", "before attempt {attempt}");
        let (_, error) = fixture.refused(Method::POST, "/api/accounts/", json!({"link": link})).await;
        assert_eq!(error["message"], LoginFailure::Locked.message());
    }
    assert_eq!(fixture.status(link).await, "invalid");
    assert_eq!(fixture.log_in(link).await, (400, "invalid_link".into()));

    let path = format!("/api/links/{link}/");
    let put = async |password: &str| fixture.call(Method::PUT, &path, json!({"password": password})).await;
    assert_eq!(put("new").await.1[0]["code"], "login_error", "a new password does not unlock an account");
    fixture.control.set_login(link, Login::Fails(LoginFailure::InvalidCredentials)).unwrap();
    assert_eq!(put("wrong again").await.0, 400);
    assert_eq!(fixture.status(link).await, "invalid");
    assert_eq!(put("new").await.1["status"], "valid");
    assert_eq!(fixture.log_in(link).await, (201, String::new()));
    fixture.control.set_login(link, Login::TokenRequired).unwrap();
    let (status, body) = put("new").await;
    assert_eq!((status, &body[0]["link"]), (428, &json!(link)));
    assert_eq!(fixture.status(link).await, "token_required");
}

#[tokio::test]
async fn credentials_are_deleted_after_their_storage_time() {
    let fixture = Fixture::new().await;
    let body = json!({
        "institution": "erebor_mx_retail", "username": "u", "password": "p", "credentials_storage": "1d",
    });
    let link: Uuid = fixture.post("/api/links/", body).await.1["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(fixture.log_in(link).await.0, 201);
    fixture.control.advance(Duration::from_secs(24 * 3600));
    assert_eq!(fixture.log_in(link).await, (404, "expired_credentials".into()));
    assert_eq!(fixture.status(link).await, "valid", "this 404 does not mean that the link is deleted");
    let path = format!("/api/links/{link}/");
    let recurrent = json!({"access_mode": "recurrent", "stale_in": "30d"});
    let (status, error) = fixture.refused(Method::PATCH, &path, recurrent.clone()).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_access_mode_switch")));
    let (_, unchanged) = fixture.get(&path).await;
    assert_eq!((&unchanged["access_mode"], &unchanged["stale_in"]), (&json!("single"), &json!("365d")));
    assert_eq!(fixture.call(Method::PUT, &path, json!({"password": "typed again"})).await.0, 200);
    assert_eq!(fixture.call(Method::PATCH, &path, recurrent).await.1["access_mode"], "recurrent");
    for wrong in ["30", "d", "1000d", "-1d", "30 d"] {
        let (status, error) = fixture.refused(Method::PATCH, &path, json!({"stale_in": wrong})).await;
        assert_eq!((status, &error["field"]), (400, &json!("stale_in")), "{wrong}");
    }
    let consent = fixture.control.add_link("ofmockbank_br_retail", AccessMode::Single, None).unwrap();
    fixture.control.advance(Duration::from_secs(365 * 24 * 3600));
    assert_eq!(fixture.log_in(consent).await.0, 201, "a consent has no credentials that could expire");
}

#[tokio::test]
async fn a_refresh_sends_webhooks_and_starts_a_cool_down() {
    let mut fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", AccessMode::Single, Some("user-1")).unwrap();
    let path = format!("/api/links/{link}/refresh/");
    let (status, receipt) = fixture.post(&path, Value::Null).await;
    assert_eq!(status, 202);
    let request_id = receipt["request_id"].as_str().unwrap().to_owned();
    assert_eq!(request_id.len(), 32);
    let webhooks = fixture.webhooks(3).await;
    assert_eq!(
        codes(&webhooks),
        ["ACCOUNTS/historical_update", "OWNERS/historical_update", "TRANSACTIONS/historical_update"]
    );
    for webhook in &webhooks {
        let dashed = webhook["request_id"].as_str().unwrap();
        assert_eq!(dashed.replace('-', ""), request_id);
        assert_eq!(dashed.len(), 36);
        assert_eq!((&webhook["link_id"], &webhook["external_id"]), (&json!(link), &json!("user-1")));
    }
    assert_eq!(webhooks[0]["data"], json!({"total_accounts": 2}));
    fixture.control.advance(Duration::from_secs(61));
    let (status, error) = fixture.refused(Method::POST, &path, Value::Null).await;
    assert_eq!((status, &error["code"]), (409, &json!("link_refreshed")));
    assert!(error["message"].as_str().unwrap().contains("Please wait 9 minutes"), "{error}");
    fixture.control.advance(Duration::from_secs(600));
    assert_eq!(fixture.post(&path, json!({"fetch_resources": ["OWNERS"]})).await.0, 202);
    assert_eq!(codes(&fixture.webhooks(1).await), ["OWNERS/historical_update"]);
    fixture.control.advance(Duration::from_secs(600));
    fixture.control.set_status(link, LinkStatus::TokenRequired).unwrap();
    assert_eq!(fixture.post(&path, Value::Null).await.0, 428);
}

#[tokio::test]
async fn update_mode_repairs_under_the_same_id() {
    let mut fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, Some("user-1")).unwrap();
    fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
    let broken = fixture.webhook().await;
    assert_eq!(codes(std::slice::from_ref(&broken)), ["LINK/invalid_credentials"]);
    assert_eq!(
        broken["data"],
        json!({
            "error_code": "login_error", "status": 400,
            "error_message": "Invalid credentials provided to login to the institution",
        })
    );
    assert_eq!(broken["process_type"], "recurrent_update");
    assert_eq!(fixture.status(link).await, "invalid");

    let token = fixture.token(link).await;
    assert_eq!(token.split('.').count(), 3);
    let page =
        fixture.client.get(format!("{}/widget/?access_token={token}", fixture.sandbox.url())).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("/widget/complete"));
    let closed = json!({"meta_data": {"institution_name": "erebor_mx_retail", "step": "abandon-survey"}});
    assert_eq!(fixture.widget(&token, "exit").await, (200, closed));
    assert_eq!(fixture.widget(&token, "wrong_password").await.1["eventName"], "ERROR");
    assert_eq!(fixture.widget(&token, "exit").await.1["last_encountered_error"]["code"], "login_error");
    assert_eq!(fixture.widget(&token, "error").await.1["error"], "ACCESS_TOKEN_NOT_VALID");
    assert_eq!(fixture.status(link).await, "invalid", "only success repairs");

    let success = json!({"link": link, "institution": "erebor_mx_retail"});
    assert_eq!(fixture.widget(&token, "success").await, (200, success));
    assert_eq!(fixture.status(link).await, "valid");
    assert_eq!(fixture.webhooks(3).await[0]["process_type"], "historical_update");
    assert_eq!(fixture.widget(&token, "success").await.0, 401, "a success invalidates the token");

    for scopes in ["read_institutions,write_links", "read_links", "read_consents,write_consents"] {
        let token = fixture.token_of(link, scopes).await;
        assert_eq!(fixture.widget(&token, "success").await.0, 401, "{scopes} is not enough for update mode");
    }
    let late = fixture.token(link).await;
    fixture.control.advance(Duration::from_secs(600));
    assert_eq!(fixture.widget(&late, "success").await.0, 401, "a token is valid for ten minutes");
}

#[tokio::test]
async fn the_widget_redirects_to_its_deep_links() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    let callback_urls = json!({"success": "shop://done", "exit": "shop://left?from=widget", "event": "shop://event"});
    let body = json!({
        "id": "sandbox", "password": "sandbox", "link_id": link, "scopes": "write_links,read_links",
        "widget": {"callback_urls": callback_urls},
    });
    let (_, token) = fixture.post("/api/token/", body).await;
    let go = async |outcome: &str| {
        let url = format!("{}/widget/complete", fixture.sandbox.url());
        let body = json!({"access_token": token["access"], "outcome": outcome});
        let response = fixture.client.post(url).json(&body).send().await.unwrap();
        response.headers().get("x-sandbox-callback-url").map(|url| url.to_str().unwrap().to_owned())
    };
    let left = "meta_data_institution_name=erebor_mx_retail&meta_data_step=abandon-survey";
    assert_eq!(go("exit").await, Some(format!("shop://left?from=widget&{left}")));
    assert_eq!(go("wrong_password").await, None);
    let error = "last_encountered_error_code=login_error&last_encountered_error_message=\
                 Invalid+credentials+provided+to+login+to+the+institution";
    assert_eq!(go("exit").await, Some(format!("shop://left?from=widget&{error}&{left}")));
    let rejected = "error=ACCESS_TOKEN_NOT_VALID&error_message=The+access+token+is+not+valid+or+has+expired.";
    assert_eq!(go("error").await, Some(format!("shop://event?{rejected}")));
    assert_eq!(go("success").await, Some(format!("shop://done?link={link}&institution=erebor_mx_retail")));
}

#[tokio::test]
async fn a_token_names_its_link_and_the_page_names_its_bank() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    fixture.control.set_status(link, LinkStatus::TokenRequired).unwrap();
    let token = fixture.token(link).await;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let expected = json!({"id": link, "status": "token_required", "institution": "erebor_mx_retail"});
    assert_eq!(claims["link"], expected);
    let session = fixture.call(Method::POST, "/widget/session", json!({"access_token": token})).await;
    assert_eq!(session, (200, json!({"institution": "erebor_mx_retail", "display_name": "Erebor"})));
    let unknown = fixture.call(Method::POST, "/widget/session", json!({"access_token": "x"})).await;
    assert_eq!(unknown.0, 401);
}

#[tokio::test]
async fn a_repair_without_new_data_sends_no_webhook() {
    let fixture = Fixture::new().await;
    let link = fixture.control.add_link("gringotts_co_retail", RECURRENT, None).unwrap();
    fixture.control.set_fresh_data(link, false).unwrap();
    fixture.control.scheduled_refresh(link, RefreshOutcome::TokenRequired).unwrap();
    let token = fixture.token(link).await;
    assert_eq!(fixture.widget(&token, "success").await.0, 200);
    fixture.control.outbox_idle().await.unwrap();
    let deliveries = fixture.control.deliveries(0);
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
    assert_eq!(deliveries[0].webhook_code, "token_required");
    assert_eq!(deliveries[0].body["data"]["status"], 428);
}

#[tokio::test]
async fn consents_are_announced_end_and_are_renewed() {
    let mut fixture = Fixture::new().await;
    let link = fixture.control.add_link("ofmockbank_br_retail", RECURRENT, Some("user-1")).unwrap();
    let path = format!("/api/consents/?link_id={link}");
    assert_eq!(fixture.get(&path).await.1["results"][0]["status"], "AUTHORISED");
    fixture.control.consent_about_to_expire(link, Duration::from_secs(3 * 24 * 3600)).unwrap();
    let near = fixture.webhook().await;
    assert_eq!(codes(std::slice::from_ref(&near)), ["CONSENT/openfinance_consent_about_to_expire"]);
    assert!(near.get("request_id").is_none());
    assert!(near["data"]["consent_due_date"].is_string());
    fixture.control.expire_consent(link).unwrap();
    let ended = fixture.webhook().await;
    assert_eq!((&ended["data"]["action"], ended["data"].get("consent_due_date")), (&json!("renew"), None));
    assert_eq!(fixture.get(&path).await.1["results"][0]["status"], "EXPIRED");
    assert_eq!(fixture.log_in(link).await.1, "invalid_link");
    fixture.control.renew_consent(link).unwrap();
    let codes = codes(&fixture.webhooks(5).await);
    assert_eq!(codes[0], "CONSENT/openfinance_consent_expiration_changed");
    assert_eq!(codes[4], "BILLS/historical_update");
    assert_eq!(fixture.status(link).await, "valid");
}

#[tokio::test]
async fn the_monthly_wipe_deletes_all_links() {
    let fixture = Fixture::new().await;
    let links: Vec<Uuid> =
        (0..4).map(|_| fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap()).collect();
    assert_eq!(fixture.control.wipe(), 4);
    for link in links {
        assert_eq!(fixture.status(link).await, "gone");
    }
    assert!(fixture.control.deliveries(0).is_empty());
}

//! The renewal of a consent in the portal, and the calls that cannot renew it.

use belvo_sandbox::RefreshOutcome;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{Fixture, RECURRENT, codes};

const SCOPES: &str = "read_consents,write_consents,write_consent_callback";

/// A link whose consent has ended, and the consent's id.
async fn ended(fixture: &mut Fixture) -> (Uuid, Value) {
    let link = fixture.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    fixture.control.expire_consent(link).unwrap();
    let received = fixture.webhook().await;
    assert_eq!(fixture.status(link).await, "invalid");
    (link, received["data"]["consent_id"].clone())
}

/// A token as in the guide "My Belvo Portal".
async fn portal_token(fixture: &Fixture, scopes: &str, feature: &str) -> String {
    let widget = json!({"openfinance_feature": feature, "callback_urls": {"success": "app://done?from=portal"}});
    let body = json!({"id": "sandbox", "password": "sandbox", "scopes": scopes, "widget": widget});
    let (status, body) = fixture.post("/api/token/", body).await;
    assert_eq!(status, 200, "{body}");
    body["access"].as_str().unwrap().to_owned()
}

fn renewal(token: &str, link: Uuid, consent: &Value) -> Value {
    json!({"access_token": token, "link_id": link, "consent_id": consent, "action": "renew"})
}

#[tokio::test]
async fn a_consent_has_no_update_mode() {
    let mut fixture = Fixture::new().await;
    let (link, _) = ended(&mut fixture).await;
    let put = fixture.refused(Method::PUT, &format!("/api/links/{link}/"), json!({"password": "new"})).await;
    assert_eq!((put.0, &put.1["code"]), (400, &json!("unsupported_operation")));
    let update_mode = json!({
        "id": "sandbox", "password": "sandbox", "link_id": link, "scopes": "read_institutions,write_links,read_links",
    });
    let minted = fixture.refused(Method::POST, "/api/token/", update_mode).await;
    assert_eq!((minted.0, &minted.1["code"]), (400, &json!("unsupported_operation")));
    fixture.control.scheduled_refresh(link, RefreshOutcome::TokenRequired).unwrap();
    let (_, asked) = fixture.refused(Method::POST, "/api/accounts/", json!({"link": link})).await;
    let resumed = json!({"session": asked["session"], "link": link, "token": "123456"});
    let patch = fixture.refused(Method::PATCH, "/api/links/", resumed).await;
    assert_eq!((patch.0, &patch.1["code"]), (400, &json!("unsupported_operation")));
    let path = format!("/api/consents/?link_id={link}");
    assert_eq!(fixture.get(&path).await.1["results"][0]["status"], "EXPIRED");
}

#[tokio::test]
async fn a_consent_is_renewed_in_the_portal() {
    let mut fixture = Fixture::new().await;
    let (link, consent) = ended(&mut fixture).await;
    let token = portal_token(&fixture, SCOPES, "consent_management").await;
    let page =
        fixture.client.get(format!("{}/portal/?access_token={token}", fixture.sandbox.url())).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("data-action=\"renew\""));

    let other = fixture.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    let mut extend = renewal(&token, link, &consent);
    extend["action"] = json!("extend");
    for (wrong, status) in [
        (renewal("made.up.token", link, &consent), 401),
        (renewal(&portal_token(&fixture, SCOPES, "consent_link_creation").await, link, &consent), 401),
        (
            renewal(
                &portal_token(&fixture, "read_consents,write_consents", "consent_management").await,
                link,
                &consent,
            ),
            401,
        ),
        (renewal(&token, other, &consent), 404),
        (renewal(&token, link, &json!(Uuid::nil())), 404),
        (renewal(&token, link, &json!("b2c17cb6")), 400),
        (extend, 400),
    ] {
        assert_eq!(fixture.post("/portal/renew", wrong.clone()).await.0, status, "{wrong}");
        assert_eq!(fixture.status(link).await, "invalid", "{wrong}");
    }

    // A user who leaves changes nothing, and may come back with the same token.
    assert_eq!(fixture.post("/portal/leave", json!({"access_token": token})).await, (200, json!({})));
    assert_eq!(fixture.status(link).await, "invalid");

    let (status, answer) = fixture.post("/portal/renew", renewal(&token, link, &consent)).await;
    assert_eq!((status, answer), (200, json!({"link": link, "consent": consent})));
    assert_eq!(fixture.status(link).await, "valid");
    let received = codes(&fixture.webhooks(5).await);
    assert_eq!(
        (received[0].as_str(), received[4].as_str()),
        ("CONSENT/openfinance_consent_expiration_changed", "BILLS/historical_update")
    );
    assert_eq!(
        fixture.post("/portal/renew", renewal(&token, link, &consent)).await.0,
        401,
        "a success invalidates the token"
    );
}

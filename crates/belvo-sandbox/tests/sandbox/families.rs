//! The webhooks of each documented resource.

use belvo_sandbox::{AccessMode, ConsentLack, Correction, RefreshOutcome, WebhookFault};
use serde_json::json;

use crate::fixture::{Fixture, RECURRENT, codes};

/// For each resource: an institution that has it, its type, the codes of its first history, and the code of new data.
const FAMILIES: &[(&str, &str, &[&str], Option<&str>)] = &[
    ("ofmockbank_br_retail", "ACCOUNTS", &["historical_update"], Some("new_accounts_available")),
    ("ofmockbank_br_retail", "OWNERS", &["historical_update"], Some("new_owners_available")),
    ("ofmockbank_br_retail", "TRANSACTIONS", &["historical_update"], Some("new_transactions_available")),
    ("ofmockbank_br_retail", "BILLS", &["historical_update"], Some("new_bills_available")),
    ("ofmockbank_br_retail", "INVESTMENTS", &["historical_update"], Some("new_investments_available")),
    (
        "ofmockbank_br_retail",
        "INVESTMENT_TRANSACTIONS",
        &["historical_update"],
        Some("new_investment_transactions_available"),
    ),
    ("ofmockbank_br_retail", "INCOMES", &["historical_update"], None),
    ("ofmockbank_br_retail", "RECURRING_EXPENSES", &["historical_update"], None),
    ("ofmockbank_br_retail", "RISK_INSIGHTS", &["historical_update"], None),
    (
        "tatooine_mx_fiscal",
        "INVOICES",
        &["initial_inflow_update", "initial_outflow_update"],
        Some("new_invoices_available"),
    ),
    // One webhook for yearly and one for monthly tax returns.
    (
        "tatooine_mx_fiscal",
        "TAX_RETURNS",
        &["historical_update", "historical_update"],
        Some("new_tax_returns_available"),
    ),
    ("planet_mx_employment", "EMPLOYMENT_RECORDS", &["historical_update"], Some("employment_changes")),
    ("planet_br_employment", "EMPLOYMENTS", &["historical_update"], Some("new_employments_available")),
];

#[tokio::test]
async fn every_family_has_its_codes() {
    let mut fixture = Fixture::new().await;
    let spelt = |family: &str, codes: &[&str]| codes.iter().map(|code| format!("{family}/{code}")).collect::<Vec<_>>();
    for &(institution, family, first, news) in FAMILIES {
        let new = json!({"institution": institution, "fetch_resources": [family]});
        let (status, answer) = fixture.post("/sandbox/links", new).await;
        assert_eq!(status, 200, "{answer}");
        let link = answer["link"].as_str().unwrap().parse().unwrap();
        assert_eq!(codes(&fixture.webhooks(first.len()).await), spelt(family, first));

        // Only TAX_RETURNS has two webhooks for a later history, with the same code.
        let times = if family == "TAX_RETURNS" { 2 } else { 1 };
        assert_eq!(fixture.post(&format!("/api/links/{link}/refresh/"), json!({})).await.0, 202);
        let again = fixture.webhooks(times).await;
        assert_eq!(codes(&again), spelt(family, &["historical_update", "historical_update"][..times]));
        assert_eq!(again[0]["process_type"], "historical_update");

        let path = format!("/api/{}/", family.to_lowercase().replace('_', "-"));
        let (status, items) = fixture.post(&path, json!({"link": link, "date_from": "2024-01-01"})).await;
        assert!(status == 201 && items.as_array().is_some_and(|items| !items.is_empty()), "{path}: {status} {items}");

        fixture.control.scheduled_refresh(link, RefreshOutcome::Ok).unwrap();
        fixture.control.scheduled_refresh(link, RefreshOutcome::LoginError).unwrap();
        let news: Vec<_> = news.into_iter().collect();
        let received = fixture.webhooks(news.len() + 1).await;
        let wanted = [spelt(family, &news), vec!["LINK/invalid_credentials".into()]].concat();
        assert_eq!(codes(&received), wanted, "{family} sends no other webhook about new data");
        assert_eq!(received[0]["process_type"], "recurrent_update");
        fixture.control.outbox_idle().await.unwrap();
    }
}

#[tokio::test]
async fn resources_without_scheduled_webhooks_can_be_requested() {
    let mut fixture = Fixture::new().await;
    let single = fixture.control.add_link("erebor_mx_retail", AccessMode::Single, None).unwrap();
    fixture.control.correct_transactions(single, Correction::Updated).unwrap();
    let path = format!("/sandbox/links/{single}/corrections");
    assert_eq!(fixture.post(&path, json!({"correction": "deleted"})).await.0, 200);
    let received = codes(&fixture.webhooks(2).await);
    assert_eq!(received, ["TRANSACTIONS/transactions_updated", "TRANSACTIONS/transactions_deleted"]);
    assert_eq!(fixture.post(&path, json!({"correction": "forgotten"})).await.0, 422);

    let consent = fixture.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    fixture.control.lose_consent_resources(consent, ConsentLack::Unrecoverable).unwrap();
    let path = format!("/sandbox/links/{consent}/consent");
    assert_eq!(fixture.post(&path, json!({"event": "temporarily_unavailable"})).await.0, 200);
    let received = codes(&fixture.webhooks(2).await);
    assert_eq!(received[0], "CONSENT/openfinance_consent_with_unrecoverable_resources");
    assert_eq!(received[1], "CONSENT/openfinance_consent_with_temporarily_unavailable_resources");
    assert_eq!(fixture.status(consent).await, "valid");
    assert!(fixture.control.lose_consent_resources(single, ConsentLack::Unrecoverable).is_err());

    fixture.control.fail_webhooks(WebhookFault::ShortCode, 1);
    fixture.control.expire_consent(consent).unwrap();
    assert_eq!(codes(&fixture.webhooks(1).await), ["CONSENT/consent_expired"]);

    let refresh = format!("/api/links/{single}/refresh/");
    assert_eq!(fixture.post("/sandbox/faults/webhooks", json!({"kind": "data_errors"})).await.0, 200);
    assert_eq!(fixture.post(&refresh, json!({"fetch_resources": ["OWNERS", "ACCOUNTS"]})).await.0, 202);
    let received = fixture.webhooks(2).await;
    assert_eq!(
        (&received[0]["data"]["total_owners"], &received[0]["data"]["errors"][0]["code"]),
        (&json!(1), &json!("unexpected_error"))
    );
    assert_eq!(received[1]["data"], json!({"total_accounts": 2}));
}

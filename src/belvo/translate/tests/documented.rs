//! Documented webhooks, from 2021 until now.

use super::*;
use crate::link::DataKind::{Changed, Historical, New};

fn arrived(resource: &str, kind: DataKind, items_count: Option<u64>) -> Said {
    Said::Event(Event::DataArrived(Data { resource: resource.into(), kind, items_count, has_errors: false }))
}

fn webhook(family: &str, code: &str, data: Value) -> Value {
    json!({"webhook_id": "aadf41a1fc8e4f79a49f7f04027ac999", "webhook_type": family, "process_type": "recurrent_update",
        "webhook_code": code, "link_id": LINK, "request_id": REQUEST, "external_id": "your_external_id", "data": data})
}

#[test]
fn link_family_in_every_version() {
    let data = json!({"error_code": "login_error",
        "error_message": "Invalid credentials provided to login to the institution", "status": 400});
    let newest = webhook("LINK", "invalid_credentials", data.clone());
    let without = |names: &[&str]| {
        let mut older = newest.clone();
        names.iter().for_each(|name| drop(older.as_object_mut().unwrap().remove(*name)));
        older
    };
    for body in [
        newest.clone(),
        without(&["process_type"]),
        without(&["process_type", "request_id", "external_id"]),
        without(&["webhook_id", "process_type", "request_id", "external_id", "data"]),
        webhook("LINKS", "invalid_credentials", Value::Null),
        webhook("link", "INVALID_CREDENTIALS", json!([])),
    ] {
        check(InputKind::Webhook, &body, Ok(broken(Cause::Credentials)));
    }
    let input = input(InputKind::Webhook, &newest);
    assert_eq!(input.profile.external_id.as_deref(), Some("your_external_id"));
    assert!(input.key.is_some());
    check(InputKind::Webhook, &webhook("LINK", "token_required", json!({"status": 428})), Ok(broken(Cause::Token)));
    check(InputKind::Webhook, &webhook("LINK", "link_deleted", Value::Null), Ok(Said::Event(Event::LinkDeleted)));
}

#[test]
fn consent_family_in_both_spellings() {
    let data = json!({"consent_id": "c1", "consent_due_date": "2026-12-01T10:00:00.123456+00:00", "action": "renew",
        "institution": "ofmockbank_br_retail", "institution_display_name": "Mock Bank", "institution_icon_logo": "https://x/y.svg"});
    let consent = |due: Option<&str>| {
        Box::new(Consent {
            id: Some("c1".into()),
            due: due.map_or(Due::Unknown, |due| Due::At(due.parse().unwrap())),
            institution_display_name: Some("Mock Bank".into()),
            institution_icon_logo: Some("https://x/y.svg".into()),
            ..Consent::default()
        })
    };
    for prefix in ["openfinance_", ""] {
        let mut ending = webhook("CONSENT", &format!("{prefix}consent_about_to_expire"), data.clone());
        ending["external_id"] = Value::Null;
        ending.as_object_mut().unwrap().remove("request_id");
        check(InputKind::Webhook, &ending, Ok(Said::Event(Event::ConsentEnding)));
        let profile = input(InputKind::Webhook, &ending).profile;
        assert_eq!((profile.external_id, profile.institution.as_deref()), (None, Some("ofmockbank_br_retail")));
        assert_eq!(profile.consent, Some(consent(Some("2026-12-01T10:00:00.123Z"))));

        let expired = webhook("CONSENT", &format!("{prefix}consent_expired"), data.clone());
        check(InputKind::Webhook, &expired, Ok(broken(Cause::ConsentEnded)));
        // This webhook has no due date, but all parameters of a renewal.
        let mut expired = expired;
        expired["data"].as_object_mut().unwrap().remove("consent_due_date");
        assert_eq!(input(InputKind::Webhook, &expired).profile.consent, Some(consent(None)));

        let moved = webhook("CONSENT", &format!("{prefix}consent_expiration_changed"), json!({}));
        check(InputKind::Webhook, &moved, Ok(Said::Event(Event::ConsentChanged)));
        assert_eq!(input(InputKind::Webhook, &moved).profile.consent, Some(Box::new(Consent::default())));
    }
    let mut dated = data;
    for (text, due) in [("2026-12-01", "2026-12-01T00:00:00Z"), ("2026-12-01T10:00:00", "2026-12-01T10:00:00Z")] {
        dated["consent_due_date"] = json!(text);
        let ending = webhook("CONSENT", "consent_about_to_expire", dated.clone());
        assert_eq!(input(InputKind::Webhook, &ending).profile.consent, Some(consent(Some(due))));
    }
}

#[test]
fn resource_families_and_their_counts() {
    let history = json!({"total_transactions": 2456, "total_inflow_transactions": 1000, "total_outflow_transactions": 1456,
        "first_transaction_date": "2022-02-09", "last_transaction_date": "2023-02-08"});
    let records = json!({"total_employment_record_profiles": 1});
    for (family, code, data, kind, count) in [
        ("TRANSACTIONS", "historical_update", history, Historical, Some(2456)),
        ("TRANSACTIONS", "new_transactions_available", json!({"new_transactions": 5}), New, Some(5)),
        ("TRANSACTIONS", "transactions_updated", json!({"count": 5}), Changed, None),
        ("ACCOUNTS", "new_accounts_available", json!({"new_accounts": 0}), New, Some(0)),
        ("INVOICES", "initial_inflow_update", json!({"total_invoices": "9"}), Historical, None),
        ("EMPLOYMENT_RECORDS", "historical_update", records, Historical, Some(1)),
        ("FINANCIAL_STATEMENTS", "historical_update", json!({"new_financial_statements": 3}), Historical, Some(3)),
        (
            "INCOMES",
            "historical_update",
            json!({"total_incomes": 1, "number_of_income_streams": 5}),
            Historical,
            Some(1),
        ),
        ("EMPLOYMENT_RECORDS", "employment_changes", json!({"employment_changes": ["EMPLOYED"]}), Changed, None),
        ("OWNERS", "historical_update", json!([1]), Historical, None),
        ("BILLS", "historical_update", json!({"errors": [], "total_bills": -1}), Historical, None),
    ] {
        check(InputKind::Webhook, &webhook(family, code, data), Ok(arrived(family, kind, count)));
    }
    let misspelt = webhook("ACCOUNTS", "new_investments_available", json!({"new_investments": 2}));
    check(InputKind::Webhook, &misspelt, Ok(arrived("INVESTMENTS", New, Some(2))));
    for errors in [json!([{"code": "x", "message": "y"}]), json!({"a": 1}), json!("x"), json!(true)] {
        let body = webhook("ACCOUNTS", "historical_update", json!({"errors": errors}));
        let Event::DataArrived(data) = input(InputKind::Webhook, &body).event else { panic!("{body}") };
        assert!(data.has_errors, "{body}");
    }
}

#[test]
fn webhooks_about_another_link_or_no_link() {
    let unknown = |what: &str| Ok(Said::Unknown(what.into()));
    let shape = |at: &str, problem: &str| Err(Undecodable::shape(at, problem));
    let other: LinkId = "30cb4806-6e00-48a4-91c9-ca55968576c8".parse().unwrap();
    for (body, expected) in [
        (webhook("LINK", "link_healed", Value::Null), unknown("webhook LINK link_healed")),
        (webhook("LINK", "consent_expired", Value::Null), unknown("webhook LINK consent_expired")),
        (webhook("DREAMS", "historical_update", Value::Null), unknown("webhook DREAMS historical_update")),
        (webhook("A B", &"x".repeat(99), Value::Null), unknown(&format!("webhook A B {}", "x".repeat(64)))),
        // What the sender has written, escaped and not changed otherwise.
        (webhook("Link", "Healed\u{1b}[2J Ação?", Value::Null), unknown("webhook Link Healed\\u{1b}[2J Ação?")),
        (
            json!({"webhook_id": "x", "webhook_type": "PAYMENT_INTENT", "webhook_code": "STATUS_UPDATE", "object_id": "y"}),
            Err(Undecodable::Payments),
        ),
        (json!({"eventType": "PAYMENT", "eventCode": "x"}), Err(Undecodable::Payments)),
        (json!({"webhook_type": "LINK", "webhook_code": "x"}), shape("$.link_id", "missing")),
        (json!({"link_id": 7}), shape("$.link_id", "expected a string")),
        (json!({"link_id": LINK, "webhook_code": "x"}), shape("$.webhook_type", "missing")),
        (
            json!({"link_id": LINK, "webhook_type": "LINK", "webhook_code": {}}),
            shape("$.webhook_code", "expected a text"),
        ),
        (json!([]), shape("$", "expected an object")),
        (
            json!({"link_id": other.as_str(), "webhook_type": "LINK", "webhook_code": "x"}),
            Err(Undecodable::LinkMismatch { expected: link(), found: other }),
        ),
    ] {
        check(InputKind::Webhook, &body, expected);
    }
}

#[test]
fn the_link_of_a_webhook() {
    let upper = webhook("LINK", "x", Value::Null).to_string().replace(LINK, &LINK.to_uppercase());
    assert_eq!(link_of_webhook(upper.as_bytes()), Ok(link()));
    assert_eq!(link_of_webhook(b""), Err(Undecodable::Empty));
    assert_eq!(link_of_webhook(b"7"), Err(Undecodable::shape("$", "expected an object")));
    assert!(matches!(link_of_webhook(br#"{"link_id": "a.b"}"#), Err(Undecodable::WrongShape { .. })));
}

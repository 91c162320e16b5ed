//! MFA sessions, tokens, passwords and account data never appear in a message, a record or a log of relink.
//!
//! A dead letter contains the complete message on purpose; its reason and its detail do not quote it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};

use relink::contract::InputKind;
use relink::engine::Engine;
use relink::store::{MemoryStore, Query, Store};
use serde_json::{Value, json};
use strum::VariantArray;

use crate::inputs::INPUT_CREATED_NS;
use crate::inputs::{START, delivery, policy, with};

const SECRET: &str = "hunter2-2675b703b9d4451f8d4861a3eee54449";
const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// Bodies with a secret in every place where Belvo, an institution or a publisher may put one.
fn planted() -> Vec<(&'static str, String)> {
    let bank = json!({"token": SECRET, "session": SECRET, "password": SECRET, "error_message": SECRET, "message": SECRET,
        "accounts": [{"number": SECRET, "balance": {"current": SECRET}}], "errors": [{"message": SECRET}]});
    let mut bodies = Vec::new();
    for (family, code) in [
        ("LINK", "token_required"),
        ("LINK", "invalid_credentials"),
        ("TRANSACTIONS", "historical_update"),
        ("TRANSACTIONS", "new_transactions_available"),
        ("CONSENT", "openfinance_consent_expired"),
        ("LINK", "link_healed"),
    ] {
        let id = json!(LINK);
        let body =
            json!({"webhook_id": "w", "webhook_type": family, "webhook_code": code, "link_id": id, "data": bank});
        bodies.push(("webhook", body.to_string()));
        bodies.push(("webhook", with(body, "authorization", json!(SECRET)).to_string()));
    }
    for (status, code) in
        [(428, "token_required"), (400, "login_error"), (400, "session_expired"), (400, "odd"), (500, "")]
    {
        for path in ["/api/transactions/", "/api/links/", "/api/links/16f68516-bcbc-4cf7-b815-c500d4204e28/"] {
            let item = json!({"code": code, "message": format!("wrong: {SECRET}"), "session": SECRET, "expiry": 600,
                "token_generation_data": {"data": SECRET}, "link": LINK});
            let body = json!({"http_status": status, "method": "PUT", "path": format!("{path}?token={SECRET}"), "body": [item],
                "request": {"password": SECRET, "token": SECRET}});
            bodies.push(("api_error", with(body.clone(), "body", json!(SECRET)).to_string()));
            bodies.push(("api_error", body.to_string()));
        }
    }
    for event in ["started", "success", "updated", "exit", "error", "warning"] {
        let body = json!({"event": event, "token": SECRET, "access": SECRET, "error": "login_error", "error_message": SECRET,
            "warning": "w", "warning_message": SECRET, "meta_data": bank, "last_encountered_error_message": SECRET,
            "last_encountered_error": {"code": "login_error", "message": SECRET}});
        bodies.push(("widget", body.to_string()));
    }
    for status in ["valid", "invalid", "token_required"] {
        let mut body = with(InputKind::Observation.example(), "password", json!(SECRET));
        body["link"]["status"] = json!(status);
        for field in ["credentials_storage", "username", "password", "created_by", "stale_in"] {
            body["link"][field] = json!(SECRET);
        }
        bodies.push(("observation", body.to_string()));
    }
    bodies
        .push(("command", json!({"command": "verify", "reason": "the history shows it", "token": SECRET}).to_string()));
    // Bodies of a wrong shape, so that reading them fails at the secret.
    for &kind in InputKind::VARIANTS {
        bodies.push((kind.as_str(), json!(SECRET).to_string()));
        bodies.push((kind.as_str(), format!("{{{SECRET}")));
        let mut example = kind.example();
        for field in example.as_object_mut().unwrap().values_mut().filter(|field| !field.is_string()) {
            *field = json!(SECRET);
        }
        bodies.push((kind.as_str(), example.to_string()));
    }
    bodies.push(("command", json!({"command": SECRET, "until": SECRET}).to_string()));
    bodies.push(("widget", json!({"event": SECRET}).to_string()));
    bodies
}

/// A log that the test can read afterwards.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn assert_clean(what: &str, text: &[u8], body: &str) {
    let text = String::from_utf8_lossy(text);
    assert!(!text.contains("hunter2") && !text.contains(SECRET), "{what} of {body}:\n{text}");
}

#[test]
fn no_secret_gets_into_a_message_a_record_or_a_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let store = MemoryStore::default();
    tracing::subscriber::with_default(subscriber.finish(), || {
        let mut engine = Engine::new(store.clone(), policy(true), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
        for (sequence, (kind, body)) in (1..).zip(planted()) {
            let mut planted = delivery(kind, LINK, body.clone());
            planted.sequence = sequence;
            planted.headers.push(("Authorization".to_owned(), SECRET.to_owned()));
            let plan = engine.plan(&mut VecDeque::from([planted]), START).unwrap();
            for outgoing in &plan.messages {
                assert_clean("a message", &outgoing.message.body, &body);
                assert_clean("an id", outgoing.message.id.as_bytes(), &body);
            }
            for dead in &plan.dead_letters {
                assert_eq!(dead.delivery.payload, body);
                assert_clean("a dead letter's detail", dead.detail.as_bytes(), &body);
            }
            // The `Debug` form of a plan or a delivery contains no body.
            tracing::info!(?plan, "planned");
            store.apply(&plan.changes(None)).unwrap();
            engine.record_commit(&plan);
        }
    });
    let links = store.page(&Query { limit: 10, ..Query::default() }).unwrap().links;
    assert_eq!(links.len(), 1);
    assert_clean("the record", &links[0].record, "everything");
    let log = log.0.lock().unwrap();
    assert!(!log.is_empty());
    assert_clean("the log", &log, "everything");
}

#[test]
fn the_planted_bodies_change_the_link() {
    // If no body changed the link, the test above would prove nothing.
    let mut engine = Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
    let all = planted().into_iter().zip(1..).map(|((kind, body), sequence)| {
        let mut delivery = delivery(kind, LINK, body);
        delivery.sequence = sequence;
        delivery
    });
    let plan = engine.plan(&mut all.collect(), START).unwrap();
    assert!(plan.puts.len() >= 10, "{}", plan.puts.len());
    assert!(plan.dead_letters.len() >= 10, "{}", plan.dead_letters.len());
    assert!(plan.puts.iter().any(|put| serde_json::from_slice::<Value>(&put.record).is_ok()));
}

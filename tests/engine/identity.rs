//! One link is one record, however its id is spelt and wherever that puts a message.
//!
//! The server chooses a message's lane by a hash of the link token as it was published, so each spelling of one UUID may come
//! by a lane of its own.

use relink::contract::{Address, NoticeName, Record};
use relink::engine::Delivery;
use relink::link::StateName;
use relink::store::{MemoryStore, Query, Store};
use serde_json::{Value, json};

use crate::bus::{Bus, LANES, Stored};
use crate::inputs::{START, delivery, policy};
use crate::running::Running;
use crate::world::ALL_LANES;

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// The spellings that are one token of a subject.
const SPELLINGS: [&str; 6] = [
    LINK,
    "16f68516bcbc4cf7b815c500d4204e28",
    "16F68516-BCBC-4CF7-B815-C500D4204E28",
    "16F68516BCBC4CF7B815C500D4204E28",
    "urn:uuid:16f68516-bcbc-4cf7-b815-c500d4204e28",
    "{16f68516-bcbc-4cf7-b815-c500d4204e28}",
];

fn invalid_credentials(spelling: &str, request: usize) -> Value {
    json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials", "link_id": spelling,
        "request_id": format!("{request:08}-51eb-4350-9c74-5df5ac92a7f6")})
}

/// The `nth` message, on the lane to which its spelling may have been hashed.
fn said(kind: &str, nth: usize, body: &Value) -> Delivery {
    let mut said = delivery(kind, SPELLINGS[nth % SPELLINGS.len()], body.to_string());
    said.lane = nth as u16 % LANES;
    said
}

fn records(store: &MemoryStore) -> Vec<Record> {
    let page = store.page(&Query { limit: 10, ..Query::default() }).unwrap();
    page.links.iter().map(|stored| stored.parse().unwrap()).collect()
}

fn prompts(bus: &Bus) -> usize {
    let is_prompt = |address: &Address| matches!(address, Address::Notice(NoticeName::UpdateRequired, _));
    bus.output.iter().filter(|stored| is_prompt(&stored.message.address)).count()
}

#[test]
fn a_link_published_under_every_spelling_is_one_record_with_one_prompt_and_one_history() {
    for (first, spelling) in SPELLINGS.iter().enumerate() {
        let mut bus = Bus::default();
        let mut process = Running::start(1, MemoryStore::default(), &policy(false), START, &ALL_LANES, 0);
        // Some in one plan, some in the next, some after a new start.
        for (round, count) in [SPELLINGS.len(), 1, SPELLINGS.len()].into_iter().enumerate() {
            for nth in (0..SPELLINGS.len()).cycle().skip(first + round).take(count) {
                // The body spells it in yet another way than the subject.
                let body = invalid_credentials(SPELLINGS[(nth + 1) % SPELLINGS.len()], nth);
                bus.publish(said("webhook", nth, &body), START);
            }
            process.run_dry(&mut bus, START);
            let store = process.store.clone();
            process.leave();
            process = Running::start(2 + round as u32, store, &policy(false), START, &ALL_LANES, 0);
            process.run_dry(&mut bus, START);
        }
        let records = records(&process.store);
        assert_eq!(records.iter().map(|record| record.link_id.as_str()).collect::<Vec<_>>(), [LINK]);
        assert_eq!((prompts(&bus), bus.dead.len()), (1, 0), "first said as {spelling}");
        let is_state = |stored: &&Stored| matches!(stored.message.address, Address::State(_));
        let versions = bus.output.iter().filter(is_state).map(|stored| {
            let record: Record = serde_json::from_slice(&stored.message.body).unwrap();
            record.version
        });
        let versions: Vec<u64> = versions.collect();
        assert!(versions.is_sorted_by(|a, b| a + 1 == *b), "one history, whatever the lane: {versions:?}");
    }
}

#[test]
fn what_a_device_calls_the_institution_corrects_nothing_and_is_bounded() {
    let mut bus = Bus::default();
    let mut process = Running::start(1, MemoryStore::default(), &policy(true), START, &ALL_LANES, 0);
    let claims = |institution: Value| json!({"event": "success", "institution": institution});
    let mut institution_after = |kind: &str, body: &Value| {
        bus.publish(said(kind, 0, body), START);
        process.run_dry(&mut bus, START);
        let record = records(&process.store).pop().unwrap();
        assert!(serde_json::to_string(&record).unwrap().len() < 16 * 1024);
        record.institution
    };
    institution_after("webhook", &invalid_credentials(LINK, 1));
    assert_eq!(institution_after("widget", &claims(json!("x".repeat(900_000)))), None);
    assert_eq!(institution_after("widget", &claims(json!("said_by_the_user"))).as_deref(), Some("said_by_the_user"));
    let seen = json!({"observed_at": START.to_string(), "outcome": "found",
        "link": {"id": LINK, "status": "invalid", "institution": "erebor_mx_retail"}});
    assert_eq!(institution_after("observation", &seen).as_deref(), Some("erebor_mx_retail"));
    institution_after("webhook", &invalid_credentials(LINK, 2));
    assert_eq!(institution_after("widget", &claims(json!("evil"))).as_deref(), Some("erebor_mx_retail"));
}

#[test]
fn a_repair_reported_under_another_spelling_mends_the_same_link() {
    let mut bus = Bus::default();
    let mut process = Running::start(1, MemoryStore::default(), &policy(false), START, &ALL_LANES, 0);
    let observed = json!({"observed_at": START.to_string(), "source": "app",
        "outcome": "found", "link": {"id": SPELLINGS[1], "status": "valid"}});
    let error = json!({"http_status": 400, "method": "POST", "path": format!("/api/links/{}/refresh/", SPELLINGS[3]),
        "link_id": SPELLINGS[4], "body": [{"code": "invalid_link", "link": SPELLINGS[5]}]});
    bus.publish(said("api_error", 0, &error), START);
    bus.publish(said("widget", 1, &json!({"event": "success", "link": SPELLINGS[2]})), START);
    bus.publish(said("observation", 5, &observed), START);
    process.run_dry(&mut bus, START);
    assert_eq!((prompts(&bus), bus.dead.len()), (1, 0));
    assert_eq!(process.store.count().unwrap()[&StateName::Valid], 1);
    assert_eq!(records(&process.store).len(), 1);
}

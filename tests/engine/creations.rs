//! Creations that are not finished at once: how the plans count them for the metric `relink_creations_total`.

use std::collections::VecDeque;

use relink::engine::{Creations, Engine};
use relink::link::Timestamp;
use relink::store::{MemoryStore, Store};
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, START, delivery, policy};

const HOUR: i64 = 3_600_000;

#[test]
fn each_creation_is_counted_when_it_is_reported_and_when_it_ends() {
    let mut engine = Engine::new(MemoryStore::default(), policy(false), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
    let unfinished = json!({"http_status": 400, "method": "POST", "path": "/api/accounts/",
        "body": [{"code": "unconfirmed_link", "message": "m", "request_id": "r"}]});
    let webhook = |link: &str, family: &str, code: &str| json!({"webhook_id": "w", "webhook_type": family, "webhook_code": code, "link_id": link, "data": {}});
    let mut sequence = 0;
    let mut plan = |at: i64, inputs: &[(&str, &str, Value)]| {
        let now = Timestamp::from_millis(START.as_millis() + at);
        let delivered = inputs.iter().map(|(kind, link, body)| {
            sequence += 1;
            let mut delivery = delivery(kind, link, body.to_string());
            (delivery.partition, delivery.sequence) = (0, sequence);
            delivery.stored_at_ns = now.as_millis() * 1_000_000;
            delivery
        });
        let plan = engine.plan(&mut delivered.collect::<VecDeque<_>>(), now).unwrap();
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.record_commit(&plan);
        plan.activity.creations
    };
    let reports = ["ana", "bruno", "carla"].map(|link| ("api_error", link, unfinished.clone()));
    let none = Creations::default();
    assert_eq!(plan(0, &reports), Creations { begun: 3, ..none });
    let data = webhook("ana", "TRANSACTIONS", "historical_update");
    assert_eq!(plan(1, &[("webhook", "ana", data.clone())]), Creations { finished: 1, ..none });
    assert_eq!(plan(2, &[("webhook", "ana", data), reports[1].clone()]), none, "no news");
    assert_eq!(plan(HOUR, &[]), Creations { unfinished: 2, ..none });
    let ends = [
        ("webhook", "bruno", webhook("bruno", "LINK", "invalid_credentials")),
        ("webhook", "carla", webhook("carla", "LINK", "link_deleted")),
    ];
    assert_eq!(plan(2 * HOUR, &ends), Creations { finished: 1, removed: 1, ..none });
}

//! What a plan counts for the metrics and for `GET /v1/activity`.

use std::time::Duration;

use relink::contract::NoticeName;
use relink::engine::{Activity, Engine};
use relink::link::StateName;
use relink::store::MemoryStore;
use serde_json::json;

use crate::inputs::{INPUT_CREATED_NS, delivery, policy};
use crate::plans::{HOUR, LINK, Plans, at};

#[test]
fn an_outage_is_counted_from_its_beginning_to_its_proof() {
    let engine = Engine::new(MemoryStore::default(), policy(false), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
    let (mut plans, mut sum) = (Plans::of(engine), Activity::default());
    let mut counted = |millis: i64, code: Option<&str>| {
        let input = code.map(|code| {
            let family = if code == "historical_update" { "TRANSACTIONS" } else { "LINK" };
            let body =
                json!({"webhook_id": "w", "webhook_type": family, "webhook_code": code, "link_id": LINK, "data": {}});
            let mut delivery = delivery("webhook", LINK, body.to_string());
            (delivery.partition, delivery.sequence) = (0, 1 + millis.unsigned_abs());
            delivery.stored_at_ns = at(millis).as_millis() * 1_000_000;
            delivery
        });
        let plan = plans.plan(input.into_iter().collect(), millis);
        plans.apply(&plan);
        plans.engine.record_commit(&plan);
        sum.add(&plan.activity);
        plan.activity
    };
    let broken = counted(0, Some("invalid_credentials"));
    assert_eq!((broken.at, broken.outages_count, broken.prompts.get(&0)), (Some(at(0)), 1, Some(&1)));
    assert_eq!(broken.transitions.keys().map(|(_, to)| *to).collect::<Vec<_>>(), [StateName::Invalid]);
    assert_eq!(broken.prompted_after.len(), 1);
    let repeated = counted(1, Some("invalid_credentials"));
    assert_eq!(repeated, Activity::default(), "a refused repeat is no step");
    let reminded = counted(100 * HOUR, None);
    assert_eq!((reminded.prompts.get(&1), reminded.transitions.len()), (Some(&1), 0));
    let repaired = counted(101 * HOUR, Some("historical_update"));
    assert_eq!(repaired.notices.get(&NoticeName::Recovered), Some(&1));
    let hours: Vec<_> = repaired.repaired_after.iter().map(|span| span.as_secs() / 3_600).collect();
    assert_eq!(hours, [101]);
    assert_eq!((broken.detected_after.len(), repaired.data_age.len()), (0, 0), "the link had never worked");
    let refreshed = counted(125 * HOUR, Some("historical_update"));
    let broken_again = counted(131 * HOUR, Some("invalid_credentials"));
    let hours = |spans: &[Duration]| spans.iter().map(|span| span.as_secs() / 3_600).collect::<Vec<_>>();
    assert_eq!((hours(&refreshed.data_age), hours(&broken_again.detected_after)), (vec![24], vec![6]));
    assert_eq!((sum.outages_count, sum.transitions.len(), sum.prompts.len()), (2, 3, 2), "{sum:?}");
}

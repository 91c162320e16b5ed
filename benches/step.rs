//! The core: reading a message, one step of the machine, and writing and reading a link's record, with the inputs of
//! `load/`; and reading the webhooks that Belvo documents.

#[path = "load/mod.rs"]
mod load;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use relink::belvo::{Meaning, translate};
use relink::contract::{Because, InputKind, Origin, OriginKind, Record};
use relink::link::{Input, Link, Policy, PolicySettings, Refusal, Timestamp, step};

/// Every step of one link's outage: the link before, the event, and the time.
fn steps(policy: &Policy) -> Vec<(Link, Input, Timestamp)> {
    let id = load::link_id(7).parse().expect("an id");
    let mut now = Timestamp::from_millis(1_790_000_000_000);
    let mut link = Link::unknown(id, now);
    let mut steps = Vec::new();
    for loaded in
        load::inputs(8, 0).iter().filter(|loaded| loaded.link == link.id.as_str()).cloned().collect::<Vec<_>>()
    {
        now = now.after(std::time::Duration::from_secs(60));
        let meaning = translate(loaded.kind, &link.id, loaded.body.as_bytes(), now).expect("the load can be read");
        let Meaning::Event(input) = meaning else { panic!("{meaning:?} is no event") };
        steps.push((link.clone(), input.clone(), now));
        if let Ok(taken) = step(&link, &input, now, policy) {
            link = taken.link;
        }
    }
    steps
}

/// Webhooks in the shapes that Belvo documents, with all fields, as Belvo writes them: without blanks.
fn webhooks() -> [(&'static str, String); 3] {
    let webhook = |family: &str, code: &str, data: &str| {
        format!(
            r#"{{"webhook_id":"aadf41a1fc8e4f79a49f7f04027ac999","webhook_type":"{family}","process_type":"recurrent_update","webhook_code":"{code}","link_id":"{id}","request_id":"4363b08b-51eb-4350-9c74-5df5ac92a7f6","external_id":"user-{id}","data":{data}}}"#,
            id = load::link_id(0)
        )
    };
    let counts = r#"{"total_transactions":2456,"total_inflow_transactions":1000,"total_outflow_transactions":1456,"first_transaction_date":"2022-02-09","last_transaction_date":"2023-02-08"}"#;
    let error = r#"{"error_code":"login_error","error_message":"Invalid credentials provided to login to the institution","status":400}"#;
    let consent = r#"{"consent_id":"b2c17cb6-1f9d-4f9c-8d0f-1f5e7d0c0f5a","consent_due_date":"2026-12-01T10:00:00.123456+00:00","institution":"ofmockbank_br_retail","institution_display_name":"Mock Bank","institution_icon_logo":"https://example.com/mock_bank.svg"}"#;
    [
        ("data", webhook("TRANSACTIONS", "historical_update", counts)),
        ("refused login", webhook("LINK", "invalid_credentials", error)),
        ("consent", webhook("CONSENT", "openfinance_consent_about_to_expire", consent)),
    ]
}

fn webhook(criterion: &mut Criterion) {
    let id = load::link_id(0).parse().expect("an id");
    let now = Timestamp::from_millis(1_790_000_000_000);
    let mut group = criterion.benchmark_group("read a webhook");
    group.throughput(Throughput::Elements(1));
    for (name, body) in webhooks() {
        group.bench_function(format!("{name}, {} bytes", body.len()), |bencher| {
            bencher.iter(|| black_box(translate(InputKind::Webhook, &id, black_box(body.as_bytes()), now)));
        });
    }
    group.finish();
}

fn core(criterion: &mut Criterion) {
    let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() })
        .expect("the defaults are in range");
    let steps = steps(&policy);
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(steps.len() as u64));
    group.bench_function("decode", |bencher| {
        let inputs = load::inputs(1, 0);
        let id = load::link_id(0).parse().expect("an id");
        bencher.iter(|| {
            for input in &inputs {
                let _ = black_box(translate(input.kind, &id, input.body.as_bytes(), Timestamp::default()));
            }
        });
    });
    group.bench_function("step", |bencher| {
        bencher.iter(|| {
            for (link, input, now) in &steps {
                let _ = black_box(step(link, input, *now, &policy));
            }
        });
    });
    let repeats: Vec<_> = steps
        .iter()
        .filter(|(link, input, now)| {
            step(link, input, *now, &policy).is_err_and(|refusal| refusal == Refusal::Repeated)
        })
        .collect();
    assert!(!repeats.is_empty(), "the load has a webhook that is sent twice");
    group.throughput(Throughput::Elements(repeats.len() as u64));
    group.bench_function("refuse a repeat", |bencher| {
        bencher.iter(|| {
            for (link, input, now) in &repeats {
                let _ = black_box(step(link, input, *now, &policy));
            }
        });
    });
    group.finish();

    let taken: Vec<_> = steps
        .iter()
        .filter_map(|(link, input, now)| Some((step(link, input, *now, &policy).ok()?, input.clone())))
        .collect();
    let record = |taken: &(relink::link::Step, Input)| {
        let origin = Origin { kind: OriginKind::Webhook, input_sequence: Some(7), ..Origin::timer(taken.0.at) };
        Record::of(&taken.0.link, 3, Because::of(&taken.0, &taken.1, origin), Vec::new())
    };
    let json: Vec<Vec<u8>> =
        taken.iter().map(|taken| serde_json::to_vec(&record(taken)).expect("a record is JSON")).collect();
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(taken.len() as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            for taken in &taken {
                let _ = black_box(serde_json::to_vec(&record(taken)));
            }
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for json in &json {
                let _ = black_box(Record::parse(json).and_then(|record| record.link()));
            }
        });
    });
    group.finish();
}

fn short() -> Criterion {
    let (warm_up, measured) = (std::time::Duration::from_millis(500), std::time::Duration::from_secs(2));
    Criterion::default().warm_up_time(warm_up).measurement_time(measured).sample_size(50).without_plots()
}

criterion_group!(name = benches; config = short(); targets = webhook, core);
criterion_main!(benches);

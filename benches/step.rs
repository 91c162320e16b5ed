//! The core: one step of the machine, and writing and reading a link's record, with the inputs of `load/`.

#[path = "load/mod.rs"]
mod load;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use relink::belvo::{Meaning, translate};
use relink::contract::{Because, Origin, OriginKind, Record};
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

criterion_group!(name = benches; config = short(); targets = core);
criterion_main!(benches);

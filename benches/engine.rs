//! The engine without NATS: the time to plan a slice of inputs, and the time to apply the plan to the store, per input.
//!
//! The links go through the outage of `load/` again and again, a day apart, so that no input is a repeat of the round before.

#[path = "load/mod.rs"]
mod load;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use relink::clock;
use relink::engine::{Delivery, Engine};
use relink::link::{Policy, PolicySettings, Timestamp};
use relink::store::{MemoryStore, SledStore, Store};

const LINKS: usize = 2_000;
const SLICES: [usize; 3] = [1, 100, 400];
const STORE_CACHE_BYTES: u64 = 256 * 1024 * 1024;

/// An engine with an endless load.
struct Bench<S> {
    engine: Engine<S>,
    sequence: u64,
    round: usize,
    coming: VecDeque<load::LoadInput>,
}

impl<S: Store> Bench<S> {
    fn new(store: S) -> Self {
        let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() })
            .expect("the defaults are in range");
        let engine = Engine::new(store, policy, 0, &[(0, 0)].into()).expect("it is in memory");
        Self { engine, sequence: 0, round: 0, coming: VecDeque::new() }
    }

    fn slice(&mut self, count: usize) -> VecDeque<Delivery> {
        let mut slice = VecDeque::with_capacity(count);
        while slice.len() < count {
            let Some(input) = self.coming.pop_front() else {
                self.coming = load::inputs(LINKS, self.round).into();
                self.round += 1;
                continue;
            };
            self.sequence += 1;
            let seconds = i64::try_from(self.round).expect("a small number") * 24 * 3600 + 60;
            slice.push_back(load::delivery(&input, self.sequence, seconds));
        }
        slice
    }

    /// The time for planning and the time for applying, for this number of slices.
    fn run(&mut self, slices: u64, count: usize) -> (Duration, Duration) {
        let (mut planning, mut applying) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..slices {
            let mut queue = self.slice(count);
            while !queue.is_empty() {
                let began: Instant = clock::instant();
                // The plan's time is the epoch, so that no timer is due.
                let plan = self.engine.plan(&mut queue, Timestamp::default()).expect("the store can be read");
                planning += began.elapsed();
                let began = clock::instant();
                self.engine.store().apply(&plan.changes(None)).expect("the store can be written");
                self.engine.record_commit(&plan);
                applying += began.elapsed();
            }
        }
        (planning, applying)
    }
}

fn over<S: Store>(criterion: &mut Criterion, name: &str, store: impl Fn() -> S) {
    let mut group = criterion.benchmark_group(name);
    for count in SLICES {
        group.throughput(Throughput::Elements(count as u64));
        let mut bench = Bench::new(store());
        group.bench_function(format!("plan/{count}"), |bencher| {
            bencher.iter_custom(|slices| bench.run(slices, count).0);
        });
        group.bench_function(format!("apply/{count}"), |bencher| {
            bencher.iter_custom(|slices| bench.run(slices, count).1);
        });
    }
    group.finish();
}

fn engines(criterion: &mut Criterion) {
    over(criterion, "memory", MemoryStore::default);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stores = std::cell::Cell::new(0);
    over(criterion, "sled", || {
        stores.set(stores.get() + 1);
        let path = dir.path().join(stores.get().to_string());
        SledStore::open(&path, STORE_CACHE_BYTES).expect("a store in a temporary directory").store
    });
}

fn short() -> Criterion {
    let (warm_up, measured) = (Duration::from_millis(500), Duration::from_secs(2));
    Criterion::default().warm_up_time(warm_up).measurement_time(measured).sample_size(20).without_plots()
}

criterion_group!(name = benches; config = short(); targets = engines);
criterion_main!(benches);

//! How fast webhooks are taken in over HTTP, with answers that promise a durable webhook.
//!
//! Three programs do the same work in turns, each on a new directory, with the same client on the same machine:
//!
//! - relink: `relink serve` with its own nats-server; the answer promises the journal, and the whole node works behind it
//! - relink, stream: the same with `RELINK_HTTP_ACKNOWLEDGE=stream`
//! - one publish: an HTTP handler that publishes each webhook to JetStream, and answers after the acknowledgement
//! - express (`cargo bench --bench ingest -- --express`): a handler as most teams write it, with express and PostgreSQL. It needs
//!   `node`, `npm` (with a registry) and PostgreSQL on the machine, so it does not run by default
//!
//! `--connections 64 --rounds 1` measures less. It asserts nothing about times. Without `--bench` (as in `cargo test --all-targets`) the measurement is short.

#![expect(clippy::print_stdout, reason = "a bench reports on the standard output")]

#[path = "ingest/client.rs"]
mod client;
#[path = "ingest/contender.rs"]
mod contender;
#[path = "pipeline/measure.rs"]
#[expect(dead_code, reason = "the pipeline uses the rest")]
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use client::Load;
use contender::{Contender, Kind};
use measure::{Machine, median};

/// The size of the measurement.
struct Size {
    connections: Vec<usize>,
    rounds: usize,
    warm_up: Duration,
    duration: Duration,
}

impl Size {
    fn whole() -> Self {
        let (warm_up, duration) = (Duration::from_millis(500), Duration::from_secs(4));
        Self { connections: vec![1, 16, 64, 256], rounds: 3, warm_up, duration }
    }

    fn glimpse() -> Self {
        let (warm_up, duration) = (Duration::from_millis(50), Duration::from_millis(300));
        Self { connections: vec![4], rounds: 1, warm_up, duration }
    }
}

#[tokio::main]
async fn main() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).try_init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let mut size = if has("--bench") { Size::whole() } else { Size::glimpse() };
    let value = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1)?.parse::<usize>().ok();
    if let Some(connections) = value("--connections") {
        size.connections = vec![connections];
    }
    size.rounds = value("--rounds").unwrap_or(size.rounds);
    let mut kinds = vec![Kind::Journal, Kind::Stream, Kind::OnePublish];
    kinds.extend(has("--express").then_some(Kind::Express));
    println!("\ningest on {}", Machine::look().await);
    println!("| connections | program | webhooks/s | p50 | p99 | CPU per webhook |\n|---|---|---|---|---|---|");
    for connections in size.connections {
        let mut loads: Vec<Vec<Load>> = kinds.iter().map(|_| Vec::new()).collect();
        for _ in 0..size.rounds {
            for (kind, loads) in kinds.iter().zip(&mut loads) {
                let contender = Contender::start(*kind).await;
                client::run(&contender, connections, size.warm_up).await;
                loads.push(client::run(&contender, connections, size.duration).await);
                contender.stop().await;
            }
        }
        for (kind, loads) in kinds.iter().zip(&loads) {
            report(connections, *kind, loads);
        }
    }
}

/// One line: the median of all rounds, and the slowest and fastest round.
fn report(connections: usize, kind: Kind, loads: &[Load]) {
    let of = |value: fn(&Load) -> f64| -> (f64, f64, f64) {
        let mut values: Vec<f64> = loads.iter().map(value).collect();
        let middle = median(&mut values);
        (middle, values.first().copied().unwrap_or_default(), values.last().copied().unwrap_or_default())
    };
    let (rate, slowest, fastest) = of(|load| load.rate);
    let ((p50, ..), (p99, ..)) = (of(|load| load.p50_ms), of(|load| load.p99_ms));
    let cpu = of(|load| load.cpu_micros).0;
    let failed: usize = loads.iter().map(|load| load.failed).sum();
    println!(
        "| {connections} | {kind} | {rate:.0} ({slowest:.0}–{fastest:.0}) | {p50:.2} ms | {p99:.2} ms | {cpu:.0} µs |"
    );
    if failed > 0 {
        println!("  {failed} webhooks were not answered with success");
    }
}

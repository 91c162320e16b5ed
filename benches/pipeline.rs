//! The throughput of the node and of its limit, on a real nats-server that syncs every acknowledged write.
//!
//! The limit is a program that does only the work of NATS: it pulls the same deliveries from the same partitions, and
//! commits the same batches, which it reads from the node's output stream. It decodes nothing, and has no state and no
//! store. The difference between the node and the limit is the cost of relink itself.
//!
//! A run measures both in turn, several times, each on a new server. It asserts nothing about absolute times. It also
//! measures the latency of one webhook at low load, and the rebuild of a lost store. Next: `load/` has the inputs.

#![expect(clippy::print_stdout, reason = "a bench reports on the standard output")]

#[path = "load/mod.rs"]
mod load;
#[path = "pipeline/measure.rs"]
mod measure;
#[path = "pipeline/runs.rs"]
mod runs;
#[path = "pipeline/scale.rs"]
mod scale;
#[path = "../tests/support/mod.rs"]
mod support;

use measure::{Machine, Run, best, median, percentile};

/// The size of the measurement.
struct Size {
    links: usize,
    rounds: usize,
    latencies: usize,
    rebuilt_links: usize,
}

const WHOLE: Size = Size { links: 5_000, rounds: 3, latencies: 300, rebuilt_links: 50_000 };

/// Without `--bench` (as in `cargo test --all-targets`), the size is small, and only shows that the bench works.
const GLIMPSE: Size = Size { links: 50, rounds: 1, latencies: 5, rebuilt_links: 500 };

#[tokio::main]
async fn main() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).try_init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = if arguments.iter().any(|argument| argument == "--bench") { WHOLE } else { GLIMPSE };
    // `cargo bench --bench pipeline -- node` runs only the node, for a profiler.
    if arguments.iter().any(|argument| argument == "node") {
        let (node, _) = runs::node(&load::inputs(size.links * 4, 0)).await;
        println!("{node}");
        return;
    }
    println!("\npipeline on {}", Machine::look().await);
    // `cargo bench --bench pipeline -- --links 10000,1000000` measures only the cost of an input among so many links.
    if let Some(at) = arguments.iter().position(|argument| argument == "--links") {
        let counts = arguments.get(at + 1).map(|counts| counts.split(',').map(str::parse).collect());
        let Some(Ok(counts)) = counts else { panic!("--links takes numbers with commas, such as 10000,1000000") };
        scale::compare(counts).await;
        return;
    }
    against_limit(&size).await;
    let mut latencies = runs::latency(size.latencies).await;
    let (p50, p99) = (percentile(&mut latencies, 0.50), percentile(&mut latencies, 0.99));
    println!("| webhook published → notice received, low load | p50 {p50:.1} ms, p99 {p99:.1} ms |");
    let (count, took) = runs::rebuild(size.rebuilt_links).await;
    let (rate, seconds) = (count as f64 / took.as_secs_f64(), took.as_secs_f64());
    println!("| store rebuilt from `KV_links` | {rate:.0} links/s ({count} links in {seconds:.2} s) |");
    if size.rounds == 1 {
        scale::compare(vec![size.links, size.links * 10]).await;
    }
}

/// Runs the node and the limit in turn, so that other load of the machine affects both.
async fn against_limit(size: &Size) {
    let inputs = load::inputs(size.links, 0);
    println!("{} inputs about {} links, {} partitions", inputs.len(), size.links, runs::PARTITIONS);
    let (mut nodes, mut limits) = (Vec::new(), Vec::new());
    for round in 1..=size.rounds {
        let (node, batches) = runs::node(&inputs).await;
        let limit = runs::limit(&inputs, &batches).await;
        println!("  round {round}  node  {node}\n           limit {limit}");
        nodes.push(node);
        limits.push(limit);
    }
    let (mut node, mut limit) = (Run::rates(&nodes), Run::rates(&limits));
    println!("\n| measured | median of {} | best |\n|---|---|---|", size.rounds);
    let (node, limit) = ((median(&mut node), best(&node)), (median(&mut limit), best(&limit)));
    println!("| the node | {:.0} inputs/s | {:.0} inputs/s |", node.0, node.1);
    println!("| its limit: same deliveries, same batches | {:.0} inputs/s | {:.0} inputs/s |", limit.0, limit.1);
    println!("| node / limit | {:.2} | {:.2} |", node.0 / limit.0, node.1 / limit.1);
    if let (Some(node), Some(limit)) = (Run::cpu_micros(&nodes), Run::cpu_micros(&limits)) {
        println!("| CPU time per input: node | {:.1} µs here, {:.1} µs nats-server | |", node.0, node.1);
        println!("| CPU time per input: limit | {:.1} µs here, {:.1} µs nats-server | |", limit.0, limit.1);
    }
}

//! The cost of an input among few and among many links, and the memory and the disk that many links take.

use std::time::Duration;

use relink::clock;

use crate::load::{self, LoadInput};
use crate::measure::{Run, cpu, cpu_between, disk_bytes, resident_bytes};
use crate::runs::{PARTITIONS, Running, ends, publish, publish_states};
use crate::support::TestNats;

/// The most links with inputs; they are spread over all links.
const ACTIVE_MAX: usize = 2_500;

struct Scale {
    links: usize,
    rebuilt: Duration,
    run: Run,
    /// The memory of this process and of nats-server.
    resident: (u64, u64),
    /// The disk of the store and of nats-server.
    disk: (u64, u64),
}

/// Measures each number of links, and compares the others with the first one.
pub(crate) async fn compare(counts: Vec<usize>) {
    println!(
        "\n| links | rebuild | CPU time per input: node, nats-server | memory: this process, nats-server | disk per link: store, NATS |"
    );
    println!("|---|---|---|---|---|");
    let mut first = None;
    for links in counts {
        let Scale { links, rebuilt, run, resident, disk } = measure(links).await;
        let (ours, server) = Run::cpu_micros(&[run]).unwrap_or_default();
        let (of_link, rate) = (|bytes: u64| bytes / links as u64, links as f64 / rebuilt.as_secs_f64());
        println!(
            "| {links} | {rate:.0} links/s | {ours:.1} µs, {server:.1} µs | {} MB, {} MB | {} B, {} B |",
            resident.0 >> 20,
            resident.1 >> 20,
            of_link(disk.0),
            of_link(disk.1)
        );
        let (base_links, base) = *first.get_or_insert((links, ours + server));
        if base_links != links {
            println!("cost per input at {links} links / at {base_links} links: {:.2}", (ours + server) / base);
        }
    }
}

async fn measure(links: usize) -> Scale {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    publish_states(&nats, (0..links).map(|link| load::sighting(load::spread(link)))).await;
    let began = clock::instant();
    let running = Running::start(&nats).await;
    let rebuilt = began.elapsed();
    let active = links.min(ACTIVE_MAX);
    let active: Vec<usize> = (0..active).map(|nth| load::spread(nth * (links / active))).collect();
    let inputs = load::inputs_of(&active, 1);
    let (before, began) = (cpu(&nats), clock::instant());
    publish(&nats, &inputs).await;
    running.reach(&ends(&nats).await).await;
    let (took, cpu) = (began.elapsed(), cpu_between(before, cpu(&nats)));
    let cpu = cpu_between(publishing(&inputs).await, cpu);
    let server = nats.server.pid().to_string();
    let resident = (resident_bytes("self").unwrap_or_default(), resident_bytes(&server).unwrap_or_default());
    running.stop().await;
    let disk = (disk_bytes(&nats.dir.path().join("store")), disk_bytes(&nats.dir.path().join("nats")));
    Scale { links, rebuilt, run: Run { inputs: inputs.len(), messages: 0, batches: 0, took, cpu }, resident, disk }
}

/// The CPU time of publishing the inputs alone. A node that was started after them would check its store meanwhile.
async fn publishing(inputs: &[LoadInput]) -> Option<(f64, f64)> {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let before = cpu(&nats);
    publish(&nats, inputs).await;
    cpu_between(before, cpu(&nats))
}

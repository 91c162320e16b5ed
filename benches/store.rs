//! The store with many links: the rebuild from `KV_links`, the start, the first page of each filter, the
//! summary, the memory and the size.
//!
//! `cargo bench --bench store -- --links 1000000` sets the number of links. The default is small, so that CI can run it. It asserts the
//! results and no times.

#![expect(clippy::print_stdout, reason = "a bench reports on the standard output")]

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[path = "pipeline/measure.rs"]
#[expect(dead_code, reason = "the bench of the pipeline uses all of it")]
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_nats::Client;
use measure::{Machine, cpu, cpu_between, disk_bytes, resident_bytes};
use relink::clock;
use relink::contract::{At, Because, Origin, OriginKind, Record, StateWord};
use relink::link::{
    Cause, Episode, EpisodeNumber, Link, LinkId, Policy, PolicySettings, Prompt, State, StateName, Timestamp,
};
use relink::nats::batch::BatchMessage;
use relink::nats::connection::Access;
use relink::nats::node::{Node, NodeError, NodeOptions};
use relink::nats::subject::Subjects;
use relink::node::Phase;
use relink::store::{Query, SledStore, Store};
use secrecy::ExposeSecret;
use support::TestNats;
use tokio::task::{JoinHandle, block_in_place};
use tokio_util::sync::CancellationToken;

/// The first argument of a process that only starts. The directory of its store follows, and the address of NATS with its login.
const ONLY_START: &str = "--only-start";

const DEFAULT_LINKS: usize = 2_000;

const PARTITIONS: u16 = 16;

/// The default of `RELINK_CACHE_BYTES`.
const STORE_CACHE_BYTES: u64 = 128 << 20;

/// Of a thousand links, 800 belong to one institution, 199 to one of a hundred, and one to a rare one.
const COMMON: &str = "erebor_mx_retail";
const RARE: &str = "gringotts_br_retail";

/// One of these many links is invalid.
const INVALID_EVERY: usize = 50;

/// Each external id belongs to two links, except one that a program gives to every 20th link.
const SHARED_EVERY: usize = 20;
const SHARED: &str = "test";

#[tokio::main]
async fn main() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).try_init();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_program, only_start_word, directory, url] = &arguments[..]
        && only_start_word == ONLY_START
    {
        return only_start(Path::new(directory), url).await;
    }
    let given = arguments.iter().position(|argument| argument == "--links").and_then(|at| arguments.get(at + 1));
    let links = given.map_or(DEFAULT_LINKS, |count| count.parse().expect("--links takes a number"));
    println!("\nstore on {}", Machine::look().await);
    let nats = stream_with(links).await;
    let directory = nats.dir.path().join("store");
    println!("| {links} links | |\n|---|---|");
    rebuild(&nats, &directory, links).await;
    start(&nats, &directory).await;
    let store = block_in_place(|| open(&directory));
    block_in_place(|| queries(&store, links));
    let size = disk_bytes(&directory);
    println!("| the store on the disk | {} MB, {} bytes a link |", size >> 20, size / links.max(1) as u64);
}

fn id(link: usize) -> LinkId {
    // The ids are spread like random ones.
    let mixed = (link as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (high, low) = (mixed >> 32, mixed & 0xffff_ffff);
    format!("{high:08x}-{:04x}-4000-8000-{:04x}{low:08x}", link & 0xffff, link >> 16 & 0xffff).parse().expect("an id")
}

fn institution(link: usize) -> String {
    match link % 1_000 {
        0 => RARE.to_owned(),
        1..200 => format!("bank_{}_mx_retail", link % 100),
        _ => COMMON.to_owned(),
    }
}

fn external_id(link: usize) -> String {
    if link.is_multiple_of(SHARED_EVERY) { SHARED.to_owned() } else { format!("user-{}", link / 2) }
}

/// The record of a link, as relink writes it.
fn record(link: usize, now: Timestamp) -> Record {
    let mut state = Link::unknown(id(link), now);
    state.version = 3;
    (state.profile.institution, state.profile.external_id) = (Some(institution(link)), Some(external_id(link)));
    state.profile.fetch_resources = ["ACCOUNTS", "OWNERS", "TRANSACTIONS"].map(str::to_owned).to_vec();
    state.profile.refresh_every = Some(Duration::from_secs(24 * 3600));
    state.data_at = Some(now);
    let to = if link.is_multiple_of(INVALID_EVERY) { StateWord::Invalid } else { StateWord::Valid };
    state.state = if to == StateWord::Valid { State::Valid { suspicion: None } } else { broken(now) };
    let origin = Origin {
        kind: OriginKind::Observation,
        input_sequence: Some(link as u64),
        message_id: Some("0d8a8f9e-2f7e-4f3e-9f0b-2a6c3d4e5f60".to_owned()),
        ..Origin::timer(now)
    };
    let (event, from) = ("observed".into(), StateWord::Unconfirmed);
    let because = Because {
        event,
        from,
        to,
        at: At(now),
        incident: false,
        successor_id: None,
        person: None,
        times_corrected: false,
        due: None,
        held: None,
        outage_notice_at: None,
        origin,
    };
    Record::of(&state, u16::try_from(link).unwrap_or_default() % PARTITIONS, because, Vec::new())
}

fn broken(now: Timestamp) -> State {
    State::Invalid { episode: Episode::new(EpisodeNumber(1), Cause::Credentials, now, Prompt::Sent) }
}

/// A server whose output stream has one state of each link.
async fn stream_with(links: usize) -> TestNats {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let (subjects, batches, now) = (Subjects::default(), nats.batches(), clock::now());
    for first in (0..links).step_by(1_000) {
        let messages = (first..links.min(first + 1_000)).map(|link| {
            let record = serde_json::to_vec(&record(link, now)).expect("a record is JSON");
            BatchMessage::new(subjects.state(id(link).as_str()), record)
        });
        batches.publish_atomic(messages.collect()).await.expect("the states are stored");
    }
    nats
}

fn open(directory: &Path) -> SledStore {
    let opened = SledStore::open(directory, STORE_CACHE_BYTES).expect("the store opens");
    assert_eq!(opened.quarantined, None);
    opened.store
}

/// Runs a node until every partition runs.
async fn run(client: Client, store: SledStore) -> (CancellationToken, JoinHandle<Result<(), NodeError>>) {
    let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() });
    let policy = policy.expect("the defaults are in range");
    let (subjects, owner) = (Subjects::default(), "bench".to_owned());
    let options = NodeOptions { subjects, partitions: PARTITIONS, owner, policy };
    let node = Node::new(client, options, store);
    let (mut phase, shutdown) = (node.phase(), CancellationToken::new());
    let task = tokio::spawn(node.run(shutdown.clone()));
    phase.wait_for(|phase| *phase == Phase::Running).await.map(drop).expect("the node runs");
    (shutdown, task)
}

async fn stop((shutdown, task): (CancellationToken, JoinHandle<Result<(), NodeError>>)) {
    shutdown.cancel();
    task.await.expect("no panic").expect("a clean end");
}

async fn rebuild(nats: &TestNats, directory: &Path, links: usize) {
    let store = block_in_place(|| open(directory));
    let (before, began) = (cpu(nats), clock::instant());
    let running = run(nats.connect().await, store.clone()).await;
    let (took, cpu) = (began.elapsed(), cpu_between(before, cpu(nats)));
    let memory = resident_bytes("self").unwrap_or_default() >> 20;
    let counted: u64 = store.count().expect("the store can be read").values().sum();
    assert_eq!(counted, links as u64);
    stop(running).await;
    let rate = links as f64 / took.as_secs_f64();
    println!("| the store is rebuilt from `KV_links` | {rate:.0} links/s, {:.1} s |", took.as_secs_f64());
    if let Some((ours, server)) = cpu {
        let of_link = |seconds: f64| seconds * 1e6 / links as f64;
        println!("| CPU time per link: node, nats-server | {:.1} µs, {:.1} µs |", of_link(ours), of_link(server));
    }
    let size = disk_bytes(directory);
    println!(
        "| memory after the rebuild; the store on the disk | {memory} MB; {} bytes a link |",
        size / links.max(1) as u64
    );
}

/// Starts in a process of its own, so that the memory is that of a node that has not rebuilt its store.
async fn start(nats: &TestNats, directory: &Path) {
    let url = nats.server.url_with_login();
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("this program"));
    command.arg(ONLY_START).arg(directory).arg(url.expose_secret());
    let output = command.stderr(Stdio::inherit()).output().await.expect("this program can be run");
    assert!(output.status.success(), "the start failed");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

async fn only_start(directory: &Path, url: &str) {
    let access = Access::of_urls([url]).expect("an address");
    let client = access.connect("bench").await.expect("nats-server takes connections");
    let began = clock::instant();
    let store = block_in_place(|| open(directory));
    let opened = began.elapsed();
    let running = run(client, store).await;
    let started = began.elapsed();
    let memory = resident_bytes("self").unwrap_or_default() >> 20;
    stop(running).await;
    println!(
        "| a start: the store is opened and checked, and the node runs; memory | {:.2} s, {:.2} s; {memory} MB |",
        opened.as_secs_f64(),
        started.as_secs_f64()
    );
}

/// Reads each first page some times, and prints the shortest and the longest time.
fn queries(store: &SledStore, links: usize) {
    let (state, bank, external_id) = (Some(StateName::Invalid), Some(RARE), Some(SHARED));
    let all = [
        ("all", None, None, None),
        ("`state`", state, None, None),
        ("`institution`", None, Some(COMMON), None),
        ("`external_id`", None, None, external_id),
        ("`state`, `institution`", state, Some(COMMON), None),
        ("`state`, `external_id`", state, None, external_id),
        ("`institution`, `external_id`", None, bank, external_id),
        ("`state`, `institution`, `external_id`", state, bank, external_id),
        ("`state` that no link has", Some(StateName::Updating), None, None),
        ("`institution` that no link has", None, Some("x"), None),
        ("`external_id` that no link has", None, None, Some("x")),
        ("`state`, `institution`: no link has both", Some(StateName::Removed), Some(COMMON), None),
        ("`institution`, `external_id`: no link has both", None, Some("bank_1_mx_retail"), external_id),
    ];
    let of_link = |name, state: Option<StateName>, bank: Option<&str>, external_id: Option<&str>| {
        let expected = (0..links).filter(|&link| {
            let is_invalid = link.is_multiple_of(INVALID_EVERY);
            state.is_none_or(|state| state == if is_invalid { StateName::Invalid } else { StateName::Valid })
                && bank.is_none_or(|name| institution(link) == name)
                && external_id.is_none_or(|name| self::external_id(link) == name)
        });
        let expected = expected.take(100).count();
        let (institution, external_id) = (bank.map(str::to_owned), external_id.map(str::to_owned));
        let query = Query { state, institution, external_id, limit: 100, ..Query::default() };
        let count = || store.page(&query).expect("the store can be read").links.len();
        timed(&format!("first page: {name}"), expected, count);
    };
    all.into_iter().for_each(|(name, state, bank, external_id)| of_link(name, state, bank, external_id));
    let institutions = (0..links.min(1_000)).map(institution).collect::<std::collections::BTreeSet<_>>().len();
    timed("the counts and incidents of `/v1/summary`", institutions, || {
        let counts = store.count().expect("the store can be read");
        assert_eq!(counts.values().sum::<u64>(), links as u64);
        assert!(store.incidents().expect("the store can be read").is_empty());
        store.count_by_institution(1_000).expect("the store can be read").len()
    });
}

fn timed(name: &str, expected: usize, read: impl Fn() -> usize) {
    let took = (0..5).map(|_| {
        let began = clock::instant();
        assert_eq!(read(), expected, "{name}");
        began.elapsed()
    });
    let took: Vec<Duration> = took.collect();
    let millis = |duration: Option<&Duration>| duration.map_or(0.0, |duration| duration.as_secs_f64() * 1e3);
    println!("| {name} | {:.2} to {:.2} ms |", millis(took.iter().min()), millis(took.iter().max()));
}

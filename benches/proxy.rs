//! What the proxy costs: calls straight to the sandbox, and the same calls through `relink serve`, in turns.
//!
//! Two kinds of call: a read of a link, which the proxy only passes on, and an error, which it also reports to the journal
//! (the whole node works behind it). Each is measured at a fixed rate of calls, which shows what the proxy adds to a call,
//! and as fast as the connections can. Client, sandbox, relink and nats-server share the machine, so the highest rate
//! through the proxy is limited by the CPU time that all of them need.
//!
//! With `--apart`, relink and nats-server have one core, and the client and the sandbox the others (Linux, with `taskset`): so it shows whether
//! the proxy takes calls as fast as the sandbox answers them. With `--nginx` (and `nginx` on `PATH`), the same calls pass through nginx too,
//! on the core of relink: it shows how much of the cost is that of any proxy.
//!
//! `--connections 32 --rounds 1` measures less. It asserts nothing about times. Without `--bench` (as in `cargo test
//! --all-targets`) the measurement is short.

#![expect(clippy::print_stdout, reason = "a bench reports on the standard output")]

#[path = "pipeline/measure.rs"]
#[expect(dead_code, reason = "the pipeline uses the rest")]
mod measure;
#[path = "proxy/nginx.rs"]
mod nginx;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt;
use std::time::Duration;

use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use measure::{Machine, cpu_seconds, median, percentile};
use nginx::Nginx;
use relink::clock;
use serde_json::Value;
use support::binary::Relink;
use support::nats_server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The keys of the sandbox.
const AUTHORIZATION: &str = "Basic c2FuZGJveDpzYW5kYm94";

/// The calls per second of the measurement at a fixed rate, over all connections.
const RATE: u32 = 500;

/// The size of the measurement.
struct Size {
    connections: Vec<usize>,
    rounds: usize,
    duration: Duration,
}

/// A kind of call.
#[derive(Clone, Copy)]
enum Call {
    Read,
    Error,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Error => "error",
        })
    }
}

impl Call {
    fn request(self, link: &str) -> (Vec<u8>, u16) {
        let head = format!("HTTP/1.1\r\nhost: bench\r\nauthorization: {AUTHORIZATION}\r\naccept: */*\r\n");
        match self {
            Self::Read => (format!("GET /api/links/{link}/ {head}\r\n").into_bytes(), 200),
            Self::Error => {
                let body = format!("{{\"link\":\"{link}\"}}");
                let length = body.len();
                let fields = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
                (format!("POST /api/accounts/ {head}{fields}\r\n{body}").into_bytes(), 400)
            }
        }
    }
}

/// The result of one measurement.
struct Load {
    rate: f64,
    p50_ms: f64,
    /// The CPU time of the proxy, per call.
    cpu_micros: f64,
}

#[tokio::main]
async fn main() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).try_init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_whole = arguments.iter().any(|argument| argument == "--bench");
    let mut size = match is_whole {
        true => Size { connections: vec![1, 32], rounds: 7, duration: Duration::from_secs(2) },
        false => Size { connections: vec![2], rounds: 1, duration: Duration::from_millis(200) },
    };
    let value = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1)?.parse::<usize>().ok();
    if let Some(connections) = value("--connections") {
        size.connections = vec![connections];
    }
    size.rounds = value("--rounds").unwrap_or(size.rounds);

    let sandbox = Sandbox::start(SandboxConfig::default()).await.expect("a sandbox");
    let control = sandbox.control();
    let link = control.add_link("erebor_mx_retail", AccessMode::Single, None).expect("a link");
    control.set_status(link, LinkStatus::Invalid).expect("its status");
    let (directory, server, url) = (tempfile::tempdir().expect("a directory"), nats_server().await, sandbox.url());
    let settings = [
        ("RELINK_NATS_SERVER", server.to_str().expect("a path")),
        ("RELINK_BELVO_URL", &url),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
        ("RELINK_PROXY_LISTEN", "127.0.0.1:0"),
    ];
    let mut relink = Relink::serve("", directory.path(), &settings).await;
    let proxy = relink.seen.iter().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["proxy.address"].as_str().map(str::to_owned)
    });
    let (direct, proxy) = (url.replace("http://", ""), proxy.expect("relink logs the address of its proxy"));
    let pid = relink.child.id().expect("it runs").to_string();

    let has_nginx = arguments.iter().any(|argument| argument == "--nginx");
    let nginx = if has_nginx { Some(Nginx::start(directory.path(), &direct).await) } else { None };

    println!("\nproxy on {}", Machine::look().await);
    let is_apart = arguments.iter().any(|argument| argument == "--apart");
    if is_apart {
        let nats_pid = std::fs::read_to_string(directory.path().join("nats/nats-server.pid")).expect("its number");
        let last = std::thread::available_parallelism().expect("some cores").get() - 1;
        pin(&std::process::id().to_string(), &format!("0-{}", last.saturating_sub(1)));
        pin(&pid, &last.to_string());
        pin(nats_pid.trim(), &last.to_string());
        println!("relink and nats-server have a core of their own");
        if let Some(nginx) = &nginx {
            pin(&nginx.pid(), &last.to_string());
            println!("nginx has the same core, in turns with relink");
        }
    }

    println!(
        "| call | connections | offered | p50 direct | p50 through the proxy | difference | calls/s direct | calls/s through the proxy | ratio | CPU of the proxy per call |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for call in [Call::Read, Call::Error] {
        let (request, status) = call.request(&link.to_string());
        for &connections in &size.connections {
            for rate in [Some(RATE), None] {
                let load = Offered { request: request.clone(), status, connections, rate, duration: size.duration };
                let (mut straight, mut through, mut through_nginx) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..size.rounds {
                    straight.push(run(&direct, &load, &pid).await);
                    through.push(run(&proxy, &load, &pid).await);
                    if let Some(nginx) = &nginx {
                        through_nginx.push(run(&nginx.address, &load, &nginx.pid()).await);
                    }
                }
                report(&format!("{call}, relink"), &load, &straight, &through);
                if !through_nginx.is_empty() {
                    report(&format!("{call}, nginx"), &load, &straight, &through_nginx);
                }
            }
        }
    }
    relink.signal("TERM").await;
    relink.ended().await;
}

/// Lets all threads of a process run on these cores only.
fn pin(pid: &str, cores: &str) {
    let pinned =
        std::process::Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", cores, pid]).output();
    let pinned = pinned.expect("--apart needs `taskset` (util-linux)");
    assert!(pinned.status.success(), "{}", String::from_utf8_lossy(&pinned.stderr));
}

/// The calls of one measurement.
#[derive(Clone)]
struct Offered {
    request: Vec<u8>,
    /// The expected status.
    status: u16,
    connections: usize,
    /// Calls per second over all connections; `None`: as fast as they are answered.
    rate: Option<u32>,
    duration: Duration,
}

/// Sends these calls. `pid` is the process of the proxy.
async fn run(address: &str, load: &Offered, pid: &str) -> Load {
    let cpu_before = cpu_seconds(pid).unwrap_or(f64::NAN);
    let began = clock::instant();
    let senders = (0..load.connections).map(|number| {
        let (address, load) = (address.to_owned(), load.clone());
        tokio::spawn(async move { send(&address, &load, number).await })
    });
    let mut times_ms = Vec::new();
    for sender in senders.collect::<Vec<_>>() {
        times_ms.append(&mut sender.await.expect("no panic"));
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(pid).unwrap_or(f64::NAN) - cpu_before;
    let count = times_ms.len() as f64;
    Load { rate: count / took, p50_ms: percentile(&mut times_ms, 0.5), cpu_micros: cpu * 1e6 / count }
}

async fn send(address: &str, load: &Offered, number: usize) -> Vec<f64> {
    let connections = u32::try_from(load.connections).expect("some connections");
    let pause = load.rate.map(|rate| Duration::from_secs(1) * connections / rate);
    let mut turns = pause.map(|pause| {
        // The connections take turns.
        let first = pause / connections * u32::try_from(number).expect("some connections");
        tokio::time::interval_at(tokio::time::Instant::now() + first, pause)
    });
    let mut stream = TcpStream::connect(address).await.expect("the program listens");
    stream.set_nodelay(true).expect("a TCP connection");
    let (mut times_ms, mut received) = (Vec::new(), Vec::new());
    let began = clock::instant();
    while began.elapsed() < load.duration {
        if let Some(turns) = &mut turns {
            turns.tick().await;
        }
        let sent = clock::instant();
        stream.write_all(&load.request).await.expect("the program reads");
        assert_eq!(answer(&mut stream, &mut received).await, load.status, "{}", String::from_utf8_lossy(&received));
        times_ms.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    times_ms
}

/// Reads one answer with a length. Returns its status.
async fn answer(stream: &mut TcpStream, received: &mut Vec<u8>) -> u16 {
    received.clear();
    loop {
        let count = stream.read_buf(received).await.expect("an answer");
        assert!(count > 0, "the program closed the connection: {}", String::from_utf8_lossy(received));
        let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
        let length = text.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        let length: usize = length.unwrap_or_else(|| panic!("an answer with a length: {text}"));
        if received.len() >= head + 4 + length {
            return text.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        }
    }
}

/// One line: the medians of all rounds.
fn report(call: &str, load: &Offered, straight: &[Load], through: &[Load]) {
    let connections = load.connections;
    let offered = load.rate.map_or("as fast as possible".to_owned(), |rate| format!("{rate}/s"));
    let of = |loads: &[Load], value: fn(&Load) -> f64| median(&mut loads.iter().map(value).collect::<Vec<_>>());
    let (p50_direct, p50) = (of(straight, |load| load.p50_ms), of(through, |load| load.p50_ms));
    let (rate_direct, rate) = (of(straight, |load| load.rate), of(through, |load| load.rate));
    let cpu = of(through, |load| load.cpu_micros);
    println!(
        "| {call} | {connections} | {offered} | {p50_direct:.2} ms | {p50:.2} ms | {:.2} ms | {rate_direct:.0} | {rate:.0} | {:.2} | {cpu:.0} µs |",
        p50 - p50_direct,
        rate / rate_direct
    );
}

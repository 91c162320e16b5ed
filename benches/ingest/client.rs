//! The client: keep-alive connections, each of which sends the next webhook after the answer to the one before.
//!
//! It parses only what it needs, because it uses the same cores as the measured programs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relink::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::contender::Contender;
use crate::measure::percentile;

/// How many links the webhooks are about.
const LINKS: usize = 5_000;

/// The number of the next webhook; each is a new fact.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The result of one measurement.
pub(crate) struct Load {
    /// Answers with success per second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The CPU time of the measured program and its servers, per answer.
    pub(crate) cpu_micros: f64,
    /// Answers without success.
    pub(crate) failed: usize,
}

/// Sends webhooks over this many connections for this long.
pub(crate) async fn run(contender: &Contender, connections: usize, duration: Duration) -> Load {
    let cpu_before = contender.cpu_seconds();
    let began = clock::instant();
    let senders = (0..connections).map(|_| {
        let address = contender.address().to_owned();
        tokio::spawn(async move { send(&address, duration).await })
    });
    let (mut times_ms, mut failed) = (Vec::new(), 0);
    for sender in senders.collect::<Vec<_>>() {
        let (mut times, failures) = sender.await.expect("no panic");
        times_ms.append(&mut times);
        failed += failures;
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = contender.cpu_seconds() - cpu_before;
    Load {
        rate: times_ms.len() as f64 / took,
        cpu_micros: cpu * 1e6 / times_ms.len().max(1) as f64,
        p50_ms: percentile(&mut times_ms, 0.50),
        p99_ms: percentile(&mut times_ms, 0.99),
        failed,
    }
}

async fn send(address: &str, duration: Duration) -> (Vec<f64>, usize) {
    let mut stream = TcpStream::connect(address).await.expect("the program listens");
    stream.set_nodelay(true).expect("a TCP connection");
    let (mut times_ms, mut failed) = (Vec::new(), 0);
    let (began, mut received) = (clock::instant(), Vec::new());
    while began.elapsed() < duration {
        let request = request(NEXT.fetch_add(1, Ordering::Relaxed));
        let sent = clock::instant();
        stream.write_all(&request).await.expect("the program reads");
        if answer(&mut stream, &mut received).await == 200 {
            times_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        } else {
            failed += 1;
        }
    }
    (times_ms, failed)
}

/// Reads one answer. Returns its status.
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

/// A webhook of 600 bytes, with one of Belvo's codes.
fn request(number: usize) -> Vec<u8> {
    let link = format!("16f68516-bcbc-4cf7-b815-{:012x}", number % LINKS);
    let body = format!(
        r#"{{"webhook_id":"{number:032x}","webhook_type":"LINK","process_type":"recurrent_update",
            "webhook_code":"invalid_credentials","link_id":"{link}","request_id":"{number:08x}-51eb-4350-9c74-5df5ac92a7f6",
            "external_id":"user-{link}","data":{{"error_code":"login_error","status":400,
            "error_message":"Invalid credentials provided to login to the institution"}}}}"#
    );
    let head = format!(
        "POST /webhooks/belvo HTTP/1.1\r\nhost: bench\r\nauthorization: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        crate::support::binary::WEBHOOK_SECRET,
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

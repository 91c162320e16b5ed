//! The limits of connections: time, number, and the stop.

use std::time::Duration;

use relink::http::Limits;
use relink::store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET};
use crate::support::within;

const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
const HALF_A_HEAD: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";

/// Limits that no test reaches.
fn generous() -> Limits {
    let hour = Duration::from_secs(3600);
    Limits { connections_max: 100, head: hour, idle: hour, request: hour, stop: hour, half_close: true }
}

async fn bench(limits: Limits) -> Bench {
    let environment = [("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET), ("RELINK_API_TOKENS", API_TOKEN)];
    let store = MemoryStore::default();
    Bench::limited(&environment, store.clone(), store, limits).await
}

/// The end of the body of a webhook.
const LAST_BYTE: &[u8] = b"}";

/// Sends a webhook without its last byte, and waits until its handler reads the body.
async fn open_webhook(bench: &Bench) -> TcpStream {
    let body = format!(
        r#"{{"webhook_id": "w-1", "webhook_type": "LINK", "webhook_code": "token_required", "link_id": "{LINK}", "data": {{}}}}"#
    );
    let head = format!(
        "POST /webhooks/belvo HTTP/1.1\r\nhost: x\r\nauthorization: {WEBHOOK_SECRET}\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = open(bench, head.as_bytes()).await;
    let head = within("100 Continue", head_of_answer(&mut stream)).await;
    assert!(head.starts_with("http/1.1 100"), "{head}");
    stream.write_all(&body.as_bytes()[..body.len() - LAST_BYTE.len()]).await.unwrap();
    stream
}

async fn open(bench: &Bench, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(bench.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

async fn head_of_answer(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Reads one answer with a `content-length`. Returns its head.
async fn answer(stream: &mut TcpStream) -> String {
    let read = async {
        let head = head_of_answer(stream).await;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
        stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
        head
    };
    within("an answer", read).await
}

/// Waits until the server has closed the connection. Returns the bytes before the end.
async fn end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _reset_is_an_end_too = within("the end of a connection", stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn connections_without_a_request_are_closed() {
    let short = Duration::from_millis(200);
    let bench = bench(Limits { head: short, idle: short, ..generous() }).await;
    let mut silent = open(&bench, b"").await;
    let mut half = open(&bench, HALF_A_HEAD).await;
    let mut idle = open(&bench, PROBE).await;
    assert!(answer(&mut idle).await.starts_with("http/1.1 200"));
    for stream in [&mut silent, &mut half, &mut idle] {
        assert_eq!(end(stream).await, b"");
    }
}

#[tokio::test]
async fn a_later_half_head_is_closed_too_and_an_idle_connection_is_kept() {
    let bench = bench(Limits { head: Duration::from_millis(200), ..generous() }).await;
    let mut kept = open(&bench, PROBE).await;
    answer(&mut kept).await;
    let mut half = open(&bench, PROBE).await;
    answer(&mut half).await;
    half.write_all(HALF_A_HEAD).await.unwrap();
    end(&mut half).await;
    kept.write_all(PROBE).await.unwrap();
    assert!(answer(&mut kept).await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_closed() {
    let bench = bench(Limits { request: Duration::from_millis(200), ..generous() }).await;
    let mut slow = open_webhook(&bench).await;
    assert_eq!(end(&mut slow).await, b"");
}

#[tokio::test]
async fn a_sender_that_closes_its_side_gets_its_answer() {
    let bench = bench(generous()).await;
    let mut stream = open_webhook(&bench).await;
    stream.write_all(LAST_BYTE).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = String::from_utf8(end(&mut stream).await).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(bench.inputs().await.len(), 1);
}

#[tokio::test]
async fn when_all_connections_are_taken_the_longest_waiting_one_is_closed() {
    let bench = bench(Limits { connections_max: 2, ..generous() }).await;
    let mut silent = open(&bench, b"").await;
    let mut half = open(&bench, HALF_A_HEAD).await;
    let mut new = open(&bench, PROBE).await;
    assert!(answer(&mut new).await.starts_with("http/1.1 200"));
    assert_eq!(end(&mut silent).await, b"");
    let mut newer = open(&bench, PROBE).await;
    assert!(answer(&mut newer).await.starts_with("http/1.1 200"));
    assert_eq!(end(&mut half).await, b"");
    for stream in [&mut new, &mut newer] {
        stream.write_all(PROBE).await.unwrap();
        assert!(answer(stream).await.starts_with("http/1.1 200"), "the younger connections are kept");
    }
}

#[tokio::test]
async fn an_open_request_keeps_its_connection_until_its_answer() {
    let bench = bench(Limits { connections_max: 1, ..generous() }).await;
    let mut busy = open_webhook(&bench).await;
    let mut new = open(&bench, PROBE).await;
    busy.write_all(LAST_BYTE).await.unwrap();
    assert!(answer(&mut busy).await.starts_with("http/1.1 200"));
    assert!(answer(&mut new).await.starts_with("http/1.1 200"));
    assert_eq!(end(&mut busy).await, b"", "its slot was needed");
}

#[tokio::test]
async fn a_stop_waits_for_open_requests_and_for_no_other_connection() {
    let bench = bench(generous()).await;
    let mut silent = open(&bench, b"").await;
    let mut half = open(&bench, HALF_A_HEAD).await;
    let mut idle = open(&bench, PROBE).await;
    answer(&mut idle).await;
    let mut busy = open_webhook(&bench).await;
    bench.shutdown.cancel();
    for stream in [&mut silent, &mut half, &mut idle] {
        assert_eq!(end(stream).await, b"");
    }
    busy.write_all(LAST_BYTE).await.unwrap();
    let head = answer(&mut busy).await;
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    within("the stop", bench.served).await.unwrap();
}

/// A client that does not read its answer is a stranger too.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_does_not_read() {
    let bench = bench(generous()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(bench.url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    // Pipelined requests, until the server cannot write any more answers and so reads no more requests.
    let metrics = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let full = tokio::time::timeout(Duration::from_secs(2), async { while deaf.write_all(&metrics).await.is_ok() {} });
    assert!(full.await.is_err(), "the server stops to read");
    bench.shutdown.cancel();
    within("the stop", bench.served).await.unwrap();
}
